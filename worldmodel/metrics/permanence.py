"""Permanence: whether the small objects of a clip are still in its dream, at their true positions.

Shapes: B clips, W frames of context, n horizons, L frames a clip.
"""

from __future__ import annotations

from collections import defaultdict
from functools import partial

import numpy as np
from torch import Tensor

from worldmodel.metrics.clip_dreams import paired_dreams
from worldmodel.metrics.environment_rules import DetectedObject
from worldmodel.metrics.evaluation_run import EvaluationRun
from worldmodel.metrics.metric import Metric, MetricValue
from worldmodel.metrics.object_tracks import follow_objects, nearby, pixel_scale, positions_of
from worldmodel.metrics.prediction import horizons
from worldmodel.metrics.statistics import ratio

DREAM, ALL = "dream", "all"
MOVED = "moved"  # objects whose position in reality is no longer within 6 pixels of where the context ended

# measure -> candidate -> kind -> numerators and denominators (B, n, 2)
Counts = dict[str, dict[str, dict[str, np.ndarray]]]


def counts(run: EvaluationRun) -> Counts:
    """Objects found and counted in every candidate's frames, clip by clip and horizon by horizon."""
    find = run.rules.objects
    assert find is not None
    clips, window, ahead = run.clips, run.world.prior.window, horizons(run)
    scale = pixel_scale(*clips.frames.shape[2:4])
    dreamed = run.cached(paired_dreams).recorded.frames

    def detect(frames: Tensor) -> list[list[DetectedObject]]:
        return [find(frame) for frame in frames.numpy()]

    shape = (len(clips.frames), len(ahead), 2)
    result: Counts = {m: defaultdict(lambda: defaultdict(lambda: np.zeros(shape))) for m in ("recall", "precision")}
    at = [k - 1 for k in ahead]
    real = [detect(frames) for frames in clips.frames[:, window - 1 :]]
    for rows, clip in run.chunks("permanence"):
        decoded = run.world.tokenizer.decode_at(clip.codes, [window + t for t in at]).cpu()
        for row, frames in zip(range(rows.start, rows.stop), decoded, strict=True):
            candidates = {
                DREAM: detect(dreamed[row, at]),
                "repeat last": [real[row][0]] * len(ahead),
                "another clip": [real[int(clips.other[row])][k] for k in ahead],
                "reconstruction": detect(frames),
            }
            for name, objects in candidates.items():
                _count(result, name, row, real[row], objects, ahead, scale)
    return result


def _count(
    result: Counts,
    name: str,
    row: int,
    real: list[list[DetectedObject]],
    candidate: list[list[DetectedObject]],
    ahead: list[int],
    scale: float,
) -> None:
    """Add one clip of one candidate.

    Args:
        result: the counts to add to.
        name: the candidate.
        row: the clip.
        real: objects of the last frame of the context and of the frames after it.
        candidate: objects of its frames, one for each of `ahead`.
        ahead: the horizons.
        scale: pixels per pixel of a 64 x 64 frame.
    """
    recall, precision = result["recall"][name], result["precision"][name]
    for track in follow_objects(real, scale):
        for i, k in enumerate(ahead):
            place = track.positions[k : k + 1]
            if not np.isnan(place).any():
                found = nearby(place, positions_of(candidate[i], track.kind), scale).sum()
                rests = nearby(place, track.positions[:1], scale).all()
                for kind in (track.kind, ALL) if rests else (track.kind, ALL, MOVED):
                    recall[kind][row, i] += found, 1
    for i, k in enumerate(ahead):
        for kind in {kind for kind, *_ in candidate[i]}:
            places = positions_of(candidate[i], kind)
            found = nearby(places, positions_of(real[k], kind), scale).sum()
            for name_of_kind in (kind, ALL):
                precision[name_of_kind][row, i] += found, len(places)


def by_kind(run: EvaluationRun, measure: str) -> list[MetricValue]:
    """A measure of all objects, of each kind and of those that moved, at each horizon, compared with baselines.

    Resampled by episode.

    Empty where the environment declares no rule for objects.
    """
    if run.rules.objects is None:
        return []
    table, seed, episodes = run.cached(counts)[measure], run.settings.seed, run.clips.episodes
    kinds = sorted({kind for kinds in table.values() for kind in kinds} - {ALL, MOVED})
    values = []
    for kind in [*([ALL] if len(kinds) != 1 else []), *kinds, MOVED]:
        for i, k in enumerate(horizons(run)):
            found = {
                name: ratio(kinds_of[kind][:, i, 0], kinds_of[kind][:, i, 1], seed, episodes)
                for name, kinds_of in table.items()
                if kind in kinds_of and kinds_of[kind][:, i, 1].any()
            }
            if DREAM in found:
                values.append(MetricValue(f"{kind}, {k} ahead", found.pop(DREAM), found))
    return values


SECTION = "permanence"
ROWS = (
    Metric(
        "permanence",
        SECTION,
        "of the small objects visible in the last frame of the context and still visible in reality, the share that "
        "the dream shows within 6 pixels (of 64) of the true position",
        "share",
        "higher",
        partial(by_kind, measure="recall"),
    ),
    Metric(
        "permanence_precision",
        SECTION,
        "share of the dream's small objects that are within 6 pixels (of 64) of a real one of their kind",
        "share",
        "higher",
        partial(by_kind, measure="precision"),
    ),
)
