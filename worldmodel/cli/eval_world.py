"""The verb `eval world`: its config, and its function, which brings the policies to the metrics."""

from __future__ import annotations

import json
from dataclasses import dataclass, field
from pathlib import Path
from typing import TYPE_CHECKING

import numpy as np
import tyro

from worldmodel.common.errors import UserError

if TYPE_CHECKING:
    from worldmodel.data import Dataset
    from worldmodel.data.header import PolicyRecord
    from worldmodel.metrics import PolicyFactory


@dataclass(frozen=True)
class Draw:
    """How the dreamed codes are drawn."""

    temperature: float = 1.0
    """Logits are divided by it; 0 takes the most likely code."""
    top_k: int = 0
    """Only the k most likely codes; 0 keeps all."""
    top_p: float = 1.0
    """Only the most likely codes that together hold this probability."""


@dataclass(frozen=True)
class EvalWorld:
    """Judge a learned world on held-out recordings: free runs first, then likelihood, prediction, ends, pixels.

    The scripted policies that the dataset names are played in the dream and held against their recorded episodes.
    Every figure stands beside what trivial rivals reach. Metrics are rows of `worldmodel.metrics.METRICS`.

    Example:
        worldmodel eval world runs/cover/world --data cover.h5 --out runs/cover/judged.json
    """

    world: tyro.conf.Positional[Path]
    """The world directory."""
    data: tuple[Path, ...]
    """Dataset files."""
    split: str = "test"
    """Whose episodes: test, validation or train."""
    clips: int = 256
    """Clips for likelihood, prediction and reconstruction."""
    ahead: int = 15
    """Frames predicted freely after the world's context."""
    horizon: int = 80
    """Steps of a free run."""
    rows: int = 64
    """Free runs of each policy."""
    seed: int = 0
    """Of clips, starts, policies and dreams."""
    metrics: str = ""
    """Names with commas between; all if not given."""
    sampling: Draw = field(default_factory=Draw)
    """How the dreamed codes are drawn."""
    out: Path | None = None
    """Write JSON here."""
    force: bool = False
    """Replace what stands at --out."""
    json: bool = False
    """Print JSON."""
    device: str = "auto"
    """auto, cpu or cuda."""


def eval_world(config: EvalWorld) -> None:
    """Judge and print; a bar on stderr."""
    from worldmodel.cli.data_commands import progress_bar
    from worldmodel.common.files import atomic_path
    from worldmodel.common.run_info import machine, run_info
    from worldmodel.common.runtime import choose_runtime
    from worldmodel.data import Dataset
    from worldmodel.metrics import EvaluationSettings, evaluate, table
    from worldmodel.metrics.metric_registry import select_metrics
    from worldmodel.prior.sampling import Sampling
    from worldmodel.world.world_model import WorldModel

    if config.seed < 0:
        raise UserError(f"--seed {config.seed}: wanted 0 or more.")
    if config.out is not None and config.out.exists() and not config.force:
        raise UserError(f"{config.out} exists; choose another --out, or --force to replace it.")
    if not config.data:
        raise UserError("eval world: name at least one dataset with --data FILE.")
    names = tuple(name for name in config.metrics.split(",") if name)
    select_metrics(names)
    settings = EvaluationSettings(
        split=config.split,
        clips=config.clips,
        ahead=config.ahead,
        horizon=config.horizon,
        rows=config.rows,
        seed=config.seed,
        sampling=Sampling(**vars(config.sampling)),
        metrics=names,
    )
    world = WorldModel.from_pretrained(config.world, choose_runtime(config.device).device)
    with Dataset.open_cropped(list(config.data), world.spec.pixels) as data, progress_bar() as progress:
        result = evaluate(world, data, policies_of(data), settings, progress)
    if config.out is not None:
        config.out.parent.mkdir(parents=True, exist_ok=True)
        about = {"machine": machine(), **run_info("eval world", config)}
        with atomic_path(config.out) as temporary:
            temporary.write_text(json.dumps({**result, **about}, indent=1) + "\n")
    print(json.dumps(result) if config.json else table(result))


def policies_of(data: Dataset) -> dict[str, PolicyFactory]:
    """The scripted policies that a dataset names, by their names there; learned ones cannot be built from it."""
    found = {}
    for record in data.header.policies:
        player = policy_factory(record, data)
        if player is not None:
            found[record.name] = player
    return found


def policy_factory(record: PolicyRecord, data: Dataset) -> PolicyFactory | None:
    """A recorded policy as `worldmodel.metrics` plays it; None if the record does not say how it acts."""
    from collections.abc import Callable

    from worldmodel.collect.policy_specs import SCRIPTED, PolicySpec

    params = dict(record.params)
    kind = str(params.pop("kind", record.name))
    epsilon = float(params.pop("epsilon", 0.0))
    if kind not in SCRIPTED or (kind == "periodic" and "actions" not in params):
        return None
    spec = PolicySpec(record.name, kind, params, epsilon=epsilon)
    space = data.header.action_space

    def begin(seed: int, rows: int) -> Callable[[np.ndarray], np.ndarray]:
        policies = [spec.build(space) for _ in range(rows)]
        for row, policy in enumerate(policies):
            policy.begin(np.random.default_rng([seed, row]))

        def act(frames: np.ndarray) -> np.ndarray:
            actions = [policy.act(frame) for policy, frame in zip(policies, frames, strict=True)]
            return np.asarray(actions, space.dtype)

        return act

    return begin
