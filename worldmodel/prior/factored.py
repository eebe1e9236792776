"""The factored prior: a trunk sees the last W frames in one pass, a decoder writes the next by columns.

p(frame t+1 | past) = product over columns of p(column | columns before it, trunk), and the codes of one
column are independent given those: the product is the exact likelihood.

Shapes: B clips or rows, T frames in a clip, N = targets, W frames of memory, h w code grid, P = h*w places,
D width, C condition width, V codes in the book (code V: no frame). Tokens of a frame are column-major.
"""

from __future__ import annotations

import math
from dataclasses import dataclass

import torch
import torch.nn.functional as F
from einops import rearrange
from torch import Tensor, nn

from worldmodel import spaces
from worldmodel.errors import UserError
from worldmodel.heads import OutcomeHeads
from worldmodel.prior.conditioning import ActionEncoder
from worldmodel.prior.interface import CodeClip, PriorState, PriorStep
from worldmodel.prior.layers import Block, ColumnCache, LocalMix
from worldmodel.prior.sampling import inverse_cdf
from worldmodel.prior.windows import Targets, cut_targets


@dataclass(frozen=True)
class StatusConfig:
    """A hidden variable learned beside the picture.

    Attributes:
        variable: its name in the dataset, e.g. "health"; empty learns none.
        edges: ascending borders between its bins; n borders make n + 1 bins.
    """

    variable: str = ""
    edges: tuple[float, ...] = ()

    @property
    def num_bins(self) -> int:
        """Bins, 0 without a variable."""
        return len(self.edges) + 1 if self.variable else 0


@dataclass(frozen=True)
class FactoredConfig:
    """The size of a factored prior and the weights of its losses.

    Attributes:
        window: W, frames and actions it remembers.
        width: D of trunk and decoder.
        num_heads: attention heads; divides the width.
        trunk_layers: layers that see the history.
        decoder_layers: layers that write the next frame.
        embed_dim: width of a history code's embedding; at least the codebook's, from which it starts.
        action_dim: width of an action's vector; W of them, side by side, are the condition.
        history_noise: highest share of a history's codes replaced by another clip's while training, so
            that the dream forgives its own mistakes.
        history_loss: share of the windows that lose some of their oldest frames and the status while
            training, so that a clip may begin anywhere.
        end_weight: weight of the end's loss beside the codes' (nats).
        status_weight: weight of the status' loss (nats).
        reward_weight: weight of the reward's squared error, in standard deviations.
        status: the hidden variable, if any.
    """

    window: int = 4
    width: int = 128
    num_heads: int = 4
    trunk_layers: int = 3
    decoder_layers: int = 2
    embed_dim: int = 64
    action_dim: int = 16
    history_noise: float = 0.06
    history_loss: float = 0.1
    end_weight: float = 1.0
    status_weight: float = 1.0
    reward_weight: float = 0.1
    status: StatusConfig = StatusConfig()


class FactoredPrior(nn.Module):
    """The dream's prior; see the module's head.

    Args:
        config: sizes.
        grid: (h, w) of the codes.
        num_codes: V.
        action_space: what the actions are.
        end_has_frame: whether the environment shows a picture of the moment an episode ended.

    Raises:
        UserError: sizes that do not fit each other.
    """

    def __init__(
        self,
        config: FactoredConfig,
        grid: tuple[int, int],
        num_codes: int,
        action_space: spaces.Space,
        end_has_frame: bool = True,
    ) -> None:
        super().__init__()
        if config.width % config.num_heads:
            raise UserError(f"prior width={config.width} is no multiple of num_heads={config.num_heads}.")
        if list(config.status.edges) != sorted(config.status.edges):
            raise UserError(f"status edges {config.status.edges}: wanted ascending numbers.")
        self.config, self.grid, self.num_codes = config, grid, num_codes
        self.action_space, self.end_has_frame = action_space, end_has_frame
        (h, w), width, depth = grid, config.width, config.trunk_layers + config.decoder_layers
        condition_dim = config.window * config.action_dim
        self.actions = ActionEncoder(action_space, config.action_dim)
        self.embed = nn.Embedding(num_codes + 1, config.embed_dim)
        self.stem = nn.Conv2d(config.window * config.embed_dim, width, 3, padding=1)
        self.positions = nn.Parameter(0.02 * torch.randn(h * w + 1, width))  # the last: the summary
        self.status = nn.Embedding(config.status.num_bins + 1, width)
        self.mixes = nn.ModuleList(LocalMix(width, grid) for _ in range(config.trunk_layers))

        def blocks(count: int) -> nn.ModuleList:
            return nn.ModuleList(Block(width, config.num_heads, condition_dim, depth) for _ in range(count))

        self.trunk_blocks = blocks(config.trunk_layers)
        self.decoder_blocks = blocks(config.decoder_layers)
        self.bridge = nn.Linear(width, width)
        self.written = nn.Embedding(num_codes + 1, width)  # the last: left of the first column
        self.places = nn.Parameter(0.02 * torch.randn(h * w, width))
        self.logits = nn.Linear(width, num_codes)
        self.prejudice = nn.Parameter(torch.zeros(h * w, num_codes))  # what a place tends to show
        self.heads = OutcomeHeads(width, num_codes, config.status.num_bins, condition_dim)
        nn.init.normal_(self.embed.weight, std=0.3)
        nn.init.normal_(self.written.weight, std=0.3)
        column = torch.arange(h * w) // h
        self.register_buffer("mask", column[:, None] >= column[None], persistent=False)  # (P, P)

    @property
    def num_draws(self) -> int:
        """Uniform numbers a row needs for one step: end, status, then a code for each place."""
        return 2 + self.grid[0] * self.grid[1]

    @torch.no_grad()
    def init_from_codes(self, embeddings: Tensor, counts: Tensor) -> None:
        """Let learning begin at each place's own frequencies, with like codes alike.

        Args:
            embeddings: (V, d) float32, the tokenizer's codebook: where embeddings and logits start.
            counts: (h, w, V), how often the training split has each code at each place.
        """
        d = min(embeddings.shape[1], self.config.embed_dim, self.config.width)
        book = ((embeddings - embeddings.mean(0)) / embeddings.std().clamp_min(1e-6))[:, :d]
        for table in (self.embed.weight, self.written.weight):
            table[:-1, :d] = book
        self.logits.weight.mul_(0.3)
        self.logits.weight[:, :d] += book / math.sqrt(d) * 0.3
        share = rearrange(counts, "h w v -> (w h) v").float() + 0.1
        self.logits.bias.zero_()
        self.prejudice.copy_((share / share.sum(1, keepdim=True)).log())

    # -- the network ---------------------------------------------------------------------------------------

    def _trunk(self, state: PriorState) -> tuple[Tensor, Tensor, Tensor]:
        """Read a window whose last action is the one now taken.

        Returns:
            The places (N, P, D), the summary (N, D), the condition (N, C).
        """
        condition = self.actions(state.actions, state.has_action).flatten(1)  # (N, W*action_dim) = (N, C)
        history = rearrange(self.embed(state.codes), "n k h w e -> n (k e) h w")
        places = rearrange(self.stem(history), "n d h w -> n (w h) d")  # (N, P, D)
        tokens = torch.cat([places, self.status(state.status)[:, None]], 1) + self.positions  # (N, P+1, D)
        for mix, block in zip(self.mixes, self.trunk_blocks, strict=True):
            tokens = block(mix(tokens), condition)
        tokens = F.layer_norm(tokens, tokens.shape[-1:])
        return tokens[:, :-1], tokens[:, -1], condition

    def _write(
        self,
        span: slice,
        base: Tensor,
        left: Tensor,
        condition: Tensor,
        caches: list[ColumnCache] | None = None,
    ) -> Tensor:
        """Logits (N, n, V) of n places, from the trunk's (N, n, D) and the codes one column to the left."""
        tokens = base + self.written(left)
        for i, block in enumerate(self.decoder_blocks):
            tokens = block(tokens, condition, None if caches else self.mask, caches[i] if caches else None)
        return self.logits(F.layer_norm(tokens, tokens.shape[-1:])) + self.prejudice[span]

    def _forward(self, targets: Targets) -> tuple[Tensor, Tensor, Tensor, Tensor]:
        """Every logit of the targets: codes (N, P, V), end (N,), status (N, bins), rewards (N,)."""
        places, summary, condition = self._trunk(targets.state)
        told = condition + self.heads.condition(targets.terminations, targets.status)
        codes = rearrange(targets.codes, "n h w -> n (w h)")
        edge = torch.full_like(codes[:, : self.grid[0]], self.num_codes)
        left = torch.cat([edge, codes[:, : -self.grid[0]]], 1)
        logits = self._write(slice(None), self.bridge(places) + self.places, left, told)
        rewards = self.heads.rewards(summary, targets.terminations, targets.pictures)
        return logits, self.heads.end_logits(summary), self.heads.status_logits(summary), rewards

    # -- learning ------------------------------------------------------------------------------------------

    def loss(self, clip: CodeClip) -> dict[str, Tensor]:
        """Losses of the learned frames of a batch of clips; in training mode with a spoilt history.

        Random numbers come from torch's global generator.

        Returns:
            Scalars: `loss`, the weighted sum of `codes` (nats a code), `end` (nats a step), `status` (nats
            a frame) and `reward` (squared standard deviations).
        """
        targets = self._targets(clip).take(clip.learned)
        if self.training:
            targets = targets.noisy(self.config.history_noise, self.num_codes)
            bins = self.config.status.num_bins
            targets = targets.forgetful(self.config.history_loss, self.num_codes, bins)
        logits, end, status, rewards = self._forward(targets)
        truth = rearrange(targets.codes, "n h w -> n (w h)")
        nats = F.cross_entropy(logits.float().flatten(0, 1), truth.flatten(), reduction="none")
        shown = targets.frame_valid[:, None].expand_as(truth).flatten()
        ended = targets.terminations.float()
        hazard = F.binary_cross_entropy_with_logits(end.float(), ended, reduction="none")
        error = (rewards.float() - self.heads.scale(targets.rewards)).square()
        losses = {
            "codes": _mean(nats, shown),
            "end": _mean(hazard, targets.has_end),
            "reward": _mean(error, targets.has_step),
        }
        config = self.config
        total = losses["codes"] + config.end_weight * losses["end"] + config.reward_weight * losses["reward"]
        bins = config.status.num_bins
        if bins:
            known = targets.has_step & (targets.status < bins)
            truth = targets.status.clamp_max(bins - 1)
            losses["status"] = _mean(F.cross_entropy(status.float(), truth, reduction="none"), known)
            total = total + config.status_weight * losses["status"]
        return {"loss": total, **{name: value.detach() for name, value in losses.items()}}

    @torch.no_grad()
    def log_prob(self, clip: CodeClip) -> Tensor:
        """Exact log-likelihood of each frame's codes given the frames and actions before it.

        Args:
            clip: the clips. Frame 0 is given nothing but "no action".

        Returns:
            (B, T) float32, nats a frame (divide by h*w for nats a code); 0 where the frame is invalid.
        """
        targets = self._targets(clip).flat()
        logits = self._forward(targets)[0].float().log_softmax(-1)  # (N, P, V)
        truth = rearrange(targets.codes, "n h w -> n (w h)")
        nats = logits.gather(-1, truth[..., None])[..., 0].sum(1)  # (N,)
        return (nats * targets.frame_valid).reshape(clip.frame_valid.shape)

    def _targets(self, clip: CodeClip) -> Targets:
        return cut_targets(clip, self.config.window, self.num_codes, self.config.status.num_bins)

    # -- dreaming ------------------------------------------------------------------------------------------

    def init_state(self, codes: Tensor, frame_valid: Tensor, actions: Tensor, status: Tensor) -> PriorState:
        """The state after a clip of real codes; only its last W frames matter.

        Args:
            codes: (B, T, h, w) int64, T >= 1.
            frame_valid: (B, T) bool.
            actions: (B, T-1) or (B, T-1, A), those that led to frames 1 to T-1.
            status: (B,) int64 at the last frame, in [0, bins]; `bins` is "not known".
        """
        window, batch = self.config.window, len(codes)
        codes = torch.where(frame_valid[:, :, None, None], codes, self.num_codes)
        blank = torch.full_like(codes[:, :1], self.num_codes).expand(-1, window, -1, -1)
        still = torch.zeros((batch, window, *actions.shape[2:]), dtype=actions.dtype, device=actions.device)
        acted = torch.arange(window + actions.shape[1], device=codes.device) >= window
        return PriorState(
            torch.cat([blank, codes], 1)[:, -window:],
            torch.cat([still, actions], 1)[:, -window:],
            acted[-window:].expand(batch, -1),
            status,
        )

    @torch.no_grad()
    def step(self, state: PriorState, actions: Tensor, draws: Tensor, temperature: float = 1.0) -> PriorStep:
        """Take one step in every row: end, status, codes, reward, in this order.

        Args:
            state: what is remembered.
            actions: (B,) or (B, A).
            draws: (B, num_draws) float32 in [0, 1): all the randomness there is.
            temperature: of the codes; the end and the status are drawn at 1.

        Returns:
            The new state and what happened.
        """
        acted = torch.ones_like(state.has_action[:, :1])
        now = PriorState(
            state.codes,
            torch.cat([state.actions[:, 1:], actions[:, None]], 1),
            torch.cat([state.has_action[:, 1:], acted], 1),
            state.status,
        )
        places, summary, condition = self._trunk(now)
        hazards = self.heads.end_logits(summary).float().sigmoid()
        terminations = draws[:, 0] < hazards
        bins = self.config.status.num_bins
        status = torch.full_like(state.status, bins)
        if bins:
            status = inverse_cdf(self.heads.status_logits(summary), draws[:, 1])
        has_picture = torch.ones_like(terminations) if self.end_has_frame else ~terminations
        told = condition + self.heads.condition(terminations, status)
        codes, log_probs = self._draw(places, told, draws[:, 2:], temperature)
        seen = torch.where(has_picture[:, None, None], codes, self.num_codes)
        rewards = self.heads.unscale(self.heads.rewards(summary, terminations, seen).float())
        after = PriorState(torch.cat([state.codes[:, 1:], seen[:, None]], 1), now.actions, now.has_action, status)
        return PriorStep(after, codes, has_picture, terminations, hazards, rewards, status, log_probs * has_picture)

    def _draw(self, places: Tensor, told: Tensor, draws: Tensor, temperature: float) -> tuple[Tensor, Tensor]:
        """Write a frame column by column: codes (B, h, w) and their log-probability (B,) at temperature 1."""
        (h, w), heads, rows = self.grid, self.config.num_heads, len(places)
        shape = (rows, heads, h * w, self.config.width // heads)
        caches = [ColumnCache(places.new_empty(shape), places.new_empty(shape)) for _ in self.decoder_blocks]
        base = self.bridge(places) + self.places
        left = torch.full((rows, h), self.num_codes, device=places.device)
        columns, log_probs = [], torch.zeros(rows, device=places.device)
        for j in range(w):
            span = slice(j * h, (j + 1) * h)
            logits = self._write(span, base[:, span], left, told, caches).float()  # (B, h, V)
            left = inverse_cdf(logits, draws[:, span], temperature)
            log_probs = log_probs + logits.log_softmax(-1).gather(-1, left[..., None])[..., 0].sum(1)
            columns.append(left)
        return torch.stack(columns, 2), log_probs


def _mean(values: Tensor, mask: Tensor) -> Tensor:
    """Mean over the True places; 0 where there is none. What is masked is never looked at."""
    return torch.where(mask, values, 0.0).sum() / mask.sum().clamp_min(1)
