"""Config of the verb `loop`."""

from __future__ import annotations

from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Annotated, ClassVar

import tyro

from worldmodel.collect.collect_arguments import parse_mix
from worldmodel.collect.collect_config import TAKE_COVER_COVERAGE, flag_value
from worldmodel.collect.env_options import DEFAULT_ENV, EnvOptions
from worldmodel.collect.learner_config import LearnerConfig, dream_learner_config
from worldmodel.common.errors import UserError
from worldmodel.train.presets import PRESETS as WORLD_PRESETS
from worldmodel.train.training_config import LoopConfig, WorldConfig


@dataclass(frozen=True)
class RecordingConfig:
    """What is recorded in a round."""

    policy: str = ""
    """As in `worldmodel collect`; if not given, the policy of the round before."""
    mix: str = ""
    """Shares of episodes that other policies play: 'random=0.2,sticky=0.1'."""
    epsilons: tuple[float, ...] = (0.0, 0.05, 0.2)
    """Each episode samples its share of random steps from these."""
    episodes: int = 200


@dataclass(frozen=True)
class RoundsConfig:
    """Learn a policy in dreams, in rounds: record, learn the world, learn the policy in it, test it outside.

    The first round records a mixture of policies. Each later round records the policy of the round before, with noise,
    and continues the world, on all recordings so far, and the policy. A policy is tested on validation seeds, from
    2,000,000 on; the test seeds of `eval policy` stay unused. Round K is the folder round-K/ with data.h5, world/ and
    policy/. rounds.json is the table of rounds, rounds.png its plot.

    The same command continues a stopped loop; with more --rounds it adds rounds.

    Example:
        worldmodel loop --env doom/take-cover --rounds 3 --out runs/take-cover-loop
    """

    out: Path
    """The directory to write."""
    env: str = DEFAULT_ENV
    """Short name (see `worldmodel envs`) or any gymnasium id."""
    rounds: int = 3
    """Number of rounds."""
    env_options: Annotated[EnvOptions, tyro.conf.arg(name="")] = field(default_factory=EnvOptions)
    first: RecordingConfig = field(default_factory=lambda: RecordingConfig("sticky", "random=0.4", episodes=1000))
    """The first recording."""
    later: RecordingConfig = field(default_factory=lambda: RecordingConfig(mix="random=0.1"))
    """The recording of each later round. Clips of all rounds are equally likely, so its number of episodes gives the
    share of new data."""
    world: WorldConfig = field(default_factory=WorldConfig)
    """Sizes of the world, and its training in the first round."""
    later_world: float = 0.5
    """Length of the training of a later world, relative to the first one's."""
    continue_tokenizer: bool = False
    """Later rounds continue the tokenizer too, not the prior alone."""
    learner: LearnerConfig = field(default_factory=LearnerConfig)
    """Training of the policy in the first round."""
    later_learner: float = 0.5
    """Length of a later training of the policy, relative to the first one's."""
    test_episodes: int = 100
    """Episodes of the policy, and of random and periodic play, in the environment."""
    dream_episodes: int = 64
    """Episodes of the policy in dreams."""
    metrics: str = ""
    """Metrics of `eval world` that are measured on the validation split in each round, separated by commas."""
    seed: int = 0
    """Round K uses the seed 1000 * seed + K."""
    workers: int = 2
    """Processes that record and test."""
    device: str = "auto"
    """auto, cpu or cuda."""
    preset: str = ""
    """Set by --preset."""
    force: bool = False
    """Begin anew: remove an existing --out."""
    json: bool = False
    """Print the table as JSON."""

    PRESETS: ClassVar[dict[str, RoundsConfig]] = {}

    def __post_init__(self) -> None:
        for name in ("rounds", "workers", "test_episodes", "dream_episodes"):
            least = 2 if name.endswith("episodes") else 1
            if getattr(self, name) < least:
                raise UserError(f"{name}={getattr(self, name)}: wanted at least {least}.")
        if not 0 <= self.seed < 2**22:
            raise UserError(f"seed={self.seed}: wanted an integer from 0 to 2**22 - 1.")
        for name in ("later_world", "later_learner"):
            if not 0 < getattr(self, name) <= 100:
                raise UserError(f"{name}={getattr(self, name)}: wanted a number above 0, at most 100.")
        if not self.first.policy:
            raise UserError("first.policy='': wanted a policy, such as sticky; there is no round before the first.")
        for recording in (self.first, self.later):
            parse_mix(recording.mix)

    @classmethod
    def defaults(cls, arguments: list[str]) -> RoundsConfig:
        """Defaults for the environment in the arguments: its preset, else its settings of `train policy`."""
        env = flag_value("--env", arguments, DEFAULT_ENV)
        return cls.PRESETS.get(env) or cls(out=tyro.MISSING, env=env, learner=dream_learner_config(env))

    def seed_of(self, number: int) -> int:
        """The seed of a round, numbered from 1."""
        return 1000 * self.seed + number

    def recording_of(self, number: int) -> RecordingConfig:
        """What is recorded in a round."""
        return self.first if number == 1 else self.later

    def world_of(self, number: int) -> WorldConfig:
        """The training of a round's world."""
        factor = 1.0 if number == 1 else self.later_world
        return replace(
            self.world,
            seed=self.world.seed + self.seed_of(number),
            train_tokenizer=_scaled(self.world.train_tokenizer, factor),
            train_prior=_scaled(self.world.train_prior, factor),
        )

    def learner_of(self, number: int) -> LearnerConfig:
        """The training of a round's policy."""
        factor, learner = 1.0 if number == 1 else self.later_learner, self.learner
        minutes = None if learner.minutes is None else learner.minutes * factor
        return replace(learner, decisions=max(1, round(learner.decisions * factor)), minutes=minutes)


def _scaled(loop: LoopConfig, factor: float) -> LoopConfig:
    """A training loop of another length."""
    num_steps = max(1, round(loop.num_steps * factor)) if loop.num_steps else 0
    return replace(loop, minutes=loop.minutes * factor, num_steps=num_steps, min_steps=round(loop.min_steps * factor))


_TOY, _TINY = WORLD_PRESETS["toy"], WORLD_PRESETS["tiny"]
_TOY_LEARNER = dream_learner_config("toy")

RoundsConfig.PRESETS.update(
    {
        # Rollouts of 64 x 32 decisions: those of `train policy`, 32 x 16, learned a worse policy in as many minutes.
        "doom/take-cover": RoundsConfig(
            out=tyro.MISSING,
            env="doom/take-cover",
            first=RecordingConfig(
                TAKE_COVER_COVERAGE.policy,
                TAKE_COVER_COVERAGE.mix,
                TAKE_COVER_COVERAGE.epsilons,
                TAKE_COVER_COVERAGE.episodes,
            ),
            later=RecordingConfig(mix="random=0.1,periodic:6-60=0.2", epsilons=(0.0, 0.05, 0.2), episodes=300),
            world=WORLD_PRESETS["doom-take-cover-small"],
            learner=replace(
                dream_learner_config("doom/take-cover"),
                num_envs=64,
                rollout_steps=32,
                batch_size=512,
                learning_rate=7e-4,
                decisions=10**7,
                minutes=20.0,
            ),
        ),
        "toy": RoundsConfig(
            out=tyro.MISSING,
            env="toy",
            rounds=2,
            env_options=EnvOptions(size=(16, 16)),
            first=RecordingConfig("sticky", "random=0.4", (0.0,), 600),
            later=RecordingConfig(mix="random=0.1", episodes=200),
            world=replace(
                _TOY,
                train_tokenizer=replace(_TOY.train_tokenizer, num_steps=600),
                train_prior=replace(_TOY.train_prior, num_steps=1000),
            ),
            learner=replace(_TOY_LEARNER, decisions=30_000),
        ),
        # For tests: seconds, and a useless policy.
        "tiny": RoundsConfig(
            out=tyro.MISSING,
            env="toy",
            rounds=2,
            env_options=EnvOptions(size=(16, 16)),
            first=RecordingConfig("sticky", "random=0.4", episodes=40),
            later=RecordingConfig(mix="random=0.2", episodes=10),
            world=replace(
                _TINY,
                train_tokenizer=replace(_TINY.train_tokenizer, num_steps=20, validations=0),
                train_prior=replace(_TINY.train_prior, num_steps=20, validations=0),
            ),
            learner=replace(
                _TOY_LEARNER, decisions=128, num_envs=8, rollout_steps=8, batch_size=64, epochs=1, width=4
            ),
            test_episodes=4,
            dream_episodes=4,
            workers=1,
        ),
    }
)  # fmt: skip
