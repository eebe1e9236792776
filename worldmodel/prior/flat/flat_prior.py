"""The flat prior: the paper's GPT over the raster sequence of codes (section 2.2), stepped with a cache.

A frame is S = K+1 positions: a learned start, then its K codes. The start and code k predict code k+1; the
last position predicts nothing and is the frame's state z_t. From z_t and the action then taken come end and
status, before any code of the next frame; all positions of that frame are told of the action, the end and
the status through their LayerNorms; the reward is read last, from z_t, the action, the end and the new codes.

Shapes: B clips or rows, T frames, h w code grid, K = h*w codes a frame, S = K+1 positions, M frames of
memory, L layers, H heads, G heads of keys and values, d numbers a head, D width, C condition width, V codes in the
book (V: no frame).
"""

from __future__ import annotations

from dataclasses import dataclass

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from worldmodel.common import spaces
from worldmodel.common.errors import UserError
from worldmodel.common.processes import process_rows, seed_by_rank
from worldmodel.prior.conditioning import ActionEncoder, action_features, num_features
from worldmodel.prior.flat.flat_config import FlatConfig
from worldmodel.prior.flat.raster_network import RasterNetwork
from worldmodel.prior.flat.ring_cache import keep_frame, make_ring
from worldmodel.prior.heads import OutcomeHeads
from worldmodel.prior.interface import CodeClip, Context, Outcomes, Prior, PriorStep, StateRows
from worldmodel.prior.losses import Predictions, code_nats, prior_losses
from worldmodel.prior.sampling import Sampling, inverse_cdf
from worldmodel.prior.targets import Targets, cut_targets


@dataclass(frozen=True)
class FlatState(StateRows):
    """What a flat prior remembers of each row, of the same size after any number of steps.

    Attributes:
        keys: (B, G, L, d, (M+1)*S) float32, of the last M frames in a ring (see `ring_cache`); steps write to it.
        values: (B, G, L, (M+1)*S, d) float32, likewise.
        seen: (B, M) bool, which slots hold a frame that is there to be seen.
        codes: (B, h, w) int64 of the last frame, V where there was none.
        summary: (B, D), z of the last frame that was there.
        status: (B,) int64.
        times: (B,) int64, frames since the beginning.
    """

    mutable_fields = ("keys", "values")
    keys: Tensor
    values: Tensor
    seen: Tensor
    codes: Tensor
    summary: Tensor
    status: Tensor
    times: Tensor


class FlatPrior(Prior[FlatState]):
    """The paper's prior; see the module's head.

    Args:
        config: sizes.
        grid: (h, w) of the codes.
        num_codes: V.
        action_space: what the actions are.
        end_has_frame: whether the environment shows a picture of the moment an episode ended.

    Raises:
        UserError: sizes that do not fit each other.
    """

    predicts_whole_clips = True

    def __init__(
        self,
        config: FlatConfig,
        grid: tuple[int, int],
        num_codes: int,
        action_space: spaces.Space,
        end_has_frame: bool = True,
    ) -> None:
        super().__init__()
        full, clip = config.attention == "full", config.scope == "clip"
        if config.width < 1 or config.num_heads < 1 or config.width % config.num_heads:
            raise UserError(f"prior width={config.width}: wanted a positive multiple of num_heads={config.num_heads}.")
        if config.num_heads % (config.num_kv_heads or config.num_heads):
            raise UserError(
                f"prior num_kv_heads={config.num_kv_heads}: wanted a divisor of num_heads={config.num_heads}, or 0 for "
                "as many."
            )
        if config.window < 1:
            raise UserError(f"prior window={config.window}: wanted at least 1 frame.")
        if config.bounded and config.num_frames <= config.window:
            raise UserError(
                f"prior num_frames={config.num_frames} leaves no frame to predict after a context of "
                f"window={config.window}; raise num_frames or lower window."
            )
        self.config, self.grid, self.num_codes = config, grid, num_codes
        self.action_space, self.end_has_frame = action_space, end_has_frame
        self.status_config, self.window, self.num_draws = config.status, config.window, 2 + grid[0] * grid[1]
        self.max_frames, self.can_step = config.num_frames if config.bounded else None, not clip
        self.memory = config.num_frames - 1 if full else config.window  # M
        condition_dim = (config.num_frames - 1) * num_features(action_space) if clip else config.action_dim  # C
        width, bins = config.width, config.status.num_bins
        self.actions = ActionEncoder(action_space, config.action_dim)
        self.network = RasterNetwork(config, grid, num_codes, condition_dim, self.memory)
        self.nothing = nn.Parameter(0.02 * torch.randn(width))  # z before any frame was seen
        self.act = nn.Sequential(nn.Linear(width + config.action_dim, width), nn.GELU(), nn.Linear(width, width))
        self.heads = OutcomeHeads(width, num_codes, bins, condition_dim)

    def init_from_codes(self, embeddings: Tensor, counts: Tensor) -> None:
        """As `Prior.init_from_codes`."""
        self.network.init_from_codes(embeddings, counts)

    def measure_rewards(self, rewards: Tensor) -> None:
        """As `Prior.measure_rewards`."""
        self.heads.measure(rewards)

    # -- the network ---------------------------------------------------------------------------------------

    def _last_real(self, z: Tensor, valid: Tensor) -> Tensor:
        """At each frame, z of the last valid one so far: (B, T, D) and (B, T) -> (B, T, D)."""
        order = torch.arange(valid.shape[1], device=valid.device)
        index = torch.where(valid, order, -1).cummax(1).values[:, :, None]  # (B, T, 1)
        return torch.where(index >= 0, z.gather(1, index.clamp_min(0).expand_as(z)), self.nothing)

    def _clip_condition(self, clip: CodeClip) -> Tensor:
        """The whole clip's actions, flattened, zeros where it is shorter than num_frames: (B, 1, C)."""
        flat = action_features(self.action_space, clip.actions).flatten(1)
        return F.pad(flat, (0, self.network.condition_dim - flat.shape[1]))[:, None]

    def _forward(self, clip: CodeClip, targets: Targets, pictures: Tensor, status: Tensor) -> Predictions:
        """Everything said of a clip's frames, leading axes (B, T).

        Args:
            clip: the clip.
            targets: its frames, (B, T), each with the action that led to it.
            pictures: (B, T, h, w), the codes that are read, V where invalid.
            status: (B, T), what the frames are told of it.
        """
        batch, length = targets.frame_valid.shape
        if self.max_frames is not None and length > self.max_frames:
            raise UserError(
                f"a clip of {length} frames: this flat prior knows {self.max_frames} (num_frames); give shorter "
                "clips, or train with attention window, positions rotary and scope step."
            )
        taken = self.actions(targets.state.actions[:, :, 0], targets.state.has_action[:, :, 0])  # (B, T, action_dim)
        by_action = taken if self.config.scope == "step" else self._clip_condition(clip)
        outcome = self.heads.condition(targets.terminations.flatten(), status.flatten())
        times = torch.arange(length, device=taken.device).expand(batch, -1)
        condition = by_action + outcome.unflatten(0, (batch, length))  # (B, T, C)
        logits, z, _ = self.network.read(pictures, targets.frame_valid, condition, times)
        z = self._last_real(z, targets.frame_valid)
        before = torch.cat([self.nothing.expand_as(z[:, :1]), z[:, :-1]], 1)  # z of the frame before
        summary = self.act(torch.cat([before, taken], -1)).flatten(0, 1)  # (B*T, D)
        rewards = self.heads.rewards(summary, targets.terminations.flatten(), targets.pictures.flatten(0, 1))
        said = (self.heads.end_logits(summary), self.heads.status_logits(summary), rewards)
        return Predictions(logits, *(values.unflatten(0, (batch, length)) for values in said))

    # -- learning ------------------------------------------------------------------------------------------

    def loss(self, clip: CodeClip) -> dict[str, Tensor]:
        """As `Prior.loss`; in training mode with codes spoilt and the status forgotten in part.

        Dropout is each process's own: with it several processes learn as well as one, but not the same.
        """
        targets = self._targets(clip)
        pictures, told = targets.pictures, targets.status
        if self.training:
            pictures, told = self._spoilt(pictures), self._forgotten(told)
            ours = process_rows(len(pictures))
            clip, targets, pictures, told = clip.select(ours), targets.take(ours), pictures[ours], told[ours]
            seed_by_rank()
        said, learned = self._forward(clip, targets, pictures, told), clip.weights > 0
        said = Predictions(**{name: value[learned] for name, value in vars(said).items()})
        targets = targets.take(learned)
        nats, rewards = code_nats(said.codes, targets.codes.flatten(1)), self.heads.scale(targets.rewards)
        return prior_losses(self.config, said, targets, nats, rewards, clip.weights[learned])

    def _spoilt(self, pictures: Tensor) -> Tensor:
        """Replace up to `history_noise` of the codes by the same place's of another clip; never "no frame"."""
        other = pictures[torch.randperm(len(pictures), device=pictures.device)]
        rate = self.config.history_noise * torch.rand(len(pictures), 1, 1, 1, device=pictures.device)
        replaced = torch.rand(pictures.shape, device=pictures.device) < rate
        replaced &= (pictures != self.num_codes) & (other != self.num_codes)
        return torch.where(replaced, other, pictures)

    def _forgotten(self, status: Tensor) -> Tensor:
        """In a share of the clips the status before a random frame is not known, as in a dream's context."""
        batch, length = status.shape
        forgets = torch.rand(batch, 1, device=status.device) < self.config.history_loss
        kept = torch.randint(0, length + 1, (batch, 1), device=status.device)
        early = torch.arange(length, device=status.device) < kept
        return torch.where(forgets & early, self.config.status.num_bins, status)

    @torch.no_grad()
    def log_prob(self, clip: CodeClip) -> Tensor:
        """As `Prior.log_prob`."""
        targets = self._targets(clip)
        logits = self._forward(clip, targets, targets.pictures, targets.status).codes.float().log_softmax(-1)
        nats = logits.gather(-1, targets.codes.flatten(2)[..., None])[..., 0].sum(2)  # (B, T)
        return nats * targets.frame_valid

    @torch.no_grad()
    def outcomes(self, clip: CodeClip) -> Outcomes:
        """As `Prior.outcomes`."""
        targets = self._targets(clip)
        said = self._forward(clip, targets, targets.pictures, targets.status)
        status = said.status[:, 1:].float().softmax(-1)[..., : self.config.status.num_bins]
        return Outcomes(said.end[:, 1:].float().sigmoid(), status, self.heads.unscale(said.rewards[:, 1:].float()))

    def _targets(self, clip: CodeClip) -> Targets:
        """Every frame, with the one before it and the action that led to it."""
        return cut_targets(clip, 1, self.num_codes, self.config.status.num_bins)

    # -- dreaming ------------------------------------------------------------------------------------------

    @torch.no_grad()
    def init_state(self, context: Context) -> FlatState:
        """Read a context of up to M frames as a clip of its own: its first frame has no action.

        Raises:
            UserError: a prior whose scope is the clip.
        """
        self._refuse_clip_scope()
        pictures, has_action = context.codes[:, -self.memory :], context.has_action[:, -self.memory :].clone()
        has_action[:, 0] = False
        seen = pictures[:, :, 0, 0] != self.num_codes  # (B, n)
        rows, count = seen.shape
        last = has_action.sum(1)  # time of the last frame; those before the beginning have times below 0
        times = last[:, None] - torch.arange(count - 1, -1, -1, device=last.device)
        status = torch.full_like(times, self.config.status.num_bins)
        status[:, -1] = context.status
        outcome = self.heads.condition(torch.zeros_like(times, dtype=torch.bool).flatten(), status.flatten())
        condition = self.actions(context.actions[:, -self.memory :], has_action) + outcome.unflatten(0, (rows, count))
        _, z, pairs = self.network.read(pictures, seen, condition, times)
        keys, values = make_ring(pairs, self.network.rotary is not None, times, self.memory)
        return FlatState(
            keys=keys,
            values=values,
            seen=seen.new_zeros(rows, self.memory).scatter(1, times % self.memory, seen),
            codes=pictures[:, -1],
            summary=self._last_real(z, seen)[:, -1],
            status=context.status,
            times=last + 1,
        )

    @torch.no_grad()
    def step(self, state: FlatState, actions: Tensor, draws: Tensor, sampling: Sampling) -> PriorStep[FlatState]:
        """As `Prior.step`.

        Raises:
            UserError: a row that has all the frames this prior knows, or a prior whose scope is the clip.
        """
        self._refuse_clip_scope()
        if self.max_frames is not None and bool((state.times >= self.max_frames).any()):
            raise UserError(
                f"a dream has reached frame {self.max_frames}, the last this flat prior knows (num_frames); reset "
                "it, ask for fewer steps, or train with attention window and positions rotary: dreams without an end."
            )
        taken = self.actions(actions[:, None], torch.ones_like(state.seen[:, :1]))[:, 0]  # (B, action_dim)
        summary = self.act(torch.cat([state.summary, taken], -1))
        hazards = self.heads.end_logits(summary).float().sigmoid()
        terminations = draws[:, 0] < hazards
        status, status_probs = state.status, summary.new_zeros(len(summary), 0)
        if self.config.status.num_bins:
            logits = self.heads.status_logits(summary).float()
            status, status_probs = inverse_cdf(logits, draws[:, 1]), logits.softmax(-1)
        has_frame = torch.ones_like(terminations) if self.end_has_frame else ~terminations
        told = taken + self.heads.condition(terminations, status)
        keys, values, network, slots = state.keys, state.values, self.network, state.times % self.memory
        past = (keys, values, state.seen, state.codes)
        codes, log_probs, z = network.write(*past, state.times, told, draws[:, 2:], sampling)
        keep_frame(keys, values, slots, network.size)
        seen = torch.where(has_frame[:, None, None], codes, self.num_codes)
        rewards = self.heads.unscale(self.heads.rewards(summary, terminations, seen).float())
        after = FlatState(
            keys=keys,
            values=values,
            seen=state.seen.scatter(1, slots[:, None], has_frame[:, None]),
            codes=seen,
            summary=torch.where(has_frame[:, None], z, state.summary),
            status=status,
            times=state.times + 1,
        )
        log_probs = log_probs * has_frame
        return PriorStep(after, codes, has_frame, terminations, hazards, rewards, status, status_probs, log_probs)

    def _refuse_clip_scope(self) -> None:
        if self.config.scope == "clip":
            raise UserError(
                "this flat prior is conditioned by a whole clip's actions (scope clip): it predicts clips and "
                "cannot be stepped. Train one with scope step to dream."
            )
