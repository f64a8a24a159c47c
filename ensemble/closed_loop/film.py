"""Films of the inverted pendulum, drawn from its states without OpenGL or a screen, and recordings of its episodes.

A still picture shows cart, pole and rail from the side with a mark every half metre, wide enough for all the motion. A
pole that fell is drawn in another colour and stays as it was when its episode ended. Several members run side by side.
"""

import math
from collections.abc import Sequence
from dataclasses import dataclass, field, replace
from pathlib import Path

import numpy as np
import numpy.typing as npt
from PIL import Image, ImageDraw, ImageFont

from ensemble.closed_loop.episodes import Outcome, record_episodes
from ensemble.closed_loop.evaluate import Candidate, best_member
from ensemble.closed_loop.statistics import EvaluationRow, Setting
from ensemble.reporting.figures.style import INK, PALETTE, REST, SOFT
from ensemble.store import atomic_file
from ensemble.text import plural

FRAME = 0.04  # s between two states; a film of one picture a state runs at the pendulum's own speed
POLE = 0.6  # m
CART = (0.32, 0.14)  # m, width and height
MARKS = 0.5  # m
LEAST_VIEW = 2.4  # m from left to right, where the cart stays within
STANDING, DOWN = PALETTE[0], PALETTE[1]
_FINE = 3  # drawn so many times larger, then made smaller: smooth edges
_GAP = 5  # pixels between a picture's edge and its rail, so that two side by side do not share one
_LAST = 1.0  # s that the last picture stays

States = npt.NDArray[np.floating]


@dataclass(frozen=True, slots=True)
class Panel:
    """What one member's part of a picture shows: `width` x `height` pixels from `left` to `right` metres."""

    left: float
    right: float
    width: int
    height: int

    @property
    def scale(self) -> float:
        """Pixels to a metre."""
        return self.width / (self.right - self.left)


def film(
    states: States,
    file: Path,
    lengths: Sequence[int] | None = None,
    labels: Sequence[str] | None = None,
    width: int = 640,
) -> None:
    """Write an animated GIF of one episode, states (T + 1, 4), or of M side by side, (M, T + 1, 4).

    `lengths` are the steps that each took before it ended, all by default; an episode that ended early fell. `labels`
    name the members. `width` is in pixels. Raises StorageError where the disk refuses.
    """
    episodes = states if states.ndim == 3 else states[None]
    taken = [episodes.shape[1] - 1] * len(episodes) if lengths is None else list(lengths)
    names = labels or [f"member {i}" if len(episodes) > 1 else "" for i in range(len(episodes))]
    # A panel is about two and a half times as wide as high.
    columns = max(1, round(math.sqrt(len(episodes) / 2.5)))
    panel = _panel(episodes, taken, width // columns)
    pictures = []
    for point in range(max(taken) + 1):
        parts = [
            picture(episode[min(point, last)], panel, fell=last <= point and last < episodes.shape[1] - 1, label=name)
            for episode, last, name in zip(episodes, taken, names, strict=True)
        ]
        pictures.append(_tile(parts, columns, f"{point * FRAME:.2f} s"))
    # One palette for all frames: colours of their own would flicker.
    palette = pictures[-1].quantize(64)
    frames = [each.quantize(palette=palette, dither=Image.Dither.NONE) for each in pictures]
    durations = [round(FRAME * 1000)] * (len(frames) - 1) + [round(_LAST * 1000)]
    with atomic_file(file) as temporary:
        frames[0].save(temporary, "GIF", save_all=True, append_images=frames[1:], duration=durations, loop=0)


def strip(states: States, file: Path, pictures: int = 8, length: int | None = None, width: int = 1200) -> None:
    """Write a PNG of moments of one episode, states (T + 1, 4), evenly spread from left to right.

    `length` is the steps taken before it ended, all by default. `width` is in pixels. Raises StorageError.
    """
    last = len(states) - 1 if length is None else length
    panel = _panel(states[None], [last], width // pictures)
    parts = [
        picture(states[point], panel, fell=point == last < len(states) - 1, label=f"{point * FRAME:.2f} s")
        for point in np.linspace(0, last, pictures).round().astype(int)
    ]
    with atomic_file(file) as temporary:
        _tile(parts, pictures, "").save(temporary, "PNG")


def picture(state: States, panel: Panel, fell: bool = False, label: str = "") -> Image.Image:
    """Draw one state (4,)."""
    fine = _FINE * panel.scale
    image = Image.new("RGB", (_FINE * panel.width, _FINE * panel.height), "white")
    draw = ImageDraw.Draw(image)
    # Rail, with a mark every half metre
    rail = image.height - 0.2 * POLE * fine - 8 * _FINE

    def across(metres: float) -> float:
        return (metres - panel.left) * fine

    draw.line([(_GAP * _FINE, rail), (image.width - _GAP * _FINE, rail)], fill=SOFT, width=_FINE)
    for mark in range(math.ceil(panel.left / MARKS), math.floor(panel.right / MARKS) + 1):
        long = 10 if mark == 0 else 5
        draw.line([(across(mark * MARKS), rail), (across(mark * MARKS), rail + long * _FINE)], fill=SOFT, width=_FINE)
    # Cart and pole; theta is measured from upright, clockwise
    x, theta = float(state[0]), float(state[1])
    half, height = CART[0] / 2 * fine, CART[1] / 2 * fine
    middle = across(x)
    draw.rounded_rectangle([middle - half, rail - height, middle + half, rail + height], 0.4 * height, fill=INK)
    tip = middle + POLE * fine * math.sin(theta), rail - POLE * fine * math.cos(theta)
    thick = 0.035 * fine
    draw.line([(middle, rail), tip], fill=DOWN if fell else STANDING, width=round(2 * thick))
    draw.circle(tip, thick, fill=DOWN if fell else STANDING)
    draw.circle((middle, rail), 0.8 * thick, fill=REST)
    if label:
        text = f"{label}: fell" if fell else label
        draw.text((6 * _FINE, 4 * _FINE), text, fill=DOWN if fell else INK, font=ImageFont.load_default(11 * _FINE))
    return image.reduce(_FINE)


def _panel(episodes: States, taken: Sequence[int], width: int) -> Panel:
    """Frame all that the carts do before their episodes end, poles included."""
    # The view is as wide as all motion needs, so that panels have one scale.
    seen = np.concatenate([episode[: last + 1, 0] for episode, last in zip(episodes, taken, strict=True)])
    middle, half = (seen.min() + seen.max()) / 2, max((seen.max() - seen.min()) / 2 + POLE, LEAST_VIEW / 2)
    height = round(width / (2 * half) * 1.3 * POLE) + 24
    return Panel(float(middle - half), float(middle + half), width, height)


def _tile(parts: Sequence[Image.Image], columns: int, clock: str) -> Image.Image:
    """Lay pictures of one size out in rows, and write the time into the corner."""
    width, height = parts[0].size
    sheet = Image.new("RGB", (width * columns, height * math.ceil(len(parts) / columns)), "white")
    for i, part in enumerate(parts):
        sheet.paste(part, (i % columns * width, i // columns * height))
    draw = ImageDraw.Draw(sheet)
    draw.text((sheet.width - 6, 4), clock, fill=SOFT, anchor="ra", font=ImageFont.load_default(11))
    return sheet


@dataclass(slots=True)
class Recorder:
    """Collects what members did in the first setting, as the `watch` of `evaluate`.

    With `whole` all its episodes, else the first alone, so that a film shows an episode that was not selected.
    """

    whole: bool = False
    setting: Setting | None = None
    outcomes: dict[str, tuple[tuple[int, ...], Outcome]] = field(default_factory=dict)  # seeds, what they did

    def watch(self, candidate: Candidate, setting: Setting, outcome: Outcome) -> None:
        """Keep what a configuration's members did, if it is the first setting."""
        self.setting = self.setting or setting
        if setting == self.setting:
            kept = outcome if self.whole else _first_episode(outcome)
            self.outcomes[candidate.config_hash] = (tuple(candidate.members), kept)

    def write_film(self, rows: Sequence[EvaluationRow], file: Path, everyone: bool = False) -> str:
        """Write a film of the member that converged most often, or of all of its configuration; say which are in it."""
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
