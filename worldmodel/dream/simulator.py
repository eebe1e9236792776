"""Many dreams at once: tensors in, tensors out, on the world's device.

Shapes: N rows, n some of them, H W pixels, h w code grid, A action size.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass, replace
from functools import partial
from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor

from worldmodel.dream.engine import choose_engine
from worldmodel.dream.tiles import tiled
from worldmodel.errors import UserError
from worldmodel.model import WorldModel
from worldmodel.plain.rows import NO_START
from worldmodel.prior.interface import Context, PriorStep, Rows
from worldmodel.prior.sampling import STREAM_START, Sampling, uniforms


@dataclass(frozen=True)
class SimulatorState:
    """Everything a simulator remembers; keeping it is branching, since no tensor is ever written to.

    Attributes:
        prior: N rows of the prior's state.
        frames: (N, H, W, 3) uint8, the last frames shown.
        seeds: (N,) int64, one a row.
        episodes: (N,) int64, resets of the row since it was seeded.
        steps: (N,) int64 since the last reset.
        ended: (N,) bool.
        starts: (N,) int64, the start each row began from; `NO_START` after a given context.
    """

    prior: Rows
    frames: Tensor
    seeds: Tensor
    episodes: Tensor
    steps: Tensor
    ended: Tensor
    starts: Tensor


@dataclass(frozen=True)
class SimulatorStep:
    """What a step of N rows brought.

    Attributes:
        frames: (N, H, W, 3) uint8.
        rewards: (N,) float32.
        terminations: (N,) bool.
        hazards: (N,) float32, the probability of the end that was drawn from.
        status: (N,) int64, the hidden variable's bin.
        status_values: (N,) float32, the variable in the middle of that bin; NaN where no status is learned.
        status_probs: (N, bins) float32, of the bins before one was drawn, given that the row goes on.
        log_probs: (N,) float32, nats of the frame drawn.
    """

    frames: Tensor
    rewards: Tensor
    terminations: Tensor
    hazards: Tensor
    status: Tensor
    status_values: Tensor
    status_probs: Tensor
    log_probs: Tensor


@dataclass(frozen=True)
class Rollout:
    """N dreams of L steps.

    Attributes:
        frames: (N, L+1, H, W, 3) uint8, the frame each row began from first.
        rewards: (N, L) float32, 0 after the end.
        terminations: (N, L) bool, True from the end on.
        log_probs: (N, L) float32, nats of each frame drawn, 0 after the end.
    """

    frames: Tensor
    rewards: Tensor
    terminations: Tensor
    log_probs: Tensor


class Simulator:
    """N independent dreams of one world.

    A row's dream depends on its seed, its episode number, its start and its actions, never on the other
    rows. A row that ended keeps its last frame, earns nothing and stays ended until it is reset.

    Args:
        world: the learned world, with its starts.
        num_rows: N.
        seed: row i has seed + i.
        sampling: how the frames' codes are drawn; the end and the status always as they are predicted.
        starts: "episode" draws true episode starts, "any" also moments inside episodes.
        batch_invariant: run the rows in tiles of one size (`dream.tiles`), so that a row's dream is the same
            to the bit in any number of rows. Without it, numbers agree to rounding and a dream can part
            from its twin where a draw falls on the border between two codes.
        dtype: of matrix products; in bfloat16 (fast on a GPU) a dream agrees with its float32 twin to rounding.
        backend: "torch", "onnx" or "auto": what steps the world, see `dream.engine.choose_engine`. Backends agree
            to rounding; a dream that is to be the same to the bit names its backend.
    """

    def __init__(
        self,
        world: WorldModel,
        num_rows: int,
        seed: int = 0,
        sampling: Sampling = Sampling(),  # noqa: B008 (frozen)
        starts: str = "episode",
        batch_invariant: bool = False,
        dtype: torch.dtype = torch.float32,
        backend: str = "auto",
    ) -> None:
        if num_rows < 1:
            raise UserError(f"num_rows={num_rows}: wanted at least 1.")
        if world.starts is None or not len(world.starts):
            raise UserError("this world has no starts to dream from; load it with WorldModel.from_pretrained.")
        self.world, self.num_rows, self.sampling, self.batch_invariant = world, num_rows, sampling, batch_invariant
        self.dtype = dtype
        self.engine = choose_engine(world, backend, dtype, batch_invariant)
        self._starts = world.starts
        self._choices = world.starts.choices(starts)
        self.status_values = torch.tensor(world.prior.status_config.values, device=world.device)
        zeros = torch.zeros(num_rows, dtype=torch.int64, device=world.device)
        self._state = SimulatorState(
            prior=self.engine.init_state(world.starts.context.rows(zeros)),
            frames=torch.zeros((num_rows, *world.tokenizer.frame_shape), dtype=torch.uint8, device=world.device),
            seeds=zeros,
            episodes=zeros,
            steps=zeros,
            ended=torch.ones_like(zeros, dtype=torch.bool),
            starts=zeros,
        )
        self.seed(torch.arange(num_rows) + seed)

    def values_of(self, status: Tensor) -> Tensor:
        """The hidden variable in the middle of its bins: (N,) int64 -> (N,) float32, NaN where it is not known."""
        if not len(self.status_values):
            return torch.full(status.shape, float("nan"), device=status.device)
        return F.pad(self.status_values, (0, 1), value=float("nan"))[status]

    @property
    def state(self) -> SimulatorState:
        """What is remembered now."""
        return self._state

    def seed(self, seeds: Tensor, rows: Tensor | None = None) -> None:
        """Seed rows anew: (n,) int64. Their next reset is the first episode of that seed."""
        index = self._rows(rows)
        episodes = self._state.episodes.index_fill(0, index, -1)
        mixed = self._state.seeds.index_copy(0, index, seeds.to(index.device, torch.int64))
        self._state = replace(self._state, seeds=mixed, episodes=episodes)

    @torch.no_grad()
    def reset(self, rows: Tensor | None = None, starts: Tensor | None = None, context: Context | None = None) -> Tensor:
        """Begin new episodes.

        Args:
            rows: (n,) int64 rows to reset; None for all.
            starts: (n,) int64 indices into the world's starts; None draws them.
            context: n rows of frames to begin from instead, see `WorldModel.context`.

        Returns:
            (N, H, W, 3) uint8: all rows' frames, the reset ones showing the reconstruction of their start.

        Raises:
            UserError: a start that the world does not have, or a context of another number of rows.
        """
        index, state = self._rows(rows), self._state
        episodes = state.episodes.index_add(0, index, torch.ones_like(index))
        if starts is None:
            zero = torch.zeros_like(index)
            draw = uniforms(state.seeds[index], episodes[index], zero, 1, STREAM_START)[:, 0]
            chosen = self._choices[(draw * len(self._choices)).long()]
        else:
            chosen = starts.to(index.device, torch.int64)
            if bool(((chosen < 0) | (chosen >= len(self._starts))).any()):
                raise UserError(f"start {chosen.tolist()}: this world has starts 0 to {len(self._starts) - 1}.")
        if context is None:
            context = self._starts.context.rows(chosen)
        elif len(context.status) != len(index):
            raise UserError(f"context: got {len(context.status)} rows to reset {len(index)}.")
        elif bool((context.codes[:, -1] == self.world.prior.num_codes).any()):
            raise UserError("context: its last frame must be a picture; cut off what comes after the last valid frame.")
        else:
            context, chosen = context.to(index.device), torch.full_like(index, NO_START)
        everywhere = torch.zeros(self.num_rows, dtype=torch.int64, device=index.device)
        place = everywhere.index_copy(0, index, torch.arange(len(index), device=index.device))
        mask = state.ended.new_zeros(self.num_rows).index_fill(0, index, True)
        fresh = self._tiled(self.engine.init_state, context)
        frames = self._decode(context.codes[:, -1])  # (n, H, W, 3)
        self._state = SimulatorState(
            prior=state.prior.where(mask, fresh.rows(place)),
            frames=state.frames.index_copy(0, index, frames),
            seeds=state.seeds,
            episodes=episodes,
            steps=state.steps.index_fill(0, index, 0),
            ended=state.ended.index_fill(0, index, False),
            starts=state.starts.index_copy(0, index, chosen),
        )
        return self._state.frames

    @torch.no_grad()
    def step(self, actions: Tensor) -> SimulatorStep:
        """Take one step in every row.

        Args:
            actions: (N,) or (N, A).

        Returns:
            What happened; rows that had ended before keep still.
        """
        state, prior = self._state, self.world.prior
        draws = uniforms(state.seeds, state.episodes.clamp_min(0), state.steps, prior.num_draws)
        taken = actions.to(self.world.device)
        out: PriorStep[Any] = self._tiled(partial(self.engine.step, sampling=self.sampling), state.prior, taken, draws)
        shown = out.has_picture & ~state.ended
        frames = self._decode(out.codes)  # (N, H, W, 3)
        frames = torch.where(shown[:, None, None, None], frames, state.frames)
        self._state = replace(
            state,
            prior=out.state.where(state.ended, state.prior),
            frames=frames,
            steps=state.steps + 1,
            ended=state.ended | out.terminations,
        )
        status = self._state.prior.status
        return SimulatorStep(
            frames=frames,
            rewards=out.rewards.masked_fill(state.ended, 0.0),
            terminations=self._state.ended,
            hazards=out.hazards,
            status=status,
            status_values=self.values_of(status),
            status_probs=out.status_probs,
            log_probs=out.log_probs.masked_fill(state.ended, 0.0),
        )

    def rollout(self, actions: Tensor) -> Rollout:
        """Step every row through a sequence of actions from where it stands.

        Args:
            actions: (N, L) or (N, L, A).

        Returns:
            What happened; a row that ends keeps still from then on.
        """
        frames, steps = [self._state.frames], []
        for t in range(actions.shape[1]):
            steps.append(self.step(actions[:, t]))
            frames.append(steps[-1].frames)

        def over_time(name: str) -> Tensor:
            empty = torch.zeros((self.num_rows, 0), device=self.world.device)
            return torch.stack([getattr(step, name) for step in steps], 1) if steps else empty

        return Rollout(
            torch.stack(frames, 1), over_time("rewards"), over_time("terminations").bool(), over_time("log_probs")
        )

    def _decode(self, codes: Tensor) -> Tensor:
        """Frames of codes: (n, h, w) -> (n, H, W, 3) uint8."""
        return self._tiled(self.engine.decode, codes)

    def _tiled(self, function: Callable[..., Any], *inputs: Any) -> Any:
        """What a function of rows returns, computed in tiles if dreams must not depend on their number."""
        with torch.autocast(self.world.device.type, self.dtype, enabled=self.dtype != torch.float32):
            return tiled(function, *inputs) if self.batch_invariant else function(*inputs)

    def save(self) -> SimulatorState:
        """A mark to come back to."""
        return self._state

    def restore(self, state: SimulatorState) -> None:
        """Go back to a mark; the same actions then bring the same dream."""
        if len(state.seeds) != self.num_rows:
            raise UserError(f"restore: got {len(state.seeds)} rows, this simulator has {self.num_rows}.")
        self._state = state

    def _rows(self, rows: Tensor | None) -> Tensor:
        if rows is None:
            return torch.arange(self.num_rows, device=self._state.seeds.device)
        return rows.to(self._state.seeds.device, torch.int64)
