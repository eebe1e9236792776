"""The configuration of ViZDoom for a scenario: of a shipped one by its file, of battle and battle2 by `doom_battle`."""

from __future__ import annotations

import os
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from worldmodel.common.errors import UserError, unknown_name
from worldmodel.envs import doom_battle
from worldmodel.envs.doom_rewards import engine_rewards


def scenario_file(name: str) -> str:
    """The stem of a scenario: its file name without ".cfg" if ViZDoom ships it, else "battle" or "battle2".

    Args:
        name: "take_cover", "take-cover" or "doom/take-cover".

    Raises:
        UserError: there is no such scenario; names the closest.
    """
    import vizdoom

    stem = name.removeprefix("doom/").replace("-", "_")
    known = [*(c.removesuffix(".cfg") for c in vizdoom.configs), *doom_battle.MAP_ASSETS]
    if stem not in known:
        raise unknown_name("scenario", name, ["doom/" + k.replace("_", "-") for k in known])
    return stem


def screen_resolution(size: tuple[int, int], resolutions: list[str]) -> str:
    """Choose the resolution that ViZDoom renders for a frame of this size.

    All candidates have the aspect ratio 4:3, since another ratio has another field of view, and at least 256 x 192
    pixels. Preferred is the smallest that is a whole multiple of the frame, by a factor of 2 or more in both
    directions: each pixel of the frame is then the mean of an exact box. If there is none, the smallest that is at
    least twice as fine, whose boxes overlap at the edges.

    Args:
        size: (rows, columns) of the whole frame before the crop.
        resolutions: ViZDoom's names, "RES_256X192" and so on.

    Returns:
        One of the names.
    """
    pairs = sorted((int(w), int(h)) for w, h in (name[4:].split("X") for name in resolutions))
    pairs = [(w, h) for w, h in pairs if 3 * w == 4 * h and w >= 256]
    fine = [(w, h) for w, h in pairs if h >= 2 * size[0] and w >= 2 * size[1]]
    exact = [(w, h) for w, h in fine if h % size[0] == 0 and w % size[1] == 0]
    width, height = (exact or fine or pairs[-1:])[0]
    return f"RES_{width}X{height}"


@dataclass(frozen=True)
class DoomSettings:
    """What configures the engine.

    Attributes:
        scenario: stem of the scenario.
        size: (rows, columns) of the whole frame before the crop.
        hud: draw the status bar.
        frame_skip: tics per step.
        skill: difficulty, 1 to 5; None is the scenario's own.
        max_buttons: maximum number of buttons pressed at once; 0 is any number. Battle and battle2 ignore it.
        reward: a name of `doom_rewards.REWARDS`.
        map_file: the map of battle and battle2; None for others.
    """

    scenario: str
    size: tuple[int, int]
    hud: bool
    frame_skip: int
    skill: int | None
    max_buttons: int
    reward: str
    map_file: Path | None

    def make_engine(self, privileged: bool = False) -> Any:
        """ViZDoom's own environment of the scenario; its engine process is not started.

        Args:
            privileged: enable the labels buffer, the depth buffer and the list of objects.

        Returns:
            A `VizdoomEnv` whose game has the variable HEALTH.
        """
        import vizdoom
        from vizdoom.gymnasium_wrapper.base_gymnasium_env import VizdoomEnv

        arguments = self._arguments()
        if privileged:
            arguments |= dict.fromkeys(("labels_buffer_enabled", "depth_buffer_enabled", "objects_info_enabled"), True)
        inner = VizdoomEnv(**arguments)
        if vizdoom.GameVariable.HEALTH not in inner.game.get_available_game_variables():
            inner.game.add_available_game_variable(vizdoom.GameVariable.HEALTH)
            inner.num_game_variables = inner.game.get_available_game_variables_size()
        return inner

    def _arguments(self) -> dict[str, Any]:
        """Keyword arguments of `VizdoomEnv`; those that it does not know override the scenario's config file."""
        import vizdoom

        resolutions = list(vizdoom.ScreenResolution.__members__)
        arguments: dict[str, Any] = {
            "frame_skip": self.frame_skip,
            "max_buttons_pressed": self.max_buttons,
            "screen_resolution": screen_resolution(self.size, resolutions),
            "screen_format": "RGB24",
            "render_hud": self.hud,
            "episode_timeout": 0,
            "audio_buffer_enabled": False,
            "automap_buffer_enabled": False,
            "notifications_buffer_enabled": False,
            **engine_rewards(self.scenario, self.reward),
        }
        freedoom = os.path.join(vizdoom.install_path, "freedoom2.wad")
        if self.map_file is not None:
            arguments |= doom_battle.CONFIG
            arguments |= {
                "max_buttons_pressed": 0,
                "doom_scenario_path": str(self.map_file),
                "doom_game_path": freedoom,
            }
        else:
            path = Path(vizdoom.scenarios_path, self.scenario + ".cfg")
            arguments["config_file"] = str(path)
            if "doom_game_path" not in path.read_text():
                arguments["doom_game_path"] = freedoom
        if self.skill is not None:
            arguments["doom_skill"] = self.skill
        return arguments


def checked_kind(scenario: str, inner: Any) -> None:
    """Refuse a scenario that cannot be stepped with actions of one array.

    Raises:
        UserError: a Dict action space, or several players.
    """
    if type(inner.action_space).__name__ == "Dict":
        raise UserError(
            f"scenario {scenario!r} has an action space of kind Dict (buttons and analogue axes "
            "together); wanted Discrete, MultiDiscrete, MultiBinary or Box. Choose another scenario."
        )
    if inner.game.get_mode().name.startswith("ASYNC"):
        raise UserError(f"scenario {scenario!r} is a multiplayer scenario in real time and cannot be stepped.")
