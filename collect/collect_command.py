"""`worldmodel collect`: train or load the policies, record, seal, say what came out."""

from __future__ import annotations

import json
import os
import shutil
from dataclasses import replace
from pathlib import Path

from worldmodel.collect.collect_config import Collect, TrainPolicy, parse_mix, parse_shard
from worldmodel.collect.policy_specs import PolicySpec, check_fits, file_spec, mix, spec_of
from worldmodel.collect.recorder import Plan, make_header, record_plan
from worldmodel.common.errors import UserError
from worldmodel.common.run_info import check_same_run, save_run_info

LEARNED = ("ppo", "sac", "a2c", "dqn")


def run_path(out: Path) -> Path:
    """Where a dataset's saved config stands: NAME.h5 -> NAME.run.json."""
    return out.with_suffix(".run.json")


def sharded(out: Path, shard: tuple[int, int]) -> Path:
    """A shard's own file: NAME.h5 -> NAME.0-of-4.h5."""
    i, n = shard
    return out if n == 1 else out.with_name(f"{out.stem}.{i}-of-{n}{out.suffix}")


def collect(config: Collect) -> Path:
    """Do what `worldmodel collect` asks.

    Args:
        config: the resolved config.

    Returns:
        The sealed file.

    Raises:
        UserError: anything that the user can mend, in one sentence.
    """
    from worldmodel import envs

    if config.episodes < 1 or config.workers < 1:
        raise UserError(f"got --episodes {config.episodes} --workers {config.workers}; wanted at least 1 of each.")
    if not 0 <= config.epsilon <= 1:
        raise UserError(f"got --epsilon {config.epsilon}; wanted a share between 0 and 1.")
    if config.out.suffix != ".h5":
        raise UserError(f"--out {config.out}: wanted a name that ends in .h5.")
    shard = parse_shard(config.shard, dict(os.environ))
    out = sharded(config.out, shard)
    saved = run_path(out)
    if config.force:
        shutil.rmtree(_policy_folder(config.out), ignore_errors=True)
        for path in (out, saved):
            path.unlink(missing_ok=True)
    elif saved.exists():
        check_same_run(saved, out, config)
    elif out.exists():
        raise UserError(
            f"{out} exists and was not made by this command; choose another --out, or --force to remove it."
        )
    kwargs = config.screen.kwargs()
    env = envs.make(config.env, **kwargs)
    meta = env.meta
    env.close()
    defaults = envs.policy_defaults(config.env)
    finished = out.exists()
    if not finished:
        _check_writable(out)
        save_run_info(saved, "collect", config)

    def spec(text: str) -> PolicySpec:
        if text in LEARNED:
            return replace(_trained(config, text, shard), epsilon=config.epsilon)
        return spec_of(text, meta.action_space, defaults, config.epsilon)

    try:
        shares = parse_mix(config.mix)
        policies = mix(spec(config.policy), [replace(spec(name), share=share) for name, share in shares.items()])
        for policy in policies:
            check_fits(policy, meta.action_space, meta.pixels.frame_shape)
    except UserError:
        if not finished:
            saved.unlink(missing_ok=True)
        raise
    header = make_header(meta, policies, config.seed, config.episodes, shard)
    plan = Plan(out, header, policies, config.env, kwargs)
    record_plan(plan, config.workers, force=config.force)
    _report(out, config.json, finished)
    return out


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


def _trained(config: Collect, algo: str, shard: tuple[int, int]) -> PolicySpec:
    """Train the policy that is recorded, in NAME.policy/ beside the file; a finished one is taken as it is."""
    from worldmodel.collect.policy_training import train_policy

    if shard[1] > 1:
        raise UserError(
            f"a shard never trains: run 'worldmodel train policy --env {config.env} --out DIR' once and pass "
            "--policy DIR to every shard."
        )
    folder = _policy_folder(config.out)
    learner = replace(config.learner, algo=algo)  # type: ignore[arg-type]
    path = train_policy(TrainPolicy(folder, config.env, config.seed, config.screen, learner))
    return file_spec(path, name=algo)


def _report(out: Path, as_json: bool, finished: bool) -> None:
    from worldmodel.data.dataset import Dataset

    with Dataset(out) as data:
        cap = data.header.max_steps
        short = int((data.lengths < cap).sum()) if cap else 0
        result = {
            "dataset": str(out),
            "episodes": data.num_episodes,
            "steps": data.num_steps,
            "ended_before_cap": short,
            "cap": cap,
            "bytes": out.stat().st_size,
        }
    if as_json:
        print(json.dumps(result))
        return
    print(
        f"{out}: {result['episodes']} episodes, {result['steps']} steps, {out.stat().st_size / 1e6:.0f} MB"
        + (f"; {short} ended before the cap of {cap} steps and are kept as they are" if cap else "")
        + (" (was finished before)." if finished else ".")
    )
