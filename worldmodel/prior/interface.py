"""What goes into a prior and comes out of it: the same for every prior, all of it explicit.

Shapes: B batch or rows, T frames in a clip, W frames of memory, h w code grid, A action size, V codes in
the book. Code V stands for "no frame": before the clip began, or where the environment gave no picture.
"""

from __future__ import annotations

from abc import ABC, abstractmethod
from dataclasses import dataclass
from itertools import pairwise
from typing import Any, ClassVar, Generic, Self, TypeVar

import torch
from torch import Tensor, nn

from worldmodel.common import spaces
from worldmodel.common.errors import UserError
from worldmodel.prior.heads import OutcomeHeads
from worldmodel.prior.sampling import Sampling


@dataclass(frozen=True)
class CodeClip:
    """A clip after the tokenizer. `actions[:, t]` takes frame t to frame t+1 and earns `rewards[:, t]`.

    Attributes:
        codes: (B, T, h, w) int64 in [0, V).
        frame_valid: (B, T) bool; what an invalid frame's codes and status say is never looked at.
        actions: (B, T-1) or (B, T-1, A), int64, or float32 for Box.
        rewards: (B, T-1) float32.
        terminations, truncations: (B, T-1) bool.
        status: (B, T) int64, the hidden variable's bin; any value where no status is learned.
        weights: (B, T) float32, how much a frame's prediction counts in the losses; 0 is only looked at. See
            `train.cache.CodeCache`, which lets each frame of the data count alike.
    """

    codes: Tensor
    frame_valid: Tensor
    actions: Tensor
    rewards: Tensor
    terminations: Tensor
    truncations: Tensor
    status: Tensor
    weights: Tensor

    def to(self, device: torch.device | str) -> CodeClip:
        """The same clip on another device."""
        return CodeClip(**{name: tensor.to(device) for name, tensor in vars(self).items()})

    def select(self, index: slice) -> CodeClip:
        """Some of the clips."""
        return CodeClip(**{name: tensor[index] for name, tensor in vars(self).items()})


@dataclass(frozen=True)
class StatusConfig:
    """A hidden variable learned beside the picture.

    Attributes:
        variable: its name in the dataset, e.g. "health"; empty learns none.
        edges: ascending borders between its bins; n borders make n + 1 bins.
    """

    variable: str = ""
    edges: tuple[float, ...] = ()

    def __post_init__(self) -> None:
        if self.variable and (not self.edges or list(self.edges) != sorted(set(self.edges))):
            raise UserError(f"status edges {self.edges}: wanted at least one border, in ascending order.")

    @property
    def num_bins(self) -> int:
        """Bins, 0 without a variable."""
        return len(self.edges) + 1 if self.variable else 0

    @property
    def values(self) -> tuple[float, ...]:
        """The variable in the middle of each bin; the two outer bins are taken to be as wide as their neighbours."""
        edges = self.edges
        if not self.variable:
            return ()
        gaps = [b - a for a, b in pairwise(edges)] or [1.0]
        inner = [(a + b) / 2 for a, b in pairwise(edges)]
        return (edges[0] - gaps[0] / 2, *inner, edges[-1] + gaps[-1] / 2)


class StateRows:
    """Base of frozen dataclasses of tensors, each with one row a dream. Every one of them has `status`, (B,) int64.

    A branch is a `copy`: steps and `put` may write to the tensors that `mutable_fields` names.
    """

    mutable_fields: ClassVar[tuple[str, ...]] = ()
    status: Tensor

    @property
    def num_rows(self) -> int:
        """B."""
        return len(self.status)

    def to(self, device: torch.device | str) -> Self:
        """The same on another device."""
        return type(self)(**{name: tensor.to(device) for name, tensor in vars(self).items()})

    def select(self, index: Tensor) -> Self:
        """Some rows: (n,) int64 -> n rows."""
        return type(self)(**{name: tensor[index] for name, tensor in vars(self).items()})

    def copy(self) -> Self:
        """The same, out of reach of whatever is done to these."""
        copied = {name: tensor.clone() for name, tensor in vars(self).items() if name in self.mutable_fields}
        return type(self)(**{**vars(self), **copied})

    def scatter(self, index: Tensor, other: Self) -> Self:
        """`other`'s n rows at places `index`, (n,) int64; these rows elsewhere. It uses these up."""
        mixed = {}
        for name, tensor in vars(self).items():
            copy = tensor.index_copy_ if name in self.mutable_fields else tensor.index_copy
            mixed[name] = copy(0, index, getattr(other, name))
        return type(self)(**mixed)

    def keep_where(self, mask: Tensor, before: Self) -> Self:
        """What was `before` where the mask (B,) is True: rows that ended; these rows elsewhere.

        What steps write to is not held: of a row that has ended no step reads it.
        """
        mixed = dict(vars(self))
        for name in mixed.keys() - set(self.mutable_fields):
            chosen = mask.reshape(-1, *[1] * (mixed[name].ndim - 1))
            mixed[name] = torch.where(chosen, getattr(before, name), mixed[name])
        return type(self)(**mixed)


@dataclass(frozen=True)
class Context(StateRows):
    """The last frames of each row: what any prior can begin from, and all that a factored one remembers.

    Attributes:
        codes: (B, W, h, w) int64, oldest first; V where there is no frame.
        actions: (B, W) or (B, W, A): the action that led to each of those frames.
        has_action: (B, W) bool; False takes the learned "no action".
        status: (B,) int64 in [0, bins], `bins` where it is not known.
    """

    codes: Tensor
    actions: Tensor
    has_action: Tensor
    status: Tensor

    @staticmethod
    def of(codes: Tensor, frame_valid: Tensor, actions: Tensor, status: Tensor, window: int, num_codes: int) -> Context:
        """The context after a clip of real codes; only its last W frames matter.

        Args:
            codes: (B, T, h, w) int64, T >= 1.
            frame_valid: (B, T) bool.
            actions: (B, T-1) or (B, T-1, A), those that led to frames 1 to T-1.
            status: (B,) int64 at the last frame, in [0, bins]; `bins` is "not known".
            window: W.
            num_codes: V.
        """
        codes = torch.where(frame_valid[:, :, None, None], codes, num_codes)
        blank = torch.full_like(codes[:, :1], num_codes).expand(-1, window, -1, -1)
        still = torch.zeros((len(codes), window, *actions.shape[2:]), dtype=actions.dtype, device=actions.device)
        acted = torch.arange(window + actions.shape[1], device=codes.device) >= window
        return Context(
            torch.cat([blank, codes], 1)[:, -window:],
            torch.cat([still, actions], 1)[:, -window:],
            acted[-window:].expand(len(codes), -1),
            status,
        )


State = TypeVar("State", bound=StateRows)


@dataclass(frozen=True)
class PriorStep(Generic[State]):
    """One step of a dream, in the order in which it is drawn: end, status, codes, reward.

    Attributes:
        state: the state after the step.
        codes: (B, h, w) int64 of the new frame; of no meaning where `has_frame` is False.
        has_frame: (B,) bool; False where the row ended in a world whose ends have no picture.
        terminations: (B,) bool.
        hazards: (B,) float32, the probability of an end that was drawn from.
        rewards: (B,) float32.
        status: (B,) int64.
        status_probs: (B, bins) float32, given that the row goes on.
        log_probs: (B,) float32, nats of the drawn frame's codes at temperature 1, of a mixture as `Sampling.exact`
            says; 0 without a picture.
    """

    state: State
    codes: Tensor
    has_frame: Tensor
    terminations: Tensor
    hazards: Tensor
    rewards: Tensor
    status: Tensor
    status_probs: Tensor
    log_probs: Tensor


@dataclass(frozen=True)
class Outcomes:
    """What a prior expects of each step of recorded clips.

    Attributes:
        hazards: (B, T-1) float32, the probability that step t ends the episode.
        status_probs: (B, T-1, bins) float32, of the status after step t if the picture goes on; 0 bins
            where no status is learned.
        rewards: (B, T-1) float32, expected, in the environment's units.
    """

    hazards: Tensor
    status_probs: Tensor
    rewards: Tensor


class Prior(nn.Module, ABC, Generic[State]):
    """What every prior is: p(end, status, codes, reward of the next step | past, actions).

    Attributes:
        config: its sizes, a dataclass.
        grid: (h, w) of the codes.
        num_codes: V.
        action_space: what the actions are.
        end_has_frame: whether the environment shows a picture of the moment an episode ended.
        status_config: the hidden variable learned beside the picture, if any.
        window: W, the frames of a context.
        num_draws: uniform numbers a row needs for one step.
        predicts_whole_clips: whether one pass predicts every frame of a clip, so that all of them may be learned for
            the price of one; else each frame is a pass of its own.
        heads: what is said of ends, status and rewards.
        max_frames: frames of the longest clip or dream it knows; None for any.
        can_step: whether it can be stepped at all; else it scores clips alone.
    """

    config: Any
    grid: tuple[int, int]
    num_codes: int
    action_space: spaces.Space
    end_has_frame: bool
    status_config: StatusConfig
    window: int
    num_draws: int
    predicts_whole_clips: bool = False
    heads: OutcomeHeads
    max_frames: int | None = None
    can_step: bool = True

    @abstractmethod
    def init_from_codes(self, embeddings: Tensor, counts: Tensor) -> None:
        """Let learning begin at each place's own frequencies, with like codes alike.

        Args:
            embeddings: (V, d) float32, the tokenizer's codebook.
            counts: (h, w, V), how often the training split has each code at each place.
        """

    def mark_rare(self, counts: Tensor) -> None:
        """Note which codes are rare where they stand, if that weights anything: (h, w, V) counts."""

    @abstractmethod
    def measure_rewards(self, rewards: Tensor) -> None:
        """Measure the rewards' scale on the training split: (N,) float32."""

    @abstractmethod
    def loss(self, clip: CodeClip) -> dict[str, Tensor]:
        """Losses of the learned frames of a batch of clips; random numbers come from torch's global generator.

        Where several processes train together, each is given the whole batch, spoils its history as one
        process would, and in training mode goes on with its part (`worldmodel.common.processes`): the average of
        what they return is the whole batch's.

        Returns:
            Scalars: `loss`, the weighted sum of `codes` (nats a code), `end` (nats a step), `status` (nats
            a frame) and `reward` (squared standard deviations).
        """

    @abstractmethod
    def log_prob(self, clip: CodeClip) -> Tensor:
        """Exact log-likelihood of each frame's codes given the past, the action, and the clip's end and status there.

        The outcome comes before the codes, so it is among what they are given; a status that is not known (`bins`)
        gives the likelihood of the picture without it.

        Args:
            clip: the clips. Frame 0 is given nothing but "no action".

        Returns:
            (B, T) float32, nats a frame (divide by h*w for nats a code); 0 where the frame is invalid.
        """

    @abstractmethod
    def outcomes(self, clip: CodeClip) -> Outcomes:
        """End, status and reward of each step, given what was recorded before it.

        As in a dream, end and status are given the past and the step's action; the reward is given the
        recorded end and the recorded new frame too.

        Args:
            clip: the clips. What lies before frame 0 is not known.
        """

    def context(self, codes: Tensor, frame_valid: Tensor, actions: Tensor, status: Tensor) -> Context:
        """The context after a clip of real codes: see `Context.of`."""
        return Context.of(codes, frame_valid, actions, status, self.window, self.num_codes)

    @abstractmethod
    def init_state(self, context: Context) -> State:
        """What this prior remembers after a context of real frames."""

    @abstractmethod
    def step(self, state: State, actions: Tensor, draws: Tensor, sampling: Sampling) -> PriorStep[State]:
        """Take one step in every row: end, status, codes, reward, in this order.

        Args:
            state: what is remembered; the step may write to it and uses it up: to branch, give it a `copy`.
            actions: (B,) or (B, A).
            draws: (B, num_draws) float32 in [0, 1): all the randomness there is.
            sampling: how the codes are drawn; the end and the status are drawn as they are predicted.

        Returns:
            The new state and what happened.
        """
