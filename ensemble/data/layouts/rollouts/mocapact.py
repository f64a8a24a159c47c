"""MoCapAct: a group for each snippet of motion capture, and in it a numbered group for each rollout of its expert.

Source: microsoft/MoCapAct, mocapact/distillation/rollout_experts.py. `observations/proprioceptive` has one row more
than `actions`; `observable_indices` names its columns, and each name is a feature. `mean_actions` are the expert's
actions without noise. The first `n_start_rollouts` of a snippet begin at its start, the others at random times.
"""

from collections.abc import Sequence

import numpy as np

from ensemble.config.data import DataConfig
from ensemble.data.layouts.container import Container, arrays_inside
from ensemble.data.layouts.grouped import typical_group
from ensemble.data.layouts.recording import Recording, natural_order
from ensemble.data.layouts.rollouts.rollout import Column, rollout_recording
from ensemble.data.layouts.vectors import vectors_in
from ensemble.errors import DataError

TITLE = "MoCapAct"
_OBSERVED = "observations/proprioceptive"
_INDICES = "observable_indices"
_MEAN = "mean_actions"


def wanted(container: Container) -> dict[str, bool]:
    """Return the names that this layout needs, and whether each exists."""
    first = next(iter(_rollouts(container, most=1)), "CLIP/0")
    return {f"{first}/{key}": container.is_array(f"{first}/{key}") for key in (_OBSERVED, "actions")}


def open_recording(container: Container, data: DataConfig) -> Recording:
    """Open a file of this layout; DataError where it is inconsistent."""
    groups = _rollouts(container)
    if not groups:
        raise DataError(f"{container.path}: holds 0 episodes: no group with {_OBSERVED}")
    typical = typical_group(container, groups)
    observed = vectors_in(container, typical, ["observations"])
    columns = [*_observables(container, typical), Column("actions", "control", per_step=True)]
    if container.is_array(f"{typical}/{_MEAN}"):
        columns.append(Column(_MEAN, "auxiliary", per_step=True))
    names = _names(container, groups)
    return rollout_recording(
        container, "mocapact", TITLE, groups, names, columns, last_point=True, notices=observed.notices
    )


def _rollouts(container: Container, most: int | None = None) -> list[str]:
    """Return the groups of the rollouts, at most `most`: snippet by snippet, 2 before 10."""
    found: list[str] = []
    for snippet in natural_order(container.names()):
        inner = [name for name in natural_order(container.names(snippet)) if name.isdigit()]
        if inner and container.has(f"{snippet}/{inner[0]}/{_OBSERVED}"):
            found += [f"{snippet}/{name}" for name in inner]
        if most is not None and len(found) >= most:
            return found[:most]
    return found


def _observables(container: Container, rollout: str) -> list[Column]:
    """Return a state for each observable that the file names the columns of, or one of all columns."""
    width = container.array(f"{rollout}/{_OBSERVED}").width()
    columns = []
    for key in arrays_inside(container, _INDICES):
        indices = container.read(f"{_INDICES}/{key}").reshape(-1).astype(np.int64)
        if len(indices) and not 0 <= indices.min() <= indices.max() < width:
            raise DataError(f"{container.path}: {_INDICES}/{key} names columns beyond the {width} of {_OBSERVED}")
        if len(indices):
            name = key.rpartition("/")[2]
            columns.append(Column(_OBSERVED, "state", name=name, columns=tuple(indices.tolist())))
    # In the order of the array, as its writer concatenated them.
    return sorted(columns, key=lambda column: column.columns or ()) or [Column(_OBSERVED, "state")]


def _names(container: Container, groups: Sequence[str]) -> list[str]:
    """Return the keys of the rollouts: snippet/start-0, .. and snippet/random-0, .. where the file tells them apart."""
    if not container.has("n_start_rollouts"):
        return list(groups)
    starts = int(container.read("n_start_rollouts").reshape(-1)[0])
    names = []
    for group in groups:
        snippet, _, number = group.rpartition("/")
        kind = f"start-{number}" if int(number) < starts else f"random-{int(number) - starts}"
        names.append(f"{snippet}/{kind}")
    return names
