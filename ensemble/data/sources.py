"""One source file: its plan, its shards, and a record of them.

The record `source-00000.json` is written after a source's shards, so that the next run after a stop or a bad file
converts the missing sources only.
"""

from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path

import numpy as np
from pydantic import Field, ValidationError

from ensemble.config.base import unset
from ensemble.config.data import DataConfig
from ensemble.data.blocks import READ_ROWS, BlockIssues, plan_blocks
from ensemble.data.jumps import cut_at_jumps
from ensemble.data.layouts.detect import open_container, open_recording
from ensemble.data.layouts.recording import RawFeature, Recording, safe_name
from ensemble.data.layouts.refused import Refused, bad, left_out, refusal
from ensemble.data.manifest import Entry, FeatureEntry, FileEntry
from ensemble.data.parts import Job, Part, write_parts
from ensemble.data.shards import read_shard, renumber
from ensemble.data.summary import RunningSummary, Summary, merged
from ensemble.errors import DataError
from ensemble.store import sha256_file, write_text


class PartRecord(FileEntry):
    """One shard of a source."""

    first: int  # number of its first episode in the whole data set
    episodes: int


class SourceRecord(Entry):
    """The record of a converted source: all that the manifest needs of it."""

    path: str
    bytes: int
    sha256: str
    options: str
    layout: str
    dt: float | None
    features: tuple[FeatureEntry, ...]
    parts: tuple[PartRecord, ...]
    keys: tuple[str, ...]
    points: tuple[int, ...]
    given: tuple[str | None, ...]
    hashes: tuple[int, ...]
    notices: tuple[str, ...]
    # Left out where empty: records without masks are as before there were any.
    masks: tuple[tuple[str, ...], ...] = Field((), exclude_if=unset)


@dataclass(frozen=True, slots=True)
class SourcePlan:
    """Declarations of a source, known before its values are read."""

    path: Path
    layout: str
    features: tuple[RawFeature, ...]
    dt: float | None
    points: int  # before decimation


@contextmanager
def open_source(path: Path, data: DataConfig) -> Iterator[Recording]:
    """Open a file as a recording."""
    container = open_container(path, data.follow_links)
    try:
        yield open_recording(container, data)
    finally:
        container.close()


def plan_source(path: Path, data: DataConfig) -> SourcePlan:
    """Read the declarations of a source; DataError when it is unusable."""
    with open_source(path, data) as recording:
        points = int(recording.points.sum())
        if not points:
            raise DataError(f"{path}: holds 0 episodes")
        if not recording.features:
            raise DataError(f"{path}: holds no feature")
        if recording.refused and not data.drop_bad_episodes:
            raise refusal(path, recording.refused, len(recording.keys) + len(recording.refused))
        return SourcePlan(path, recording.layout, recording.features, recording.dt, points)


def record_path(out: Path, index: int) -> Path:
    """Return the path of a source's record."""
    return out / f"source-{index:05d}.json"


def read_record(out: Path, index: int, sha256: str, options: str) -> SourceRecord | None:
    """Return the record of a source; None unless it was converted from these bytes with these options."""
    try:
        record = SourceRecord.model_validate_json(record_path(out, index).read_text())
    except (OSError, ValidationError):
        return None
    return record if (record.sha256, record.options) == (sha256, options) else None


def finished_source(out: Path, index: int, source: Path, options: str) -> tuple[SourceRecord, Summary] | None:
    """Return record and statistics of a source that an earlier run converted; None when it must be converted (again).

    Reads its shards, with their checksums, for the statistics.
    """
    if not record_path(out, index).is_file():
        return None
    record = read_record(out, index, sha256_file(source), options)
    try:
        return None if record is None else (record, _summary_of(record, out))
    except DataError:
        return None


def write_source(index: int, planned: SourcePlan, first: int, job: Job) -> tuple[SourceRecord, Summary]:
    """Write the shards of a source, then its record; on DataError (bad content) no file stays.

    Episodes are numbered from `first` on.
    """
    # The shards. An old record goes first: a kill between the two must not leave a record of other shards.
    record_path(job.out, index).unlink(missing_ok=True)
    digest = job.pool.submit(sha256_file, planned.path)
    with open_source(planned.path, job.data) as recording:
        if job.data.cut_at_jumps:
            recording = cut_at_jumps(recording, list(plan_blocks(recording.points, READ_ROWS)))
        parts = write_parts(index, recording, planned.path, first, job)

    # Problems and statistics of all parts
    issues = BlockIssues()
    for part in parts:
        issues.merge(part.issues)
    summaries = [part.summary for part in parts if part.summary is not None]
    _check_refused(planned.path, recording, issues.refused, bool(summaries), parts, job)

    # The record
    order = [i for part in parts for i in part.episodes]
    keys = unique_keys(recording.keys)
    record = SourceRecord(
        path=planned.path.name,
        bytes=planned.path.stat().st_size,
        sha256=digest.result(),
        options=job.options,
        layout=recording.layout,
        dt=None if recording.dt is None else recording.dt * job.data.decimate,
        features=tuple(_entry(feature) for feature in recording.features),
        parts=_numbered(parts, first, job.out),
        keys=tuple(keys[i] for i in order),
        points=tuple(n for part in parts for n in part.points),
        given=tuple(recording.given[i] for i in order),
        hashes=tuple(int(h) for part in parts for h in part.hashes),
        masks=tuple(recording.masks[i] for i in order) if recording.masks else (),
        notices=(
            *recording.notices,
            *left_out([*recording.refused, *issues.refused]),
            *issues.notices(recording.features),
        ),
    )
    write_text(record_path(job.out, index), record.model_dump_json() + "\n")
    return record, merged(summaries)


def _check_refused(
    path: Path, recording: Recording, refused: Sequence[Refused], usable: bool, parts: Sequence[Part], job: Job
) -> None:
    """Remove the shards and raise DataError for episodes that must not be left out, or when none is usable."""
    faulty = bad(refused)
    if usable and (job.data.drop_bad_episodes or not faulty):
        return
    for part in parts:
        if part.file is not None:
            (job.out / part.file.name).unlink()
    raise refusal(path, faulty if usable else refused, len(recording.keys))


def renumber_source(index: int, record: SourceRecord, first: int, out: Path) -> SourceRecord:
    """Number the episodes of a source from `first` on."""
    parts, number = [], first
    for part in record.parts:
        parts.append(_renumbered(part, number, out))
        number += part.episodes
    renewed = record.model_copy(update={"parts": tuple(parts)})
    if renewed != record:
        write_text(record_path(out, index), renewed.model_dump_json() + "\n")
    return renewed


def unique_keys(names: Sequence[str]) -> list[str]:
    """Return distinct keys that are safe in paths; equal names are numbered in order."""
    taken: set[str] = set()
    keys = []
    for name in names:
        safe = key = safe_name(name)
        number = 2
        while key in taken:
            key, number = f"{safe}-{number}", number + 1
        taken.add(key)
        keys.append(key)
    return keys


def _numbered(parts: Sequence[Part], first: int, out: Path) -> tuple[PartRecord, ...]:
    """Return the records of all parts, numbered without gaps; parts after left-out episodes are renumbered."""
    # `written` counts left-out episodes too, as the parallel writers did, which did not know of them.
    records, number, written = [], first, first
    for part in parts:
        if part.file is not None:
            record = PartRecord(**part.file.model_dump(), first=written, episodes=len(part.episodes))
            records.append(_renumbered(record, number, out))
        number += len(part.episodes)
        written += len(part.episodes) + len(part.issues.refused)
    return tuple(records)


def _renumbered(part: PartRecord, first: int, out: Path) -> PartRecord:
    if part.first == first:
        return part
    path = out / part.name
    renumber(path, first - part.first)
    update = {"first": first, "bytes": path.stat().st_size, "sha256": sha256_file(path)}
    return part.model_copy(update=update)


def _summary_of(record: SourceRecord, out: Path) -> Summary:
    """Return the statistics of a converted source from its shards."""
    # In the same blocks and order as at their writing: float sums then have the same bits.
    features = [entry.feature for entry in record.features]
    hashes = np.array(record.hashes, dtype=np.uint64)
    parts, done = [], 0
    for part in record.parts:
        summary = RunningSummary(features)
        for block in read_shard(out / part.name, features):
            if block.keys[0] != str(record.parts[0].first + done):
                raise DataError(f"{out / part.name}: numbered otherwise than its record says")
            stop = done + len(block.points)
            summary.add(block, hashes[done:stop])
            done = stop
        assert summary.total is not None
        parts.append(summary.total)
    return merged(parts)


def _entry(feature: RawFeature) -> FeatureEntry:
    return FeatureEntry(
        name=feature.name,
        width=feature.width,
        role=feature.role,
        labels=feature.labels,
        source_dtype=feature.dtype,
        angles=feature.angles,
    )
