"""Ends, hits and rewards as the prior expects them, against what was recorded, step by step.

Shapes: S steps judged, B clips, L frames a clip, W frames of memory.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from functools import partial

import numpy as np

from worldmodel.metrics.metric import Figure, Metric
from worldmodel.metrics.statistics import (
    AveragePrecision,
    CalibrationError,
    Estimate,
    bootstrap,
    ratio,
)
from worldmodel.metrics.world_trial import CHUNK, WorldTrial
from worldmodel.prior.code_clip import CodeClip

MOST_STEPS = 6_000  # judged; whole episodes of the split, drawn by the seed
ORACLE = "by true status"


@dataclass(frozen=True)
class Events:
    """Predicted probabilities of a yes or no, all (S,).

    Attributes:
        probability: the world's.
        truth: bool, whether it happened.
        episode: int64 in [0, N), whose step it is.
        oracle: the training split's rate in the status bin that the step really began with.
        base: the training split's rate.
        table: whether there is a status to look up.
    """

    probability: np.ndarray
    truth: np.ndarray
    episode: np.ndarray
    oracle: np.ndarray
    base: float
    table: bool


@dataclass(frozen=True)
class Judged:
    """Every step judged: `hits` is None in a world that learns no status."""

    ends: Events
    hits: Events | None
    rewards: np.ndarray
    true_rewards: np.ndarray
    mean_reward: float
    episode: np.ndarray


def tiles(lengths: np.ndarray, length: int, overlap: int) -> dict[int, np.ndarray]:
    """Cut episodes into clips so that each step is judged once, with `overlap` frames before it where there are.

    Args:
        lengths: frames of each episode.
        length: frames of a clip, more than the overlap; shorter episodes are one clip of their own length.
        overlap: frames at a clip's beginning that are only looked at.

    Returns:
        Frames of a clip -> (n, 3) int64: episode, first frame, first frame of the clip that is judged.
    """
    cut: dict[int, list[tuple[int, int, int]]] = {}
    for episode, frames in enumerate(lengths.tolist()):
        if frames <= length:
            cut.setdefault(frames, []).append((episode, 0, 1))
            continue
        done = 1
        while done < frames:
            start = min(max(0, done - overlap), frames - length)
            cut.setdefault(length, []).append((episode, start, done - start))
            done = start + length
    return {frames: np.asarray(rows, np.int64) for frames, rows in cut.items()}


def judge(trial: WorldTrial) -> Judged:
    """Ask the prior about whole episodes of the split, always given what was recorded."""
    data, window = trial.data, trial.world.prior.window
    order = np.random.default_rng(trial.settings.seed).permutation(data.episodes_of(trial.settings.split))
    order = order[: max(1, int(np.searchsorted(np.cumsum(data.lengths[order]), MOST_STEPS, "right")))]
    columns: dict[str, list[np.ndarray]] = {}
    done, total = 0, int(data.lengths[order].sum())
    for length, rows in sorted(tiles(data.lengths[order] + 1, trial.length, window).items()):
        for i in range(0, len(rows), CHUNK):
            episode, start, first = rows[i : i + CHUNK].T
            _, clip = trial.code_clip(order[episode], start, length)
            wanted = np.arange(1, length) >= first[:, None]  # (B, L-1)
            for name, values in _columns(trial, clip).items():
                columns.setdefault(name, []).append(values[wanted])
            columns.setdefault("episode", []).append(np.broadcast_to(episode[:, None], wanted.shape)[wanted])
            done += int(wanted.sum())
            trial.progress("outcomes", done, total, {})
    found = {name: np.concatenate(values) for name, values in columns.items()}
    rates = _train_rates(trial)
    has_status = bool(trial.world.prior.status_config.variable)

    def events(name: str, mask: str) -> Events:
        kept, (base, table) = found[mask], rates[name]
        _, unit = np.unique(found["episode"][kept], return_inverse=True)
        return Events(
            found[f"{name}_probability"][kept],
            found[name][kept],
            unit,
            table[found["status"][kept]],
            base,
            has_status,
        )

    return Judged(
        events("ended", "has_end"),
        events("hit", "goes_on") if has_status else None,
        found["predicted_reward"],
        found["reward"],
        rates["reward"][0],
        found["episode"],
    )


def _columns(trial: WorldTrial, clip: CodeClip) -> dict[str, np.ndarray]:
    """What is known and expected of each step of a batch of clips, all (B, L-1)."""
    expected = trial.world.prior.predict_outcomes(clip)
    status, valid, cut = (x.cpu().numpy() for x in (clip.status, clip.frame_valid, clip.truncations))
    probs = expected.status_probs.double().cpu().numpy()
    lower = np.arange(probs.shape[-1]) < status[:, :-1, None]
    return {
        "ended_probability": expected.hazards.double().cpu().numpy(),
        "ended": clip.terminations.cpu().numpy() & ~cut,
        "has_end": ~cut,
        "hit_probability": (probs * lower).sum(-1),
        "hit": status[:, 1:] < status[:, :-1],
        "goes_on": valid[:, 1:] & valid[:, :-1],
        "status": status[:, :-1],
        "predicted_reward": expected.rewards.double().cpu().numpy(),
        "reward": clip.rewards.double().cpu().numpy(),
    }


def _train_rates(trial: WorldTrial) -> dict[str, tuple[float, np.ndarray]]:
    """Of the training split: rate over all steps and in each status bin (the first where a bin is empty)."""
    data = trial.data
    number = np.repeat(np.arange(data.num_episodes), data.lengths)  # (S,), the episode of each step
    chosen = np.isin(number, data.episodes_of("train"))
    frame = (np.arange(data.num_steps) + number)[chosen]  # each episode has one frame more than steps
    status, after = trial.status_of(frame), trial.status_of(frame + 1)
    valid = data.flat("frame_valid")[frame] & data.flat("frame_valid")[frame + 1]
    cut = data.flat("truncations")[chosen]
    happened = {
        "ended": (data.flat("terminations")[chosen] & ~cut, ~cut),
        "hit": (after < status, valid),
        "reward": (data.flat("rewards")[chosen], np.ones(len(frame), bool)),
    }
    bins = max(1, trial.world.prior.status_config.num_bins)
    rates = {}
    for name, (what, mask) in happened.items():
        base = float(what[mask].mean(dtype=np.float64)) if mask.any() else 0.0
        count = np.bincount(status[mask], minlength=bins)
        total = np.bincount(status[mask], what[mask].astype(np.float64), minlength=bins)
        rates[name] = base, np.where(count > 0, total / np.maximum(count, 1), base)
    return rates


def _events(trial: WorldTrial, which: str) -> Events | None:
    judged = trial.once(judge)
    events = judged.ends if which == "end" else judged.hits
    return events if events is not None and len(events.truth) else None


def precision(trial: WorldTrial, which: str) -> list[Figure]:
    """Average precision; knowing nothing reaches the base rate."""
    return _figures(trial, which, AveragePrecision, chance=True)


def calibration(trial: WorldTrial, which: str) -> list[Figure]:
    """Expected calibration error; the resampled ones, and so the interval, lean upward."""
    return _figures(trial, which, CalibrationError, chance=False)


def _figures(
    trial: WorldTrial,
    which: str,
    statistic: Callable[[np.ndarray, np.ndarray], Callable[[np.ndarray], float]],
    chance: bool,
) -> list[Figure]:
    events, seed = _events(trial, which), trial.settings.seed
    if events is None:
        return []

    def of(scores: np.ndarray) -> Estimate:
        return bootstrap(statistic(scores, events.truth), events.episode, seed)

    rivals = {"chance" if chance else "base rate": of(np.full(len(events.truth), events.base))}
    if events.table:
        rivals[ORACLE] = of(events.oracle)
    return [Figure("", of(events.probability), rivals)]


def mean_probability(trial: WorldTrial, which: str) -> list[Figure]:
    """Mean predicted probability beside how often it happened."""
    events, seed = _events(trial, which), trial.settings.seed
    if events is None:
        return []
    steps = np.bincount(events.episode)
    mean, real = (
        ratio(np.bincount(events.episode, x), steps, seed) for x in (events.probability, events.truth.astype(float))
    )
    return [Figure("", mean, {"real": real, "training split": Estimate(events.base)})]


def reward_error(trial: WorldTrial) -> list[Figure]:
    """Root of the mean squared error, beside that of always predicting the training split's mean."""
    judged = trial.once(judge)

    def of(predicted: np.ndarray | float) -> Estimate:
        squares = (predicted - judged.true_rewards) ** 2
        steps = np.bincount(judged.episode)
        mse = ratio(np.bincount(judged.episode, squares), steps, trial.settings.seed)
        return Estimate(**{name: None if x is None else float(np.sqrt(x)) for name, x in vars(mse).items()})  # type: ignore[arg-type]

    return [Figure("", of(judged.rewards), {"the mean": of(judged.mean_reward)})]


SECTION = "outcomes"
ROWS = (
    *(
        Metric(f"{which}_{name}", SECTION, f"{what}: {says}", unit, better, partial(function, which=which))
        for which, what in (("end", "the step ends the episode"), ("hit", "the hidden status falls"))
        for name, says, unit, better, function in (
            ("precision", "average precision", "of 1", "higher", precision),
            ("calibration", "calibration error, 10 bins of equal mass", "probability", "lower", calibration),
            ("mean", "mean probability", "probability", "real", mean_probability),
        )
    ),
    Metric("reward_error", SECTION, "root mean squared error of the expected reward", "reward", "lower", reward_error),
)
