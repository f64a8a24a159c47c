"""One member's losses as tiny pi0's authors draw theirs: training and validation by epoch, the test loss as a line."""

from pathlib import Path

import matplotlib
from matplotlib.ticker import MaxNLocator

from ensemble.reporting.drawing import PALETTE, STYLE, Series, new_figure, save


def draw_losses(train: Series, validation: Series, test: float | None, label: str, file: Path) -> None:
    """Write the picture of one member; `label` names the loss, and without a test loss there is no line of it."""
    with matplotlib.rc_context(STYLE):
        figure = new_figure(5.0)
        axes = figure.add_subplot()
        axes.plot(train.x, train.y, color=PALETTE[0], label="Train Loss")
        axes.plot(validation.x, validation.y, color=PALETTE[1], label="Val Loss")
        if test is not None:
            axes.axhline(test, color="red", linestyle=":", label=f"Test Loss ({test:.4f})")
        axes.set(title="Loss Curve", xlabel="Epoch", ylabel=label)
        axes.xaxis.set_major_locator(MaxNLocator(integer=True))
        axes.legend(frameon=False)
    save(figure, file)
