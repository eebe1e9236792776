"""The verb `loop`: rounds of recording, learning the world, learning the policy in its dreams, and testing it outside.

Each stage calls the function of the verb that does the same alone, so every file is an ordinary output of that verb.
"""

from __future__ import annotations

import json
from typing import Any

from worldmodel.cli.round_folder import RoundFolder
from worldmodel.cli.rounds_config import RoundsConfig
from worldmodel.cli.stages import Stage, run_stages


def loop(config: RoundsConfig) -> list[dict[str, Any]]:
    """Run the stages that are not finished; write and print the table of rounds after each.

    Args:
        config: the resolved config.

    Returns:
        The rows of the table, one for each round.

    Raises:
        UserError: invalid options, or `config.out` holds a loop with another config, or one that is running.
    """
    from worldmodel.cli.progress import print_status
    from worldmodel.cli.rounds_table import format_rounds, write_rounds
    from worldmodel.common.errors import UserError
    from worldmodel.common.locks import acquire_lock
    from worldmodel.common.run_info import check_same_run, remove_run, save_run_info

    out, run, times = config.out, config.out / "run.json", config.out / "seconds.json"
    if config.force:
        remove_run(out)
    check_same_run(run, out, config)
    _check_names(config)
    out.mkdir(parents=True, exist_ok=True)
    lock = acquire_lock(out / "loop.lock", f"another process runs the loop of {out}; wait for it, or end it.")
    try:
        save_run_info(run, "loop", config)
        print_status(f"All files are written to {out}/. Press Ctrl-C at any time: the same command continues.\n")

        def report() -> None:
            print_status(f"\n{format_rounds(write_rounds(config))}\n")

        run_stages(loop_stages(config), times, report)
        rows = write_rounds(config)
        print(json.dumps(rows) if config.json else format_rounds(rows))
        return rows
    except UserError:
        if not any(out.glob("round-*/*")):  # the same --out can be used with other options
            run.unlink(missing_ok=True)
        raise
    finally:
        lock.release()


def _check_names(config: RoundsConfig) -> None:
    """Refuse unknown policies and metrics of all rounds before the first one begins.

    Raises:
        UserError: an unknown environment, policy or metric.
    """
    from worldmodel import envs
    from worldmodel.collect.collect_arguments import parse_mix
    from worldmodel.collect.policy_specs import parse_policy
    from worldmodel.metrics.metric_registry import select_metrics

    env = envs.make(config.env, **config.env_options.kwargs())
    env.close()
    defaults = envs.policy_defaults(config.env)
    for recording in (config.first, config.later):
        for text in filter(None, (recording.policy, *parse_mix(recording.mix))):
            parse_policy(text, env.meta.action_space, defaults)
    select_metrics(tuple(name for name in config.metrics.split(",") if name))


def loop_stages(config: RoundsConfig) -> list[Stage]:
    """The stages of all rounds, in order."""
    return [stage for number in range(1, config.rounds + 1) for stage in round_stages(config, number)]


def round_stages(config: RoundsConfig, number: int) -> list[Stage]:
    """The stages of a round, numbered from 1; each uses the products of those before it."""
    files, name = RoundFolder.of(config.out, number), f"round {number}: "
    recording = config.recording_of(number)
    stages = [
        Stage(
            name + "record",
            f"{recording.episodes} episodes of {config.env} -> {files.data}",
            files.counts,
            lambda: _record(config, number),
        ),
        Stage(
            name + "world",
            f"{'learn' if number == 1 else 'continue'} the world -> {files.world}",
            files.world / "run.json",
            lambda: _train_world(config, number),
        ),
        Stage(
            name + "policy",
            f"{'learn' if number == 1 else 'continue'} the policy in dreams -> {files.policy}",
            files.policy / "policy.zip",
            lambda: _train_policy(config, number),
        ),
        Stage(
            name + "dream",
            f"{config.dream_episodes} episodes of the policy in dreams -> {files.dream}",
            files.dream,
            lambda: _test_in_dreams(config, number),
        ),
        Stage(
            name + "real",
            f"{config.test_episodes} episodes in {config.env} -> {files.real}",
            files.real,
            lambda: _test_outside(config, number),
        ),
    ]
    if config.metrics:
        stages.insert(
            2,
            Stage(
                name + "metrics",
                f"{config.metrics} of the world -> {files.metrics}",
                files.metrics,
                lambda: _evaluate_world(config, number),
            ),
        )
    return stages


def _record(config: RoundsConfig, number: int) -> None:
    """Record the first mixture, or the policy of the round before; then count what was recorded."""
    from worldmodel.collect.collect_command import collect
    from worldmodel.collect.collect_config import Collect
    from worldmodel.common.files import write_json_atomic
    from worldmodel.data import Dataset

    files, recording = RoundFolder.of(config.out, number), config.recording_of(number)
    path = collect(
        Collect(
            files.data,
            config.env,
            recording.policy or str(RoundFolder.of(config.out, number - 1).policy),
            recording.mix,
            epsilons=recording.epsilons,
            episodes=recording.episodes,
            seed=config.seed_of(number),
            workers=config.workers,
            env_options=config.env_options,
        )
    )
    with Dataset(path) as data:
        counts = {"episodes": data.num_episodes, "steps": data.num_steps, "frames": data.num_steps + data.num_episodes}
    write_json_atomic(files.counts, counts)


def _train_world(config: RoundsConfig, number: int) -> None:
    """Train the world of the first round, or continue the one of the round before on all recordings so far."""
    from worldmodel.cli.train_commands import TrainPrior, TrainWorld, train_prior, train_world
    from worldmodel.train.training_config import PriorTraining, stage_config

    data = tuple(RoundFolder.of(config.out, i).data for i in range(1, number + 1))
    out, training = RoundFolder.of(config.out, number).world, config.world_of(number)
    earlier = None if number == 1 else RoundFolder.of(config.out, number - 1).world
    if earlier is None or config.continue_tokenizer:
        train_world(TrainWorld(data, out, training, init_from=earlier, device=config.device))
    else:
        prior = stage_config(training, PriorTraining)
        train_prior(TrainPrior(earlier, data, out, prior, init_from=earlier, device=config.device))


def _evaluate_world(config: RoundsConfig, number: int) -> None:
    """Measure the metrics of the config on the validation split of all recordings that the world learned from."""
    from worldmodel.cli.eval_world import EvalWorld, eval_world

    files = RoundFolder.of(config.out, number)
    eval_world(
        EvalWorld(
            files.world,
            tuple(RoundFolder.of(config.out, i).data for i in range(1, number + 1)),
            split="validation",
            metrics=config.metrics,
            out=files.metrics,
            device=config.device,
        )
    )


def _train_policy(config: RoundsConfig, number: int) -> None:
    """Train the policy of the first round, or continue the one of the round before, in the dreams of the round."""
    from worldmodel.collect.collect_config import TrainPolicy
    from worldmodel.collect.policy_training import train_policy

    files = RoundFolder.of(config.out, number)
    train_policy(
        TrainPolicy(
            files.policy,
            config.env,
            config.seed_of(number),
            config.env_options,
            config.learner_of(number),
            world=files.world,
            init_from=None if number == 1 else RoundFolder.of(config.out, number - 1).policy,
            test_episodes=0,
            device=config.device,
        )
    )


def _test_in_dreams(config: RoundsConfig, number: int) -> None:
    """Play the policy in dreams of the world that it learned in."""
    from worldmodel.collect.dream_evaluation import evaluate_in_dreams
    from worldmodel.collect.policy_validation import VALIDATION_SEED
    from worldmodel.common.files import write_json_atomic

    files = RoundFolder.of(config.out, number)
    row = evaluate_in_dreams(files.policy, files.world, config.dream_episodes, VALIDATION_SEED, config.device)
    write_json_atomic(files.dream, row)


def _test_outside(config: RoundsConfig, number: int) -> None:
    """Play the policy, and random and periodic play, in the environment, on validation seeds."""
    from worldmodel.collect.collect_config import EvalPolicy
    from worldmodel.collect.eval_policy_command import eval_policy
    from worldmodel.collect.policy_validation import VALIDATION_SEED
    from worldmodel.envs import policy_defaults

    files = RoundFolder.of(config.out, number)
    baselines = ("random", "periodic") if "periodic" in policy_defaults(config.env) else ("random",)
    eval_policy(
        EvalPolicy(
            (str(files.policy), *baselines),
            config.env,
            episodes=config.test_episodes,
            first_seed=VALIDATION_SEED,
            workers=config.workers,
            env_options=config.env_options,
            out=files.real,
        )
    )
