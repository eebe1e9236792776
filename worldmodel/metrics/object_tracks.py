"""Following small objects through recorded frames, and finding them in other frames.

An object is (kind, row, column), in pixels. Shapes: T frames, m objects of the first frame.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np

from worldmodel.metrics.environment_rules import DetectedObject

NEAR, LINK, SIZE = 6.0, 10.0, 64  # pixels in a frame of SIZE pixels: found; the same object one frame later
MAX_GAP = 2  # frames in which a rule may miss an object before it counts as gone


@dataclass(frozen=True)
class Track:
    """An object of the first frame, followed as long as it is visible.

    Attributes:
        kind: its kind.
        positions: (T, 2) float64, row and column; NaN in frames where it was not found.
    """

    kind: str
    positions: np.ndarray


def pixel_scale(height: int, width: int) -> float:
    """Pixels of a frame for one pixel of a frame of 64 x 64, by the shorter side."""
    return min(height, width) / SIZE


def follow_objects(frames: Sequence[Sequence[DetectedObject]], scale: float) -> list[Track]:
    """Follow the objects of the first frame through the frames after it.

    An object is linked to the nearest one of its kind in the next frame if each is the other's nearest and they are at
    most LINK pixels apart, where its position is extrapolated by its last motion. The only object of a kind in two
    frames is linked at any distance. An object that is not found in MAX_GAP + 1 frames is gone.

    Args:
        frames: the objects of T consecutive frames.
        scale: pixels per pixel of a 64 x 64 frame.
    """
    tracks: list[Track] = []
    for kind in sorted({kind for kind, *_ in frames[0]}):
        places = [positions_of(objects, kind) for objects in frames]
        tracks += [Track(kind, path) for path in _follow(places, LINK * scale)]
    return tracks


def positions_of(objects: Sequence[DetectedObject], kind: str) -> np.ndarray:
    """Rows and columns of the objects of a kind, (m, 2) float64."""
    return np.asarray([place for name, *place in objects if name == kind], np.float64).reshape(-1, 2)


def nearby(places: np.ndarray, objects: np.ndarray, scale: float) -> np.ndarray:
    """Whether one of the objects (k, 2) is within NEAR pixels of each place (m, 2): (m,) bool."""
    if not len(objects):
        return np.zeros(len(places), bool)
    return _distances(places, objects).min(1) <= NEAR * scale


def _follow(places: Sequence[np.ndarray], link: float) -> list[np.ndarray]:
    """Positions of the objects of the first frame over time, (T, 2) each."""
    count = len(places[0])
    paths = np.full((len(places), count, 2), np.nan)
    paths[0] = position = places[0]
    velocity, missed = np.zeros((count, 2)), np.zeros(count, int)
    for t, found in enumerate(places[1:], 1):
        alive = np.flatnonzero(missed <= MAX_GAP)
        for row, column in _links((position + velocity)[alive], found, link):
            track, step = alive[row], missed[alive[row]] + 1
            velocity[track] = (found[column] - position[track]) / step
            position[track], paths[t, track] = found[column], found[column]
            missed[track] = -1
        missed += 1
    return [paths[:, i] for i in range(count)]


def _links(expected: np.ndarray, found: np.ndarray, link: float) -> list[tuple[int, int]]:
    """Pairs of an expected position and a found one which are each other's nearest."""
    if not len(expected) or not len(found):
        return []
    distances = _distances(expected, found)
    rows, nearest = np.arange(len(expected)), distances.argmin(1)
    mutual = distances.argmin(0)[nearest] == rows
    alone = len(expected) == len(found) == 1
    near = (distances[rows, nearest] <= link) | alone
    return [(int(row), int(nearest[row])) for row in rows[mutual & near]]


def _distances(first: np.ndarray, second: np.ndarray) -> np.ndarray:
    return np.linalg.norm(first[:, None] - second[None], axis=-1)
