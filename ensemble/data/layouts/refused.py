"""Episodes that cannot be used, and how the user is told: all at once, with the option that leaves them out.

Layouts and the checks of values report them; `sources.py` decides: an error that names them, or, with
`data.drop_bad_episodes`, a count by reason. A reason completes "3 episodes .. left out".
"""

from collections import Counter
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

from ensemble.errors import DataError
from ensemble.text import plural

EMPTY = "without arrays"
INCOMPLETE = "that lack an array"
NO_ROWS = "of 0 rows"
UNEQUAL = "with unequal numbers of rows"
OTHER_SCHEMA = "of other columns or types"
MISCOUNTED = "of another number of rows than they declare"
UNREADABLE = "that cannot be read"
TWO_SPLITS = "of two splits"
NOT_FINITE = "with NaN or infinity"
SINGLE_POINT = "of a single point"  # no error: without a transition nothing is lost

_LISTED = 10
_OVERRIDE = "--drop-bad-episodes leaves such episodes out and counts them (data.drop_bad_episodes: true)"


@dataclass(frozen=True, slots=True)
class Refused:
    """An episode that cannot be used."""

    episode: str
    reason: str  # one of the above
    detail: str  # what is wrong and where, for a message about this episode


def bad(refused: Sequence[Refused]) -> list[Refused]:
    """Return the episodes whose absence the user must ask for."""
    return [each for each in refused if each.reason != SINGLE_POINT]


def refusal(path: Path, refused: Sequence[Refused], episodes: int) -> DataError:
    """Return the error that names the refused ones of a file's `episodes`."""
    if len(refused) < episodes:
        return DataError("\n".join([f"{path}: {share_text(refused, episodes)}", *listing(path, refused), _OVERRIDE]))
    if len({each.detail for each in refused}) > 1:
        return DataError("\n".join([f"{path}: 0 of {episodes} episodes are usable", *listing(path, refused)]))
    where = f"0 of {episodes} episodes are usable: " if episodes > 1 else _where(refused[0])
    return DataError(f"{path}: {where}{_detail(path, refused[0])}")


def share_text(refused: Sequence[Refused], episodes: int) -> str:
    """Return "2 of 12 episodes cannot be used"."""
    return f"{len(refused)} of {plural(episodes, 'episode')} cannot be used"


def listing(path: Path, refused: Sequence[Refused]) -> list[str]:
    """Return one line for each of the first ten, and the count of the others by reason."""
    listed = [f"  {_where(each)}{_detail(path, each)}" for each in refused[:_LISTED]]
    more = refused[_LISTED:]
    return [*listed, f"  and {len(more)} more: {', '.join(_counts(more))}"] if more else listed


def left_out(refused: Sequence[Refused]) -> list[str]:
    """Return the notices on left-out episodes, one line per reason."""
    return [f"{text} left out" for text in _counts(refused)]


def _where(each: Refused) -> str:
    # A file that is one episode has no name for it.
    return f"episode {each.episode}: " if each.episode else ""


def _detail(path: Path, each: Refused) -> str:
    # Errors of reading begin with the path, which is said once.
    return each.detail.removeprefix(f"{path}: ")


def _counts(refused: Sequence[Refused]) -> list[str]:
    counts = Counter(each.reason for each in refused)
    return [f"{plural(count, 'episode')} {reason}" for reason, count in counts.items()]
