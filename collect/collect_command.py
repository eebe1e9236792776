"""`worldmodel collect`: train or load the policies, record, seal, and print a summary."""

from __future__ import annotations

import json
import os
import shutil
from dataclasses import replace
from pathlib import Path
from typing import Any

from worldmodel.collect.collect_arguments import parse_mix, parse_shard
from worldmodel.collect.collect_config import Collect, TrainPolicy
from worldmodel.collect.disk_errors import disk_errors_as_sentence
from worldmodel.collect.leftovers import remove_leftovers
from worldmodel.collect.policy_specs import (
    PolicySpec,
    check_policy_fits,
    describe_policy_file,
    mix_policies,
    parse_policy,
    with_epsilons,
)
from worldmodel.collect.recorder import RecordingPlan, make_header, record_plan
from worldmodel.common.errors import UserError
from worldmodel.common.files import expand_path
from worldmodel.common.run_info import check_same_run, save_run_info

LEARNED_POLICIES = ("ppo", "sac", "a2c", "dqn")


def run_path(out: Path) -> Path:
    """Path of a dataset's saved config: NAME.h5 -> NAME.run.json."""
    return out.with_suffix(".run.json")


def shard_path(out: Path, shard: tuple[int, int]) -> Path:
    """Path of a shard: NAME.h5 -> NAME.0-of-4.h5."""
    i, n = shard
    return out if n == 1 else out.with_name(f"{out.stem}.{i}-of-{n}{out.suffix}")


def collect(config: Collect) -> Path:
    """Run `worldmodel collect`.

    Args:
        config: the resolved config.

    Returns:
        The sealed file.

    Raises:
        UserError: invalid options, another file at `out`, an unknown environment or policy, or a full disk.
    """
    from worldmodel import envs

    config = replace(config, out=expand_path(config.out))
    _check_options(config)
    shard = parse_shard(config.shard, dict(os.environ))
    out = shard_path(config.out, shard)
    _check_output(config, out)
    kwargs = config.env_options.kwargs()
    env = envs.make(config.env, **kwargs)
    env.close()
    already_recorded = out.exists()
    if not already_recorded:
        _check_writable(out)
        remove_leftovers(out.parent, out.stem)
        with disk_errors_as_sentence(out.parent):
            save_run_info(run_path(out), "collect", config)
    try:
        policies = _policies(config, env, shard)
    except UserError:
        if not already_recorded:
            run_path(out).unlink(missing_ok=True)
        raise
    header = make_header(env.meta, policies, config.seed, config.episodes, shard)
    plan = RecordingPlan(out, header, policies, config.env, kwargs, env.process_manager)
    record_plan(plan, config.workers, force=config.force)
    _print_summary(out, config.json, already_recorded)
    return out


def _check_options(config: Collect) -> None:
    if config.episodes < 1 or config.workers < 1:
        raise UserError(f"got --episodes {config.episodes} --workers {config.workers}; wanted at least 1 of each.")
    if config.seed < 0:
        raise UserError(f"got --seed {config.seed}; wanted at least 0.")
    if not 0 <= config.epsilon <= 1:
        raise UserError(f"got --epsilon {config.epsilon}; wanted a value between 0 and 1.")
    if config.out.suffix != ".h5":
        raise UserError(f"--out {config.out}: wanted a name that ends in .h5.")


def _check_output(config: Collect, out: Path) -> None:
    """Refuse to overwrite another recording; with --force, remove it."""
    saved = run_path(out)
    if config.force:
        shutil.rmtree(_policy_folder(config.out), ignore_errors=True)
        for path in (out, saved):
            path.unlink(missing_ok=True)
    elif saved.exists():
        check_same_run(saved, out, config)
    elif out.exists():
        raise UserError(
            f"{out} exists and was not written by this command; choose another --out, or --force to remove it."
        )


def _policies(config: Collect, env: Any, shard: tuple[int, int]) -> tuple[PolicySpec, ...]:
    """The policies of the recording, with their shares; a learned policy is trained first."""
    from worldmodel import envs

    defaults = envs.policy_defaults(config.env)

    def parse(text: str) -> PolicySpec:
        if text in LEARNED_POLICIES:
            spec = replace(_train_policy(config, text, shard), epsilon=config.epsilon)
        else:
            spec = parse_policy(text, env.meta.action_space, defaults, config.epsilon)
        return with_epsilons(spec, config.epsilons)

    shares = parse_mix(config.mix)
    base = parse(config.policy)
    policies = mix_policies(base, [replace(parse(name), share=share) for name, share in shares.items()])
    for policy in policies:
        check_policy_fits(policy, env)
    return policies


def _check_writable(out: Path) -> None:
    try:
        out.parent.mkdir(parents=True, exist_ok=True)
        probe = out.parent / f".{out.name}.{os.getpid()}.probe"
        probe.touch()
        probe.unlink()
    except OSError as error:
        raise UserError(f"cannot write {out.parent}: {os.strerror(error.errno or 0)}. Choose another --out.") from None


def _policy_folder(out: Path) -> Path:
    return out.with_suffix(".policy")


def _train_policy(config: Collect, algo: str, shard: tuple[int, int]) -> PolicySpec:
    """Train the policy to record, in the folder NAME.policy/ next to the dataset; a finished policy is reused."""
    from worldmodel.collect.policy_training import train_policy

    if shard[1] > 1:
        raise UserError(
            f"a shard does not train a policy: run 'worldmodel train policy --env {config.env} --out DIR' once and "
            "pass --policy DIR to every shard."
        )
    folder = _policy_folder(config.out)
    learner = replace(config.learner, algo=algo)  # type: ignore[arg-type]
    path = train_policy(TrainPolicy(folder, config.env, config.seed, config.env_options, learner))
    return describe_policy_file(path, name=algo)


def _print_summary(out: Path, as_json: bool, already_recorded: bool) -> None:
    from worldmodel.data.dataset import Dataset

    with Dataset(out) as data:
        cap = data.header.max_steps
        ended_before_cap = int((data.lengths < cap).sum()) if cap else 0
        result = {
            "dataset": str(out),
            "episodes": data.num_episodes,
            "steps": data.num_steps,
            "ended_before_cap": ended_before_cap,
            "cap": cap,
            "bytes": out.stat().st_size,
        }
    if as_json:
        print(json.dumps(result))
        return
    print(
        f"{out}: {result['episodes']} episodes, {result['steps']} steps, {out.stat().st_size / 1e6:.0f} MB"
        + (f"; {ended_before_cap} ended before the cap of {cap} steps" if cap else "")
        + (" (recorded before)." if already_recorded else ".")
    )
