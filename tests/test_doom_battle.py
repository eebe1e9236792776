"""Battle and battle2: actions, rewards and maps. And the reward options of other scenarios."""

from collections.abc import Iterator
from pathlib import Path
from typing import Any

import numpy as np
import pytest

pytest.importorskip("vizdoom")

from worldmodel import envs
from worldmodel.common import assets
from worldmodel.common.errors import UserError
from worldmodel.common.spaces import MultiDiscrete
from worldmodel.envs import doom_battle
from worldmodel.envs.doom_rewards import RewardTracker


def make_battle(name: str = "doom/battle", **kwargs: Any) -> Any:
    """The environment; the test is skipped if its map cannot be fetched."""
    try:
        return envs.make(name, **kwargs)
    except UserError as error:
        if "could not be fetched" in str(error):
            pytest.skip(f"the map of {name} cannot be fetched here")
        raise


@pytest.fixture(scope="module")
def battle() -> Iterator[Any]:
    env = make_battle("doom/battle", frame_skip=2)
    yield env
    env.close()


def variable(env: Any, name: str) -> float:
    import vizdoom

    return float(env._inner.game.get_game_variable(vizdoom.GameVariable.__members__[name]))


def degrees(angle: float) -> float:
    return (angle + 180) % 360 - 180


def test_actions_are_five_components_with_21_choices(battle: Any) -> None:
    assert battle.meta.action_space == MultiDiscrete((3, 3, 2, 2, 11))
    assert sum(battle.meta.action_space.nvec) == 21
    assert battle.meta.action_labels == ("move", "strafe", "attack", "sprint", "turn")
    assert battle.meta.kwargs["reward"] == "kills"
    assert battle.meta.variables == ("health", "ammo2", "killcount")


def test_each_turn_has_its_degrees_from_the_first_step_on(battle: Any) -> None:
    battle.reset(seed=0)
    for choice, turn in enumerate(doom_battle.TURNS):
        before = variable(battle, "ANGLE")
        battle.step([0, 0, 0, 0, choice])
        assert degrees(variable(battle, "ANGLE") - before) == pytest.approx(-turn * 2, abs=0.05)  # right is negative
    assert doom_battle.TURNS == (-10, -8, -6, -4, -2, 0, 2, 4, 6, 8, 10)


def test_moves_go_where_their_choice_says(battle: Any) -> None:
    def displacement(move: int, strafe: int, sprint: int) -> tuple[float, float]:
        """(forward, right) in map units after two steps."""
        battle.reset(seed=2)
        x, y, angle = (variable(battle, name) for name in ("POSITION_X", "POSITION_Y", "ANGLE"))
        for _ in range(2):
            battle.step([move, strafe, 0, sprint, doom_battle.NO_TURN])
        dx, dy = variable(battle, "POSITION_X") - x, variable(battle, "POSITION_Y") - y
        sin, cos = np.sin(np.radians(angle)), np.cos(np.radians(angle))
        return dx * cos + dy * sin, dx * sin - dy * cos

    assert displacement(0, 0, 0) == pytest.approx((0, 0), abs=0.01)
    assert displacement(1, 0, 0)[0] > 3 > -3 > displacement(2, 0, 0)[0]
    assert displacement(0, 1, 0)[1] > 3 > -3 > displacement(0, 2, 0)[1]
    assert displacement(1, 0, 1)[0] > 1.5 * displacement(1, 0, 0)[0]


def test_attack_costs_ammunition(battle: Any) -> None:
    _, info = battle.reset(seed=0)
    for _ in range(8):
        *_, after = battle.step([0, 0, 1, 0, doom_battle.NO_TURN])
    assert after["variables"]["ammo2"] < info["variables"]["ammo2"]


def test_reward_is_one_for_each_monster_killed() -> None:
    """Until death: the last step counts, and the map's own reward is the same."""
    env = make_battle(max_steps=None)
    rng = np.random.default_rng(0)
    env.reset(seed=0)
    rewards, map_rewards, terminated = [], [], False
    while not terminated:
        action = [int(rng.integers(3)), int(rng.integers(3)), 1, 0, int(rng.integers(11))]
        _, reward, terminated, _, _ = env.step(action)
        rewards.append(reward)
        map_rewards.append(env._inner.game.get_last_reward())
    assert sum(rewards) == variable(env, "KILLCOUNT") > 0
    assert rewards == map_rewards
    assert set(rewards) <= {0.0, 1.0, 2.0}
    env.close()


@pytest.mark.parametrize("reward", ["kills", "scenario", "sample-factory"])
def test_meta_makes_the_environment_with_the_same_reward_again(reward: str) -> None:
    env = make_battle("doom/battle2", reward=reward)
    again = envs.make(env.meta.id, **env.meta.kwargs)
    assert again.meta == env.meta
    assert again.meta.kwargs["reward"] == reward
    assert "reward" not in envs.make("doom/take-cover").meta.kwargs  # as in datasets older than the option


class Game:
    """The variables of a game."""

    def __init__(self, **variables: float) -> None:
        self.variables = {"HEALTH": 100.0, "KILLCOUNT": 0.0, "SELECTED_WEAPON": 2.0, "SELECTED_WEAPON_AMMO": 9.0}
        self.variables |= variables

    def get_game_variable(self, variable: Any) -> float:
        return self.variables[variable.name]


def test_sample_factory_shapes_health_and_a_ready_weapon() -> None:
    tracker, game = RewardTracker("battle2", "sample-factory"), Game()
    tracker.reset(game)
    assert tracker.step(game, 1.0, False) == 1.0  # the first step is not shaped
    game.variables["HEALTH"] = 90
    assert tracker.step(game, 1.0, False) == pytest.approx(1 - 10 * 0.003)
    game.variables["HEALTH"] = 100
    assert tracker.step(game, 0.0, False) == pytest.approx(10 * 0.005)
    assert tracker.step(game, 0.0, False) == 0.0
    assert tracker.step(game, 0.0, False) == pytest.approx(0.002)  # the fifth step with the same weapon
    game.variables["SELECTED_WEAPON_AMMO"] = 0
    assert tracker.step(game, 0.0, False) == 0.0
    game.variables["HEALTH"] = 0
    assert tracker.step(game, 1.0, True) == 1.0


def test_sample_factory_rewards_heals_in_health_gathering() -> None:
    tracker, game = RewardTracker("health_gathering_supreme", "sample-factory"), Game(HEALTH=50.0)
    tracker.reset(game)
    for health, reward in ((42.0, 0.04), (67.0, 1.04), (67.0, 0.04)):
        game.variables["HEALTH"] = health
        assert tracker.step(game, 0.04, False) == pytest.approx(reward)
    env = envs.make("doom/health-gathering-supreme", reward="sample-factory")
    env.reset(seed=0)
    assert env.step(0)[1] == pytest.approx(0.04)  # 0.01 a tic
    assert env.meta.kwargs["reward"] == "sample-factory"
    env.close()


def test_the_reward_option_is_refused_where_it_is_not_defined() -> None:
    with pytest.raises(UserError, match="doom/battle, doom/battle2, not for 'take_cover'"):
        envs.make("doom/take-cover", reward="kills")
    with pytest.raises(UserError, match="not for 'basic'"):
        envs.make("doom/basic", reward="sample-factory")
    with pytest.raises(UserError, match="Did you mean 'scenario'"):
        envs.make("doom/basic", reward="scenaro")


def test_a_foreign_map_is_refused(tmp_path: Path) -> None:
    with pytest.raises(UserError, match="there is no such file"):
        envs.make("doom/battle2", map_file=str(tmp_path / "none.wad"))
    foreign = tmp_path / "battle2.wad"
    foreign.write_bytes(b"PWAD")
    with pytest.raises(UserError, match="is not the map of 'battle2': it has sha256"):
        envs.make("doom/battle2", map_file=str(foreign))
    with pytest.raises(UserError, match="only battle and battle2 take a map"):
        envs.make("doom/basic", map_file=str(foreign))
    with pytest.raises(UserError, match="leave it out"):
        make_battle("doom/battle2", max_buttons=0)


def test_a_map_that_cannot_be_fetched_is_named(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path))
    monkeypatch.setattr(assets.subprocess, "run", no_pip)
    with pytest.raises(UserError, match=r"'doom-battle2-map' .* could not be fetched .* put the file at"):
        envs.make("doom/battle2")


def no_pip(*args: Any, **kwargs: Any) -> Any:
    """The result of pip without a network."""
    import subprocess

    return subprocess.CompletedProcess(args, 1, "", "ERROR: no connection")
