"""The queue and the callback of Tune. Tune itself runs in tests/cli and test_distributed."""

from collections.abc import Callable
from pathlib import Path

import pytest
from ray import cloudpickle
from ray.tune.search import Searcher
from rich.console import Console

from ensemble.config import load
from ensemble.study.judge_actor import job_outcome
from ensemble.study.progress import StudyProgress, TrialProgress
from ensemble.study.progress_screen import TableScreen
from ensemble.study.tuning import (
    IDENTICAL_ERRORS,
    FixedSource,
    ProgressCallback,
    TrialQueue,
    trial_from_config,
    trial_status,
    trial_to_config,
)
from ensemble.training.members import Curve, Member
from ensemble.training.rows import member_row, write_member
from ensemble.training.trial import Trial, record_failure

Tiny = Callable[..., Path]


@pytest.fixture
def trials(tiny: Tiny, tmp_path: Path) -> list[Trial]:
    overrides = ["train.optimizer.lr={choice: [1e-3, 2e-3, 3e-3, 4e-3, 5e-3, 6e-3]}", "search.sampler=grid"]
    file = load(tiny(), overrides)
    return [Trial(e, (0, 1), "search", tmp_path, number) for number, e in enumerate(file.configurations())]


def queue_of(trials: list[Trial]) -> TrialQueue:
    return TrialQueue(FixedSource(trials), StudyProgress(len(trials)), lambda experiment: experiment.experiment, "")


def end(queue: TrialQueue, trials: list[Trial], number: int, error: str | None) -> None:
    trial = trials[number]
    if error is not None:
        record_failure(trial, ValueError(error), "fingerprint")
    for seed in trial.pending:
        row = member_row(trial.experiment, trial.config_hash, trial.role, Member(seed), "completed", {}, {})
        write_member(trial.directory(seed), row, Curve(trial.config_hash, seed, trial.role))
    queue.on_trial_complete(str(number), {}, error=error is not None)


def test_trials_are_handed_out_in_order_each_once(trials: list[Trial]) -> None:
    queue = queue_of(trials)
    assert [queue.suggest(str(n)) for n in range(len(trials))] == [trial_to_config(trial) for trial in trials]
    assert queue.suggest("more") == Searcher.FINISHED


def test_a_trial_reads_in_another_process_as_it_was_written(trials: list[Trial]) -> None:
    assert trial_from_config(trial_to_config(trials[3]), trials[0].role, trials[0].run) == trials[3]


def test_the_same_error_in_all_the_first_trials_ends_the_queue(trials: list[Trial]) -> None:
    queue = queue_of(trials)
    for number in range(IDENTICAL_ERRORS):
        assert queue.suggest(str(number)) == trial_to_config(trials[number])
        end(queue, trials, number, f"no file /somewhere/{number}")
    assert queue.suggest("next") == Searcher.FINISHED
    assert queue.common_error == "ValueError: no file /somewhere/0"
    assert queue.remaining == len(trials) - IDENTICAL_ERRORS


@pytest.mark.parametrize("errors", [("a", "b", "a"), ("a", None, "a", "a", "a")])
def test_other_errors_or_one_success_are_no_bug(trials: list[Trial], errors: tuple[str | None, ...]) -> None:
    queue = queue_of(trials)
    for number, error in enumerate(errors):
        queue.suggest(str(number))
        end(queue, trials, number, error)
    assert queue.common_error is None
    assert queue.suggest("next") == trial_to_config(trials[len(errors)])


def test_an_interrupted_queue_hands_out_nothing_more(trials: list[Trial]) -> None:
    queue = queue_of(trials)
    queue.suggest("0")
    queue.interrupted = True
    assert queue.suggest("1") == Searcher.FINISHED


def test_a_watcher_with_a_terminal_can_be_written_down(trials: list[Trial]) -> None:
    progress = StudyProgress(1)
    progress.add(0, TrialProgress("lr=1", (0,), 10))
    with TableScreen(progress, Console(force_terminal=True)) as screen:
        assert cloudpickle.dumps(ProgressCallback(progress, screen, queue_of(trials)))


def test_the_status_of_a_trial_is_that_of_its_members(trials: list[Trial]) -> None:
    assert trial_status(trials[0]) == "paused"
    record_failure(trials[0], ValueError("no"), "fingerprint")
    assert trial_status(trials[0]) == "failed"
    assert job_outcome(trials[0]).state == "failed"
