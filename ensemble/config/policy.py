"""The policies of the `model:` section: flow matching (pi0) and tokens (pi0-FAST) over chunks of actions.

Defaults are the tiny forms of ruiming-wu/FAST_Flow_Matching; where these have a known trap, the field says so and
defaults to what their users would expect. The larger form, openpi's, is a matter of these fields.
"""

from typing import ClassVar, Literal, Self

from pydantic import Field, model_validator

from ensemble.config.family import Draw, PolicyConfig, TokenizerConfig


class TransformerPolicyConfig(PolicyConfig):
    """What both policies share: an observation in, a chunk of actions out, a transformer between."""

    n_layer: int = Field(4, ge=1, le=1000, description="transformer layers")
    n_head: int = Field(4, ge=1, le=10_000, description="attention heads; divides n_embd")
    n_embd: int = Field(128, ge=1, le=100_000, description="width")
    n_inner: int = Field(256, ge=1, le=1_000_000, description="width inside the feedforward parts")
    dropout: float = Field(0.1, ge=0, lt=1, description="of attention weights, feedforward and residual branches")
    normalize: bool = Field(False, description="states and actions by the training split's mean and variance")

    @property
    def normalizes_actions(self) -> bool:
        """Whether the network's actions, which a tokenizer is fitted on, are normalized."""
        return self.normalize

    @property
    def tokens(self) -> int:
        """Length of the sequences that go through the transformer: the observation and the chunk."""
        return 1 + self.chunk

    @model_validator(mode="after")
    def _heads_fit(self) -> Self:
        if self.n_embd % self.n_head:
            raise ValueError(f"n_embd {self.n_embd} is not divisible by n_head {self.n_head}")
        return self


class Pi0Config(TransformerPolicyConfig):
    """pi0: flow matching on action chunks (arXiv 2410.24164), in the tiny form or openpi's."""

    network: ClassVar[str] = "ensemble.models.pi0:Pi0"

    family: Literal["pi0"] = Field("pi0", description="model family")
    attention: Literal["causal", "bidirectional"] = Field(
        "causal", description="which tokens a token sees: tiny causal, openpi bidirectional"
    )
    time_law: Literal["uniform", "beta"] = Field(
        "uniform", description="of the flow-matching time: tiny U[0, 1), openpi Beta(1.5, 1), more of it near the noise"
    )
    time_per: Literal["position", "sample"] = Field(
        "position", description="one time for each action of a chunk (tiny), or one a chunk, as in sampling (openpi)"
    )
    time_embedding: Literal["raw", "sinusoidal"] = Field(
        "raw", description="a linear layer on the number (tiny), or sines and cosines joined by an MLP (openpi)"
    )
    draw: Literal["fresh", "frozen"] = Field(
        "fresh", description="noise and time anew at each step; the original's frozen, once a window, overfits the draw"
    )
    noise_clip: float | None = Field(3.0, gt=0, description="noise is held within +- this; null: as drawn")
    solver: Literal["euler", "heun"] = Field("euler", description="of the flow's equation; heun asks twice a step")
    solver_steps: int = Field(10, ge=1, le=10_000, description="steps from noise to action")

    @property
    def prediction_passes(self) -> int | None:
        """Forward passes that a chunk takes: the solver's."""
        return self.solver_steps * (2 if self.solver == "heun" else 1)

    @property
    def noise_draw(self) -> Draw | None:
        """How the noise of a training step is counted."""
        return self.draw

    @model_validator(mode="after")
    def _pairs_fit(self) -> Self:
        if self.time_embedding == "sinusoidal" and (self.n_embd % 2 or self.n_embd < 4):
            raise ValueError(f"time_embedding sinusoidal needs an even n_embd from 4 on, not {self.n_embd}")
        return self


class Pi0FastConfig(TransformerPolicyConfig):
    """pi0-FAST: next-token prediction over compressed action chunks (arXiv 2501.09747), in the tiny form."""

    network: ClassVar[str] = "ensemble.models.pi0_fast:Pi0Fast"
    loss_details: ClassVar[tuple[str, ...]] = ("token_accuracy",)

    family: Literal["pi0_fast"] = Field("pi0_fast", description="model family")
    tokenizer: TokenizerConfig = Field(TokenizerConfig(), description="fitted once on the training split")
    logits_dropout: float = Field(
        0.0, ge=0, lt=1, description="of the logits; the original's 0.1 lifts the training loss far above validation's"
    )
    temperature: float = Field(0.0, ge=0, description="of the tokens drawn when acting; 0 takes the likeliest")

    @property
    def chunk_tokenizer(self) -> TokenizerConfig | None:
        """How action chunks become tokens."""
        return self.tokenizer

    @property
    def prediction_passes(self) -> int | None:
        """Forward passes that a chunk takes: token by token, which with a cache of keys and values costs one."""
        return 1

    @property
    def tokens(self) -> int:
        """Length of the sequences that go through the transformer."""
        return self.tokenizer.max_length
