"""Whether the rewards, ends and actions of a dataset are stored at the right step.

A classifier of the frames of step t (the frame after it, and its difference from the frame before it) is trained to
predict the event of step t, and likewise that of step t - 1 and of step t + 1. If a neighbour's event is predicted
better than the step's own, the recording is probably shifted by one step. The event of an action is one choice of a
component, or a component of a Box above its median. It is read off the change alone: a policy that reacts to frames
makes its next action predictable from the last frame.

Where motion has inertia, or actions are held for many steps, the frames show neighbouring actions equally well, and a
shift of actions cannot be found: the differences are then near 0.

Shapes: N steps, M events, S = 3 shifts, K views.
"""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np

from worldmodel.data import Dataset
from worldmodel.metrics.event_classifier import SHIFTS, VIEWS, event_logits, shrink, train_classifier
from worldmodel.metrics.inverse_dynamics import class_counts
from worldmodel.metrics.statistics import AveragePrecision, Estimate, estimate_from, resample_weights

MAX_TRAIN_STEPS, MAX_TEST_STEPS = 4000, 6000
MIN_EVENTS = 10  # in either split, at a shift; with fewer it is not tested
MAX_ACTION_EVENTS = 8
RESAMPLES = 1000
MARGIN = 0.05  # by which a neighbour's average precision must be better; its interval must be above 0 too


@dataclass(frozen=True)
class Shift:
    """How well the event of a neighbouring step is predicted.

    Attributes:
        event: "reward", "end", or "action" with a label.
        view: what the classifier sees.
        shift: -1 or 1: the event of step t + shift.
        precision: average precision for it.
        own: average precision for the event of step t.
        gain: the first minus the second.
    """

    event: str
    view: str
    shift: int
    precision: Estimate
    own: Estimate
    gain: Estimate

    @property
    def is_better(self) -> bool:
        """Whether the neighbour is predicted better: the interval of the gain is above 0, and the gain above MARGIN."""
        return self.gain.sign > 0 and self.gain.mean > MARGIN


@dataclass(frozen=True)
class Steps:
    """Steps of a split whose two frames are valid.

    Attributes:
        frames: (N, 2, H, W, 3) uint8, the frame before and after each step.
        labels: (N, M, S) bool, the events of the steps at each shift.
        known: (N, M, S) bool, the episode has a step there.
        episode: (N,) int64.
    """

    frames: np.ndarray
    labels: np.ndarray
    known: np.ndarray
    episode: np.ndarray


def reward_event(rewards: np.ndarray) -> tuple[np.ndarray, str]:
    """The event of a reward, (S,) bool, and its description.

    A reward other than the most common one; where no reward is common, a reward above the median.
    """
    values, counts = np.unique(rewards, return_counts=True)
    common = values[counts.argmax()]
    if counts.max() >= 0.5 * len(rewards):
        return rewards != common, f"reward is not {common:g}"
    median = np.median(rewards)
    return rewards > median, f"reward is above {median:g}"


def action_names(data: Dataset) -> list[str]:
    """The name of each component of an action."""
    labels, count = data.header.action_labels, int(np.prod(data.header.action_space.shape))
    of_components = labels if len(labels) == count and count > 1 else [""] * count
    return [label if isinstance(label, str) and label else f"component {i}" for i, label in enumerate(of_components)]


def action_events(data: Dataset) -> tuple[dict[str, np.ndarray], dict[str, str]]:
    """Events of the actions, (S,) bool each, by name, and their descriptions.

    Discrete: each choice. Other discrete spaces: for each component, the choice whose share of the steps is nearest to
    a half. Box: each component above its median. At most MAX_ACTION_EVENTS; those that do not vary are left out.
    """
    values, counts = data.flat("actions"), class_counts(data.header.action_space)
    columns, names = values.reshape(len(values), -1).T, action_names(data)
    events, notes = {}, {}
    if len(columns) == 1 and counts:
        labels = data.header.action_labels if len(data.header.action_labels) == counts[0] else range(counts[0])
        for choice, label in enumerate(labels):
            events[f"action {label}"], notes[f"action {label}"] = columns[0] == choice, f"the action is {label}"
    else:
        for i, (name, column) in enumerate(zip(names, columns, strict=True)):
            if counts:
                share = np.bincount(column, minlength=counts[i]) / len(column)
                choice = int(np.abs(share - 0.5).argmin())
                event, note = column == choice, f"the choice is {choice}"
            else:
                median = np.median(column)
                event, note = column > median, f"the component is above {median:.3g}"
            events[f"action {name}"], notes[f"action {name}"] = event, note
    varying = [name for name, event in events.items() if 0 < event.mean() < 1][:MAX_ACTION_EVENTS]
    return {name: events[name] for name in varying}, {name: notes[name] for name in varying}


def alignment(data: Dataset, seed: int, num_steps: int) -> tuple[list[Shift], dict[str, str]]:
    """Compare each event's own step with its neighbours.

    Args:
        data: the dataset; the classifiers learn from its training split and are tested on its test split.
        seed: seed of the choice of steps and of the training.
        num_steps: training steps of each of two classifiers: one of rewards and ends, one of actions.

    Returns:
        The comparisons, and for each event its description or why it was not tested.
    """
    rewards, description = reward_event(data.flat("rewards"))
    outcomes = {"reward": rewards, "end": data.flat("terminations").astype(bool)}
    notes = {"reward": description, "end": "the step terminates the episode"}
    actions, action_notes = action_events(data)
    shifts, notes = _align(data, outcomes, notes, seed, num_steps, enrich=True)
    if actions:
        action_shifts, action_notes = _align(data, actions, action_notes, seed, num_steps, enrich=False)
        shifts, notes = shifts + action_shifts, notes | action_notes
    return shifts, notes


def _align(
    data: Dataset, events: dict[str, np.ndarray], notes: dict[str, str], seed: int, num_steps: int, enrich: bool
) -> tuple[list[Shift], dict[str, str]]:
    """Train one classifier of some events, (all steps,) bool each, and compare their shifts on test episodes.

    `enrich`: the events are rare; half of the training steps have one.
    """
    notes = dict(notes)
    splits = [data.episodes_of(split) for split in ("train", "test")]
    if not all(len(episodes) for episodes in splits):
        return [], dict.fromkeys(events, f"not tested: {data.missing_splits}")
    stacked = np.stack(list(events.values()), 1)  # (all steps, M)
    train = _steps(data, splits[0], stacked, MAX_TRAIN_STEPS, (seed, 1), enrich)
    test = _steps(data, splits[1], stacked, MAX_TEST_STEPS, (seed, 0), False)
    counts = np.minimum(*((steps.labels & steps.known).sum(0) for steps in (train, test)))  # (M, S)
    for i, name in enumerate(events):
        if counts[i, SHIFTS.index(0)] < MIN_EVENTS:
            notes[name] = (
                f"not tested: {counts[i, SHIFTS.index(0)]} events ({notes[name]}) at steps with a valid frame after "
                f"them, wanted {MIN_EVENTS} in the training and in the test split"
            )
    tested = [name for name in events if not notes[name].startswith("not tested")]
    if not tested:
        return [], notes
    model = train_classifier(train.frames, train.labels, train.known, seed, num_steps)
    logits = event_logits(model, test.frames)
    shifts: list[Shift] = []
    for name in tested:
        number = list(events).index(name)
        enough = [shift for shift in SHIFTS if counts[number, SHIFTS.index(shift)] >= MIN_EVENTS]
        for k, view in enumerate(VIEWS):
            if view == "last change" or not name.startswith("action"):
                shifts += _compare(test, logits[:, k, number], number, name, view, enough, seed)
    return shifts, notes


def _compare(
    steps: Steps, logits: np.ndarray, number: int, event: str, view: str, shifts: list[int], seed: int
) -> list[Shift]:
    """Compare the average precision at the step itself with that at each neighbour, resampled by episode.

    Args:
        steps: the steps of the test split.
        logits: (N, S).
        number: index of the event.
        event, view: names.
        shifts: the shifts with enough events; 0 is one of them.
        seed: seed of the resampling.
    """
    _, episode = np.unique(steps.episode, return_inverse=True)
    count = int(episode.max()) + 1
    weights = np.concatenate([np.ones((1, count)), resample_weights(count, seed, RESAMPLES)])
    found = {}  # shift -> precision of the data, then of each resample
    for shift in shifts:
        s = SHIFTS.index(shift)
        rows = steps.known[:, number, s]
        precision = AveragePrecision(logits[rows, s], steps.labels[rows, number, s])
        found[shift] = np.asarray([precision(row[episode[rows]]) for row in weights])

    def estimate(values: np.ndarray) -> Estimate:
        return estimate_from(float(values[0]), values[1:][np.isfinite(values[1:])])

    own = found.pop(0)
    return [
        Shift(event, view, shift, estimate(values), estimate(own), estimate(values - own))
        for shift, values in found.items()
    ]


def _steps(
    data: Dataset, episodes: np.ndarray, events: np.ndarray, limit: int, seed: tuple[int, int], enrich: bool
) -> Steps:
    """Steps of random episodes, at most about `limit`.

    Args:
        data: the dataset.
        episodes: episodes of the split.
        events: (all steps, M) bool.
        limit: number of steps.
        seed: seed of the choice.
        enrich: choose half of the steps among those with an event at any shift, and the rest from all episodes; else
            every step of as many episodes as are needed.
    """
    rng = np.random.default_rng(seed)
    valid = data.flat("frame_valid")
    numbers, places = [], []  # episode and index of each step
    for number in rng.permutation(episodes):
        first, length = int(data.frame_offsets[number]), int(data.lengths[number])
        usable = np.flatnonzero(valid[first : first + length] & valid[first + 1 : first + length + 1])
        numbers.append(np.full(len(usable), number))
        places.append(usable)
        if not enrich and sum(map(len, places)) >= limit:
            break
    number, place = np.concatenate(numbers), np.concatenate(places)
    labels, known = _labels(data, events, number, place)
    if enrich and len(number) > limit:
        has_event = (labels & known).any((1, 2))
        some, rest = rng.permutation(np.flatnonzero(has_event))[: limit // 2], rng.permutation(len(number))
        chosen = np.unique(np.concatenate([some, rest[: limit - len(some)]]))
        number, place, labels, known = number[chosen], place[chosen], labels[chosen], known[chosen]
    frames = np.zeros((0, 2, *data.header.pixels.frame_shape), np.uint8)
    parts, order = [], np.argsort(number, kind="stable")
    number, place, labels, known = number[order], place[order], labels[order], known[order]
    for episode in np.unique(number):
        at = place[number == episode]
        recorded = shrink(data.frames(int(episode), int(at.min()), int(at.max()) + 2))
        at = at - at.min()
        parts.append(np.stack([recorded[at], recorded[at + 1]], 1))
    return Steps(np.concatenate(parts) if parts else frames, labels, known, number)


def _labels(data: Dataset, events: np.ndarray, number: np.ndarray, place: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """Events at each shift of steps given by episode and index, and whether there is a step: (N, M, S) bool each."""
    at = place[:, None] + np.asarray(SHIFTS)  # (N, S)
    known = (at >= 0) & (at < data.lengths[number][:, None])
    rows = data.step_offsets[number][:, None] + np.clip(at, 0, data.lengths[number][:, None] - 1)
    labels = np.moveaxis(events[rows], 2, 1) & known[:, None]  # (N, M, S)
    return labels, np.repeat(known[:, None], events.shape[1], 1)
