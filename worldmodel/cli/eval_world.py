"""The verb `eval world`, and the scripted policies of a dataset as the metrics run them."""

from __future__ import annotations

import json
from dataclasses import dataclass, field
from pathlib import Path
from typing import TYPE_CHECKING

import tyro

from worldmodel.common.errors import UserError

if TYPE_CHECKING:
    from worldmodel.data import Dataset
    from worldmodel.data.header import PolicyRecord
    from worldmodel.metrics import EnvironmentRules, PolicyFactory


@dataclass(frozen=True)
class SamplingFlags:
    """How the dreamed codes are sampled."""

    temperature: float = 1.0
    """Logits are divided by it; 0 takes the most likely code."""
    top_k: int = 0
    """Sample from the k most likely codes only; 0 keeps all."""
    top_p: float = 1.0
    """Sample from the most likely codes that together have this probability."""


@dataclass(frozen=True)
class EvalWorld:
    """Evaluate a learned world on held-out recordings: free runs, likelihood, prediction, terminations, pixels.

    The scripted policies of the dataset act in the dream, and its rates are compared with their recorded episodes.
    Every figure is compared with trivial baselines. Metrics are rows of `worldmodel.metrics.METRICS`.

    Example:
        worldmodel eval world runs/cover --data cover.h5 --out runs/cover-evaluation.json
    """

    world: tyro.conf.Positional[Path]
    """The world directory."""
    data: tuple[Path, ...]
    """Dataset files."""
    split: str = "test"
    """Evaluate on episodes of this split: test, validation or train."""
    clips: int = 256
    """Clips for likelihood, prediction and reconstruction."""
    ahead: int = 15
    """Frames predicted after the world's context, each from the predicted frames before it."""
    horizon: int = 80
    """Steps of a free run (a dream in which a policy acts)."""
    rows: int = 64
    """Free runs of each policy."""
    seed: int = 0
    """Of clips, starts, policies and dreams."""
    metrics: str = ""
    """Names of metrics or sections, separated by commas; "all" for all but the ladder, fvd, lpips and lpips_vgg, which
    fetch weights; if not given, also without those that train a model of their own."""
    inverse_steps: int = 400
    """Training steps of the inverse dynamics model, which some metrics train."""
    ladder_policies: tuple[str, ...] = ()
    """With --metrics ladder: more policies than the environment's row has, as for `eval policy`; NAME@SHARE adds a
    share of random actions. A directory of `train policy` contains pickles: load only files that you trust."""
    ladder_episodes: int = 100
    """With --metrics ladder: dreams of each policy, and episodes in the environment, which are played once and kept."""
    sampling: SamplingFlags = field(default_factory=SamplingFlags)
    """How the dreamed codes are sampled."""
    out: Path | None = None
    """Write JSON here."""
    force: bool = False
    """Replace an existing --out."""
    json: bool = False
    """Print JSON."""
    device: str = "auto"
    """auto, cpu or cuda."""


def eval_world(config: EvalWorld) -> None:
    """Evaluate with a progress bar on stderr, and print the table."""
    from worldmodel.cli.eval_ladder import ladder_of
    from worldmodel.cli.outputs import refuse_existing
    from worldmodel.cli.progress import progress_bar
    from worldmodel.common.files import atomic_path
    from worldmodel.common.run_info import machine, run_info
    from worldmodel.common.runtime import choose_runtime
    from worldmodel.data import Dataset
    from worldmodel.metrics import EvaluationSettings, evaluate, ladder, table
    from worldmodel.metrics.metric_registry import ALL, select_metrics
    from worldmodel.prior.sampling import Sampling
    from worldmodel.world.world_model import WorldModel

    if config.seed < 0:
        raise UserError(f"--seed {config.seed}: wanted 0 or more.")
    if config.out is not None:
        refuse_existing(config.out, config.force)
    if not config.data:
        raise UserError("eval world: name at least one dataset with --data FILE.")
    names = tuple(name for name in config.metrics.split(",") if name)
    select_metrics(names)
    named = [name for name in names if name != ALL]  # the ladder plays the environment, so "all" does not include it
    plays_ladder = any(metric.section == ladder.SECTION for metric in select_metrics(named))
    if config.ladder_policies and not plays_ladder:
        raise UserError("--ladder-policies are played by the metrics of the ladder: add --metrics ladder.")
    settings = EvaluationSettings(
        split=config.split,
        clips=config.clips,
        ahead=config.ahead,
        horizon=config.horizon,
        rows=config.rows,
        seed=config.seed,
        sampling=Sampling(**vars(config.sampling)),
        inverse_steps=config.inverse_steps,
        ladder_episodes=config.ladder_episodes,
        metrics=names,
    )
    world = WorldModel.from_pretrained(config.world, choose_runtime(config.device).device)
    with Dataset.open_cropped(list(config.data), world.spec.pixels) as data, progress_bar() as progress:
        rungs = ladder_of(world, data.header.policies, config.ladder_policies) if plays_ladder else []
        result = evaluate(world, data, policies_of(data), settings, progress, rules_of(world.spec.env), rungs)
    if config.out is not None:
        origin = {"machine": machine(), **run_info("eval world", config)}
        with atomic_path(config.out) as temporary:
            temporary.write_text(json.dumps({**result, **origin}, indent=1) + "\n")
    print(json.dumps(result) if config.json else table(result))


def rules_of(env: str) -> EnvironmentRules:
    """What the registry row of an environment declares for metrics; nothing for an environment without a row."""
    from worldmodel.envs.env_registry import load_entry_point, row_of
    from worldmodel.metrics import EnvironmentRules

    row = row_of(env)
    if row is None:
        return EnvironmentRules()
    return EnvironmentRules(load_entry_point(row.objects) if row.objects else None, row.opposites)


def policies_of(data: Dataset) -> dict[str, PolicyFactory]:
    """The scripted policies of a dataset by name; a learned policy cannot be rebuilt from its record."""
    factories = {record.name: policy_factory(record, data) for record in data.header.policies}
    return {name: factory for name, factory in factories.items() if factory is not None}


def policy_factory(record: PolicyRecord, data: Dataset) -> PolicyFactory | None:
    """A recorded policy as `worldmodel.metrics` runs it; None if its record does not define how it acts."""
    from worldmodel.collect.batch_policies import batch_policy
    from worldmodel.collect.policy_specs import BUILT_IN, PolicySpec, uses_privileged_state
    from worldmodel.envs.env_registry import scripted_policy

    params = dict(record.params)
    kind = str(params.pop("kind", record.name))
    epsilon, epsilons = float(params.pop("epsilon", 0.0)), tuple(params.pop("epsilons", ()))
    if kind == "scripted":
        try:
            policy_class = scripted_policy(str(params.get("entry_point")))
        except UserError:  # recorded in an environment that is not registered here
            return None
        if uses_privileged_state(policy_class):
            return None
    elif kind not in BUILT_IN or (kind == "periodic" and "actions" not in params):
        return None
    spec = PolicySpec(record.name, kind, params, epsilon=epsilon, epsilons=epsilons)
    return batch_policy(spec, data.header.action_space)
