"""`record`: any gymnasium environment and any policy to one dataset file, from Python."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path
from typing import Any

from worldmodel.collect.collect_config import LearnerConfig, parse_mix
from worldmodel.collect.policies import CallablePolicy, LearnedPolicy, Policy
from worldmodel.collect.policy_specs import PolicySpec, check_fits, mix, spec_of
from worldmodel.collect.recorder import Plan, make_header, record_plan
from worldmodel.common.errors import UserError


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
    shard: tuple[int, int] = (0, 1),
    progress: bool = True,
    force: bool = False,
    **env_kwargs: Any,
) -> Path:
    """Record whole episodes of any gymnasium environment to one dataset file.

    Called again after an interruption, it goes on; called again when done, it returns at once.

    Args:
        env: a short name or gymnasium id, a gymnasium environment, or a callable that makes one. A name or a
            callable may be recorded by several processes; an environment is played in this one.
        policy: "random", "sticky", "periodic", a policy FILE.zip, a Stable-Baselines3 model, an object with
            `begin(rng)` and `act(frame)`, or a function frame (H, W, 3) uint8 -> action.
        path: the dataset to make, NAME.h5.
        episodes: how many, over all shards.
        seed: of the whole recording; episode e is a function of (seed, e, policy).
        workers: processes; changes nothing in the file.
        mix_with: shares of episodes for other named policies, "random=0.2".
        epsilon: share of uniform random steps.
        shard: (i, n): record the episodes e with e mod n = i.
        progress: show a bar on stderr.
        force: remove another recording at `path` first.
        **env_kwargs: `size`, `crop`, `max_steps` and the environment's own arguments.

    Returns:
        The path of the sealed file.

    Raises:
        UserError: anything that the caller can mend, in one sentence.
    """
    from worldmodel import envs
    from worldmodel.envs.make_env import as_pixels

    if episodes < 1 or workers < 1:
        raise UserError(f"record: got episodes={episodes}, workers={workers}; wanted at least 1 of each.")
    named = isinstance(env, str)
    makes = callable(env) and not hasattr(env, "reset")
    if not (named or makes) and workers > 1:
        raise UserError("an environment object cannot be shared by processes: pass its id or a callable, or workers=1.")
    world = envs.make(env, **env_kwargs) if named else as_pixels(env() if makes else env, **env_kwargs)
    own_world = named or makes
    try:
        meta = world.meta
        defaults = envs.policy_defaults(env) if named else {}
        player = _player(policy)
        if isinstance(policy, str | Path):
            spec = spec_of(str(policy), meta.action_space, defaults, epsilon)
        else:
            if epsilon:
                raise UserError("epsilon wants a policy by name or file; add the randomness to your own policy.")
            spec = PolicySpec(getattr(policy, "__name__", type(policy).__name__), "object")
        shares = parse_mix(mix_with)
        if player is not None and (shares or workers > 1):
            raise UserError(
                "a policy object plays alone in this process: drop mix_with and workers, or pass a name or file."
            )
        others = [replace(spec_of(name, meta.action_space, defaults, epsilon), share=s) for name, s in shares.items()]
        policies = mix(spec, others)
        for each in policies:
            check_fits(each, meta.action_space, meta.pixels.frame_shape)
        header = make_header(meta, policies, seed, episodes, shard)
        plan = Plan(Path(path), header, policies, env if own_world else "", env_kwargs)
        here = None if own_world and workers > 1 else world
        return record_plan(plan, workers, env=here, policy=player, progress=progress, force=force)
    finally:
        if own_world:
            world.close()


def _player(policy: Any) -> Policy | None:
    """A policy object of the caller's, or None for one that is named."""
    if isinstance(policy, str | Path):
        return None
    if hasattr(policy, "begin") and hasattr(policy, "act"):
        return policy
    if hasattr(policy, "predict"):
        channels = policy.observation_space.shape
        depth = max(min(channels) // 3, 1) if channels else 1
        return LearnedPolicy(policy, LearnerConfig(frame_stack=depth))
    if callable(policy):
        return CallablePolicy(policy)
    raise UserError(
        f"policy {policy!r}: wanted a name, a FILE.zip, an SB3 model, an object with begin and act, or a function."
    )
