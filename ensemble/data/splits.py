"""The splits: episodes for training, validation and test.

Episodes are ordered by the hash of their content, so a split depends on the data alone: not on file names, the order of
files or a seed. Fewer than ten episodes are divided along time instead. Windows are divided only with `by: window`.
"""

import fnmatch
import itertools
from collections.abc import Sequence
from dataclasses import replace
from typing import Any

import numpy as np

from ensemble import streams
from ensemble.config.data import DataConfig, RowRange, SplitConfig
from ensemble.data.trajectories import Segments, Trajectories
from ensemble.errors import DataError
from ensemble.schema import Int64
from ensemble.text import did_you_mean, plural

SPLITS = ("train", "validation", "test")
FEWEST_EPISODES = 10  # with fewer, a split by episode measures the choice of episodes rather than the model
PATTERN_CHARACTERS = frozenset("*?[")


def split_episodes(data: Trajectories, split: SplitConfig, window: int) -> dict[str, Segments]:
    """Return the pieces of "train", "validation" and "test", each with at least one window of `window` transitions.

    Only the episodes that `split.episodes` names are used, or all. Names (keys of episodes, given groups, masks, shell
    patterns) and rows are assigned first. The pool is what is named for `train`, or all without a name; it is divided
    exactly: numbers as given, fractions by largest remainder. With any name or number, `train` gets the rest. A pool of
    fewer than ten episodes, divided by fractions only, is cut into blocks of time with gaps of one window. Episodes of
    equal content stay together. Raises DataError for unknown names, rows that overlap or are outside, too few episodes,
    or no window.
    """
    # Episodes by name, and rows
    data = _chosen(data, split)
    shares = split.shares
    named = {name: _named(data, f"split '{name}'", share) for name, share in shares.items() if isinstance(share, list)}
    _refuse_overlap(data, named)
    parts = {name: data.episodes.take(which) for name, which in named.items()}
    parts |= {name: _range(data, name, share) for name, share in shares.items() if isinstance(share, RowRange)}
    if any(isinstance(share, RowRange) for share in shares.values()):
        _refuse_shared_rows(data, parts)
    pool = parts.pop("train", None)
    pool = data.episodes.take(_unnamed(data, named)) if pool is None else pool

    # The rest by number, fraction or time
    dividing = {name: share for name, share in shares.items() if name not in parts}
    if len(dividing) > 1 and len(pool) < FEWEST_EPISODES and not _has_numbers(dividing):
        parts |= _blocks_of_time(pool, _fractions(dividing), window)
    else:
        parts |= _by_hash(pool, dividing)
    for name in SPLITS:
        require_windows(parts[name], window, f"split '{name}'")
    return {name: parts[name] for name in SPLITS}


def split_windows(data: Trajectories, config: DataConfig, window: int) -> dict[str, Segments]:
    """Return the windows of `window` transitions of each split that begin at `data.starts`, one piece per window.

    Episodes are divided, with all their windows; `data.split.by: window` divides the windows themselves. Without
    `starts`, a split by episode returns whole episodes: all windows. Raises DataError as `split_episodes`, and when no
    window begins at any of the starts.
    """
    starts = config.starts
    if config.split.by == "window":
        data = _chosen(data, config.split)
        windows = cut(data.episodes, starts or range(int(data.episodes.points.max())), window)
        # A hash of content and start: windows divide as episodes do, by the data alone.
        starts_within = windows.first - data.episodes.first[data.episode_of(windows.first)]
        hashes = streams.mix(windows.hashes + starts_within.astype(np.uint64))
        return _by_hash(Segments(windows.first, windows.points, hashes), config.split.shares)
    parts = split_episodes(data, config.split, window)
    return parts if starts is None else {name: cut(part, starts, window) for name, part in parts.items()}


def cut(pieces: Segments, starts: Sequence[int], window: int) -> Segments:
    """Return the windows of `window` transitions that begin at the points `starts` of the pieces; DataError if none."""
    fits = np.add.outer(-pieces.points, np.asarray(starts) + window) < 0  # (m, k)
    piece, start = np.nonzero(fits)
    if not len(piece):
        raise DataError(f"data.starts: no episode has {window} steps from point {min(starts)} on")
    first = pieces.first[piece] + np.asarray(starts, dtype=np.int64)[start]
    return Segments(first, np.full(len(first), window + 1, np.int64), pieces.hashes[piece])


def split_text(data: Trajectories, config: DataConfig, window: int) -> str:
    """Describe the split of the data, for the head of a table."""
    if config.split.by == "episode":
        parts = split_episodes(data, config.split, window)
        return describe_split(data, parts, any(isinstance(share, RowRange) for share in config.split.shares.values()))
    parts = split_windows(data, config, window)
    return (
        f"by window {'/'.join(str(len(part)) for part in parts.values())}: windows of one episode lie in several splits"
    )


def describe_split(data: Trajectories, parts: dict[str, Segments], by_rows: bool = False) -> str:
    """Describe a split: "by episode 800/100/100", "rows as given ..", or "blocks of time .." for few episodes."""
    if all(_are_whole(data, part) for part in parts.values()):
        return "by episode " + "/".join(str(len(part)) for part in parts.values()) + _duplicates(parts)
    points = "/".join(str(part.points.sum()) for part in parts.values())
    return f"{'rows as given' if by_rows else 'blocks of time (fewer than ten episodes)'} {points} points"


def require_windows(segments: Segments, window: int, where: str) -> None:
    """Raise DataError with the counts when no piece has `window` transitions."""
    steps = segments.points - 1
    if not (steps >= window).any():
        longest = max(int(steps.max(initial=0)), 0)
        raise DataError(f"{where}: 0 of {len(segments)} episodes >= {window} steps (longest {longest})")


def _chosen(data: Trajectories, split: SplitConfig) -> Trajectories:
    """Return the data with the episodes that `split.episodes` names; their rows stay where they are."""
    if not split.episodes:
        return data
    kept = _named(data, "data.split.episodes", split.episodes)
    return replace(
        data,
        episodes=data.episodes.take(kept),
        keys=tuple(data.keys[i] for i in kept),
        given=tuple(data.given[i] for i in kept),
        masks=tuple(data.masks[i] for i in kept) if data.masks else (),
    )


def _named(data: Trajectories, where: str, names: list[str]) -> Int64:
    """Return the sorted numbers of the episodes that match a list of names and shell patterns.

    Keys and given groups come first, then masks; `mask:NAME` is always a mask.
    """
    members: dict[str, list[int]] = {}
    for number, (key, group) in enumerate(zip(data.keys, data.given, strict=True)):
        for name in {key, group} - {None}:
            members.setdefault(str(name), []).append(number)
    masks: dict[str, list[int]] = {}
    for number, inside in enumerate(data.masks):
        for name in inside:
            masks.setdefault(name, []).append(number)
    prefixed = {f"mask:{name}": numbers for name, numbers in masks.items()}
    found: set[int] = set()
    for name in names:
        matches = next((each for known in (members, masks, prefixed) if (each := _matching(name, known))), None)
        if matches is None:
            known = [*members, *masks, *prefixed]
            kinds = "episode, group or mask" if masks else "episode or group"
            raise DataError(f"{where}: no {kinds} '{name}'{did_you_mean(name, known)}")
        found.update(matches)
    return np.array(sorted(found), dtype=np.int64)


def _matching(name: str, members: dict[str, list[int]]) -> list[int]:
    """Return the members of a name, or of all names that match it as a pattern."""
    if name in members or not PATTERN_CHARACTERS & set(name):
        return members.get(name, [])
    return [number for known, numbers in members.items() if fnmatch.fnmatchcase(known, name) for number in numbers]


def _range(data: Trajectories, split: str, share: RowRange) -> Segments:
    """Return rows of one episode as a piece; DataError for an unknown episode and for rows that it does not have."""
    if share.episode is None and len(data.keys) > 1:
        listed = ", ".join(data.keys[:3])
        raise DataError(
            f"split '{split}': rows of which episode? There are {len(data.keys)} ({listed}, ..): give episode"
        )
    if share.episode is not None and share.episode not in data.keys:
        hint = did_you_mean(share.episode, data.keys)
        raise DataError(f"split '{split}': no episode '{share.episode}'{hint}")
    number = 0 if share.episode is None else data.keys.index(share.episode)
    (first, last), points = share.rows, int(data.episodes.points[number])
    if last > points:
        raise DataError(
            f"split '{split}': rows {first} to {last}, but episode '{data.keys[number]}' has {points} points"
        )
    return Segments(
        data.episodes.first[[number]] + first, np.array([last - first], np.int64), data.episodes.hashes[[number]]
    )


def _refuse_shared_rows(data: Trajectories, parts: dict[str, Segments]) -> None:
    """Raise DataError for rows in two splits."""
    pieces = [
        (int(first), int(first + points), name)
        for name, part in parts.items()
        for first, points in zip(part.first, part.points, strict=True)
    ]
    for (_, end, one), (start, other_end, other) in itertools.pairwise(sorted(pieces)):
        if start < end:
            number = int(data.episode_of(np.array([start]))[0])
            base = int(data.episodes.first[number])
            raise DataError(
                f"rows {start - base} to {min(end, other_end) - base} of episode '{data.keys[number]}' are in both "
                f"'{one}' and '{other}'"
            )


def _refuse_overlap(data: Trajectories, named: dict[str, Int64]) -> None:
    owner: dict[int, str] = {}
    for split, numbers in named.items():
        for number in numbers.tolist():
            if number in owner:
                raise DataError(f"episode '{data.keys[number]}' is named for both '{owner[number]}' and '{split}'")
            owner[number] = split


def _unnamed(data: Trajectories, named: dict[str, Int64]) -> Int64:
    taken = np.concatenate([np.empty(0, np.int64), *named.values()])
    return np.setdiff1d(np.arange(len(data.episodes)), taken)


def _has_numbers(shares: dict[str, Any]) -> bool:
    return any(isinstance(share, int) for share in shares.values())


def _fractions(shares: dict[str, Any]) -> dict[str, float]:
    """Return the fractions of the pool; `train` gets the rest where any split is a list."""
    if len(shares) == len(SPLITS) and isinstance(shares["train"], float):
        return shares
    return {"train": 1 - sum(share for name, share in shares.items() if name != "train")} | {
        name: share for name, share in shares.items() if name != "train"
    }


def _by_hash(pool: Segments, shares: dict[str, Any]) -> dict[str, Segments]:
    """Divide whole episodes, ordered by hash; equal ones go to the split of the first of them."""
    counts = _counts(shares, len(pool))
    order = np.argsort(pool.hashes, kind="stable")
    ordered = pool.hashes[order]
    parts, start, end = {}, 0, 0
    for name, count in counts.items():
        end += count
        stop = max(start, int(np.searchsorted(ordered, ordered[end - 1], side="right")))
        if stop == start:
            raise DataError(f"split '{name}': 0 of {len(pool)} episodes, since too many of them are equal")
        parts[name] = pool.take(np.sort(order[start:stop]))
        start = stop
    return parts


def _counts(shares: dict[str, Any], episodes: int) -> dict[str, int]:
    """Return the number of episodes per split; DataError when there are too few."""
    if _has_numbers(shares):
        counts = {name: _number(share, episodes) for name, share in shares.items()}
        if not isinstance(shares["train"], int):
            counts["train"] += episodes - sum(counts.values())
    else:
        counts = largest_remainder(_fractions(shares), episodes)
    if min(counts.values()) < 1 or sum(counts.values()) > episodes:
        wanted = ", ".join(f"{name} {share}" for name, share in shares.items() if isinstance(share, int | float))
        raise DataError(f"{episodes} episodes are too few for the splits {wanted}")
    return counts


def _number(share: Any, episodes: int) -> int:
    if isinstance(share, int):
        return share
    return max(1, round(share * episodes)) if isinstance(share, float) else 0


def largest_remainder(shares: dict[str, float], total: int) -> dict[str, int]:
    """Return whole numbers in proportion to the shares, with an exact sum, each at least 1 where `total` allows it."""
    used = round(total * min(1.0, sum(shares.values())))
    quota = np.array(list(shares.values())) / sum(shares.values()) * used
    # The tolerance: a quota that rounding put just below a whole number must not lose one.
    counts = np.floor(quota + 1e-9).astype(np.int64)
    for extra in np.argsort(counts - quota, kind="stable")[: used - counts.sum()]:
        counts[extra] += 1
    while counts.min() < 1 < counts.max():
        counts[counts.argmax()] -= 1
        counts[counts.argmin()] += 1
    return dict(zip(shares, counts.tolist(), strict=True))


def _blocks_of_time(pool: Segments, fractions: dict[str, float], window: int) -> dict[str, Segments]:
    """Divide each episode into one block per split, in order of time, with gaps of `window` points."""
    # Neighbouring points are nearly equal: without gaps, validation would repeat the end of training.
    pieces: dict[str, list[tuple[int, int, int]]] = {name: [] for name in fractions}
    for number in range(len(pool)):
        usable = max(0, int(pool.points[number]) - window * (len(fractions) - 1))
        first = int(pool.first[number])
        for name, points in largest_remainder(fractions, usable).items():
            pieces[name].append((first, points, number))
            first += points + window
    return {name: _segments(pool, np.array(cut, dtype=np.int64)) for name, cut in pieces.items()}


def _segments(pool: Segments, pieces: Int64) -> Segments:
    first, points, number = pieces[pieces[:, 1] > 0].T
    return Segments(first, points, pool.hashes[number])


def _are_whole(data: Trajectories, part: Segments) -> bool:
    number = data.episode_of(part.first)
    return np.array_equal(data.episodes.first[number], part.first) and np.array_equal(
        data.episodes.points[number], part.points
    )


def _duplicates(parts: dict[str, Segments]) -> str:
    """Count the episodes that repeat the content of another, within a split and across named splits."""
    distinct = [np.unique(part.hashes) for part in parts.values()]
    within = sum(len(part) for part in parts.values()) - sum(len(hashes) for hashes in distinct)
    across = sum(len(hashes) for hashes in distinct) - len(np.unique(np.concatenate(distinct)))
    text = f"; {plural(within, 'duplicate episode')} kept in the split of the twin" if within else ""
    return text + (f"; {plural(across, 'episode')} in another split as well, as named" if across else "")
