"""Compare policies on the same seeds: mean returns, 95 % intervals, and differences paired by seed."""

from __future__ import annotations

import os
from collections.abc import Callable
from concurrent.futures import ProcessPoolExecutor
from concurrent.futures.process import BrokenProcessPool
from typing import Any

import numpy as np

from worldmodel.collect.policy_specs import PolicySpec
from worldmodel.common.errors import UserError
from worldmodel.common.signals import exit_on_sigterm
from worldmodel.common.subprocesses import start_forkserver
from worldmodel.envs.registrations import pickle_registrations, restore_registrations


def play_returns(env: str, env_kwargs: dict[str, Any], spec: PolicySpec, seeds: list[int]) -> list[tuple[float, int]]:
    """Play a policy on environment seeds, in this process.

    Returns:
        (return, steps) of each episode.
    """
    from worldmodel import envs
    from worldmodel.collect.rollout import play

    pixel_env = envs.make(env, **env_kwargs)
    try:
        policy = spec.build(pixel_env.meta.action_space, pixel_env)
        out = []
        for seed in seeds:
            episode = play(pixel_env, policy, index=seed, seed=0, policy_name=spec.name, env_seed=seed)
            out.append((float(episode.rewards.sum()), episode.length))
        return out
    finally:
        pixel_env.close()


def bootstrap_interval(values: np.ndarray, seed: int = 0, rounds: int = 5000) -> tuple[float, float]:
    """95 % bootstrap interval of the mean of values (N,), as (low, high)."""
    rng = np.random.default_rng(seed)
    means = np.asarray(values)[rng.integers(len(values), size=(rounds, len(values)))].mean(1)
    low, high = np.quantile(means, [0.025, 0.975])
    return float(low), float(high)


def evaluate(
    policies: dict[str, PolicySpec],
    env: str,
    env_kwargs: dict[str, Any],
    episodes: int,
    first_seed: int,
    workers: int,
) -> list[dict[str, Any]]:
    """Play every policy on the same seeds. The results do not depend on the number of processes.

    Args:
        policies: label -> policy.
        env: short name or id.
        env_kwargs: arguments of `worldmodel.envs.make`.
        episodes: number of seeds.
        first_seed: the first seed; the others follow.
        workers: processes; with 1 this process plays.

    Returns:
        One row per policy, in the given order: mean, 95 % interval, standard deviation and median of the return, mean
        steps, and the paired difference of the first policy and this one with its interval.
    """
    seeds = list(range(first_seed, first_seed + episodes))
    jobs = [(label, seeds[i::workers]) for label in policies for i in range(workers) if seeds[i::workers]]
    results: dict[str, dict[int, tuple[float, int]]] = {label: {} for label in policies}
    played = run_jobs(play_returns, env, [(env, env_kwargs, policies[label], part) for label, part in jobs], workers)
    for (label, part), outcomes in zip(jobs, played, strict=True):
        results[label].update(zip(part, outcomes, strict=True))
    returns = {label: np.asarray([results[label][seed][0] for seed in seeds]) for label in policies}
    steps = {label: np.asarray([results[label][seed][1] for seed in seeds]) for label in policies}
    return comparison_rows(returns, steps)


def run_jobs(
    function: Callable[..., list[tuple[float, int]]], env: str, jobs: list[tuple[Any, ...]], workers: int
) -> list[list[tuple[float, int]]]:
    """Call a function of a module, which plays an environment, once for each job.

    Args:
        function: called with the arguments in a job.
        env: short name or id of the environment.
        jobs: arguments.
        workers: processes; with 1 this process plays.

    Raises:
        UserError: a process died.
    """
    if workers == 1:
        return [function(*job) for job in jobs]
    context, registrations = start_forkserver(), pickle_registrations(env)
    with ProcessPoolExecutor(workers, context, _init_process, (registrations,)) as pool:
        futures = [pool.submit(function, *job) for job in jobs]
        try:
            return [future.result() for future in futures]
        except BrokenProcessPool as error:
            raise UserError(
                f"a process that played {env!r} died; its error is above. A script must call evaluate under "
                "`if __name__ == '__main__':`."
            ) from error


def comparison_rows(returns: dict[str, np.ndarray], steps: dict[str, np.ndarray]) -> list[dict[str, Any]]:
    """One row per policy, as `evaluate` returns them.

    Args:
        returns: label -> return of each episode, paired by seed.
        steps: label -> steps of each episode.
    """
    rows = []
    first: np.ndarray | None = None
    for label, scores in returns.items():
        low, high = bootstrap_interval(scores)
        row: dict[str, Any] = {
            "policy": label,
            "episodes": len(scores),
            "return_mean": float(scores.mean()),
            "low": low,
            "high": high,
            "std": float(scores.std()),
            "median": float(np.median(scores)),
            "steps_mean": float(steps[label].mean()),
        }
        if first is None:
            first = scores
        else:
            low, high = bootstrap_interval(first - scores)
            row["first_minus_this"] = {"mean": float((first - scores).mean()), "low": low, "high": high}
        row["returns"] = scores.tolist()
        rows.append(row)
    return rows


def _init_process(registrations: bytes) -> None:
    os.environ["OMP_NUM_THREADS"] = "1"
    exit_on_sigterm()
    restore_registrations(registrations)


def format_table(rows: list[dict[str, Any]]) -> str:
    """The rows as text."""
    width = max(len(r["policy"]) for r in rows)
    lines = [
        f"{'policy':<{width}}  {'return':>9}  {'95 % interval':>19}  {'median':>8}  {'steps':>7}  first minus this"
    ]
    for r in rows:
        d = r.get("first_minus_this")
        tail = f"{d['mean']:+.1f} [{d['low']:+.1f}, {d['high']:+.1f}]" if d else ""
        span = f"[{r['low']:.1f}, {r['high']:.1f}]"
        lines.append(
            f"{r['policy']:<{width}}  {r['return_mean']:>9.1f}  {span:>19}  {r['median']:>8.1f}  "
            f"{r['steps_mean']:>7.1f}  {tail}"
        )
    return "\n".join(lines)
