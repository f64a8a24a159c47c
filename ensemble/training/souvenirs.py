"""What is kept of an evaluation beside its rows: a film of the best member or of all, and a recording of the episodes.

Both are of the first setting; a film shows the first episode, chosen by nobody.
"""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any

from ensemble.evaluation.closed_loop import Outcome, record_episodes
from ensemble.reporting.episodes import Setting
from ensemble.reporting.pendulum_film import film
from ensemble.text import plural
from ensemble.training.evaluate import Candidate, best_member

Row = Mapping[str, Any]


@dataclass(slots=True)
class Souvenirs:
    """Collects what members did, as the `watch` of `evaluate`; with `whole` all episodes, else the first alone."""

    whole: bool = False
    setting: Setting | None = None
    outcomes: dict[str, tuple[tuple[int, ...], Outcome]] = field(default_factory=dict)  # seeds, what they did

    def watch(self, candidate: Candidate, setting: Setting, outcome: Outcome) -> None:
        """Keep what a configuration's members did, if it is the first setting."""
        self.setting = self.setting or setting
        if setting == self.setting:
            kept = outcome if self.whole else _first_episode(outcome)
            self.outcomes[candidate.config_hash] = (tuple(candidate.members), kept)

    def write_film(self, rows: Sequence[Row], file: Path, everyone: bool = False) -> str:
        """Write a film of the member that converged most often, or of all of its configuration; say who is in it."""
        config, best = best_member(rows)
        seeds, outcome = self.outcomes[config]
        shown = range(len(seeds)) if everyone else [seeds.index(best)]
        lengths = [int(outcome.steps[member, 0]) for member in shown]
        labels = [f"seed {seeds[member]}" for member in shown]
        film(outcome.states[list(shown), 0], file, lengths, labels, width=960 if everyone else 640)
        return f"{'all members' if everyone else f'seed {best}'} of {config}, {self.setting}, episode 0"

    def write_recording(self, file: Path) -> str:
        """Write every episode of the one configuration; say how many."""
        ((seeds, outcome),) = self.outcomes.values()
        record_episodes(outcome, file)
        return f"{plural(outcome.steps.size, 'episode')} of {plural(len(seeds), 'member')}, {self.setting}"


def _first_episode(outcome: Outcome) -> Outcome:
    names = [name for name in Outcome.__slots__ if name != "chunk_seconds"]
    return replace(outcome, **{name: getattr(outcome, name)[:, :1].copy() for name in names})
