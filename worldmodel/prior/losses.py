"""What every prior learns from: codes, ends, status and rewards of the learned frames, each in its own unit.

Shapes: N targets, P = h*w places, V codes in the book.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Protocol

import torch
import torch.nn.functional as F
from torch import Tensor

from worldmodel.common.processes import process_weight
from worldmodel.prior.interface import StatusConfig
from worldmodel.prior.targets import Targets


class Weights(Protocol):
    """What the losses read of a prior's config."""

    @property
    def end_weight(self) -> float: ...
    @property
    def status_weight(self) -> float: ...
    @property
    def reward_weight(self) -> float: ...
    @property
    def status(self) -> StatusConfig: ...


@dataclass(frozen=True)
class Predictions:
    """What a prior says of N targets.

    Attributes:
        codes: logits, (N, P, V) or (N, K, P, V) where K components say something else each.
        end: (N,) logits.
        status: (N, bins) logits.
        rewards: (N,), standardised.
    """

    codes: Tensor
    end: Tensor
    status: Tensor
    rewards: Tensor


def code_nats(logits: Tensor, codes: Tensor) -> Tensor:
    """Nats of codes: (..., V) and (...) int64 -> (...) float32."""
    nats = F.cross_entropy(logits.float().flatten(0, -2), codes.flatten(), reduction="none")
    return nats.reshape(codes.shape)


def prior_losses(
    config: Weights,
    said: Predictions,
    targets: Targets,
    nats: Tensor,
    rewards: Tensor,
    weights: Tensor,
    learned: Tensor | None = None,
) -> dict[str, Tensor]:
    """The losses of `Prior.loss`.

    Args:
        config: the weights.
        said: the predictions.
        targets: what happened, (N,).
        nats: (N, P), of the targets' codes.
        rewards: (N,), the targets' rewards, standardised.
        weights: (N,), how much each target counts.
        learned: (N, P), what is learned in their place if not all codes count alike.
    """
    shown = targets.frame_valid[:, None].expand_as(nats)
    ended = targets.terminations.float()
    hazard = F.binary_cross_entropy_with_logits(said.end.float(), ended, reduction="none")
    error = (said.rewards.float() - rewards).square()
    losses = {
        "codes": _mean(nats, shown, weights),
        "end": _mean(hazard, targets.has_end, weights),
        "reward": _mean(error, targets.has_step, weights),
    }
    codes = losses["codes"] if learned is None else _mean(learned, shown, weights)
    total = codes + config.end_weight * losses["end"] + config.reward_weight * losses["reward"]
    bins = config.status.num_bins
    if bins:
        known = targets.has_step & ~targets.terminations & (targets.status < bins)
        truth = targets.status.clamp_max(bins - 1)
        losses["status"] = _mean(F.cross_entropy(said.status.float(), truth, reduction="none"), known, weights)
        total = total + config.status_weight * losses["status"]
    return {"loss": total, **{name: value.detach() for name, value in losses.items()}}


def _mean(values: Tensor, mask: Tensor, weights: Tensor) -> Tensor:
    """Weighted mean over the True places; 0 where there is none. What is masked is never looked at.

    Where several processes train together, the average of what they return is the mean over all their places.

    Args:
        values, mask: (N,) or (N, P).
        weights: (N,).
    """
    counted = torch.where(mask, weights.reshape(-1, *[1] * (values.ndim - 1)), 0.0)
    count = counted.sum()
    mean = (torch.where(mask, values, 0.0) * counted).sum() / count.clamp_min(1)
    return mean * process_weight(count, count.device)
