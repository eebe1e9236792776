"""Colour rules that find small objects in frames of Doom environments, for the metric of permanence.

A rule sees the frame alone, so it works on dreams as well. It takes frames of 64 x 64 pixels without status bar, or
crops of them. Objects that overlap are found as one, and objects under a pixel are missed.

Against the engine's labels buffer, on 200 frames that no threshold was chosen on, an object counts as found within 6
pixels of its centre; labels of less than one pixel are left out (`tests/test_doom_objects.py`):

| environment | kind | objects | precision | recall |
|---|---|---|---|---|
| doom/take-cover | fireball | 189 | 0.94 | 0.88 |
| doom/take-cover | monster | 786 | 1.00 | 0.96 |
| doom/health-gathering | medikit | 911 | 0.81 | 0.68 |
| doom/health-gathering-supreme | medikit | 385 | 0.83 | 0.79 |
| doom/battle | monster | 148 | 0.85 | 0.50 |
| doom/battle | medikit | 276 | 0.59 | 0.62 |
| doom/battle2 | monster | 69 | 0.38 | 0.39 |

The figures of battle2 are too low for conclusions about permanence.
"""

from __future__ import annotations

import numpy as np

Found = list[tuple[str, float, float]]  # (kind, row, column)

_WEAPON = (slice(33, None), slice(26, 39))  # rows and columns of the player's weapon and its muzzle flash
_HEADS = (20, 44)  # rows of the heads of monsters


def health_gathering_objects(frame: np.ndarray) -> Found:
    """Medikits in health gathering: light pixels with a green tint on the dark green floor or an olive wall.

    Args:
        frame: (H, W, 3) uint8.

    Returns:
        A list of ("medikit", row, column).
    """
    return _medikits(frame, least_blue=0.8)


def health_gathering_supreme_objects(frame: np.ndarray) -> Found:
    """Medikits in health gathering supreme, whose walls are grey."""
    return _medikits(frame, least_blue=0.6)


def _medikits(frame: np.ndarray, least_blue: float) -> Found:
    red, green, blue = _channels(frame)
    tinted = (blue >= 60) & (blue >= least_blue * green) & (green - (red + blue) / 2 >= 6)
    return _centres("medikit", tinted | (np.minimum(np.minimum(red, green), blue) >= 125))


def take_cover_objects(frame: np.ndarray) -> Found:
    """Fireballs and monsters in take-cover: bright yellow spots, and the red heads of the imps.

    Args:
        frame: (H, W, 3) uint8.

    Returns:
        A list of ("fireball" or "monster", row, column).
    """
    red, green, blue = _channels(frame)
    fireballs = (red >= 170) & (green >= 130) & (blue >= 60) & (red - blue >= 10)
    heads = (red - np.maximum(green, blue) >= 40) & (green < 70)
    monsters = [(kind, row + 2.0, column) for kind, row, column in _centres("monster", heads)]
    return [*_centres("fireball", fireballs), *monsters]


def battle_objects(frame: np.ndarray) -> Found:
    """Monsters and medikits in battle: the red heads of the imps, and green crosses."""
    red, green, blue = _channels(frame)
    crosses = (np.minimum(np.minimum(red, green), blue) >= 25) & (green - (red + blue) / 2 >= 14)
    return [*_imps(frame, least_red=2.5), *_centres("medikit", crosses)]


def battle2_objects(frame: np.ndarray) -> Found:
    """Monsters in battle2: the red heads of the imps. Its mossy walls have the colours of medikits."""
    return _imps(frame, least_red=3.0)


def _imps(frame: np.ndarray, least_red: float) -> Found:
    red, green, blue = _channels(frame)
    if _is_flash(red, green, blue):
        return []
    heads = (red >= 40) & (red >= least_red * np.maximum(green, blue))
    heads[_WEAPON] = False
    heads[: _HEADS[0]] = heads[_HEADS[1] :] = False
    found: Found = []
    for pixels in _components(heads):  # from the top
        (top, left), (_, right) = pixels.min(0), pixels.max(0)
        # a near imp is some four heads high, and its two horns are two spots
        row, column = top + 1 + 1.5 * (right - left + 1), (left + right) / 2
        if all(abs(column - other) > 6 for _, _, other in found):
            found.append(("monster", float(row), float(column)))
    return found


def _is_flash(red: np.ndarray, green: np.ndarray, blue: np.ndarray) -> bool:
    """Whether the screen is tinted red, as it is for some frames after a hit."""
    return bool(np.median(red) > 1.6 * max(np.median(green), np.median(blue), 12))


def _channels(frame: np.ndarray) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    """(H, W, 3) uint8 -> three of (H, W) int64."""
    red, green, blue = np.moveaxis(frame.astype(np.int64), -1, 0)
    return red, green, blue


def _centres(kind: str, mask: np.ndarray) -> Found:
    """The centre of the bounding box of each connected part of a mask (H, W)."""
    corners = [(pixels.min(0), pixels.max(0)) for pixels in _components(mask)]
    return [(kind, float(low[0] + high[0]) / 2, float(low[1] + high[1]) / 2) for low, high in corners]


def _components(mask: np.ndarray) -> list[np.ndarray]:
    """The (n, 2) rows and columns of each connected part of a mask (H, W); diagonal neighbours are connected."""
    left = {(int(row), int(column)) for row, column in np.argwhere(mask)}
    parts = []
    while left:
        stack, part = [left.pop()], []
        while stack:
            row, column = stack.pop()
            part.append((row, column))
            near = {(row + dy, column + dx) for dy in (-1, 0, 1) for dx in (-1, 0, 1)} & left
            left -= near
            stack.extend(near)
        parts.append(np.array(part))
    return sorted(parts, key=lambda part: (int(part[:, 0].min()), int(part[:, 1].min())))
