"""What a search costs besides training: trials that train next to nothing, against plain Ray Tune with `reuse_actors`.

    python -m benchmarks overhead [--trials 30] [--seeds 3] [--rounds 3]

Ours is the whole way: judge, its actor, Tune, packs, weights, curves and rows of three seeds a configuration. Plain is
once a function that reports a number and does nothing else, and once one that takes a step of a plain model of that
size and reports it with a checkpoint; as many trials at a time, one seed a trial: ninety of them make as many members.
Everything in one Ray, started before, in turns. Quoted are whole runs of the tuner divided by trials and members, and
the steady pace from the first trial that ended to the last one, without the start of processes.
"""

import statistics
import tempfile
import time
from collections.abc import Callable, Mapping, Sequence
from functools import partial
from pathlib import Path
from typing import Any

from ray import tune

from benchmarks.command import Parser, announce, row, say
from benchmarks.study.sides import rows_of, run_ours, run_plain
from benchmarks.timing import spread, take_turns
from ensemble.config import load
from ensemble.study.cluster import ClusterNode, connected
from ensemble.study.prepare import prepare
from ensemble.text import plural

SPACE = """\
experiment: nothing
data: {{source: double_pendulum, simulate: {{episodes: 20, steps: 40}}}}
model: {{n_layer: 1, n_head: 2, n_embd: 8, history: 5, block_size: 8, head: {{layer_sizes: [8]}}}}
train:
  steps: 1
  batch_size: 8
  optimizer: {{name: adam, lr: {{log_uniform: [1e-4, 1e-2]}}}}
  rollout: {{horizon: 5, windows: 16}}
search: {{trials: {trials}, seeds: {seeds}, pruner: none, seed: {seed}}}
ensemble: {{finalists: 0}}
"""

Ends = tuple[float, list[float]]  # seconds of the tuner's run, and when each trial ended


def ours(folder: Path, nodes: Sequence[ClusterNode], trials: int, seeds: int) -> Ends:
    """Search; return the seconds of the tuner, and when each trial's last row was written."""
    number = time.monotonic_ns()
    path = folder / "nothing.yaml"
    path.write_text(SPACE.format(trials=trials, seeds=seeds, seed=number % 1000))
    file = load(path)
    data = prepare(file.first.data, folder, folder / "results", lambda line: None)
    study = run_ours(file, folder / f"ours-{number}", data, nodes)
    ended: dict[str, float] = {}
    for when, member in rows_of(study):
        assert member["status"] == "completed"
        ended[member["config_hash"]] = when
    assert len(ended) == trials
    return study.tuning, sorted(ended.values())


class Clock(tune.Callback):
    """Records when Tune learns that a trial has ended."""

    def __init__(self) -> None:
        self.ended: list[float] = []

    def on_trial_complete(self, iteration: int, trials: list[Any], trial: Any, **info: Any) -> None:
        """Record one end."""
        self.ended.append(time.time())


def report_once(config: Mapping[str, Any]) -> None:
    """Train nothing, report once."""
    tune.report({"loss": config["lr"]})


def step_once(config: Mapping[str, Any]) -> None:
    """Take one step, report the loss with the weights."""
    import torch

    from benchmarks.training.plain import PlainGPT

    torch.set_num_threads(1)
    model = PlainGPT(6, 4, 8, 1, 2, 8, 8)
    optimizer = torch.optim.Adam(model.parameters(), lr=config["lr"])
    loss = model(torch.randn(8, 5, 6)).square().mean()
    loss.backward()
    optimizer.step()
    with tempfile.TemporaryDirectory() as name:
        torch.save(model.state_dict(), Path(name) / "model.pt")
        tune.report({"loss": loss.item()}, checkpoint=tune.Checkpoint.from_directory(name))


def plain(folder: Path, function: Callable[[Mapping[str, Any]], None], trials: int) -> Ends:
    """Run a function under Tune; return the seconds of the tuner, and when each trial ended."""
    clock, space = Clock(), {"lr": tune.loguniform(1e-4, 1e-2)}
    results, seconds = run_plain(function, space, folder, clock, num_samples=trials, reuse_actors=True)
    assert len(results) == trials
    return seconds, clock.ended


def paces(ends: Ends) -> tuple[float, float]:
    """Return seconds a trial: of the whole run, and from the first end to the last."""
    seconds, ended = ends
    return seconds / len(ended), (ended[-1] - ended[0]) / (len(ended) - 1)


def main() -> None:
    parser = Parser(__doc__, quick={"trials": 3, "seeds": 2, "rounds": 1, "warmup": 0})
    parser.add_argument("--trials", type=int, default=30)
    parser.add_argument("--seeds", type=int, default=3)
    parser.add_argument("--rounds", type=int, default=3)
    parser.add_argument("--warmup", type=int, default=1, help="rounds before: imports, data, page cache")
    options = parser.parse()
    trials, seeds = options.trials, options.seeds
    rounds = plural(options.rounds, "round")
    announce(options, f"{trials} configurations x {seeds} seeds of one step, {rounds} of five searches in one Ray", 3)

    # Turns
    with tempfile.TemporaryDirectory() as name, connected("local", workers=False) as nodes:
        folder = Path(name)
        sides: dict[str, Callable[[], Ends]] = {
            "ours": partial(ours, folder, nodes, trials, seeds),
            "reports once": partial(plain, folder, report_once, trials),
            "reports once, members": partial(plain, folder, report_once, trials * seeds),
            "a step": partial(plain, folder, step_once, trials),
            "a step, members": partial(plain, folder, step_once, trials * seeds),
        }
        turns = take_turns(sides, options.rounds, options.warmup)

    # Seconds a trial and a member, and ratios of their medians
    runs = {side: [paces(turn.value) for turn in each] for side, each in turns.items()}
    medians = {side: [statistics.median(pace) for pace in zip(*each, strict=True)] for side, each in runs.items()}
    for side, each in runs.items():
        whole, steady = (spread(pace, ".3f", " s") for pace in zip(*each, strict=True))
        members = ", ".join(f"{median / (seeds if side == 'ours' else 1):.3f}" for median in medians[side])
        row(side, f"a trial: whole {whole}, steady {steady}; a member: {members} s")
    for side in ("reports once", "a step"):
        for index, what in enumerate(("whole runs", "steady pace")):
            mine, trial, member = (medians[name][index] for name in ("ours", side, f"{side}, members"))
            ratios = f"{trial / mine:.2f}x a trial, {seeds * member / mine:.2f}x a member"
            say(f"  {side}, {what}: plain / ours {ratios}")


if __name__ == "__main__":
    main()
