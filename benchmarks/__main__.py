"""The benchmarks, all or by name: `python -m benchmarks [NAME ..] [options]`.

    python -m benchmarks --quick                        # does each of them run? a few minutes
    python -m benchmarks windows training_step          # these two
    python -m benchmarks overhead --trials 10           # options go to each benchmark that is named
    python -m benchmarks overhead --help

Each runs in a process of its own, so that none leaves threads, memory or an environment to the next.
"""

import subprocess
import sys
from collections.abc import Sequence
from itertools import takewhile

from benchmarks.command import say

MODULES = {
    "conversion": "data.conversion",
    "windows": "data.windows",
    "training_step": "training.training_step",
    "ensembles": "training.ensembles",
    "overhead": "study.overhead",
    "target": "study.target",
    "search": "search.search",
    "tokenizer": "policies.tokenizer",
    "policy_training": "policies.policy_training",
    "closed_loop": "policies.closed_loop",
}
BY_NAME_ONLY = {"record_search": "search.record_search", "search_tune": "search.tune"}  # they train for long


def main(arguments: Sequence[str]) -> int:
    """Run what is named, or everything; return 1 when one of them failed."""
    names = list(takewhile(lambda word: not word.startswith("-"), arguments))
    options = arguments[len(names) :]
    known = MODULES | BY_NAME_ONLY
    for name in names:
        if name not in known:
            sys.exit(f"no benchmark {name!r}; there are {', '.join(known)}")
    if not names and {"-h", "--help"} & set(options):
        say(f"{__doc__}\nNames: {', '.join(known)}")
        return 0

    failed = []
    for name in names or MODULES:
        say(f"\n== {name}")
        if subprocess.run([sys.executable, "-m", f"benchmarks.{known[name]}", *options]).returncode:
            failed.append(name)
    if failed:
        say(f"\nfailed: {', '.join(failed)}")
    return int(bool(failed))


if __name__ == "__main__":
    try:
        sys.exit(main(sys.argv[1:]))
    except KeyboardInterrupt:
        sys.exit(130)
