"""Time of an epoch of tiny pi0 and tiny pi0-FAST per member: ours against their authors' plain loop, on the same pairs.

    python -m benchmarks policy_training [--family pi0 | pi0_fast | both] [--steps 8] [--rounds 5] [--packs 1 2]

Both cores are busy on both sides (`lanes.py`). Plain, for what its authors do (`plain_policies.py`): a process a
member with one thread each, two at a time; and one process with two threads, which is what the script does by itself.
Ours, two trials as Ray places them here, a core each: the published recipe (float32, dropout; of
`pi0_ensemble.yaml`), and the recipe for a CPU (bf16 products, no dropout, averaged weights; of
`pi0_quick.yaml`) in packs of several sizes. They are driven by the package's own training loop, without Ray.

What is timed are steps after the first few: gathering batches, forward, backward, clipping where the recipe has it,
optimizer; without validation, checkpoints and the start of processes, on either side. The published epoch of 625 steps
is extrapolated from them linearly. Ours draws noise and times at every step, theirs once.
Equivalence first: equal weights and noise without dropout give equal losses and gradients. The machine's limit is
listed with them: the products of a step's linear layers alone, in two processes as well (without attention's).
"""

import argparse
import shutil
import statistics
import tempfile
from collections.abc import Callable, Sequence
from pathlib import Path

import numpy as np
import torch
from torch import Tensor

from benchmarks.command import Parser, announce, equivalence, row, say
from benchmarks.policies.lanes import CORES, Side, serve, take_turns
from benchmarks.policies.plain_policies import PAD, Sample, TinyPi0, TinyPi0Fast
from benchmarks.timing import ratio
from benchmarks.training.training_step import products_of
from ensemble.config import Experiment, load
from ensemble.config.data import DataConfig, SimulateConfig
from ensemble.config.policy import Pi0FastConfig
from ensemble.data.convert import convert
from ensemble.data.trajectories import read_trajectories
from ensemble.data.windows import Windows
from ensemble.models.base import Batch
from ensemble.models.pi0 import Pi0
from ensemble.models.policy import Policy
from ensemble.models.state_dicts import to_state_dict
from ensemble.run_directory import MemberDirectory
from ensemble.schema import VALIDATION_LOSS, role_columns
from ensemble.simulation.inverted_pendulum import simulate
from ensemble.text import plural
from ensemble.training.context import InlineContext
from ensemble.training.loop import Outputs, Trainer
from ensemble.training.members import Curve
from ensemble.training.pack import Pack
from ensemble.training.setup import Setup, TrialData
from ensemble.training.tasks import set_up
from ensemble.training.tokens import chunks_of
from ensemble.training.trial import keep_freed_memory

FAMILIES = ("pi0", "pi0_fast")
EPOCH = 625  # steps: 80,000 pairs in batches of 128
EPISODES = 640  # of which four in five train: 12,800 pairs, a hundred whole batches
SPACES = Path(__file__).parents[2] / "search_spaces"
RECIPES = {
    "published": {"pi0": ("pi0_ensemble",), "pi0_fast": ("pi0_fast_ensemble", "model.logits_dropout=0.1")},
    "cpu": {"pi0": ("pi0_quick",), "pi0_fast": ("pi0_quick", "model.family=pi0_fast")},
}
KINDS = {"fp32": "published", "bf16": "cpu"}  # which recipe has which products
FAR = 1_000_000_000  # steps: no run of this benchmark ends, saves or stops early
PLAIN, THREADED, SAME = "plain, one thread each", "plain, two threads", "ours, the same recipe"


# Data and configurations -------------------------------------------------------------------------------------------


def prepare(folder: Path, episodes: int) -> None:
    """Simulate the expert; write shards for ours, and the same training pairs as their npz, unless they exist."""
    if (folder / "pairs.npz").is_file():
        return
    folder.mkdir(parents=True, exist_ok=True)
    shutil.rmtree(folder / "shards", ignore_errors=True)
    source = simulate(SimulateConfig(episodes=episodes), folder / "expert.h5")
    convert([source], folder / "shards", DataConfig(path=str(source)))
    setup = set_up_on(folder, recipe(folder, "published", "pi0_fast"))
    windows, everything = setup.train, np.arange(setup.train.count)
    assert isinstance(windows, Windows)
    assert setup.tokens is not None
    state = windows.gather(everything)[:, 0, role_columns(setup.features, "state")].numpy()
    chunks = chunks_of(windows, everything)[..., 0]
    np.savez(folder / "pairs.npz", state=state, action_chunk=chunks, token_seq=setup.tokens.numpy().astype(np.int32))


def recipe(folder: Path, name: str, family: str, *more: str) -> Experiment:
    """Return a configuration that the package ships, on these data and without an end."""
    space, *changes = RECIPES[name][family]
    endless = (f"train.steps={FAR}", f"train.checkpoint_every={FAR}", "train.patience=null")
    return load(SPACES / f"{space}.yaml", [f"data.path={folder / 'shards'}", *changes, *endless, *more]).first


def set_up_on(folder: Path, experiment: Experiment) -> Setup:
    """Read the shards."""
    return set_up(experiment, TrialData(read_trajectories(folder / "shards"), {}), InlineContext())


# Our side ----------------------------------------------------------------------------------------------------------


def ours(folder: Path, experiment: Experiment, seeds: Sequence[int]) -> Callable[[int], None]:
    """Return the package's training loop of a pack, for so many steps."""
    torch.set_num_threads(experiment.resources.threads)
    keep_freed_memory()
    context, setup = InlineContext(), set_up_on(folder, experiment)
    pack = Pack(experiment, setup.features, setup.normalization, seeds, context)
    batches = setup.batches(pack, experiment.train.batch_size, context)
    outputs = [Outputs(MemberDirectory(folder / f"{seed}"), Curve("", seed, "ensemble"), ()) for seed in seeds]
    trainer = Trainer(experiment, pack, batches, [unmeasured], outputs, {}, context)

    def run(steps: int) -> None:
        trainer.advance(trainer.step + steps)
        assert all(member.active for member in pack.members)

    return run


def unmeasured(pack: Pack) -> list[dict[str, float]]:
    """Stand in for the validation, which is not timed."""
    return [{VALIDATION_LOSS: 0.0} for _ in pack.members]


def products(experiment: Experiment) -> Callable[[int], None]:
    """Return the products of the linear layers of a step of one member, for so many steps."""
    torch.set_num_threads(experiment.resources.threads)
    model = experiment.model
    d, fast = model.n_embd, isinstance(model, Pi0FastConfig)
    shapes = [(d, 3 * d), (d, d), (d, 2 * d), (2 * d, d)] * model.n_layer
    shapes += [(d, model.tokenizer.vocabulary)] if isinstance(model, Pi0FastConfig) else []
    kind = torch.bfloat16 if experiment.train.precision == "bf16" else torch.float32
    once = products_of(shapes, experiment.train.batch_size * (model.tokens - fast), kind)

    def run(steps: int) -> None:
        for _ in range(steps):
            once()

    return run


# Both sides --------------------------------------------------------------------------------------------------------


def check_equivalence(folder: Path, family: str) -> None:
    """Compare losses and gradients of ours and of the plain network, weights and noise being the same."""
    undropped = ("model.dropout=0", *(("model.logits_dropout=0",) if family == "pi0_fast" else ()))
    experiment = recipe(folder, "published", family, *undropped)
    context, setup = InlineContext(), set_up_on(folder, experiment)
    pack = Pack(experiment, setup.features, setup.normalization, (0,), context)
    batch = setup.batches(pack, experiment.train.batch_size, context).at(0)
    network = TinyPi0(0.0) if family == "pi0" else TinyPi0Fast(0.0)
    network.load_state_dict(to_state_dict(pack.module, 0))
    mine, theirs = pack.module(batch)[0].sum(), network.loss(sample_of(pack, batch))
    pack.arena.zero_grad()
    mine.backward()
    theirs.backward()  # type: ignore[no-untyped-call]
    pack.arena.values.data.copy_(pack.arena.grad)  # gradients in the shapes of torch's layers
    gradients = to_state_dict(pack.module, 0)
    plain = {name: parameter.grad for name, parameter in network.named_parameters() if parameter.grad is not None}
    assert plain.keys() == gradients.keys()
    norm = norm_of(list(plain.values()))
    differences = {
        "loss": abs(mine.item() / theirs.item() - 1),
        "gradient norm": abs(norm_of(list(gradients.values())) / norm - 1),
        "gradient": norm_of([gradients[name] - value for name, value in plain.items()]) / norm,
    }
    listed = ", ".join(f"of the {name} {value:.1e}" for name, value in differences.items())
    equivalence(f"batches of {batch.points.shape[1]}, relative difference {listed}")
    assert differences["loss"] < 1e-5
    assert max(differences.values()) < 1e-4


def sample_of(pack: Pack, batch: Batch) -> Sample:
    """Return a batch of one member as the plain network takes it."""
    module = pack.module
    assert isinstance(module, Policy)
    state = module.observation_of(batch.points)[0]
    if batch.tokens is not None:
        tokens = batch.tokens[0]
        return state, tokens, (tokens != PAD).long(), tokens
    assert isinstance(module, Pi0)
    assert batch.noise is not None
    return state, module.noise(batch.noise)[0], module.times(batch.noise)[0], module.chunk_of(batch.points)[0]


def norm_of(tensors: Sequence[Tensor]) -> float:
    """Return the norm of all numbers together."""
    return float(torch.cat([tensor.flatten() for tensor in tensors]).double().norm())


def sides_of(folder: Path, family: str, packs: Sequence[int], lanes: int) -> dict[str, Side]:
    """Return how each side is run."""
    plain = ("benchmarks.policies.plain_policies", "--family", family, "--data", str(folder / "pairs.npz"))
    own = ("benchmarks.policies.policy_training", "--family", family, "--data", str(folder), "--lane")
    sides = {
        PLAIN: Side(plain, lanes=lanes),
        THREADED: Side((*plain, "--threads", str(CORES)), lanes=1, threads=CORES),
        SAME: Side((*own, "published", "--packs", "1"), lanes=lanes),
    }
    sides |= {cpu(pack): Side((*own, "cpu", "--packs", str(pack)), members=pack, lanes=lanes) for pack in packs}
    return sides | {alone(kind): Side((*own, name, "--products"), lanes=lanes) for kind, name in KINDS.items()}


def cpu(pack: int) -> str:
    """Name a side of ours."""
    return f"ours, the CPU recipe, packs of {pack}"


def alone(kind: str) -> str:
    """Name the products of a precision."""
    return f"products alone, {kind}"


def compare(folder: Path, family: str, options: argparse.Namespace) -> None:
    """Let the sides take turns, and print what an epoch of a member takes."""
    packs, rounds, steps = options.packs, options.rounds, options.steps
    say(f"{family}: the machine's seconds for an epoch of a member, {EPOCH} steps of 128 pairs, both cores busy")
    say(f"  extrapolated linearly from {plural(steps, 'step')} of each process, {plural(rounds, 'round')}")
    check_equivalence(folder, family)
    turns = take_turns(sides_of(folder, family, packs, options.lanes), rounds, steps)
    seconds = {name: [turn.seconds for turn in side] for name, side in turns.items()}
    processor = {name: [turn.processor for turn in side] for name, side in turns.items()}
    titles = "seconds", "plain / this", "by processor time", "plain of two threads / this"
    row("", *titles, width=20)
    for name, values in seconds.items():
        ratios = ratio(seconds[PLAIN], values), ratio(processor[PLAIN], processor[name])
        row(name, f"{EPOCH * statistics.median(values):.1f}", *ratios, ratio(seconds[THREADED], values), width=20)
    for kind, name in (("fp32", SAME), ("bf16", cpu(packs[0]))):
        share = ratio(processor[alone(kind)], processor[name]).replace("x", "")
        say(f"  share of {name} that its products alone would take: {share}")


def main() -> None:
    parser = Parser(__doc__, quick={"steps": 1, "rounds": 1, "packs": [1], "lanes": 1, "episodes": 20})
    parser.add_argument("--family", choices=(*FAMILIES, "both"), default="both")
    parser.add_argument("--steps", type=int, default=8, help="of each process in each round")
    parser.add_argument("--rounds", type=int, default=5)
    parser.add_argument("--packs", type=int, nargs="+", default=[1, 2], help="members that ours trains in one pass")
    parser.add_argument("--lanes", type=int, default=CORES, help="processes of a side, one a core")
    parser.add_argument("--data", type=Path, help="folder in which the pairs are, or are kept")
    parser.add_argument("--episodes", type=int, default=EPISODES, help="to simulate")
    parser.add_argument("--lane", choices=tuple(RECIPES), help=argparse.SUPPRESS)
    parser.add_argument("--products", action="store_true", help=argparse.SUPPRESS)
    parser.add_argument("--number", type=int, help=argparse.SUPPRESS)
    options = parser.parse()
    if options.lane:
        experiment, pack = recipe(options.data, options.lane, options.family), options.packs[0]
        seeds = range(options.number * pack, (options.number + 1) * pack)
        serve(products(experiment) if options.products else ours(options.data, experiment, tuple(seeds)))
        return
    families = FAMILIES if options.family == "both" else (options.family,)
    rounds = plural(options.rounds, "round")
    announce(options, f"An epoch of {' and of '.join(families)}, {rounds} of {5 + len(options.packs)} sides", 4)
    with tempfile.TemporaryDirectory() as name:
        folder = (options.data or Path(name)).resolve()
        prepare(folder, options.episodes)
        for family in families:
            compare(folder, family, options)


if __name__ == "__main__":
    main()
