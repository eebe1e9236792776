"""Whether the recorded actions can be read off the dreams that were given them, by an inverse dynamics model.

Shapes: B clips, n steps ahead, A components of an action, E episodes, C classes of a component.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass

import numpy as np
import torch
from torch import Tensor

from worldmodel.metrics.clip_dreams import paired_dreams
from worldmodel.metrics.evaluation_run import EvaluationRun
from worldmodel.metrics.inverse_dynamics import InverseDynamics, train_inverse_dynamics
from worldmodel.metrics.metric import Metric, MetricValue
from worldmodel.metrics.statistics import Estimate, bootstrap_units

GOAL = 0.9  # score on dreams as a share of that on reconstructions
CONTEXT = 2  # frames before the first dreamed one that a window needs
RECONSTRUCTION = "reconstruction"

Statistic = Callable[[np.ndarray], np.ndarray]  # weights of the episodes, (n, E) -> (n,); NaN where undefined


@dataclass(frozen=True)
class Recognised:
    """Actions and what the inverse dynamics model reads off frames, of the steps whose frames are valid and dreamed.

    Attributes:
        truth: (S, A) the recorded actions.
        previous: (S, A) the recorded actions one step earlier.
        found: source of the frames -> (S, A) predicted actions.
        episode: (S,) int64, number of the episode, from 0 without gaps.
    """

    truth: np.ndarray
    previous: np.ndarray
    found: dict[str, np.ndarray]
    episode: np.ndarray

    @property
    def num_episodes(self) -> int:
        """E."""
        return int(self.episode.max()) + 1

    def select(self, steps: np.ndarray) -> Recognised:
        """Some of the steps, (S,) bool."""
        found = {name: values[steps] for name, values in self.found.items()}
        _, episode = np.unique(self.episode[steps], return_inverse=True)
        return Recognised(self.truth[steps], self.previous[steps], found, episode)


def context_frames(run: EvaluationRun, clips: slice) -> Tensor:
    """Reconstructions of the last two frames of the contexts, (b, 2, H, W, 3) uint8."""
    window = run.world.prior.window
    at = [max(0, window - CONTEXT + i) for i in range(CONTEXT)]
    return run.world.tokenizer.decode_at(run.clips.codes.codes[clips], at).cpu()


def recognise(run: EvaluationRun) -> Recognised:
    """Apply the model to real frames, reconstructions and dreams of all clips."""
    model, window = run.cached(train_inverse_dynamics), run.world.prior.window
    encoded, clips, dreams = run.world.tokenizer.encoded_part, run.clips, run.cached(paired_dreams).recorded
    found: dict[str, list[np.ndarray]] = {"dream": [], "real frames": [], RECONSTRUCTION: []}
    at = [max(0, window - CONTEXT + i) for i in range(run.settings.ahead + CONTEXT)]
    for rows, clip in run.chunks("recognition of actions"):
        context = context_frames(run, rows)
        decoded = run.world.tokenizer.decode_at(clip.codes, slice(window, None)).cpu()
        sources = (torch.cat([context, dreams.frames[rows]], 1), clips.frames[rows][:, at])
        for values, frames in zip(found.values(), (*sources, torch.cat([context, decoded], 1)), strict=True):
            values.append(model.choices(model.outputs(encoded(frames))))
    actions = clips.codes.actions.cpu().numpy()
    actions = actions.reshape(*actions.shape[:2], -1)[:, window - 1 :]  # (B, n, A)
    previous = clips.codes.actions.cpu().numpy().reshape(len(actions), -1, actions.shape[2])
    previous = np.concatenate([actions[:, :1], actions[:, :-1]], 1) if window < 2 else previous[:, window - 2 : -1]
    steps = ~dreams.ended.numpy()
    episodes = np.repeat(clips.episodes[:, None], steps.shape[1], 1)
    _, episode = np.unique(episodes[steps], return_inverse=True)
    return Recognised(
        actions[steps],
        previous[steps],
        {name: np.concatenate(values)[steps] for name, values in found.items()},
        episode,
    )


def inverse_dynamics(run: EvaluationRun) -> list[MetricValue]:
    """Score on dreams, by component and over all, compared with real frames, reconstructions and chance.

    Discrete components: macro F1 over the classes that occur. Box components: R^2. The first value is the goal: the
    score on dreams as a share of that on reconstructions. "identifiable steps" are those whose action the model reads
    correctly off the real frames: at the others, e.g. a step against a wall, the pixels do not show the action. At
    "changes of action" the action differs from the one before, so that a model gains nothing by assuming that actions
    are repeated, as they are under a sticky policy.
    """
    if not np.prod(run.data.header.action_space.shape):
        return []
    model, steps, seed = run.cached(train_inverse_dynamics), run.cached(recognise), run.settings.seed
    if not len(steps.truth):
        return []
    values = _values("all steps", model, steps, seed)
    if model.classes:
        right = (steps.found["real frames"] == steps.truth).all(1)
        change = (steps.previous != steps.truth).any(1)
        for label, chosen in (("identifiable steps", right), ("changes of action", change)):
            if chosen.any():
                values += _values(label, model, steps.select(chosen), seed)
    if model.num_components > 1:
        for i, name in enumerate(component_names(run)):
            values.append(_score(f"all steps, {name}", _scorer(model, steps, [i]), steps, seed))
    return values


def component_names(run: EvaluationRun) -> list[str]:
    """A name for each component of an action, by its label where the data has one for each."""
    space, labels = run.data.header.action_space, run.data.header.action_labels
    count = int(np.prod(space.shape))
    if len(labels) == count and all(isinstance(label, str) for label in labels):
        return [str(label) for label in labels]
    return [f"component {i}" for i in range(count)]


def _values(label: str, model: InverseDynamics, steps: Recognised, seed: int) -> list[MetricValue]:
    """The share of the score on reconstructions that dreams reach, and the score."""
    scorer = _scorer(model, steps, list(range(model.num_components)))
    dream, upper = scorer(steps.found["dream"]), scorer(steps.found[RECONSTRUCTION])

    def share_of_upper(weights: np.ndarray) -> np.ndarray:
        bound = upper(weights)  # NaN where nothing can be read off reconstructions
        return dream(weights) / np.where(bound > 0, bound, np.nan)

    share = bootstrap_units(share_of_upper, steps.num_episodes, seed)
    verdict = "" if np.isnan(share.mean) else "reaches the goal" if share.mean >= GOAL else "below the goal"
    return [
        MetricValue(f"{label}, dream / reconstruction", share, {"goal": Estimate(GOAL)}, verdict),
        _score(label, scorer, steps, seed),
    ]


def _score(label: str, scorer: Callable[[np.ndarray], Statistic], steps: Recognised, seed: int) -> MetricValue:
    found = {name: bootstrap_units(scorer(values), steps.num_episodes, seed) for name, values in steps.found.items()}
    found["previous action"] = bootstrap_units(scorer(steps.previous), steps.num_episodes, seed)
    found["chance"] = Estimate(chance_f1(steps.truth) if steps.truth.dtype.kind == "i" else 0.0)
    return MetricValue(label, found.pop("dream"), found)


def _scorer(model: InverseDynamics, steps: Recognised, components: list[int]) -> Callable[[np.ndarray], Statistic]:
    """From predicted actions (S, A) to their mean score over components, as a function of the episodes' weights."""

    def score(found: np.ndarray) -> Statistic:
        kind = f1_statistic if model.classes else r2_statistic
        parts = [kind(steps.truth[:, i], found[:, i], steps.episode) for i in components]
        return lambda weights: np.mean([part(weights) for part in parts], axis=0)

    return score


def f1_statistic(truth: np.ndarray, found: np.ndarray, episode: np.ndarray) -> Statistic:
    """Macro F1, over the classes that occur in the (weighted) truth, of (S,) int64 classes."""
    count = int(max(truth.max(), found.max())) + 1
    cells = (episode * count + truth) * count + found
    confusion = np.bincount(cells, minlength=(int(episode.max()) + 1) * count**2).reshape(-1, count * count)

    def statistic(weights: np.ndarray) -> np.ndarray:
        table = (weights @ confusion).reshape(-1, count, count)  # (n, true, found)
        true, predicted = table.sum(2), table.sum(1)
        f1 = 2 * np.diagonal(table, axis1=1, axis2=2) / np.maximum(true + predicted, 1e-12)
        occurs = true > 0
        return (f1 * occurs).sum(1) / np.where(occurs.any(1), occurs.sum(1), np.nan)

    return statistic


def r2_statistic(truth: np.ndarray, found: np.ndarray, episode: np.ndarray) -> Statistic:
    """R^2 = 1 - squared error / variance of the truth, of (S,) numbers; 0 where the truth is constant."""
    truth, found = truth.astype(np.float64), found.astype(np.float64)
    sums = np.stack([np.bincount(episode, x) for x in (np.ones(len(truth)), truth, truth**2, (found - truth) ** 2)])

    def statistic(weights: np.ndarray) -> np.ndarray:
        n, total, squares, error = sums @ weights.T  # (n,) each
        variance = squares - total**2 / np.where(n > 0, n, np.nan)
        varies = variance > 1e-12 * np.maximum(squares, 1.0)
        r2 = 1 - error / np.where(varies, variance, 1.0)
        return np.where(np.isnan(variance), np.nan, np.where(varies, r2, 0.0))

    return statistic


def chance_f1(truth: np.ndarray) -> float:
    """Expected macro F1 of uniform guesses among the classes that occur, mean over components of (S, A) classes."""
    scores = []
    for column in truth.T:
        share = np.unique(column, return_counts=True)[1] / len(column)
        guess = 1 / len(share)
        scores.append(np.mean(2 * share * guess / (share + guess)))
    return float(np.mean(scores))


SECTION = "obedience"
ROWS = (
    Metric(
        "inverse_dynamics",
        SECTION,
        "recorded actions read off dreams by a model trained on real frames: macro F1 of discrete actions, R^2 of "
        "continuous ones",
        "of 1",
        "higher",
        inverse_dynamics,
        default=False,
    ),
)
