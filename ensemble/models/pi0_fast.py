"""pi0-FAST: next-token prediction over compressed action chunks (Pertsch et al., arXiv 2501.09747), for a pack.

    observation -> linear -> dropout ------------------------- memory, one token
    tokens [BOS] .. -> table + places -> post-norm decoder (causal, and cross-attention to memory) -> linear -> logits

As in ruiming-wu/FAST_Flow_Matching: teacher forcing, cross-entropy over what is not [PAD]. Padding comes last, so under
the causal mask no token that counts sees it, and the mask over padded keys that torch's twin takes changes nothing.
How chunks become tokens and back is the tokenizer's business (`ensemble/tokenizers/`, whose special ids these are).
"""

from typing import cast

import torch
from torch import Tensor
from torch.nn import functional as F

from ensemble.config.policy import Pi0FastConfig, TransformerPolicyConfig
from ensemble.models.attention import causal_mask
from ensemble.models.base import Batch, Decode, Device, Noise, Normalization
from ensemble.models.layers import Dropout
from ensemble.models.noise import gumbel
from ensemble.models.policy import Policy
from ensemble.models.products import Precision, add_row, per_member
from ensemble.models.transformer import Decoder, DecoderLayer, PassInputs, XavierEmbedding, XavierLinear
from ensemble.schema import Feature

BOS, EOS, PAD = 0, 1, 2


class Pi0Fast(Policy):
    """A pack of autoregressive policies; it implements `models.base.PolicyModel`."""

    NORMS = 3  # of a layer: a decoder's

    def __init__(
        self,
        config: Pi0FastConfig,
        features: tuple[Feature, ...],
        members: int,
        normalization: Normalization,
        *,
        precision: Precision = "fp32",
        device: Device = "meta",
    ) -> None:
        super().__init__(config, features, normalization, device)
        self.config, self.members = config, members
        width, vocabulary = config.n_embd, config.tokenizer.vocabulary
        self.state_embedding = XavierLinear(members, self.states, width, precision, device)
        self.state_dropout = Dropout(config.dropout, 0)
        self.token_embedding = XavierEmbedding(members, vocabulary, width, device=device)
        self.position_embedding = XavierEmbedding(members, config.tokenizer.max_length, width, device=device)
        self.transformer = Decoder(config, members, 2, precision, device)
        self.output_layer = XavierLinear(members, width, vocabulary, precision, device)
        self.output_dropout = Dropout(config.logits_dropout, 1)
        dropped = config.dropout > 0 or config.logits_dropout > 0
        self.sites = 2 + config.n_layer * DecoderLayer.SITES if dropped else 0

    def forward(self, batch: Batch, details: bool = False) -> tuple[Tensor, dict[str, Tensor]]:
        """Return each member's loss (E,): cross-entropy of the next token, mean over tokens that are not padding.

        The divisor is `batch.targets` where that is given. With `details`, also "token_accuracy" (E,) over the same
        tokens. Raises ValueError for a batch without tokens.
        """
        if batch.tokens is None:
            raise ValueError("pi0_fast needs batch.tokens")
        tokens = batch.tokens.expand(self.members, -1, -1)
        target = tokens[:, :, 1:].flatten(1)  # (E, B*T)
        state = self._normalized(self.observation_of(batch.points))
        logits = self.logits(state, tokens[:, :, :-1], batch.position, batch.keys).flatten(1, 2)
        counted = target != PAD
        count = counted.sum(1) if batch.targets is None else batch.targets
        loss = per_member(_summed_cross_entropy, logits, target) / count
        if not details:
            return loss, {}
        right = (logits.argmax(-1) == target) & counted
        return loss, {"token_accuracy": right.sum(1) / count}

    def logits(self, state: Tensor, tokens: Tensor, position: Tensor, keys: Tensor | None) -> Tensor:
        """Return logits (E, B, T, V) float32 of what follows each of tokens (E, B, T), for states (E or 1, B, S)."""
        members, batch, time = tokens.shape
        width = self.config.n_embd
        memory = self.state_embedding(state.expand(members, -1, -1))
        memory = self.state_dropout(memory, position, keys)
        embedded = self.token_embedding(tokens).view(members, batch, -1)
        places = self.position_embedding.weight[:, :time].reshape(members, 1, -1)
        h = add_row(embedded, places).view(members, -1, width)
        h = self.transformer(h, memory, PassInputs(position, keys, causal_mask(time, h.device)))
        logits = self.output_layer(h).float().view(members, batch, time, -1)
        return cast(Tensor, self.output_dropout(logits, position, keys))

    @torch.no_grad()
    def generate(self, observation: Tensor, noise: Noise | None = None) -> Tensor:
        """Return tokens (E, B, max_length) int64 for raw states (E, B, S) or (1, B, S): [BOS] .. [EOS] [PAD] ..

        The likeliest token at temperature 0, else one drawn by the Gumbel trick, for which `noise` is needed.
        Keys and values of earlier tokens are kept, and it ends when every sample has its [EOS].
        """
        temperature, longest = self.config.temperature, self.config.tokenizer.max_length
        if temperature > 0 and noise is None:
            raise ValueError("pi0_fast needs noise to draw tokens at a temperature above 0")
        state = self._normalized(observation).expand(self.members, -1, -1)
        members, batch, _ = state.shape
        memory = self.state_embedding(state)
        layers = cast(list[DecoderLayer], list(self.transformer.layers))
        reads = [layer.multihead_attn.read(memory) for layer in layers]
        size = self.config.n_embd // self.config.n_head
        caches = memory.new_zeros(
            len(layers), 2, members * batch, self.config.n_head, longest, size, dtype=torch.float32
        )
        tokens = torch.full((members, batch, longest), PAD, device=state.device)
        tokens[:, :, 0] = BOS
        done = torch.zeros(members, batch, dtype=torch.bool, device=state.device)
        for at in range(longest - 1):
            x = self.token_embedding(tokens[:, :, at]) + self.position_embedding.weight[:, at : at + 1]
            for layer, read, cache in zip(layers, reads, caches, strict=True):
                x = layer.extend(x, read, cache, at)
            logits = self.output_layer(x).float()
            if temperature > 0:
                assert noise is not None
                width = logits.shape[-1]
                logits = logits / temperature + gumbel(noise.keys[:, 0], noise.counter, width, start=at * width)
            tokens[:, :, at + 1] = logits.argmax(-1).masked_fill_(done, PAD)
            done |= tokens[:, :, at + 1] == EOS
            if bool(done.all()):
                break
        return tokens

    def act(
        self, observation: Tensor, noise: Noise | None, *, decode: Decode | None = None, horizon: int | None = None
    ) -> Tensor:
        """Return chunks (E, B, H, A) in raw units for raw states (E, B, S) or (1, B, S).

        `decode`, the tokenizer's, turns tokens (E*B, L) into chunks in the units of `chunk_of`; `horizon` keeps their
        first actions (tokens are frequencies: all are needed). ValueError without a decode, and without noise where
        tokens are drawn.
        """
        if decode is None:
            raise ValueError("pi0_fast needs a tokenizer's decode to act")
        tokens = self.generate(observation, noise)
        chunks = torch.from_numpy(decode(tokens.flatten(0, 1).cpu().numpy())).to(tokens.device)
        return self._raw(chunks.view(*tokens.shape[:2], *chunks.shape[1:])[:, :, :horizon])

    @classmethod
    def _output_bytes(cls, config: TransformerPolicyConfig) -> int:
        """Return the bytes per token that the loss keeps: logits, and their softmax."""
        tokenizer = config.chunk_tokenizer
        assert tokenizer is not None
        return 4 * 2 * tokenizer.vocabulary


def _summed_cross_entropy(logits: Tensor, target: Tensor) -> Tensor:
    return F.cross_entropy(logits, target, ignore_index=PAD, reduction="sum")
