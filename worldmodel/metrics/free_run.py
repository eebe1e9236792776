"""The free run: policies play in the dream, and what happens is compared with their recorded episodes.

This is the most important part of an evaluation: likelihood alone does not show in which dream a policy can learn.

Shapes: R rows (dreams or episodes), S steps, H W pixels.
"""

from __future__ import annotations

from dataclasses import dataclass, fields
from functools import partial

import numpy as np
import torch
from torch import Tensor

from worldmodel.metrics.dream_rollouts import COMPACT_BELOW, begin_dreams, select_rows
from worldmodel.metrics.evaluation_run import EvaluationRun, PolicyFactory
from worldmodel.metrics.frame_scores import small_bright
from worldmodel.metrics.metric import Metric, MetricValue
from worldmodel.metrics.statistics import ratio

MIN_EPISODES = 30  # recorded episodes of a policy; with fewer in the split, the other held-out split is used too
MAX_EPISODES_PER_ROW = 4  # recorded episodes that are read of each policy, for each dream of it


@dataclass(frozen=True)
class StepEvents:
    """What happened in the first S steps of R rows, all (R, S); False or 0 after the end of a row.

    Attributes:
        active: bool, the step was taken: the row had not ended before.
        terminated: bool, the step ended the episode.
        has_frame: bool, there is a frame after the step.
        hit: bool, there is, and the status fell to a lower bin.
        reward: float64, in units of the environment.
        bright: float64, share of small bright pixels in the frame after the step; 0 in a frame that flashes. This
            and the next two concern the part of the frame that the tokenizer encodes.
        any_bright: bool, there is such a pixel.
        motion: float64, mean absolute change of the frame, in levels of 255.
    """

    active: np.ndarray
    terminated: np.ndarray
    has_frame: np.ndarray
    hit: np.ndarray
    reward: np.ndarray
    bright: np.ndarray
    any_bright: np.ndarray
    motion: np.ndarray

    @staticmethod
    def zeros(rows: int, steps: int) -> StepEvents:
        """Events of rows without a step."""
        floats = ("reward", "bright", "motion")
        names = [field.name for field in fields(StepEvents)]
        return StepEvents(**{name: np.zeros((rows, steps), float if name in floats else bool) for name in names})

    def totals(self, measure: str, steps: int) -> tuple[np.ndarray, np.ndarray]:
        """Numerators and denominators of a measure over the first steps of each row, (R,) each."""
        if measure == "steps_survived":
            return self.active[:, :steps].sum(1), np.ones(len(self.active))
        numerator, denominator = MEASURES[measure]
        return getattr(self, numerator)[:, :steps].sum(1), getattr(self, denominator)[:, :steps].sum(1)

    def record_frames(
        self, rows: np.ndarray, steps: np.ndarray, before: Tensor, after: Tensor, threshold: int, has_frame: np.ndarray
    ) -> None:
        """Measure n new frames, (n, H, W, 3) uint8 each, at steps (n,) of rows (n,), where there is a frame."""
        bright = small_bright(after, threshold).double().mean((1, 2)).numpy() * has_frame
        motion = (after.short() - before.short()).abs().double().mean((1, 2, 3)).numpy() * has_frame
        self.bright[rows, steps], self.any_bright[rows, steps], self.motion[rows, steps] = bright, bright > 0, motion


# measure -> field that is summed, field that counts the steps
MEASURES = {
    "hit_rate": ("hit", "has_frame"),
    "end_rate": ("terminated", "active"),
    "reward_rate": ("reward", "active"),
    "bright_share": ("bright", "has_frame"),
    "bright_frames": ("any_bright", "has_frame"),
    "motion": ("motion", "has_frame"),
}


@dataclass(frozen=True)
class PolicyEvents:
    """Events of one policy in the recordings and in the dream; `source` names the recorded episodes."""

    real: StepEvents
    dreamed: StepEvents
    source: str


def horizons(run: EvaluationRun) -> list[int]:
    """Steps over which rates are reported: an eighth of the free run, a half, all of it."""
    steps = longest_horizon(run)
    return sorted({max(1, steps // 8), max(1, steps // 2), steps})


def longest_horizon(run: EvaluationRun) -> int:
    """Steps of a free run: the setting, the limit of recorded episodes or that of the prior, whichever is least."""
    max_frames = run.world.prior.max_frames
    limits = (run.settings.horizon, run.data.header.max_steps, max_frames and max_frames - 1)
    return min(limit for limit in limits if limit)


def run_policies(run: EvaluationRun) -> dict[str, PolicyEvents]:
    """Events of every policy that was recorded and can be played, by name."""
    events = {}
    for number, (name, policy) in enumerate(sorted(run.policies.items())):
        episodes, source = _recorded_episodes(run, name)
        if len(episodes) >= 2:
            dreamed = dreamed_events(run, policy, number, name)
            events[name] = PolicyEvents(recorded_events(run, episodes), dreamed, source)
    return events


def recorded_events(run: EvaluationRun, episodes: np.ndarray) -> StepEvents:
    """Events in the first steps of recorded episodes: (R,) numbers."""
    data, steps = run.data, longest_horizon(run)
    events = StepEvents.zeros(len(episodes), steps)
    for row, number in enumerate(episodes):
        count = min(steps, int(data.lengths[number]))
        first, step = int(data.frame_offsets[number]), int(data.step_offsets[number])
        valid = data.flat("frame_valid")[first + 1 : first + count + 1]
        status = run.status_of_frames(np.arange(first, first + count + 1))
        events.active[row, :count] = True
        events.terminated[row, :count] = data.flat("terminations")[step : step + count]
        events.reward[row, :count] = data.flat("rewards")[step : step + count]
        events.has_frame[row, :count] = valid
        events.hit[row, :count] = valid & (status[1:] < status[:-1])
        frames = run.world.tokenizer.encoded_part(torch.from_numpy(data.frames(int(number), 0, count + 1)))
        rows, at = np.full(count, row), np.arange(count)
        events.record_frames(rows, at, frames[:-1], frames[1:], run.train.bright_threshold, valid)
    return events


@torch.no_grad()
def dreamed_events(run: EvaluationRun, policy: PolicyFactory, number: int, name: str) -> StepEvents:
    """Events of a policy in the dream, which begins at the first frames of the split's episodes.

    Args:
        run: the evaluation.
        policy: makes the policy.
        number: number of the policy; no two policies share the random numbers of a dream.
        name: name of the policy, for progress.
    """
    settings, world, steps = run.settings, run.world, longest_horizon(run)
    starts = np.random.default_rng(settings.seed).permutation(run.data.episodes_of(settings.split))
    starts = np.resize(starts, settings.rows)  # the same for every policy
    rows = torch.arange(settings.rows)  # of all rows, those that the simulator holds
    _, clip = run.code_clip(starts, np.zeros_like(starts), 2)
    seeds = settings.seed + number * settings.rows + rows
    simulator = begin_dreams(world, clip, 1, seeds, settings.sampling)
    act = policy(settings.seed + number, settings.rows)
    events, before = StepEvents.zeros(settings.rows, steps), simulator.state.frames.cpu()
    observations = before.clone()  # of all rows, also of those that ended
    running = torch.ones(settings.rows, dtype=torch.bool)  # of the simulator's rows
    status = simulator.state.prior.status.cpu()
    for t in range(steps):
        actions = torch.as_tensor(np.asarray(act(observations.numpy())))
        step = simulator.step(actions[rows])
        after, terminated, new_status = step.frames.cpu(), step.terminations.cpu(), step.status.cpu()
        has_frame = running & ~terminated if not world.spec.end_has_frame else running
        at = rows[running].numpy()
        events.active[at, t] = True
        events.terminated[at, t] = terminated[running].numpy()
        events.reward[at, t] = step.rewards.cpu()[running].numpy()
        events.has_frame[at, t] = has_frame[running].numpy()
        events.hit[at, t] = (has_frame & (new_status < status))[running].numpy()
        threshold, shown = run.train.bright_threshold, has_frame[running].numpy()
        old, new = (world.tokenizer.encoded_part(frames[running]) for frames in (before, after))
        events.record_frames(at, np.full(len(at), t), old, new, threshold, shown)
        observations[rows] = after
        running, before, status = running & ~terminated, after, new_status
        run.progress(f"free run, {name}", t + 1, steps, {})
        if not running.any():
            break
        if running.sum() <= COMPACT_BELOW * len(running):
            index = torch.nonzero(running)[:, 0]
            simulator = select_rows(simulator, index.to(world.device))
            rows, before, status, running = rows[index], before[index], status[index], running[index]
    return events


def rates(run: EvaluationRun, measure: str) -> list[MetricValue]:
    """A measure of each policy over each horizon, compared with the recordings."""
    values = []
    for name, events in events_for(run, measure).items():
        for steps in [longest_horizon(run)] if measure == "steps_survived" else horizons(run):
            real, dreamed = (
                ratio(*rows.totals(measure, steps), run.settings.seed) for rows in (events.real, events.dreamed)
            )
            values.append(MetricValue(f"{name}, {steps} steps", dreamed, {"real": real}))
    return values


def sources(run: EvaluationRun) -> dict[str, str]:
    """Which recorded episodes each policy was compared with."""
    return {name: events.source for name, events in run.cached(run_policies).items()}


def events_for(run: EvaluationRun, measure: str) -> dict[str, PolicyEvents]:
    """Events of the policies; none for hits in a world without a status."""
    if measure == "hit_rate" and not run.world.prior.status_config.variable:
        return {}
    return run.cached(run_policies)


def _recorded_episodes(run: EvaluationRun, name: str) -> tuple[np.ndarray, str]:
    """Recorded episodes of a policy: the split's, with the other held-out split's where those are too few."""
    data, split = run.data, run.settings.split
    numbers = [e for e in data.episodes_of(split) if data.policies[e] == name]
    source = split
    other = {"test": "validation", "validation": "test"}.get(split)
    if len(numbers) < MIN_EPISODES and other is not None:
        numbers += [e for e in data.episodes_of(other) if data.policies[e] == name]
        source = f"{split} and {other}"
    limit = MAX_EPISODES_PER_ROW * run.settings.rows
    order = np.random.default_rng(run.settings.seed).permutation(len(numbers))[:limit]
    return np.asarray(numbers, np.int64)[np.sort(order)], f"{len(order)} episodes of {source}"


SECTION = "free run"
ROWS = tuple(
    Metric(name, SECTION, description, unit, "real", partial(rates, measure=name))
    for name, description, unit in (
        ("hit_rate", "how often the hidden status falls before the end", "per step"),
        ("end_rate", "how often a step terminates the episode", "per step"),
        ("reward_rate", "mean reward before the end", "per step"),
        ("bright_share", "small bright pixels: brighter than 99.5 % of the training split's pixels", "of pixels"),
        ("bright_frames", "share of frames with any of them", "of frames"),
        ("motion", "mean absolute change from frame to frame", "levels of 255"),
        ("steps_survived", "mean number of steps before the end, within the horizon", "steps"),
    )
)
