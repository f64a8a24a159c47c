"""The two tasks, dynamics and policy: how each sets up data, measures and examples.

Everything outside config/ and models/ that depends on the family goes through `task_of`. A task says what it asks of
data and what a search may compare without torch; its set-up and its baselines import what they need when called.
"""

from collections.abc import Mapping, Sequence
from typing import TYPE_CHECKING, Protocol

from ensemble import schema
from ensemble.config import Experiment
from ensemble.config.family import FamilyConfig, TaskName
from ensemble.data.splits import require_windows, split_episodes, split_windows
from ensemble.data.trajectories import Trajectories
from ensemble.errors import DataError
from ensemble.open_loop.free_run import require_length
from ensemble.open_loop.rollout import named_steps
from ensemble.schema import Feature

if TYPE_CHECKING:  # torch
    from ensemble.models.base import Normalization
    from ensemble.training.context import Context
    from ensemble.training.setup import Setup, TrialData

Metrics = Mapping[str, float]


class Task(Protocol):
    """What a task implements."""

    def metric_names(self, experiment: Experiment, features: Sequence[Feature], split: str) -> list[str]:
        """Return every metric of one split, the loss first."""
        ...

    def check_data(self, experiment: Experiment, data: Trajectories, named: Mapping[str, Trajectories]) -> None:
        """Raise DataError where a split has no window of the length that is asked for; no row is read."""
        ...

    def measure_baselines(self, experiment: Experiment, data: Trajectories) -> Mapping[str, Metrics]:
        """Return the test metrics of each trivial predictor; DataError where a split has no window."""
        ...

    def set_up(
        self, experiment: Experiment, data: "TrialData", context: "Context", normalization: "Normalization | None"
    ) -> "Setup":
        """Split the data, take the statistics of the training split (unless given), fix the questions of each split."""
        ...


class DynamicsTask:
    """Predict the next state, measured by one-step errors and open-loop rollouts."""

    def metric_names(self, experiment: Experiment, features: Sequence[Feature], split: str) -> list[str]:
        """Return the names of loss, rollout error, and errors by state entry and by step of the horizon."""
        labels = [label for feature in features if feature.role == "state" for label in feature.labels]
        names = [f"{split}/loss", f"{split}/rollout_rmse"]
        names += [schema.one_step_metric(split, label) for label in labels]
        names += [schema.rollout_metric(split, label) for label in labels]
        named = experiment.evaluation.horizons.get(split.partition("_")[2])  # of validation_<name>
        steps = named_steps(named or experiment.train.rollout.horizon)
        return names + [schema.rollout_step_metric(split, step) for step in steps]

    def check_data(self, experiment: Experiment, data: Trajectories, named: Mapping[str, Trajectories]) -> None:
        """Require windows of the history and of the rollouts in every split."""
        history, rollout = experiment.model.window, experiment.train.rollout
        before = (rollout.context or history) - 1  # transitions seen before a rollout
        horizons = {"validation": rollout.horizon, "test": rollout.test_horizon or rollout.horizon}
        parts = split_episodes(data, experiment.data.split, history)
        for split, horizon in horizons.items():
            require_windows(parts[split], before + horizon, f"split '{split}', rollouts of {horizon} steps")
        evaluation = experiment.evaluation
        for name, other in named.items():
            horizon = evaluation.horizons.get(name, rollout.horizon)
            require_windows(other.episodes, max(history, before + horizon), f"data.validation.{name}")
        if evaluation.warmup is not None:
            require_length(parts["test"], evaluation.warmup, "split 'test'")
            for name, other in named.items():
                require_length(other.episodes, evaluation.warmup, f"data.validation.{name}", other.keys)

    def measure_baselines(self, experiment: Experiment, data: Trajectories) -> Mapping[str, Metrics]:
        """Return the rollout errors of each trivial predictor."""
        from ensemble.open_loop.baselines import measure_baselines

        return measure_baselines(experiment, data)

    def set_up(
        self, experiment: Experiment, data: "TrialData", context: "Context", normalization: "Normalization | None"
    ) -> "Setup":
        """Set up a trial of dynamics models."""
        from ensemble.training.dynamics import set_up

        return set_up(experiment, data, context, normalization)


class PolicyTask:
    """From an observation to a chunk of actions, measured by loss and by the error of sampled chunks."""

    def metric_names(self, experiment: Experiment, features: Sequence[Feature], split: str) -> list[str]:
        """Return the names of loss, errors of sampled actions, and what the family measures besides its loss."""
        del features
        names = ["loss", schema.ACTION_MAE, schema.ACTION_MSE, *experiment.model.loss_details]
        return [f"{split}/{name}" for name in names]

    def check_data(self, experiment: Experiment, data: Trajectories, named: Mapping[str, Trajectories]) -> None:
        """Require windows of a chunk in every split."""
        window = experiment.model.window
        split_windows(data, experiment.data, window)
        for name, other in named.items():
            require_windows(other.episodes, window, f"data.validation.{name}")

    def measure_baselines(self, experiment: Experiment, data: Trajectories) -> Mapping[str, Metrics]:
        """Return the errors of each trivial predictor's actions."""
        from ensemble.open_loop.baselines import measure_policy_baselines

        return measure_policy_baselines(experiment, data)

    def set_up(
        self, experiment: Experiment, data: "TrialData", context: "Context", normalization: "Normalization | None"
    ) -> "Setup":
        """Set up a trial of policies."""
        from ensemble.training.policy import set_up

        return set_up(experiment, data, context, normalization)


_TASKS: Mapping[TaskName, Task] = {"dynamics": DynamicsTask(), "policy": PolicyTask()}


def task_of(model: FamilyConfig) -> Task:
    """Return the task that a family declares."""
    return _TASKS[model.task]


def measure_baselines(experiment: Experiment, data: Trajectories) -> Mapping[str, Metrics]:
    """Return the test metrics of the trivial predictors that a configuration has to beat."""
    return task_of(experiment.model).measure_baselines(experiment, data)


def set_up(
    experiment: Experiment, data: "TrialData", context: "Context", normalization: "Normalization | None" = None
) -> "Setup":
    """Split the data, take the statistics of the training split (unless given), and fix the questions of each split.

    Raises:
        DataError: a split has no window of the model's length or of the rollout, or a named set has other features.
    """
    for name, other in data.named.items():
        if other.features != data.main.features:
            raise DataError(f"data.validation.{name} has other features than the training data")
    return task_of(experiment.model).set_up(experiment, data, context, normalization)
