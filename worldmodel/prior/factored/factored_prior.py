"""The factored prior: a trunk sees the last W frames in one pass, a decoder writes the next in groups.

p(frame t+1 | past) = product over groups of p(group | groups before it, trunk), and the codes of one group
are independent given those: the product is the exact likelihood. A group is a column, a single place
(raster order), the whole frame, or places that lie apart (`order`). A mixture of K such products, whose
component is drawn first, has an exact likelihood too (`mixture`).

Shapes: B clips or rows, T frames in a clip, N = targets, W frames of memory, h w code grid, P = h*w places,
n places in a group, K components, D width, C condition width, V codes in the book (code V: no frame). The
tokens of a frame stand in the order in which they are written.
"""

from __future__ import annotations

import math
from typing import cast

import torch
import torch.nn.functional as F
from einops import rearrange
from torch import Tensor, nn

from worldmodel.common import spaces
from worldmodel.common.errors import UserError
from worldmodel.common.processes import process_rows
from worldmodel.prior.conditioning import ActionEncoder
from worldmodel.prior.factored.factored_config import FactoredConfig
from worldmodel.prior.factored.factored_layers import Affines, Block, GroupCache, LocalMix, codebook_vectors
from worldmodel.prior.factored.group_order import GroupOrder, groups_of
from worldmodel.prior.factored.mixture import Mixture, log_likelihood, shared_nats
from worldmodel.prior.heads import OutcomeHeads
from worldmodel.prior.interface import CodeClip, Context, Outcomes, Prior, PriorStep
from worldmodel.prior.losses import Predictions, code_nats, prior_losses
from worldmodel.prior.sampling import Sampling, inverse_cdf
from worldmodel.prior.targets import Targets, cut_targets


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
        if config.window < 1:
            raise UserError(f"prior window={config.window}: wanted at least 1 frame.")
        if config.mixture < 1:
            raise UserError(f"prior mixture={config.mixture}: wanted 1 (no mixture) or more components.")
        self.config, self.grid, self.num_codes = config, grid, num_codes
        self.action_space, self.end_has_frame = action_space, end_has_frame
        self.status_config, self.window = config.status, config.window
        (h, w), width, depth = grid, config.width, config.trunk_layers + config.decoder_layers
        self.num_draws = 2 + h * w + (config.mixture > 1)  # end, status, codes; the last: the component
        self.order = GroupOrder(groups_of(config.order, grid, config.num_groups), grid)
        condition_dim = config.window * config.action_dim
        self.actions = ActionEncoder(action_space, config.action_dim)
        self.embed = nn.Embedding(num_codes + 1, config.embed_dim)
        self.stem = nn.Conv2d(config.window * config.embed_dim, width, 3, padding=1)
        self.positions = nn.Parameter(0.02 * torch.randn(h * w + 1, width))  # the last: the summary
        self.status = nn.Embedding(config.status.num_bins + 1, width)
        self.mixes = nn.ModuleList(LocalMix(width, self.order) for _ in range(config.trunk_layers))

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
        self.register_buffer("rare", torch.zeros(h * w, num_codes + 1, dtype=torch.bool))
        self.mixture = Mixture(config.mixture, width, condition_dim)

    @torch.no_grad()
    def init_from_codes(self, embeddings: Tensor, counts: Tensor) -> None:
        """As `Prior.init_from_codes`: the codebook is where embeddings and logits start."""
        book = codebook_vectors(embeddings, min(self.config.embed_dim, self.config.width))
        d = book.shape[1]
        for table in (self.embed.weight, self.written.weight):
            table[:-1, :d] = book
        self.logits.weight.mul_(0.3)
        self.logits.weight[:, :d] += book / math.sqrt(d) * 0.3
        share = self.order.to_order(counts[None])[0].double() + 0.1  # (P, V)
        share /= share.sum(1, keepdim=True)
        self.logits.bias.zero_()
        self.prejudice.copy_(share.log())
        self.mark_rare(counts)

    @torch.no_grad()
    def mark_rare(self, counts: Tensor) -> None:
        """As `Prior.mark_rare`: at each place the codes that together make `rare_share` of what it shows."""
        share = self.order.to_order(counts[None])[0].double() + 0.1  # (P, V)
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
        places = self.order.to_order(rearrange(self.stem(history), "n d h w -> n h w d"))  # (N, P, D)
        tokens = torch.cat([places, self.status(state.status)[:, None]], 1) + self.positions  # (N, P+1, D)
        for mix, block in zip(self.mixes, self.trunk_blocks, strict=True):
            tokens = block(mix(tokens), cast(Block, block).affines(condition))
        tokens = F.layer_norm(tokens, tokens.shape[-1:])
        return tokens[:, :-1], tokens[:, -1], condition

    def _affines(self, told: Tensor) -> list[Affines]:
        """What each decoder layer makes of what the frame is told (N, C)."""
        return [cast(Block, block).affines(told) for block in self.decoder_blocks]

    def _write(
        self,
        span: slice,
        base: Tensor,
        before: Tensor,
        affines: list[Affines],
        caches: list[GroupCache] | None = None,
    ) -> Tensor:
        """Logits (N, n, V) of n places, from the trunk's (N, n, D) and the codes (N, n) given of the group before."""
        tokens = base + self.written(before)
        for i, block in enumerate(self.decoder_blocks):
            tokens = block(tokens, affines[i], None if caches else self.order.mask, caches[i] if caches else None)
        return self.logits(F.layer_norm(tokens, tokens.shape[-1:])) + self.prejudice[span]

    def _whole(self, base: Tensor, told: Tensor, codes: Tensor) -> Tensor:
        """Logits (N, K, P, V) of whole frames whose codes (N, P) are known, under every component."""
        num = self.config.mixture
        before = F.pad(codes, (0, 1), value=self.num_codes).index_select(1, self.order.given)
        before, told = (x.repeat_interleave(num, 0) for x in (before, told)) if num > 1 else (before, told)
        logits = self._write(slice(None), self.mixture.every(base), before, self._affines(told))
        return logits.unflatten(0, (-1, num))

    def _forward(self, targets: Targets, told: Tensor) -> tuple[Predictions, Tensor]:
        """Everything said of the targets, codes as logits (N, K, P, V); and the components' log-chances (N, K).

        Args:
            targets: N.
            told: (N,), the status that the decoder is told.
        """
        places, summary, condition = self._trunk(targets.state)
        told = condition + self.heads.condition(targets.terminations, told)
        codes = self.order.to_order(targets.codes)
        logits = self._whole(self.bridge(places) + self.places, told, codes)
        rewards = self.heads.rewards(summary, targets.terminations, targets.pictures)
        said = Predictions(logits, self.heads.end_logits(summary), self.heads.status_logits(summary), rewards)
        return said, self.mixture.log_chances(summary, told)

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
        said, log_chances = self._forward(targets, told)
        nats, choice = shared_nats(log_chances, code_nats(said.codes, self._truth(targets)))
        choice = choice[:, None] / nats.shape[1]  # (N, 1), a place's share
        weighted = nats + choice
        if self.config.rare_weight != 1:
            near = torch.where(self._near_rare(targets.state), self.config.rare_weight, 1.0)
            weighted = nats * near + choice
        rewards = self.heads.scale(targets.rewards)
        return prior_losses(self.config, said, targets, nats + choice, rewards, weights, weighted)

    @torch.no_grad()
    def log_prob(self, clip: CodeClip) -> Tensor:
        """As `Prior.log_prob`."""
        targets = self._targets(clip).flat()
        said, log_chances = self._forward(targets, targets.status)
        nats = code_nats(said.codes, self._truth(targets))  # (N, K, P)
        return (log_likelihood(log_chances, nats) * targets.frame_valid).reshape(clip.frame_valid.shape)

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

    def _truth(self, targets: Targets) -> Tensor:
        """The targets' codes (N, K, P), the same for every component."""
        return self.order.to_order(targets.codes)[:, None].expand(-1, self.config.mixture, -1)

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
        has_frame = torch.ones_like(terminations) if self.end_has_frame else ~terminations
        told = condition + self.heads.condition(terminations, status)
        log_chances = self.mixture.log_chances(summary, told)
        codes, log_probs = self._draw(places, told, log_chances, draws[:, 2:], sampling)
        seen = torch.where(has_frame[:, None, None], codes, self.num_codes)
        rewards = self.heads.unscale(self.heads.rewards(summary, terminations, seen).float())
        after = Context(torch.cat([state.codes[:, 1:], seen[:, None]], 1), now.actions, now.has_action, status)
        log_probs = log_probs * has_frame
        return PriorStep(after, codes, has_frame, terminations, hazards, rewards, status, status_probs, log_probs)

    def _draw(
        self, places: Tensor, told: Tensor, log_chances: Tensor, draws: Tensor, sampling: Sampling
    ) -> tuple[Tensor, Tensor]:
        """Write a frame group by group: codes (B, h, w) and their log-probability (B,) as predicted.

        Of a mixture the component is drawn first, as a code is.
        """
        spans, given, rows, num_places = self.order.spans, self.order.given, len(places), places.shape[1]
        base, affines = self.bridge(places) + self.places, self._affines(told)
        components = torch.zeros(rows, dtype=torch.int64, device=places.device)
        if self.config.mixture > 1:
            components = sampling.draw(log_chances, draws[:, -1])
        tokens = self.mixture.one(base, components)
        caches = None
        if len(spans) > 1:
            shape = (rows, self.config.num_heads, num_places, self.config.width // self.config.num_heads)
            caches = [GroupCache(places.new_empty(shape), places.new_empty(shape)) for _ in self.decoder_blocks]
        codes = torch.full((rows, num_places + 1), self.num_codes, device=places.device)  # the last: nothing
        written = []
        for span in spans:
            before = codes.index_select(1, given[span])
            written.append(self._write(span, tokens[:, span], before, affines, caches).float())  # (B, n, V)
            codes[:, span] = sampling.draw(written[-1], draws[:, span])
        codes = codes[:, :-1]
        if self.config.mixture > 1 and sampling.exact:
            logits = self._whole(base, told, codes)
        else:
            logits, log_chances = torch.cat(written, 1)[:, None], log_chances.gather(1, components[:, None])
        nats = code_nats(logits, codes[:, None].expand(logits.shape[:-1]))  # (B, K or 1, P)
        return self.order.to_grid(codes), log_likelihood(log_chances, nats)

    def _near_rare(self, context: Context) -> Tensor:
        """Places (N, P) whose last frame shows, there or beside them, a code that is rare where it stands."""
        last = self.order.to_order(context.codes[:, -1])
        rare = self.rare[torch.arange(last.shape[1], device=last.device), last]  # (N, P)
        near = F.max_pool2d(self.order.to_grid(rare.float())[:, None], 3, 1, 1)  # (N, 1, h, w)
        return self.order.to_order(near[:, 0]) > 0
