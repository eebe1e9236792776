"""What can be asked of `worldmodel collect`, `train policy` and `eval policy`. Light to import."""

from __future__ import annotations

from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Annotated, ClassVar, Literal

import tyro

from worldmodel.common.errors import UserError


@dataclass(frozen=True)
class Screen:
    """Options of the environment that change what is seen or when an episode stops."""

    size: tuple[int, int] = (64, 64)
    """Rows and columns of the whole picture."""
    crop: tuple[int, int, int, int] | None = None
    """Top, bottom, left, right kept of it."""
    hud: bool = False
    """ViZDoom: draw the status bar (health becomes visible)."""
    max_steps: int | None = None
    """Truncate episodes after this many steps; the environment's own cap if not given."""

    def kwargs(self) -> dict[str, object]:
        """Keyword arguments of `worldmodel.envs.make`, defaults left out."""
        out: dict[str, object] = {}
        if self.size != (64, 64):
            out["size"] = self.size
        if self.crop is not None:
            out["crop"] = self.crop
        if self.hud:
            out["hud"] = True
        if self.max_steps is not None:
            out["max_steps"] = self.max_steps
        return out


@dataclass(frozen=True)
class LearnerConfig:
    """How Stable-Baselines3 trains a policy. One decision is `hold` environment steps."""

    algo: Literal["ppo", "a2c", "dqn", "sac"] = "ppo"
    """The algorithm; sac needs a continuous (Box) action space, dqn a Discrete one."""
    decisions: int = 200_000
    """Length of the training."""
    minutes: float | None = None
    """Stop after this time even if `decisions` is not reached."""
    num_envs: int = 8
    """Environments stepped side by side, each in a process of its own; dreams are one batch."""
    frame_stack: int = 4
    """Frames that the policy sees."""
    view: tuple[int, int, int, int] | None = None
    """Top, bottom, left, right of the frame that the policy sees; all of it if not given."""
    hold: int = 1
    """Environment steps that each action is held."""
    reward: Literal["env", "health"] = "env"
    """What is maximised: the environment's reward, or the change of its variable `health` (in hundredths)."""
    reward_scale: float = 1.0
    """Factor on the reward that the learner sees."""
    learning_rate: float = 3e-4
    gamma: float = 0.99
    rollout_steps: int = 128
    """PPO and A2C: decisions of each environment between updates."""
    batch_size: int = 256
    epochs: int = 4
    """PPO: passes over a rollout."""
    entropy: float = 0.01
    """PPO and A2C: weight of the entropy bonus."""
    buffer_size: int = 20_000
    """DQN and SAC: decisions kept."""
    width: int = 32
    """Channels of the first convolution."""
    checkpoint_seconds: float = 30.0
    """Time between checkpoints."""

    def __post_init__(self) -> None:
        least = ("decisions", "num_envs", "frame_stack", "hold", "rollout_steps", "batch_size", "epochs", "width")
        for name in least:
            if getattr(self, name) < 1:
                raise UserError(f"learner.{name}={getattr(self, name)}: wanted at least 1.")
        if self.minutes is not None and self.minutes <= 0:
            raise UserError(f"learner.minutes={self.minutes}: wanted a positive number.")


# What works for an environment, measured (docs/policies.md).
LEARNER_PRESETS: dict[str, LearnerConfig] = {
    "doom/take-cover": LearnerConfig(view=(20, 52, 0, 64), hold=4, reward="health", gamma=0.95),
    "toy": LearnerConfig(learning_rate=1e-3, rollout_steps=64, batch_size=128, gamma=0.97),
    "toy/continuous": LearnerConfig(learning_rate=1e-3, rollout_steps=64, batch_size=128, gamma=0.97),
}


def _env_of(arguments: list[str], default: str) -> str:
    for i, word in enumerate(arguments):
        if word == "--env" and i + 1 < len(arguments):
            return arguments[i + 1]
        if word.startswith("--env="):
            return word[6:]
    return default


def learner_config(env: str, algo: str | None = None) -> LearnerConfig:
    """The measured settings for an environment, else the general ones."""
    learner = LEARNER_PRESETS.get(env, LearnerConfig())
    return learner if algo is None else replace(learner, algo=algo)  # type: ignore[arg-type]


def dream_learner_config(env: str) -> LearnerConfig:
    """The settings to learn an environment's policy in a dream: many rows in one batch, short rollouts."""
    return replace(learner_config(env), num_envs=32, rollout_steps=16, learning_rate=1e-3)


@dataclass(frozen=True)
class Collect:
    """Play an environment and record whole episodes to one dataset file.

    Stopped at any moment, the same command goes on where it stopped. A policy FILE is a Stable-Baselines3 .zip,
    which is a Python pickle: load only files that you trust.

    Example:
        worldmodel collect --env doom/take-cover --policy periodic --mix random=0.3 --episodes 40 --out cover.h5
    """

    out: Path
    """The dataset to make, NAME.h5."""
    env: str = "doom/take-cover"
    """Short name (see `worldmodel envs`) or any gymnasium id."""
    policy: str = "random"
    """random, sticky, periodic, ppo, sac (trained first), or FILE.zip."""
    mix: str = ""
    """Shares of episodes played by other policies: 'random=0.2,periodic=0.2'."""
    epsilon: float = 0.0
    """Share of random steps within the episodes of every policy."""
    episodes: int = 1000
    """How many, over all shards."""
    seed: int = 0
    workers: int = 2
    """Processes that record; changes nothing in the file."""
    shard: str = ""
    """'i/n': record only the episodes e with e mod n = i. Empty: RANK and WORLD_SIZE if set, else all."""
    screen: Annotated[Screen, tyro.conf.arg(name="")] = field(default_factory=Screen)
    learner: LearnerConfig = field(default_factory=LearnerConfig)
    """For ppo and sac."""
    preset: str = ""
    """Set by --preset."""
    force: bool = False
    """Remove what stands at --out first."""
    json: bool = False
    """Print the result as JSON."""

    PRESETS: ClassVar[dict[str, Collect]] = {}

    @classmethod
    def defaults(cls, arguments: list[str]) -> Collect:
        """The defaults for the environment that is named in the arguments."""
        return cls(out=tyro.MISSING, learner=learner_config(_env_of(arguments, "doom/take-cover")))


Collect.PRESETS.update(
    {
        # VideoGPT section 4.1: rollouts of the final policies, 1000 episodes of 100 steps, split 8:1:1. An episode
        # that ends earlier is kept as it is and counted (`worldmodel data info`): dropping it would hide deaths.
        "paper-health-gathering-supreme": Collect(
            out=tyro.MISSING, env="doom/health-gathering-supreme", policy="ppo", screen=Screen(max_steps=100)
        ),
        "paper-take-cover": Collect(
            out=tyro.MISSING,
            env="doom/take-cover",
            policy="ppo",
            screen=Screen(max_steps=100),
            learner=LEARNER_PRESETS["doom/take-cover"],
        ),
        # Mixed play in which both dodging and dying are seen; what `worldmodel demo` records.
        "take-cover-mixed": Collect(
            out=tyro.MISSING,
            env="doom/take-cover",
            policy="periodic",
            mix="random=0.35,sticky=0.25",
            episodes=300,
        ),
    }
)


@dataclass(frozen=True)
class TrainPolicy:
    """Train a policy with Stable-Baselines3, in a real environment or (--world) in a learned one.

    A policy that learned in a dream is tested outside it at the end, beside random and periodic play.

    Writes policy.zip (a pickle, as all SB3 files), policy.json (how to run it), curve.jsonl and TensorBoard logs.
    The same command continues a stopped training from its last checkpoint (continues, not repeats exactly).

    Example:
        worldmodel train policy --env toy --learner.decisions 20000 --out runs/toy-policy
    """

    out: Path
    """The directory to make."""
    env: str = "doom/take-cover"
    """Short name (see `worldmodel envs`) or any gymnasium id; with --world, where the policy is tested."""
    seed: int = 0
    screen: Annotated[Screen, tyro.conf.arg(name="")] = field(default_factory=Screen)
    learner: LearnerConfig = field(default_factory=LearnerConfig)
    world: Path | None = None
    """Learn in this world directory instead of the environment."""
    test_episodes: int = 100
    """With --world: episodes outside the dream, on seeds that nothing else uses; 0 tests nothing."""
    device: str = "auto"
    """auto, cpu or cuda: where the policy learns and, with --world, where it is dreamed."""
    preset: str = ""
    """Set by --preset."""
    force: bool = False
    """Remove what stands at --out first."""
    json: bool = False
    """Print the result as JSON."""

    def __post_init__(self) -> None:
        if self.seed < 0 or self.test_episodes < 0 or self.test_episodes == 1:
            raise UserError(
                f"seed={self.seed}, test_episodes={self.test_episodes}: wanted 0 or more, and 0 or at least 2."
            )

    @classmethod
    def defaults(cls, arguments: list[str]) -> TrainPolicy:
        """The defaults for the environment that is named in the arguments, in it or in a dream."""
        env = _env_of(arguments, "doom/take-cover")
        dreams = any(word.split("=")[0] == "--world" for word in arguments)
        return cls(out=tyro.MISSING, learner=dream_learner_config(env) if dreams else learner_config(env))


@dataclass(frozen=True)
class EvalPolicy:
    """Play policies on the same fixed test seeds and compare them, paired by seed.

    Example:
        worldmodel eval policy random periodic --env toy --episodes 50
    """

    policies: tyro.conf.Positional[tuple[str, ...]]
    """random, sticky, periodic, periodic:32 (its period in steps), FILE.zip or a directory of `train policy`."""
    env: str = "doom/take-cover"
    episodes: int = 100
    first_seed: int = 1_000_000
    """Test seeds are first_seed, first_seed + 1, ...; collecting never uses them."""
    workers: int = 2
    screen: Annotated[Screen, tyro.conf.arg(name="")] = field(default_factory=Screen)
    out: Path | None = None
    """Write the table as JSON here too."""
    json: bool = False
    """Print the result as JSON."""


def parse_mix(mix: str) -> dict[str, float]:
    """'random=0.2,periodic=0.3' -> {"random": 0.2, "periodic": 0.3}.

    Raises:
        UserError: not of that form, a share outside (0, 1], or shares that sum to more than 1.
    """
    shares: dict[str, float] = {}
    for part in filter(None, (p.strip() for p in mix.split(","))):
        name, _, share = part.rpartition("=")
        try:
            value = float(share)
        except ValueError:
            value = -1.0
        if not name or not 0 < value <= 1:
            raise UserError(f"mix {part!r}: wanted NAME=SHARE with a share between 0 and 1, as random=0.2.")
        if name in shares:
            raise UserError(f"mix names {name!r} twice.")
        shares[name] = value
    if sum(shares.values()) > 1 + 1e-9:
        raise UserError(f"mix {mix!r}: the shares sum to {sum(shares.values()):.3g}, more than 1.")
    return shares


def parse_shard(shard: str, environment: dict[str, str]) -> tuple[int, int]:
    """'i/n' -> (i, n); empty takes RANK and WORLD_SIZE, else (0, 1).

    Raises:
        UserError: not of that form, or i outside 0..n-1.
    """
    text = shard or f"{environment.get('RANK', '0')}/{environment.get('WORLD_SIZE', '1')}"
    i, _, n = text.partition("/")
    if not (i.isdigit() and n.isdigit() and int(i) < int(n)):
        raise UserError(f"shard {text!r}: wanted i/n with 0 <= i < n, as 0/4.")
    return int(i), int(n)
