"""What a user would write instead: one seed, plain PyTorch, a nanoGPT-like model fed by a DataLoader.

The same mathematics as ours (system 0 of NeRD: normalized inputs and targets, exact GELU, Adam, clipping, linear
schedule), written the usual way: nn.Linear, nn.LayerNorm, a map-style Dataset of windows, DataLoader(shuffle=True).
As a script it trains one seed and prints the seconds of its loop: `python -m benchmarks.training.plain --help`.
"""

import argparse
import time
from pathlib import Path

import numpy as np
import torch
from torch import Tensor, nn
from torch.nn import functional as F
from torch.utils.data import DataLoader, Dataset


class WindowDataset(Dataset):
    """Every window of every trajectory, indexed by a list of (trajectory, start)."""

    def __init__(self, states: np.ndarray, inputs: np.ndarray, history: int) -> None:
        self.states, self.inputs, self.history = torch.from_numpy(states), torch.from_numpy(inputs), history
        episodes, points = states.shape[:2]
        self.index = [(e, t) for e in range(episodes) for t in range(points - history)]

    def __len__(self) -> int:
        return len(self.index)

    def __getitem__(self, i: int) -> dict[str, Tensor]:
        episode, start = self.index[i]
        stop = start + self.history
        return {
            "inputs": self.inputs[episode, start:stop],
            "states": self.states[episode, start:stop],
            "next_states": self.states[episode, start + 1 : stop + 1],
        }


class Attention(nn.Module):
    def __init__(self, width: int, heads: int) -> None:
        super().__init__()
        self.heads = heads
        self.c_attn = nn.Linear(width, 3 * width, bias=False)
        self.c_proj = nn.Linear(width, width, bias=False)

    def forward(self, x: Tensor) -> Tensor:
        batch, time_, width = x.shape
        q, k, v = self.c_attn(x).split(width, dim=2)
        q, k, v = (y.view(batch, time_, self.heads, width // self.heads).transpose(1, 2) for y in (q, k, v))
        y = F.scaled_dot_product_attention(q, k, v, is_causal=True)
        return self.c_proj(y.transpose(1, 2).contiguous().view(batch, time_, width))


class Block(nn.Module):
    def __init__(self, width: int, heads: int) -> None:
        super().__init__()
        self.ln_1 = nn.LayerNorm(width, bias=False)
        self.attn = Attention(width, heads)
        self.ln_2 = nn.LayerNorm(width, bias=False)
        self.mlp = nn.ModuleDict(
            {"c_fc": nn.Linear(width, 4 * width, bias=False), "c_proj": nn.Linear(4 * width, width, bias=False)}
        )

    def forward(self, x: Tensor) -> Tensor:
        x = x + self.attn(self.ln_1(x))
        return x + self.mlp["c_proj"](F.gelu(self.mlp["c_fc"](self.ln_2(x))))


class PlainGPT(nn.Module):
    """NeRD's GPT dynamics model for one member."""

    def __init__(self, inputs: int, outputs: int, width: int, layers: int, heads: int, block: int, head: int) -> None:
        super().__init__()
        self.wte = nn.Linear(inputs, width)
        self.wpe = nn.Embedding(block, width)
        self.h = nn.ModuleList(Block(width, heads) for _ in range(layers))
        self.ln_f = nn.LayerNorm(width, bias=False)
        self.lm_head = nn.Linear(width, width, bias=False)
        self.apply(self._initialize)
        for block in self.h:
            for layer in (block.attn.c_proj, block.mlp["c_proj"]):
                nn.init.normal_(layer.weight, std=0.02 / (2 * layers) ** 0.5)
        self.feature_net = nn.Linear(width, head)
        self.output_net = nn.Linear(head, outputs)

    @staticmethod
    def _initialize(module: nn.Module) -> None:
        if isinstance(module, nn.Linear | nn.Embedding):
            nn.init.normal_(module.weight, std=0.02)
        if isinstance(module, nn.Linear) and module.bias is not None:
            nn.init.zeros_(module.bias)

    def forward(self, x: Tensor) -> Tensor:
        x = self.wte(x) + self.wpe(torch.arange(x.shape[1], device=x.device))
        for block in self.h:
            x = block(x)
        return self.output_net(F.relu(self.feature_net(self.lm_head(self.ln_f(x)))))


def wrap(x: Tensor) -> Tensor:
    """Return angles in [-pi, pi)."""
    return torch.remainder(x + torch.pi, 2 * torch.pi) - torch.pi


class PlainTrainer:
    """Normalization, loss and one optimizer step."""

    def __init__(self, model: PlainGPT, statistics: dict[str, Tensor], angles: Tensor, lr: float) -> None:
        self.model, self.statistics, self.angles, self.lr = model, statistics, angles, lr
        self.optimizer = torch.optim.Adam(model.parameters(), lr=lr)

    def loss(self, batch: dict[str, Tensor]) -> Tensor:
        s = self.statistics
        states = torch.where(self.angles, wrap(batch["states"]), batch["states"])
        change = torch.where(self.angles, wrap(batch["next_states"] - states), batch["next_states"] - states)
        inputs = batch["inputs"].clone()
        inputs[..., : states.shape[-1]] = states
        x = (inputs - s["mean"]) / torch.sqrt(s["variance"] + 1e-5)
        target = (change - s["target_mean"]) / torch.sqrt(s["target_variance"] + 1e-5)
        return F.mse_loss(self.model(x), target)

    def step(self, batch: dict[str, Tensor], rate: float) -> float:
        for group in self.optimizer.param_groups:
            group["lr"] = rate
        self.optimizer.zero_grad()
        loss = self.loss(batch)
        loss.backward()
        torch.nn.utils.clip_grad_norm_(self.model.parameters(), 1.0)
        self.optimizer.step()
        return loss.item()


def statistics_of(states: np.ndarray, inputs: np.ndarray, angles: np.ndarray) -> dict[str, Tensor]:
    """Mean and variance of wrapped inputs and of the wrapped change of state."""

    def wrapped(x: np.ndarray, where: np.ndarray) -> np.ndarray:
        return np.where(where, np.mod(x + np.pi, 2 * np.pi) - np.pi, x.astype(np.float64))

    width = states.shape[-1]
    before = wrapped(states, angles)
    change = wrapped(np.diff(before, axis=1), angles)
    full = np.concatenate([before, inputs[..., width:].astype(np.float64)], axis=-1)
    columns = {"mean": full.mean((0, 1)), "variance": full.var((0, 1))}
    columns |= {"target_mean": change.mean((0, 1)), "target_variance": change.var((0, 1))}
    return {name: torch.from_numpy(value.astype(np.float32)) for name, value in columns.items()}


def train(arguments: argparse.Namespace) -> None:
    """Train one seed on an npz, and print its losses and the seconds of its loop."""
    torch.set_num_threads(arguments.threads)
    torch.manual_seed(arguments.seed)
    file = np.load(arguments.data)
    states, inputs, angles = file["states"], file["inputs"], file["angles"]
    dataset = WindowDataset(states, inputs, arguments.history)
    loader = DataLoader(
        dataset, arguments.batch_size, shuffle=True, drop_last=True, num_workers=arguments.loader_workers
    )
    model = PlainGPT(
        inputs.shape[-1], states.shape[-1], arguments.width, arguments.layers, arguments.heads, 16, arguments.head
    )
    trainer = PlainTrainer(model, statistics_of(states, inputs, angles), torch.from_numpy(angles), arguments.lr)
    validation = next(iter(DataLoader(dataset, 2048)))
    started, step, iterator = time.perf_counter(), 0, iter(loader)
    every = arguments.validate_every or max(1, arguments.steps // 20)
    while step < arguments.steps:
        try:
            batch = next(iterator)
        except StopIteration:
            iterator = iter(loader)
            batch = next(iterator)
        share = step / arguments.steps
        loss = trainer.step(batch, arguments.lr * (1 - share) + 1e-4 * share)
        step += 1
        if step % every == 0:
            with torch.no_grad():
                print(f"step {step} loss {loss:.5f} validation {trainer.loss(validation).item():.5f}")
    print(f"seconds {time.perf_counter() - started:.3f}")


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--data", type=Path, required=True, help="npz with states (N, T, S), inputs (N, T, D), angles")
    for name, default in {
        "seed": 0, "steps": 100, "batch-size": 512, "history": 10, "width": 192, "layers": 6, "heads": 12, "head": 64,
        "threads": 1, "loader-workers": 0, "validate-every": 0,
    }.items():  # fmt: skip
        parser.add_argument(f"--{name}", type=int, default=default)
    parser.add_argument("--lr", type=float, default=1e-3)
    train(parser.parse_args())


if __name__ == "__main__":
    main()
