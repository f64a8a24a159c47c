"""The coefficients of a tokenizer, as symbols 0, 1, ..; any other coefficient is replaced by the nearest one."""

import numpy as np

from ensemble.tokenizers.coefficients import LARGEST, Bools, Int32


class Alphabet:
    """Distinct integers in ascending order; a symbol is an index into them."""

    def __init__(self, integers: Int32) -> None:
        self.integers = integers
        self.low, self.high = int(integers[0]), int(integers[-1])
        if max(-self.low, self.high) > LARGEST or (np.diff(integers) < 1).any():
            raise ValueError(f"an alphabet is integers in ascending order, none beyond {LARGEST}")
        # A table from each integer between low and high to the index of the nearest one of the alphabet.
        every = np.arange(self.low, self.high + 1, dtype=np.int32)
        above = np.searchsorted(integers, every)
        below = np.maximum(above - (integers[above] > every), 0)
        up, down = integers[above] - every, every - integers[below]
        toward_zero = np.where(every > 0, below, above)
        self._nearest = np.where(up == down, toward_zero, np.where(up < down, above, below)).astype(np.int32)
        self._known = integers[self._nearest] == every

    def __len__(self) -> int:
        return len(self.integers)

    def symbols(self, coefficients: Int32) -> tuple[Int32, Bools]:
        """Return the symbols of coefficients of any shape, and a mask of the coefficients outside the alphabet.

        Those are replaced by the nearest one, of two equally near ones by the one nearer to zero.
        """
        index = np.clip(coefficients, self.low, self.high)
        unknown = index != coefficients
        index -= self.low
        return self._nearest[index], unknown | ~self._known[index]
