"""The registry, and the contract that every registered environment fulfils."""

import json
import subprocess
import sys
from typing import Any

import gymnasium
import numpy as np
import pytest
from gymnasium.utils.env_checker import check_env
from mujoco_rendering import skip_without_mujoco

from worldmodel import envs
from worldmodel.common import spaces
from worldmodel.common.errors import UserError
from worldmodel.common.pixels import PixelSpec
from worldmodel.envs import EnvMeta, EnvRow, as_pixels
from worldmodel.envs.pixel_env import EnvStep, PixelEnv
from worldmodel.envs.wrapped_env import WrappedEnv

ROWS = [row for row in envs.rows() if row.id.startswith("worldmodel/")]


def episode(env: PixelEnv, seed: int, steps: int) -> list[Any]:
    """All results of a few steps with actions sampled from the seed."""
    frame, info = env.reset(seed=seed)
    results: list[Any] = [frame.tobytes(), info]
    rng = np.random.default_rng(seed)
    for _ in range(steps):
        frame, *rest = env.step(env.meta.action_space.sample(rng))
        results.append((frame.tobytes(), rest))
        if rest[1] or rest[2]:
            break
    return results


@pytest.mark.parametrize("row", ROWS, ids=lambda row: row.name)
def test_every_row_fulfils_the_contract(row: EnvRow) -> None:
    if row.requires == "mujoco":
        skip_without_mujoco()
    try:
        env = envs.make(row.name, max_steps=6)
    except UserError as error:
        if "could not be fetched" in str(error):
            pytest.skip(f"an asset of {row.name} cannot be fetched here")
        raise
    try:
        meta = env.meta
        assert meta.id == row.id
        assert meta.action_labels == row.action_labels
        assert set(row.keys) <= set(row.action_labels)
        assert row.reward.endswith(".")
        assert meta.max_steps == 6
        assert EnvMeta.from_json(json.loads(json.dumps(meta.to_json()))) == meta
        kind = spaces.from_gymnasium(env.action_space)
        assert kind == meta.action_space
        assert len(row.action_labels) == (kind.n if isinstance(kind, spaces.Discrete) else kind.shape[0])
        for action in row.policy.get("periodic", {}).get("actions", []):
            assert env.action_space.contains(np.asarray(action, kind.dtype))

        frame, info = env.reset(seed=5)
        assert env.observation_space.contains(frame)
        assert frame.shape == (64, 64, 3)
        assert info["frame_valid"] is True
        assert tuple(info["variables"]) == meta.variables
        assert all(type(x) is float for x in info["variables"].values())

        results = episode(env, 5, 10)
        assert len(results) == 2 + 6
        assert results[-1][1][1:3] == [False, True], "max_steps truncates, without termination"
        assert results[-1][1][3]["frame_valid"] is True
        with pytest.raises(UserError, match="call reset"):
            env.step(meta.action_space.sample(np.random.default_rng(0)))
        episode(env, 8, 3)  # not finished
        assert episode(env, 5, 10) == results, "an episode is a function of its seed and actions"
        assert episode(env, 6, 10) != results
        before = env.reset(seed=5)[0]
        copy = before.copy()
        env.step(meta.action_space.sample(np.random.default_rng(0)))
        np.testing.assert_array_equal(before, copy, err_msg="frames are new arrays")
        for bad in (99, -1, 1.5, [0, 0, 0], np.full(9, 7.0), "left"):
            with pytest.raises(UserError, match="action"):
                env.step(bad)
    finally:
        env.close()


@pytest.mark.parametrize("name", ["toy", "toy/continuous"])
def test_toy_passes_the_environment_checkers(name: str) -> None:
    from stable_baselines3.common.env_checker import check_env as check_sb3

    row = envs.lookup(name)
    check_env(gymnasium.make(row.id).unwrapped)
    check_sb3(gymnasium.make(row.id))
    check_sb3(envs.make(name, crop=(0, 32, 0, 64)))


def test_doom_passes_the_environment_checkers() -> None:
    from stable_baselines3.common.env_checker import check_env as check_sb3

    env = gymnasium.make("worldmodel/DoomTakeCover-v0")
    check_env(env.unwrapped, skip_render_check=True)
    check_sb3(env, skip_render_check=True)
    env.close()


def test_meta_makes_the_same_environment_again() -> None:
    first = envs.make("toy", size=(32, 48), crop=(0, 16, 8, 40), max_steps=9)
    again = envs.make(first.meta.id, **json.loads(json.dumps(first.meta.to_json()))["kwargs"])
    assert again.meta == first.meta
    assert episode(first, 1, 9) == episode(again, 1, 9)
    assert first.reset(seed=0)[0].shape == (16, 32, 3)


def test_import_loads_neither_torch_nor_vizdoom() -> None:
    code = (
        "import sys, worldmodel, gymnasium; gymnasium.spec('worldmodel/DoomTakeCover-v0');"
        "print([m for m in ('torch', 'vizdoom', 'mujoco', 'pygame', 'stable_baselines3') if m in sys.modules])"
    )
    assert subprocess.check_output([sys.executable, "-c", code], text=True).strip() == "[]"


def test_rows_can_be_read_without_gymnasium() -> None:
    code = (
        "import sys; sys.modules['gymnasium'] = None\n"
        "import worldmodel; from worldmodel import envs; print(envs.lookup('toy').id)"
    )
    assert subprocess.check_output([sys.executable, "-c", code], text=True).strip() == "worldmodel/Toy-v0"


class ScreenEnv(gymnasium.Env):  # type: ignore[type-arg]
    """A gymnasium environment that observes its screen and ends with the given flags."""

    observation_space = gymnasium.spaces.Box(0, 255, (20, 30, 3), np.uint8)
    action_space = gymnasium.spaces.MultiDiscrete([2, 3])

    def __init__(self, ends: tuple[bool, bool] = (False, False)) -> None:
        self.ends, self.steps = ends, 0

    def reset(self, *, seed: int | None = None, options: Any = None) -> tuple[np.ndarray, dict[str, Any]]:
        super().reset(seed=seed)
        self.steps = 0
        return self._screen(), {}

    def step(self, action: Any) -> tuple[np.ndarray, float, bool, bool, dict[str, Any]]:
        assert self.action_space.contains(action)
        self.steps += 1
        last = self.steps == 5
        return self._screen(), 1.0, last and self.ends[0], last and self.ends[1], {"own": self.steps}

    def _screen(self) -> np.ndarray:
        return self.np_random.integers(0, 256, (20, 30, 3), dtype=np.uint8)


def test_flags_of_a_wrapped_environment_stay_unchanged() -> None:
    for ends in ((True, False), (False, True), (True, True)):
        env = as_pixels(ScreenEnv(ends), size=(10, 15))
        results = episode(env, 0, 9)
        assert tuple(results[-1][1][1:3]) == ends
        assert results[-1][1][3] == {"own": 5, "frame_valid": True, "variables": {}}


def test_max_steps_sets_truncated_only_without_termination() -> None:
    env = as_pixels(ScreenEnv((True, False)), max_steps=5)
    assert episode(env, 0, 9)[-1][1][1:3] == [True, False]
    env = as_pixels(ScreenEnv(), max_steps=3)
    assert episode(env, 0, 9)[-1][1][1:3] == [False, True]


def test_frame_skip_repeats_actions_and_sums_rewards() -> None:
    env = as_pixels(ScreenEnv((True, False)), size=10, frame_skip=2)
    results = episode(env, 0, 9)
    assert [t[1][0] for t in results[2:]] == [2.0, 2.0, 1.0]
    assert env.meta.frame_skip == 2


def test_as_pixels_returns_a_pixel_env_itself() -> None:
    env = envs.make("toy")
    assert as_pixels(env) is env
    wrapped = gymnasium.make("worldmodel/Toy-v0")
    assert as_pixels(wrapped) is wrapped.unwrapped


def test_any_gymnasium_id_can_be_made() -> None:
    pytest.importorskip("pygame")
    env = envs.make("CartPole-v1", size=(40, 60), max_steps=4)
    assert isinstance(env, WrappedEnv)
    first = episode(env, 0, 9)
    assert len(first) == 2 + 4
    assert env.reset(seed=0)[0].shape == (40, 60, 3)
    assert env.reset(seed=0)[0].std() > 0
    assert episode(env, 0, 9) == first
    env.close()


def test_a_step_without_a_screen_repeats_the_last_valid_frame() -> None:
    class NoLastScreen(PixelEnv):
        def __init__(self) -> None:
            super().__init__(
                id="blind",
                kwargs={},
                pixels=PixelSpec((4, 4)),
                action_space=spaces.Discrete(2),
                action_labels=("a", "b"),
                frame_skip=1,
                max_steps=2,
                variables=("n",),
                render_mode="rgb_array",
            )

        def _reset(self) -> EnvStep:
            self.n = 0
            return self._env_step()

        def _step(self, action: np.ndarray) -> EnvStep:
            self.n += 1
            return EnvStep(None, 1.0, True) if self.n == 2 else self._env_step()

        def _env_step(self) -> EnvStep:
            return EnvStep(np.full((4, 4, 3), 50 + self.n, np.uint8), variables={"n": float(self.n)})

    env = NoLastScreen()
    env.reset()
    frame, *_ = env.step(0)
    last, _, terminated, truncated, info = env.step(0)  # max_steps is reached in the same step
    assert (terminated, truncated) == (True, False)
    assert info == {"frame_valid": False, "variables": {"n": 1.0}}
    np.testing.assert_array_equal(last, frame)
    assert last is not frame
    np.testing.assert_array_equal(env.render(), frame)


def test_unknown_names_are_refused_with_the_closest() -> None:
    for name, closest in (
        ("tooy", "toy"),
        ("CartPol-v1", "CartPole-v1"),
        ("doom/take-cove", "doom/take-cover"),
    ):
        with pytest.raises(UserError, match=f"Did you mean '{closest}'"):
            envs.make(name)
    with pytest.raises(UserError, match="Did you mean 'toy'"):
        envs.lookup("tooy")


def test_wrong_arguments_raise_a_sentence() -> None:
    cases: list[tuple[str, dict[str, Any], str]] = [
        ("doom/deathmatch", {}, "kind Dict"),
        ("nopackage:Thing-v0", {}, "pip install nopackage"),
        ("toy", {"sise": 3}, "unexpected keyword argument 'sise'"),
        ("toy", {"size": 0}, "two positive numbers"),
        ("toy", {"size": 64.5}, "whole numbers"),
        ("toy", {"crop": (0, 99, 0, 64)}, "is not inside"),
        ("toy", {"max_steps": 0}, "at least 1"),
        ("toy", {"render_mode": "human"}, "rgb_array"),
        ("doom/take-cover", {"skill": 9}, "skill=9"),
    ]
    for name, kwargs, sentence in cases:
        with pytest.raises(UserError, match=sentence):
            envs.make(name, **kwargs)
    env = envs.make("toy")
    with pytest.raises(UserError, match="call reset"):
        env.step(0)
    with pytest.raises(UserError, match="takes no options"):
        env.reset(options={"start": 3})


def test_a_missing_package_is_named_in_the_error(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(sys.modules, "ale_py", None)
    with pytest.raises(UserError, match="pip install ale-py"):
        envs.make("ALE/Breakout-v5")
    monkeypatch.setitem(sys.modules, "vizdoom", None)
    with pytest.raises(UserError, match="pip install vizdoom"):
        envs.make("doom/take-cover")
    with pytest.raises(UserError, match="pip install vizdoom"):
        envs.make("doom/rocket-basic")


def test_other_packages_can_add_rows(monkeypatch: pytest.MonkeyPatch) -> None:
    from worldmodel.envs import env_registry as registry

    monkeypatch.setattr(registry, "_ROWS", dict(registry._ROWS))
    row = EnvRow(id="Other-v0", name="other-env", entry_point=f"{__name__}:ScreenEnv", reward="1 a step.")
    envs.register(row)
    envs.register(row)  # an identical row is accepted
    try:
        assert envs.lookup("other-env") is row
        env = envs.make("other-env", size=8)
        assert env.meta.id == "Other-v0"
        assert env.reset(seed=0)[0].shape == (8, 8, 3)
        for other in (
            EnvRow(id="Other-v0", name="x", entry_point="a:B"),
            EnvRow(id="New-v0", name="toy", entry_point="a:B"),
        ):
            with pytest.raises(UserError, match="already names"):
                envs.register(other)
        with pytest.raises(UserError, match="entry_point"):
            envs.register(EnvRow(id="No-v0", name="no", entry_point="no_colon"))
    finally:
        gymnasium.registry.pop("Other-v0", None)


def test_vizdooms_own_ids_are_refused_with_a_replacement() -> None:
    with pytest.raises(UserError, match="doom/<scenario>"):
        envs.make("VizdoomTakeCover-v1")
