"""Generated HDF5 files: those of a layout, or of none, with a few things wrong with them.

A file is a list of entries, path -> array, and attributes; `damages` are functions that change one of them. Hypothesis
draws both, so that a failing file shrinks to what matters.
"""

import contextlib
import math
from collections.abc import Callable
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import h5py
import numpy as np
from hypothesis import strategies as st

Arrays = dict[str, Any]


@dataclass
class Content:
    arrays: Arrays
    attributes: dict[tuple[str, str], Any] = field(default_factory=dict)  # (group, name) -> value
    groups: list[str] = field(default_factory=list)  # empty ones
    links: list[str] = field(default_factory=list)  # soft links that lead nowhere

    def write(self, path: Path) -> None:
        with h5py.File(path, "w") as file:
            for key, value in self.arrays.items():
                _put(file, key, value)
            for group in self.groups:
                if group not in file:
                    _quietly(lambda group=group: file.create_group(group))
            for link in self.links:
                _quietly(lambda link=link: file.__setitem__(link, h5py.SoftLink("/nowhere")))
            for (group, name), value in self.attributes.items():
                if group in file or not group:
                    (file[group] if group else file).attrs[name] = value


def _quietly(write: Callable[[], object]) -> None:
    # A name inside an array: HDF5 has no such file.
    with contextlib.suppress(ValueError, OSError, RuntimeError):
        write()


def _put(file: h5py.File, key: str, value: Any) -> None:
    def write() -> None:
        if callable(value):
            value(file, key)
        else:
            file.create_dataset(key, data=value)

    _quietly(write)


def smooth(rows: int, width: int, seed: int) -> np.ndarray:
    random = np.random.default_rng(seed)
    return np.cumsum(random.normal(size=(rows, width)), axis=0).astype(np.float32)


def robomimic(lengths: list[int]) -> Content:
    content = Content({})
    for i, n in enumerate(lengths):
        group = f"data/demo_{i}"
        content.arrays |= {f"{group}/obs/pos": smooth(n, 3, i), f"{group}/actions": smooth(n, 2, i + 50)}
        content.arrays |= {f"{group}/obs/object": smooth(n, 2, i + 70), f"{group}/rewards": np.zeros(n)}
        content.attributes[group, "num_samples"] = n
    content.attributes["data", "total"] = sum(lengths)
    content.attributes["data", "env_args"] = '{"env_name": "Lift"}'
    return content


def robosuite(lengths: list[int]) -> Content:
    content = Content({})
    for i, n in enumerate(lengths):
        time = 0.01 * np.arange(1, n + 1)[:, None]
        content.arrays[f"data/demo_{i}/states"] = np.concatenate([time, smooth(n, 4, i)], axis=1)
        content.arrays[f"data/demo_{i}/joint_velocities"] = smooth(n, 2, i)
        content.arrays[f"data/demo_{i}/left_dpos"] = np.empty((n, 0))
    return content


def d4rl(lengths: list[int]) -> Content:
    rows = sum(lengths)
    ends = np.zeros(rows, bool)
    ends[np.cumsum(lengths)[np.array(lengths) > 0] - 1] = True
    states = [smooth(n + 1, 3, i) for i, n in enumerate(lengths)]
    arrays = {"observations": np.concatenate([s[:-1] for s in states]), "actions": smooth(rows, 2, 1)}
    arrays |= {"next_observations": np.concatenate([s[1:] for s in states]), "rewards": np.zeros(rows)}
    return Content({**arrays, "terminals": ends, "timeouts": np.zeros(rows, bool)})


def flat(lengths: list[int]) -> Content:
    rows = sum(lengths)
    starts = np.zeros(rows, bool)
    starts[np.append(0, np.cumsum(lengths)[:-1])[np.array(lengths) > 0]] = True
    return Content({"obs": smooth(rows, 3, 0), "actions": smooth(rows, 1, 1), "episode_starts": starts})


def nerd(lengths: list[int]) -> Content:
    steps, count = max(lengths), len(lengths)
    states = smooth(steps + 1, count * 2, 0).reshape(steps + 1, count, 2)
    content = Content({"data/states": states[:-1], "data/next_states": states[1:]})
    content.arrays["data/joint_acts"] = smooth(steps, count, 1).reshape(steps, count, 1)
    content.arrays["data/traj_lengths"] = np.array(lengths)
    content.attributes = {("data", "mode"): "trajectory", ("data", "total_trajectories"): count, ("data", "dt"): 0.05}
    return content


def signals(lengths: list[int]) -> Content:
    rows = sum(lengths)
    return Content({"u": smooth(rows, 1, 0), "t": 0.1 * np.arange(rows), "y": smooth(rows, 2, 1)})


def runs(lengths: list[int]) -> Content:
    arrays = {}
    for i, n in enumerate(lengths):
        arrays |= {f"run_{i}/q": smooth(n, 3, i), f"run_{i}/u": smooth(n, 1, i), f"run_{i}/time": 0.1 * np.arange(n)}
    return Content(arrays)


def nested(lengths: list[int]) -> Content:
    return Content(
        {
            f"{('train', 'test')[i % 2]}/trial_{i}/{name}": smooth(n, width, i)
            for i, n in enumerate(lengths)
            for name, width in (("robot/position", 2), ("command", 1), ("wrench", 6))
        }
    )


def with_array(content: Content, key: str, values: np.ndarray) -> Content:
    content.arrays[key] = values
    return content


def with_attribute(content: Content, group: str, name: str, value: Any) -> Content:
    content.attributes[group, name] = value
    return content


SOURCES = (robomimic, robosuite, d4rl, flat, nerd, signals, runs, nested)


def special(kind: str) -> Callable[[h5py.File, str], object]:
    """A data set that is no plain array of numbers."""

    def write(file: h5py.File, key: str) -> object:
        if kind == "text":
            return file.create_dataset(key, data=np.array([b"a", b"bb"]))
        if kind == "strings":
            return file.create_dataset(key, data=["x", "y"], dtype=h5py.string_dtype())
        if kind == "compound":
            return file.create_dataset(key, data=np.zeros(7, dtype=[("a", "f4"), ("b", "i8")]))
        if kind == "ragged":
            rows = file.create_dataset(key, (3,), dtype=h5py.vlen_dtype(np.float32))
            rows[0], rows[1] = [1.0], [1.0, 2.0]
            return rows
        if kind == "reference":
            return file.create_dataset(key, data=np.array([file.ref, file.ref], dtype=h5py.ref_dtype))
        if kind == "enum":
            return file.create_dataset(key, data=np.zeros(7, "i4"), dtype=h5py.enum_dtype({"A": 0, "B": 1}, "i4"))
        if kind == "dates":
            days = np.array(["2024-01-01", "NaT"], "M8[s]")
            return file.create_dataset(key, data=days.astype(h5py.opaque_dtype(days.dtype)))
        if kind == "scalar":
            return file.create_dataset(key, data=3.5)
        if kind == "null":
            return file.create_dataset(key, data=h5py.Empty("f4"))
        if kind == "unwritten":
            return file.create_dataset(key, (9, 2), "f4")
        return file.create_dataset(key, data=np.void(b"blob"))

    return write


SPECIAL = ("text", "strings", "compound", "ragged", "reference", "enum", "dates", "scalar", "null", "unwritten", "void")
DTYPES = ("f2", ">f4", "f8", ">f8", "g", "u1", "i2", ">i4", "u8", "i8", "?", "c8")
NAMES = ("obs.pos", "a b", "é/q", "Episode", "n" * 240, ".hidden", "x,y", "data", "mask/train", "0", "#", "time")
VALUES: tuple[Any, ...] = ("many", -1, 0, np.nan, 1e300, [1, 2], np.bytes_(b"\xff\xfe"), True, 2**62, h5py.Empty("i4"))
ATTRIBUTES = ("total", "num_samples", "mode", "dt", "total_trajectories", "env_args", "MATLAB_class", "total_steps")


def _numeric(content: Content) -> list[str]:
    return [key for key, value in content.arrays.items() if isinstance(value, np.ndarray)]


@st.composite
def contents(draw: st.DrawFn) -> Content:
    """Files of a few short episodes with up to four things wrong."""
    lengths = draw(st.lists(st.integers(1, 12), min_size=1, max_size=5))
    content = draw(st.sampled_from(SOURCES))(lengths)
    for _ in range(draw(st.integers(0, 4))):
        draw(st.sampled_from(DAMAGES))(draw, content)
    return content


def _change_array(draw: st.DrawFn, content: Content) -> None:
    """Replace an array by a wrong one of itself."""
    keys = _numeric(content)
    if not keys:
        return
    key = draw(st.sampled_from(keys))
    values = content.arrays[key]
    change = draw(st.sampled_from(CHANGES))
    content.arrays[key] = change(values)


CHANGES: tuple[Callable[[np.ndarray], Any], ...] = (
    lambda v: v[:0],
    lambda v: v[..., :0] if v.ndim > 1 else v[:, None][:, :0],
    np.transpose,
    lambda v: v[:-1],
    lambda v: np.concatenate([v, v[-1:]]),
    lambda v: np.where(np.arange(v.size).reshape(v.shape) == v.size // 2, np.nan, v),
    lambda v: np.where(np.arange(v.size).reshape(v.shape) == 0, np.inf, v.astype("f8") * 1e300),
    lambda v: v.reshape(-1),
    lambda v: v.reshape(*v.shape, 1, 1),
    lambda v: np.repeat(v.reshape(*v.shape[:1], math.prod(v.shape[1:])), 2, axis=1),
    lambda v: np.zeros_like(v),
)


def _change_type(draw: st.DrawFn, content: Content) -> None:
    keys = _numeric(content)
    if keys:
        key = draw(st.sampled_from(keys))
        with np.errstate(all="ignore"):
            content.arrays[key] = np.real(content.arrays[key]).astype(draw(st.sampled_from(DTYPES)))


def _make_special(draw: st.DrawFn, content: Content) -> None:
    key = draw(st.sampled_from([*content.arrays, "extra", "run_0/note"]))
    content.arrays[key] = special(draw(st.sampled_from(SPECIAL)))


def _drop(draw: st.DrawFn, content: Content) -> None:
    content.arrays.pop(draw(st.sampled_from(list(content.arrays))))
    if not content.arrays:
        content.groups.append("empty")


def _rename(draw: st.DrawFn, content: Content) -> None:
    key = draw(st.sampled_from(list(content.arrays)))
    name = draw(st.sampled_from(NAMES))
    group = key.rpartition("/")[0]
    content.arrays[f"{group}/{name}" if group else name] = content.arrays.pop(key)


def _add(draw: st.DrawFn, content: Content) -> None:
    group = draw(st.sampled_from(list(content.arrays))).rpartition("/")[0]
    name = draw(st.sampled_from(NAMES))
    content.arrays[f"{group}/{name}" if group else name] = smooth(draw(st.integers(0, 9)), draw(st.integers(0, 3)), 0)


def _empty_group(draw: st.DrawFn, content: Content) -> None:
    content.groups.append(draw(st.sampled_from(["run_99", "data/demo_99", "mask", "obs", "a/b/c/d/e/f/g/h"])))


def _dead_link(draw: st.DrawFn, content: Content) -> None:
    content.links.append(draw(st.sampled_from(["link", "run_0/link", "data/demo_0/link", "data/demo_98"])))


def _attribute(draw: st.DrawFn, content: Content) -> None:
    groups = ["", *dict.fromkeys(key.rpartition("/")[0] for key in content.arrays), "data", *content.arrays]
    place = draw(st.sampled_from(groups)), draw(st.sampled_from(ATTRIBUTES))
    content.attributes[place] = draw(st.sampled_from(VALUES))


DAMAGES = (_change_array, _change_type, _make_special, _drop, _rename, _add, _empty_group, _dead_link, _attribute)
