"""The free run: policies live in the dream, and what befalls them is held against the recordings.

A world is judged by this first: likelihood alone does not tell which dream a policy can learn in.

Shapes: R rows (dreams) or episodes, S steps, H W pixels.
"""

from __future__ import annotations

from dataclasses import dataclass, fields
from functools import partial

import numpy as np
import torch
from torch import Tensor

from worldmodel.metrics.dream_rollouts import begin, narrowed
from worldmodel.metrics.frame_scores import small_bright
from worldmodel.metrics.metric import Figure, Metric
from worldmodel.metrics.statistics import ratio
from worldmodel.metrics.world_trial import PolicyFactory, WorldTrial

ENOUGH = 30  # recorded episodes of a policy; with fewer in the split, the other held-out one is used too
MOST = 4  # times `rows`: recorded episodes read of each policy


@dataclass(frozen=True)
class Lives:
    """What befell R rows in their first S steps, all (R, S); steps after a row's end are False or 0.

    Attributes:
        taken: bool, the row lived when the step was taken.
        ended: bool, the step ended it.
        shown: bool, the step brought a picture.
        hit: bool, it did, and the status fell to a lower bin.
        reward: float64, in the environment's units.
        bright: float64, share of the new picture's pixels that are bright; 0 where all of it flashes.
        any_bright: bool, there is one.
        motion: float64, mean absolute change of the picture, in levels of 255.
    """

    taken: np.ndarray
    ended: np.ndarray
    shown: np.ndarray
    hit: np.ndarray
    reward: np.ndarray
    bright: np.ndarray
    any_bright: np.ndarray
    motion: np.ndarray

    @staticmethod
    def blank(rows: int, steps: int) -> Lives:
        """Nothing has happened yet."""
        floats = ("reward", "bright", "motion")
        return Lives(**{f.name: np.zeros((rows, steps), float if f.name in floats else bool) for f in fields(Lives)})

    def of(self, measure: str, steps: int) -> tuple[np.ndarray, np.ndarray]:
        """Amounts and sizes of each row in its first steps, (R,) each; a row that ended adds to neither."""
        if measure == "life":
            return self.taken[:, :steps].sum(1), np.ones(len(self.taken))
        name, over = MEASURES[measure]
        return getattr(self, name)[:, :steps].sum(1), getattr(self, over)[:, :steps].sum(1)


# measure -> what is added up, over which steps
MEASURES = {
    "hit_rate": ("hit", "shown"),
    "end_rate": ("ended", "taken"),
    "reward_rate": ("reward", "taken"),
    "bright_share": ("bright", "shown"),
    "bright_frames": ("any_bright", "shown"),
    "motion": ("motion", "shown"),
}


@dataclass(frozen=True)
class Played:
    """A policy's lives in the recordings and in the dream; `source` says which episodes were read."""

    real: Lives
    dreamed: Lives
    source: str


def horizons(trial: WorldTrial) -> list[int]:
    """Steps over which rates are told: an eighth of the free run, a half, all of it."""
    steps = cap(trial)
    return sorted({max(1, steps // 8), max(1, steps // 2), steps})


def play_all(trial: WorldTrial) -> dict[str, Played]:
    """Every policy that can be played and was recorded: name -> its lives."""
    played = {}
    for number, (name, player) in enumerate(sorted(trial.policies.items())):
        episodes, source = _episodes(trial, name)
        if len(episodes) >= 2:
            played[name] = Played(recorded(trial, episodes), dreamed(trial, player, number, name), source)
    return played


def recorded(trial: WorldTrial, episodes: np.ndarray) -> Lives:
    """The first steps of recorded episodes: (R,) numbers."""
    data, steps = trial.data, cap(trial)
    lives = Lives.blank(len(episodes), steps)
    for row, number in enumerate(episodes):
        count = min(steps, int(data.lengths[number]))
        first, step = int(data.frame_offsets[number]), int(data.step_offsets[number])
        valid = data.flat("frame_valid")[first + 1 : first + count + 1]
        status = trial.status_of(np.arange(first, first + count + 1))
        lives.taken[row, :count] = True
        lives.ended[row, :count] = data.flat("terminations")[step : step + count]
        lives.reward[row, :count] = data.flat("rewards")[step : step + count]
        lives.shown[row, :count] = valid
        lives.hit[row, :count] = valid & (status[1:] < status[:-1])
        frames = torch.from_numpy(data.frames(int(number), 0, count + 1))
        _look(lives, np.full(count, row), np.arange(count), frames[:-1], frames[1:], trial.train.bright, valid)
    return lives


@torch.no_grad()
def dreamed(trial: WorldTrial, player: PolicyFactory, number: int, name: str) -> Lives:
    """The same policy in the dream, from true starts of the split's episodes."""
    settings, world, steps = trial.settings, trial.world, cap(trial)
    starts = np.random.default_rng(settings.seed).permutation(trial.data.episodes_of(settings.split))
    starts = np.resize(starts, settings.rows)  # the same for every policy
    rows = torch.arange(settings.rows)
    _, clip = trial.code_clip(starts, np.zeros_like(starts), 2)
    seeds = settings.seed + number * settings.rows + rows  # no two policies share a dream's draws
    simulator = begin(world, clip, 1, seeds, settings.sampling)
    act = player(settings.seed + number, settings.rows)
    lives, before = Lives.blank(settings.rows, steps), simulator.state.frames.cpu()
    shown_now = before.clone()  # what every row shows, also those that ended
    live = torch.ones(settings.rows, dtype=torch.bool)  # of the simulator's rows, which are `rows` of all
    status = simulator.state.prior.status.cpu()
    for t in range(steps):
        actions = torch.as_tensor(np.asarray(act(shown_now.numpy())))
        out = simulator.step(actions[rows])
        after, ended, now = out.frames.cpu(), out.terminations.cpu(), out.status.cpu()
        picture = live & ~ended if not world.spec.end_has_frame else live
        at = rows[live].numpy()
        lives.taken[at, t] = True
        lives.ended[at, t] = ended[live].numpy()
        lives.reward[at, t] = out.rewards.cpu()[live].numpy()
        lives.shown[at, t] = picture[live].numpy()
        lives.hit[at, t] = (picture & (now < status))[live].numpy()
        bright = trial.train.bright
        _look(lives, at, np.full(len(at), t), before[live], after[live], bright, picture[live].numpy())
        shown_now[rows] = after
        live, before, status = live & ~ended, after, now
        trial.progress(f"free run, {name}", t + 1, steps, {})
        if not live.any():
            break
        if live.sum() <= 0.75 * len(live):  # dreams that ended cost as much as those that go on
            kept = torch.nonzero(live)[:, 0]
            simulator = narrowed(simulator, kept.to(world.device))
            rows, before, status, live = rows[kept], before[kept], status[kept], live[kept]
    return lives


def rates(trial: WorldTrial, measure: str) -> list[Figure]:
    """A measure of each policy over each horizon, the recordings' beside it."""
    figures = []
    for name, played in measured(trial, measure).items():
        for steps in [cap(trial)] if measure == "life" else horizons(trial):
            real, dream = (ratio(*lives.of(measure, steps), trial.settings.seed) for lives in _both(played))
            figures.append(Figure(f"{name}, {steps} steps", dream, {"real": real}))
    return figures


def sources(trial: WorldTrial) -> dict[str, str]:
    """Which recorded episodes each policy was held against."""
    return {name: played.source for name, played in trial.once(play_all).items()}


def measured(trial: WorldTrial, measure: str) -> dict[str, Played]:
    """The policies' lives; none for hits in a world that learns no status."""
    if measure == "hit_rate" and not trial.world.prior.status_config.variable:
        return {}
    return trial.once(play_all)


def _both(played: Played) -> tuple[Lives, Lives]:
    return played.real, played.dreamed


def cap(trial: WorldTrial) -> int:
    """Steps of the longest free run: the horizon, or where that is less the episodes' own limit or the prior's."""
    known = trial.world.prior.max_frames
    limits = [limit for limit in (trial.settings.horizon, trial.data.header.max_steps, known and known - 1) if limit]
    return min(limits)


def _episodes(trial: WorldTrial, name: str) -> tuple[np.ndarray, str]:
    """Recorded episodes of a policy: the split's, with the other held-out split's where those are too few."""
    data, split = trial.data, trial.settings.split
    numbers = [e for e in data.episodes_of(split) if data.policies[e] == name]
    source = split
    other = {"test": "validation", "validation": "test"}.get(split)
    if len(numbers) < ENOUGH and other is not None:
        numbers += [e for e in data.episodes_of(other) if data.policies[e] == name]
        source = f"{split} and {other}"
    order = np.random.default_rng(trial.settings.seed).permutation(len(numbers))[: MOST * trial.settings.rows]
    return np.asarray(numbers, np.int64)[np.sort(order)], f"{len(order)} episodes of {source}"


def _look(
    lives: Lives, rows: np.ndarray, at: np.ndarray, before: Tensor, after: Tensor, threshold: int, shown: np.ndarray
) -> None:
    """Note how n new pictures look: (n, H, W, 3) uint8 each, at steps `at` of `rows`, where they are shown."""
    bright = small_bright(after, threshold).double().mean((1, 2)).numpy() * shown
    motion = (after.short() - before.short()).abs().double().mean((1, 2, 3)).numpy() * shown
    lives.bright[rows, at], lives.any_bright[rows, at], lives.motion[rows, at] = bright, bright > 0, motion


SECTION = "free run"
ROWS = (
    *(
        Metric(name, SECTION, says, unit, "real", partial(rates, measure=name))
        for name, says, unit in (
            ("hit_rate", "how often the hidden status falls while alive", "a step"),
            ("end_rate", "how often a step ends the episode", "a step"),
            ("reward_rate", "mean reward while alive", "a step"),
            ("bright_share", "small bright things: brighter than 99.5 % of the training split's pixels", "of pixels"),
            ("bright_frames", "share of frames with any of them", "of frames"),
            ("motion", "mean absolute change from frame to frame", "levels of 255"),
            ("life", "mean life under the cap", "steps"),
        )
    ),
)
