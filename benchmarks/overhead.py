"""What a search costs beside training: trials that train next to nothing, against plain Ray Tune with `reuse_actors`.

Ours is the whole way: judge, desk, Tune, packs, weights, curves and rows of three seeds a configuration. Plain is once
a function that reports a number and does nothing else, and once one that takes a step of a plain model of that size
and reports it with a checkpoint; as many trials at a time, one seed a trial: ninety of them make as many members.
Everything in one Ray, started before, in turns. Quoted are whole runs of the tuner divided by trials and members, and
the steady pace from the first trial that ended to the last one, without the start of processes.
"""

import argparse
import os
import statistics
import tempfile
import time
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import Any

from ensemble.study.cluster import LOOPBACK, QUIET, connected, needs, slots

os.environ.update(QUIET | LOOPBACK | {"RAY_AUTH_MODE": "token"})  # Ray reads them when it is imported

from ray import tune

from ensemble.config import load
from ensemble.schema import MemberRole
from ensemble.store import read_table
from ensemble.study.plan import make_plan, write_plan
from ensemble.study.prepare import prepare
from ensemble.study.runner import Runner
from ensemble.study.tuning import Source

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
LOGGERS = "TUNE_DISABLE_AUTO_CALLBACK_LOGGERS"

Ends = tuple[float, list[float]]  # seconds of the tuner's run, and when each trial ended


class TimedFleet(Runner):
    """A fleet that notes how long Tune ran: from before the first suggestion until after the last row."""

    seconds = 0.0

    def _tune(self, source: Source, expected: int | None, role: MemberRole, count: int) -> None:
        start = time.perf_counter()
        super()._tune(source, expected, role, count)
        self.seconds = time.perf_counter() - start


def ours(folder: Path, nodes: Sequence[Any], trials: int, seeds: int, turn: int) -> Ends:
    """Search; return the seconds of the tuner, and when each trial's last row was written."""
    path = folder / "nothing.yaml"
    path.write_text(SPACE.format(trials=trials, seeds=seeds, seed=turn))
    plan = make_plan(load(path), folder / f"ours-{seeds}-{turn}")
    first = plan.file.first
    data = prepare(first.data, folder, folder, lambda line: None)
    write_plan(plan, {})
    request = needs(first.resources, list(nodes), "cpu")
    runner = TimedFleet(plan, data, request, slots(request, list(nodes)), lambda line: None)
    runner.run()
    ended: dict[str, float] = {}
    for file in plan.run.glob("members/*/member.parquet"):
        assert read_table(file)["status"][0].as_py() == "completed"
        name = file.parent.name.rpartition("-")[0]
        ended[name] = max(ended.get(name, 0.0), file.stat().st_mtime)
    assert len(ended) == trials
    return runner.seconds, sorted(ended.values())


class Clock(tune.Callback):
    """Notes when Tune hears that a trial has ended."""

    def __init__(self) -> None:
        self.ended: list[float] = []

    def on_trial_complete(self, iteration: int, trials: list[Any], trial: Any, **info: Any) -> None:
        """Note one end."""
        self.ended.append(time.time())


def report_once(config: Mapping[str, Any]) -> None:
    """Train nothing, report once."""
    tune.report({"loss": config["lr"]})


def step_once(config: Mapping[str, Any]) -> None:
    """Take one step, report the loss with the weights."""
    import torch

    from benchmarks.plain import PlainGPT

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
    """Run a function under Tune with its defaults; return the seconds of the tuner, and when each trial ended."""
    os.environ[LOGGERS] = "0"
    clock = Clock()
    start = time.perf_counter()
    results = tune.Tuner(
        tune.with_resources(function, {"cpu": 1}),
        param_space={"lr": tune.loguniform(1e-4, 1e-2)},
        tune_config=tune.TuneConfig(num_samples=trials, max_concurrent_trials=2, reuse_actors=True),
        run_config=tune.RunConfig(
            name=f"plain-{time.monotonic_ns()}", storage_path=str(folder / "plain"), verbose=0, callbacks=[clock]
        ),
    ).fit()
    seconds = time.perf_counter() - start
    os.environ[LOGGERS] = "1"
    assert len(results) == trials
    assert not results.errors
    return seconds, clock.ended


def line(name: str, runs: Sequence[Ends], members: int) -> tuple[float, float]:
    """Print one side; return its median seconds per trial: whole run, steady pace."""
    trials = len(runs[0][1])
    whole = [seconds / trials for seconds, _ in runs]
    pace = [(ended[-1] - ended[0]) / (trials - 1) for _, ended in runs]
    median = statistics.median
    print(
        f"  {name:22s} {median(whole):.3f} s a trial ({min(whole):.3f} - {max(whole):.3f}), "
        f"{median(whole) / members:.3f} a member; steady {median(pace):.3f} ({min(pace):.3f} - {max(pace):.3f}), "
        f"{median(pace) / members:.3f}",
        flush=True,
    )
    return median(whole), median(pace)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--trials", type=int, default=30)
    parser.add_argument("--seeds", type=int, default=3)
    parser.add_argument("--rounds", type=int, default=3)
    arguments = parser.parse_args()
    trials, seeds = arguments.trials, arguments.seeds
    runs: dict[str, list[Ends]] = {}
    with tempfile.TemporaryDirectory() as name, connected("local", workers=False) as nodes:
        folder = Path(name)
        print(f"{trials} configurations x {seeds} seeds of one step, {arguments.rounds} rounds", flush=True)
        for turn in range(arguments.rounds + 1):  # the first warms up: imports, data, page cache
            found = {
                "ours": ours(folder, nodes, trials, seeds, turn),
                "reports once": plain(folder, report_once, trials),
                "reports once, members": plain(folder, report_once, trials * seeds),
                "a step": plain(folder, step_once, trials),
                "a step, members": plain(folder, step_once, trials * seeds),
            }
            for side, ends in found.items() if turn else ():
                runs.setdefault(side, []).append(ends)
            shown = ", ".join(f"{side} {ends[0]:.1f} s" for side, ends in found.items())
            print(f"    round {turn}, load {os.getloadavg()[0]:.1f}: {shown}", flush=True)
    paces = {side: line(side, ends, seeds if side == "ours" else 1) for side, ends in runs.items()}
    for side in ("reports once", "a step"):
        for what, index in (("whole runs", 0), ("steady pace", 1)):
            mine, trial, member = paces["ours"][index], paces[side][index], paces[f"{side}, members"][index]
            print(f"  {side}, {what}: plain / ours {trial / mine:.2f}x a trial, {seeds * member / mine:.2f}x a member")


if __name__ == "__main__":
    main()
