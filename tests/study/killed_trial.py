"""A study of one trial with two workers, one of whose processes is killed; prints the cores that are free afterwards.

Run by test_distributed.py in a process of its own, next to a second Ray: `python killed_trial.py FOLDER TITLE`.
"""

import os
import signal
import subprocess
import sys
import threading
import time
from pathlib import Path

from ensemble.config import load
from ensemble.study.cluster import connected, needs
from ensemble.study.plan import Plan, make_plan, write_plan
from ensemble.study.prepare import prepare

OTHER_RAY = """
import os, ray, time
os.environ["RAY_AUTH_MODE"] = "token"
ray.init(address="local", num_cpus=1, include_dashboard=True, log_to_driver=False)
print("ready", flush=True)
time.sleep(600)
"""


def descendants() -> dict[int, str]:
    """Return the command lines of this process's descendants by process id."""
    parents, commands = {}, {}
    for directory in Path("/proc").glob("[0-9]*"):
        try:
            parents[int(directory.name)] = int((directory / "stat").read_text().rpartition(")")[2].split()[1])
            commands[int(directory.name)] = (directory / "cmdline").read_bytes().replace(b"\0", b" ").decode()
        except OSError:
            continue  # ended meanwhile

    def is_mine(process: int) -> bool:
        while process in parents and process != os.getpid():
            process = parents[process]
        return process == os.getpid()

    return {process: command for process, command in commands.items() if is_mine(process)}


def kill_when_training(plan: Plan, title: str) -> None:
    """Wait for a checkpoint, start another Ray next to ours, and kill one process of the trial."""
    while not list(plan.run.glob("members/*/checkpoints/*/MANIFEST.json")):
        time.sleep(0.2)
    with subprocess.Popen([sys.executable, "-c", OTHER_RAY], stdout=subprocess.PIPE, text=True) as other:
        assert other.stdout is not None
        other.stdout.readline()
        victims = [process for process, command in descendants().items() if command.startswith(title)]
        os.kill(victims[0], signal.SIGKILL)
        DONE.wait()
        other.kill()


DONE = threading.Event()


def main(folder: Path, title: str) -> None:
    endless = ["train.steps=10000000", "train.validate_every=50", "train.checkpoint_every=50"]
    overrides = ["resources.workers=2", "ensemble.seeds=1", "train.optimizer.lr=1e-3"]
    file = load(folder / "tiny.yaml", [*endless, *overrides])
    plan = make_plan(file, folder / "results")
    data = prepare(file.first.data, folder, folder / "results", print)
    with connected("local", workers=True) as nodes:
        import ray

        from ensemble.study.runner import Runner

        write_plan(plan, {})
        killer = threading.Thread(target=kill_when_training, args=(plan, title))
        killer.start()
        Runner(plan, data, needs(file.first.resources, nodes, "cpu"), 1, print).run()
        deadline = time.monotonic() + 30
        while ray.available_resources().get("CPU", 0) < 2 and time.monotonic() < deadline:
            time.sleep(0.2)
        print("free cores:", ray.available_resources().get("CPU", 0))
        DONE.set()
        killer.join()


if __name__ == "__main__":
    main(Path(sys.argv[1]), sys.argv[2])
