"""Lookahead as data: `lookahead:POLICY:WORLD`, a policy file that compares its actions in dreams while it plays."""

from __future__ import annotations

import hashlib
import json
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

from worldmodel.collect.learner_config import LearnerConfig
from worldmodel.collect.learner_envs import check_world
from worldmodel.collect.policy_files import file_hash, find_policy_file
from worldmodel.common.errors import UserError

if TYPE_CHECKING:
    from worldmodel.collect.lookahead_policy import LookaheadPolicy

PREFIX = "lookahead"


@dataclass(frozen=True)
class LookaheadConfig:
    """Settings of lookahead.

    Attributes:
        world: the world that dreams, a directory or the name of a shipped one.
        dreams: of each action.
        decisions: length of a dream in decisions of the policy.
        margin: mean return that another action must promise more than the policy's own to be taken instead, in the
            reward that the policy was trained with.
        backend: what steps the dreams, torch or onnx.
    """

    world: str
    dreams: int = 6
    decisions: int = 3
    margin: float = 0.01
    backend: str = "torch"

    def __post_init__(self) -> None:
        """Check the numbers."""
        if self.dreams < 1 or self.decisions < 1 or self.margin < 0 or self.backend not in ("torch", "onnx"):
            raise UserError(
                f"lookahead: got dreams={self.dreams}, decisions={self.decisions}, margin={self.margin}, "
                f"backend={self.backend!r}; wanted at least 1, 1 and 0, and 'torch' or 'onnx'."
            )

    def digest(self, policy_hash: str) -> str:
        """The hash of a policy file with these settings and the weights of the world."""
        from worldmodel.world.hub import find_world

        weights = file_hash(find_world(self.world) / "model.safetensors")
        settings = {**asdict(self), "world": weights, "policy": policy_hash}
        return hashlib.sha256(json.dumps(settings, sort_keys=True).encode()).hexdigest()


def parse_lookahead(text: str) -> tuple[Path, LookaheadConfig]:
    """ "lookahead:POLICY:WORLD" -> the policy's file, and the settings.

    Raises:
        UserError: another form, or no such policy.
    """
    policy, separator, world = text.partition(":")[2].rpartition(":")
    if not separator or not policy or not world:
        raise UserError(f"policy {text!r}: wanted lookahead:POLICY:WORLD, as in lookahead:runs/dreamer:runs/cover.")
    file = find_policy_file(Path(policy), "lookahead:")
    check_world(Path(world))
    return file, LookaheadConfig(world)


def lookahead_policy(
    model: Any, learner: LearnerConfig | None, settings: dict[str, Any], env: Any, name: str
) -> LookaheadPolicy:
    """The policy of a model with lookahead.

    Args:
        model: an SB3 model.
        learner: the settings that it was trained with; None if there is no policy.json.
        settings: fields of `LookaheadConfig`.
        env: the `PixelEnv` that it will act in.
        name: of the policy, for errors.

    Raises:
        UserError: no settings, actions that are not Discrete, or a world of other frames or actions.
    """
    from worldmodel.collect.lookahead_policy import LookaheadPolicy
    from worldmodel.collect.policy_improvement import check_spaces, require_discrete
    from worldmodel.world.world_model import WorldModel

    config = LookaheadConfig(**settings)
    if learner is None:
        raise UserError(f"lookahead needs the policy.json that `train policy` writes next to {name}.")
    require_discrete(model, name)
    world = WorldModel.from_pretrained(config.world)
    meta = env.meta
    if (world.spec.pixels, world.spec.action_space) != (meta.pixels, meta.action_space):
        raise UserError(
            f"lookahead: the world {config.world} has {world.spec.pixels} and actions {world.spec.action_space}, "
            f"the environment {meta.id} has {meta.pixels} and {meta.action_space}; give a world of this environment."
        )
    policy = LookaheadPolicy(model, learner, world, config.dreams, config.decisions, config.margin, config.backend)
    check_spaces(name, config.world, model, policy.dreams)
    return policy
