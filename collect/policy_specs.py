"""Policies as data: parsed from user input, sent to worker processes, stored in datasets."""

from __future__ import annotations

import hashlib
import json
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any

import numpy as np

from worldmodel.collect.collect_config import LearnerConfig
from worldmodel.collect.policies import (
    PERIOD,
    STICK,
    LearnedPolicy,
    NoisyPolicy,
    PeriodicPolicy,
    Policy,
    RandomPolicy,
    StickyPolicy,
)
from worldmodel.common.errors import UserError, unknown_name
from worldmodel.common.memory import keep_freed_memory
from worldmodel.common.spaces import Box, Discrete, MultiBinary, MultiDiscrete, Space, check_actions, from_gymnasium

SCRIPTED = ("random", "sticky", "periodic")


@dataclass(frozen=True)
class PolicySpec:
    """A policy as data.

    Attributes:
        name: its name in the dataset ("periodic", "ppo").
        kind: random, sticky, periodic or file.
        params: parameters of the policy, JSON values.
        path: the .zip of kind "file".
        hash: sha256 of the file, or of kind and params.
        share: share of episodes that it plays, in (0, 1].
        epsilon: share of steps with a random action.
    """

    name: str
    kind: str
    params: dict[str, Any] = field(default_factory=dict)
    path: str = ""
    hash: str = ""
    share: float = 1.0
    epsilon: float = 0.0

    def build(self, space: Space) -> Policy:
        """Make the policy.

        Raises:
            UserError: the policy file changed since its hash was taken.
        """
        policy: Policy
        if self.kind == "random":
            policy = RandomPolicy(space)
        elif self.kind == "sticky":
            policy = StickyPolicy(space, **self.params)
        elif self.kind == "periodic":
            policy = PeriodicPolicy(**self.params)
        else:
            policy = load_policy_file(self)
        return NoisyPolicy(policy, space, self.epsilon) if self.epsilon > 0 else policy


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
    low, high = (np.nan_to_num(bound, posinf=1.0, neginf=-1.0) for bound in space._bounds())
    return [low.tolist(), high.tolist()]


def parse_policy(text: str, space: Space, defaults: dict[str, Any], epsilon: float = 0.0) -> PolicySpec:
    """Parse a policy name of the command line.

    Args:
        text: random, sticky[:STICK], periodic[:PERIOD], FILE.zip, or a directory of `train policy`.
        space: the environment's action space.
        defaults: the environment's default parameters per kind, e.g. {"periodic": {"actions": [1, 2]}}.
        epsilon: share of steps with a random action.

    Raises:
        UserError: an unknown name, a missing file, or actions outside the space.
    """
    kind, _, value = text.partition(":")
    if kind not in SCRIPTED:
        path = Path(text)
        path = path / "policy.zip" if path.is_dir() else path
        if path.suffix == ".zip" or path.exists():
            return describe_policy_file(path, epsilon)
        raise unknown_name("policy", text, [*SCRIPTED, "ppo", "sac", "FILE.zip"])
    params = dict(defaults.get(kind, {}))
    try:
        if kind == "periodic":
            params.setdefault("actions", default_cycle(space))
            check_actions(space, params["actions"], "periodic actions")
            params["period"] = int(value) if value else int(params.get("period", PERIOD))
        elif kind == "sticky":
            params["stick"] = float(value) if value else float(params.get("stick", STICK))
    except ValueError as error:
        if isinstance(error, UserError):
            raise
        raise UserError(f"policy {text!r}: {value!r} is not a number.") from None
    return PolicySpec(text, kind, params, "", _digest(kind, params), 1.0, epsilon)


def describe_policy_file(path: Path, epsilon: float = 0.0, name: str = "") -> PolicySpec:
    """Describe a Stable-Baselines3 file, with the policy.json that `train policy` writes next to it.

    Raises:
        UserError: missing, or not an SB3 file.
    """
    if not path.is_file():
        raise UserError(f"no policy file at {path}; train one with 'worldmodel train policy'.")
    content = path.read_bytes()
    settings_path = path.with_suffix(".json")
    params: dict[str, Any] = {}
    if settings_path.exists():
        saved = json.loads(settings_path.read_text())
        params = {"learner": saved["learner"]}
        name = name or saved["learner"]["algo"]
    else:
        params = {"learner": {"algo": _guess_algorithm(path)}}
        name = name or params["learner"]["algo"]
    return PolicySpec(name, "file", params, str(path.resolve()), hashlib.sha256(content).hexdigest(), 1.0, epsilon)


def _guess_algorithm(path: Path) -> str:
    """The algorithm of an SB3 file, inferred from its hyperparameters: the file does not name it."""
    import zipfile

    try:
        with zipfile.ZipFile(path) as archive:
            keys = set(json.loads(archive.read("data")))
    except (zipfile.BadZipFile, KeyError, ValueError):
        raise UserError(f"{path} is not a Stable-Baselines3 file (a .zip with 'data' and weights).") from None
    if "clip_range" in keys:
        return "ppo"
    if "target_entropy" in keys:
        return "sac"
    if "exploration_rate" in keys:
        return "dqn"
    return "a2c"


def load_policy_file(spec: PolicySpec) -> LearnedPolicy:
    """Load a Stable-Baselines3 file. It contains pickles, which can run code: load only files that you trust.

    Raises:
        UserError: the file changed since its hash was taken.
    """
    content = Path(spec.path).read_bytes()
    if hashlib.sha256(content).hexdigest() != spec.hash:
        raise UserError(f"{spec.path} changed since the recording was started; its hash was {spec.hash[:12]}….")
    import stable_baselines3
    import torch

    keep_freed_memory()
    torch.set_num_threads(1)
    settings = dict(spec.params["learner"])
    deterministic = bool(settings.pop("deterministic", False))
    for key in ("view",):
        if settings.get(key) is not None:
            settings[key] = tuple(settings[key])
    learner = LearnerConfig(**{"frame_stack": 1, **settings})
    model = getattr(stable_baselines3, learner.algo.upper()).load(spec.path, device="cpu")
    return LearnedPolicy(model, learner, deterministic)


def check_policy_fits(spec: PolicySpec, space: Space, frame_shape: tuple[int, int, int]) -> None:
    """Refuse a policy file that was trained for other spaces.

    Raises:
        UserError: its action space or the shape of its observations differs from the environment's.
    """
    if spec.kind != "file":
        return
    policy = load_policy_file(spec)
    model_space = from_gymnasium(policy.model.action_space)
    both_boxes = isinstance(model_space, Box) and isinstance(space, Box)
    if model_space.shape != space.shape if both_boxes else model_space != space:
        raise UserError(f"{spec.path} acts in {model_space}, but the environment takes {space}.")
    height, width, channels = frame_shape
    if policy.learner.view is not None:
        top, bottom, left, right = policy.learner.view
        height, width = min(bottom, height) - top, min(right, width) - left
    shape = (height, width, channels * policy.learner.frame_stack)
    model_shape = policy.model.observation_space.shape
    if model_shape not in (shape, (shape[2], shape[0], shape[1])):
        raise UserError(
            f"{spec.path} observes {model_shape}, but the environment gives {shape} (rows, columns, stacked channels); "
            "use the size, crop and frame stack of its training."
        )


def mix_policies(base: PolicySpec, others: list[PolicySpec]) -> tuple[PolicySpec, ...]:
    """The policies of a recording: the base policy plays the share of episodes that the others leave."""
    rest = 1.0 - sum(spec.share for spec in others)
    specs = ([replace(base, share=rest)] if rest > 1e-9 else []) + others
    names = [spec.name for spec in specs]
    duplicates = {name for name in names if names.count(name) > 1}
    if duplicates:
        raise UserError(f"policies must have distinct names; got {sorted(duplicates)} twice.")
    return tuple(specs)


def choose_policy(shares: list[float], seed: int, index: int) -> int:
    """Index of the policy that plays an episode: a pure function of (seed, index).

    The golden-ratio sequence with an offset from the seed covers [0, 1) more evenly than independent samples: after
    n episodes each policy has played n * share of them, to within a few.
    """
    start = np.random.SeedSequence(seed, spawn_key=(2,)).generate_state(1)[0] / 2**32
    u = (start + index * 0.6180339887498949) % 1.0
    return int(np.searchsorted(np.cumsum(shares)[:-1], u, side="right"))
