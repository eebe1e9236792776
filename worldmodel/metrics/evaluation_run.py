"""What metrics share: held-out clips, a sample of the training split, and cached intermediate results.

Shapes: B clips, L = W + ahead frames a clip, W frames of context, H W pixels, h w code grid, A action size,
R rows (dreams of a batch).
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from functools import cached_property
from typing import Any, TypeVar

import numpy as np
import torch
from torch import Tensor

from worldmodel.common.errors import UserError
from worldmodel.data import ClipSampler, Dataset
from worldmodel.metrics.environment_rules import EnvironmentRules
from worldmodel.metrics.frame_scores import brightness
from worldmodel.metrics.recorded_codes import encode_recorded
from worldmodel.prior.code_clip import CodeClip
from worldmodel.prior.sampling import Sampling
from worldmodel.prior.status_bins import status_bins
from worldmodel.world.world_model import WorldModel

CHUNK = 32  # clips encoded or evaluated at once, to bound memory
TRAIN_CLIPS, TRAIN_LENGTH = 288, 32  # clips of the training split for the baselines: 5 s of a core at 32 x 64
BRIGHT_SHARE = 0.005  # share of the training split's pixels that are bright

# (seed, R) -> a function from the current frames, (R, H, W, 3) uint8, to actions (R,) or (R, A)
PolicyFactory = Callable[[int, int], Callable[[np.ndarray], np.ndarray]]
# number of episodes -> (N,) float64, returns on the first validation seeds of the environment
RealReturns = Callable[[int], np.ndarray]
Progress = Callable[[str, int, int, dict[str, float]], None]
T = TypeVar("T")


@dataclass(frozen=True)
class LadderPolicy:
    """A policy of the held-out ladder (`metrics.ladder`).

    Attributes:
        name: in the report.
        play: makes the policy for dreams.
        real_returns: its returns in the environment.
        recorded: whether the dataset contains it, so that it is not held out.
    """

    name: str
    play: PolicyFactory
    real_returns: RealReturns
    recorded: bool = False


@dataclass(frozen=True)
class EvaluationSettings:
    """How a world is evaluated.

    Attributes:
        split: the split to evaluate on.
        clips: clips for likelihood, prediction and reconstruction; fewer where the split has fewer.
        ahead: frames predicted after the context.
        horizon: steps of a free run.
        rows: free runs of each policy.
        seed: seed of clips, starts, policies and dreams.
        sampling: how dreamed codes are sampled.
        inverse_steps: training steps of the inverse dynamics model, which some metrics train.
        ladder_episodes: dreams, and episodes of the environment, of each policy of the held-out ladder.
        metrics: names of metrics or of their sections; empty for those evaluated by default, "all" for all that need no
            assets.
    """

    split: str = "test"
    clips: int = 256
    ahead: int = 15
    horizon: int = 80
    rows: int = 64
    seed: int = 0
    sampling: Sampling = field(default_factory=Sampling)
    inverse_steps: int = 400
    ladder_episodes: int = 100
    metrics: tuple[str, ...] = ()


@dataclass(frozen=True)
class Clips:
    """Recorded clips with valid frames only.

    Attributes:
        frames: (B, L, H, W, 3) uint8, on the CPU.
        codes: the same as codes, on the world's device.
        other: (B,) int64, for each clip the index of one of another episode of the same policy, if there is one.
        episodes, starts: (B,) int64, episode and first frame of each clip in the dataset.
    """

    frames: Tensor
    codes: CodeClip
    other: Tensor
    episodes: np.ndarray
    starts: np.ndarray


@dataclass(frozen=True)
class TrainSample:
    """What the baselines know of the training split.

    Attributes:
        codes: (n, l, h, w) int64, clips of consecutive frames.
        valid: (n, l) bool.
        mean_frame: (H, W, 3) uint8.
        bright_threshold: a pixel whose largest colour is above this is bright.
    """

    codes: np.ndarray
    valid: np.ndarray
    mean_frame: Tensor
    bright_threshold: int


class EvaluationRun:
    """A world, the data it is evaluated on, and what several metrics need, computed when first used.

    Args:
        world: the learned world.
        data: recordings of its environment.
        policies: policies to play in the dream, by the policy name of their recorded episodes.
        settings: how to evaluate.
        progress: called as (stage, done, total, {}).
        rules: what the environment declares about objects and opposite actions.
        ladder: policies of the held-out ladder.

    Raises:
        UserError: the data has other frames or actions, lacks the status variable, or has too few episodes.
    """

    def __init__(
        self,
        world: WorldModel,
        data: Dataset,
        policies: Mapping[str, PolicyFactory],
        settings: EvaluationSettings,
        progress: Progress | None = None,
        rules: EnvironmentRules = EnvironmentRules(),  # noqa: B008 (frozen)
        ladder: Sequence[LadderPolicy] = (),
    ) -> None:
        self.rules, self.ladder = rules, tuple(ladder)
        self.world, self.data, self.policies, self.settings = world, data, dict(policies), settings
        self.progress: Progress = progress or (lambda *_: None)
        self._cache: dict[Any, Any] = {}
        _check(world, data, settings)

    @property
    def length(self) -> int:
        """L: frames of the context and frames ahead."""
        return self.world.prior.window + self.settings.ahead

    def cached(self, function: Callable[[EvaluationRun], T]) -> T:
        """The result of a function of this run, computed once."""
        if function not in self._cache:
            self._cache[function] = function(self)
        return self._cache[function]

    def status_of_frames(self, frames: np.ndarray) -> np.ndarray:
        """Status bins of frames of the dataset, by their index among all frames; zeros without a status."""
        config = self.world.prior.status_config
        values = self.data.flat(f"variables/{config.variable}")[frames] if config.variable else np.zeros(frames.shape)
        return status_bins(config, values)

    def code_clip(self, episodes: np.ndarray, starts: np.ndarray, length: int) -> tuple[Tensor, CodeClip]:
        """Read and encode recorded clips: frames (B, length, H, W, 3) on the CPU, and their codes."""
        sampler = ClipSampler(self.data, length, 1, None)
        frames, clips = [], []
        for i in range(0, len(episodes), CHUNK):
            rows = slice(i, i + CHUNK)
            batch = sampler.gather(episodes[rows], starts[rows]).torch()
            at = (self.data.frame_offsets[episodes[rows]] + starts[rows])[:, None] + np.arange(length)
            frames.append(batch.frames)
            clips.append(
                CodeClip(
                    codes=encode_recorded(self.world.tokenizer, self.data, batch.frames, episodes[rows], starts[rows]),
                    frame_valid=batch.frame_valid,
                    actions=batch.actions,
                    rewards=batch.rewards,
                    terminations=batch.terminations,
                    truncations=batch.truncations,
                    status=torch.from_numpy(self.status_of_frames(at)),
                    weights=torch.ones_like(batch.frame_valid, dtype=torch.float32),
                ).to(self.world.device)
            )
        joined = {name: torch.cat([getattr(clip, name) for clip in clips]) for name in vars(clips[0])}
        return torch.cat(frames), CodeClip(**joined)

    @cached_property
    def clips(self) -> Clips:
        """Clips of the split that do not overlap, shuffled by the seed."""
        data, settings = self.data, self.settings
        clips = self._separate_clips(settings.split, self.length)
        if len(clips) < 2:
            longest = int(valid_frames(data)[data.episodes_of(settings.split)].max())
            raise UserError(
                f"a clip of {self.length} frames ({self.world.prior.window} of context, {settings.ahead} ahead) fits "
                f"{len(clips)} times into the {settings.split} split of {data.name}, wanted at least 2; its longest "
                f"episode has {longest} valid frames. Give a smaller --ahead, another --split or more data."
            )
        order = np.random.default_rng(settings.seed).permutation(len(clips))[: settings.clips]
        episodes, starts = clips[order].T
        frames, codes = self.code_clip(episodes, starts, self.length)
        other = _other_clips(data.policies[episodes], episodes)
        return Clips(frames, codes, torch.from_numpy(other).to(self.world.device), episodes, starts)

    @cached_property
    def train(self) -> TrainSample:
        """Clips of the training split, for baselines that use its frequencies."""
        data = self.data
        length = min(TRAIN_LENGTH, int(valid_frames(data)[data.episodes_of("train")].max()))
        clips = self._separate_clips("train", length)
        order = np.random.default_rng(self.settings.seed).permutation(len(clips))[:TRAIN_CLIPS]
        codes, valid, count = [], [], 0
        total = torch.zeros(data.header.pixels.frame_shape, dtype=torch.float64)
        levels = np.zeros(256, np.int64)
        for i in range(0, len(order), CHUNK):
            episodes, starts = clips[order[i : i + CHUNK]].T
            frames, clip = self.code_clip(episodes, starts, length)
            total += frames.sum((0, 1), dtype=torch.float64)
            count += frames.shape[0] * frames.shape[1]
            inside = brightness(self.world.tokenizer.encoded_part(frames))
            levels += np.bincount(inside.flatten().numpy(), minlength=256)
            codes.append(clip.codes.cpu().numpy())
            valid.append(clip.frame_valid.cpu().numpy())
            self.progress("training split", min(i + CHUNK, len(order)), len(order), {})
        above = levels.sum() - np.cumsum(levels)  # pixels brighter than each level
        threshold = int(np.flatnonzero(above <= BRIGHT_SHARE * levels.sum())[0])
        mean = (total / count).round().to(torch.uint8)
        return TrainSample(np.concatenate(codes), np.concatenate(valid), mean, threshold)

    def _separate_clips(self, split: str, length: int) -> np.ndarray:
        """Clips of valid frames that do not overlap: episode and first frame of each, (n, 2) int64."""
        valid = valid_frames(self.data)
        found = [(e, start) for e in self.data.episodes_of(split) for start in range(0, valid[e] - length + 1, length)]
        return np.asarray(found, np.int64).reshape(-1, 2)

    def chunks(self, stage: str) -> Iterator[tuple[slice, CodeClip]]:
        """All clips, `CHUNK` at a time, with a progress bar for the stage."""
        clip = self.clips.codes
        for i in range(0, len(clip.codes), CHUNK):
            rows = slice(i, min(i + CHUNK, len(clip.codes)))
            yield rows, CodeClip(**{name: tensor[rows] for name, tensor in vars(clip).items()})
            self.progress(stage, rows.stop, len(clip.codes), {})


def valid_frames(data: Dataset) -> np.ndarray:
    """(N,) int64: the frames of each episode before its first invalid one."""
    valid = np.append(data.flat("frame_valid"), False)
    invalid = np.flatnonzero(~valid)
    ends = data.frame_offsets + data.lengths + 1
    return np.minimum(invalid[np.searchsorted(invalid, data.frame_offsets)], ends) - data.frame_offsets


def _other_clips(policies: np.ndarray, episodes: np.ndarray) -> np.ndarray:
    """For each clip the next one of the same policy and another episode, or any other clip where there is none."""
    count = len(episodes)
    after = (np.arange(count)[:, None] + 1 + np.arange(count - 1)) % count  # (B, B-1)
    same_policy = policies[after] == policies[:, None]
    other_episode = episodes[after] != episodes[:, None]
    best = np.argmax(2 * other_episode + same_policy + (same_policy & other_episode), axis=1)  # first of the best
    return after[np.arange(count), best]


def _check(world: WorldModel, data: Dataset, settings: EvaluationSettings) -> None:
    """Refuse data and settings that the world cannot be evaluated with."""
    spec, header = world.spec, data.header
    if world.tokenizer.time_stride > 1:
        raise UserError(
            f"this world's codes span {world.tokenizer.time_stride} frames each, so it cannot be stepped frame by "
            "frame; evaluate a world whose tokenizer works on single frames."
        )
    if header.pixels.frame_shape != spec.pixels.frame_shape:
        raise UserError(
            f"{data.name} has frames {header.pixels.frame_shape}, the world was learned from "
            f"{spec.pixels.frame_shape}; evaluate it on recordings of its own environment and screen."
        )
    if header.action_space != spec.action_space:
        raise UserError(
            f"{data.name} has actions {header.action_space}, the world takes {spec.action_space}; evaluate it on "
            "recordings of its own environment."
        )
    variable = world.prior.status_config.variable
    if variable and variable not in header.variables:
        raise UserError(
            f"the world learned the variable {variable!r}, which {data.name} does not have; record it with the "
            "environment that the world was learned from."
        )
    for split in dict.fromkeys((settings.split, "train")):
        if not len(data.episodes_of(split)):
            raise UserError(f"the {split} split of {data.name} is empty: {data.missing_splits}")
    max_frames = world.prior.max_frames
    if max_frames is not None and world.prior.window + settings.ahead > max_frames:
        raise UserError(
            f"--ahead {settings.ahead}: this world's prior spans {max_frames} frames, {world.prior.window} of them "
            f"context; give at most --ahead {max_frames - world.prior.window}."
        )
    for name, minimum in (
        ("clips", 2),
        ("ahead", 1),
        ("horizon", 1),
        ("rows", 2),
        ("inverse_steps", 1),
        ("ladder_episodes", 2),
    ):
        if getattr(settings, name) < minimum:
            raise UserError(f"--{name.replace('_', '-')} {getattr(settings, name)}: wanted at least {minimum}.")
