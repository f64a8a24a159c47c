"""A training step of the 2.7 M model: ours against plain PyTorch, fed by its DataLoader, on the same windows.

    python -m benchmarks training_step [--threads 2] [--rounds 7] [--no-compile | --quick [--compile]]

Equivalence first: equal weights give equal losses and gradients. Then steps in turns, with the machine's limit in the
same run: the matrix products of a step alone. Compiling takes a minute or two of the warm-up; `--quick` leaves it out.
"""

import argparse
import json
from collections.abc import Callable, Sequence
from functools import partial

import numpy as np
import torch
from torch.utils.data import DataLoader

from benchmarks.command import Parser, announce, equivalence, row, say
from benchmarks.timing import alternate, milliseconds, ratio
from benchmarks.training.plain import PlainGPT, PlainTrainer, WindowDataset, statistics_of
from ensemble.config import Experiment
from ensemble.data.trajectories import Segments, Trajectories
from ensemble.data.windows import Windows
from ensemble.schema import Feature
from ensemble.text import plural
from ensemble.training.batches import Batches, ResidentBatches
from ensemble.training.context import InlineContext
from ensemble.training.pack import Pack
from ensemble.training.setup import training_statistics

FEATURES = (
    Feature("states", 4, "state", ("q0", "q1", "qd0", "qd1"), (True, True, False, False)),
    Feature("gravity_dir", 3, "control", ("x", "y", "z"), (False,) * 3),
)
HISTORY = 10
PLAIN, OURS = "plain PyTorch + DataLoader", "ours fp32"


def pendulum_like(episodes: int = 400, points: int = 101, seed: int = 0) -> Trajectories:
    """Return smooth random trajectories of the double pendulum's shape (its physics do not matter to speed)."""
    rng = np.random.default_rng(seed)
    phase = (
        rng.uniform(-np.pi, np.pi, (episodes, 1, 4))
        + rng.uniform(1, 4, (episodes, 1, 4)) * np.linspace(0, 6, points)[None, :, None]
    )
    states = np.concatenate([2 * np.sin(phase[..., :2]), 5 * np.cos(phase[..., 2:])], axis=-1)
    gravity = np.broadcast_to([0.0, 0.0, -1.0], (episodes, points, 3))
    rows = np.concatenate([states, gravity], axis=-1).astype(np.float32).reshape(-1, 7)
    rows.setflags(write=False)
    lengths = np.full(episodes, points, np.int64)
    hashes = np.arange(episodes, dtype=np.uint64)
    segments = Segments(np.cumsum(lengths) - lengths, lengths, hashes)
    keys = tuple(str(i) for i in range(episodes))
    return Trajectories(rows, FEATURES, segments, keys, (None,) * episodes, "benchmark", 1 / 60)


def experiment(precision: str, compile_step: bool, threads: int, batch: int, model: dict[str, int]) -> Experiment:
    """Return a configuration of the default model, but for what `model` changes."""
    tree = {
        "experiment": "benchmark",
        "data": {"source": "double_pendulum"},
        "model": model,
        "train": {"batch_size": batch, "precision": precision, "compile": compile_step},
        "resources": {"threads": threads},
    }
    return Experiment.model_validate_json(json.dumps(tree))


def ours(data: Trajectories, config: Experiment) -> tuple[Pack, Batches]:
    """Return a pack of one member, and its batches."""
    context = InlineContext()
    pack = Pack(config, data.features, training_statistics(data, data.episodes, config.model.target), (0,), context)
    return pack, ResidentBatches(Windows(data, data.episodes, HISTORY), (0,), config.train.batch_size, 0, context)


def plain(data: Trajectories, config: Experiment) -> tuple[PlainTrainer, WindowDataset]:
    """Return the plain trainer of that configuration, and its windows."""
    model = config.model
    rows = data.rows.reshape(len(data.episodes), -1, 7)
    angles = np.array(FEATURES[0].angles)
    network = PlainGPT(7, 4, model.n_embd, model.n_layer, model.n_head, model.block_size, model.head.layer_sizes[0])
    states = np.ascontiguousarray(rows[..., :4])
    trainer = PlainTrainer(network, statistics_of(states, rows, angles), torch.from_numpy(angles), 1e-3)
    return trainer, WindowDataset(states, rows.copy(), HISTORY)


def copy_weights(pack: Pack, network: PlainGPT) -> None:
    """Give the plain model the pack's only member; ours are (in, out), torch's (out, in)."""
    named = dict(network.named_parameters())
    for name, parameter in pack.module.named_parameters():
        short = name
        for prefix in ("transformer_model.transformer.", "transformer_model.", "model."):
            short = short.removeprefix(prefix)
        target = named[short.replace("feature_net.body.0", "feature_net")]
        value = parameter.detach()[0]
        target.data.copy_(value.T if target.dim() == 2 and "wpe" not in short else value.reshape(target.shape))


def check_equivalence(pack: Pack, batches: Batches, trainer: PlainTrainer) -> None:
    """Compare loss and gradient norm, weights and batch being the same."""
    batch = batches.at(0)
    points = batch.points[0]
    as_dict = {"inputs": points[:, :-1], "states": points[:, :-1, :4], "next_states": points[:, 1:, :4]}
    theirs = trainer.loss(as_dict)
    theirs.backward()
    mine = pack.module(batch)[0].sum()
    pack.arena.zero_grad()
    mine.backward()
    norm = torch.cat([p.grad.reshape(-1) for p in trainer.model.parameters()]).double().norm()
    difference = abs(mine.item() / theirs.item() - 1), abs((pack.arena.grad.double().norm() / norm).item() - 1)
    equivalence(f"relative difference of loss {difference[0]:.1e}, of gradient norm {difference[1]:.1e}")
    assert max(difference) < 1e-4
    trainer.optimizer.zero_grad()


def products_alone(config: Experiment, dtype: torch.dtype) -> Callable[[], None]:
    """Return the matrix products of one step: each layer's forward and its two backward products."""
    d, rows = config.model.n_embd, config.train.batch_size * HISTORY
    shapes = [(d, 3 * d), (d, d), (d, 4 * d), (4 * d, d)] * config.model.n_layer + [(d, d), (d, 64)]
    return products_of(shapes, rows, dtype)


def products_of(shapes: Sequence[tuple[int, int]], rows: int, dtype: torch.dtype) -> Callable[[], None]:
    """Return the forward and the two backward products of layers of these shapes (in, out), for so many rows."""
    tensors = {
        (i, o): (torch.randn(rows, i, dtype=dtype), torch.randn(i, o, dtype=dtype), torch.randn(rows, o, dtype=dtype))
        for i, o in dict.fromkeys(shapes)
    }

    def run() -> None:
        for shape in shapes:
            x, w, g = tensors[shape]
            x @ w
            g @ w.T
            x.T @ g

    return run


def main() -> None:
    parser = Parser(__doc__, quick={"compile": False, "rounds": 1, "batch": 16, "layers": 1, "heads": 2, "width": 16})
    parser.add_argument("--threads", type=int, default=2)
    parser.add_argument("--rounds", type=int, default=7)
    parser.add_argument("--batch", type=int, default=512)
    parser.add_argument("--layers", type=int, default=6)
    parser.add_argument("--heads", type=int, default=12)
    parser.add_argument("--width", type=int, default=192)
    parser.add_argument("--compile", action=argparse.BooleanOptionalAction, default=True)
    options = parser.parse()
    what = f"A step of {options.layers} layers of width {options.width} in batches of {options.batch}"
    announce(options, f"{what}, {plural(options.threads, 'thread')}, {plural(options.rounds, 'round')}", 3)

    # Our side
    torch.set_num_threads(options.threads)
    torch.manual_seed(0)
    data = pendulum_like()
    model = {"n_layer": options.layers, "n_head": options.heads, "n_embd": options.width}
    kinds = {OURS: ("fp32", False), "ours bf16": ("bf16", False)}
    if options.compile:
        kinds["ours fp32 compiled"] = ("fp32", True)
    configs = {name: experiment(*kind, options.threads, options.batch, model) for name, kind in kinds.items()}
    packs = {name: ours(data, config) for name, config in configs.items()}
    steps = dict.fromkeys(packs, 0)

    def step(name: str) -> None:
        pack, batches = packs[name]
        pack.step(batches.at(steps[name]), [1e-4])
        steps[name] += 1

    # The plain side
    trainer, dataset = plain(data, configs[OURS])
    copy_weights(packs[OURS][0], trainer.model)
    check_equivalence(*packs[OURS], trainer)
    iterator = iter(DataLoader(dataset, options.batch, shuffle=True, drop_last=True))

    # Turns
    candidates = {PLAIN: lambda: trainer.step(next(iterator), 1e-4)}
    candidates |= {name: partial(step, name) for name in packs}
    candidates["products alone fp32"] = products_alone(configs[OURS], torch.float32)
    candidates["products alone bf16"] = products_alone(configs[OURS], torch.bfloat16)
    seconds = alternate(candidates, options.rounds, warmup=2)
    for name, values in seconds.items():
        row(name, milliseconds(values), f"plain / this {ratio(seconds[PLAIN], values)}", width=12)
    for kind in ("fp32", "bf16"):
        share = ratio(seconds[f"products alone {kind}"], seconds[f"ours {kind}"])
        say(f"  share of our {kind} step that its matrix products alone would take: {share.replace('x', '')}")


if __name__ == "__main__":
    main()
