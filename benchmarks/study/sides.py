"""Both sides of the comparisons with plain Ray Tune, in one running Ray: our study, and a Tuner with its defaults."""

import os
import time
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import Any, NamedTuple

from ray import tune

from ensemble.config.loading import ExperimentFile
from ensemble.run_directory import RunDirectory
from ensemble.store import read_table
from ensemble.study.cluster import ClusterNode, needs, slots
from ensemble.study.plan import make_plan, write_plan
from ensemble.study.prepare import PreparedData
from ensemble.study.runner import Runner
from ensemble.study.stopping import Stopping

LOGGERS = "TUNE_DISABLE_AUTO_CALLBACK_LOGGERS"


class TimedRunner(Runner):
    """A runner that records the seconds of Tune alone: from before the first suggestion until after the last row."""

    seconds = 0.0

    def _tune(self, *arguments: Any, **options: Any) -> bool:
        start = time.perf_counter()
        done = super()._tune(*arguments, **options)
        self.seconds += time.perf_counter() - start
        return done


class Study(NamedTuple):
    """What a study of ours left, and how long it took."""

    run: Path
    start: float  # seconds since the epoch
    seconds: float  # from then to its end
    tuning: float  # seconds of Tune alone


def run_ours(file: ExperimentFile, results: Path, data: PreparedData, nodes: Sequence[ClusterNode]) -> Study:
    """Train what a file asks for, as `ensemble tune` does once the data are prepared."""
    start = time.time()
    plan = make_plan(file, results)
    write_plan(plan, {})
    request = needs(file.first.resources, list(nodes), "cpu")
    count, quiet = slots(request, list(nodes)), lambda line: None
    runner = TimedRunner(plan, data, request, count, quiet, Stopping(plan.run, quiet))
    runner.run()
    return Study(plan.run, start, time.time() - start, runner.seconds)


def rows_of(study: Study) -> list[tuple[float, dict[str, Any]]]:
    """Return the members' rows, each behind the seconds since the start when it was written, in that order."""
    files = sorted((file.stat().st_mtime - study.start, file) for file in RunDirectory(study.run).row_files)
    return [(when, read_table(file).to_pylist()[0]) for when, file in files]


def run_plain(
    function: Callable[[Mapping[str, Any]], None],
    space: Mapping[str, Any],
    folder: Path,
    watch: tune.Callback,
    **tuning: Any,
) -> tuple[tune.ResultGrid, float]:
    """Run a function under Tune with its defaults, two trials at a time; return its results and seconds."""
    os.environ[LOGGERS] = "0"
    start = time.perf_counter()
    results = tune.Tuner(
        tune.with_resources(function, {"cpu": 1}),
        param_space=dict(space),
        tune_config=tune.TuneConfig(max_concurrent_trials=2, **tuning),
        run_config=tune.RunConfig(
            name=f"plain-{time.monotonic_ns()}", storage_path=str(folder / "plain"), verbose=0, callbacks=[watch]
        ),
    ).fit()
    seconds = time.perf_counter() - start
    os.environ[LOGGERS] = "1"
    assert not results.errors
    return results, seconds
