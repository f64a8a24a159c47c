"""Every benchmark in turn: `python -m benchmarks`, or by name: `python -m benchmarks windows training_step`."""

import runpy
import sys

NAMES = (
    "conversion",
    "windows",
    "training_step",
    "ensembles",
    "overhead",
    "target",
    "search",
    "tokenizer",
    "policy_training",
    "closed_loop",
)


def main() -> None:
    chosen = sys.argv[1:] or NAMES
    for name in chosen:
        if name not in NAMES:
            sys.exit(f"no benchmark {name!r}; there are {', '.join(NAMES)}")
    for name in chosen:
        print(f"\n== {name}", flush=True)
        sys.argv = [name]
        runpy.run_module(f"benchmarks.{name}", run_name="__main__")


if __name__ == "__main__":
    main()
