"""Chunks of actions as rounded DCT coefficients, and back: the only lossy part of FAST.

A coefficient is round-half-even(scale * DCT-II), orthonormal along time, in float64 (FAST, section V; Pertsch et al.
2025, arXiv 2501.09747). Rows are flattened by frequency: all A coefficients of frequency 0, then those of 1.
"""

from dataclasses import dataclass

import numpy as np
import numpy.typing as npt
import scipy.fft

from ensemble.schema import Float32

Int32 = npt.NDArray[np.int32]
Bools = npt.NDArray[np.bool_]

LARGEST = (1 << 15) - 1  # of a coefficient; larger ones need another scale or normalized actions


@dataclass(frozen=True, slots=True)
class Quantizer:
    """Rounding of the DCT coefficients of chunks (`horizon`, `width`) to multiples of 1 / `scale`."""

    scale: float
    horizon: int
    width: int

    def __post_init__(self) -> None:
        if not (np.isfinite(self.scale) and self.scale > 0):
            raise ValueError(f"scale {self.scale} is not a positive number")
        if self.horizon < 1 or self.width < 1:
            raise ValueError(f"chunks of {self.horizon} steps of {self.width} actions hold nothing")

    @property
    def size(self) -> int:
        """Number of coefficients of a chunk."""
        return self.horizon * self.width

    def quantize(self, chunks: npt.ArrayLike, first: int = 0) -> Int32:
        """Return the coefficients (N, H*A) of chunks (N, H, A), which messages number from `first`.

        Raises ValueError for another shape or no chunks, for NaN or infinity (with chunk, step and entry), and for
        coefficients beyond 32,767.
        """
        actions = np.asarray(chunks)
        if actions.shape[1:] != (self.horizon, self.width) or not len(actions):
            raise ValueError(f"chunks have the shape {actions.shape}, not (N, {self.horizon}, {self.width})")
        _refuse_not_finite(actions, first)
        spectrum = scipy.fft.dct(actions.astype(np.float64, copy=False), type=2, axis=1, norm="ortho")
        with np.errstate(over="ignore", invalid="ignore"):
            rounded = np.around(spectrum * self.scale).reshape(len(actions), self.size)
        # `not <=` and not `>`: NaN from an overflow must raise, too.
        if not (rounded.max() <= LARGEST and rounded.min() >= -LARGEST):
            chunk = int(np.abs(rounded).max(axis=1).argmax())
            raise ValueError(
                f"chunk {first + chunk}: a coefficient of {np.abs(rounded[chunk]).max():.0f} at scale {self.scale} is "
                f"beyond {LARGEST}; normalize the actions or choose a smaller scale"
            )
        whole: Int32 = rounded.astype(np.int32)
        return whole

    def reconstruct(self, coefficients: Int32) -> Float32:
        """Return the chunks (N, H, A) of coefficients (N, H*A)."""
        spectrum = coefficients.reshape(-1, self.horizon, self.width) / self.scale
        chunks: Float32 = scipy.fft.idct(spectrum, type=2, axis=1, norm="ortho").astype(np.float32)
        return chunks


def _refuse_not_finite(actions: npt.NDArray[np.generic], first: int = 0) -> None:
    """Raise ValueError, with chunk, step and entry, for NaN or infinity in chunks (N, H, A), and for other dtypes."""
    if actions.dtype.kind not in "fiu":
        raise ValueError(f"actions are {actions.dtype}, not real numbers")
    finite = np.isfinite(actions)
    if not finite.all():
        chunk, step, entry = np.argwhere(~finite)[0]
        value = actions[chunk, step, entry]
        raise ValueError(f"chunk {first + chunk}, step {step}, entry {entry}: {value} is not a finite number")
