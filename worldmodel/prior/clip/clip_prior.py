"""The clip prior: the paper's GPT over the codes of a whole clip in raster order (t, h, w).

It shares its transformer with the flat prior. Each time step of codes has S = K+1 positions: a learned start token and
its K codes. Every position attends to all positions before it in the clip, or to those of the sparse layout. Actions
and class enter through the LayerNorms of all positions; given frames enter through attention to their features in every
block. The prior models codes alone: no termination, no reward, no status.

Shapes: B clips, L frames, T time steps of codes, h w code grid, K = h*w codes per time step, S = K+1 positions per time
step, G key/value heads, d numbers per head, V codes in the codebook (code V: no frame), C condition width.
"""

from __future__ import annotations

from dataclasses import replace

import torch
from torch import Tensor, nn

from worldmodel.common import spaces
from worldmodel.common.errors import UserError
from worldmodel.common.processes import process_weight, seed_by_rank
from worldmodel.common.torch_state import default_torch_modes
from worldmodel.prior.clip.clip_conditioning import ClipConditionEncoder, Conditioning
from worldmodel.prior.clip.clip_config import ClipConfig
from worldmodel.prior.clip.frame_encoder import make_frame_encoder
from worldmodel.prior.clip.sparse_attention import SparseAttention
from worldmodel.prior.flat.frame_sampling import sample_frame
from worldmodel.prior.flat.raster_transformer import RasterTransformer
from worldmodel.prior.flat.ring_cache import KeyValueCache
from worldmodel.prior.losses import code_nats
from worldmodel.prior.sampling import Sampling


class ClipPrior(nn.Module):
    """The distribution of the codes of a clip, given actions, a class, or nothing.

    Args:
        config: sizes.
        grid: (h, w) of the codes.
        num_codes: V.
        time_stride: frames per time step of codes; divides config.num_frames.
        action_space: the action space.
        num_classes: number of classes, 0 for none.
        frame_shape: (H, W, 3) of given frames.

    Attributes:
        num_steps: T.

    Raises:
        UserError: sizes that contradict each other.
    """

    @default_torch_modes()
    def __init__(
        self,
        config: ClipConfig,
        grid: tuple[int, int],
        num_codes: int,
        time_stride: int,
        action_space: spaces.Space,
        num_classes: int,
        frame_shape: tuple[int, int, int],
    ) -> None:
        super().__init__()
        if config.num_frames % time_stride:
            raise UserError(
                f"clip prior num_frames={config.num_frames}: wanted a multiple of the {time_stride} frames that one "
                "code of the tokenizer spans (time_stride)."
            )
        self.config, self.grid, self.num_codes = config, grid, num_codes
        self.num_steps = config.num_frames // time_stride
        self.condition_encoder = ClipConditionEncoder(config, self.num_steps, action_space, num_classes)
        self.transformer = RasterTransformer(
            # its frames are time steps of codes, which can be fewer than the given frames
            replace(config, num_frames=max(2, self.num_steps), num_given_frames=0),
            grid,
            num_codes,
            self.condition_encoder.condition_dim,
            memory=max(1, self.num_steps - 1),
            attends_to_features=config.num_given_frames > 0,
        )
        self.frame_encoder = make_frame_encoder(config, frame_shape)
        self.sparse_attention = SparseAttention(self.num_steps, grid) if config.attention == "sparse" else None

    def init_from_codes(self, embeddings: Tensor, counts: Tensor) -> None:
        """Initialise code embeddings and logits from the codebook and the code frequencies of each place.

        Args:
            embeddings: (V, n) float32, the tokenizer's codebook.
            counts: (h, w, V), how often the training split has each code at each place.
        """
        self.transformer.init_from_codes(embeddings, counts)

    def logits(self, codes: Tensor, conditioning: Conditioning) -> Tensor:
        """Logits of every code given all codes before it: (B, T, h, w) int64 -> (B, T, K, V).

        Raises:
            UserError: codes or conditions of another shape.
        """
        self._check_codes(codes)
        condition = self.condition_encoder(conditioning, len(codes), codes.device)
        valid = torch.ones(codes.shape[:2], dtype=torch.bool, device=codes.device)
        times = torch.arange(self.num_steps, device=codes.device).expand(len(codes), -1)
        attention = None if self.sparse_attention is None else self.sparse_attention.function()
        return self.transformer(codes, valid, condition, times, self._features(conditioning), attention)[0]

    def loss(self, codes: Tensor, conditioning: Conditioning, has_loss: Tensor) -> dict[str, Tensor]:
        """Mean negative log-likelihood of the codes; in training mode each process has its own dropout.

        Args:
            codes: (B, T, h, w) int64.
            conditioning: of the B clips.
            has_loss: (B,) bool; the other clips have no influence. Where several processes train together, each with
                its part of the clips, the average of their losses is the mean over all clips.

        Returns:
            Scalars `loss` and `codes`, both in nats per code.
        """
        if self.training:
            seed_by_rank()
        nats = code_nats(self.logits(codes, conditioning), codes.flatten(2)).mean((1, 2))  # (B,)
        count = has_loss.sum()
        mean = torch.where(has_loss, nats, 0.0).sum() / count.clamp_min(1) * process_weight(count, count.device)
        return {"loss": mean, "codes": mean.detach()}

    @torch.no_grad()
    def log_prob(self, codes: Tensor, conditioning: Conditioning) -> Tensor:
        """Natural logarithm of the probability of the codes: (B, T, h, w) int64 -> (B,) float32.

        Raises:
            UserError: codes or conditions of another shape.
        """
        return -code_nats(self.logits(codes, conditioning), codes.flatten(2)).sum((1, 2))

    @torch.no_grad()
    def sample(self, conditioning: Conditioning, uniforms: Tensor, sampling: Sampling) -> tuple[Tensor, Tensor]:
        """Sample the codes of clips, code by code, with a cache of keys and values.

        Args:
            conditioning: of the B clips.
            uniforms: (B, T, K) float32 in [0, 1), the only source of randomness.
            sampling: how codes are sampled.

        Returns:
            Codes (B, T, h, w) int64, and their log-probability (B,) float32 in nats at temperature 1.

        Raises:
            UserError: conditions of another shape.
        """
        transformer, rows, size = self.transformer, len(uniforms), self.transformer.num_positions
        condition = self.condition_encoder(conditioning, rows, uniforms.device)
        features = self._features(conditioning)
        keys, values = self._empty_cache(rows, condition.device)
        masks = [None] * self.num_steps if self.sparse_attention is None else self.sparse_attention.step_masks()
        codes, log_probs = [], torch.zeros(rows, device=condition.device)
        previous = torch.full((rows, *self.grid), self.num_codes, device=condition.device)
        for t in range(self.num_steps):
            end = (t + 1) * size
            visible = torch.ones(rows, t, dtype=torch.bool, device=condition.device)
            cache = KeyValueCache(keys[..., :end], values[:, :, :, :end], visible)
            times = torch.full((rows,), t, device=condition.device)
            previous, step_log_probs, _ = sample_frame(
                transformer, cache, previous, times, condition[:, t], uniforms[:, t], sampling, features, masks[t]
            )
            codes.append(previous)
            log_probs += step_log_probs
        return torch.stack(codes, 1), log_probs

    def _features(self, conditioning: Conditioning) -> Tensor | None:
        """Features of the given frames, (B, M, D); None without them."""
        if self.frame_encoder is None or conditioning.frames is None:
            return None
        return self.frame_encoder(conditioning.frames)

    def _empty_cache(self, rows: int, device: torch.device) -> tuple[Tensor, Tensor]:
        """Keys (B, G, layers, d, T*S) and values (B, G, layers, T*S, d) float32, in the layout of `KeyValueCache`."""
        config, positions = self.config, self.num_steps * self.transformer.num_positions
        heads, d = config.num_kv_heads or config.num_heads, config.width // config.num_heads
        keys = torch.zeros(rows, heads, config.num_layers, d, positions, dtype=torch.float32, device=device)
        return keys, torch.zeros(rows, heads, config.num_layers, positions, d, dtype=torch.float32, device=device)

    def _check_codes(self, codes: Tensor) -> None:
        """Refuse codes that are not those of whole clips."""
        wanted = (self.num_steps, *self.grid)
        if codes.ndim != 4 or tuple(codes.shape[1:]) != wanted:
            raise UserError(f"codes: got shape {tuple(codes.shape)}, wanted (B, {', '.join(map(str, wanted))}).")
