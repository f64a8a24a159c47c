"""From foreign files to checked shards: the only entry of data.

All files are opened before any is converted, so that all errors are reported at once and before any work. Good files
are kept when others are bad; the manifest is written last, and only for a complete set (with `skip_bad`: for the good
files, with a list of the others). Reads layouts and writes Parquet; independent of any model.
"""

import re
import threading
from collections import Counter
from collections.abc import Callable, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass, field
from pathlib import Path

import numpy as np
import pyarrow as pa

from ensemble.config.data import DataConfig
from ensemble.data import notes
from ensemble.data.layouts.folder import expanded, source_sha256
from ensemble.data.layouts.recording import splits_by_name
from ensemble.data.layouts.refused import NoneUsableError, Refused, left_out
from ensemble.data.manifest import (
    FileEntry,
    Manifest,
    SkippedEntry,
    SourceEntry,
    fingerprint,
    options_hash,
    read_manifest,
)
from ensemble.data.parts import Job
from ensemble.data.shards import episode_table, shard_schema
from ensemble.data.sources import (
    SourcePlan,
    SourceRecord,
    finished_source,
    plan_source,
    read_record,
    renumber_source,
    write_source,
)
from ensemble.data.summary import Summary, merged
from ensemble.data.trajectories import episodes_text
from ensemble.errors import DataError, UsageError
from ensemble.lock import held
from ensemble.machine import cores
from ensemble.schema import OnProgress
from ensemble.store import sha256_file
from ensemble.text import plural

_OWN_FILES = re.compile(
    rf"shard-\d{{5}}-\d{{5}}\.parquet|{notes.FOLDER}|source-\d{{5}}\.json|episodes\.parquet|manifest\.json|\..*"
)
_MOST_THREADS = 8
_LISTED_DUPLICATES = 4  # duplicate episodes in a notice


@dataclass
class _ConvertedSources:
    """Results of the sources so far, in their order."""

    indices: list[int] = field(default_factory=list)
    records: list[SourceRecord] = field(default_factory=list)
    summaries: list[Summary] = field(default_factory=list)
    failures: dict[Path, str] = field(default_factory=dict)
    dropped: dict[Path, tuple[Refused, ...]] = field(default_factory=dict)  # files whose episodes are all left out
    named_splits: list[str | None] = field(default_factory=list)  # of all sources, by the names of their files

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
    """Convert files, LeRobot folders and folders of files into one directory of checked shards; return its manifest.

    `progress` gets (points done, points in all), from any thread, one call at a time. Sources that an earlier, stopped
    run converted are reused. Raises DataError with every bad file (`skip_bad`: only without any good one), StorageError
    when the disk cannot be written, UsageError when `out` already holds another data set, or another process converts
    into it. With bad files the shards of the good ones stay in `out` for the next run, without a manifest.
    """
    paths = expanded([Path(source) for source in sources])
    if not paths:
        raise UsageError("no files to convert")
    _refuse_foreign(out)
    with held(out / ".convert.lock", str(out)):
        return _convert_all(paths, out, data, progress, skip_bad)


def _convert_all(
    paths: Sequence[Path], out: Path, data: DataConfig, progress: OnProgress | None, skip_bad: bool
) -> Manifest:
    """Convert into a directory that no other process converts into meanwhile."""
    # Reuse a finished conversion
    options = options_hash(data)
    if notes.has_manifest(out):
        known = _known(out, paths, options)
        if known is not None:
            return known

    # Open every file, then convert each
    outcome = _ConvertedSources(named_splits=splits_by_name(paths))
    plans = _plan_all(paths, data, outcome)
    with ThreadPoolExecutor(min(_MOST_THREADS, cores())) as pool:
        advance = _counter(sum(each.points for each in plans.values()), progress)
        job = Job(out, data, options, pool, advance)
        for index, planned in plans.items():
            _convert_one(index, planned, job, outcome)
    if not outcome.records or (outcome.failures.keys() - outcome.dropped.keys() and not skip_bad):
        raise DataError(_failure_text(outcome, len(paths), out))

    # Number the episodes and write the manifest. An older manifest goes first: renumbering changes its shards.
    notes.remove_note(out, notes.MANIFEST)
    _number(outcome, out)
    return _finish(outcome, out, options)


def _refuse_foreign(out: Path) -> None:
    """Raise UsageError when `out` holds files of other programs, which a conversion could replace or remove."""
    if not out.is_dir():
        return
    foreign = sorted(path.name for path in out.iterdir() if not _OWN_FILES.fullmatch(path.name))
    if foreign:
        raise UsageError(f"{out} holds other files ({', '.join(foreign[:3])}); choose a directory of its own")


def _known(out: Path, paths: Sequence[Path], options: str) -> Manifest | None:
    """Return the manifest of a finished, equal conversion; None when files were added or shards are missing.

    Raises UsageError when `out` holds a data set of other files or options, which must not be damaged.
    """
    manifest = read_manifest(out)
    # By content: renamed or touched files are the same data.
    sums = [source_sha256(path) if path.exists() else "" for path in paths]
    known = [source.sha256 for source in manifest.sources]
    if known == sums and manifest.options == options and manifest.is_whole(out):
        return manifest
    recorded = [each for i, sha256 in enumerate(sums) if (each := read_record(out, i, sha256, options)) is not None]
    if [record.sha256 for record in recorded] != known:
        raise UsageError(f"{out} already holds a data set of other files or options; choose another directory")
    return None


def _plan_all(paths: Sequence[Path], data: DataConfig, outcome: _ConvertedSources) -> dict[int, SourcePlan]:
    """Open every file; files that are unusable, or differ from the first good one, go to the failures."""
    plans: dict[int, SourcePlan] = {}
    for index, path in enumerate(paths):
        try:
            planned = plan_source(path, data)
            if plans:
                _check_fit(next(iter(plans.values())), planned)
            plans[index] = planned
        except DataError as error:
            _fail(path, error, data, outcome)
    return plans


def _fail(path: Path, error: DataError, data: DataConfig, outcome: _ConvertedSources) -> None:
    """Note that a file cannot be used; with `drop_bad_episodes`, one of bad episodes alone is left out as they are."""
    outcome.failures[path] = str(error)
    if isinstance(error, NoneUsableError) and data.drop_bad_episodes:
        outcome.dropped[path] = error.refused


def _check_fit(first: SourcePlan, other: SourcePlan) -> None:
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
    """Return a thread-safe function that adds points and reports the sum."""
    lock, done = threading.Lock(), 0

    def advance(points: int) -> None:
        nonlocal done
        with lock:
            done += points
            if progress is not None:
                progress(done, total)

    return advance


def _convert_one(index: int, planned: SourcePlan, job: Job, outcome: _ConvertedSources) -> None:
    """Convert one source, or reuse it from an earlier run; a bad one goes to the failures."""
    try:
        done = finished_source(job.out, index, planned.path, job.options)
        if done is None:
            done = write_source(index, planned, outcome.episodes, job)
        else:
            job.advance(planned.points)
    except DataError as error:
        _fail(planned.path, error, job.data, outcome)
        return
    outcome.indices.append(index)
    outcome.records.append(done[0])
    outcome.summaries.append(done[1])


def _number(outcome: _ConvertedSources, out: Path) -> None:
    """Number the episodes of all sources without gaps; this rewrites sources of earlier runs alone."""
    first = 0
    for position, index in enumerate(outcome.indices):
        record = outcome.records[position] = renumber_source(index, outcome.records[position], first, out)
        first += len(record.keys)


def _failure_text(outcome: _ConvertedSources, count: int, out: Path) -> str:
    """List every bad file, and the good ones that are kept."""
    lines = list(outcome.failures.values())
    if count == 1:
        return lines[0]
    kept = f"the {len(outcome.records)} good ones are kept in {out} for the next run" if outcome.records else ""
    return "\n".join([f"{len(lines)} of {count} files cannot be used{'; ' + kept if kept else ''}:", *lines])


def _finish(outcome: _ConvertedSources, out: Path, options: str) -> Manifest:
    """Write the table of episodes, then the manifest."""
    # The table of episodes
    records, summary = outcome.records, merged(outcome.summaries)
    names = [outcome.named_splits[index] for index in outcome.indices]
    splits = [given or name for record, name in zip(records, names, strict=True) for given in record.given]
    entries = records[0].features
    features = [entry.feature for entry in entries]
    files = [FileEntry(name=p.name, bytes=p.bytes, sha256=p.sha256) for record in records for p in record.parts]
    episodes = notes.write_note(
        out, notes.EPISODES, episodes_text(_episode_table(records, splits)), shard_schema(features)
    )
    name = episodes.relative_to(out).as_posix()
    files.append(FileEntry(name=name, bytes=episodes.stat().st_size, sha256=sha256_file(episodes)))

    # The manifest
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
        notices=(
            *_notices(records, summary),
            *_split_notices(names, splits),
            *left_out([each for refused in outcome.dropped.values() for each in refused]),
        ),
        skipped=tuple(SkippedEntry(source=path.name, reason=why) for path, why in outcome.failures.items()),
    )
    # The manifest last: its presence says that everything else is there.
    _remove_leftovers(out, manifest)
    manifest.write(out)
    return manifest


def _split_notices(names: Sequence[str | None], splits: Sequence[str | None]) -> list[str]:
    """Say which splits the names of files give, and how they are used."""
    if not any(names):
        return []
    counts = Counter(split for split in splits if split)
    listed = ", ".join(f"{name} {plural(count, 'episode')}" for name, count in counts.items())
    use = ", ".join(f"{name}: [{name}]" for name in counts)
    return [f"splits by the names of files: {listed}; data.split: {{{use}}} uses them"]


def _episode_table(records: Sequence[SourceRecord], splits: Sequence[str | None]) -> pa.Table:
    shard_sizes = np.array([part.episodes for record in records for part in record.parts])
    return episode_table(
        keys=_keys(records),
        sources=[record.path for record in records for _ in record.keys],
        points=np.array([n for record in records for n in record.points], dtype=np.int64),
        shards=np.repeat(np.arange(len(shard_sizes)), shard_sizes),
        splits=splits,
        hashes=np.array([h for record in records for h in record.hashes], dtype=np.uint64),
        masks=[mask for record in records for mask in record.masks or [()] * len(record.keys)],
    )


def _keys(records: Sequence[SourceRecord]) -> list[str]:
    """Return one key per episode, prefixed with the number of the source where keys would repeat."""
    plain = [key for record in records for key in record.keys]
    if len(set(plain)) == len(plain):
        return plain
    return [f"{number}-{key}" for number, record in enumerate(records) for key in record.keys]


def _notices(records: Sequence[SourceRecord], summary: Summary) -> list[str]:
    """Return the notices: those of all sources once, others with their source."""
    own = [(record.path, notice) for record in records for notice in record.notices]
    counts = Counter(notice for _, notice in own)
    common = [notice for notice, count in counts.items() if count == len(records)]
    notices = common + [f"{path}: {notice}" for path, notice in own if notice not in common]
    features = [entry.feature for entry in records[0].features]
    if constant := summary.constant(features):
        notices.append(f"constant: {', '.join(constant)}")
    if jittering := summary.jittering(features):
        notices.append(f"constant but for rounding, and treated so: {', '.join(jittering)}")
    duplicates = _duplicates(records)
    if duplicates:
        named = ", ".join(duplicates[:_LISTED_DUPLICATES]) + (", .." if len(duplicates) > _LISTED_DUPLICATES else "")
        notices.append(f"{plural(len(duplicates), 'episode')} with the content of another: {named}")
    return notices


def _duplicates(records: Sequence[SourceRecord]) -> list[str]:
    """Return the keys of episodes that repeat the content of an earlier one."""
    seen: set[int] = set()
    duplicates = []
    hashes = [value for record in records for value in record.hashes]
    for key, value in zip(_keys(records), hashes, strict=True):
        if value in seen:
            duplicates.append(key)
        seen.add(value)
    return duplicates


def _remove_leftovers(out: Path, manifest: Manifest) -> None:
    """Remove files of stopped runs (shards of other sources, temporary files) and of earlier versions."""
    known = {file.name for file in manifest.files}
    for path in [*out.glob("shard-?????-?????.parquet"), *out.glob(".shard-*.tmp"), *out.glob(".source-*.tmp")]:
        if path.name not in known:
            path.unlink()
    earlier = [notes.earlier_path(out, name) for name in notes.EARLIER]
    for path in [*earlier, *out.glob("source-?????.json"), *(out / notes.FOLDER).glob(".*.tmp")]:
        path.unlink(missing_ok=True)
