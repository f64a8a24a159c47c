"""The network of `own_family`: it declares no cost, and holds its parameters once a member as every network does."""

import torch
from own_family import TanhConfig
from torch import Tensor, nn

from ensemble.models.base import Batch, Normalization
from ensemble.models.layers import Linear
from ensemble.schema import Feature, role_columns


class TanhNetwork(nn.Module):
    """A pack; it implements `models.base.DynamicsModel`."""

    sites = 0

    def __init__(
        self,
        config: TanhConfig,
        features: tuple[Feature, ...],
        members: int,
        normalization: Normalization,
        *,
        precision: str = "fp32",
        device: str = "meta",
    ) -> None:
        super().__init__()
        self.members, self.gains = members, config.gains
        self.state = role_columns(features, "state")
        self.read = self.state + role_columns(features, "control")
        scale = torch.from_numpy(normalization.target_variance).sqrt() + 1e-3
        self.register_buffer("scale", scale, persistent=False)  # (S,)
        self.hidden = Linear(members, len(self.read), config.width, device=device)
        self.output = Linear(members, config.width, len(self.state), device=device)

    def change(self, points: Tensor) -> Tensor:
        """(E, B, D) -> (E, B, S)."""
        hidden = torch.tanh(self.hidden(points[..., self.read]) * self.gains[0])
        return self.output(hidden) * self.gains[1] * self.scale

    def forward(self, batch: Batch, details: bool = False) -> tuple[Tensor, dict[str, Tensor]]:
        """Return the loss (E,), and the squared error of each state entry (E, S)."""
        now, after = batch.points[:, :, 0], batch.points[:, :, 1]
        error = self.change(now) - (after - now)[..., self.state]
        loss = (error / self.scale).square().mean((1, 2))
        return loss, {"one_step_mse": error.detach().square().mean(1)} if details else {}

    @torch.no_grad()
    def rollout(self, history: Tensor, known: Tensor, horizon: int) -> Tensor:
        """Return predicted states (E, B, H, S)."""
        seen, point, states = history.shape[2], history[:, :, -1].clone(), []
        for step in range(seen, seen + horizon):
            states.append(point[..., self.state] + self.change(point))
            if step < known.shape[2]:
                point = known[:, :, step].clone()
                point[..., self.state] = states[-1]
        return torch.stack(states, 2)
