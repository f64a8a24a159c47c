"""From foreign files to checked shards: the only way data comes in.

All files are opened before any is converted, so that everything that is wrong is said at once and before any work.
Good files are kept when others are bad; the manifest is written last, and only over a whole set (or, with `skip_bad`,
over what is good, naming what was left out). It reads layouts and writes Parquet; it knows no model.
"""

import os
import re
import threading
from collections import Counter
from collections.abc import Callable, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass, field
from pathlib import Path

import numpy as np

from ensemble.config.data import DataConfig
from ensemble.data.manifest import (
    FILE,
    FileEntry,
    Manifest,
    SkippedEntry,
    SourceEntry,
    fingerprint,
    options_hash,
    read_manifest,
)
from ensemble.data.parts import Job
from ensemble.data.shards import episode_table
from ensemble.data.sources import (
    Plan,
    SourceRecord,
    finished,
    plan,
    read_record,
    renumber_source,
    write_source,
)
from ensemble.data.summary import Summary, merged
from ensemble.data.trajectories import EPISODES
from ensemble.errors import DataError, UsageError
from ensemble.schema import OnProgress
from ensemble.store import sha256_file, write_table
from ensemble.text import plural

_OURS = re.compile(r"shard-\d{5}-\d{5}\.parquet|source-\d{5}\.json|episodes\.parquet|manifest\.json|\..*")
_MOST_THREADS = 8
_NAMED_TWINS = 4  # duplicate episodes that a notice names


@dataclass
class _Outcome:
    """What became of the sources, in their order."""

    indices: list[int] = field(default_factory=list)
    records: list[SourceRecord] = field(default_factory=list)
    summaries: list[Summary] = field(default_factory=list)
    failures: dict[Path, str] = field(default_factory=dict)

    @property
    def episodes(self) -> int:
        return sum(len(record.keys) for record in self.records)


def convert(
    sources: Sequence[Path],
    out: Path,
    data: DataConfig,
    progress: OnProgress | None = None,
    skip_bad: bool = False,
) -> Manifest:
    """Convert HDF5 and npz files into one directory of checked shards and return its manifest.

    `progress` is told (points done, points in all), from any thread, one call at a time. Sources that an earlier,
    stopped run converted are taken as they are. Raises DataError naming every bad file (`skip_bad`: only when none is
    good), StorageError when the disk refuses, UsageError when `out` already holds another data set. Bad files leave
    the shards of the good ones in `out` for the next run, but no manifest.
    """
    paths = [Path(source) for source in sources]
    if not paths:
        raise UsageError("no files to convert")
    options = options_hash(data)
    _refuse_foreign(out)
    if (out / FILE).is_file():
        known = _known(out, paths, options)
        if known is not None:
            return known
    outcome = _Outcome()
    plans = _plan_all(paths, data, outcome.failures)
    with ThreadPoolExecutor(min(_MOST_THREADS, os.cpu_count() or 1)) as pool:
        advance = _counter(sum(each.points for each in plans.values()), progress)
        job = Job(out, data, options, pool, advance)
        for index, planned in plans.items():
            _convert_one(index, planned, job, outcome)
    if outcome.failures and not (skip_bad and outcome.records):
        raise DataError(_failure_text(outcome, len(paths), out))
    (out / FILE).unlink(missing_ok=True)  # from here on, what an older manifest says may not hold
    _number(outcome, out)
    return _finish(outcome, out, options)


def _refuse_foreign(out: Path) -> None:
    """Raise UsageError when `out` holds a file that no conversion made: it might be replaced or removed."""
    if not out.is_dir():
        return
    foreign = sorted(path.name for path in out.iterdir() if not _OURS.fullmatch(path.name))
    if foreign:
        raise UsageError(f"{out} holds other files ({', '.join(foreign[:3])}); choose a directory of its own")


def _known(out: Path, paths: Sequence[Path], options: str) -> Manifest | None:
    """Return the manifest of a finished equal conversion, or None when files were added to one or it lost some.

    Raises UsageError when `out` holds a data set of other files or options, which is not to be damaged.
    """
    manifest = read_manifest(out)
    sums = [sha256_file(path) if path.is_file() else "" for path in paths]
    known = [source.sha256 for source in manifest.sources]
    if known == sums and manifest.options == options and manifest.is_whole(out):
        return manifest
    recorded = [each for i, sha256 in enumerate(sums) if (each := read_record(out, i, sha256, options)) is not None]
    if [record.sha256 for record in recorded] != known:
        raise UsageError(f"{out} already holds a data set of other files or options; choose another directory")
    return None


def _plan_all(paths: Sequence[Path], data: DataConfig, failures: dict[Path, str]) -> dict[int, Plan]:
    """Open every file; files that can't be used, or that don't fit the first good one, go to `failures`."""
    plans: dict[int, Plan] = {}
    for index, path in enumerate(paths):
        try:
            found = plan(path, data)
            if plans:
                _check_fit(next(iter(plans.values())), found)
            plans[index] = found
        except DataError as error:
            failures[path] = str(error)
    return plans


def _check_fit(first: Plan, other: Plan) -> None:
    """Raise DataError unless two files have equal features and time steps."""
    schemas = [tuple(feature.schema for feature in each.features) for each in (first, other)]
    if schemas[0] != schemas[1]:
        texts = [", ".join(f"{n} ({w}) {d}" for n, w, d in schema) for schema in schemas]
        raise DataError(
            f"{other.path}: its features are not those of {first.path}\n  {first.path.name}: {texts[0]}\n"
            f"  {other.path.name}: {texts[1]}"
        )
    if first.dt and other.dt and abs(first.dt - other.dt) > 1e-6 * first.dt:
        raise DataError(f"{other.path}: dt {other.dt:g} s, but {first.path} has {first.dt:g} s")


def _counter(total: int, progress: OnProgress | None) -> Callable[[int], None]:
    lock, done = threading.Lock(), 0

    def advance(points: int) -> None:
        nonlocal done
        with lock:
            done += points
            if progress is not None:
                progress(done, total)

    return advance


def _convert_one(index: int, planned: Plan, job: Job, outcome: _Outcome) -> None:
    """Convert one source, or take it from an earlier run; a bad one goes to the failures."""
    try:
        done = finished(job.out, index, planned.path, job.options)
        if done is None:
            done = write_source(index, planned, outcome.episodes, job)
        else:
            job.advance(planned.points)
    except DataError as error:
        outcome.failures[planned.path] = str(error)
        return
    outcome.indices.append(index)
    outcome.records.append(done[0])
    outcome.summaries.append(done[1])


def _number(outcome: _Outcome, out: Path) -> None:
    """Number the episodes of all sources without gaps; only sources of earlier runs may have to change."""
    first = 0
    for position, index in enumerate(outcome.indices):
        record = outcome.records[position] = renumber_source(index, outcome.records[position], first, out)
        first += len(record.keys)


def _failure_text(outcome: _Outcome, count: int, out: Path) -> str:
    """List every bad file and say what is left."""
    lines = list(outcome.failures.values())
    if count == 1:
        return lines[0]
    kept = f"the {len(outcome.records)} good ones are kept in {out} for the next run" if outcome.records else ""
    return "\n".join([f"{len(lines)} of {count} files cannot be used{'; ' + kept if kept else ''}:", *lines])


def _finish(outcome: _Outcome, out: Path, options: str) -> Manifest:
    """Write `episodes.parquet`, then the manifest."""
    records, summary = outcome.records, merged(outcome.summaries)
    entries = records[0].features
    features = [entry.feature for entry in entries]
    files = [FileEntry(name=p.name, bytes=p.bytes, sha256=p.sha256) for record in records for p in record.parts]
    episodes = out / EPISODES
    _write_episodes(records, episodes)
    files.append(FileEntry(name=EPISODES, bytes=episodes.stat().st_size, sha256=sha256_file(episodes)))
    points = sum(sum(record.points) for record in records)
    hashes = [np.array(record.hashes, dtype=np.uint64) for record in records]
    manifest = Manifest(
        layout=records[0].layout,
        options=options,
        fingerprint=fingerprint(features, hashes),
        dt=next((record.dt for record in records if record.dt is not None), None),
        features=entries,
        episodes=outcome.episodes,
        points=points,
        transitions=points - outcome.episodes,
        files=tuple(files),
        statistics=summary.statistics(features),
        quantiles=summary.quantile_method(),
        sources=tuple(SourceEntry(path=r.path, bytes=r.bytes, sha256=r.sha256) for r in records),
        notices=tuple(_notices(records, summary)),
        skipped=tuple(SkippedEntry(source=path.name, reason=why) for path, why in outcome.failures.items()),
    )
    _remove_leftovers(out, manifest)
    manifest.write(out)
    return manifest


def _write_episodes(records: Sequence[SourceRecord], path: Path) -> None:
    shard_sizes = np.array([part.episodes for record in records for part in record.parts])
    table = episode_table(
        keys=_keys(records),
        sources=[record.path for record in records for _ in record.keys],
        points=np.array([n for record in records for n in record.points], dtype=np.int64),
        shards=np.repeat(np.arange(len(shard_sizes)), shard_sizes),
        splits=[split for record in records for split in record.given],
        hashes=np.array([h for record in records for h in record.hashes], dtype=np.uint64),
    )
    write_table(path, table)


def _keys(records: Sequence[SourceRecord]) -> list[str]:
    """Return one key an episode; the number of the source stands before it where keys would repeat."""
    plain = [key for record in records for key in record.keys]
    if len(set(plain)) == len(plain):
        return plain
    return [f"{number}-{key}" for number, record in enumerate(records) for key in record.keys]


def _notices(records: Sequence[SourceRecord], summary: Summary) -> list[str]:
    """Return what was noticed: of each source where they differ, of all together once."""
    said = [(record.path, notice) for record in records for notice in record.notices]
    counts = Counter(notice for _, notice in said)
    everywhere = [notice for notice, count in counts.items() if count == len(records)]
    notices = everywhere + [f"{path}: {notice}" for path, notice in said if notice not in everywhere]
    constant = summary.constant([entry.feature for entry in records[0].features])
    if constant:
        notices.append(f"constant: {', '.join(constant)}")
    twins = _twins(records)
    if twins:
        named = ", ".join(twins[:_NAMED_TWINS]) + (", .." if len(twins) > _NAMED_TWINS else "")
        notices.append(f"{plural(len(twins), 'episode')} with the content of another: {named}")
    return notices


def _twins(records: Sequence[SourceRecord]) -> list[str]:
    """Return the keys of episodes whose content came before."""
    seen: set[int] = set()
    twins = []
    hashes = [value for record in records for value in record.hashes]
    for key, value in zip(_keys(records), hashes, strict=True):
        if value in seen:
            twins.append(key)
        seen.add(value)
    return twins


def _remove_leftovers(out: Path, manifest: Manifest) -> None:
    """Remove what stopped runs left: shards of no source here, and temporary files."""
    known = {file.name for file in manifest.files}
    for path in [*out.glob("shard-?????-?????.parquet"), *out.glob(".shard-*.tmp"), *out.glob(".source-*.tmp")]:
        if path.name not in known:
            path.unlink()
