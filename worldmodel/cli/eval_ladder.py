"""The policies of the held-out ladder of `eval world`: those of the environment's row, and trained ones."""

from __future__ import annotations

from collections.abc import Sequence
from functools import partial
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from worldmodel.collect.policy_specs import PolicySpec
    from worldmodel.data.header import PolicyRecord
    from worldmodel.metrics import LadderPolicy
    from worldmodel.world.world_model import WorldModel

SAME_NOISE = 0.1  # shares of random actions that differ by less are taken for the same policy


def ladder_of(world: WorldModel, records: Sequence[PolicyRecord], more: Sequence[str] = ()) -> list[LadderPolicy]:
    """The ladder of a world: the policies of its environment's row, and others.

    Args:
        world: the learned world. Its environment is made with the arguments of the recording.
        records: the policies of the dataset.
        more: names of more policies, as `parse_noisy_policy` takes them.

    Raises:
        UserError: an environment that cannot be made, or a policy that cannot act in its dreams.
    """
    from worldmodel import envs
    from worldmodel.collect.batch_policies import batch_policy
    from worldmodel.collect.policy_specs import parse_noisy_policy
    from worldmodel.collect.return_cache import validation_returns
    from worldmodel.envs.make_like import env_arguments
    from worldmodel.metrics import LadderPolicy

    row = envs.env_registry.row_of(world.spec.env)
    names = list(dict.fromkeys((*(row.ladder if row is not None else ()), *more)))
    if not names:
        return []
    name, kwargs = env_arguments(world)
    env = envs.make(name, **kwargs)
    env.close()
    ladder = []
    for text in names:
        spec = parse_noisy_policy(text, world.spec.action_space, envs.policy_defaults(name))
        play = batch_policy(spec, world.spec.action_space, env)
        real = partial(validation_returns, name, kwargs, spec)
        ladder.append(LadderPolicy(text, play, real, any(is_same_policy(spec, record) for record in records)))
    return ladder


def is_same_policy(spec: PolicySpec, record: PolicyRecord) -> bool:
    """Whether a dataset's record describes a policy, up to a difference of `SAME_NOISE` in its random actions.

    A periodic policy is recorded too where each recorded episode samples its period from `periods` that contain it.
    """
    params = dict(record.params)
    kind = params.pop("kind", record.name)
    noises = params.pop("epsilons", None) or [params.pop("epsilon", 0.0)]
    params.pop("epsilon", None)
    if all(abs(noise - spec.epsilon) >= SAME_NOISE for noise in noises) or kind != spec.kind:
        return False
    if kind == "file":
        return record.hash == spec.hash
    period = spec.params.get("period")
    if period in params.get("periods", ()):
        params = {**{name: value for name, value in params.items() if name != "periods"}, "period": period}
    return params == spec.params
