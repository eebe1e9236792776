"""Initial values of a prior's code embeddings and logits, from the tokenizer's codebook and the code frequencies.

Shapes: P = h*w places, V codes in the codebook, n numbers in a codebook embedding.
"""

from __future__ import annotations

import math
from collections.abc import Sequence

import torch
from torch import Tensor, nn


@torch.no_grad()
def init_code_weights(
    tables: Sequence[nn.Embedding], head: nn.Linear, place_bias: Tensor, embeddings: Tensor, counts: Tensor
) -> None:
    """Initialise the weights that depend on codes, so that learning starts from each place's code frequencies.

    Codes whose codebook embeddings are alike begin with similar embeddings and logits.

    Args:
        tables: embeddings of codes, with V + 1 rows; the last row is not changed.
        head: from the width to the V logits.
        place_bias: (P, V), added to the logits.
        embeddings: (V, n) float32, the codebook.
        counts: (P, V), how often each place has each code.
    """
    width = min(table.embedding_dim for table in tables)
    vectors = ((embeddings - embeddings.mean(0)) / embeddings.std().clamp_min(1e-6))[:, :width]
    n = vectors.shape[1]
    for table in tables:
        table.weight[:-1, :n] = vectors
    head.weight.mul_(0.3)
    head.weight[:, :n] += vectors / math.sqrt(n) * 0.3
    head.bias.zero_()
    place_bias.copy_(code_frequencies(counts).log())


def code_frequencies(counts: Tensor) -> Tensor:
    """Smoothed frequencies of the codes at each place: (P, V) counts -> (P, V) float64."""
    smoothed = counts.double() + 0.1
    return smoothed / smoothed.sum(1, keepdim=True)
