"""`record`: record any gymnasium environment with any policy to one dataset file, from Python."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any

from worldmodel.collect.collect_arguments import parse_mix
from worldmodel.collect.policies import CallablePolicy, Policy
from worldmodel.collect.policy_specs import PolicySpec, check_policy_fits, mix_policies, parse_policy, with_epsilons
from worldmodel.collect.recorder import RecordingPlan, make_header, record_plan
from worldmodel.common.arguments import checked_integer
from worldmodel.common.errors import UserError
from worldmodel.common.files import expand_path
from worldmodel.envs.env_registry import policy_defaults
from worldmodel.envs.make_env import as_pixels, is_factory, make


def record(
    env: Any,
    policy: Any,
    path: str | Path,
    *,
    episodes: int = 100,
    seed: int = 0,
    workers: int = 1,
    mix_with: str = "",
    epsilon: float = 0.0,
    epsilons: Sequence[float] = (),
    shard: tuple[int, int] = (0, 1),
    progress: bool = True,
    force: bool = False,
    **env_kwargs: Any,
) -> Path:
    """Record whole episodes to one dataset file; the same call continues an interrupted recording.

    Args:
        env: a short name or id, an environment object (with its wrappers; needs workers=1), or what makes one.
        policy: "random", "sticky", "periodic", a policy FILE.zip, a Stable-Baselines3 model, an object with
            `begin(rng)` and `act(frame)`, or a function frame (H, W, 3) uint8 -> action. A model that was not
            trained on frames gets the environment's own observations.
        path: the dataset to write, NAME.h5.
        episodes: number of episodes, over all shards.
        seed: seed of the recording; episode e is a function of (seed, e, policy).
        workers: number of processes; the file does not depend on it.
        mix_with: shares of episodes that other named policies play, "random=0.2".
        epsilon: share of steps with a uniform random action.
        epsilons: each episode samples its share of random steps from these, in place of `epsilon`.
        shard: (i, n): record only the episodes e with e mod n = i.
        progress: show a progress bar on stderr.
        force: remove an existing recording at `path` first.
        **env_kwargs: `size`, `crop`, `max_steps` and the environment's own arguments.

    Returns:
        The path of the sealed file.

    Raises:
        UserError: invalid arguments, unknown names, a different recording at `path`, or a full disk.
    """
    episodes, seed = checked_integer("episodes", episodes), checked_integer("seed", seed, 0)
    workers = checked_integer("workers", workers)
    from_source = isinstance(env, str) or is_factory(env)  # worker processes can make it too
    if workers > 1 and not from_source:
        raise UserError("processes cannot share an environment object: pass its id or a callable, or workers=1.")
    pixel_env = make(env, **env_kwargs) if isinstance(env, str) else as_pixels(env, **env_kwargs)
    try:
        source = env if from_source else ""
        policies, policy_object = _policies(policy, mix_with, float(epsilon), epsilons, pixel_env, source)
        if policy_object is not None and (mix_with or workers > 1):
            raise UserError("a policy object plays all episodes in this process: remove mix_with and workers.")
        header = make_header(pixel_env.meta, policies, seed, episodes, shard)
        plan = RecordingPlan(expand_path(path), header, policies, source, env_kwargs, pixel_env.process_manager)
        here = pixel_env if workers == 1 else None
        return record_plan(plan, workers, env=here, policy=policy_object, progress=progress, force=force)
    finally:
        if from_source:
            pixel_env.close()


def _policies(
    policy: Any, mix_with: str, epsilon: float, epsilons: Sequence[float], env: Any, source: Any
) -> tuple[tuple[PolicySpec, ...], Policy | None]:
    """The policies of a recording, and the `Policy` if it is an object."""
    defaults = policy_defaults(source) if isinstance(source, str) else {}

    def parse(name: str) -> PolicySpec:
        return with_epsilons(parse_policy(name, env.meta.action_space, defaults, epsilon), epsilons)

    policy_object = None
    if isinstance(policy, str | Path):
        spec = parse(str(policy))
    elif epsilon or epsilons:
        raise UserError("epsilon needs a policy by name or file; add random actions to your own policy.")
    else:
        spec = PolicySpec(getattr(policy, "__name__", type(policy).__name__), "object")
        policy_object = _policy_object(policy, env)
    others = [replace(parse(name), share=share) for name, share in parse_mix(mix_with).items()]
    policies = mix_policies(spec, others)
    for each in policies:
        check_policy_fits(each, env)
    return policies, policy_object


def _policy_object(policy: Any, env: Any) -> Policy:
    """The `Policy` of a policy object."""
    if hasattr(policy, "begin") and hasattr(policy, "act"):
        return policy
    if all(hasattr(policy, name) for name in ("predict", "observation_space", "action_space")):
        from worldmodel.collect.learned_policy import model_policy

        return model_policy(policy, env, f"the model {type(policy).__name__}")
    if callable(policy):
        return CallablePolicy(policy)
    raise UserError(
        f"policy {policy!r}: wanted a name, a FILE.zip, an SB3 model, an object with begin and act, or a function."
    )
