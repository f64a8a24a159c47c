"""What a user would write instead: tiny pi0 and tiny pi0-FAST from torch's own layers, one member, fed by a DataLoader.

As ruiming-wu/FAST_Flow_Matching trains them: post-norm layers of torch with dropout 0.1, batches of 128 in the default
collation, AdamW, float32, the loss read at every step. Noise and times of pi0 are drawn once, when the data are
loaded; FAST's attention mask goes through the loader with its tokens, its logits are dropped too, and its gradient is
clipped. Validation is left out. As a script it is a lane of `policy_training.py`. Our package is not imported.
"""

import argparse
from collections.abc import Iterator
from itertools import islice
from pathlib import Path

import numpy as np
import torch
from torch import Tensor, nn
from torch.nn import functional as F
from torch.utils.data import DataLoader, Dataset

from benchmarks.policies.lanes import serve

WIDTH, LAYERS, HEADS, INNER, CHUNK, VOCABULARY, LONGEST, PAD = 128, 4, 4, 256, 50, 256, 25, 2
BATCH, RATE = 128, 2e-4
Sample = tuple[Tensor, Tensor, Tensor, Tensor]


def later(time: int) -> Tensor:
    """Return which keys (columns) come after a query (row), (T, T) bool."""
    return torch.ones(time, time).triu(1).bool()


def fill(module: nn.Module) -> None:
    """Draw every matrix and table from xavier_uniform."""
    for parameter in module.parameters():
        if parameter.dim() > 1:
            nn.init.xavier_uniform_(parameter)


class TinyPi0(nn.Module):
    """Flow matching on chunks of 50 actions, 537,729 parameters."""

    def __init__(self, dropout: float = 0.1) -> None:
        super().__init__()
        self.state_embedding, self.action_embedding = nn.Linear(4, WIDTH), nn.Linear(1, WIDTH)
        self.time_embedding, self.position_embedding = nn.Linear(1, WIDTH), nn.Embedding(CHUNK + 1, WIDTH)
        layer = nn.TransformerEncoderLayer(WIDTH, HEADS, INNER, dropout, "gelu", batch_first=True)
        self.transformer = nn.TransformerEncoder(layer, LAYERS)
        self.flow_output = nn.Linear(WIDTH, 1)
        fill(self)

    def forward(self, state: Tensor, x: Tensor, time: Tensor) -> Tensor:
        """(B, 4), (B, 50, 1), (B, 50, 1) -> (B, 50, 1)."""
        actions = self.action_embedding(x) + self.time_embedding(time)
        h = torch.cat([self.state_embedding(state)[:, None], actions], 1)
        h = h + self.position_embedding(torch.arange(h.shape[1])[None])
        out: Tensor = self.flow_output(self.transformer(h, mask=later(h.shape[1]))[:, 1:])
        return out

    def loss(self, sample: Sample) -> Tensor:
        """Return the squared error of the flow."""
        state, noise, time, action = sample
        flow = self(state, (1 - time) * noise + time * action, time)
        return F.mse_loss(flow, action - noise)


class TinyPi0Fast(nn.Module):
    """Next-token prediction over compressed chunks, 864,768 parameters."""

    def __init__(self, dropout: float = 0.1) -> None:
        super().__init__()
        self.state_embedding, self.state_dropout = nn.Linear(4, WIDTH), nn.Dropout(dropout)
        self.token_embedding = nn.Embedding(VOCABULARY, WIDTH, padding_idx=PAD)
        self.position_embedding = nn.Embedding(LONGEST, WIDTH)
        layer = nn.TransformerDecoderLayer(WIDTH, HEADS, INNER, dropout, "gelu", batch_first=True)
        self.transformer = nn.TransformerDecoder(layer, LAYERS)
        self.output_layer, self.output_dropout = nn.Linear(WIDTH, VOCABULARY), nn.Dropout(dropout)
        fill(self)

    def forward(self, state: Tensor, tokens: Tensor, mask: Tensor) -> Tensor:
        """(B, 4), (B, T), (B, T), which is 0 where a token is padding -> logits (B, T, 256)."""
        memory = self.state_dropout(self.state_embedding(state)[:, None])
        time = tokens.shape[1]
        h = self.token_embedding(tokens) + self.position_embedding(torch.arange(time)[None])
        h = self.transformer(h, memory, tgt_mask=later(time), tgt_key_padding_mask=mask == 0)
        logits: Tensor = self.output_dropout(self.output_layer(h))
        return logits

    def loss(self, sample: Sample) -> Tensor:
        """Return the cross-entropy of the next token, over what is not padding."""
        state, tokens, mask, _ = sample
        logits = self(state, tokens[:, :-1], mask[:, :-1])
        return F.cross_entropy(logits.flatten(0, 1), tokens[:, 1:].flatten(), ignore_index=PAD)


class ChunkPairs(Dataset[Sample]):
    """States, noise, times and chunks; noise and times are drawn once, here."""

    def __init__(self, archive: Path) -> None:
        file = np.load(archive)
        self.state, self.action = file["state"].astype(np.float32), file["action_chunk"][..., None].astype(np.float32)
        shape, random = self.action.shape, np.random.default_rng()
        self.noise = np.clip(random.standard_normal(shape, np.float32), -3, 3)
        self.time = random.random(shape, np.float32)

    def __len__(self) -> int:
        return len(self.state)

    def __getitem__(self, i: int) -> Sample:
        state, noise, time, action = self.state[i], self.noise[i], self.time[i], self.action[i]
        return torch.tensor(state), torch.tensor(noise), torch.tensor(time), torch.tensor(action)


class TokenPairs(Dataset[Sample]):
    """States, tokens, their mask, and the tokens again as targets."""

    def __init__(self, archive: Path) -> None:
        file = np.load(archive)
        self.state, self.tokens = file["state"].astype(np.float32), file["token_seq"]
        self.mask = (self.tokens != PAD).astype(np.int64)

    def __len__(self) -> int:
        return len(self.state)

    def __getitem__(self, i: int) -> Sample:
        tokens = torch.tensor(self.tokens[i], dtype=torch.long)
        return torch.tensor(self.state[i]), tokens, torch.tensor(self.mask[i]), tokens.clone()


class PlainLoop:
    """One member's training, any number of steps at a time."""

    def __init__(self, family: str, archive: Path) -> None:
        self.model = TinyPi0() if family == "pi0" else TinyPi0Fast()
        self.clip = None if family == "pi0" else 1.0
        pairs = ChunkPairs(archive) if family == "pi0" else TokenPairs(archive)
        self.optimizer = torch.optim.AdamW(self.model.parameters(), lr=RATE)
        self.samples = endless(DataLoader(pairs, BATCH, shuffle=True))

    def run(self, steps: int) -> float:
        """Take the steps; return their mean loss."""
        self.model.train()
        return sum(self.step(sample) for sample in islice(self.samples, steps)) / steps

    def step(self, sample: Sample) -> float:
        """Take one optimizer step; return its loss."""
        self.optimizer.zero_grad()
        loss = self.model.loss(sample)
        loss.backward()  # type: ignore[no-untyped-call]
        if self.clip is not None:
            torch.nn.utils.clip_grad_norm_(self.model.parameters(), self.clip)
        self.optimizer.step()
        return loss.item()


def endless(loader: DataLoader[Sample]) -> Iterator[Sample]:
    """Go through the data without end, shuffled anew each time."""
    while True:
        yield from loader


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--family", choices=("pi0", "pi0_fast"), required=True)
    parser.add_argument("--data", type=Path, required=True, help="npz with state (N, 4), action_chunk, token_seq")
    parser.add_argument("--threads", type=int, default=1)
    parser.add_argument("--number", type=int, default=0, help="of the member")
    options = parser.parse_args()
    torch.set_num_threads(options.threads)
    torch.manual_seed(options.number)
    serve(PlainLoop(options.family, options.data).run)


if __name__ == "__main__":
    main()
