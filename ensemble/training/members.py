"""The running record of each member of a pack: its best values, its state, and its curve so far."""

from collections.abc import Mapping
from dataclasses import asdict, dataclass, field
from typing import Any, Literal

import pyarrow as pa

from ensemble.schema import CURVE_COLUMNS, MemberRole
from ensemble.training.schedule import Plateau

State = Literal["running", "stopped", "diverged", "pruned"]


@dataclass(frozen=True)
class Best:
    """The best value of one validation metric so far."""

    value: float = float("inf")
    step: int = 0

    def improved_by(self, value: float) -> bool:
        """Return whether `value` is better; NaN never is."""
        return value < self.value


@dataclass
class Member:
    """One training run, as it goes."""

    seed: int
    step: int = 0
    state: State = "running"
    error: str = ""
    seconds: float = 0.0
    waited: int = 0  # validations since the best loss
    best_loss: Best = field(default_factory=Best)
    best_rollout: Best = field(default_factory=Best)
    plateau: Plateau = field(default_factory=Plateau)
    last: dict[str, float] = field(default_factory=dict)  # the newest validation
    notice: str = ""  # what its row says beside the result

    @property
    def active(self) -> bool:
        """Whether its weights still move."""
        return self.state == "running"

    @property
    def has_rolled_out(self) -> bool:
        """Whether any validation rollout was a number."""
        return self.best_rollout.value < float("inf")

    def diverge(self, step: int, what: str) -> None:
        """Freeze the member for the rest of the run: its loss or gradient is no longer a number."""
        self.state = "diverged"
        self.step = step
        self.error = f"{what} is not finite at step {step}"

    def to_json(self) -> dict[str, Any]:
        """Return everything as plain JSON (infinity before the first validation becomes null)."""
        record = asdict(self)
        if not self.notice:
            del record["notice"]
        for name, (_, key) in _STANDINGS.items():
            if record[name][key] == float("inf"):
                record[name][key] = None
        return record

    @classmethod
    def from_json(cls, record: Mapping[str, Any]) -> "Member":
        """Read what `to_json` wrote."""
        values = dict(record)
        for name, (kind, key) in _STANDINGS.items():
            value = values[name][key]
            values[name] = kind(**{**values[name], key: float("inf") if value is None else value})
        return cls(**values)


# Parts of a member's record that begin at infinity: their class, and the number that does.
_STANDINGS: dict[str, tuple[type[Best] | type[Plateau], str]] = {
    "best_loss": (Best, "value"),
    "best_rollout": (Best, "value"),
    "plateau": (Plateau, "best"),
}


class Curve:
    """The curve of one member: (step, metric, value) rows, in the order they were measured."""

    def __init__(self, config_hash: str, seed: int, role: MemberRole, table: pa.Table | None = None) -> None:
        self._identity = (config_hash, seed, role)
        self._rows: list[tuple[int, str, float]] = []
        if table is not None:
            columns = (table[name].to_pylist() for name in ("step", "metric", "value"))
            self._rows = list(zip(*columns, strict=True))

    def add(self, step: int, metrics: Mapping[str, float]) -> None:
        """Append one row a metric."""
        self._rows += [(step, metric, value) for metric, value in metrics.items()]

    def at(self, step: int) -> dict[str, float]:
        """Return what was measured at a step."""
        return {metric: value for at, metric, value in self._rows if at == step}

    def table(self) -> pa.Table:
        """Return the curve as rows of `curves.parquet`."""
        steps, metrics, values = zip(*self._rows, strict=True) if self._rows else ((), (), ())
        count = len(self._rows)
        identity = [[value] * count for value in self._identity]
        return pa.table([*identity, list(steps), list(metrics), list(values)], schema=CURVE_COLUMNS)
