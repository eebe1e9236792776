"""ViZDoom's scenarios as environments, with workarounds for known defects of ViZDoom.

- ViZDoom renders no picture in the terminal state: the last valid frame is repeated with `frame_valid` False.
- ViZDoom's own time-out ends an episode without a frame: it is disabled, and `max_steps` truncates instead.
- An engine process sometimes dies at start: it is launched again, a bounded number of times.
- ViZDoom writes files into the working directory, and engines outlive a killed Python process:
  see `doom_processes.py`.
"""

from __future__ import annotations

import os
import time
from pathlib import Path
from typing import Any

import numpy as np

from worldmodel.common import spaces
from worldmodel.common.arguments import checked_integer, is_integer
from worldmodel.common.errors import UserError, unknown_name
from worldmodel.envs import doom_processes
from worldmodel.envs.pixel_env import EnvStep, PixelEnv, pixel_spec

MAX_LAUNCH_ATTEMPTS = 4  # about one launch in a hundred fails


def scenario_file(name: str) -> str:
    """The file name, without ".cfg", of a shipped scenario.

    Args:
        name: "take_cover", "take-cover" or "doom/take-cover".

    Raises:
        UserError: ViZDoom ships no such scenario; names the closest.
    """
    import vizdoom

    stem = name.removeprefix("doom/").replace("-", "_")
    known = [c.removesuffix(".cfg") for c in vizdoom.configs]
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


class DoomEnv(PixelEnv):
    """One scenario of ViZDoom.

    The reward is ViZDoom's own, summed over the skipped tics (35 tics are a second). An action is no button or a
    single button; with `max_buttons=0` it is a MultiBinary of all buttons. Variables are those of the
    scenario's config file, and health.

    Args:
        scenario: a shipped scenario, "take_cover" or "take-cover".
        size: (rows, columns) of the whole frame before the crop, or one number.
        crop: (top, bottom, left, right) of the part that is kept; frames need not be square.
        hud: draw the status bar with health and ammunition.
        frame_skip: tics per step.
        max_steps: truncate after this many steps; None plays until the game ends.
        skill: difficulty, 1 to 5; None is the scenario's own.
        max_buttons: maximum number of buttons pressed at once; 0 is any number, as MultiBinary.
        render_mode: None or "rgb_array".

    Raises:
        UserError: an unknown scenario, one with a Dict action space (deathmatch) or several players.
        ImportError: vizdoom is not installed.
    """

    process_manager = "worldmodel.envs.doom_processes"

    def __init__(
        self,
        scenario: str = "take_cover",
        *,
        size: int | tuple[int, int] = 64,
        crop: tuple[int, int, int, int] | None = None,
        hud: bool = False,
        frame_skip: int = 4,
        max_steps: int | None = 525,
        skill: int | None = None,
        max_buttons: int = 1,
        render_mode: str | None = None,
    ) -> None:
        self._game: Any = None
        stem = scenario_file(scenario)
        frame_skip, skill, max_buttons = _checked_arguments(hud, frame_skip, skill, max_buttons)
        pixels = pixel_spec(size, crop)
        self._make_inner = _ScenarioFactory(stem, pixels.size, hud, frame_skip, skill, max_buttons)
        inner = self._make_inner()
        kind = type(inner.action_space).__name__
        if kind == "Dict":
            raise UserError(
                f"scenario {scenario!r} has an action space of kind Dict (buttons and analogue axes "
                "together); wanted Discrete, MultiDiscrete, MultiBinary or Box. Choose another scenario."
            )
        if inner.game.get_mode().name.startswith("ASYNC"):
            raise UserError(f"scenario {scenario!r} is a multiplayer scenario in real time and cannot be stepped.")
        buttons = [_button_label(b.name) for b in inner.game.get_available_buttons()]
        combinations = getattr(inner, "button_map", None)
        labels = buttons if combinations is None else [_combination_label(buttons, c) for c in combinations]
        self._variable_names = tuple(v.name.lower() for v in inner.game.get_available_game_variables())
        row_id = "worldmodel/Doom" + "".join(w.capitalize() for w in stem.split("_")) + "-v0"
        super().__init__(
            id=row_id if row_id in _registered_ids() else "doom/" + stem.replace("_", "-"),
            kwargs={
                "scenario": stem,
                "size": list(pixels.size),
                "crop": None if pixels.crop is None else list(pixels.crop),
                "hud": hud,
                "frame_skip": frame_skip,
                "max_steps": max_steps,
                "skill": skill,
                "max_buttons": max_buttons,
            },
            pixels=pixels,
            action_space=spaces.from_gymnasium(inner.action_space),
            action_labels=tuple(labels),
            frame_skip=frame_skip,
            max_steps=max_steps,
            variables=self._variable_names,
            render_mode=render_mode,
        )
        self.metadata = {**self.metadata, "render_fps": 35 / frame_skip}
        self._inner: Any = None

    def _reset(self) -> EnvStep:
        seed = int(self.np_random.integers(2**31))
        if self._inner is not None and self._inner.game.is_running():
            observation, _ = self._inner.reset(seed=seed)
        else:
            observation = self._launch(seed)
        return self._env_step(observation, 0.0, False)

    def _launch(self, seed: int) -> dict[str, np.ndarray]:
        """Launch an engine, again if it dies at start. Retries use the same seed, so the episode is the same."""
        self._stop()
        failure: Exception | None = None
        for attempt in range(MAX_LAUNCH_ATTEMPTS):
            time.sleep(0.2 * attempt)
            inner = self._make_inner()
            observations: list[dict[str, np.ndarray]] = []

            def start(scratch: Path, inner: Any = inner, observations: list[Any] = observations) -> None:
                inner.game.set_doom_config_path(str(scratch / "_vizdoom.ini"))
                inner.reset(seed=seed)
                # the first episode of an engine draws another status bar (face, ammunition count) than all
                # later ones, so it is never used
                observations.append(inner.reset(seed=seed)[0])

            try:
                doom_processes.launch(inner.game, start)
            except Exception as error:  # ViZDoom's exception types differ between versions
                failure = error
                inner.game.close()
                continue
            self._inner = inner
            return observations[0]
        raise UserError(
            f"the ViZDoom engine of {self.meta.id} died at start {MAX_LAUNCH_ATTEMPTS} times; last error: "
            f"{type(failure).__name__}: {failure}. Check that /dev/shm has 20 MB free for each engine."
        ) from failure

    def _step(self, action: np.ndarray) -> EnvStep:
        inner_action: Any = int(action) if action.ndim == 0 else action
        try:
            observation, reward, terminated, _, _ = self._inner.step(inner_action)
        except Exception as error:
            self._running = False
            self._stop()
            raise RuntimeError(
                f"the ViZDoom engine of {self.meta.id} ended during an episode "
                f"({type(error).__name__}: {error}); reset() starts a new one."
            ) from error
        return self._env_step(observation, float(reward), bool(terminated))

    def _env_step(self, observation: dict[str, np.ndarray], reward: float, terminated: bool) -> EnvStep:
        # after termination ViZDoom has no state, and its wrapper returns zeros
        if self._inner.state is None:
            return EnvStep(None, reward, terminated)
        values = observation["gamevariables"]
        variables = {name: float(x) for name, x in zip(self._variable_names, values, strict=True)}
        return EnvStep(observation["screen"], reward, terminated, variables=variables)

    def _stop(self) -> None:
        inner, self._inner = getattr(self, "_inner", None), None
        if inner is not None:
            doom_processes.close(inner.game)

    def close(self) -> None:
        """Stop the engine; a later reset starts a new one."""
        self._running = False
        self._stop()


def _checked_arguments(hud: bool, frame_skip: int, skill: int | None, max_buttons: int) -> tuple[int, int | None, int]:
    """(frame_skip, skill, max_buttons) as Python integers; raises `UserError` for values out of range."""
    if not isinstance(hud, bool | np.bool_):
        raise UserError(f"hud={hud!r}: wanted True or False.")
    if skill is not None and not (is_integer(skill) and 1 <= skill <= 5):
        raise UserError(f"skill={skill!r}: wanted 1 (easiest) to 5, or None for the scenario's own.")
    skill = None if skill is None else int(skill)
    return checked_integer("frame_skip", frame_skip), skill, checked_integer("max_buttons", max_buttons, 0)


class _ScenarioFactory:
    """Makes ViZDoom's own environment of a scenario; its engine is not started."""

    def __init__(
        self,
        scenario: str,
        size: tuple[int, int],
        hud: bool,
        frame_skip: int,
        skill: int | None,
        max_buttons: int,
    ) -> None:
        import vizdoom

        resolutions = list(vizdoom.ScreenResolution.__members__)
        self._arguments: dict[str, Any] = {
            "scenario_config_file": scenario + ".cfg",
            "frame_skip": frame_skip,
            "max_buttons_pressed": max_buttons,
            "screen_resolution": screen_resolution(size, resolutions),
            "screen_format": "RGB24",
            "render_hud": hud,
            "episode_timeout": 0,
            "audio_buffer_enabled": False,
            "automap_buffer_enabled": False,
            "notifications_buffer_enabled": False,
        }
        if skill is not None:
            self._arguments["doom_skill"] = skill
        text = Path(vizdoom.scenarios_path, scenario + ".cfg").read_text()
        if "doom_game_path" not in text:
            self._arguments["doom_game_path"] = os.path.join(vizdoom.install_path, "freedoom2.wad")

    def __call__(self) -> Any:
        import vizdoom
        from vizdoom.gymnasium_wrapper.gymnasium_env_defns import VizdoomScenarioEnv

        inner = VizdoomScenarioEnv(**self._arguments)
        if vizdoom.GameVariable.HEALTH not in inner.game.get_available_game_variables():
            inner.game.add_available_game_variable(vizdoom.GameVariable.HEALTH)
            inner.num_game_variables = inner.game.get_available_game_variables_size()
        return inner


def _button_label(button: str) -> str:
    return button.lower().removeprefix("move_")


def _combination_label(buttons: list[str], pressed: np.ndarray) -> str:
    return "+".join(b for b, down in zip(buttons, pressed, strict=True) if down) or "noop"


def _registered_ids() -> set[str]:
    from worldmodel.envs.env_registry import rows

    return {row.id for row in rows()}
