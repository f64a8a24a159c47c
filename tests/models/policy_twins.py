"""Plain PyTorch twins of the tiny policies, from torch's own transformer layers: what a user would write instead."""

import torch
from torch import Tensor, nn

from ensemble.config.policy import Pi0Config, Pi0FastConfig


def later(time: int) -> Tensor:
    """Return which keys a query must not see, (T, T) bool."""
    return torch.ones(time, time, dtype=torch.bool).triu(1)


class TinyPi0(nn.Module):
    def __init__(self, c: Pi0Config, states: int, actions: int) -> None:
        super().__init__()
        d = c.n_embd
        self.state_embedding, self.action_embedding = nn.Linear(states, d), nn.Linear(actions, d)
        self.time_embedding = nn.Linear(1, d)
        self.position_embedding = nn.Embedding(c.chunk + 1, d)
        layer = nn.TransformerEncoderLayer(d, c.n_head, c.n_inner, c.dropout, "gelu", batch_first=True)
        self.transformer = nn.TransformerEncoder(layer, c.n_layer, enable_nested_tensor=False)
        self.flow_output = nn.Linear(d, actions)
        self.hidden = later(c.chunk + 1)
        if c.attention == "bidirectional":
            self.hidden[1:] = False

    def forward(self, state: Tensor, x: Tensor, time: Tensor) -> Tensor:
        """(B, S), (B, H, A), (B, H, 1) -> (B, H, A)."""
        actions = self.action_embedding(x) + self.time_embedding(time)
        h = torch.cat([self.state_embedding(state)[:, None], actions], 1) + self.position_embedding.weight
        return self.flow_output(self.transformer(h, mask=self.hidden)[:, 1:])

    @torch.no_grad()
    def sample(self, state: Tensor, x: Tensor, steps: int = 10) -> Tensor:
        for i in range(steps):
            x = x + self(state, x, torch.full((*x.shape[:2], 1), i / steps)) / steps
        return x


class TinyPi0Fast(nn.Module):
    def __init__(self, c: Pi0FastConfig, states: int) -> None:
        super().__init__()
        d, vocabulary = c.n_embd, c.tokenizer.vocabulary
        self.state_embedding, self.state_dropout = nn.Linear(states, d), nn.Dropout(c.dropout)
        self.token_embedding = nn.Embedding(vocabulary, d, padding_idx=2)
        self.position_embedding = nn.Embedding(c.tokenizer.max_length, d)
        layer = nn.TransformerDecoderLayer(d, c.n_head, c.n_inner, c.dropout, "gelu", batch_first=True)
        self.transformer = nn.TransformerDecoder(layer, c.n_layer)
        self.output_layer, self.output_dropout = nn.Linear(d, vocabulary), nn.Dropout(c.logits_dropout)

    def forward(self, state: Tensor, tokens: Tensor, padding: bool = True) -> Tensor:
        """(B, S), (B, T) -> logits (B, T, V); `padding` says whether padded keys are masked."""
        memory = self.state_dropout(self.state_embedding(state))[:, None]
        time = tokens.shape[1]
        h = self.token_embedding(tokens) + self.position_embedding.weight[:time]
        hidden = tokens == 2 if padding else None
        h = self.transformer(h, memory, tgt_mask=later(time), tgt_key_padding_mask=hidden)
        return self.output_dropout(self.output_layer(h))

    @torch.no_grad()
    def generate(self, state: Tensor, longest: int) -> list[list[int]]:
        """Return the greedy tokens of each state (B, S), one at a time, to [EOS]."""
        answers = []
        for one in state:
            tokens = [0]
            while len(tokens) < longest and tokens[-1] != 1:
                tokens.append(int(self(one[None], torch.tensor([tokens]), padding=False)[0, -1].argmax()))
            answers.append(tokens)
        return answers
