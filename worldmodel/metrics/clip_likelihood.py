"""The likelihood of real clips under a clip model, and the use of its codebook.

Shapes: N clips, L frames, T time steps of codes, h w code grid, V codes of the codebook.
"""

from __future__ import annotations

import math
from collections.abc import Iterable
from typing import Any

import numpy as np
import torch
from torch import Tensor

from worldmodel.data.clips import Batch
from worldmodel.metrics.metric import MetricValue
from worldmodel.metrics.statistics import Estimate, ratio
from worldmodel.world.clip_model import ClipModel

SECTION = "likelihood of real clips"
# name -> unit, direction, description
ROWS: dict[str, tuple[str, str, str]] = {
    "nats_per_code": ("nats", "lower", "negative log-likelihood of the codes of real clips, per code"),
    "bits_per_code": ("bits", "lower", "the same; what VideoGPT's public code logs as bits/dim is nats per code"),
    "bits_per_dim": ("bits", "lower", "the same of all codes of a clip, per colour of a pixel"),
    "perplexity": ("codes", "higher", "effective number of codes in real clips"),
    "unused_codes": ("codes", "lower", "codes that never occur in real clips"),
}


def code_use(codes: Tensor, num_codes: int) -> tuple[float, int]:
    """The exponential of the entropy of the frequencies of codes, and how many of the V codes never occur.

    Args:
        codes: int64 of any shape, at least one.
        num_codes: V.
    """
    counts = np.bincount(codes.flatten().cpu().numpy(), minlength=num_codes)
    shares = counts[counts > 0] / counts.sum()
    return float(np.exp(-(shares * np.log(shares)).sum())), int((counts == 0).sum())


@torch.no_grad()
def likelihood_section(model: ClipModel, batches: Iterable[Batch[Tensor]]) -> dict[str, Any]:
    """The likelihood with the conditions of each clip, as a section of a result of `evaluate_clips`.

    Args:
        model: the clip model.
        batches: of real clips, at least one.

    Returns:
        metric -> `description`, `unit`, `better`, `details` and `values`.
    """
    nats, codes, frames = [], [], None
    for batch in batches:
        frames = batch.frames
        codes.append(model.tokenizer.encode(frames.to(model.device)))
        nats.append(-model.prior.log_prob(codes[-1], model.conditioning_of(batch).to(model.device)).double().cpu())
    assert frames is not None
    per_clip = torch.cat(nats).numpy()  # (N,) nats
    found, ones = torch.cat(codes), np.ones(len(per_clip))
    per_code = ratio(per_clip / found[0].numel(), ones)
    perplexity, unused = code_use(found, model.prior.num_codes)
    values = {
        "nats_per_code": MetricValue("", per_code),
        "bits_per_code": MetricValue("", per_code.scaled(1 / math.log(2))),
        "bits_per_dim": MetricValue("", ratio(per_clip / frames[0].numel() / math.log(2), ones)),
        "perplexity": MetricValue("", Estimate(perplexity), {"uniform": Estimate(model.prior.num_codes)}),
        "unused_codes": MetricValue("", Estimate(unused), {"codes": Estimate(model.prior.num_codes)}),
    }
    details = {"clips": f"{len(per_clip)} real", "codes": f"{found[0].numel()} a clip"}
    return {
        name: {
            "description": description,
            "unit": unit,
            "better": better,
            "details": details,
            "values": [values[name].to_json()],
        }
        for name, (unit, better, description) in ROWS.items()
    }
