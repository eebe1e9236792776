"""What a world is judged on: held-out clips, a sample of the training split, and what metrics share.

Shapes: B clips, L = W + ahead frames a clip, W frames of memory, H W pixels, h w code grid, A action size,
R rows (dreams side by side), V codes in the book.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass, field
from functools import cached_property
from typing import Any, TypeVar

import numpy as np
import torch
from torch import Tensor

from worldmodel.common.errors import UserError
from worldmodel.data import ClipSampler, Dataset
from worldmodel.metrics.frame_scores import brightness
from worldmodel.prior.code_clip import CodeClip
from worldmodel.prior.sampling import Sampling
from worldmodel.world.world_model import WorldModel

CHUNK = 32  # clips encoded or judged at once, to bound memory
TRAIN_CLIPS, TRAIN_LENGTH = 288, 32  # of the training split, for what the rivals know: 5 s of a core at 32x64
BRIGHT_SHARE = 0.005  # of the training split's pixels are bright

# (seed, R) -> a function from the frames shown now, (R, H, W, 3) uint8, to actions (R,) or (R, A)
PolicyFactory = Callable[[int, int], Callable[[np.ndarray], np.ndarray]]
Progress = Callable[[str, int, int, dict[str, float]], None]
T = TypeVar("T")


@dataclass(frozen=True)
class EvaluationSettings:
    """How a world is judged.

    Attributes:
        split: whose episodes.
        clips: clips to judge likelihood, prediction and reconstruction on; fewer where there are no more.
        ahead: frames predicted freely after the context.
        horizon: steps of a free run.
        rows: free runs of each policy.
        seed: of the clips, the starts, the policies and the dreams.
        sampling: how the dreamed codes are drawn.
        metrics: names of the metrics wanted; none for all.
    """

    split: str = "test"
    clips: int = 256
    ahead: int = 15
    horizon: int = 80
    rows: int = 64
    seed: int = 0
    sampling: Sampling = field(default_factory=Sampling)
    metrics: tuple[str, ...] = ()


@dataclass(frozen=True)
class Clips:
    """Recorded clips, every frame of them valid.

    Attributes:
        frames: (B, L, H, W, 3) uint8, on the CPU.
        codes: the same after the tokenizer, on the world's device.
        other: (B,) int64, for each clip one of another episode of the same policy, as far as there is one.
        episodes, starts: (B,) int64, where they are in the dataset.
    """

    frames: Tensor
    codes: CodeClip
    other: Tensor
    episodes: np.ndarray
    starts: np.ndarray


@dataclass(frozen=True)
class TrainSample:
    """What the rivals know of the training split.

    Attributes:
        codes: (n, l, h, w) int64, clips of consecutive frames.
        valid: (n, l) bool.
        mean_frame: (H, W, 3) uint8.
        bright: a pixel whose largest colour is above this is bright.
    """

    codes: np.ndarray
    valid: np.ndarray
    mean_frame: Tensor
    bright: int


class WorldTrial:
    """A world, the data it is judged on, and everything that several metrics need, made when first needed.

    Args:
        world: the learned world.
        data: recordings of its environment.
        policies: policies that can be played in the dream, by the name their episodes carry.
        settings: how.
        progress: called as (stage, done, in all, {}).

    Raises:
        UserError: the data is of other frames or actions, lacks the status variable, or has too little.
    """

    def __init__(
        self,
        world: WorldModel,
        data: Dataset,
        policies: Mapping[str, PolicyFactory],
        settings: EvaluationSettings,
        progress: Progress | None = None,
    ) -> None:
        self.world, self.data, self.policies, self.settings = world, data, dict(policies), settings
        self.progress: Progress = progress or (lambda *_: None)
        self._kept: dict[Any, Any] = {}
        _check(world, data, settings)

    @property
    def length(self) -> int:
        """L: the context and the frames ahead."""
        return self.world.prior.window + self.settings.ahead

    def once(self, function: Callable[[WorldTrial], T]) -> T:
        """What a function makes of this trial, computed once."""
        if function not in self._kept:
            self._kept[function] = function(self)
        return self._kept[function]

    def status(self, values: np.ndarray) -> np.ndarray:
        """Bins of the hidden variable, int64 of the same shape; zeros where the world learns none."""
        settings = self.world.prior.status_config
        if not settings.variable:
            return np.zeros(values.shape, np.int64)
        return np.digitize(values, np.asarray(settings.edges)).astype(np.int64)

    def status_of(self, rows: np.ndarray) -> np.ndarray:
        """The same for frames of the dataset, by their rows among all F."""
        name = self.world.prior.status_config.variable
        return self.status(self.data.flat(f"variables/{name}")[rows] if name else np.zeros(rows.shape))

    def code_clip(self, episodes: np.ndarray, starts: np.ndarray, length: int) -> tuple[Tensor, CodeClip]:
        """Recorded clips, read and encoded: frames (B, length, H, W, 3) on the CPU and their codes."""
        sampler = ClipSampler(self.data, length, 1, None)
        frames, clips = [], []
        for i in range(0, len(episodes), CHUNK):
            rows = slice(i, i + CHUNK)
            batch = sampler.gather(episodes[rows], starts[rows]).torch()
            at = (self.data.frame_offsets[episodes[rows]] + starts[rows])[:, None] + np.arange(length)
            frames.append(batch.frames)
            clips.append(
                CodeClip(
                    codes=self.world.tokenizer.encode(batch.frames.to(self.world.device)),
                    frame_valid=batch.frame_valid,
                    actions=batch.actions,
                    rewards=batch.rewards,
                    terminations=batch.terminations,
                    truncations=batch.truncations,
                    status=torch.from_numpy(self.status_of(at)),
                    weights=torch.ones_like(batch.frame_valid, dtype=torch.float32),
                ).to(self.world.device)
            )
        joined = {name: torch.cat([getattr(clip, name) for clip in clips]) for name in vars(clips[0])}
        return torch.cat(frames), CodeClip(**joined)

    @cached_property
    def clips(self) -> Clips:
        """Clips of the split that do not overlap, drawn by the seed."""
        data, settings = self.data, self.settings
        places = self._places(settings.split, self.length)
        if len(places) < 2:
            longest = int(_valid_frames(data)[data.episodes_of(settings.split)].max())
            raise UserError(
                f"a clip of {self.length} frames ({self.world.prior.window} of context, {settings.ahead} ahead) fits "
                f"into {len(places)} places of the {settings.split} split of {data.name}, wanted at least 2; its "
                f"longest episode shows {longest} frames. Give a smaller --ahead, another --split or more data."
            )
        order = np.random.default_rng(settings.seed).permutation(len(places))[: settings.clips]
        episodes, starts = places[order].T
        frames, codes = self.code_clip(episodes, starts, self.length)
        other = _others(data.policies[episodes], episodes)
        return Clips(frames, codes, torch.from_numpy(other).to(self.world.device), episodes, starts)

    @cached_property
    def train(self) -> TrainSample:
        """Clips of the training split, for rivals that know its frequencies."""
        data = self.data
        length = min(TRAIN_LENGTH, int(_valid_frames(data)[data.episodes_of("train")].max()))
        places = self._places("train", length)
        order = np.random.default_rng(self.settings.seed).permutation(len(places))[:TRAIN_CLIPS]
        codes, valid, count = [], [], 0
        total = torch.zeros(data.header.pixels.frame_shape, dtype=torch.float64)
        levels = np.zeros(256, np.int64)
        for i in range(0, len(order), CHUNK):
            episodes, starts = places[order[i : i + CHUNK]].T
            frames, clip = self.code_clip(episodes, starts, length)
            total += frames.sum((0, 1), dtype=torch.float64)
            count += frames.shape[0] * frames.shape[1]
            levels += np.bincount(brightness(frames).flatten().numpy(), minlength=256)
            codes.append(clip.codes.cpu().numpy())
            valid.append(clip.frame_valid.cpu().numpy())
            self.progress("training split", min(i + CHUNK, len(order)), len(order), {})
        above = levels.sum() - np.cumsum(levels)  # pixels brighter than each level
        bright = int(np.flatnonzero(above <= BRIGHT_SHARE * levels.sum())[0])
        mean = (total / count).round().to(torch.uint8)
        return TrainSample(np.concatenate(codes), np.concatenate(valid), mean, bright)

    def _places(self, split: str, length: int) -> np.ndarray:
        """Clips of valid frames that do not overlap: episode and start of each, (n, 2) int64."""
        shown = _valid_frames(self.data)
        found = [(e, start) for e in self.data.episodes_of(split) for start in range(0, shown[e] - length + 1, length)]
        return np.asarray(found, np.int64).reshape(-1, 2)

    def chunks(self, stage: str) -> Iterator[tuple[slice, CodeClip]]:
        """The clips in turn, `CHUNK` at once, with the bar of a stage."""
        clip = self.clips.codes
        for i in range(0, len(clip.codes), CHUNK):
            rows = slice(i, min(i + CHUNK, len(clip.codes)))
            yield rows, CodeClip(**{name: tensor[rows] for name, tensor in vars(clip).items()})
            self.progress(stage, rows.stop, len(clip.codes), {})


def _valid_frames(data: Dataset) -> np.ndarray:
    """(N,) int64: the frames of each episode before its first invalid one."""
    valid = np.append(data.flat("frame_valid"), False)
    bad = np.flatnonzero(~valid)
    ends = data.frame_offsets + data.lengths + 1
    return np.minimum(bad[np.searchsorted(bad, data.frame_offsets)], ends) - data.frame_offsets


def _others(policies: np.ndarray, episodes: np.ndarray) -> np.ndarray:
    """For each clip the next one of its policy that is of another episode; of any other clip where there is none."""
    count = len(episodes)
    after = (np.arange(count)[:, None] + 1 + np.arange(count - 1)) % count  # (B, B-1)
    same = policies[after] == policies[:, None]
    apart = episodes[after] != episodes[:, None]
    best = np.argmax(2 * apart + same + (same & apart), axis=1)  # the first of the best kind
    return after[np.arange(count), best]


def _check(world: WorldModel, data: Dataset, settings: EvaluationSettings) -> None:
    """Refuse what cannot be judged, in a sentence."""
    spec, header = world.spec, data.header
    if world.tokenizer.time_stride > 1:
        raise UserError(
            f"this world's codes span {world.tokenizer.time_stride} frames each, so it cannot be stepped frame by "
            "frame; judge a world whose tokenizer works on single frames."
        )
    if header.pixels.frame_shape != spec.pixels.frame_shape:
        raise UserError(
            f"{data.name} has frames {header.pixels.frame_shape}, the world was learned from "
            f"{spec.pixels.frame_shape}; judge it on recordings of its own environment and screen."
        )
    if header.action_space != spec.action_space:
        raise UserError(
            f"{data.name} has actions {header.action_space}, the world takes {spec.action_space}; judge it on "
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
            raise UserError(f"the {split} split of {data.name} is empty: {data.lacking_splits}")
    known = world.prior.max_frames
    if known is not None and world.prior.window + settings.ahead > known:
        raise UserError(
            f"--ahead {settings.ahead}: this world's prior knows {known} frames, {world.prior.window} of them context; "
            f"give at most --ahead {known - world.prior.window}."
        )
    for name, least in (("clips", 2), ("ahead", 1), ("horizon", 1), ("rows", 2)):
        if getattr(settings, name) < least:
            raise UserError(f"--{name} {getattr(settings, name)}: wanted at least {least}.")
