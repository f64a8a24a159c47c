"""UTF-8 of many rows at once, in numpy: what is no character is said to be none, row by row."""

import numpy as np
import numpy.typing as npt

from ensemble.schema import Int64
from ensemble.tokenizers.sequences import starts

_MARKS = np.array([0, 0x7F, 0x1F, 0x0F], np.int64)  # of a first byte, those bits that count, by size
_FEWEST = np.array([0, 0, 0x80, 0x800], np.int64)  # the least code point that needs so many bytes


def code_points(data: npt.NDArray[np.uint8], lengths: Int64) -> tuple[Int64, Int64]:
    """Return the code points of rows of bytes that lie end to end, and how many each row has (N,).

    -1 stands for bytes that are no character of one to three bytes.
    """
    if not (data & 0x80).any():
        return data.astype(np.int64), lengths
    begins = (data & 0xC0) != 0x80
    begins[starts(lengths)[lengths > 0]] = True
    first = np.flatnonzero(begins)
    size, room = _sizes(data[first]), np.diff(first, append=len(data))
    begins[(first + size)[(size > 0) & (room > size)]] = True  # what follows a whole character is none by itself
    first = np.flatnonzero(begins)
    size, lead = _sizes(data[first]), data[first].astype(np.int64)
    whole = (np.diff(first, append=len(data)) == size) & (size > 0)
    points = lead & _MARKS[size]
    for further in (1, 2):
        more = np.flatnonzero(whole & (size > further))
        points[more] = (points[more] << 6) | (data[first[more] + further] & 0x3F)
    whole &= points >= _FEWEST[size]
    row = np.repeat(np.arange(len(lengths)), lengths)[first]
    return np.where(whole, points, -1), np.bincount(row, minlength=len(lengths)).astype(np.int64)


def _sizes(lead: npt.NDArray[np.uint8]) -> Int64:
    """Return how many bytes a character has that begins with `lead`, 0 where none does."""
    return np.select([lead < 0x80, (lead >> 5) == 0b110, (lead >> 4) == 0b1110], [1, 2, 3], 0).astype(np.int64)
