"""What a file of no known layout holds, folded for reading, and a map of it that is likely.

Groups with the same arrays are shown as one. Roles are guessed from names and shapes; nothing is read but declarations,
and of more than a thousand groups only those of a thousand, evenly spread. The guess is a proposal: reading checks all.
"""

import re
from collections import Counter
from collections.abc import Sequence
from dataclasses import dataclass, field, replace

from ensemble.config.data import TimeAxis
from ensemble.data.layouts.container import ArrayInfo, Container, arrays_inside, path_in
from ensemble.data.layouts.mapped import TIME_KEYS
from ensemble.data.layouts.recording import natural_order
from ensemble.data.layouts.views import EPISODE_COLUMNS, numbers_of, time_is_last
from ensemble.errors import DataError

# Names by which arrays are known, of the last part of a path.
_WHOLE_STATES = ("state", "states", "obs", "observation", "observations")
_PART_STATES = (
    *("qpos", "qvel", "q", "qd", "dq", "qdot", "position", "positions", "pos", "velocity", "velocities", "vel", "pose"),
    *("joint_pos", "joint_vel", "joint_positions", "joint_velocities", "joint_states", "angle", "angles", "theta"),
    *("x", "y", "z", "xy", "xyz", "output", "outputs", "phi", "omega", "theta_dot", "x_dot"),
)
_CONTROLS = (
    *("action", "actions", "act", "acts", "control", "controls", "ctrl", "u", "command", "commands", "cmd", "input"),
    *("inputs", "torque", "torques", "tau", "effort", "voltage", "force", "joint_acts", "a"),
)
_OTHERS = {
    *TIME_KEYS,
    *EPISODE_COLUMNS,
    *("dt", "reward", "rewards", "done", "dones", "terminal", "terminals", "timeouts", "terminations", "truncations"),
    *("success", "index", "step", "steps", "frame", "frame_index", "task_index", "row", "id", "mask", "label"),
    "returns",
}
_UNIT = re.compile(r"\s*[\[(][^\])]*[\])]$")
_NUMBER = re.compile(r"\d+")
_EXPERIMENTS = r"(?:est|estimation|id|ident|train|val|valid|validation|test|exp|batch|data|meas|bench\w*)"
_LETTER = re.compile(rf"([uy])_?{_EXPERIMENTS}|{_EXPERIMENTS}_([uy])", re.IGNORECASE)
_LOOKED_AT = 1000  # groups of one parent
_SAMPLED = 100  # groups whose declarations are compared
_ALIKE_ARRAYS = 4  # fewest arrays that are folded
_LISTED = 40  # rows of a table
_LINE = 110
_DEPTH = 6
_REASONS = 3  # why arrays are not read
_FEW, _FEW_COLUMNS = 8, 16  # arrays without a known name that are proposed together


@dataclass(frozen=True, slots=True)
class Family:
    """Groups with the same arrays; of `count` 1 the file itself, with all arrays that are in no such groups."""

    groups: tuple[str, ...]  # natural order
    arrays: tuple[ArrayInfo, ...]  # of a typical group, keys relative to it
    rows: dict[str, tuple[int, int]]  # key -> fewest and most rows among the groups looked at
    count: int  # of groups, those that were not looked at included


@dataclass(frozen=True, slots=True)
class Proposal:
    """Options that read a file: the arrays of each feature, named by its role, and the axis of time."""

    features: dict[str, tuple[str, ...]]
    time_axis: TimeAxis = "first"

    @property
    def options(self) -> list[str]:
        """The options of a command line."""
        maps = [word for name, keys in self.features.items() for word in ("--map", f"{name}={','.join(keys)}")]
        return [*maps, *(("--time-axis", self.time_axis) if self.time_axis != "first" else ())]


@dataclass(slots=True)
class Survey:
    """The arrays of a file; `unread` are the names of those that hold no numbers, `reasons` why, of each kind once."""

    families: list[Family] = field(default_factory=list)
    unread: list[str] = field(default_factory=list)
    reasons: list[str] = field(default_factory=list)

    def lines(self) -> list[str]:
        """Return what the file holds, as lines of text."""
        lines = []
        for family in self.families:
            lines += _family_lines(family)
        if self.unread:
            more = f" and {len(self.unread) - 8} more" if len(self.unread) > 8 else ""
            lines.append(f"not read, since they hold no numbers: {', '.join(self.unread[:8])}{more}")
        return [*lines, *(f"  {reason}" for reason in self.reasons)]

    @property
    def empty(self) -> bool:
        """Whether no array has more than a single row or column."""
        return all(max(info.shape) < 2 for family in self.families for info in family.arrays)

    def proposal(self) -> Proposal | None:
        """Return a map that is likely, from the arrays of most groups; None where nothing can be a state."""
        ordered = sorted(self.families, key=lambda family: -family.count)
        found = [proposal for family in ordered if (proposal := _propose(family)) is not None]
        return next((each for each in found if "control" in each.features), found[0] if found else None)


def survey(container: Container) -> Survey:
    """Return the declarations of a file, alike groups together."""
    found = Survey()
    _survey_group(container, "", found, 0)
    single = [family for family in found.families if family.count == 1]
    if single:
        infos = [replace(i, key=path_in(f.groups[0], i.key)) for f in single for i in f.arrays]
        rows = {path_in(f.groups[0], key): rows for f in single for key, rows in f.rows.items()}
        found.families = [family for family in found.families if family.count > 1]
        found.families.insert(0, Family(("",), tuple(infos), rows, 1))
    return found


def _survey_group(container: Container, group: str, found: Survey, depth: int) -> None:
    """Add the arrays of a group, then the groups inside it."""
    names = {name: container.is_array(path_in(group, name)) for name in container.names(group)}
    _add(container, [group], [name for name, is_array in names.items() if is_array], found)
    inside = natural_order([path_in(group, name) for name, is_array in names.items() if not is_array])
    if depth >= _DEPTH:
        return
    looked_at = inside[: -1 : -(-len(inside) // _LOOKED_AT) or 1] + inside[-1:]
    alike: dict[frozenset[str], list[str]] = {}
    for each in looked_at:
        alike.setdefault(frozenset(_NUMBER.sub("#", key) for key in arrays_inside(container, each)), []).append(each)
    for members in alike.values():
        if len(members) == 1 or _is_folder(container, members[0]):
            for member in members:
                _survey_group(container, member, found, depth + 1)
        else:
            share = round(len(members) * len(inside) / len(looked_at))
            _add(container, members, arrays_inside(container, members[0]), found, share)


def _is_folder(container: Container, group: str) -> bool:
    """Return whether a group holds alike groups and no arrays of its own: it is no episode but a folder of them."""
    names = container.names(group)
    if any(container.is_array(path_in(group, name)) for name in names):
        return False
    stems = Counter(_NUMBER.sub("#", name) for name in names)
    return any("#" in stem and count > 1 for stem, count in stems.items())


def _add(container: Container, groups: list[str], keys: Sequence[str], found: Survey, count: int = 1) -> None:
    """Add groups with the arrays `keys` of the first; those without numbers go to the unread ones."""
    infos, rows = [], {}
    for key in keys:
        declared = [info for each in groups[:: -(-len(groups) // _SAMPLED)] if (info := _info(container, each, key))]
        if declared:
            infos.append(ArrayInfo(key, declared[0].shape, declared[0].dtype))
            rows[key] = (min(info.shape[0] for info in declared), max(info.shape[0] for info in declared))
        elif container.is_array(path_in(groups[0], key)):
            _add_unread(container, path_in(groups[0], key), found)
    if infos:
        found.families.append(Family(tuple(groups), tuple(infos), rows, count))


def _add_unread(container: Container, key: str, found: Survey) -> None:
    """Add an array without numbers, with the reason where no other has the same."""
    found.unread.append(key)
    try:
        container.array(key)
    except DataError as error:
        reason = str(error).removeprefix(f"{container.path}: ")
        known = {text.split(" ", 1)[-1] for text in found.reasons}
        if reason.startswith(f"{key} ") and reason.split(" ", 1)[1] not in known and len(found.reasons) < _REASONS:
            found.reasons.append(reason)


def _info(container: Container, group: str, key: str) -> ArrayInfo | None:
    try:
        return container.array(path_in(group, key))
    except DataError:
        return None


def _family_lines(family: Family) -> list[str]:
    texts = _array_rows(family)
    if family.count == 1:
        return table([("array", "shape", "type"), *texts])
    looked = f" ({len(family.groups):,} looked at)" if family.count > len(family.groups) else ""
    between = ", " if family.count == 2 else " .. "
    head = f"{family.count:,} groups {family.groups[0]}{between}{family.groups[-1]}{looked}, each:"
    line = f"{head} {', '.join(' '.join(row) for row in texts)}"
    return [line] if len(line) <= _LINE else [head, *table([("array", "shape", "type"), *texts])]


def _array_rows(family: Family) -> list[tuple[str, str, str]]:
    """Return name, shape and type of each array, numbered ones of one shape in one row."""
    stems: dict[tuple[str, str, str], list[str]] = {}
    for info in family.arrays:
        shape = _shape_text(info, family.rows[info.key])
        stems.setdefault((_NUMBER.sub("#", info.key), shape, str(info.dtype)), []).append(info.key)
    rows = []
    for (_, shape, kind), keys in stems.items():
        if len(keys) >= _ALIKE_ARRAYS:
            ordered = natural_order(keys)
            rows.append((f"{ordered[0]} .. {ordered[-1]} ({len(keys)} arrays)", shape, kind))
        else:
            rows += [(key, shape, kind) for key in keys]
    more = len(rows) - _LISTED
    return rows if more <= 0 else [*rows[:_LISTED], (f"and {more} more", "", "")]


def _shape_text(info: ArrayInfo, rows: tuple[int, int]) -> str:
    first = str(rows[0]) if rows[0] == rows[1] else f"{rows[0]}..{rows[1]}"
    return "x".join([first, *map(str, info.shape[1:])])


def _propose(family: Family) -> Proposal | None:
    """Return the arrays that may be state and control in groups like these."""
    usable = [info for info in family.arrays if max(info.shape) > 1 and info.width() and "," not in info.key]
    numbered = _proposed(_numbered(usable), "first")
    if numbered is not None and "control" in numbered.features:
        return numbered
    divided = [info for info in usable if len(info.shape) == 3 and min(info.shape[:2]) > 1]
    if divided and not any(len(info.shape) < 3 and info.shape[0] > 1 for info in usable):
        parts = [replace(info, shape=info.shape[1:]) for info in divided if info.shape[:2] == divided[0].shape[:2]]
        return _proposed(parts, "second")
    return _proposed(usable, "last" if time_is_last(usable) else "first")


def _numbered(infos: Sequence[ArrayInfo]) -> list[ArrayInfo]:
    """Return one matrix for each of several that differ in a number alone, with # in its place: states_#."""
    keys = [info.key for info in infos]
    first: dict[str, ArrayInfo] = {}
    for info in infos:
        # Vectors are the columns of one trajectory: q_1, q_2.
        if len(info.shape) == 2 and info.shape[1] > 1 and len(_NUMBER.findall(info.key)) == 1:
            first.setdefault(_NUMBER.sub("#", info.key), info)
    numbers = {stem: set(numbers_of(keys, stem)) for stem in first}
    alike = [stem for stem in first if len(numbers[stem]) > 1 and list(numbers.values()).count(numbers[stem]) > 1]
    return [replace(first[stem], key=stem) for stem in alike]


def _proposed(infos: Sequence[ArrayInfo], time_axis: TimeAxis) -> Proposal | None:
    """Return the arrays that may be state and control; None where nothing can be a state."""
    last = time_axis == "last"
    series = {info.key: info.shape[-1] if last else info.shape[0] for info in infos if len(info.shape) <= 2}
    series = {key: rows for key, rows in series.items() if rows > 1}
    states = _states(series, {info.key: info for info in infos})
    if not states:
        return None
    rows = series[states[0]]
    # A control may have one row less: nothing follows the last state.
    fitting = [key for key, count in series.items() if count in (rows, rows - 1) and key not in states]
    controls = [key for name in _CONTROLS for key in fitting if _plain(key) == name]
    features = {"state": tuple(states)} | ({"control": (controls[0],)} if controls else {})
    return Proposal(features, time_axis)


def _states(series: dict[str, int], infos: dict[str, ArrayInfo]) -> list[str]:
    """Return the arrays that make the state: one that is called so, several that are parts of it, or the widest."""
    longest = max(series.values(), default=0)
    keys = [key for key, rows in series.items() if rows >= longest - 1 and not _plain(key).startswith("next_")]
    whole = [key for name in _WHOLE_STATES for key in keys if _plain(key) == name]
    if whole:
        return whole[:1]
    # A matrix is neither a clock nor a number of an episode, whatever its name.
    free = [
        key for key in keys if _plain(key) not in _CONTROLS and (_plain(key) not in _OTHERS or infos[key].width() > 1)
    ]
    inside = [key for key in free if set(re.split(r"[/.]", key.lower())[:-1]) & set(_WHOLE_STATES)]
    parts = inside or [key for key in free if _plain(key) in _PART_STATES]
    # A file of inputs alone.
    free = free or [key for key in keys if _plain(key) in _CONTROLS]
    if parts:
        most = Counter(series[key] for key in parts).most_common(1)[0][0]
        parts = [key for key in parts if series[key] == most]
        # Of y_est and y_val, two experiments side by side, the first.
        first = {_plain(key): key for key in reversed(parts)}
        return [key for key in parts if not _of_letter(key) or first[_plain(key)] == key]
    return _widest([infos[key] for key in free if series[key] == longest])


def _widest(infos: Sequence[ArrayInfo]) -> list[str]:
    """Return the widest array of floats; the numbered ones, or all of a few, where several are as wide."""
    # Floats before whole numbers, which may be flags or counts.
    free = [info for info in infos if info.dtype.kind == "f"] or infos
    width = max((info.width() for info in free), default=0)
    keys = [info.key for info in free if info.width() == width]
    stems = Counter(stem for key in keys if "#" in (stem := _NUMBER.sub("#", key)))
    if stems:
        stem = stems.most_common(1)[0][0]
        return natural_order([key for key in keys if _NUMBER.sub("#", key) == stem])
    return keys if len(keys) <= (_FEW_COLUMNS if width == 1 else _FEW) else []


def _plain(key: str) -> str:
    """Return the last part of a path in lower case and without a unit: `obs/Theta [rad]` is theta.

    Of the names of inputs and outputs in system identification it is the letter: u of u_test, exp_u and uBenchMark.
    """
    name = _UNIT.sub("", re.split(r"[/.]", key)[-1])
    return _of_letter(key) or name.strip("_#").lower()


def _of_letter(key: str) -> str:
    """Return the letter u or y of a name that adds an experiment to it, "" of any other."""
    found = _LETTER.fullmatch(_UNIT.sub("", re.split(r"[/.]", key)[-1]))
    return (found[1] or found[2]).lower() if found else ""


def table(rows: Sequence[tuple[str, ...]]) -> list[str]:
    """Return rows as lines with aligned columns; the first is the header."""
    widths = [max(len(row[i]) for row in rows) for i in range(len(rows[0]))]
    lines = ["  ".join(cell.ljust(width) for cell, width in zip(row, widths, strict=True)) for row in rows]
    return [f"  {line}".rstrip() for line in lines]
