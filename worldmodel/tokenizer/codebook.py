"""The codebook: vectors to the nearest of V codes, learned by moving averages (paper section 2.1).

Shapes: N vectors, d numbers a vector, C codebooks (slices of d/C numbers), V codes in each book. Codes of
several books stand beside each other, the book running fastest: vector n has codes n*C .. n*C + C - 1.
"""

from __future__ import annotations

from typing import NamedTuple

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from worldmodel.common.processes import process, process_weight, sum_over_processes


class Quantised(NamedTuple):
    """What a codebook says of N vectors.

    Attributes:
        vectors: (N, d) the chosen embeddings, the gradient passed straight through to what was quantised.
        codes: (N*C,) int64.
        commitment: (), mean squared distance to the chosen embeddings.
        perplexity: (), effective number of codes in use, 1 to V, the mean over books.
        dead: (), codes that restarted in this step; in evaluation mode those that are used less than that.
    """

    vectors: Tensor
    codes: Tensor
    commitment: Tensor
    perplexity: Tensor
    dead: Tensor


class Codebook(nn.Module):
    """V embeddings of d numbers, moved by exponential averages of the vectors that chose them.

    With several codebooks (paper table 7) the numbers of a vector are cut into C slices, and each slice chooses
    from a book of its own: book c is columns c*d/C .. (c+1)*d/C - 1 of `embeddings`.

    Nothing here has a gradient and everything is a buffer, the flag of its first use included, so that a
    loaded codebook goes on exactly where the saved one stood. All shapes are static. Random numbers come
    from torch's global generator of the vectors' device; the training loop seeds it at every step.

    Where several processes train together, each with consecutive clips of one batch, averages and restarts
    are those of all their vectors, equal in every process.

    Args:
        num_codes: V.
        code_dim: d, a multiple of C.
        decay: share of the old average kept at each training step.
        restart_below: a code chosen fewer times a step than this, on the moving average, is dead and
            restarts at a random vector of the batch, its averages too.
        num_codebooks: C.
    """

    embeddings: Tensor
    counts: Tensor
    sums: Tensor
    initialised: Tensor

    def __init__(
        self,
        num_codes: int,
        code_dim: int,
        decay: float = 0.99,
        restart_below: float = 0.5,
        num_codebooks: int = 1,
    ) -> None:
        super().__init__()
        assert code_dim % num_codebooks == 0
        self.num_codes = num_codes
        self.num_codebooks = num_codebooks
        self.slice_dim = code_dim // num_codebooks
        self.decay = decay
        self.restart_below = restart_below
        self.register_buffer("embeddings", torch.zeros(num_codes, code_dim))
        self.register_buffer("counts", torch.ones(num_codes * num_codebooks))  # of (V, C)
        self.register_buffer("sums", torch.zeros(num_codes, code_dim))
        self.register_buffer("initialised", torch.tensor(False))

    def encode(self, vectors: Tensor) -> Tensor:
        """Index of the nearest embedding in each slice: (N, d) float32 -> (N*C,) int64."""
        with torch.autocast(vectors.device.type, enabled=False):  # distances in half precision choose badly
            pairs = zip(vectors.split(self.slice_dim, 1), self.embeddings.split(self.slice_dim, 1), strict=True)
            # |x - e|^2 without |x|^2, which is the same for every code
            nearest = [
                torch.addmm(book.square().sum(1)[None], part, book.t(), alpha=-2).argmin(1)  # (N, V) -> (N,)
                for part, book in pairs
            ]
        return torch.stack(nearest, 1).flatten()

    def decode(self, codes: Tensor) -> Tensor:
        """Embeddings of codes: (..., n*C) int64 -> (..., n, d) float32."""
        parts = F.embedding(self._rows(codes), self._by_row(self.embeddings))  # (..., n*C, d/C)
        return parts.reshape(*codes.shape[:-1], -1, self.embeddings.shape[1])

    def forward(self, vectors: Tensor) -> Quantised:
        """Quantise, and in training mode learn from the batch.

        Args:
            vectors: (N, d) float32, N >= 1.
        """
        data = vectors.detach()
        if self.training:
            candidates = self._candidates(data)
            self._initialise(candidates)
        codes = self.encode(data)
        chosen = self.decode(codes)
        rows = self._rows(codes)
        uses = torch.zeros_like(self.counts).index_add_(0, rows, torch.ones_like(rows, dtype=self.counts.dtype))
        if self.training:
            # chosen is a copy: the loss compares with the embeddings as they were when chosen
            uses, dead = self._learn(data, rows, uses, candidates)
        else:
            uses, dead = sum_over_processes(uses), self.counts < self.restart_below
        return Quantised(
            vectors=vectors + (chosen - vectors).detach(),
            codes=codes,
            commitment=F.mse_loss(vectors, chosen) * process_weight(len(vectors), vectors.device),
            perplexity=perplexity(uses.view(self.num_codes, self.num_codebooks)).mean(),
            dead=dead.sum(),
        )

    @torch.no_grad()
    def _candidates(self, vectors: Tensor) -> Tensor:
        """V random vectors of all processes, with repetition: where codes start, at first or again. (V, d)"""
        rank, num_processes = process()
        if num_processes == 1:
            return vectors[torch.randint(len(vectors), (self.num_codes,), device=vectors.device)]
        sizes = torch.zeros(num_processes, dtype=torch.int64, device=vectors.device)
        sizes[rank] = len(vectors)
        counts = sum_over_processes(sizes).tolist()
        pick = torch.randint(sum(counts), (self.num_codes,), device=vectors.device)
        pick = sum_over_processes(pick if rank == 0 else torch.zeros_like(pick))  # the first process draws for all
        pick -= sum(counts[:rank])
        ours = (pick >= 0) & (pick < len(vectors))
        return sum_over_processes(torch.where(ours[:, None], vectors[pick.clamp(0, len(vectors) - 1)], 0.0))

    @torch.no_grad()
    def _initialise(self, candidates: Tensor) -> None:
        self.embeddings.copy_(torch.where(self.initialised, self.embeddings, candidates))
        self.sums.copy_(torch.where(self.initialised, self.sums, candidates))
        self.initialised.fill_(True)

    @torch.no_grad()
    def _learn(self, vectors: Tensor, rows: Tensor, uses: Tensor, candidates: Tensor) -> tuple[Tensor, Tensor]:
        """Move the averages; returns how often each code was chosen by all processes and which restart, (V*C,)."""
        sums = torch.zeros_like(self._by_row(self.sums)).index_add_(0, rows, self._by_row(vectors))  # (V*C, d/C)
        total = sum_over_processes(torch.cat([uses[:, None], sums], 1))
        uses, sums = total[:, 0], total[:, 1:]
        self.counts.lerp_(uses, 1 - self.decay)
        averages = self._by_row(self.sums).lerp_(sums, 1 - self.decay)
        dead = self.counts < self.restart_below
        self.counts.copy_(torch.where(dead, 1.0, self.counts))
        averages.copy_(torch.where(dead[:, None], self._by_row(candidates), averages))
        self._by_row(self.embeddings).copy_(averages / self.counts[:, None])
        return uses, dead

    def _rows(self, codes: Tensor) -> Tensor:
        """Code v of book c is row v*C + c of `_by_row`: (..., n*C) -> the same shape."""
        book = torch.arange(self.num_codebooks, device=codes.device)
        return codes * self.num_codebooks + book.repeat(codes.shape[-1] // self.num_codebooks)

    def _by_row(self, vectors: Tensor) -> Tensor:
        """(n, d) -> (n*C, d/C), a view where possible."""
        return vectors.reshape(-1, self.slice_dim)


def perplexity(uses: Tensor) -> Tensor:
    """Effective number of codes in use: exp of the entropy of their frequencies, 1 to V.

    Args:
        uses: (V, ...) float32, how often each code was chosen.

    Returns:
        (...) float32.
    """
    share = uses / uses.sum(0).clamp_min(1)
    return torch.special.entr(share).sum(0).exp()
