"""A frame's codes as a mixture: which of K ways it goes is drawn once, before its codes.

p(codes) = sum_k p(k) prod_places p_k(code): places that are independent in every component are not independent in
their mixture, so that what goes one of a few ways goes it in all places together.

Shapes: N frames, K components, P = h*w places, D width, C condition width, V codes in the book.
"""

from __future__ import annotations

import math

import torch
from torch import Tensor, nn

FLOOR = 0.3  # what all components share of every choice, whatever was learned


class Mixture(nn.Module):
    """What tells the decoder its component, and how likely each is. One component has no weights.

    No component is ever less likely than FLOOR/K. Without that the choice settles on one of them, context by context,
    before they have come to differ, and the others are never taught which way they could go.

    Args:
        num_components: K.
        width: D.
        condition_dim: C.
    """

    def __init__(self, num_components: int, width: int, condition_dim: int) -> None:
        super().__init__()
        self.num_components = num_components
        if num_components > 1:
            self.vectors = nn.Parameter(0.3 * torch.randn(num_components, width))
            self.chances = nn.Linear(width + condition_dim, num_components)
            nn.init.zeros_(self.chances.weight)
            nn.init.zeros_(self.chances.bias)

    def log_chances(self, summary: Tensor, told: Tensor) -> Tensor:
        """How likely each component is: (N, D) and (N, C) -> (N, K) float32, log-probabilities."""
        if self.num_components == 1:
            return summary.new_zeros(len(summary), 1, dtype=torch.float32)
        learned = self.chances(torch.cat([summary, told], 1)).float().log_softmax(-1)
        least = torch.full_like(learned, math.log(FLOOR / self.num_components))
        return torch.logaddexp(learned + math.log(1 - FLOOR), least)

    def every(self, tokens: Tensor) -> Tensor:
        """Tokens under every component: (N, P, D) -> (N*K, P, D), a frame's components after each other."""
        if self.num_components == 1:
            return tokens
        return (tokens[:, None] + self.vectors[:, None]).flatten(0, 1)

    def one(self, tokens: Tensor, components: Tensor) -> Tensor:
        """Tokens under one component each: (N, P, D) and (N,) int64 -> (N, P, D)."""
        return tokens if self.num_components == 1 else tokens + self.vectors[components][:, None]


def log_likelihood(log_chances: Tensor, nats: Tensor) -> Tensor:
    """Of whole frames: (N, K) and each component's nats of the codes (N, K, P) -> (N,), in nats, exact."""
    return (log_chances - nats.sum(2)).logsumexp(1)


def shared_nats(log_chances: Tensor, nats: Tensor) -> tuple[Tensor, Tensor]:
    """A frame's nats shared out among its places, and what the choice of the component has of them.

    The components' nats are averaged by how likely each has drawn the frame (responsibilities, held fixed), and the
    choice costs how far those lie from the chances: the sum is -`log_likelihood`, in its value and its gradient. Other
    than the logarithm of a sum it may be weighted place by place, and where the weights depend on the past alone, it
    still is least at the true probabilities.

    Args:
        log_chances: (N, K).
        nats: (N, K, P).

    Returns:
        (N, P) and (N,).
    """
    took = (log_chances - nats.sum(2)).detach().log_softmax(1)  # (N, K)
    share = took.exp()
    return (share[:, :, None] * nats).sum(1), (share * (took - log_chances)).sum(1)
