"""Conditioning on actions: a condition vector, and LayerNorms whose gain and bias depend on it.

Paper section 3: "gain and bias of every LayerNorm are affine functions of the condition vector".
Shapes: B rows, S steps, N tokens, A action size, D width, C condition width.
"""

from __future__ import annotations

import math

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from worldmodel.common import spaces


class ConditionalLayerNorm(nn.Module):
    """LN(x) * (g + W_g c) + (b + W_b c), initialised with g = 1 and b, W_g, W_b = 0.

    Args:
        width: D.
        condition_dim: C.
    """

    def __init__(self, width: int, condition_dim: int) -> None:
        super().__init__()
        self.width = width
        self.gain = nn.Parameter(torch.ones(width))
        self.bias = nn.Parameter(torch.zeros(width))
        self.affine = nn.Linear(condition_dim, 2 * width, bias=False)
        nn.init.zeros_(self.affine.weight)

    def forward(self, x: Tensor, condition: Tensor) -> Tensor:
        """(B, N, D) and (B, C) -> (B, N, D)."""
        gain, bias = self.affine(condition)[:, None].chunk(2, dim=-1)  # (B, 1, D) each
        return F.layer_norm(x, (self.width,)) * (self.gain + gain) + (self.bias + bias)

    def gain_and_bias(self, condition: Tensor) -> tuple[Tensor, Tensor]:
        """Total gain and bias for a condition that many tokens share: (B, C) -> (B, D) and (B, D)."""
        gain, bias = self.affine(condition).chunk(2, dim=-1)
        return self.gain + gain, self.bias + bias


def num_action_features(space: spaces.Space) -> int:
    """Number of features that `action_features` returns for one action."""
    if isinstance(space, spaces.Discrete):
        return space.n
    if isinstance(space, spaces.MultiDiscrete):
        return sum(space.nvec)
    if isinstance(space, spaces.MultiBinary):
        return space.n
    return 1 if isinstance(space, spaces.NoAction) else len(space.low)


def action_features(space: spaces.Space, actions: Tensor) -> Tensor:
    """Actions as real numbers: choices one-hot, buttons as -1 and 1, bounded numbers scaled to [-1, 1].

    A number x without two finite bounds becomes sign(x) ln(1 + |x|). Without actions there is one feature, 0.

    Args:
        space: the action space.
        actions: (...) or (..., A) of that space.

    Returns:
        (..., num_action_features(space)) float32.
    """
    if isinstance(space, spaces.Discrete):
        return F.one_hot(actions.long(), space.n).float()
    if isinstance(space, spaces.MultiDiscrete):
        one_hots = [F.one_hot(actions[..., i].long(), n) for i, n in enumerate(space.nvec)]
        return torch.cat(one_hots, -1).float()
    if isinstance(space, spaces.MultiBinary):
        return actions.float() * 2 - 1
    if isinstance(space, spaces.NoAction):
        return torch.zeros(*actions.shape[:-1], 1, device=actions.device)
    columns = []
    for i, (low, high) in enumerate(zip(space.low, space.high, strict=True)):
        x = actions[..., i].float()
        if low is not None and high is not None and math.isfinite(low) and math.isfinite(high) and high > low:
            columns.append((x - low) / (high - low) * 2 - 1)
        else:
            columns.append(x.sign() * x.abs().log1p())
    return torch.stack(columns, -1)


class ActionEncoder(nn.Module):
    """Linear embedding of actions, with a learned embedding for "no action".

    Args:
        space: the action space.
        action_dim: width of the embedding.
    """

    def __init__(self, space: spaces.Space, action_dim: int) -> None:
        super().__init__()
        self.space = space
        self.proj = nn.Linear(num_action_features(space), action_dim)
        nn.init.normal_(self.proj.weight)
        self.no_action = nn.Parameter(torch.randn(action_dim))

    def forward(self, actions: Tensor, has_action: Tensor) -> Tensor:
        """Embed actions.

        Args:
            actions: (B, S) or (B, S, A).
            has_action: (B, S) bool; where False the action is ignored and "no action" is embedded.

        Returns:
            (B, S, action_dim) float32.
        """
        mask = has_action.reshape(*has_action.shape, *[1] * (actions.ndim - 2))
        actions = torch.where(mask, actions, torch.zeros_like(actions))
        embeddings = self.proj(action_features(self.space, actions))
        return torch.where(has_action[..., None], embeddings, self.no_action)
