"""Record the tables on which claims about search are replayed: every learning curve of a small space, and many seeds.

    python -m benchmarks record_search --results DIR

`tables/curves.parquet`: 64 configurations x 10 seeds of `tables/space.yaml`, each metric at each rung.
`tables/seeds.parquet`: two configurations of that space at seeds that the first table does not have, 400 of a calm one
and 200 of one whose seeds differ much: the truth against which intervals are checked.
Members are trained by the package's loop, without Ray, and are kept in DIR: an interrupted recording continues where it
was. `--quick` trains a few members for a few steps, and keeps nothing.
"""

import tempfile
import time
from collections.abc import Iterator, Sequence
from contextlib import nullcontext
from pathlib import Path
from typing import Any

import pyarrow as pa

from benchmarks.command import Parser, announce, say
from ensemble.config import Experiment
from ensemble.config.loading import ExperimentFile, load
from ensemble.data.trajectories import read_trajectories
from ensemble.schema import TEST_ROLLOUT, VALIDATION_LOSS, VALIDATION_ROLLOUT
from ensemble.store import read_table, write_table
from ensemble.study.prepare import prepare
from ensemble.training.context import InlineContext
from ensemble.training.setup import TrialData
from ensemble.training.trial import Trial, run_trial

TABLES = Path(__file__).parents[1] / "tables"
SPACE = TABLES / "space.yaml"
PACK = 10
SEEDS = range(10)
CALM = {"model.n_embd": 8, "train.batch_size": 64, "train.optimizer.lr": 5e-3, "train.schedule.name": "cosine"}
SKEWED = {"model.n_embd": 32, "train.batch_size": 16, "train.optimizer.lr": 4e-2, "train.schedule.name": "constant"}
MANY = (("calm", CALM, range(1000, 1400)), ("skewed", SKEWED, range(1000, 1200)))
CURVES = (VALIDATION_ROLLOUT, VALIDATION_LOSS)
FINALS = (TEST_ROLLOUT, f"last/{VALIDATION_ROLLOUT}", VALIDATION_LOSS)


class Recorder:
    """Trains members that are missing, ten at a time, and reports each configuration as it ends."""

    def __init__(self, file: ExperimentFile, results: Path) -> None:
        self.run = results / file.first.experiment
        shards = prepare(file.first.data, file.path.parent, results, say).main
        self._data = TrialData(read_trajectories(shards), {})
        self._start = time.perf_counter()

    def train(self, experiment: Experiment, seeds: Sequence[int], what: str) -> Trial:
        """Train a configuration with these seeds."""
        trial = Trial(experiment, tuple(seeds), "search", self.run)
        for first in range(0, len(seeds), PACK):
            part = Trial(experiment, tuple(seeds[first : first + PACK]), "search", self.run)
            run_trial(part, self._data, InlineContext())
        say(f"{time.perf_counter() - self._start:7.0f} s  {what}")
        return trial


def curve_rows(trial: Trial, fixed: dict[str, Any]) -> Iterator[dict[str, Any]]:
    """Yield a row per (seed, step): the configuration's values, then the metrics of that rung; none once diverged."""
    for seed in trial.seeds:
        rungs: dict[int, dict[str, float]] = {}
        for row in read_table(trial.directory(seed).curves_file).to_pylist():
            rungs.setdefault(row["step"], {})[row["metric"]] = row["value"]
        for step, values in sorted(rungs.items()):
            yield {**fixed, "seed": seed, "step": step, **{name: values.get(name) for name in CURVES}}


def final_rows(trial: Trial, fixed: dict[str, Any]) -> Iterator[dict[str, Any]]:
    """Yield a row per seed: the member's final metrics."""
    for seed in trial.seeds:
        row = read_table(trial.directory(seed).row_file).to_pylist()[0]
        yield {**fixed, "seed": seed, "status": row["status"], **{name: row.get(name) for name in FINALS}}


def compact(rows: Sequence[dict[str, Any]]) -> pa.Table:
    """Lay rows out in narrow types: float32 metrics, 32-bit whole numbers."""
    names = list(dict.fromkeys(name for row in rows for name in row))
    table = pa.table({name: [row.get(name) for row in rows] for name in names})
    narrow = {pa.int64(): pa.int32(), pa.float64(): pa.float32()}
    keep = [name for name in names if name.startswith(("model.", "train."))]  # exact, so that they can be looked up
    fields = [pa.field(f.name, f.type if f.name in keep else narrow.get(f.type, f.type)) for f in table.schema]
    return table.cast(pa.schema(fields))


def matching(file: ExperimentFile, wanted: dict[str, Any]) -> Experiment:
    """Return the one configuration with these values."""
    return next(each for each in file.configurations() if wanted.items() <= file.varied(each).items())


def record(file: ExperimentFile, results: Path, tables: Path, count: int | None, seeds: int | None) -> None:
    """Train and write both tables: the first `count` configurations and seeds, or all."""
    recorder = Recorder(file, results)
    rows: list[dict[str, Any]] = []
    for number, experiment in enumerate(list(file.configurations())[:count]):
        values = file.varied(experiment)
        rows += curve_rows(recorder.train(experiment, SEEDS[:seeds], f"{number} {values}"), values)
    write_table(tables / "curves.parquet", compact(rows))

    finals: list[dict[str, Any]] = []
    for name, wanted, more in MANY:
        trial = recorder.train(matching(file, wanted), more[:seeds], f"{name}: {len(more[:seeds])} seeds")
        finals += final_rows(trial, {"configuration": name})
    write_table(tables / "seeds.parquet", compact(finals))
    say(f"{len(rows):,} rows of curves, {len(finals):,} rows of seeds")


def main() -> None:
    parser = Parser(__doc__, quick={"configurations": 2, "seeds": 2, "steps": 20, "episodes": 40})
    parser.add_argument("--results", type=Path, help="where members are kept, and shards next to it")
    parser.add_argument("--tables", type=Path, default=TABLES)
    for name in ("configurations", "seeds", "steps", "episodes"):
        parser.add_argument(f"--{name}", type=int, help="fewer than the space has")
    options = parser.parse()
    if not options.quick and options.results is None:
        parser.error("--results is needed, except with --quick")
    sizes = {"train.steps": options.steps, "data.simulate.episodes": options.episodes}
    file = load(SPACE, [f"{name}={size}" for name, size in sizes.items() if size is not None])
    announce(options, f"Recording {options.configurations or 64} configurations and two with more seeds", 40)
    with tempfile.TemporaryDirectory() if options.quick else nullcontext() as name:
        results, tables = (Path(name) / "results", Path(name)) if name else (options.results, options.tables)
        record(file, results, tables, options.configurations, options.seeds)


if __name__ == "__main__":
    main()
