"""Setting up trials of policies, which answer an observation with a chunk of actions: data, tokens, measures, examples.

A window of H transitions is an observation, the state at its first point, and the H actions from there on.
"""

from functools import partial

import pyarrow as pa

from ensemble.config import Experiment
from ensemble.data.splits import split_windows
from ensemble.data.trajectories import Segments, Trajectories
from ensemble.data.windows import Windows
from ensemble.models.base import Normalization
from ensemble.training.context import Context
from ensemble.training.dynamics import example_table
from ensemble.training.measure_policy import PolicyMeasure, action_labels
from ensemble.training.pack import Pack
from ensemble.training.setup import Setup, TrialData, training_statistics
from ensemble.training.tokens import fit_tokens

_SHOWN_WINDOWS = 6  # chunks kept for the figure


def set_up(experiment: Experiment, data: TrialData, context: Context, normalization: Normalization | None) -> Setup:
    """Fill a setup for a policy; see `tasks.set_up`."""
    main, model = data.main, experiment.model
    window = model.window

    # Data
    splits = split_windows(main, experiment.data, window)
    train = Windows(main, splits["train"], window)
    normalization = normalization or training_statistics(main, splits["train"], model.target)
    tokens = fit_tokens(experiment, train, normalization) if model.chunk_tokenizer else None

    # Measures
    def measure(name: str, source: Trajectories, segments: Segments) -> PolicyMeasure:
        many = experiment.train.rollout.test_windows if name == "test" else None
        counts = (many or experiment.train.validation_windows, many or experiment.train.rollout.windows)
        return PolicyMeasure(name, Windows(source, segments, window), counts, context, tokens)

    test = measure("test", main, splits["test"])
    return Setup(
        features=main.features,
        normalization=normalization,
        train=train,
        validations=(
            measure("validation", main, splits["validation"]),
            *(measure(f"validation_{name}", other, other.episodes) for name, other in data.named.items()),
        ),
        test=test,
        examples=partial(examples, main, test),
        draw=model.noise_draw,
        tokens=None if tokens is None else tokens.table(train),
        companions=() if tokens is None else (lambda member: tokens.tokenizer.save(member.tokenizer_file),),
    )


def examples(data: Trajectories, test: PolicyMeasure, pack: Pack) -> list[pa.Table]:
    """Sample the chunks of some test windows, for the figure: a table a member; step 1 is the first action."""
    truth, sampled = test.sample(pack, _SHOWN_WINDOWS)
    return [example_table(truth, member, action_labels(data.features), 1) for member in sampled]
