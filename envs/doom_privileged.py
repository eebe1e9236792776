"""Privileged state of a Doom environment: labels, depth and objects of the engine, in pixels of the frame."""

from __future__ import annotations

from typing import Any

import numpy as np

from worldmodel.common.pixels import PixelSpec, to_frame


def read_state(game: Any, state: Any, pixels: PixelSpec) -> dict[str, Any]:
    """The hidden state of the game at the current time step.

    Args:
        game: the running `vizdoom.DoomGame`, with labels, depth and objects enabled.
        state: its current `GameState`.
        pixels: size and crop of the frames.

    Returns:
        "labels": visible objects, a list of dictionaries with "name", "category", "id", "row", "column" (centre),
        "height", "width" in pixels of the frame, "position" and "velocity". A centre may be outside a cropped frame.
        "depth": (H, W) uint8, ViZDoom's depth buffer, larger is farther. "objects": all objects of the map, with
        "name", "category", "id", "position", "velocity" and "angle". "position" and "velocity" (x, y, z) in map units
        and map units a tic, and "angle" in degrees, counter-clockwise from the x axis, are the player's.
    """
    import vizdoom

    variable = vizdoom.GameVariable

    def triple(name: str) -> tuple[float, float, float]:
        x, y, z = (game.get_game_variable(variable.__members__[f"{name}_{axis}"]) for axis in "XYZ")
        return float(x), float(y), float(z)

    scale = pixels.size[0] / game.get_screen_height(), pixels.size[1] / game.get_screen_width()
    depth = np.repeat(state.depth_buffer[..., None], 3, axis=2)
    return {
        "labels": [_label(label, scale, pixels.origin) for label in state.labels],
        "depth": to_frame(depth, pixels)[..., 0],
        "objects": [_object(item) for item in state.objects],
        "position": triple("POSITION"),
        "velocity": triple("VELOCITY"),
        "angle": float(game.get_game_variable(variable.ANGLE)),
    }


def _label(label: Any, scale: tuple[float, float], origin: tuple[int, int]) -> dict[str, Any]:
    return {
        "name": label.object_name,
        "category": label.object_category,
        "id": label.object_id,
        "row": (label.y + label.height / 2) * scale[0] - origin[0],
        "column": (label.x + label.width / 2) * scale[1] - origin[1],
        "height": label.height * scale[0],
        "width": label.width * scale[1],
        "position": (label.object_position_x, label.object_position_y, label.object_position_z),
        "velocity": (label.object_velocity_x, label.object_velocity_y, label.object_velocity_z),
    }


def _object(item: Any) -> dict[str, Any]:
    return {
        "name": item.name,
        "category": item.category,
        "id": item.id,
        "position": (item.position_x, item.position_y, item.position_z),
        "velocity": (item.velocity_x, item.velocity_y, item.velocity_z),
        "angle": item.angle,
    }
