"""Policies as data: parsed from user input, sent to worker processes, stored in datasets."""

from __future__ import annotations

import hashlib
import json
from collections.abc import Sequence
from dataclasses import asdict, dataclass, field, replace
from pathlib import Path
from typing import Any

import numpy as np

from worldmodel.collect.learner_config import LearnerConfig
from worldmodel.collect.lookahead_spec import PREFIX, LookaheadConfig, lookahead_policy, parse_lookahead
from worldmodel.collect.policies import (
    PERIOD,
    STICK,
    NoisyPolicy,
    PeriodicPolicy,
    Policy,
    RandomPolicy,
    StickyPolicy,
)
from worldmodel.collect.policy_files import file_hash, guess_algorithm
from worldmodel.common.errors import UserError, unknown_name
from worldmodel.common.files import expand_path
from worldmodel.common.memory import keep_freed_memory
from worldmodel.common.spaces import Discrete, MultiBinary, MultiDiscrete, NoAction, Space, check_actions
from worldmodel.data.header import PolicyRecord
from worldmodel.envs.env_registry import scripted_policy

BUILT_IN = ("random", "sticky", "periodic")


@dataclass(frozen=True)
class PolicySpec:
    """A policy as data.

    Attributes:
        name: its name in the dataset ("periodic", "ppo").
        kind: random, sticky, periodic, scripted (a class that the environment's row declares) or file.
        params: parameters of the policy, JSON values. Those of a scripted policy contain its "entry_point".
        path: the .zip of kind "file".
        hash: sha256 of the file, or of kind and params.
        share: share of episodes that it plays, in (0, 1].
        epsilon: share of steps with a random action.
        epsilons: if not empty, each episode samples its share from these.
    """

    name: str
    kind: str
    params: dict[str, Any] = field(default_factory=dict)
    path: str = ""
    hash: str = ""
    share: float = 1.0
    epsilon: float = 0.0
    epsilons: tuple[float, ...] = ()

    def build(self, space: Space, env: Any = None) -> Policy:
        """Make the policy.

        Args:
            space: the environment's action space.
            env: the `PixelEnv`, for the kinds "file" and "scripted"; None in a dream.

        Raises:
            UserError: the policy file changed since its hash was taken, it does not fit the environment, or a scripted
                policy needs the privileged state of an environment and there is none.
        """
        policy: Policy
        if self.kind == "random":
            policy = RandomPolicy(space)
        elif self.kind == "sticky":
            policy = StickyPolicy(space, **self.params)
        elif self.kind == "periodic":
            policy = PeriodicPolicy(**self.params)
        elif self.kind == "scripted":
            policy = _scripted_policy(self, space, env)
        else:
            policy = load_policy_file(self, env)
        is_noisy = self.epsilon > 0 or self.epsilons
        return NoisyPolicy(policy, space, self.epsilon, self.epsilons) if is_noisy else policy

    def record(self) -> PolicyRecord:
        """The policy as the header of a dataset stores it."""
        noise = {"epsilon": self.epsilon, **({"epsilons": list(self.epsilons)} if self.epsilons else {})}
        return PolicyRecord(self.name, self.hash, {"kind": self.kind, **noise, **self.params}, self.share)


def _scripted_policy(spec: PolicySpec, space: Space, env: Any) -> Policy:
    """A policy of the environment's row; its privileged state is enabled if the policy uses it."""
    params = dict(spec.params)
    policy_class = scripted_policy(params.pop("entry_point"))
    if uses_privileged_state(policy_class):
        if env is None:
            raise UserError(f"policy {spec.name!r} uses the privileged state of the environment; a dream has none.")
        env.enable_privileged_state()
    policy: Policy = policy_class(space, env, **params)
    return policy


def uses_privileged_state(policy_class: Any) -> bool:
    """Whether a policy needs `PixelEnv.privileged_state`."""
    return bool(getattr(policy_class, "uses_privileged_state", False))


def _digest(kind: str, params: dict[str, Any]) -> str:
    return hashlib.sha256(json.dumps([kind, params], sort_keys=True).encode()).hexdigest()


def default_cycle(space: Space) -> list[Any]:
    """The cycle of actions of `periodic` for an environment without defaults."""
    if isinstance(space, Discrete):
        return list(range(space.n))
    if isinstance(space, MultiDiscrete):
        return [[min(k, n - 1) for n in space.nvec] for k in range(max(space.nvec))]
    if isinstance(space, MultiBinary):
        return [[int(i == k) for i in range(space.n)] for k in range(space.n)]
    if isinstance(space, NoAction):
        return [[]]
    return [list(corner) for corner in zip(*map(_finite_interval, space.low, space.high), strict=True)]


def _finite_interval(low: float | None, high: float | None) -> tuple[float, float]:
    """The bounds of a component of a Box; a missing one is replaced by -1 or 1, or by one unit from the other."""
    if low is None:
        low = -1.0 if high is None else min(-1.0, high - 1.0)
    return low, max(1.0, low + 1.0) if high is None else high


def parse_policy(text: str, space: Space, defaults: dict[str, Any], epsilon: float = 0.0) -> PolicySpec:
    """Parse a policy name of the command line.

    Args:
        text: random, sticky[:STICK], periodic[:PERIOD], periodic:FIRST-LAST (each episode samples its period from
            this range), a scripted policy of the environment, FILE.zip, a directory of `train policy`, or
            lookahead:POLICY:WORLD, such a file or directory that compares its actions in dreams of a world.
        space: the environment's action space.
        defaults: the environment's default parameters per kind, e.g. {"periodic": {"actions": [1, 2]}}. Its
            "reserved_periods" are left out of a range of periods.
        epsilon: share of steps with a random action.

    Raises:
        UserError: an unknown name, a missing file, or actions outside the space.
    """
    kind, _, value = text.partition(":")
    if "entry_point" in defaults.get(text, {}):
        params = dict(defaults[text])
        return PolicySpec(text, "scripted", params, "", _digest("scripted", params), 1.0, epsilon)
    if kind == PREFIX:
        path, lookahead = parse_lookahead(text)
        return describe_policy_file(path, epsilon, lookahead=lookahead)
    if kind not in BUILT_IN:
        path = expand_path(text)
        path = path / "policy.zip" if path.is_dir() else path
        if path.suffix == ".zip" or path.exists():
            return describe_policy_file(path, epsilon)
        scripted = [name for name, params in defaults.items() if "entry_point" in params]
        raise unknown_name("policy", text, [*BUILT_IN, *scripted, "ppo", "sac", "FILE.zip", "lookahead:POLICY:WORLD"])
    params = dict(defaults.get(kind, {}))
    try:
        if kind == "periodic":
            params.setdefault("actions", default_cycle(space))
            check_actions(space, params["actions"], "periodic actions")
            params |= _period_params(value or str(params.pop("period", PERIOD)), params.pop("reserved_periods", ()))
        elif kind == "sticky":
            params["stick"] = float(value) if value else float(params.get("stick", STICK))
    except ValueError as error:
        if isinstance(error, UserError):
            raise
        raise UserError(f"policy {text!r}: {value!r} is not a number.") from None
    return PolicySpec(text, kind, params, "", _digest(kind, params), 1.0, epsilon)


def parse_noisy_policy(text: str, space: Space, defaults: dict[str, Any]) -> PolicySpec:
    """Parse a policy name of the command line, or NAME@SHARE: "periodic:14@0.3" acts at random in 30 % of its steps.

    Args:
        text, space, defaults: as for `parse_policy`.

    Raises:
        UserError: as `parse_policy`, or a share outside [0, 1].
    """
    inner, separator, value = text.rpartition("@")
    try:
        share = float(value) if separator else 0.0
    except ValueError:  # an @ in the path of a file
        separator, share = "", 0.0
    if not 0 <= share <= 1:
        raise UserError(f"policy {text!r}: the share of random actions is {share}; wanted 0 to 1.")
    return parse_policy(inner if separator else text, space, defaults, share)


def _period_params(text: str, reserved: Sequence[int]) -> dict[str, Any]:
    """ "32" -> {"period": 32}; "6-9" -> {"periods": [6, 7, 8, 9]} without the reserved ones.

    Raises:
        UserError: a range in which no period is left.
        ValueError: not a number.
    """
    first, dash, last = text.partition("-")
    if not dash or not first:
        return {"period": int(text)}
    periods = [period for period in range(int(first), int(last) + 1) if period not in reserved]
    if not periods:
        raise UserError(f"policy 'periodic:{text}': wanted FIRST-LAST with a period that is not reserved, as 6-60.")
    return {"periods": periods}


def describe_policy_file(
    path: Path, epsilon: float = 0.0, name: str = "", lookahead: LookaheadConfig | None = None
) -> PolicySpec:
    """Describe a Stable-Baselines3 file, with the policy.json that `train policy` writes next to it.

    Args:
        path: the .zip.
        epsilon: share of steps with a random action.
        name: by default the algorithm, or "lookahead".
        lookahead: compare its actions in dreams while it plays.

    Raises:
        UserError: missing, or not an SB3 file.
    """
    if not path.is_file():
        raise UserError(f"no policy file at {path}; train one with 'worldmodel train policy'.")
    content = path.read_bytes()
    learner = _saved_learner(path) or {"algo": guess_algorithm(path)}
    params, digest = {"learner": learner}, hashlib.sha256(content).hexdigest()
    if lookahead is not None:
        params["lookahead"], digest = asdict(lookahead), lookahead.digest(digest)
    name = name or (learner["algo"] if lookahead is None else PREFIX)
    return PolicySpec(name, "file", params, str(path.resolve()), digest, 1.0, epsilon)


def _saved_learner(path: Path) -> dict[str, Any] | None:
    """The settings next to a policy file: in NAME.json, or in the run.json of a training that is not finished."""
    run = path.with_name("run.json")
    if path.name == "checkpoint.zip" and run.exists():
        return dict(json.loads(run.read_text())["config"]["learner"])
    settings = path.with_suffix(".json")
    return dict(json.loads(settings.read_text())["learner"]) if settings.exists() else None


def load_policy_file(spec: PolicySpec, env: Any) -> Policy:
    """Load a Stable-Baselines3 file. It contains pickles, which can run code: load only files that you trust.

    Args:
        spec: of kind "file".
        env: the `PixelEnv` that it will act in.

    Raises:
        UserError: the file changed since its hash was taken, or it was trained for other observations or actions.
    """
    digest, lookahead = file_hash(Path(spec.path)), spec.params.get("lookahead")
    if (digest if lookahead is None else LookaheadConfig(**lookahead).digest(digest)) != spec.hash:
        what = spec.path if lookahead is None else f"{spec.path} or the world {lookahead['world']}"
        raise UserError(f"{what} changed since the recording was started; the hash was {spec.hash[:12]}….")
    import stable_baselines3

    from worldmodel.collect.global_state import preserved_global_state
    from worldmodel.collect.learned_policy import model_policy

    keep_freed_memory()
    settings = dict(spec.params["learner"])
    deterministic = bool(settings.pop("deterministic", False))
    algorithm = getattr(stable_baselines3, settings["algo"].upper())
    learner = None
    if len(settings) > 1:  # from policy.json; without it the algorithm is all that is known
        learner = LearnerConfig.from_json(settings)
    with preserved_global_state():
        model = algorithm.load(spec.path, device="cpu")
        if lookahead is not None:
            return lookahead_policy(model, learner, lookahead, env, spec.path)
        return model_policy(model, env, spec.path, learner, deterministic, num_threads=1)


def with_epsilons(spec: PolicySpec, epsilons: Sequence[float]) -> PolicySpec:
    """The policy with a share of random steps that each episode samples from `epsilons`; () changes nothing.

    Raises:
        UserError: a share outside [0, 1], or the policy has a fixed share.
    """
    if not epsilons:
        return spec
    if spec.epsilon or not all(0 <= epsilon <= 1 for epsilon in epsilons):
        raise UserError(f"epsilon={spec.epsilon}, epsilons={tuple(epsilons)}: wanted one of them, from 0 to 1.")
    digest = spec.hash if spec.kind == "file" else _digest(spec.kind, {**spec.params, "epsilons": list(epsilons)})
    return replace(spec, epsilons=tuple(epsilons), hash=digest)


def check_policy_fits(spec: PolicySpec, env: Any) -> None:
    """Refuse a policy file that was trained for other observations or actions.

    Args:
        spec: the policy; only kind "file" can be refused.
        env: the `PixelEnv` that it will act in; it may be closed.

    Raises:
        UserError: the model's space and what the environment has.
    """
    if spec.kind == "file":
        load_policy_file(spec, env)


def mix_policies(base: PolicySpec, others: list[PolicySpec]) -> tuple[PolicySpec, ...]:
    """The policies of a recording: the base policy plays the share of episodes that the others leave.

    Policy files of one algorithm are distinguished by the name of their directory: ppo:runs-a, ppo:runs-b.

    Raises:
        UserError: two policies have the same name.
    """
    rest = 1.0 - sum(spec.share for spec in others)
    specs = ([replace(base, share=rest)] if rest > 1e-9 else []) + others
    shared = _shared_names(specs)
    specs = [
        replace(spec, name=f"{spec.name}:{_folder_name(spec)}") if spec.name in shared and spec.kind == "file" else spec
        for spec in specs
    ]
    if duplicates := _shared_names(specs):
        raise UserError(f"policies must have distinct names; got {sorted(duplicates)} twice.")
    return tuple(specs)


def _shared_names(specs: list[PolicySpec]) -> set[str]:
    """Names that several policies have."""
    names = [spec.name for spec in specs]
    return {name for name in names if names.count(name) > 1}


def _folder_name(spec: PolicySpec) -> str:
    """What distinguishes a policy file: its directory for policy.zip of `train policy`, else its own name."""
    path = Path(spec.path)
    return path.parent.name if path.stem == "policy" else path.stem


def choose_policy(shares: list[float], seed: int, index: int) -> int:
    """Index of the policy that plays an episode: a pure function of (seed, index).

    The golden-ratio sequence with an offset from the seed covers [0, 1) more evenly than independent samples: after
    n episodes each policy has played n * share of them, to within a few.
    """
    start = np.random.SeedSequence(seed, spawn_key=(2,)).generate_state(1)[0] / 2**32
    u = (start + index * 0.6180339887498949) % 1.0
    return int(np.searchsorted(np.cumsum(shares)[:-1], u, side="right"))
