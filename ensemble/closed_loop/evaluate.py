"""Closed-loop evaluation: a run's policies, each and combined, and their baselines, on the same episodes.

    candidates = find_candidates(path)               # checked before anything is loaded
    for rows in evaluate(candidates, protocol):      # one setting after the other
        keep_rows(path / "evaluation.parquet", rows)

All members of a configuration act in one batch with all episodes. Rows are those of `schema.EVALUATION_COLUMNS`; what
is made of them is in `closed_loop/report.py`.
"""

from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Literal

import numpy as np
import pyarrow as pa
import torch

from ensemble.closed_loop.episodes import Episodes, Outcome, draw_episodes, run_episodes, summarize
from ensemble.closed_loop.load_policy import PolicyEnsemble
from ensemble.closed_loop.statistics import Setting, joint_sum
from ensemble.errors import NothingFinishedError, UsageError
from ensemble.lock import held
from ensemble.reporting.run import read_run
from ensemble.run_directory import MemberDirectory, RunDirectory, member_id
from ensemble.schema import EVALUATION_COLUMNS, EVALUATION_KEY, OnSetting
from ensemble.simulation.controllers import Controller, Floats, ZeroControl
from ensemble.simulation.pendulum_env import EPISODE_STEPS
from ensemble.simulation.pendulum_expert import PendulumExpert
from ensemble.store import read_table, table_of, write_table
from ensemble.training.weights import load_model_record, read_config, read_features

ENVIRONMENT = "inverted_pendulum"
WIDTHS = {"state": 4, "control": 1}  # of its observations and actions
BASELINES: Mapping[str, Callable[[], Controller]] = {"expert": PendulumExpert, "zero": ZeroControl}

Row = dict[str, Any]
Combine = Literal["mean", "median"]
Watch = Callable[["Candidate", Setting, Outcome], None]


@dataclass(frozen=True, slots=True)
class EvaluationProtocol:
    """The conditions of an evaluation, equal for every controller: each noise with each replan, the same episodes."""

    noises: tuple[float, ...] = (0.01, 0.03, 0.05)
    replans: tuple[int, ...] = (10, 13, 15)
    episodes: int = 300
    seed: int = 0
    combine: tuple[Combine, ...] = ("mean", "median")

    @property
    def settings(self) -> tuple[Setting, ...]:
        """Every noise with every replan."""
        return tuple(Setting(noise, replan) for noise in self.noises for replan in self.replans)


@dataclass(frozen=True, slots=True)
class Candidate:
    """One configuration and its completed members, not loaded yet."""

    config_hash: str
    experiment: str
    family: str
    chunk: int  # actions of a chunk
    members: Mapping[int, Path]  # by seed

    def combinations(self, protocol: EvaluationProtocol) -> tuple[Combine, ...]:
        """How its members act as one; one member alone does not."""
        return protocol.combine if len(self.members) > 1 else ()

    def chunks(self, protocol: EvaluationProtocol) -> int:
        """Count the chunks that its members are asked for."""
        asked = sum(-(-EPISODE_STEPS // setting.replan) for setting in protocol.settings)
        return asked * protocol.episodes * len(self.members) * (1 + len(self.combinations(protocol)))


def find_candidates(path: Path, config: str | None = None) -> list[Candidate]:
    """Return the configurations of a run with completed members, or the one whose hash begins with `config`.

    `path` may be a member's directory too.

    Raises:
        UsageError: no run there, no such configuration, dynamics models, or data of another environment.
        NothingFinishedError: no member completed.
        StorageError: a file is missing or damaged.
    """
    found = {"": {-1: path}} if MemberDirectory(path).model_file.is_file() else _completed(path)
    chosen = {name: members for name, members in found.items() if name.startswith(config or "")}
    if not chosen:
        raise UsageError(f"no configuration {config} in {path}; there are {', '.join(found)}")
    if config and len(chosen) > 1:
        raise UsageError(f"{config} begins several configurations of {path}: {', '.join(chosen)}")
    return [_candidate(list(members.values())) for members in chosen.values()]


def run_of(path: Path) -> Path:
    """Return the run directory of a run or of one of its members; a member copied out of it stands for itself."""
    inside = path.resolve().parent
    return inside.parent if MemberDirectory(path).model_file.is_file() and inside.name == "members" else path


def _completed(path: Path) -> dict[str, dict[int, Path]]:
    run, found = RunDirectory(path), dict[str, dict[int, Path]]()
    for row in read_run(path).members:
        if row["status"] == "completed":
            directory = run.member(member_id(row["config_hash"], row["seed"]))
            found.setdefault(row["config_hash"], {})[row["seed"]] = directory.path
    if not found:
        raise NothingFinishedError(f"{path}: no member completed")
    return found


def _candidate(directories: Sequence[Path]) -> Candidate:
    records = [load_model_record(directory) for directory in directories]
    config = read_config(records[0])
    if config.task != "policy":
        raise UsageError(f"{directories[0]}: {config.family} predicts states and drives nothing; see `ensemble report`")
    features = read_features(records[0])
    widths = {role: sum(f.width for f in features if f.role == role) for role in WIDTHS}
    if widths != WIDTHS:
        raise UsageError(
            f"{directories[0]}: trained on {widths['state']} state and {widths['control']} control columns; "
            f"{ENVIRONMENT} has {WIDTHS['state']} and {WIDTHS['control']}, and is the one environment to be driven"
        )
    members = {record["seed"]: path for record, path in zip(records, directories, strict=True)}
    members = {seed: members[seed] for seed in sorted(members)}
    first = records[0]
    return Candidate(first["config_hash"], first["experiment"], config.family, config.window, members)


def check_protocol(candidates: Sequence[Candidate], protocol: EvaluationProtocol, device: str) -> None:
    """Raise UsageError where a noise is no number, no chunk is as long as a replan, or there is no such device."""
    for noise in protocol.noises:
        if not 0 <= noise < np.inf:
            raise UsageError(f"--noise {noise:g}: must be a finite number, 0 or more")
    least, longest = min(each.chunk for each in candidates), max(protocol.replans)
    if longest > least:
        raise UsageError(f"--replan {longest}: a chunk has {least} actions")
    if device == "cuda" and not torch.cuda.is_available():
        raise UsageError("--device cuda: PyTorch sees no GPU here")


def evaluate(
    candidates: Sequence[Candidate],
    protocol: EvaluationProtocol,
    device: str = "cpu",
    progress: OnSetting | None = None,
    watch: Watch | None = None,
) -> Iterator[list[Row]]:
    """Run every controller on the same episodes, and yield the rows of one setting after the other.

    `watch` is shown what each configuration's members did in each setting. Memory: the states of all members' episodes
    at once, 3 kB an episode, and activations of at most `load_policy.ROWS` observations.
    """
    episodes = draw_episodes(protocol.episodes, seed=protocol.seed)
    counter = _Counter(sum(candidate.chunks(protocol) for candidate in candidates), progress)
    yield [_baseline(name, noise, episodes, protocol) for name in BASELINES for noise in protocol.noises]
    for candidate in candidates:
        policy = PolicyEnsemble(candidate.members, device)
        for setting in protocol.settings:
            yield _rows(candidate, policy, setting, episodes, protocol, counter, watch)


def _rows(
    candidate: Candidate,
    policy: PolicyEnsemble,
    setting: Setting,
    episodes: Episodes,
    protocol: EvaluationProtocol,
    counter: "_Counter",
    watch: Watch | None,
) -> list[Row]:
    """Measure one configuration in one setting: each member, then all as one."""
    members = len(policy.seeds)

    # What the rows share
    sums = [_weights_sum(path) for path in candidate.members.values()]
    fixed = {**_common(setting, protocol), "experiment": candidate.experiment, "config_hash": candidate.config_hash}
    fixed["family"] = candidate.family
    counter.what = f"{candidate.family} {candidate.config_hash[:6]}, {setting}"

    # Each member for itself
    each = counter.count(policy.controller("each", protocol.seed, setting.replan), members)
    outcome = run_episodes(each, episodes, members=members, replan=setting.replan, noise=setting.noise)
    if watch is not None:
        watch(candidate, setting, outcome)
    seconds = outcome.chunk_seconds / (members * protocol.episodes)
    own = zip(policy.seeds, sums, _measured(outcome), strict=True)
    rows = [
        {**fixed, **row, "controller": "member", "seed": seed, "weights_sha256": sha, "chunk_seconds": seconds}
        for seed, sha, row in own
    ]

    # All members as one
    for combine in candidate.combinations(protocol):
        joint = counter.count(policy.controller(combine, protocol.seed, setting.replan), members)
        outcome = run_episodes(joint, episodes, replan=setting.replan, noise=setting.noise)
        (row,) = _measured(outcome)
        seconds = outcome.chunk_seconds / protocol.episodes
        rows.append(
            {**fixed, **row, "controller": combine, "weights_sha256": joint_sum(sums), "chunk_seconds": seconds}
        )
    return rows


def _baseline(name: str, noise: float, episodes: Episodes, protocol: EvaluationProtocol) -> Row:
    outcome = run_episodes(BASELINES[name](), episodes, replan=1, noise=noise)
    (row,) = _measured(outcome)
    named = {"config_hash": name, "controller": name, "chunk_seconds": outcome.chunk_seconds / protocol.episodes}
    return {**_common(Setting(noise, 1), protocol), **named, **row}


def _common(setting: Setting, protocol: EvaluationProtocol) -> Row:
    return {
        "environment": ENVIRONMENT,
        "noise": setting.noise,
        "replan": setting.replan,
        "episodes": protocol.episodes,
        "episode_seed": protocol.seed,
    }


def _measured(outcome: Outcome) -> list[Row]:
    """Return a row of metrics for each member."""
    metrics = summarize(outcome)
    arrays = {
        "success": outcome.success,
        "steps": outcome.steps,
        "converged": outcome.converged,
        "velocity": outcome.velocity,
        "velocity_squares": outcome.velocity_squares,
    }
    return [
        {name: float(values[member]) for name, values in metrics.items()}
        | {f"episode_{name}": values[member].tolist() for name, values in arrays.items()}
        for member in range(len(outcome.steps))
    ]


def _weights_sum(directory: Path) -> str | None:
    file = MemberDirectory(directory).row_file
    found: str | None = read_table(file, ["weights_sha256"])[0][0].as_py() if file.is_file() else None
    return found


class _Counter:
    """Counts the chunks that controllers return, and reports the count."""

    def __init__(self, total: int, progress: OnSetting | None) -> None:
        self.total, self.done, self.what = total, 0, ""
        self._progress = progress

    def count(self, controller: Controller, members: int) -> Controller:
        """Return `controller` under observation; each of its answers takes `members` chunks of networks."""
        return _Counted(controller, lambda answers: self._add(answers * members))

    def _add(self, chunks: int) -> None:
        self.done += chunks
        if self._progress is not None:
            self._progress(self.what, self.done, self.total)


class _Counted:
    """A controller that reports for how many episodes it is called."""

    def __init__(self, controller: Controller, report: Callable[[int], None]) -> None:
        self._controller, self._report = controller, report

    def reset(self) -> None:
        self._controller.reset()

    def act(self, observation: Floats) -> Floats:
        chunk = self._controller.act(observation)
        self._report(observation.shape[-2])
        return chunk


def keep_rows(file: Path, rows: Iterable[Row]) -> None:
    """Put rows into `evaluation.parquet`: those of equal EVALUATION_KEY are replaced, all others stay. Atomic.

    Raises StorageError.
    """
    file.parent.mkdir(parents=True, exist_ok=True)
    with held(file.with_name(f".{file.name}.lock")):
        before: list[Row] = read_table(file).to_pylist() if file.exists() else []
        whole = {_key(row): row for row in [*before, *rows]}
        write_table(file, _table([whole[key] for key in sorted(whole)]))


def _table(rows: Sequence[Row]) -> pa.Table:
    return table_of(rows, EVALUATION_COLUMNS)


def _key(row: Row) -> tuple[Any, ...]:
    """Return what distinguishes rows, in a form that sorts: no seed comes before all seeds."""
    return tuple(-1 if row.get(name) is None else row[name] for name in EVALUATION_KEY)


def best_member(rows: Sequence[Mapping[str, Any]]) -> tuple[str, int]:
    """Return configuration and seed of the member that converged most often over all settings; the first of equals."""
    rates: dict[tuple[str, int], list[float]] = {}
    for row in rows:
        if row["controller"] == "member":
            rates.setdefault((row["config_hash"], row["seed"]), []).append(row["converge_rate"])
    return max(rates, key=lambda key: float(np.mean(rates[key])))
