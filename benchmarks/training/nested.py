"""The pattern that Ray documents for tuning distributed training: a Tune trial that builds one TorchTrainer per seed.

https://docs.ray.io/en/latest/train/user-guides/hyperparameter-optimization.html, with the plain model and DataLoader
of `benchmarks/training/plain.py` in the worker.
"""

import argparse
from typing import Any

import numpy as np
import ray
import torch
from ray import train, tune
from ray.train import RunConfig, ScalingConfig
from ray.train.torch import TorchTrainer
from ray.tune.integration.ray_train import TuneReportCallback
from torch.utils.data import DataLoader

from benchmarks.training.plain import PlainGPT, PlainTrainer, WindowDataset, statistics_of


def train_worker(config: dict[str, Any]) -> None:
    """Train one seed in a worker of Ray Train."""
    torch.set_num_threads(1)
    torch.manual_seed(config["seed"])
    file = np.load(config["data"])
    states, inputs, angles = file["states"], file["inputs"], file["angles"]
    loader = DataLoader(WindowDataset(states, inputs, 10), config["batch_size"], shuffle=True, drop_last=True)
    model = train.torch.prepare_model(PlainGPT(inputs.shape[-1], states.shape[-1], config["width"], 2, 4, 16, 64))
    trainer = PlainTrainer(model, statistics_of(states, inputs, angles), torch.from_numpy(angles), 1e-3)
    step, loss = 0, float("nan")
    while step < config["steps"]:
        for batch in loader:
            loss = trainer.step(batch, 1e-3)
            step += 1
            if step == config["steps"]:
                break
    train.report({"loss": loss})


def drive(config: dict[str, Any]) -> None:
    """Be the Tune trial of one seed, which builds its trainer."""
    trainer = TorchTrainer(
        train_worker,
        train_loop_config=config,
        scaling_config=ScalingConfig(num_workers=1, resources_per_worker={"CPU": 1}),
        run_config=RunConfig(name=f"seed-{config['seed']}", callbacks=[TuneReportCallback()]),
    )
    trainer.fit()


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--data", required=True)
    for name in ("seeds", "steps", "batch-size", "width"):
        parser.add_argument(f"--{name}", type=int, required=True)
    arguments = parser.parse_args()
    ray.init(address="local", num_cpus=2)
    space = {
        "seed": tune.grid_search(list(range(arguments.seeds))),
        "data": arguments.data,
        "steps": arguments.steps,
        "batch_size": arguments.batch_size,
        "width": arguments.width,
    }
    tuner = tune.Tuner(
        tune.with_resources(drive, {"memory": 1_000_000}),
        param_space=space,
        tune_config=tune.TuneConfig(max_concurrent_trials=2),
    )
    results = tuner.fit()
    assert not results.errors
    ray.shutdown()


if __name__ == "__main__":
    main()
