"""Closed loop of ten members: ours in one batch against a process for each member that steps one environment at a time.

    python -m benchmarks closed_loop [--run RUN] [--members 10] [--episodes 6] [--many 120]

The other side is what tiny pi0's own script does (inference/main_pi0.py): one gymnasium environment, one observation,
one whole chunk, of which `replan` actions are applied; but with the weights loaded once, where the script loads them
anew for each chunk. Its episodes are few, and its time is extrapolated linearly, without the start of its processes.

Equivalence before any ratio, over the same episodes with the same noise: actions of a batch and of a single row differ
in their last digits, and a closed loop can amplify that, so flags must agree in all but one in a hundred episodes, and
convergence steps in 95 of 100; both counts are printed. Without a run (--run DIR) members are untrained networks whose
poles fall at once: then the other side continues to step 100 as ours does, so that both drive whole episodes.
"""

import argparse
import os
import subprocess
import sys
import tempfile
import time
from functools import partial
from pathlib import Path

import numpy as np
import torch

from benchmarks.command import Parser, announce, equivalence, say
from benchmarks.timing import ratio, spread, take_turns
from ensemble.closed_loop.episodes import Outcome, draw_episodes, first_calm, run_episodes
from ensemble.closed_loop.evaluate import find_candidates
from ensemble.closed_loop.load_policy import PolicyEnsemble
from ensemble.config import Experiment
from ensemble.models.base import Normalization, initialize
from ensemble.run_directory import MemberDirectory
from ensemble.schema import Feature
from ensemble.simulation.pendulum_env import CONTROL_LIMIT, EPISODE_STEPS, PendulumEnv
from ensemble.text import plural
from ensemble.training.context import InlineContext
from ensemble.training.pack import Pack
from ensemble.training.weights import save_model, save_row

FEATURES = (
    Feature("observations", 4, "state", ("x", "theta", "x_dot", "theta_dot"), (False,) * 4),
    Feature("actions", 1, "control", ("control",), (False,)),
)
NOISE, REPLAN = 0.05, 10


def fresh_members(place: Path, members: int) -> dict[int, Path]:
    """Write untrained members of tiny pi0."""
    tree = {"experiment": "fresh", "data": {"source": "inverted_pendulum"}, "model": {"family": "pi0"}}
    experiment = Experiment.model_validate(tree)
    normalization = Normalization.identity(FEATURES)
    pack = Pack(experiment, FEATURES, normalization, tuple(range(members)), InlineContext())
    initialize(pack.module, tuple(range(members)))
    found = {}
    for seed, row in enumerate(pack.arena.values.detach()):
        directory = MemberDirectory(place / f"fresh-s{seed}")
        identity = {"config_hash": "fresh", "seed": seed, "experiment": "fresh"}
        save_model(directory, experiment, FEATURES, normalization, pack.arena.layout, identity)
        save_row(directory.weights, row, pack.arena.layout)
        found[seed] = directory.path
    return found


def one_by_one(member: Path, episodes: int, out: Path, through: bool) -> None:
    """Drive one environment at a time with one member; write outcomes and the seconds of the loop alone."""
    torch.set_num_threads(1)
    policy = PolicyEnsemble({0: member})
    starts, noise = draw_episodes(episodes)
    env = PendulumEnv()
    steps, fell, converged = [], [], []
    policy.act(starts[:1])
    begin = time.perf_counter()
    for number in range(episodes):
        env.reset(seed=0)
        env.set_state(starts[number, :2], starts[number, 2:])
        observation, angles, ended, draw = starts[number], [], 0, 0
        while len(angles) < EPISODE_STEPS and (through or not ended):
            chunk = policy.act(observation[None], draw=draw, first=number)[0, 0]
            draw += 1
            for action in chunk[:REPLAN]:
                applied = np.clip(action + NOISE * noise[number, len(angles)], -CONTROL_LIMIT, CONTROL_LIMIT)
                observation, _, terminated, _, _ = env.step(applied)
                angles.append(observation[1])
                ended = ended or (len(angles) if terminated else 0)
                if len(angles) == EPISODE_STEPS or (ended and not through):
                    break
        steps.append(ended or len(angles))
        fell.append(ended > 0)
        converged.append(float(first_calm(np.abs(np.array(angles[: steps[-1]])) < 0.02)))
    np.savez(out, steps=steps, fell=fell, converged=converged, seconds=time.perf_counter() - begin)


def processes(members: dict[int, Path], episodes: int, place: Path, through: bool) -> float:
    """Run one process a member, as many at a time as there are cores; return the seconds that the loops took."""
    cores = len(os.sched_getaffinity(0))
    waiting, running = list(members.items()), []
    environment = os.environ | {"OMP_NUM_THREADS": "1", "PYTHONPATH": os.pathsep.join(sys.path)}
    while waiting or running:
        while waiting and len(running) < cores:
            seed, member = waiting.pop(0)
            command = [sys.executable, "-m", "benchmarks.policies.closed_loop", "--member", str(member)]
            command += ["--episodes", str(episodes), "--out", str(place / f"{seed}.npz")]
            command += ["--through"] if through else []
            running.append(subprocess.Popen(command, env=environment))
        if running.pop(0).wait():
            sys.exit("a process of the other side failed")
    busy = sum(float(np.load(place / f"{seed}.npz")["seconds"]) for seed in members)
    return busy / min(cores, len(members))


def ours(members: dict[int, Path], episodes: int) -> tuple[Outcome, float]:
    """Drive all members and episodes in one batch; return the outcome, and the seconds."""
    policy = PolicyEnsemble(members)
    drawn = draw_episodes(episodes)
    controller = policy.controller("each", horizon=REPLAN)
    run_episodes(controller, draw_episodes(4), members=len(members), replan=REPLAN, noise=NOISE)
    begin = time.perf_counter()
    outcome = run_episodes(controller, drawn, members=len(members), replan=REPLAN, noise=NOISE)
    return outcome, time.perf_counter() - begin


def check_equivalence(outcome: Outcome, place: Path, seeds: list[int]) -> None:
    """Compare outcomes episode by episode."""
    slow = [np.load(place / f"{seed}.npz") for seed in seeds]
    episodes = len(slow[0]["steps"])
    steps, fell, converged = (np.stack([each[name] for each in slow]) for name in ("steps", "fell", "converged"))
    same_end = (outcome.fell[:, :episodes] == fell) & (np.abs(outcome.steps[:, :episodes] - steps) <= 1)
    own = outcome.converged[:, :episodes]
    same_step = (own == converged) | (np.isnan(own) & np.isnan(converged))
    equivalence(
        f"of {plural(fell.size, 'episode')} {same_end.sum()} end alike (length within one step), "
        f"{same_step.sum()} converge at the same step or not at all; {np.isfinite(own).sum()} converged"
    )
    assert same_end.mean() >= 0.99
    assert same_step.mean() >= 0.95


def main() -> None:
    parser = Parser(__doc__, quick={"members": 2, "episodes": 1, "many": 4, "rounds": 1})
    parser.add_argument("--run", type=Path, help="a run of policies; its members are repeated up to --members")
    parser.add_argument("--members", type=int, default=10)
    parser.add_argument("--episodes", type=int, default=6, help="a member, of the slow side")
    parser.add_argument("--many", type=int, default=120, help="episodes a member, of ours")
    parser.add_argument("--rounds", type=int, default=2)
    parser.add_argument("--member", type=Path, help=argparse.SUPPRESS)
    parser.add_argument("--through", action="store_true", help=argparse.SUPPRESS)
    parser.add_argument("--out", type=Path, help=argparse.SUPPRESS)
    options = parser.parse()
    if options.member:
        one_by_one(options.member, options.episodes, options.out, options.through)
        return
    count = plural(options.members, "member")
    announce(options, f"Closed loops of {count} x {options.many} episodes, {plural(options.rounds, 'round')}", 1)
    with tempfile.TemporaryDirectory() as name:
        place = Path(name)
        if options.run:
            paths = list(find_candidates(options.run)[0].members.values())
            members = {seed: paths[seed % len(paths)] for seed in range(options.members)}
        else:
            members = fresh_members(place, options.members)

        # Turns
        drive = partial(processes, members, options.episodes, place, not options.run)
        turns = take_turns({"a process a member": drive, "ours": partial(ours, members, options.many)}, options.rounds)
        slow = [turn.value * options.many / options.episodes for turn in turns["a process a member"]]
        outcomes, fast = zip(*(turn.value for turn in turns["ours"]), strict=True)
        check_equivalence(outcomes[0], place, list(members))

        # Medians
        say(f"one setting, {count} x {options.many} episodes, noise {NOISE}, replan {REPLAN}")
        say(f"  one process a member {spread(slow, '.1f', ' s')}, linear from {options.episodes} episodes each")
        say(f"  ours                 {spread(fast, '.1f', ' s')}")
        chunks = [1e3 * outcome.chunk_seconds / (len(members) * options.many) for outcome in outcomes]
        say(f"  ours is faster {ratio(slow, fast)}, {spread(chunks, '.2f', ' ms')} a chunk")


if __name__ == "__main__":
    main()
