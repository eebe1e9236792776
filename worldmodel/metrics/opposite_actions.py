"""The sign test of opposite actions: from the same start, an action and its opposite must have opposite effects.

Shapes: B clips, k steps, A components of an action, O outputs of the inverse dynamics model.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
import torch
from torch import Tensor

from worldmodel.common import spaces
from worldmodel.common.errors import UserError, unknown_name
from worldmodel.common.mirroring import choice_names
from worldmodel.metrics.action_recognition import component_names, context_frames
from worldmodel.metrics.clip_dreams import dreams_with_actions
from worldmodel.metrics.evaluation_run import EvaluationRun
from worldmodel.metrics.inverse_dynamics import InverseDynamics, train_inverse_dynamics
from worldmodel.metrics.metric import Metric, MetricValue
from worldmodel.metrics.statistics import Estimate, ratio

STEPS = 4  # for which the action is held
MAX_CLIPS = 128
QUANTILE = 0.9  # of the recorded size of a Box component: the value that is held


@dataclass(frozen=True)
class Opposites:
    """Two opposite values of one component of an action.

    Attributes:
        label: e.g. "left / right".
        component: index of the component.
        values: the two values.
    """

    label: str
    component: int
    values: tuple[float, float]


def opposite_values(run: EvaluationRun) -> list[Opposites]:
    """The pairs that the environment declares; for a Box the signs of each component that takes both.

    A label is that of a choice, or LABEL=CHOICE of a MultiDiscrete component, as "turn=10". A MultiBinary button has
    two values, so two buttons are no pair.

    Raises:
        UserError: a pair LABEL=CHOICE names a component or a choice that the actions do not have, or two components.
    """
    header = run.data.header
    space, labels = header.action_space, header.action_labels
    if isinstance(space, spaces.Box):
        actions, found = np.asarray(header_actions(run)), []
        for i, name in enumerate(component_names(run)):
            size = float(np.quantile(np.abs(actions[:, i]), QUANTILE))
            if size > 0 and actions[:, i].min() <= -size and actions[:, i].max() >= size:
                found.append(Opposites(f"{name} -, {name} +", i, (-size, size)))
        return found
    if isinstance(space, spaces.Discrete):
        choices: tuple[tuple[str, ...], ...] = (tuple(map(str, labels)),)
    elif isinstance(space, spaces.MultiDiscrete):
        choices = tuple(choice_names(label, n) for label, n in zip(labels, space.nvec, strict=False))
        check_component_pairs(run.rules.opposites, choices)
    else:
        return []
    return [
        Opposites(f"{a} / {b}", i, (names.index(a), names.index(b)))
        for a, b in run.rules.opposites
        for i, names in enumerate(choices)
        if a in names and b in names
    ]


def check_component_pairs(pairs: Sequence[tuple[str, str]], choices: Sequence[tuple[str, ...]]) -> None:
    """Refuse pairs of the form LABEL=CHOICE that are not two choices of one component.

    Args:
        pairs: as declared.
        choices: names of the choices of each component; empty for actions without labels, which fit every pair.

    Raises:
        UserError: names an unknown choice, or two components.
    """
    known = [name for names in choices for name in names]
    for pair in pairs if known else ():
        if not any("=" in name for name in pair):
            continue
        for name in pair:
            if name not in known:
                raise unknown_name("opposite action", name, known)
        if not any(set(pair) <= set(names) for names in choices):
            raise UserError(f"opposite actions {pair[0]!r} and {pair[1]!r}: wanted two choices of one component.")


def header_actions(run: EvaluationRun) -> np.ndarray:
    """All recorded actions, (S, A)."""
    actions = run.data.flat("actions")
    return actions.reshape(len(actions), -1)


def opposite_actions(run: EvaluationRun) -> list[MetricValue]:
    """The share of starts at which the dreams of two opposite actions differ in the right direction.

    The score of frames is what the inverse dynamics model reads off them: the mean over steps of the log-odds of the
    two actions, or of the predicted component. A start is right if the second action's dream has the higher score. A
    tie counts as half. All other components of the actions are the recorded ones. The baseline "real frames" is the
    same share over pairs of recorded segments in which one of the actions was held; the model has its limits there.
    """
    pairs = opposite_values(run)
    if not pairs or run.settings.ahead < 1:
        return []
    model, window, count = (
        run.cached(train_inverse_dynamics),
        run.world.prior.window,
        min(MAX_CLIPS, len(run.clips.episodes)),
    )
    steps = min(STEPS, run.settings.ahead)
    recorded = run.clips.codes.actions[:count, window - 1 : window - 1 + steps]
    context = context_frames(run, slice(count))
    values = []
    for pair in pairs:
        scores = []
        for value in pair.values:
            dreams = dreams_with_actions(run, hold(recorded, pair.component, value), f"dreams, {pair.label}")
            frames = run.world.tokenizer.encoded_part(torch.cat([context, dreams.frames], 1))
            scores.append(score(model, model.outputs(frames), pair).mean(1))
        right = (scores[1] > scores[0]) + 0.5 * (scores[1] == scores[0])
        share = ratio(right, np.ones(count), run.settings.seed, run.clips.episodes[:count])
        baselines = {"real frames": real_share(run, model, pair, steps), "coin flip": Estimate(0.5)}
        values.append(MetricValue(f"{pair.label}, {steps} steps", share, baselines, verdict(share)))
    return values


def verdict(share: Estimate) -> str:
    """Whether the interval of a share is above or below one half; "" where it contains it or there is none."""
    if share.low is None or share.high is None:
        return ""
    return "right sign" if share.low > 0.5 else "wrong sign" if share.high < 0.5 else ""


def hold(actions: Tensor, component: int, value: float) -> Tensor:
    """Actions (B, k) or (B, k, A) with one component set to a value."""
    held = actions.clone()
    if held.ndim == 2:
        return held.fill_(value)
    held[..., component] = value
    return held


def score(model: InverseDynamics, outputs: Tensor, pair: Opposites) -> np.ndarray:
    """Evidence for the second value of a pair against the first, (..., O) -> (...)."""
    if not model.classes:
        return outputs[..., pair.component].numpy()
    first = sum(model.classes[: pair.component])
    a, b = (first + int(value) for value in pair.values)
    return (outputs[..., b] - outputs[..., a]).numpy()


def real_share(run: EvaluationRun, model: InverseDynamics, pair: Opposites, steps: int) -> Estimate:
    """The share of pairs of recorded segments, one of each action held for all steps, whose scores are in order.

    NaN where one of the actions was never held. There is no interval, since every segment is in many pairs.
    """
    actions = run.clips.codes.actions.cpu().numpy()
    column = actions.reshape(*actions.shape[:2], -1)[..., pair.component]  # (B, L-1)
    outputs = model.outputs(run.world.tokenizer.encoded_part(run.clips.frames))  # of the actions from the second on
    scores, column = score(model, outputs, pair), column[:, 1:]
    if steps > scores.shape[1]:
        return Estimate(float("nan"))
    means = np.lib.stride_tricks.sliding_window_view(scores, steps, 1).mean(-1)
    held = np.lib.stride_tricks.sliding_window_view(column, steps, 1)  # (B, m, k)
    if model.classes:
        first, second = ((held == value).all(-1) for value in pair.values)
    else:
        half = pair.values[1] / 2
        first, second = (held <= -half).all(-1), (held >= half).all(-1)
    low, high = means[first], means[second]
    if not len(low) or not len(high):
        return Estimate(float("nan"))
    return Estimate(float(np.mean((high[:, None] > low) + 0.5 * (high[:, None] == low))))


SECTION = "obedience"
ROWS = (
    Metric(
        "opposite_actions",
        SECTION,
        "from the same start, an action and its opposite are held: share of starts at which the inverse dynamics model "
        "separates the two dreams in the right direction",
        "share",
        "higher",
        opposite_actions,
        default=False,
    ),
)
