"""ViZDoom's scenarios as worlds of pixels, with its traps closed.

What is handled here: no picture after death (the last real frame is shown again, marked invalid), ViZDoom's
own time-out (moved away, so that truncation is ours and has its frame), engines that die at start (a bounded
number of retries), files written into the working directory, orphans of a killed process (`engines.py`).
"""

from __future__ import annotations

import os
import time
from pathlib import Path
from typing import Any

import numpy as np

from worldmodel.common import spaces
from worldmodel.common.errors import UserError, unknown_name
from worldmodel.envs import doom_processes as engines
from worldmodel.envs.pixel_env import EnvStep, PixelEnv, pixel_spec

ATTEMPTS = 4  # an engine dies at start about once in a hundred launches


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
    """Choose what to render for a frame of this size: exact boxes where the engine allows them.

    All choices are 4:3, since another shape would show another field of view. Of those that are whole
    multiples of the frame, at least twice finer each way, the smallest from 256x192 on is taken; if there
    is none, the smallest that is at least twice finer, whose boxes share the pixels on their edges.

    Args:
        size: (rows, columns) of the whole picture.
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

    The reward is ViZDoom's own, summed over the skipped tics (35 tics are a second). Actions are single
    buttons or none; with `max_buttons=0` they are a MultiBinary of all buttons. Variables are those that
    the scenario names, and health.

    Args:
        scenario: a shipped scenario, "take_cover" or "take-cover".
        size: rows and columns of the whole picture, or one number.
        crop: (top, bottom, left, right) of it that is kept; frames need not be square.
        hud: draw the status bar with health and ammunition.
        frame_skip: tics per step.
        max_steps: our truncation, in steps; None plays on until the game ends.
        skill: difficulty 1 to 5; None is the scenario's own.
        max_buttons: buttons pressed at once; 0 is any number, as MultiBinary.
        render_mode: None or "rgb_array".

    Raises:
        UserError: an unknown scenario, one whose actions are of two kinds (deathmatch), several players.
        ImportError: vizdoom is not installed.
    """

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
        if skill is not None and not 1 <= skill <= 5:
            raise UserError(f"skill={skill}: wanted 1 (easiest) to 5, or None for the scenario's own.")
        if max_buttons < 0:
            raise UserError(f"max_buttons={max_buttons}: wanted 0 (any number, as MultiBinary) or more.")
        pixels = pixel_spec(size, crop)
        self._build = _Builder(stem, pixels.size, hud, frame_skip, skill, max_buttons)
        inner = self._build()
        kind = type(inner.action_space).__name__
        if kind == "Dict":
            raise UserError(
                f"scenario {scenario!r} has an action space of kind Dict (buttons and analogue axes "
                "at once), wanted Discrete, MultiDiscrete, MultiBinary or Box: choose one of a single kind."
            )
        if inner.game.get_mode().name.startswith("ASYNC"):
            raise UserError(f"scenario {scenario!r} is for several players in real time and cannot be stepped.")
        buttons = [_label(b.name) for b in inner.game.get_available_buttons()]
        chords = getattr(inner, "button_map", None)
        labels = buttons if chords is None else [_chord(buttons, chord) for chord in chords]
        self._names = tuple(v.name.lower() for v in inner.game.get_available_game_variables())
        row_id = "worldmodel/Doom" + "".join(w.capitalize() for w in stem.split("_")) + "-v0"
        super().__init__(
            id=row_id if row_id in _row_ids() else "doom/" + stem.replace("_", "-"),
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
            variables=self._names,
            render_mode=render_mode,
        )
        self.metadata = {**self.metadata, "render_fps": 35 / frame_skip}
        self._inner: Any = None

    def _begin(self) -> EnvStep:
        seed = int(self.np_random.integers(2**31))
        if self._inner is not None and self._inner.game.is_running():
            observation, _ = self._inner.reset(seed=seed)
        else:
            observation = self._start(seed)
        return self._moment(observation, 0.0, False)

    def _start(self, seed: int) -> dict[str, np.ndarray]:
        """Launch an engine, again if it dies; the seed is drawn already, so the episode stays the same."""
        self._stop()
        failure: Exception | None = None
        for attempt in range(ATTEMPTS):
            time.sleep(0.2 * attempt)
            inner = self._build()
            first: list[dict[str, np.ndarray]] = []

            def start(scratch: Path, inner: Any = inner, first: list[Any] = first) -> None:
                inner.game.set_doom_config_path(str(scratch / "_vizdoom.ini"))
                inner.reset(seed=seed)
                # a fresh engine draws its status bar unlike a used one (face, first ammunition count); from
                # the second episode on, all are alike
                first.append(inner.reset(seed=seed)[0])

            try:
                engines.launch(inner.game, start)
            except Exception as error:  # ViZDoom's own kinds differ from version to version
                failure = error
                inner.game.close()
                continue
            self._inner = inner
            return first[0]
        raise UserError(
            f"the ViZDoom engine of {self.meta.id} died at start {ATTEMPTS} times; the last time it said: "
            f"{type(failure).__name__}: {failure}. Check that /dev/shm has 20 MB free for each engine."
        ) from failure

    def _advance(self, action: np.ndarray) -> EnvStep:
        chosen: Any = int(action) if action.ndim == 0 else action
        try:
            observation, reward, terminated, _, _ = self._inner.step(chosen)
        except Exception as error:
            self._running = False
            self._stop()
            raise RuntimeError(
                f"the ViZDoom engine of {self.meta.id} ended in mid-episode "
                f"({type(error).__name__}: {error}); reset() starts another."
            ) from error
        return self._moment(observation, float(reward), bool(terminated))

    def _moment(self, observation: dict[str, np.ndarray], reward: float, terminated: bool) -> EnvStep:
        # after the end ViZDoom has no state, and its wrapper hands out zeros in its place
        if self._inner.state is None:
            return EnvStep(None, reward, terminated)
        numbers = observation["gamevariables"]
        variables = {name: float(x) for name, x in zip(self._names, numbers, strict=True)}
        return EnvStep(observation["screen"], reward, terminated, variables=variables)

    def _stop(self) -> None:
        inner, self._inner = getattr(self, "_inner", None), None
        if inner is not None:
            engines.close(inner.game)

    def close(self) -> None:
        """End the engine; a later reset starts another."""
        self._running = False
        self._stop()


class _Builder:
    """Makes ViZDoom's own environment, not started, with our settings."""

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


def _label(button: str) -> str:
    return button.lower().removeprefix("move_")


def _chord(buttons: list[str], pressed: np.ndarray) -> str:
    return "+".join(b for b, down in zip(buttons, pressed, strict=True) if down) or "noop"


def _row_ids() -> set[str]:
    from worldmodel.envs.env_registry import rows

    return {row.id for row in rows()}
