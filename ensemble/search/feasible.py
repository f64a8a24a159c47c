"""Whether a suggested configuration can be trained on the data at all: asked before it costs a trial."""

from pathlib import Path

from ensemble.config import Experiment
from ensemble.errors import DataError, UsageError
from ensemble.search.prepare import PreparedData, check, find_origin


class Feasible:
    """Says why a configuration cannot be trained on these data; None where it can.

    `beside` is the folder of the experiment file, where relative paths may begin.
    """

    def __init__(self, data: PreparedData, beside: Path) -> None:
        self._data = data
        self._beside = beside

    def __call__(self, experiment: Experiment) -> str | None:
        """Return the reason: a window longer than the episodes, a feature or initial weights that are not there."""
        try:
            find_origin(experiment.train.init_from, self._beside)
            check([experiment], self._data)
        except (UsageError, DataError) as error:
            return str(error)
        return None
