"""Run directories of every wrong shape: report, explain and resume end with an exit code and a message.

Each case changes one or two files of a run that an earlier version left, or of an invented one: valid JSON, Parquet
and YAML of another shape, and files that are truncated, empty, gone, links, directories. A resume is taken as far as it
goes before Ray would start.
"""

import json
import os
import shutil
import zlib
from collections.abc import Callable, Iterator
from contextlib import suppress
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import pytest
import yaml
from reporting.synthetic_run import build_run, build_search

from ensemble.cli import main
from ensemble.cli.train import _extension
from ensemble.errors import EnsembleError
from ensemble.lock import sole_driver
from ensemble.run_directory import RunDirectory
from ensemble.search.judge import Judge
from ensemble.store import write_table
from ensemble.study.plan import forget_failures, is_complete, read_notes, write_plan
from ensemble.study.prepare import PreparedData, check_experiments
from ensemble.study.resume import damaged_checkpoints, data_of_run, other_versions, plan_of_run
from ensemble.study.study import _refuse_other_data

LEFT = Path(__file__).parents[1] / "fixtures" / "run_1beb6e2"
CASES = 60
OTHERS: list[Any] = [None, True, 3, -1, 1e308, "", "text", [], [1], ["x"], {}, {"a": 1}, [{"a": None}], 2**70]
Random = np.random.Generator


@pytest.fixture(scope="module")
def bases(tmp_path_factory: pytest.TempPathFactory) -> list[Path]:
    """Folders that each hold a run under results/: of an earlier version, an invented ensemble, an invented search."""
    folders = [tmp_path_factory.mktemp(name) for name in ("earlier", "ensemble", "search")]
    shutil.copytree(LEFT, folders[0], dirs_exist_ok=True)
    build_run(folders[1] / "results" / "earlier")
    build_search(folders[2] / "results" / "earlier")
    for folder in folders[1:]:
        run = folder / "results" / "earlier"
        (run / "data.json").write_text(json.dumps({"versions": {}, "notices": ["x"], "shards": {"main": "/nowhere"}}))
    return folders


@pytest.fixture
def mutated(bases: list[Path], tmp_path: Path, number: int) -> Path:
    """The run directory of a case."""
    random = np.random.default_rng(number)
    place = tmp_path / "place"
    shutil.copytree(bases[int(random.choice(3, p=[0.6, 0.2, 0.2]))], place)
    run = place / "results" / "earlier"
    notes = run / "data.json"
    notes.write_text(notes.read_text().replace("/PLACE", str(place)))
    for _ in range(int(random.integers(1, 3))):
        mutate(run, random)
    return run


def mutate(run: Path, random: Random) -> None:
    files = sorted(path for path in run.rglob("*") if path.is_file() and not path.is_symlink())
    # Those of the run itself as often as those of all its members together
    top = [path for path in files if path.parent == run]
    chosen = top if random.random() < 0.6 and top else files
    file = chosen[int(random.integers(len(chosen)))]
    shapes = {".json": other_json, ".parquet": other_table, ".yaml": other_yaml, ".log": other_log}
    if file.suffix in shapes and random.random() < 0.65:
        with suppress(pa.ArrowException, ValueError):  # a file that the first change has damaged
            shapes[file.suffix](file, random)
            return
    broken(file, random)


def pick(values: list[Any], random: Random) -> Any:
    return values[int(random.integers(len(values)))]


def changed(value: Any, random: Random) -> Any:
    """Return a value of another shape somewhere: the whole, a key, an entry, or a key less."""
    if isinstance(value, dict) and value and random.random() < 0.85:
        key = pick(sorted(value), random)
        if random.random() < 0.25:
            return {name: each for name, each in value.items() if name != key}
        return {**value, key: changed(value[key], random)}
    if isinstance(value, list) and value and random.random() < 0.7:
        at = int(random.integers(len(value)))
        return [*value[:at], changed(value[at], random), *value[at + 1 :]]
    return pick(OTHERS, random)


def other_json(file: Path, random: Random) -> None:
    file.write_text(json.dumps(changed(json.loads(file.read_text()), random)))


def other_yaml(file: Path, random: Random) -> None:
    text = yaml.safe_dump(changed(yaml.safe_load(file.read_text()), random), sort_keys=False)
    file.write_text(pick([text, text, text, "a: [", "- 1\n- 2\n", "a: &a [*a]\n", "a: !!python/object:x {}\n"], random))


def other_log(file: Path, random: Random) -> None:
    """Change an event of a search, with the checksum that belongs to it."""
    lines = file.read_text().splitlines()
    at = int(random.integers(len(lines)))
    if file.name == "search.log":
        text = json.dumps(changed(json.loads(lines[at].partition(" ")[2]), random))
        lines[at] = f"{zlib.crc32(text.encode()):08x} {text}"
    file.write_text("\n".join(lines) + "\n")


def other_table(file: Path, random: Random) -> None:
    table = pq.ParquetFile(file).read()
    # The first columns are what everything is found by.
    few = table.column_names[: 8 if random.random() < 0.7 else None]
    name = pick(few, random)
    at, column, rows = table.column_names.index(name), table[name], table.num_rows
    others = [
        pa.nulls(rows, column.type),
        pa.nulls(rows),
        pa.array([f"{i}" for i in range(rows)]),
        pa.array([["x"]] * rows, pa.list_(pa.string())),
        pa.array([float("nan")] * rows),
        pa.array([{"a": 1}] * rows, pa.struct([("a", pa.int64())])),
    ]
    changes: list[Callable[[], pa.Table]] = [
        lambda: table.rename_columns([*table.column_names[:at], f"{name}x", *table.column_names[at + 1 :]]),
        lambda: table.drop_columns([name]),
        lambda: table.slice(0, 0),
        lambda: table.slice(0, max(1, rows // 2)),
        lambda: pa.concat_tables([table, table]),
        lambda: pa.table({"x": [1]}),
        *(lambda other=other: table.set_column(at, name, other) for other in others),
    ]
    result = pick(changes, random)()
    if random.random() < 0.5:
        write_table(file, result)
    else:
        pq.write_table(result, file)


def broken(file: Path, random: Random) -> None:
    content = file.read_bytes()
    at = int(random.integers(max(1, len(content))))
    kind = pick(["cut", "empty", "noise", "flip", "gone", "nowhere", "loop", "elsewhere", "folder", "parent"], random)
    if kind == "flip":
        file.write_bytes(content[:at] + bytes([(content[at] if content else 0) ^ 1]) + content[at + 1 :])
    elif kind in ("cut", "empty", "noise"):
        file.write_bytes({"cut": content[:at], "empty": b"", "noise": random.bytes(200)}[kind])
    elif kind == "parent" and file.parent.parent != file.parents[-1] and file.parent.name != "earlier":
        folder = file.parent
        shutil.rmtree(folder)
        folder.write_text("no folder")
    else:
        file.unlink()
        targets = {"nowhere": "/nowhere/at/all", "loop": file, "elsewhere": LEFT / "shards"}
        if kind in targets:
            file.symlink_to(targets[kind])
        elif kind == "folder":
            file.mkdir()


def resume_up_to_ray(run: Path) -> int:
    """Do what `ensemble resume` does before Ray starts, and return its exit code."""
    try:
        plan = plan_of_run(run, _extension(run, None, None))
        with sole_driver(plan.run):
            other_versions(plan)
            forget_failures(plan)
            if is_complete(plan):
                return 0
            list(damaged_checkpoints(plan.run))
            shards = data_of_run(plan)
            if shards is None:
                return 0  # they would be made again
            data = PreparedData(shards["main"], {name: path for name, path in shards.items() if name != "main"})
            check_experiments(plan.configurations, data)
            _refuse_other_data(plan, data)
            write_plan(plan, read_notes(plan))
            if plan.role == "search":
                Judge(plan.file, plan.log)
            RunDirectory(plan.run).collect()
    except EnsembleError as error:
        return error.exit_code if str(error) else -1
    return 0


def commands(run: Path, number: int) -> Iterator[list[str]]:
    name = str(run)
    yield ["explain", name, "#0"]
    yield ["explain", name, "1d2cad4e1e8b"] if number % 2 else ["explain", name, "aaaaaaaaaaa0", "1"]
    yield ["report", name, "--no-figures"]
    if number % (20 if number < CASES else 5) == 0:  # with figures, which take a while
        yield ["report", name]


@pytest.mark.parametrize(
    "number", [pytest.param(n, marks=() if n < CASES else (pytest.mark.slow,)) for n in range(300)]
)
def test_a_run_of_any_shape_ends_with_a_message(
    mutated: Path, number: int, capfd: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(mutated.parents[1])
    for arguments in commands(mutated, number):
        with pytest.raises(SystemExit) as ended:
            main(arguments)
        said = capfd.readouterr().err
        assert ended.value.code in range(6), arguments
        assert "Traceback" not in said
        if ended.value.code:
            assert said.splitlines()[-1].strip(), arguments
    assert resume_up_to_ray(mutated) in range(6)
    assert os.path.lexists(mutated)
