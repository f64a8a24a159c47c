"""Optuna's samplers by their names in the file.

A new sampler is built for every suggestion, seeded by its number. A suggestion is therefore a function of the search's
seed, its number and the history, and a resumed search continues exactly as an undisturbed one.
"""

import warnings
from collections.abc import Callable

from optuna.exceptions import ExperimentalWarning
from optuna.samplers import (
    BaseSampler,
    CmaEsSampler,
    GPSampler,
    NSGAIISampler,
    QMCSampler,
    RandomSampler,
    TPESampler,
)

from ensemble import streams
from ensemble.config.experiment import SearchConfig


def _tpe(seed: int, search: SearchConfig) -> BaseSampler:
    # group: one joint model for each set of parameters that occur together, as conditional spaces need.
    # constant_liar: running trials count as bad, so that parallel suggestions spread.
    return TPESampler(
        multivariate=True, group=True, constant_liar=True, n_startup_trials=search.startup, seed=seed,
        warn_independent_sampling=False,
    )  # fmt: skip


def _random(seed: int, search: SearchConfig) -> BaseSampler:
    del search
    return RandomSampler(seed=seed)


def _gp(seed: int, search: SearchConfig) -> BaseSampler:
    return GPSampler(seed=seed, n_startup_trials=search.startup, warn_independent_sampling=False)


def _cma(seed: int, search: SearchConfig) -> BaseSampler:
    return CmaEsSampler(seed=seed, n_startup_trials=search.startup, warn_independent_sampling=False)


def _qmc(seed: int, search: SearchConfig) -> BaseSampler:
    # Scrambled by the search's seed alone: with a seed a suggestion the points would not form one Sobol' sequence.
    del seed
    return QMCSampler(scramble=True, seed=search.seed, warn_independent_sampling=False, warn_asynchronous_seeding=False)


def _nsga2(seed: int, search: SearchConfig) -> BaseSampler:
    return NSGAIISampler(population_size=max(4, min(50, search.startup)), seed=seed)


SAMPLERS: dict[str, Callable[[int, SearchConfig], BaseSampler]] = {
    "tpe": _tpe,
    "random": _random,
    "gp": _gp,
    "cma": _cma,
    "qmc": _qmc,
    "nsga2": _nsga2,
    "grid": _random,  # every parameter of a grid point is fixed: nothing is sampled
}


def make_sampler(search: SearchConfig, number: int, fallback: bool = False) -> BaseSampler:
    """Return the sampler of suggestion `number`; the fallback, for a sampler that repeats itself, is random."""
    seed = streams.key(search.seed, "sampler", number) % 2**32
    with warnings.catch_warnings():
        warnings.simplefilter("ignore", ExperimentalWarning)
        return SAMPLERS["random" if fallback else search.sampler](seed, search)
