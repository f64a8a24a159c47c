"""How often the intervals that reports print contain the truth: on recorded seeds, and on draws from known laws.

The truth of a recorded configuration is the mean over all of its seeds, and samples are drawn from them without
replacement. (Ten of 200 are a little nearer to their mean than ten of many would be: by 2.5 %, or 0.5 % of coverage.)
"""

from collections.abc import Callable
from pathlib import Path

import numpy as np

from benchmarks.command import row, say
from benchmarks.search.record_search import TABLES
from ensemble.reporting.statistics import student_t
from ensemble.schema import Float64
from ensemble.store import read_table

SIZES = (3, 5, 10)
STATED = 0.95
_RESAMPLES = 500
_TOLERANCE = 0.01  # a coverage more than this below the stated one is marked

Draw = Callable[[tuple[int, int]], Float64]


def populations(random: np.random.Generator, path: Path = TABLES / "seeds.parquet") -> dict[str, tuple[float, Draw]]:
    """Return for each population its true mean and a sampler of (draws, n)."""
    table = read_table(path).to_pandas()
    found: dict[str, tuple[float, Draw]] = {}
    for name, rows in table.groupby("configuration", sort=False):
        for metric in ("test/rollout_rmse", "validation/loss"):
            values = rows[metric].to_numpy(np.float64)
            found[f"{len(values)} {name} seeds, {metric}"] = (float(values.mean()), _from(values, random))
    found["normal"] = (0.0, lambda shape: random.standard_normal(shape))
    for sigma in (0.5, 1.0):
        found[f"log-normal, sigma {sigma}"] = (float(np.exp(sigma**2 / 2)), _log_normal(sigma, random))
    return found


def _from(values: Float64, random: np.random.Generator) -> Draw:
    def draw(shape: tuple[int, int]) -> Float64:
        order = random.random((shape[0], len(values)), dtype=np.float32)
        return values[np.argpartition(order, shape[1], axis=1)[:, : shape[1]]]

    return draw


def _log_normal(sigma: float, random: np.random.Generator) -> Draw:
    return lambda shape: random.lognormal(0.0, sigma, shape)


def coverage(truth: float, samples: Float64) -> float:
    """Return the share of samples (draws, n) whose Student t interval contains the truth."""
    ends = np.array([student_t(sample, STATED) for sample in samples])
    return float(np.mean((ends[:, 0] <= truth) & (truth <= ends[:, 1])))


def bootstrap_coverage(truth: float, samples: Float64, random: np.random.Generator) -> float:
    """Return the same of the percentile bootstrap, which many plots show."""
    draws, n = samples.shape
    means = np.stack(
        [np.take_along_axis(samples, random.integers(0, n, (draws, n)), 1).mean(1) for _ in range(_RESAMPLES)]
    )
    low, high = np.quantile(means, [0.5 - STATED / 2, 0.5 + STATED / 2], axis=0)
    return float(np.mean((low <= truth) & (truth <= high)))


def report(draws: int) -> None:
    """Print the coverage of Student's t, and of the percentile bootstrap from a tenth of the draws."""
    title = f"share that contains the truth, {draws:,} samples each (percentile bootstrap)"
    say(f"\nIntervals stated as {STATED:.0%}: {title}")
    random = np.random.default_rng(0)
    row("", *(f"n = {n}" for n in SIZES), width=16)
    for name, (truth, draw) in populations(random).items():
        cells = []
        for n in SIZES:
            samples = draw((draws, n))
            share = coverage(truth, samples)
            boot = bootstrap_coverage(truth, samples[: draws // 10], random)
            cells.append(f"{'!' if share < STATED - _TOLERANCE else ''}{share:.1%} ({boot:.0%})")
        row(name, *cells, width=16)
    say(f"  !: more than {_TOLERANCE:.0%} below what is stated")
