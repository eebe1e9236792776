"""A frame's codes as a mixture of K components, one of which is sampled before the codes.

p(codes) = sum_k p(k) prod_places p_k(code). Places that are independent within every component are dependent in the
mixture, so that an event with a few possible results gets the same result at all places.

Shapes: N frames, K components, P = h*w places, D width, C condition width, V codes in the codebook.
"""

from __future__ import annotations

import math

import torch
from torch import Tensor, nn

UNIFORM_SHARE = 0.3  # of the component probabilities, whatever was learned


class Mixture(nn.Module):
    """The components' embeddings and probabilities. A mixture of one component has no weights.

    The probability of a component is never below UNIFORM_SHARE/K. Without this floor the choice collapses to one
    component, context by context, before the components have come to differ, and the others get no gradient.

    Args:
        num_components: K.
        width: D.
        condition_dim: C.
    """

    def __init__(self, num_components: int, width: int, condition_dim: int) -> None:
        super().__init__()
        self.num_components = num_components
        if num_components > 1:
            self.component_embed = nn.Parameter(0.3 * torch.randn(num_components, width))
            self.component_head = nn.Linear(width + condition_dim, num_components)
            nn.init.zeros_(self.component_head.weight)
            nn.init.zeros_(self.component_head.bias)

    def log_probs(self, summary: Tensor, condition: Tensor) -> Tensor:
        """Log-probabilities of the components: (N, D) and (N, C) -> (N, K) float32."""
        if self.num_components == 1:
            return summary.new_zeros(len(summary), 1, dtype=torch.float32)
        learned = self.component_head(torch.cat([summary, condition], 1)).float().log_softmax(-1)
        floor = torch.full_like(learned, math.log(UNIFORM_SHARE / self.num_components))
        return torch.logaddexp(learned + math.log(1 - UNIFORM_SHARE), floor)

    def add_all_components(self, tokens: Tensor) -> Tensor:
        """Tokens for every component: (N, P, D) -> (N*K, P, D), a frame's components next to each other."""
        if self.num_components == 1:
            return tokens
        return (tokens[:, None] + self.component_embed[:, None]).flatten(0, 1)

    def add_component(self, tokens: Tensor, components: Tensor) -> Tensor:
        """Tokens for one component per frame: (N, P, D) and (N,) int64 -> (N, P, D)."""
        return tokens if self.num_components == 1 else tokens + self.component_embed[components][:, None]


def mixture_log_likelihood(log_probs: Tensor, nats: Tensor) -> Tensor:
    """Exact log-likelihood of whole frames, in nats.

    Args:
        log_probs: (N, K), of the components.
        nats: (N, K, P), of the codes under each component.

    Returns:
        (N,).
    """
    return (log_probs - nats.sum(2)).logsumexp(1)


def nats_by_place(log_probs: Tensor, nats: Tensor) -> tuple[Tensor, Tensor]:
    """Split a frame's negative log-likelihood into one term per place and one for the choice of the component.

    The places' terms are the components' nats, averaged with the posterior probabilities of the components (their
    responsibilities, without gradient). The choice's term is the divergence KL(posterior || prior). The sum of all
    terms is -`mixture_log_likelihood`, in value and gradient. Unlike the logarithm of a sum, the terms can be weighted
    place by place; where the weights depend on the past alone, the optimum remains at the true probabilities.

    Args:
        log_probs: (N, K), of the components.
        nats: (N, K, P), of the codes under each component.

    Returns:
        (N, P) and (N,).
    """
    log_posterior = (log_probs - nats.sum(2)).detach().log_softmax(1)  # (N, K)
    posterior = log_posterior.exp()
    return (posterior[:, :, None] * nats).sum(1), (posterior * (log_posterior - log_probs)).sum(1)
