"""The verb `demo`: record, train and evaluate on real take-cover, with an HTML report at the end.

Each stage leaves a file and is skipped when that file exists, so the same command continues after an interruption.
"""

from __future__ import annotations

import json
from dataclasses import dataclass
from pathlib import Path
from typing import Any, ClassVar

from worldmodel.cli.stages import Stage, run_stages
from worldmodel.common.errors import UserError, unknown_name


@dataclass(frozen=True)
class Demo:
    """Record ViZDoom take-cover, train and evaluate a world, train a policy in dreams and test it in the real game.

    Takes some ten minutes on two cores. Interrupted, the same command continues where it stopped.

    Example:
        worldmodel demo --out runs/demo
    """

    out: Path = Path("runs/demo")
    """The directory to make: dataset, world, evaluation, policy, report.html."""
    env: str = "doom/take-cover"
    episodes: int = 640
    policy: str = "periodic"
    mix: str = "random=0.3,sticky=0.2,sticky:0.98=0.2"
    """Shares of the episodes of other policies; the last one walks into walls and stays there, as a learner will."""
    world_preset: str = "doom-take-cover-demo"
    world_minutes: float = 3.25
    """Training of tokenizer and prior."""
    eval_clips: int = 96
    """Clips of the test split on which the world is evaluated."""
    eval_rows: int = 32
    """Free runs of each policy in the evaluation."""
    policy_world: str = "doom-take-cover-small"
    """The world in whose dreams the policy learns, a directory or a shipped name; '' is the demo's own world, which a
    few minutes of training leave less accurate."""
    policy_minutes: float = 3.0
    """Training of a policy in dreams."""
    test_episodes: int = 60
    """Episodes of that policy in the real environment."""
    seed: int = 0
    workers: int = 2
    force: bool = False
    """Begin anew: remove an existing --out."""

    # Fields of saved configs that had other names in earlier versions.
    RENAMED_FIELDS: ClassVar[dict[str, str]] = {"judge_clips": "eval_clips", "judge_rows": "eval_rows"}

    def __post_init__(self) -> None:
        for name in ("episodes", "eval_clips", "eval_rows", "workers", "test_episodes"):
            least = 2 if name == "test_episodes" else 1
            if getattr(self, name) < least:
                raise UserError(f"--{name.replace('_', '-')} {getattr(self, name)}: wanted at least {least}.")
        if self.seed < 0 or self.world_minutes <= 0 or self.policy_minutes <= 0:
            raise UserError(
                f"--seed {self.seed} --world-minutes {self.world_minutes} --policy-minutes {self.policy_minutes}: "
                "wanted a seed of 0 or more and minutes above 0."
            )


def demo(config: Demo) -> None:
    """Run the stages that are not finished, write report.html and print what to try next.

    Raises:
        UserError: an unknown preset, or `config.out` holds a demo with another config.
    """
    from worldmodel.cli.demo_page import next_commands, write_report
    from worldmodel.cli.progress import print_status
    from worldmodel.common.run_info import check_same_run, remove_run, save_run_info
    from worldmodel.train.presets import PRESETS

    if config.world_preset not in PRESETS:
        raise unknown_name("preset", config.world_preset, PRESETS)
    _check_policy_world(config)
    out, run = config.out, config.out / "run.json"
    if config.force:
        remove_run(out)
    _rename_saved_fields(run)
    check_same_run(run, out, config)
    if not run.exists():
        save_run_info(run, "demo", config)
    print_status(f"All files are written to {out}/. Press Ctrl-C at any time: the same command continues.\n")
    write_report(config, out, run_stages(stages(config), out / "seconds.json"))
    print(next_commands(config, out))


def stages(config: Demo) -> list[Stage]:
    """The stages in order; each uses the products of those before it."""
    from worldmodel.cli import demo_stages as work

    out = config.out
    data, world, policy = out / "cover.h5", out / "world", out / "dreamer"
    return [
        Stage(
            "record",
            f"{config.episodes} episodes of real {config.env} -> {data}",
            data,
            lambda: work.record(config, data),
        ),
        Stage(
            "inspect",
            f"checksums, contact sheet and animation -> {out}",
            out / "episodes.gif",
            lambda: work.inspect(data, out),
        ),
        Stage(
            "train",
            f"tokenizer and prior for {config.world_minutes:g} min -> {world}",
            world,
            lambda: work.train(config, data, world),
        ),
        Stage(
            "evaluate",
            "free runs, likelihood, prediction and terminations on the test split, compared with baselines",
            out / "evaluation.json",
            lambda: work.evaluate(config, data, world, out / "evaluation.json"),
        ),
        Stage(
            "dream",
            f"environment checkers, speed, images -> {out}",
            out / "dream.json",
            lambda: work.dream(config, data, world, out),
        ),
        Stage(
            "policy",
            f"PPO in dreams of {config.policy_world or world} for {config.policy_minutes:g} min, then "
            f"{config.test_episodes} real episodes",
            policy / "test.json",
            lambda: work.policy(config, Path(config.policy_world or world), policy),
        ),
    ]


def _check_policy_world(config: Demo) -> None:
    """Refuse a world of another environment than the demo's."""
    from worldmodel.envs.env_registry import row_of
    from worldmodel.world.hub import find_world
    from worldmodel.world.world_storage import read_world

    if not config.policy_world:
        return
    env = read_world(find_world(config.policy_world)).spec.env
    row, wanted = row_of(env), row_of(config.env)
    if (row.id if row else env) != (wanted.id if wanted else config.env):
        raise UserError(
            f"--policy-world {config.policy_world} is a world of {env}, not of --env {config.env}; give another one, "
            "or --policy-world '' for the demo's own world."
        )


def _rename_saved_fields(run: Path) -> None:
    """Give the fields of an earlier version's run.json their present names, so that its demo continues."""
    from worldmodel.common.files import atomic_path

    info: dict[str, Any] = json.loads(run.read_text()) if run.exists() else {}
    saved = info.get("config", {})
    if not saved.keys() & Demo.RENAMED_FIELDS.keys():
        return
    info["config"] = {Demo.RENAMED_FIELDS.get(name, name): value for name, value in saved.items()}
    with atomic_path(run) as temporary:
        temporary.write_text(json.dumps(info, indent=1) + "\n")
