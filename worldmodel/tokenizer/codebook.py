"""The codebook: vectors to the nearest of V embeddings, learned by moving averages (paper section 2.1).

Shapes: N vectors, d numbers in a vector, C codebooks (each quantises a slice of d/C numbers), V codes in each
codebook. The codes of one vector are adjacent, the codebook index running fastest: vector n has codes n*C to
n*C + C - 1.
"""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from typing import NamedTuple

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from worldmodel.common.processes import process, process_weight, sum_over_processes
from worldmodel.common.torch_state import default_torch_modes

REPEAT_NOISE = 0.01  # standard deviation of the noise on repeated vectors, relative to the vectors' root mean square


class CodebookOutput(NamedTuple):
    """N vectors after quantisation.

    Attributes:
        vectors: (N, d) float32, the chosen embeddings; their gradient passes straight through to the input.
        codes: (N*C,) int64.
        commitment: () float32, mean squared distance between the input and the chosen embeddings.
        perplexity: () float32, effective number of codes in use, 1 to V; the mean over codebooks.
        num_dead: () int64, codes that restarted in this step; in evaluation mode, codes that would restart.
    """

    vectors: Tensor
    codes: Tensor
    commitment: Tensor
    perplexity: Tensor
    num_dead: Tensor


class Codebook(nn.Module):
    """V embeddings of d numbers, updated by exponential moving averages of the vectors that chose them.

    With several codebooks (paper table 7) a vector is cut into C slices, and each slice is quantised with its own
    codebook: codebook c is columns c*d/C to (c+1)*d/C - 1 of `embeddings`.

    Everything is a buffer and nothing has a gradient. The flag `initialised` is a buffer too, so that a loaded
    codebook continues exactly where the saved one stopped. All shapes are static. Random numbers come from torch's
    global generator of the vectors' device; the training loop seeds it at every step.

    Where several processes train together, each on consecutive clips of one batch, averages and restarts use the
    vectors of all processes, and the codebook is equal in every process.

    Args:
        num_codes: V.
        code_dim: d, a multiple of C.
        decay: weight of the old average in each training step.
        restart_below: a code whose moving average of uses per step falls below this is dead: its embedding and
            averages restart at a random vector of the batch.
        num_codebooks: C.
    """

    embeddings: Tensor
    ema_counts: Tensor
    ema_sums: Tensor
    initialised: Tensor

    @default_torch_modes()
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
        self._num_parts = 1
        self._pending: list[Tensor] = []  # uses and sums of the parts of this step, (V*C, 1 + d/C) each
        self.register_buffer("embeddings", torch.zeros(num_codes, code_dim))
        self.register_buffer("ema_counts", torch.ones(num_codes * num_codebooks))  # of (V, C)
        self.register_buffer("ema_sums", torch.zeros(num_codes, code_dim))
        self.register_buffer("initialised", torch.tensor(False))

    @contextmanager
    def accumulating(self, num_parts: int) -> Iterator[None]:
        """In the block, update once for so many batches, from all of them: the parts of a step of training."""
        self._num_parts = num_parts
        try:
            yield
        finally:
            self._num_parts = 1
            self._pending.clear()

    def encode(self, vectors: Tensor) -> Tensor:
        """Index of the nearest embedding for each slice: (N, d) float32 -> (N*C,) int64."""
        with torch.autocast(vectors.device.type, enabled=False):  # half-precision distances choose wrong codes
            slices = zip(vectors.split(self.slice_dim, 1), self.embeddings.split(self.slice_dim, 1), strict=True)
            # |x - e|^2 without |x|^2, which is the same for every code
            nearest = [
                torch.addmm(e.square().sum(1)[None], x, e.t(), alpha=-2).argmin(1)  # (N, V) -> (N,)
                for x, e in slices
            ]
        return torch.stack(nearest, 1).flatten()  # (N, C) -> (N*C,)

    def decode(self, codes: Tensor) -> Tensor:
        """Embeddings of codes: (..., n*C) int64 -> (..., n, d) float32."""
        slices = F.embedding(self._slice_index(codes), self._to_slices(self.embeddings))  # (..., n*C, d/C)
        return slices.reshape(*codes.shape[:-1], -1, self.embeddings.shape[1])

    def forward(self, vectors: Tensor) -> CodebookOutput:
        """Quantise; in training mode also update the codebook.

        Args:
            vectors: (N, d) float32, N >= 1.
        """
        data = vectors.detach()
        if self.training:
            candidates = self._candidates(data)
            self._initialise(candidates)
        codes = self.encode(data)
        quantised = self.decode(codes)
        index = self._slice_index(codes)
        uses = torch.zeros_like(self.ema_counts).index_add_(
            0, index, torch.ones_like(index, dtype=self.ema_counts.dtype)
        )
        if self.training:
            # `quantised` is a copy: the loss compares with the embeddings before this update
            uses, dead = self._update(data, index, uses, candidates)
        else:
            uses, dead = sum_over_processes(uses), self.ema_counts < self.restart_below
        return CodebookOutput(
            vectors=vectors + (quantised - vectors).detach(),
            codes=codes,
            commitment=F.mse_loss(vectors, quantised) * process_weight(len(vectors), vectors.device),
            perplexity=perplexity(uses.view(self.num_codes, self.num_codebooks)).mean(),
            num_dead=dead.sum() * (self._num_parts if self.training else 1),  # whose mean over parts is the number
        )

    @torch.no_grad()
    def _candidates(self, vectors: Tensor) -> Tensor:
        """Initial and restart positions of the codes: V random vectors of all processes, without repetition.

        If there are fewer than V vectors, each is taken several times, and all but its first copy get small noise.

        Args:
            vectors: (N, d), of this process.

        Returns:
            (V, d), the same in every process.
        """
        rank, num_processes = process()
        sizes = [len(vectors)]
        if num_processes > 1:
            size = torch.zeros(num_processes, dtype=torch.int64, device=vectors.device)
            size[rank] = len(vectors)
            sizes = sum_over_processes(size).tolist()
        total = sum(sizes)
        order = torch.arange(self.num_codes, device=vectors.device)
        index = _of_first_process(torch.randperm(total, device=vectors.device)[order % total])
        local_index = index - sum(sizes[:rank])
        is_local = (local_index >= 0) & (local_index < len(vectors))
        local = vectors[local_index.clamp(0, len(vectors) - 1)]
        candidates = sum_over_processes(torch.where(is_local[:, None], local, torch.zeros_like(local)))
        if total < self.num_codes:
            noise = _of_first_process(torch.randn_like(candidates))
            scale = REPEAT_NOISE * candidates.square().mean().sqrt().clamp_min(1e-6)
            candidates += torch.where((order >= total)[:, None], noise * scale, torch.zeros_like(noise))
        return candidates

    @torch.no_grad()
    def _initialise(self, candidates: Tensor) -> None:
        """Set all embeddings to the candidates (V, d), once."""
        self.embeddings.copy_(torch.where(self.initialised, self.embeddings, candidates))
        self.ema_sums.copy_(torch.where(self.initialised, self.ema_sums, candidates))
        self.initialised.fill_(True)

    @torch.no_grad()
    def _update(self, vectors: Tensor, index: Tensor, uses: Tensor, candidates: Tensor) -> tuple[Tensor, Tensor]:
        """Update the moving averages and restart dead codes.

        Args:
            vectors: (N, d).
            index: (N*C,) int64, from `_slice_index`.
            uses: (V*C,) float32, how often this process chose each code.
            candidates: (V, d), where dead codes restart.

        Returns:
            How often all processes chose each code in this step, (V*C,) float32, and which codes restarted, (V*C,)
            bool: none before the last part of a step.
        """
        sums = torch.zeros_like(self._to_slices(self.ema_sums)).index_add_(0, index, self._to_slices(vectors))
        self._pending.append(sum_over_processes(torch.cat([uses[:, None], sums], 1)))  # (V*C, 1 + d/C)
        total = torch.stack(self._pending).sum(0)
        uses, sums = total[:, 0], total[:, 1:]
        if len(self._pending) < self._num_parts:
            return uses, torch.zeros_like(uses, dtype=torch.bool)
        self._pending.clear()
        self.ema_counts.lerp_(uses, 1 - self.decay)
        averages = self._to_slices(self.ema_sums).lerp_(sums, 1 - self.decay)
        dead = self.ema_counts < self.restart_below
        self.ema_counts.copy_(torch.where(dead, 1.0, self.ema_counts))
        averages.copy_(torch.where(dead[:, None], self._to_slices(candidates), averages))
        self._to_slices(self.embeddings).copy_(averages / self.ema_counts[:, None])
        return uses, dead

    def _slice_index(self, codes: Tensor) -> Tensor:
        """Row of each code in `_to_slices` (code v of codebook c: v*C + c): (..., n*C) -> the same shape."""
        codebook = torch.arange(self.num_codebooks, device=codes.device)
        return codes * self.num_codebooks + codebook.repeat(codes.shape[-1] // self.num_codebooks)

    def _to_slices(self, vectors: Tensor) -> Tensor:
        """(n, d) -> (n*C, d/C), a view where possible."""
        return vectors.reshape(-1, self.slice_dim)


def _of_first_process(values: Tensor) -> Tensor:
    """The values of process 0, in every process: random numbers that all processes must share."""
    return sum_over_processes(values if process()[0] == 0 else torch.zeros_like(values))


def perplexity(uses: Tensor) -> Tensor:
    """Effective number of codes in use, 1 to V: the exponential of the entropy of their frequencies.

    Args:
        uses: (V, ...) float32, how often each code was chosen.

    Returns:
        (...) float32.
    """
    frequencies = uses / uses.sum(0).clamp_min(1)
    return torch.special.entr(frequencies).sum(0).exp()
