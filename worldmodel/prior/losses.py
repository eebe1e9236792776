"""The losses of every prior: codes, ends, status and rewards of the target frames.

Shapes: N targets, K components of a mixture, P = h*w places, V codes in the codebook.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Protocol

import torch
import torch.nn.functional as F
from torch import Tensor

from worldmodel.common.processes import process_weight
from worldmodel.prior.status_config import StatusConfig
from worldmodel.prior.targets import Targets


class LossConfig(Protocol):
    """The fields of a prior's config that the losses need."""

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
    """Predictions for N targets.

    Attributes:
        code_logits: (N, P, V), or (N, K, P, V) for a mixture of K components.
        end_logits: (N,).
        status_logits: (N, bins).
        rewards: (N,), standardised.
    """

    code_logits: Tensor
    end_logits: Tensor
    status_logits: Tensor
    rewards: Tensor


def code_nats(logits: Tensor, codes: Tensor) -> Tensor:
    """Negative log-likelihood of codes in nats: (..., V) and (...) int64 -> (...) float32."""
    nats = F.cross_entropy(logits.float().flatten(0, -2), codes.flatten(), reduction="none")
    return nats.reshape(codes.shape)


def prior_losses(
    config: LossConfig,
    predictions: Predictions,
    targets: Targets,
    nats: Tensor,
    rewards: Tensor,
    weights: Tensor,
    weighted_nats: Tensor | None = None,
) -> dict[str, Tensor]:
    """The losses of `Prior.loss`.

    Args:
        config: the weights of the losses.
        predictions: for the N targets.
        targets: (N,).
        nats: (N, P), of the targets' codes.
        rewards: (N,), the targets' rewards, standardised.
        weights: (N,), weight of each target.
        weighted_nats: (N, P), minimised in place of `nats` where places have different weights.
    """
    has_frame = targets.frame_valid[:, None].expand_as(nats)
    ends = targets.terminations.float()
    end_nats = F.binary_cross_entropy_with_logits(predictions.end_logits.float(), ends, reduction="none")
    reward_error = (predictions.rewards.float() - rewards).square()
    losses = {
        "codes": _masked_mean(nats, has_frame, weights),
        "end": _masked_mean(end_nats, targets.has_end, weights),
        "reward": _masked_mean(reward_error, targets.has_step, weights),
    }
    codes = losses["codes"] if weighted_nats is None else _masked_mean(weighted_nats, has_frame, weights)
    total = codes + config.end_weight * losses["end"] + config.reward_weight * losses["reward"]
    bins = config.status.num_bins
    if bins:
        has_status = targets.has_step & ~targets.terminations & (targets.status < bins)
        status = targets.status.clamp_max(bins - 1)
        status_nats = F.cross_entropy(predictions.status_logits.float(), status, reduction="none")
        losses["status"] = _masked_mean(status_nats, has_status, weights)
        total = total + config.status_weight * losses["status"]
    return {"loss": total, **{name: value.detach() for name, value in losses.items()}}


def _masked_mean(values: Tensor, mask: Tensor, weights: Tensor) -> Tensor:
    """Weighted mean where the mask is True; 0 if it is False everywhere. Masked values have no influence.

    Where several processes train together, the average of their results is the mean over all processes' values.

    Args:
        values, mask: (N,) or (N, P).
        weights: (N,).
    """
    masked_weights = torch.where(mask, weights.reshape(-1, *[1] * (values.ndim - 1)), 0.0)
    total_weight = masked_weights.sum()
    mean = (torch.where(mask, values, 0.0) * masked_weights).sum() / total_weight.clamp_min(1)
    return mean * process_weight(total_weight, total_weight.device)
