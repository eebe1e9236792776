"""Rewards of Doom environments: the scenario's own, monsters killed, and Sample Factory's shaped variants.

Returns under different rewards have different units and must not be compared.

Sample Factory's variants follow release 2.1.1, folder `sf_examples/vizdoom/doom`: `wrappers/reward_shaping.py`
(REWARD_SHAPING_BATTLE), `wrappers/scenario_wrappers/gathering_reward_shaping.py` and `scenarios/*.cfg`.
"""

from __future__ import annotations

from collections import deque
from typing import Any

from worldmodel.common.errors import UserError, unknown_name

REWARDS = ("scenario", "kills", "sample-factory")

_GATHERING = ("health_gathering", "health_gathering_supreme")
_BATTLES = ("battle", "battle2")
_SCENARIOS = {"kills": _BATTLES, "sample-factory": (*_GATHERING, *_BATTLES)}

HEAL = 1.0  # for a step in which health rises
LIVING = 0.01  # for a tic survived; dying costs nothing
HEALTH_GAINED, HEALTH_LOST = 0.005, -0.003  # for each unit of health
# The source looks up one constant, that of weapon 7, for every weapon.
READY_WEAPON, READY_STEPS = 0.002, 5  # for a step at the end of five with the same weapon, which has ammunition


def check_reward(scenario: str, reward: str) -> None:
    """Refuse an unknown reward, or one that the scenario does not have.

    Raises:
        UserError: names the choices.
    """
    if reward not in REWARDS:
        raise unknown_name("reward", reward, REWARDS)
    scenarios = _SCENARIOS.get(reward, (scenario,))
    if scenario not in scenarios:
        names = ", ".join("doom/" + s.replace("_", "-") for s in scenarios)
        raise UserError(f"reward={reward!r} is defined for {names}, not for {scenario!r}; wanted reward='scenario'.")


def engine_rewards(scenario: str, reward: str) -> dict[str, Any]:
    """Entries of ViZDoom's configuration that the reward needs; {} for the scenario's own."""
    if reward == "sample-factory" and scenario in _GATHERING:
        return {"living_reward": LIVING, "death_penalty": 0.0}
    return {}


class RewardTracker:
    """Computes the reward of each step from ViZDoom's reward and the game's variables.

    Args:
        scenario: stem of the scenario.
        reward: a name of `REWARDS`.
    """

    def __init__(self, scenario: str, reward: str) -> None:
        self._kind = "scenario" if reward == "scenario" else "kills" if reward == "kills" else _shaping(scenario)

    def reset(self, game: Any) -> None:
        """Start an episode: read the variables of the first state."""
        self._health = _variable(game, "HEALTH")
        self._kills = _variable(game, "KILLCOUNT")
        self._weapons: deque[float] = deque(maxlen=READY_STEPS)
        self._steps = 0

    def step(self, game: Any, engine_reward: float, terminated: bool) -> float:
        """The reward of a step.

        Args:
            game: the `vizdoom.DoomGame`, after the step.
            engine_reward: ViZDoom's own reward of the step.
            terminated: the player died; shaped variants then add nothing.
        """
        if self._kind == "scenario":
            return engine_reward
        if self._kind == "kills":
            before, self._kills = self._kills, _variable(game, "KILLCOUNT")
            return self._kills - before
        if terminated:
            return engine_reward
        before, self._health = self._health, max(0.0, _variable(game, "HEALTH"))
        gained = self._health - before
        if self._kind == "gathering":
            return engine_reward + (HEAL if gained > 0 else 0.0)
        return engine_reward + self._battle_shaping(game, gained)

    def _battle_shaping(self, game: Any, gained: float) -> float:
        self._weapons.append(_variable(game, "SELECTED_WEAPON"))
        self._steps += 1
        if self._steps == 1:  # the source treats the first step as a return to life, which is not shaped
            return 0.0
        reward = gained * HEALTH_GAINED if gained > 0 else -gained * HEALTH_LOST
        ready = len(self._weapons) == READY_STEPS and len(set(self._weapons)) == 1
        return reward + (READY_WEAPON if ready and _variable(game, "SELECTED_WEAPON_AMMO") > 0 else 0.0)


def _shaping(scenario: str) -> str:
    return "gathering" if scenario in _GATHERING else "battle"


def _variable(game: Any, name: str) -> float:
    import vizdoom

    return float(game.get_game_variable(vizdoom.GameVariable.__members__[name]))
