"""The factored prior: a trunk sees the last W frames in one pass, a decoder writes the next in groups.

p(frame t+1 | past) = product over groups of p(group | groups before it, trunk), and the codes of one group
are independent given those: the product is the exact likelihood. A group is a column, a single place
(raster order) or the whole frame.

Shapes: B clips or rows, T frames in a clip, N = targets, W frames of memory, h w code grid, P = h*w places,
G places in a group, D width, C condition width, V codes in the book (code V: no frame). The tokens of a
frame stand in the order in which they are written.
"""

from __future__ import annotations

import math
from dataclasses import dataclass, field
from typing import Literal

import torch
import torch.nn.functional as F
from einops import rearrange
from torch import Tensor, nn

from worldmodel import spaces
from worldmodel.errors import UserError
from worldmodel.heads import OutcomeHeads
from worldmodel.prior.conditioning import ActionEncoder
from worldmodel.prior.interface import CodeClip, Context, Outcomes, Prior, PriorStep, StatusConfig
from worldmodel.prior.layers import Block, GroupCache, LocalMix, like_codes
from worldmodel.prior.losses import Predictions, prior_losses
from worldmodel.prior.sampling import Sampling, inverse_cdf
from worldmodel.prior.windows import Targets, cut_targets
from worldmodel.processes import process_rows


@dataclass(frozen=True)
class FactoredConfig:
    """The size of a factored prior and the weights of its losses.

    Attributes:
        kind: which prior this is.
        order: how a frame is written: "columns" from left to right, each at once; "raster", one place
            after the other; "frame", all places at once.
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
        rare_share: where the last frame shows, in a place or beside it, one of the codes that together
            make this share of what the training split shows in that place, ...
        rare_weight: ... the next frame's codes count for this much in the loss. What is weighted is
            decided by the past alone, so that no probability is bent by it. 1 weights nothing.
        end_weight: weight of the end's loss beside the codes' (nats).
        status_weight: weight of the status' loss (nats).
        reward_weight: weight of the reward's squared error, in standard deviations.
        status: the hidden variable, if any.
    """

    kind: Literal["factored"] = "factored"
    order: Literal["columns", "raster", "frame"] = "columns"
    window: int = 4
    width: int = 128
    num_heads: int = 4
    trunk_layers: int = 3
    decoder_layers: int = 2
    embed_dim: int = 64
    action_dim: int = 16
    history_noise: float = 0.06
    history_loss: float = 0.1
    rare_share: float = 0.05
    rare_weight: float = 1.0
    end_weight: float = 1.0
    status_weight: float = 1.0
    reward_weight: float = 0.1
    status: StatusConfig = field(default_factory=StatusConfig)


class FactoredPrior(Prior[Context]):
    """The dream's prior; see the module's head. Its state is the context itself.

    Args:
        config: sizes.
        grid: (h, w) of the codes.
        num_codes: V.
        action_space: what the actions are.
        end_has_frame: whether the environment shows a picture of the moment an episode ended.

    Raises:
        UserError: sizes that do not fit each other.
    """

    rare: Tensor

    def __init__(
        self,
        config: FactoredConfig,
        grid: tuple[int, int],
        num_codes: int,
        action_space: spaces.Space,
        end_has_frame: bool = True,
    ) -> None:
        super().__init__()
        if config.width < 1 or config.num_heads < 1 or config.width % config.num_heads:
            raise UserError(f"prior width={config.width}: wanted a positive multiple of num_heads={config.num_heads}.")
        if not 0 <= config.rare_share < 1 or config.rare_weight < 0:
            raise UserError("prior rare_share: wanted 0 or more, below 1; rare_weight: wanted 0 or more.")
        self.config, self.grid, self.num_codes = config, grid, num_codes
        self.action_space, self.end_has_frame = action_space, end_has_frame
        self.status_config, self.window, self.num_draws = config.status, config.window, 2 + grid[0] * grid[1]
        (h, w), width, depth = grid, config.width, config.trunk_layers + config.decoder_layers
        self.group = {"columns": h, "raster": 1, "frame": h * w}[config.order]  # G
        self.layout = "w h" if config.order == "columns" else "h w"  # order of writing
        condition_dim = config.window * config.action_dim
        self.actions = ActionEncoder(action_space, config.action_dim)
        self.embed = nn.Embedding(num_codes + 1, config.embed_dim)
        self.stem = nn.Conv2d(config.window * config.embed_dim, width, 3, padding=1)
        self.positions = nn.Parameter(0.02 * torch.randn(h * w + 1, width))  # the last: the summary
        self.status = nn.Embedding(config.status.num_bins + 1, width)
        self.mixes = nn.ModuleList(LocalMix(width, grid, self.layout) for _ in range(config.trunk_layers))

        def blocks(count: int) -> nn.ModuleList:
            return nn.ModuleList(Block(width, config.num_heads, condition_dim, depth) for _ in range(count))

        self.trunk_blocks = blocks(config.trunk_layers)
        self.decoder_blocks = blocks(config.decoder_layers)
        self.bridge = nn.Linear(width, width)
        self.written = nn.Embedding(num_codes + 1, width)  # the last: nothing is written yet
        self.places = nn.Parameter(0.02 * torch.randn(h * w, width))
        self.logits = nn.Linear(width, num_codes)
        self.prejudice = nn.Parameter(torch.zeros(h * w, num_codes))  # what a place tends to show
        self.heads = OutcomeHeads(width, num_codes, config.status.num_bins, condition_dim)
        nn.init.normal_(self.embed.weight, std=0.3)
        nn.init.normal_(self.written.weight, std=0.3)
        turn = torch.arange(h * w) // self.group
        mask = turn[:, None] >= turn[None]  # (P, P)
        self.register_buffer("mask", mask if self.group < h * w else None, persistent=False)
        self.register_buffer("rare", torch.zeros(h * w, num_codes + 1, dtype=torch.bool))

    def _in_turn(self, grids: Tensor) -> Tensor:
        """(N, h, w) -> (N, P), in the order of writing."""
        return rearrange(grids, f"n h w -> n ({self.layout})")

    @torch.no_grad()
    def init_from_codes(self, embeddings: Tensor, counts: Tensor) -> None:
        """As `Prior.init_from_codes`: the codebook is where embeddings and logits start."""
        book = like_codes(embeddings, min(self.config.embed_dim, self.config.width))
        d = book.shape[1]
        for table in (self.embed.weight, self.written.weight):
            table[:-1, :d] = book
        self.logits.weight.mul_(0.3)
        self.logits.weight[:, :d] += book / math.sqrt(d) * 0.3
        share = rearrange(counts, f"h w v -> ({self.layout}) v").double() + 0.1
        share /= share.sum(1, keepdim=True)
        self.logits.bias.zero_()
        self.prejudice.copy_(share.log())
        self.mark_rare(counts)

    @torch.no_grad()
    def mark_rare(self, counts: Tensor) -> None:
        """As `Prior.mark_rare`: at each place the codes that together make `rare_share` of what it shows."""
        share = rearrange(counts, f"h w v -> ({self.layout}) v").double() + 0.1
        ascending, order = (share / share.sum(1, keepdim=True)).sort(dim=1)
        self.rare.zero_()
        self.rare[:, :-1].scatter_(1, order, ascending.cumsum(1) <= self.config.rare_share)

    def measure_rewards(self, rewards: Tensor) -> None:
        """As `Prior.measure_rewards`."""
        self.heads.measure(rewards)

    # -- the network ---------------------------------------------------------------------------------------

    def _trunk(self, state: Context) -> tuple[Tensor, Tensor, Tensor]:
        """Read a window whose last action is the one now taken.

        Returns:
            The places (N, P, D), the summary (N, D), the condition (N, C).
        """
        condition = self.actions(state.actions, state.has_action).flatten(1)  # (N, W*action_dim) = (N, C)
        history = rearrange(self.embed(state.codes), "n k h w e -> n (k e) h w")
        places = rearrange(self.stem(history), f"n d h w -> n ({self.layout}) d")  # (N, P, D)
        tokens = torch.cat([places, self.status(state.status)[:, None]], 1) + self.positions  # (N, P+1, D)
        for mix, block in zip(self.mixes, self.trunk_blocks, strict=True):
            tokens = block(mix(tokens), condition)
        tokens = F.layer_norm(tokens, tokens.shape[-1:])
        return tokens[:, :-1], tokens[:, -1], condition

    def _write(
        self,
        span: slice,
        base: Tensor,
        before: Tensor,
        condition: Tensor,
        caches: list[GroupCache] | None = None,
    ) -> Tensor:
        """Logits (N, n, V) of n places, from the trunk's (N, n, D) and the codes (N, n) one group before."""
        tokens = base + self.written(before)
        for i, block in enumerate(self.decoder_blocks):
            tokens = block(tokens, condition, None if caches else self.mask, caches[i] if caches else None)
        return self.logits(F.layer_norm(tokens, tokens.shape[-1:])) + self.prejudice[span]

    def _forward(self, targets: Targets, told: Tensor) -> tuple[Tensor, Tensor, Tensor, Tensor]:
        """Every logit of the targets: codes (N, P, V), end (N,), status (N, bins), rewards (N,).

        Args:
            targets: N.
            told: (N,), the status that the decoder is told.
        """
        places, summary, condition = self._trunk(targets.state)
        told = condition + self.heads.condition(targets.terminations, told)
        codes = self._in_turn(targets.codes)
        nothing = torch.full_like(codes[:, : self.group], self.num_codes)
        before = torch.cat([nothing, codes[:, : -self.group]], 1)
        logits = self._write(slice(None), self.bridge(places) + self.places, before, told)
        rewards = self.heads.rewards(summary, targets.terminations, targets.pictures)
        return logits, self.heads.end_logits(summary), self.heads.status_logits(summary), rewards

    # -- learning ------------------------------------------------------------------------------------------

    def loss(self, clip: CodeClip) -> dict[str, Tensor]:
        """As `Prior.loss`; in training mode with a spoilt history."""
        learned = clip.weights > 0
        targets, weights = self._targets(clip).take(learned), clip.weights[learned]
        told = targets.status
        if self.training:
            targets = targets.noisy(self.config.history_noise, self.num_codes)
            bins = self.config.status.num_bins
            targets = targets.forgetful(self.config.history_loss, self.num_codes, bins)
            share = self.config.history_loss  # of the frames that are told no status, as in a likelihood of pictures
            told = torch.where(torch.rand_like(weights) < share, bins, targets.status)
            ours = process_rows(len(weights))
            targets, weights, told = targets.take(ours), weights[ours], told[ours]
        said, truth = Predictions(*self._forward(targets, told)), self._in_turn(targets.codes)
        near = None
        if self.config.rare_weight != 1:
            near = torch.where(self._near_rare(targets.state), self.config.rare_weight, 1.0)
        return prior_losses(self.config, said, targets, truth, self.heads.scale(targets.rewards), weights, near)

    @torch.no_grad()
    def log_prob(self, clip: CodeClip) -> Tensor:
        """As `Prior.log_prob`."""
        targets = self._targets(clip).flat()
        logits = self._forward(targets, targets.status)[0].float().log_softmax(-1)  # (N, P, V)
        truth = self._in_turn(targets.codes)
        nats = logits.gather(-1, truth[..., None])[..., 0].sum(1)  # (N,)
        return (nats * targets.frame_valid).reshape(clip.frame_valid.shape)

    @torch.no_grad()
    def outcomes(self, clip: CodeClip) -> Outcomes:
        """As `Prior.outcomes`; the decoder is not asked."""
        targets = self._targets(clip)
        targets = targets.take(targets.has_step)
        _, summary, _ = self._trunk(targets.state)
        status = self.heads.status_logits(summary).float().softmax(-1)[:, : self.config.status.num_bins]
        rewards = self.heads.rewards(summary, targets.terminations, targets.pictures)
        found = (self.heads.end_logits(summary).float().sigmoid(), status, self.heads.unscale(rewards.float()))
        return Outcomes(*(x.unflatten(0, clip.rewards.shape) for x in found))

    def _targets(self, clip: CodeClip) -> Targets:
        return cut_targets(clip, self.config.window, self.num_codes, self.config.status.num_bins)

    # -- dreaming ------------------------------------------------------------------------------------------

    def init_state(self, context: Context) -> Context:
        """The context is all there is to remember."""
        return context

    @torch.no_grad()
    def step(self, state: Context, actions: Tensor, draws: Tensor, sampling: Sampling) -> PriorStep[Context]:
        """As `Prior.step`."""
        acted = torch.ones_like(state.has_action[:, :1])
        now = Context(
            state.codes,
            torch.cat([state.actions[:, 1:], actions[:, None]], 1),
            torch.cat([state.has_action[:, 1:], acted], 1),
            state.status,
        )
        places, summary, condition = self._trunk(now)
        hazards = self.heads.end_logits(summary).float().sigmoid()
        terminations = draws[:, 0] < hazards
        status, status_probs = state.status, summary.new_zeros(len(summary), 0)
        if self.config.status.num_bins:
            logits = self.heads.status_logits(summary).float()
            status, status_probs = inverse_cdf(logits, draws[:, 1]), logits.softmax(-1)
        has_picture = torch.ones_like(terminations) if self.end_has_frame else ~terminations
        told = condition + self.heads.condition(terminations, status)
        codes, log_probs = self._draw(places, told, draws[:, 2:], sampling)
        seen = torch.where(has_picture[:, None, None], codes, self.num_codes)
        rewards = self.heads.unscale(self.heads.rewards(summary, terminations, seen).float())
        after = Context(torch.cat([state.codes[:, 1:], seen[:, None]], 1), now.actions, now.has_action, status)
        log_probs = log_probs * has_picture
        return PriorStep(after, codes, has_picture, terminations, hazards, rewards, status, status_probs, log_probs)

    def _draw(self, places: Tensor, told: Tensor, draws: Tensor, sampling: Sampling) -> tuple[Tensor, Tensor]:
        """Write a frame group by group: codes (B, h, w) and their log-probability (B,) as predicted."""
        (h, w), heads, rows = self.grid, self.config.num_heads, len(places)
        shape = (rows, heads, h * w, self.config.width // heads)
        caches = [GroupCache(places.new_empty(shape), places.new_empty(shape)) for _ in self.decoder_blocks]
        base = self.bridge(places) + self.places
        before = torch.full((rows, self.group), self.num_codes, device=places.device)
        groups, log_probs = [], torch.zeros(rows, device=places.device)
        for begin in range(0, h * w, self.group):
            span = slice(begin, begin + self.group)
            logits = self._write(span, base[:, span], before, told, caches).float()  # (B, G, V)
            before = sampling.draw(logits, draws[:, span])
            log_probs = log_probs + logits.log_softmax(-1).gather(-1, before[..., None])[..., 0].sum(1)
            groups.append(before)
        return rearrange(torch.cat(groups, 1), f"b ({self.layout}) -> b h w", h=h, w=w), log_probs

    def _near_rare(self, context: Context) -> Tensor:
        """Places (N, P) whose last frame shows, there or beside them, a code that is rare where it stands."""
        last = self._in_turn(context.codes[:, -1])
        rare = self.rare[torch.arange(last.shape[1], device=last.device), last]  # (N, P)
        picture = rearrange(rare.float(), f"n ({self.layout}) -> n 1 h w", h=self.grid[0], w=self.grid[1])
        return self._in_turn(F.max_pool2d(picture, 3, 1, 1)[:, 0]) > 0
