"""ViZDoom's scenarios as environments, with workarounds for known defects of ViZDoom.

- ViZDoom renders no picture in the terminal state: the last valid frame is repeated with `frame_valid` False.
- ViZDoom's own time-out ends an episode without a frame: it is disabled, and `max_steps` truncates instead.
- An engine process sometimes dies at start: it is launched again, a bounded number of times.
- ViZDoom writes files into the working directory, and engines outlive a killed Python process:
  see `doom_processes.py`.
"""

from __future__ import annotations

import time
from pathlib import Path
from typing import Any

import numpy as np

from worldmodel.common import spaces
from worldmodel.common.arguments import checked_integer, is_integer
from worldmodel.common.errors import UserError
from worldmodel.envs import doom_battle, doom_processes
from worldmodel.envs.doom_privileged import read_state
from worldmodel.envs.doom_rewards import RewardTracker, check_reward
from worldmodel.envs.doom_scenarios import DoomSettings, checked_kind, scenario_file
from worldmodel.envs.doom_scenarios import screen_resolution as screen_resolution  # moved there
from worldmodel.envs.pixel_env import EnvStep, PixelEnv, pixel_spec

MAX_LAUNCH_ATTEMPTS = 4  # about one launch in a hundred fails


class DoomEnv(PixelEnv):
    """One scenario of ViZDoom, or "battle" or "battle2" (`doom_battle`).

    An action is no button or a single button; with `max_buttons=0` it is a MultiBinary of all buttons. In battle and
    battle2 it is a MultiDiscrete of movement, sideways movement, attack, sprint and turn. Variables are those of the
    scenario's config file, and health.

    Args:
        scenario: a shipped scenario, "take_cover" or "take-cover", or "battle" or "battle2".
        size: (rows, columns) of the whole frame before the crop, or one number.
        crop: (top, bottom, left, right) of the part that is kept; frames need not be square.
        hud: draw the status bar with health and ammunition.
        frame_skip: tics per step.
        max_steps: truncate after this many steps; None plays until the game ends.
        skill: difficulty, 1 to 5; None is the scenario's own.
        max_buttons: maximum number of buttons pressed at once; 0 is any number, as MultiBinary.
        reward: "scenario", ViZDoom's own, summed over the skipped tics (35 tics are a second); "kills", +1 for each
            monster killed (battle, battle2); or "sample-factory" (battle, battle2, health gathering), which is shaped
            as in Sample Factory: see `doom_rewards`. Returns under different rewards must not be compared.
        map_file: a copy of the map of battle or battle2; None fetches it (`worldmodel assets`).
        render_mode: None or "rgb_array".

    Raises:
        UserError: an unknown scenario or reward, a Dict action space (deathmatch), several players, or a map that is
            missing or cannot be fetched.
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
        reward: str = "scenario",
        map_file: str | None = None,
        render_mode: str | None = None,
    ) -> None:
        stem = scenario_file(scenario)
        frame_skip, skill, max_buttons = _checked_arguments(hud, frame_skip, skill, max_buttons)
        check_reward(stem, reward)
        pixels = pixel_spec(size, crop)
        map_path = doom_battle.map_path(stem, map_file)
        if map_path is not None and max_buttons != 1:
            raise UserError(f"max_buttons={max_buttons}: the actions of {stem!r} press any buttons; leave it out.")
        self._settings = DoomSettings(stem, pixels.size, hud, frame_skip, skill, max_buttons, reward, map_path)
        self._rewards = RewardTracker(stem, reward)
        self._is_battle = map_path is not None
        inner = self._settings.make_engine()
        action_space, labels = self._action_space(scenario, inner)
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
                # left out if it is the default of the row, as in datasets older than the option
                **({} if reward == "scenario" and map_path is None else {"reward": reward}),
            },
            pixels=pixels,
            action_space=action_space,
            action_labels=labels,
            frame_skip=frame_skip,
            max_steps=max_steps,
            variables=self._variable_names,
            render_mode=render_mode,
        )
        self.metadata = {**self.metadata, "render_fps": 35 / frame_skip}
        self._inner: Any = None
        self._privileged = self._inner_is_privileged = False

    def _action_space(self, scenario: str, inner: Any) -> tuple[spaces.Space, tuple[str, ...]]:
        """The action space, and one label per choice or component."""
        if self._is_battle:
            return doom_battle.ACTION_SPACE, doom_battle.ACTION_LABELS
        checked_kind(scenario, inner)
        buttons = [_button_label(b.name) for b in inner.game.get_available_buttons()]
        combinations = getattr(inner, "button_map", None)
        labels = buttons if combinations is None else [_combination_label(buttons, c) for c in combinations]
        return spaces.from_gymnasium(inner.action_space), tuple(labels)

    def enable_privileged_state(self) -> None:
        """Enable the labels buffer, the depth buffer and the list of objects, from the next reset on."""
        self._privileged = True

    def privileged_state(self) -> dict[str, Any]:
        """Labels, depth and objects of the engine at the current time step: see `doom_privileged.read_state`.

        Raises:
            UserError: `enable_privileged_state` was not called before the reset, or no episode is running.
        """
        if not self._running or self._inner.state is None:
            raise UserError(f"privileged_state() of {self.meta.id} without an episode: call reset() first.")
        if not self._inner_is_privileged:
            raise UserError(
                f"{self.meta.id} has no privileged state in this episode: call enable_privileged_state() "
                "before reset()."
            )
        state = read_state(self._inner.game, self._inner.state, self.meta.pixels)
        return {**state, "variables": dict(self._variables)}

    def _reset(self) -> EnvStep:
        seed = int(self.np_random.integers(2**31))
        is_ready = self._inner is not None and self._inner_is_privileged == self._privileged
        if is_ready and self._inner.game.is_running():
            observation, _ = self._inner.reset(seed=seed)
        else:
            observation = self._launch(seed)
        self._rewards.reset(self._inner.game)
        return self._env_step(observation, 0.0, False)

    def _launch(self, seed: int) -> dict[str, np.ndarray]:
        """Launch an engine, again if it dies at start. Retries use the same seed, so the episode is the same."""
        self._stop()
        failure: Exception | None = None
        for attempt in range(MAX_LAUNCH_ATTEMPTS):
            time.sleep(0.2 * attempt)
            inner = self._settings.make_engine(self._privileged)
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
            self._inner, self._inner_is_privileged = inner, self._privileged
            return observations[0]
        raise UserError(
            f"the ViZDoom engine of {self.meta.id} died at start {MAX_LAUNCH_ATTEMPTS} times; last error: "
            f"{type(failure).__name__}: {failure}. Check that /dev/shm has 20 MB free for each engine."
        ) from failure

    def _step(self, action: np.ndarray) -> EnvStep:
        inner_action: Any = int(action) if action.ndim == 0 else action
        if self._is_battle:
            inner_action = doom_battle.engine_action(action)
        try:
            observation, engine_reward, terminated, _, _ = self._inner.step(inner_action)
            reward = self._rewards.step(self._inner.game, float(engine_reward), bool(terminated))
        except Exception as error:
            self._running = False
            self._stop()
            raise RuntimeError(
                f"the ViZDoom engine of {self.meta.id} ended during an episode "
                f"({type(error).__name__}: {error}); reset() starts a new one."
            ) from error
        return self._env_step(observation, reward, bool(terminated))

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


def _button_label(button: str) -> str:
    return button.lower().removeprefix("move_")


def _combination_label(buttons: list[str], pressed: np.ndarray) -> str:
    return "+".join(b for b, down in zip(buttons, pressed, strict=True) if down) or "noop"


def _registered_ids() -> set[str]:
    from worldmodel.envs.env_registry import rows

    return {row.id for row in rows()}
