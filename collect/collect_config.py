"""Configs of `worldmodel collect`, `train policy` and `eval policy`. Cheap to import."""

from __future__ import annotations

import math
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Annotated, Any, ClassVar, Literal

import tyro

from worldmodel.collect.env_options import DEFAULT_ENV, EnvOptions, choose_env, env_name
from worldmodel.collect.learner_config import (
    LEARNER_PRESETS,
    LearnerConfig,
    dream_learner_config,
    learner_config,
)
from worldmodel.common.errors import UserError


def flag_value(flag: str, arguments: list[str], default: str = "") -> str:
    """The value of a flag on the command line."""
    for i, word in enumerate(arguments):
        if word == flag and i + 1 < len(arguments):
            return arguments[i + 1]
        if word.startswith(f"{flag}="):
            return word[len(flag) + 1 :]
    return default


@dataclass(frozen=True)
class Collect:
    """Play an environment and record whole episodes to one dataset file.

    The same command continues a stopped recording. A policy FILE is a Stable-Baselines3 .zip, which contains Python
    pickles: load only files that you trust.

    Example:
        worldmodel collect --env doom/take-cover --policy periodic --mix random=0.3 --episodes 40 --out cover.h5
    """

    out: Path
    """The dataset to write, NAME.h5."""
    env: str = "doom/take-cover"
    """Short name (see `worldmodel envs`) or any gymnasium id."""
    policy: str = "random"
    """random, sticky, periodic, periodic:6-60 (each episode samples its period), FILE.zip,
    lookahead:POLICY:WORLD, or ppo, a2c, dqn, sac, which are trained first."""
    mix: str = ""
    """Shares of episodes that other policies play: 'random=0.2,periodic=0.2'."""
    epsilon: float = 0.0
    """Share of steps with a random action, for every policy."""
    epsilons: tuple[float, ...] = ()
    """Each episode samples its share of random steps from these, in place of --epsilon."""
    episodes: int = 1000
    """Number of episodes, over all shards."""
    seed: int = 0
    workers: int = 2
    """Processes that record. The file does not depend on it."""
    shard: str = ""
    """'i/n': record only the episodes e with e mod n = i. Empty: RANK and WORLD_SIZE if set, else all."""
    env_options: Annotated[EnvOptions, tyro.conf.arg(name="")] = field(default_factory=EnvOptions)
    learner: LearnerConfig = field(default_factory=LearnerConfig)
    """For policies that are trained first."""
    preset: str = ""
    """Set by --preset."""
    force: bool = False
    """Remove an existing recording at --out first."""
    json: bool = False
    """Print the result as JSON."""

    PRESETS: ClassVar[dict[str, Collect]] = {}

    @classmethod
    def defaults(cls, arguments: list[str]) -> Collect:
        """Defaults for the environment in the arguments."""
        return cls(out=tyro.MISSING, learner=learner_config(flag_value("--env", arguments, DEFAULT_ENV)))


# Open-loop play in which each episode samples its period; the row's reserved periods are left out: they test a world.
# Each episode also samples how noisy its policy is.
TAKE_COVER_COVERAGE = Collect(
    out=tyro.MISSING,
    env="doom/take-cover",
    policy="periodic:6-60",
    mix="random=0.15,sticky:0.7=0.06,sticky=0.08,sticky:0.95=0.08,sticky:0.98=0.06,dodger=0.1",
    epsilons=(0.0, 0.05, 0.1, 0.2, 0.4),
    episodes=1500,
)

Collect.PRESETS.update(
    {
        # VideoGPT section 4.1: rollouts of the final policies, 1000 episodes of 100 steps, split 8:1:1. Shorter
        # episodes are kept and counted (`worldmodel data info`): without them the dataset would have no deaths.
        "paper-health-gathering-supreme": Collect(
            out=tyro.MISSING,
            env="doom/health-gathering-supreme",
            policy="ppo",
            env_options=EnvOptions(max_steps=100),
            learner=LEARNER_PRESETS["doom/health-gathering-supreme"],
        ),
        "paper-take-cover": Collect(
            out=tyro.MISSING,
            env="doom/take-cover",
            policy="ppo",
            env_options=EnvOptions(max_steps=100),
            learner=LEARNER_PRESETS["doom/take-cover"],
        ),
        # PPO alone does not learn battle2 within minutes (docs/worlds/battle.md): give a trained policy with --policy.
        "paper-battle2": Collect(
            out=tyro.MISSING, env="doom/battle2", policy="fighter", env_options=EnvOptions(max_steps=100)
        ),
        # A mixture of policies with both long and short episodes; `worldmodel demo` records it.
        "take-cover-mixed": Collect(
            out=tyro.MISSING,
            env="doom/take-cover",
            policy="periodic",
            mix="random=0.35,sticky=0.25",
            episodes=300,
        ),
        "take-cover-coverage": TAKE_COVER_COVERAGE,  # 200,000 steps
        "take-cover-coverage-1m": replace(TAKE_COVER_COVERAGE, episodes=7400),  # a million steps
        "health-gathering-supreme-mixed": Collect(
            out=tyro.MISSING,
            env="doom/health-gathering-supreme",
            policy="seeker",
            mix="random=0.2,sticky=0.25,periodic=0.15",
            epsilon=0.1,
            episodes=1000,
        ),
        "battle2-mixed": Collect(
            out=tyro.MISSING,
            env="doom/battle2",
            policy="fighter",
            mix="random=0.2,sticky=0.3",
            epsilon=0.1,
            episodes=600,
        ),
        "push-mixed": Collect(
            out=tyro.MISSING,
            env="push/goal",
            policy="walk",
            mix="reach=0.3,random=0.1,sticky=0.1",
            epsilon=0.05,
            episodes=4000,
        ),
    }
)


@dataclass(frozen=True)
class TrainPolicy:
    """Train a policy with Stable-Baselines3, in an environment or (--world) in a learned world.

    A policy that was trained in a world is tested in the environment at the end, with random and periodic policies as
    baselines.

    Writes policy.zip (contains pickles, as all SB3 files), policy.json (its settings), curve.jsonl and TensorBoard
    logs. The same command continues a stopped training from its last checkpoint, but not bit for bit.

    Example:
        worldmodel train policy --env toy --learner.decisions 20000 --out runs/toy-policy
    """

    out: Path
    """The directory to write."""
    env: str = ""
    """Short name (see `worldmodel envs`) or any gymnasium id; doom/take-cover if not given. With --world, the
    environment for the test; the one that the world was learned from, with the same arguments, if not given."""
    seed: int = 0
    env_options: Annotated[EnvOptions, tyro.conf.arg(name="")] = field(default_factory=EnvOptions)
    learner: LearnerConfig = field(default_factory=LearnerConfig)
    world: Path | None = None
    """Train in this world directory instead of the environment."""
    more_worlds: tuple[Path, ...] = ()
    """With --world: further worlds of the same environment; the dreams are spread evenly over all of them."""
    starts_from: tuple[Path, ...] = ()
    """With --world: datasets of its environment; dreams begin at any time step of their training split instead of at
    the world's own starts. See --learner.start-before-end."""
    init_from: Path | None = None
    """A policy FILE.zip, or the directory of another training, stopped or finished, whose weights this one begins
    with, and whose optimizer if the algorithm is the same. It contains pickles: load only files that you trust."""
    eval_every: float | None = None
    """Minutes between evaluations on validation seeds, written to curve.jsonl; their time counts as training time. No
    evaluation if not given."""
    eval_episodes: int = 20
    """Episodes of an evaluation, on the seeds from 2,000,000 on; with --world in dreams with these seeds."""
    keep: Literal["last", "best"] = "last"
    """policy.zip is the policy at the end, or the best of those evaluated, which is written to best.zip."""
    test_episodes: int = 100
    """With --world: test episodes in the environment, on the seeds of `eval policy`, from 1,000,000 on; 0 disables
    the test. To choose between policies, use other seeds: `eval policy --first-seed 2000000`."""
    device: str = "auto"
    """auto, cpu or cuda: device of the policy and, with --world, of the world."""
    preset: str = ""
    """Set by --preset."""
    force: bool = False
    """Remove an existing run at --out first."""
    json: bool = False
    """Print the result as JSON."""

    def __post_init__(self) -> None:
        if not 0 <= self.seed < 2**32:
            raise UserError(f"seed={self.seed}: wanted an integer from 0 to 2**32 - 1.")
        if self.test_episodes < 0 or self.test_episodes == 1:
            raise UserError(f"test_episodes={self.test_episodes}: wanted 0 or at least 2.")
        if self.eval_every is not None and not 0 < self.eval_every < math.inf:
            raise UserError(f"eval_every={self.eval_every}: wanted a positive number of minutes.")
        if self.eval_episodes < 2:
            raise UserError(f"eval_episodes={self.eval_episodes}: wanted at least 2.")
        if self.keep == "best" and self.eval_every is None:
            raise UserError("keep='best' needs evaluations: give --eval-every MINUTES.")
        self._check_dreams()
        if self.device.partition(":")[0] not in ("auto", "cpu", "cuda"):
            raise UserError(f"device={self.device!r}: wanted auto, cpu, cuda or cuda:INDEX.")

    def _check_dreams(self) -> None:
        """Refuse options of dreams without a world, and a share of starts without recorded time steps."""
        learner, default = self.learner, LearnerConfig()
        given = {"more_worlds": bool(self.more_worlds), "starts_from": bool(self.starts_from)}
        for name in ("horizon", "temperature", "start_before_end", "disagreement_penalty", "backend"):
            given[f"learner.{name}"] = getattr(learner, name) != getattr(default, name)
        for name, is_given in given.items():
            if is_given and self.world is None:
                raise UserError(f"{name} is an option of dreams: give --world, or leave it out.")
        if learner.disagreement_penalty and not self.more_worlds:
            raise UserError("learner.disagreement_penalty needs a second world: give --more-worlds.")
        if learner.start_before_end and not self.starts_from:
            raise UserError("learner.start_before_end needs recorded time steps to begin from: give --starts-from.")

    @classmethod
    def defaults(cls, arguments: list[str]) -> TrainPolicy:
        """Defaults for the environment in the arguments, with or without --world."""
        world = flag_value("--world", arguments)
        if not world:
            return cls(out=tyro.MISSING, learner=learner_config(flag_value("--env", arguments, DEFAULT_ENV)))
        try:
            env = env_name(flag_value("--env", arguments), Path(world))
        except UserError:  # not a world: the command reports it
            env = DEFAULT_ENV
        return cls(out=tyro.MISSING, learner=dream_learner_config(env))

    @property
    def env_name(self) -> str:
        """Short name or id of the environment to train in or, with `world`, to test in."""
        return env_name(self.env, self.world)

    def choose_env(self) -> tuple[str, dict[str, Any]]:
        """Name and keyword arguments of the environment to train in or, with `world`, to test in."""
        return choose_env(self.env, self.world, self.env_options)


@dataclass(frozen=True)
class EvalPolicy:
    """Play policies on the same test seeds and compare their returns, paired by seed.

    Example:
        worldmodel eval policy random periodic --env toy --episodes 50
    """

    policies: tyro.conf.Positional[tuple[str, ...]]
    """random, sticky, periodic, periodic:32 (its period in steps), a scripted policy of the environment, FILE.zip, a
    directory of `train policy`, or lookahead:POLICY:WORLD, such a policy that compares its actions in dreams of a world
    before each decision; NAME@SHARE adds a share of random actions."""
    env: str = ""
    """Short name (see `worldmodel envs`) or any gymnasium id; doom/take-cover if not given."""
    world: Path | None = None
    """Play the environment that this world was learned from, with the same arguments, in place of --env."""
    episodes: int = 100
    first_seed: int = 1_000_000
    """Test seeds are first_seed, first_seed + 1, ...; `collect` never uses them."""
    workers: int = 2
    reactivity: bool = False
    """Also play each episode with the actions that the policy takes in another episode: a policy that ignores what it
    observes is as good with these. With --world in its dreams too."""
    second_world: Path | None = None
    """With --world: a world that differs from it in the seed of its training alone. Measures how much both disagree on
    dreams of the policy in --world, against recorded clips of --data."""
    data: tuple[Path, ...] = ()
    """With --second-world: dataset files, whose test split is compared with the dreams."""
    env_options: Annotated[EnvOptions, tyro.conf.arg(name="")] = field(default_factory=EnvOptions)
    device: str = "auto"
    """auto, cpu or cuda: device of the worlds."""
    out: Path | None = None
    """Also write the table to this file, as JSON."""
    json: bool = False
    """Print the result as JSON."""
