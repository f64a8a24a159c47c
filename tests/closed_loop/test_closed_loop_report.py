"""The report of closed loops: its statistics on episodes that are known, its lines, its verdict in words."""

import csv
import io
import math
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from rich.console import Console

from ensemble.closed_loop.report import compose_evaluation
from ensemble.closed_loop.show import render_evaluation, to_csv, to_markdown, write_evaluation
from ensemble.closed_loop.statistics import (
    METRICS,
    Setting,
    compare_controllers,
    compare_members,
    contributions,
    measure,
    read_published,
)
from ensemble.errors import UsageError
from ensemble.schema import EVALUATION_COLUMNS
from ensemble.store import table_of, write_table

PUBLISHED = Path(__file__).parents[2] / "results" / "tables" / "tinypi0_published.csv"
AT = Setting(0.05, 10)


def row(
    rate: float, seed: int | None = 0, controller: str = "member", config: str = "a", count: int = 200
) -> dict[str, Any]:
    """A controller that converges in about `rate` of the episodes: in those whose own luck is below it."""
    luck = np.random.default_rng(0).uniform(0, 1, count)  # of the episodes, the same for everybody
    random = np.random.default_rng(1 + (seed or 0) + sum(map(ord, config + controller)))
    converged = luck < rate + random.normal(0, 0.05, count)
    steps = np.where(converged, 100, random.integers(20, 100, count))
    velocity = random.normal(0, 0.5 + rate / 5, (count, 100)) * (np.arange(100) < steps[:, None])
    sums, squares = velocity.sum(1), np.square(velocity).sum(1)
    deviation = np.sqrt(squares.sum() / steps.sum() - (sums.sum() / steps.sum()) ** 2)
    calm = np.where(converged, random.integers(10, 60, count), np.nan)
    return {
        "experiment": "synthetic", "config_hash": config, "family": {"a": "pi0", "b": "pi0_fast"}.get(config),
        "controller": controller, "seed": seed, "environment": "inverted_pendulum", "noise": 0.05,
        "replan": 1 if config in ("expert", "zero") else 10, "episodes": count, "episode_seed": 0,
        "success": float(np.mean(steps == 100)), "converge_rate": float(converged.mean()),
        "converge_step": float(np.nanmean(calm)) if converged.any() else math.nan,
        "episode_length": float(steps.mean()), "cart_velocity_std": float(deviation), "chunk_seconds": 1e-3,
        "weights_sha256": f"{config}{seed}", "episode_success": (steps == 100).tolist(),
        "episode_steps": steps.tolist(), "episode_converged": calm.tolist(),
        "episode_velocity": sums.tolist(), "episode_velocity_squares": squares.tolist(),
    }  # fmt: skip


def evaluated(path: Path, rows: list[dict]) -> Path:
    write_table(path / "evaluation.parquet", table_of(rows, EVALUATION_COLUMNS))
    return path


def ten(rate: float, config: str) -> list[dict]:
    return [row(rate, seed, config=config) for seed in range(10)]


@pytest.mark.parametrize("metric", METRICS)
def test_what_episodes_contribute_adds_up_to_the_metric(metric: str) -> None:
    one = row(0.7)
    shares = contributions(one, metric)
    assert shares.shape == (200,)
    assert shares.mean() == pytest.approx(one[metric], rel=0.01)


def test_the_error_of_a_rate_over_episodes_is_the_binomial_one() -> None:
    one = row(0.7)
    rate = one["converge_rate"]
    assert measure([one], "converge_rate").error == pytest.approx(math.sqrt(rate * (1 - rate) / 199))


def test_members_that_meet_the_same_episodes_do_not_average_the_luck_of_episodes_away() -> None:
    """Ten members share the luck of the episodes, so that their mean is not ten times as certain as one of them."""
    together = measure(ten(0.7, "a"), "converge_rate").error
    assert 0.8 < together / measure([row(0.7)], "converge_rate").error < 1.0


def test_an_interval_over_seeds_and_episodes_covers_as_often_as_it_says() -> None:
    random = np.random.default_rng(5)
    hits, trials = 0, 300
    for _ in range(trials):
        luck = random.normal(0, 1, 40)  # what the episodes do to the difference, for every seed of b

        def side(effect: float, luck: np.ndarray = luck) -> list[dict]:
            values = effect * luck + random.normal(0, 0.5, (5, 1)) + random.normal(0, 1, (5, 40))
            return [{"seed": s, "episode_length": v.mean(), "episode_steps": v.tolist()} for s, v in enumerate(values)]

        found = compare_members({AT: side(0.0)}, {AT: side(1.0)}, "episode_length")
        assert found is not None
        hits += found.low <= 0 <= found.high
    assert 0.92 <= hits / trials <= 1


def test_the_better_configuration_is_found_and_an_equal_one_is_not_called_better() -> None:
    better = compare_members({AT: ten(0.9, "a")}, {AT: ten(0.7, "b")}, "converge_rate")
    assert better is not None
    assert better.sure
    assert better.mean == pytest.approx(0.2, abs=0.06)
    assert (better.seeds, better.episodes, better.settings) == (10, 200, 1)
    same = compare_controllers({AT: [row(0.8, 3)]}, {AT: [row(0.8, 4)]}, "converge_rate")
    assert same is not None
    assert not same.sure
    assert compare_members({AT: ten(0.9, "a")}, {Setting(0.01, 10): ten(0.7, "b")}, "converge_rate") is None


def test_table_verdict_and_csv_of_two_methods(tmp_path: Path) -> None:
    rows = ten(0.9, "a") + ten(0.7, "b") + [row(0.95, None, "mean", "a"), row(0.6, None, "median", "a")]
    rows += [row(2, None, "expert", "expert"), row(-1, None, "zero", "zero")]
    found = compose_evaluation(evaluated(tmp_path, rows), [PUBLISHED])
    assert [line["kind"] for line in found.lines] == [
        "configuration", "ensemble", "ensemble", "configuration", "published", "published", "baseline", "baseline",
    ]  # fmt: skip
    words = found.words
    assert words[0].startswith("pi0 converges more often than pi0_fast: 0.")
    assert words[1].startswith("pi0_fast is smoother")
    assert "10 pairs of seeds and the same 200 episodes" in words[0]
    assert any("mean of its members' chunks converges more often than its members do" in line for line in words)
    assert any("nearest to the median converges less often" in line for line in words)
    text = to_markdown(found)
    assert "| tiny pi0 (published) | 10 | 10 | 1.000 ± 0.000 | 0.933 ± 0.054 |" in text
    lines = list(csv.DictReader(io.StringIO(to_csv(found))))
    rates = [r["converge_rate"] for r in rows if r["config_hash"] == "a" and r["controller"] == "member"]
    assert float(lines[0]["converge_rate"]) == pytest.approx(np.mean(rates))
    assert float(lines[0]["converge_rate_std"]) == pytest.approx(np.std(rates, ddof=1))
    assert lines[0]["converge_rate_ci_method"] == "members and starts"
    assert {line["converge_rate_ci_method"] for line in lines if line["kind"] in ("ensemble", "baseline")} == {"starts"}
    assert lines[-1]["converge_step"] == ""


def test_the_interval_of_a_rate_ends_at_one_and_the_table_says_what_it_covers(tmp_path: Path) -> None:
    found = compose_evaluation(evaluated(tmp_path, [row(2, seed) for seed in range(3)]), [PUBLISHED])
    text = to_markdown(found)
    assert ", 1.000] m,s |" in text
    assert "] m |" in text  # of published members
    assert "95 % intervals cover the drawing of other members (m), other starts (s) or both (m,s)." in text
    console = Console(width=100, record=True)
    render_evaluation(found, console)
    assert "other members (m), other starts (s)" in " ".join(console.export_text().split())


def test_a_second_seed_or_number_of_episodes_leaves_the_first_table_where_it_is(tmp_path: Path) -> None:
    first, second, third = ten(0.9, "a"), ten(0.7, "a"), [row(0.8, seed, count=50) for seed in range(10)]
    for each in second:
        each["episode_seed"] = 1
    run = evaluated(tmp_path / "run", first)
    write_evaluation(compose_evaluation(run))
    files = ("evaluation.md", "evaluation.csv", "figures/closed_loop.png")
    before = [(run / file).read_bytes() for file in files]
    evaluated(run, first + second + third)
    for episodes, seed in ((200, 1), (50, 0), (200, 1)):
        write_evaluation(compose_evaluation(run, episodes=episodes, episode_seed=seed))
    assert [(run / file).read_bytes() for file in files] == before
    assert "200 episodes of seed 1" in (run / "evaluation_200_of_seed_1.md").read_text()
    assert "50 episodes of seed 0" in (run / "evaluation_50_of_seed_0.md").read_text()
    assert "(../" not in (run / "evaluation_50_of_seed_0.md").read_text()
    assert sorted(path.name for path in (run / "figures").iterdir()) == [
        "closed_loop.png", "closed_loop_200_of_seed_1.png", "closed_loop_50_of_seed_0.png",
    ]  # fmt: skip
    write_evaluation(compose_evaluation(run, episodes=200, episode_seed=0))  # measured again: the same table
    assert len(list(run.glob("evaluation*.md"))) == 3


def test_two_runs_stand_side_by_side_and_other_episodes_do_not(tmp_path: Path) -> None:
    one = evaluated(tmp_path / "one", ten(0.9, "a"))
    two = evaluated(tmp_path / "two", ten(0.7, "b"))
    assert len(compose_evaluation(one, [two]).contenders) == 2
    fewer = [row(0.7, seed, config="b", count=20) for seed in range(3)]
    other = evaluated(tmp_path / "other", fewer)
    with pytest.raises(UsageError, match="not evaluated on these episodes: --episodes 200 --seed 0"):
        compose_evaluation(one, [other])
    both = compose_evaluation(evaluated(tmp_path / "both", ten(0.9, "a") + fewer))
    assert both.hidden == ("also in evaluation.parquet: 20 episodes of seed 0",)
    assert compose_evaluation(tmp_path / "both", episodes=20).episodes == 20


@pytest.mark.parametrize("width", [32, 40, 60, 100, 200])
def test_a_terminal_of_any_width_shows_who_converges(tmp_path: Path, width: int) -> None:
    found = compose_evaluation(evaluated(tmp_path, [*ten(0.9, "a"), row(0, None, "zero", "zero")]))
    console = Console(width=width, record=True)
    render_evaluation(found, console)
    text = console.export_text()
    assert f"{measure(ten(0.9, 'a'), 'converge_rate').found.mean:.3f} ±" in text
    assert max(map(len, text.splitlines()[:8])) <= width
    assert "velocity std [m/s]" in " ".join(text.split())  # in the table, or among what had no room
    assert any(line.split()[:2] == ["pi0", "a"] for line in text.splitlines())


def test_writing_it_twice_gives_the_same_bytes(tmp_path: Path) -> None:
    files = ("evaluation.md", "evaluation.csv", "figures/closed_loop.png")
    contents = []
    for name in ("first", "second"):
        (tmp_path / name / "run").mkdir(parents=True)
        write_evaluation(compose_evaluation(evaluated(tmp_path / name / "run", ten(0.9, "a") + ten(0.7, "b"))))
        contents.append([(tmp_path / name / "run" / file).read_bytes() for file in files])
    assert contents[0] == contents[1]


@pytest.mark.parametrize(
    ("text", "words"),
    [
        ("", "holds no row"),
        ("method,noise,replan,members,episodes\nx,loud,10,1,1\n", ":2: column noise: 'loud' is no number"),
        ("method,noise,replan,members,episodes\nx,0.05,10,-1,1\n", ":2: column members: -1 is out of range"),
    ],
)
def test_a_damaged_table_of_published_figures_is_named(tmp_path: Path, text: str, words: str) -> None:
    file = tmp_path / "published.csv"
    file.write_text(text)
    with pytest.raises(UsageError, match=words):
        read_published(file)
