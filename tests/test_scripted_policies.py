"""Scripted policies that the row of an environment declares, and the privileged state of environments."""

from typing import Any

import numpy as np
import pytest

from worldmodel import envs
from worldmodel.collect.collect_arguments import parse_mix
from worldmodel.collect.collect_config import Collect
from worldmodel.collect.policy_specs import parse_policy
from worldmodel.common.errors import UserError
from worldmodel.common.spaces import Discrete, Space
from worldmodel.envs import env_registry


class Constant:
    """Always the same action."""

    def __init__(self, space: Space, env: Any, action: int = 0) -> None:
        self.action = action

    def begin(self, rng: np.random.Generator) -> None:
        """No effect."""

    def act(self, frame: np.ndarray) -> int:
        """The action."""
        return self.action


class Privileged(Constant):
    """Needs the environment."""

    uses_privileged_state = True


@pytest.fixture
def row(monkeypatch: pytest.MonkeyPatch) -> envs.EnvRow:
    monkeypatch.setattr(env_registry, "_ROWS", dict(env_registry._ROWS))
    entry = f"{__name__}:"
    row = envs.EnvRow(
        "example/Scripted-v0",
        "scripted-example",
        "worldmodel.envs.toy:ToyEnv",
        policy={
            "constant": {"entry_point": entry + "Constant", "action": 3},
            "privileged": {"entry_point": entry + "Privileged"},
        },
    )
    envs.register(row)
    return row


def test_a_row_declares_scripted_policies_by_name(row: envs.EnvRow) -> None:
    defaults = envs.policy_defaults(row.name)
    spec = parse_policy("constant", Discrete(5), defaults, epsilon=0.0)
    assert (spec.kind, spec.name, spec.params["action"]) == ("scripted", "constant", 3)
    assert spec.build(Discrete(5)).act(np.zeros((4, 4, 3), np.uint8)) == 3
    with pytest.raises(UserError, match="constant"):
        parse_policy("constnat", Discrete(5), defaults)


def test_a_policy_with_privileged_state_needs_the_environment(row: envs.EnvRow) -> None:
    spec = parse_policy("privileged", Discrete(5), envs.policy_defaults(row.name))
    with pytest.raises(UserError, match="a dream has none"):
        spec.build(Discrete(5))
    with pytest.raises(UserError, match="has no privileged state"):
        envs.make("toy").privileged_state()


def test_an_entry_point_of_a_file_is_imported_only_if_a_row_declares_it() -> None:
    with pytest.raises(UserError, match="belongs to no registered environment"):
        env_registry.scripted_policy("os:system")


RESERVED = {period + offset for period in (11, 14, 17, 24) for offset in (-1, 0, 1)}  # they test a world


@pytest.mark.parametrize("name", Collect.PRESETS)
def test_presets_of_recordings_name_policies_of_their_environment(name: str) -> None:
    preset = Collect.PRESETS[name]
    row = envs.lookup(preset.env)
    shares = parse_mix(preset.mix)
    assert sum(shares.values()) < 1
    for policy in {preset.policy, *shares} - {"ppo"}:
        # a space is needed only for the periodic policies of Doom's Discrete environments
        spec = parse_policy(policy, Discrete(max(len(row.action_labels), 2)), envs.policy_defaults(preset.env))
        assert spec.params.get("period") not in RESERVED
