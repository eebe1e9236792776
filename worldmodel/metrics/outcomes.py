"""Terminations, hits and rewards as the prior predicts them, compared with what was recorded, step by step.

Shapes: S steps evaluated, B clips, L frames a clip, W frames of context.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from functools import partial

import numpy as np

from worldmodel.metrics.evaluation_run import CHUNK, EvaluationRun
from worldmodel.metrics.metric import Metric, MetricValue
from worldmodel.metrics.statistics import (
    AveragePrecision,
    CalibrationError,
    Estimate,
    bootstrap,
    ratio,
)
from worldmodel.prior.code_clip import CodeClip

MAX_STEPS = 6_000  # evaluated; whole episodes of the split, shuffled by the seed
ORACLE = "by true status"


@dataclass(frozen=True)
class EventPredictions:
    """Predicted probabilities of a binary event, all (S,).

    Attributes:
        probability: prediction of the world.
        truth: bool, whether the event happened.
        episode: int64 in [0, N), the episode of each step.
        oracle: rate of the training split in the status bin that the step really began in.
        base_rate: rate of the training split.
        has_status: whether the world learns a status, so that there is an oracle.
    """

    probability: np.ndarray
    truth: np.ndarray
    episode: np.ndarray
    oracle: np.ndarray
    base_rate: float
    has_status: bool


@dataclass(frozen=True)
class StepOutcomes:
    """Predictions of every step evaluated; `hits` is None in a world without a status."""

    ends: EventPredictions
    hits: EventPredictions | None
    rewards: np.ndarray
    true_rewards: np.ndarray
    mean_reward: float
    episode: np.ndarray


def cover_episodes(lengths: np.ndarray, length: int, overlap: int) -> dict[int, np.ndarray]:
    """Cut episodes into clips so that each step is evaluated once, after `overlap` frames of history if possible.

    Args:
        lengths: frames of each episode.
        length: frames of a clip, more than the overlap; shorter episodes are one clip of their own length.
        overlap: frames at the beginning of a clip that are only read.

    Returns:
        Frames of a clip -> (n, 3) int64: episode, first frame, first frame of the clip that is evaluated.
    """
    clips: dict[int, list[tuple[int, int, int]]] = {}
    for episode, frames in enumerate(lengths.tolist()):
        if frames <= length:
            clips.setdefault(frames, []).append((episode, 0, 1))
            continue
        done = 1
        while done < frames:
            start = min(max(0, done - overlap), frames - length)
            clips.setdefault(length, []).append((episode, start, done - start))
            done = start + length
    return {frames: np.asarray(rows, np.int64) for frames, rows in clips.items()}


def evaluate_outcomes(run: EvaluationRun) -> StepOutcomes:
    """Predictions of the prior for whole episodes of the split, always conditioned on what was recorded."""
    columns = _predicted_columns(run)
    rates = _train_rates(run)
    has_status = bool(run.world.prior.status_config.variable)

    def events(name: str, mask: str) -> EventPredictions:
        selected, (base_rate, by_status) = columns[mask], rates[name]
        _, unit = np.unique(columns["episode"][selected], return_inverse=True)
        return EventPredictions(
            columns[f"{name}_probability"][selected],
            columns[name][selected],
            unit,
            by_status[columns["status"][selected]],
            base_rate,
            has_status,
        )

    return StepOutcomes(
        events("ended", "has_end"),
        events("hit", "goes_on") if has_status else None,
        columns["predicted_reward"],
        columns["reward"],
        rates["reward"][0],
        columns["episode"],
    )


def _predicted_columns(run: EvaluationRun) -> dict[str, np.ndarray]:
    """`_columns` of whole episodes of the split, with the "episode" of each step, all (S,)."""
    data, window = run.data, run.world.prior.window
    order = np.random.default_rng(run.settings.seed).permutation(data.episodes_of(run.settings.split))
    order = order[: max(1, int(np.searchsorted(np.cumsum(data.lengths[order]), MAX_STEPS, "right")))]
    columns: dict[str, list[np.ndarray]] = {}
    done, total = 0, int(data.lengths[order].sum())
    for length, rows in sorted(cover_episodes(data.lengths[order] + 1, run.length, window).items()):
        for i in range(0, len(rows), CHUNK):
            episode, start, first = rows[i : i + CHUNK].T
            _, clip = run.code_clip(order[episode], start, length)
            wanted = np.arange(1, length) >= first[:, None]  # (B, L-1)
            for name, values in _columns(run, clip).items():
                columns.setdefault(name, []).append(values[wanted])
            columns.setdefault("episode", []).append(np.broadcast_to(episode[:, None], wanted.shape)[wanted])
            done += int(wanted.sum())
            run.progress("outcomes", done, total, {})
    return {name: np.concatenate(values) for name, values in columns.items()}


def _columns(run: EvaluationRun, clip: CodeClip) -> dict[str, np.ndarray]:
    """Predictions and truth of each step of a batch of clips, all (B, L-1)."""
    predicted = run.world.prior.predict_outcomes(clip)
    status, valid, truncated = (x.cpu().numpy() for x in (clip.status, clip.frame_valid, clip.truncations))
    probs = predicted.status_probs.double().cpu().numpy()
    lower = np.arange(probs.shape[-1]) < status[:, :-1, None]
    return {
        "ended_probability": predicted.hazards.double().cpu().numpy(),
        "ended": clip.terminations.cpu().numpy() & ~truncated,
        "has_end": ~truncated,
        "hit_probability": (probs * lower).sum(-1),
        "hit": status[:, 1:] < status[:, :-1],
        "goes_on": valid[:, 1:] & valid[:, :-1],
        "status": status[:, :-1],
        "predicted_reward": predicted.rewards.double().cpu().numpy(),
        "reward": clip.rewards.double().cpu().numpy(),
    }


def _train_rates(run: EvaluationRun) -> dict[str, tuple[float, np.ndarray]]:
    """Rates of the training split: over all steps, and by status bin (the first where a bin is empty)."""
    data = run.data
    number = np.repeat(np.arange(data.num_episodes), data.lengths)  # (S,), the episode of each step
    selected = np.isin(number, data.episodes_of("train"))
    frame = (np.arange(data.num_steps) + number)[selected]  # each episode has one frame more than steps
    status, after = run.status_of_frames(frame), run.status_of_frames(frame + 1)
    valid = data.flat("frame_valid")[frame] & data.flat("frame_valid")[frame + 1]
    truncated = data.flat("truncations")[selected]
    events = {
        "ended": (data.flat("terminations")[selected] & ~truncated, ~truncated),
        "hit": (after < status, valid),
        "reward": (data.flat("rewards")[selected], np.ones(len(frame), bool)),
    }
    bins = max(1, run.world.prior.status_config.num_bins)
    rates = {}
    for name, (values, mask) in events.items():
        base_rate = float(values[mask].mean(dtype=np.float64)) if mask.any() else 0.0
        count = np.bincount(status[mask], minlength=bins)
        total = np.bincount(status[mask], values[mask].astype(np.float64), minlength=bins)
        rates[name] = base_rate, np.where(count > 0, total / np.maximum(count, 1), base_rate)
    return rates


def _events(run: EvaluationRun, event: str) -> EventPredictions | None:
    predictions = run.cached(evaluate_outcomes)
    events = predictions.ends if event == "end" else predictions.hits
    return events if events is not None and len(events.truth) else None


def precision(run: EvaluationRun, event: str) -> list[MetricValue]:
    """Average precision; a constant prediction reaches the base rate."""
    return _score(run, event, AveragePrecision, baseline="chance")


def calibration(run: EvaluationRun, event: str) -> list[MetricValue]:
    """Expected calibration error; its interval is biased upward (see `calibration_error`)."""
    return _score(run, event, CalibrationError, baseline="base rate")


def _score(
    run: EvaluationRun,
    event: str,
    statistic: Callable[[np.ndarray, np.ndarray], Callable[[np.ndarray], float]],
    baseline: str,
) -> list[MetricValue]:
    """A statistic of the predictions, of the base rate (called `baseline`) and of the oracle."""
    events, seed = _events(run, event), run.settings.seed
    if events is None:
        return []

    def estimate(scores: np.ndarray) -> Estimate:
        return bootstrap(statistic(scores, events.truth), events.episode, seed)

    baselines = {baseline: estimate(np.full(len(events.truth), events.base_rate))}
    if events.has_status:
        baselines[ORACLE] = estimate(events.oracle)
    return [MetricValue("", estimate(events.probability), baselines)]


def mean_probability(run: EvaluationRun, event: str) -> list[MetricValue]:
    """Mean predicted probability, compared with how often the event happened."""
    events, seed = _events(run, event), run.settings.seed
    if events is None:
        return []
    steps = np.bincount(events.episode)
    mean, real = (
        ratio(np.bincount(events.episode, x), steps, seed) for x in (events.probability, events.truth.astype(float))
    )
    return [MetricValue("", mean, {"real": real, "training split": Estimate(events.base_rate)})]


def reward_error(run: EvaluationRun) -> list[MetricValue]:
    """Root mean squared error, compared with that of predicting the training split's mean."""
    outcomes = run.cached(evaluate_outcomes)

    def error(predicted: np.ndarray | float) -> Estimate:
        squares = (predicted - outcomes.true_rewards) ** 2
        steps = np.bincount(outcomes.episode)
        mse = ratio(np.bincount(outcomes.episode, squares), steps, run.settings.seed)
        return Estimate(**{name: None if x is None else float(np.sqrt(x)) for name, x in vars(mse).items()})  # type: ignore[arg-type]

    return [MetricValue("", error(outcomes.rewards), {"mean reward": error(outcomes.mean_reward)})]


SECTION = "outcomes"
ROWS = (
    *(
        Metric(f"{event}_{name}", SECTION, f"{what}: {description}", unit, better, partial(function, event=event))
        for event, what in (("end", "the step terminates the episode"), ("hit", "the hidden status falls"))
        for name, description, unit, better, function in (
            ("precision", "average precision", "of 1", "higher", precision),
            ("calibration", "calibration error, 10 bins of equal mass", "probability", "lower", calibration),
            ("mean", "mean probability", "probability", "real", mean_probability),
        )
    ),
    Metric("reward_error", SECTION, "root mean squared error of the predicted reward", "reward", "lower", reward_error),
)
