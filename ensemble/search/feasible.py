"""Whether a suggested configuration can be trained on the data at all: asked before it costs a trial."""

from ensemble.config import Experiment
from ensemble.errors import DataError, UsageError
from ensemble.search.prepare import PreparedData, check


class Feasible:
    """Says why a configuration cannot be trained on these data; None where it can."""

    def __init__(self, data: PreparedData) -> None:
        self._data = data

    def __call__(self, experiment: Experiment) -> str | None:
        """Return the reason: a window longer than the episodes, a feature that is not there."""
        try:
            check([experiment], self._data)
        except (UsageError, DataError) as error:
            return str(error)
        return None
