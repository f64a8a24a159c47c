"""The progress of a study and its display."""

from io import StringIO

from rich.console import Console

from ensemble.study.progress import StudyProgress, TrialProgress
from ensemble.study.progress_screen import LineScreen, TableScreen, seed_text
from ensemble.text import duration


class Clock:
    now = 100.0

    def __call__(self) -> float:
        return self.now


def make_progress(clock: Clock) -> StudyProgress:
    progress = StudyProgress(2, clock)
    progress.add(0, TrialProgress("lr=0.001", (0, 1, 2), 100))
    progress.add(1, TrialProgress("lr=0.01", (0, 1, 2), 100))
    return progress


def report(step: int, loss: float = 0.5) -> dict[str, float | int | str]:
    return {"step": step, "steps": 100, "train/loss": loss, "train/loss_std": 0.25, "status": "running"}


def test_the_rate_counts_member_steps_between_the_first_and_the_last_report() -> None:
    clock = Clock()
    progress = make_progress(clock)
    progress.begin(0)
    clock.now += 30  # starting up is no training
    progress.update(0, report(10))
    assert progress.trials[0].rate is None
    clock.now += 10
    progress.update(0, report(30))
    assert progress.trials[0].rate == 20 * 3 / 10


def test_the_remaining_time_follows_from_the_share_that_is_done() -> None:
    clock = Clock()
    progress = make_progress(clock)
    assert progress.remaining is None
    progress.update(0, report(50))
    clock.now += 60
    assert progress.share == 0.25
    assert progress.remaining == 180
    progress.end(0, "completed")
    progress.end(1, "failed", "ValueError: no")
    assert progress.share == 1.0
    assert "2 of 2 trials" in progress.summary()
    assert "1 failed" in progress.summary()


def test_lines_tell_every_change_of_status_and_else_keep_quiet_for_some_seconds() -> None:
    clock, lines = Clock(), list[str]()
    progress = make_progress(clock)
    with LineScreen(progress, lines.append) as screen:
        progress.begin(0)
        screen.update(0)
        for step in (10, 20, 30):
            clock.now += 1
            progress.update(0, report(step))
            screen.update(0)
        assert len(lines) == 1
        clock.now += 10
        progress.update(0, report(40))
        screen.update(0)
        progress.end(0, "failed", "ValueError: no")
        screen.update(0)
    assert "step 40/100" in lines[1]
    assert "0.5 ± 0.2" in lines[1]
    assert lines[2].endswith("ValueError: no")
    assert lines[3] == progress.summary()


def test_a_terminal_shows_running_trials_first_and_counts_the_hidden_ones() -> None:
    progress = StudyProgress(30, Clock())
    for n in range(30):
        progress.add(n, TrialProgress(f"width={n} [x]", (0,), 10))
    progress.begin(9)
    console = Console(file=StringIO(), force_terminal=True, width=120, height=10)
    screen = TableScreen(progress, console)
    console.print(screen._table())
    text = console.file.getvalue()  # type: ignore[attr-defined]
    assert text.index("width=9") < text.index("width=29")
    assert "width=29 [x]" in text
    assert "width=0" not in text
    assert "24 trials not shown" in text


def test_a_line_is_printed_above_the_table_and_stays() -> None:
    progress = StudyProgress(2, Clock())
    progress.add(0, TrialProgress("width=1", (0,), 10))
    console = Console(file=StringIO(), force_terminal=True, width=60, height=10)
    with TableScreen(progress, console) as screen:
        screen.say("stopping: [all] trials save, " + "which takes a long line to say, " * 3)
    text = console.file.getvalue()  # type: ignore[attr-defined]
    said = text.index("stopping: [all] trials save, " + "which takes a long line to say, " * 3 + "\n")
    assert "width=1" in text[said:]  # the table is drawn again below it
    screen.close()


def test_the_first_trial_is_waited_for_until_it_reports() -> None:
    progress = make_progress(Clock())
    assert "process" in progress.awaited()
    progress.begin(0)
    assert "torch" in progress.awaited()
    progress.update(0, report(10))
    assert progress.awaited() == ""


def test_seeds_and_durations_are_short() -> None:
    assert seed_text(range(10)) == "0-9"
    assert seed_text((3, 5, 8)) == "3,5,8"
    assert seed_text((4,)) == "4"
    assert [duration(s, tenths=False) for s in (4.4, 65, 7800)] == ["4 s", "1 min 05 s", "2 h 10 min"]


def test_a_paused_trial_has_not_ended() -> None:
    clock, said = Clock(), list[str]()
    progress = make_progress(clock)
    with LineScreen(progress, said.append) as screen:
        progress.update(0, report(50))
        progress.update(1, report(10))
        clock.now += 60
        progress.pause(0, "paused")
        progress.pause(1, "1 completed, 2 paused")
        for number in (0, 1):
            screen.update(number)
    assert said[0].startswith("[1/2] lr=0.001 | seeds 0-2 | paused")
    assert said[-1] == "0 of 2 trials, 30%, 1 min 00 s, 2 paused"


def test_nothing_is_done_before_the_first_trial() -> None:
    assert StudyProgress(2, Clock()).summary() == "0 of 2 trials, 0%, 0 s"
    assert StudyProgress(2, Clock(), unit="pack").summary() == "0 of 2 packs, 0%, 0 s"
    assert StudyProgress(4, Clock(), ended_before=3).summary() == "3 of 4 trials, 75%, 0 s"


def test_one_trial_is_singular() -> None:
    assert StudyProgress(1, Clock()).summary() == "0 of 1 trial, 0%, 0 s"


def test_trials_that_ended_before_a_run_was_extended_are_counted() -> None:
    progress = StudyProgress(expected=6, clock=Clock(), ended_before=4)
    said: list[str] = []
    with LineScreen(progress, said.append) as screen:
        for number in (4, 5):
            progress.add(number, TrialProgress("lr=0.1", [0], 100))
            progress.begin(number)
            progress.end(number, "completed")
            screen.update(number)
    assert said[0].startswith("[5/6]")
    assert [line.partition(",")[0] for line in said if " trials" in line] == ["5 of 6 trials", "6 of 6 trials"]
    assert "100%" in said[-1]
