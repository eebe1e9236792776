"""`record`: record any gymnasium environment with any policy to one dataset file, from Python."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path
from typing import Any

from worldmodel.collect.collect_config import LearnerConfig, parse_mix
from worldmodel.collect.policies import CallablePolicy, LearnedPolicy, Policy
from worldmodel.collect.policy_specs import PolicySpec, check_policy_fits, mix_policies, parse_policy
from worldmodel.collect.recorder import RecordingPlan, make_header, record_plan
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

    The same call continues an interrupted recording, and returns at once if the recording is finished.

    Args:
        env: a short name or gymnasium id, a gymnasium environment, or a callable that makes one. Several processes
            can record a name or a callable; an environment object is played in this process.
        policy: "random", "sticky", "periodic", a policy FILE.zip, a Stable-Baselines3 model, an object with
            `begin(rng)` and `act(frame)`, or a function frame (H, W, 3) uint8 -> action.
        path: the dataset to write, NAME.h5.
        episodes: number of episodes, over all shards.
        seed: seed of the recording; episode e is a function of (seed, e, policy).
        workers: number of processes; the file does not depend on it.
        mix_with: shares of episodes that other named policies play, "random=0.2".
        epsilon: share of steps with a uniform random action.
        shard: (i, n): record the episodes e with e mod n = i.
        progress: show a progress bar on stderr.
        force: remove an existing recording at `path` first.
        **env_kwargs: `size`, `crop`, `max_steps` and the environment's own arguments.

    Returns:
        The path of the sealed file.

    Raises:
        UserError: invalid arguments, an unknown environment or policy, another file at `path`, or a full disk.
    """
    from worldmodel import envs
    from worldmodel.envs.make_env import as_pixels

    if episodes < 1 or workers < 1:
        raise UserError(f"record: got episodes={episodes}, workers={workers}; wanted at least 1 of each.")
    named = isinstance(env, str)
    is_factory = callable(env) and not hasattr(env, "reset")
    if not (named or is_factory) and workers > 1:
        raise UserError(
            "several processes cannot share an environment object: pass its id or a callable, or workers=1."
        )
    pixel_env = envs.make(env, **env_kwargs) if named else as_pixels(env() if is_factory else env, **env_kwargs)
    made_here = named or is_factory
    try:
        meta = pixel_env.meta
        defaults = envs.policy_defaults(env) if named else {}
        policy_object = _policy_object(policy)
        if isinstance(policy, str | Path):
            spec = parse_policy(str(policy), meta.action_space, defaults, epsilon)
        else:
            if epsilon:
                raise UserError("epsilon needs a policy by name or file; add random actions to your own policy.")
            spec = PolicySpec(getattr(policy, "__name__", type(policy).__name__), "object")
        shares = parse_mix(mix_with)
        if policy_object is not None and (shares or workers > 1):
            raise UserError(
                "a policy object plays all episodes in this process: remove mix_with and workers, or name a policy."
            )
        others = [
            replace(parse_policy(name, meta.action_space, defaults, epsilon), share=share)
            for name, share in shares.items()
        ]
        policies = mix_policies(spec, others)
        for each in policies:
            check_policy_fits(each, meta.action_space, meta.pixels.frame_shape)
        header = make_header(meta, policies, seed, episodes, shard)
        env_source = env if made_here else ""
        plan = RecordingPlan(Path(path), header, policies, env_source, env_kwargs, pixel_env.process_manager)
        here = None if made_here and workers > 1 else pixel_env
        return record_plan(plan, workers, env=here, policy=policy_object, progress=progress, force=force)
    finally:
        if made_here:
            pixel_env.close()


def _policy_object(policy: Any) -> Policy | None:
    """The `Policy` of a policy object, or None for the name of a policy."""
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
