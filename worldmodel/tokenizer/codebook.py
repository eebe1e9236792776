"""The codebook: vectors to the nearest of V codes, learned by moving averages (paper section 2.1).

Shapes: N vectors, d numbers a vector, V codes in the book.
"""

from __future__ import annotations

import torch
import torch.nn.functional as F
from torch import Tensor, nn


class Codebook(nn.Module):
    """V embeddings of d numbers, moved by exponential averages of the vectors that chose them.

    Nothing here has a gradient and everything is a buffer, the flag of its first use included, so that a
    loaded codebook goes on exactly where the saved one stood. All shapes are static. Random numbers come
    from torch's global generator of the vectors' device; the training loop seeds it at every step.

    Args:
        num_codes: V.
        code_dim: d.
        decay: share of the old average kept at each training step.
        restart_below: a code chosen fewer times a step than this, on the moving average, is dead and
            restarts at a random vector of the batch, its averages too.
    """

    embeddings: Tensor
    counts: Tensor
    sums: Tensor
    initialised: Tensor

    def __init__(self, num_codes: int, code_dim: int, decay: float = 0.99, restart_below: float = 0.5) -> None:
        super().__init__()
        self.num_codes = num_codes
        self.decay = decay
        self.restart_below = restart_below
        self.register_buffer("embeddings", torch.zeros(num_codes, code_dim))
        self.register_buffer("counts", torch.ones(num_codes))
        self.register_buffer("sums", torch.zeros(num_codes, code_dim))
        self.register_buffer("initialised", torch.tensor(False))

    def encode(self, vectors: Tensor) -> Tensor:
        """Index of the nearest embedding: (N, d) float32 -> (N,) int64."""
        book = self.embeddings
        # |x - e|^2 without |x|^2, which is the same for every code
        distances = torch.addmm(book.square().sum(1)[None], vectors, book.t(), alpha=-2)  # (N, V)
        return distances.argmin(1)

    def decode(self, codes: Tensor) -> Tensor:
        """Embeddings of codes: (...) int64 -> (..., d) float32."""
        return F.embedding(codes, self.embeddings)

    def forward(self, vectors: Tensor) -> tuple[Tensor, Tensor, Tensor]:
        """Quantise, and in training mode learn from the batch.

        Args:
            vectors: (N, d) float32, N >= 1.

        Returns:
            The chosen embeddings with the gradient passed straight through to `vectors`, (N, d); the
            codes, (N,) int64; the commitment loss, mean squared distance to the chosen embedding, ().
        """
        data = vectors.detach()
        if self.training:
            pick = torch.randint(len(data), (self.num_codes,), device=data.device)
            candidates = data[pick]  # (V, d): where codes start, at first or again
            self._initialise(candidates)
        codes = self.encode(data)
        chosen = self.decode(codes)
        if self.training:
            # chosen is a copy: the loss compares with the embeddings as they were when chosen
            self._learn(data, codes, candidates)
        commitment = F.mse_loss(vectors, chosen)
        return vectors + (chosen - vectors).detach(), codes, commitment

    @torch.no_grad()
    def _initialise(self, candidates: Tensor) -> None:
        self.embeddings.copy_(torch.where(self.initialised, self.embeddings, candidates))
        self.sums.copy_(torch.where(self.initialised, self.sums, candidates))
        self.initialised.fill_(True)

    @torch.no_grad()
    def _learn(self, vectors: Tensor, codes: Tensor, candidates: Tensor) -> None:
        counts = torch.zeros_like(self.counts).index_add_(0, codes, torch.ones_like(vectors[:, 0]))
        sums = torch.zeros_like(self.sums).index_add_(0, codes, vectors)
        self.counts.lerp_(counts, 1 - self.decay)
        self.sums.lerp_(sums, 1 - self.decay)
        dead = self.counts < self.restart_below  # (V,)
        self.counts.copy_(torch.where(dead, 1.0, self.counts))
        self.sums.copy_(torch.where(dead[:, None], candidates, self.sums))
        self.embeddings.copy_(self.sums / self.counts[:, None])


def perplexity(codes: Tensor, num_codes: int) -> Tensor:
    """Effective number of codes in use: exp of the entropy of their frequencies, 1 to V.

    Args:
        codes: any shape, int64.
        num_codes: V.
    """
    share = torch.bincount(codes.reshape(-1), minlength=num_codes).float()
    share = share / share.sum().clamp_min(1)
    return torch.special.entr(share).sum().exp()
