"""Battle and battle2: configuration and actions of two shooting scenarios that ViZDoom does not ship.

Their maps are assets of `worldmodel.common.assets`, from Sample Factory (Petrenko et al., ICML 2020); they were
introduced as D3 and D4 by Dosovitskiy and Koltun, "Learning to Act by Predicting the Future" (ICLR 2017). In an arena
(battle) or a maze (battle2), imps appear at random places, and a new one for each that is killed. Medikits and clips
of ammunition lie on the floor. The configuration below is this package's own: skill 2 and the buttons are as
published, there is no time-out of the engine, and no reward but the map's.
"""

from __future__ import annotations

import hashlib
from pathlib import Path
from typing import Any

import numpy as np

from worldmodel.common.errors import UserError
from worldmodel.common.spaces import MultiDiscrete

MAP_ASSETS = {"battle": "doom-battle-map", "battle2": "doom-battle2-map"}

TURNS = tuple(range(-10, 11, 2))  # degrees a tic by choice of the component "turn"; positive turns right
NO_TURN = TURNS.index(0)

ACTION_SPACE = MultiDiscrete((3, 3, 2, 2, len(TURNS)))  # 21 one-hot inputs
# move: none, forward, backward. strafe: none, right, left. attack and sprint: none, pressed. turn: see TURNS.
ACTION_LABELS = ("move", "strafe", "attack", "sprint", "turn")

# Keys are those of ViZDoom's config files. The player cannot turn in the first 7 tics after it is placed, so the
# episode starts later: all actions have their full effect.
CONFIG: dict[str, Any] = {
    "doom_map": "map01",
    "doom_skill": 2,
    "mode": "PLAYER",
    "episode_start_time": 14,
    "living_reward": 0,
    "death_penalty": 0,
    "render_crosshair": False,
    "render_weapon": True,
    "render_decals": False,
    "render_particles": False,
    "available_buttons": [
        "MOVE_FORWARD",
        "MOVE_BACKWARD",
        "MOVE_RIGHT",
        "MOVE_LEFT",
        "ATTACK",
        "SPEED",
        "TURN_LEFT_RIGHT_DELTA",
    ],
    "available_game_variables": ["HEALTH", "AMMO2", "KILLCOUNT"],
}


def engine_action(action: np.ndarray) -> dict[str, np.ndarray]:
    """An action as ViZDoom's wrapper takes it.

    Args:
        action: (5,) of `ACTION_SPACE`.

    Returns:
        "binary" (6,) int8, the buttons of `CONFIG` without the turn; "continuous" (1,) float32, degrees a tic.
    """
    move, strafe, attack, sprint, turn = (int(choice) for choice in action)
    pressed = [move == 1, move == 2, strafe == 1, strafe == 2, attack == 1, sprint == 1]
    return {"binary": np.array(pressed, np.int8), "continuous": np.array([TURNS[turn]], np.float32)}


def map_path(scenario: str, map_file: str | None) -> Path | None:
    """The map of battle or battle2; None for other scenarios, whose maps ViZDoom ships.

    Args:
        scenario: stem of the scenario.
        map_file: a copy of the map; None takes the asset, which is fetched if it is not in the cache.

    Raises:
        UserError: the asset cannot be fetched; the file is missing or is another map; a file for another scenario.
    """
    if scenario not in MAP_ASSETS:
        if map_file is not None:
            raise UserError(f"map_file={map_file!r}: only {' and '.join(MAP_ASSETS)} take a map, not {scenario!r}.")
        return None
    from worldmodel.common import assets  # loads urllib, which rows of the registry do not need

    name = MAP_ASSETS[scenario]
    if map_file is None:
        return assets.find_asset(name)
    path = Path(map_file).expanduser().absolute()
    if not path.is_file():
        raise UserError(f"map_file={map_file!r}: there is no such file; leave it out to use the asset {name!r}.")
    found = hashlib.sha256(path.read_bytes()).hexdigest()
    if found != assets.ASSETS[name].sha256:
        raise UserError(
            f"map_file={map_file!r} is not the map of {scenario!r}: it has sha256 {found}, wanted "
            f"{assets.ASSETS[name].sha256}; leave it out to use the asset {name!r}."
        )
    return path
