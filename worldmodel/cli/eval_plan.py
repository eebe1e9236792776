"""The verb `eval plan`: a planner in a learned world, compared with the same planner in the environment itself."""

from __future__ import annotations

import json
import operator
import re
from collections.abc import Callable
from dataclasses import dataclass, field, fields
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any, Literal

import numpy as np
import tyro

from worldmodel.collect.env_options import EnvOptions, choose_env, parse_env_args
from worldmodel.common.errors import UserError, unknown_name

if TYPE_CHECKING:
    from worldmodel.data import Episode
    from worldmodel.dream.plan_scores import Score
    from worldmodel.dream.planners import Planner
    from worldmodel.envs import PixelEnv
    from worldmodel.world.world_model import WorldModel

_COMPARISONS: dict[str, Callable[[float, float], bool]] = {"<": operator.lt, ">": operator.gt}


@dataclass(frozen=True)
class EvalPlan:
    """Play an environment by planning in a learned world, in the environment's own saved states, and by policies.

    All play the same test seeds. The table has returns, successes and paired differences with 95 % intervals, and the
    seconds per search. With --world the first row plans in dreams that begin from the last frames; the row
    "true simulator" plans with the same candidates, rounds and horizon from saved states, which only some environments
    have (toy, push).

    Example:
        worldmodel eval plan --world runs/cover --no-true-simulator --horizon 12 --replan-every 4 --episodes 20
    """

    env: str = ""
    """Short name (see `worldmodel envs`) or any gymnasium id; the world's environment if not given."""
    world: Path | None = None
    """Plan in this world directory; without it only in the environment itself."""
    planner: Literal["icem", "cem", "mppi"] = "icem"
    """iCEM (Pinneri et al. 2020), the cross-entropy method (Rubinstein 1999), or MPPI (Williams et al. 2017)."""
    horizon: int = 8
    """Steps of a plan."""
    candidates: int = 64
    """Plans evaluated in a round; iCEM evaluates fewer in later rounds."""
    rounds: int = 4
    """Rounds of a search."""
    planner_args: str = ""
    """Further settings of the planner (its class in `worldmodel.dream`), as 'noise_exponent=1,init_std=1'."""
    replan_every: int = 1
    """Actions of a plan that are executed before the next search."""
    dreams: int = 1
    """With --world: dreams of each plan, whose scores are averaged."""
    temperature: float = 1.0
    """With --world: of the sampled codes."""
    top_p: float = 1.0
    """With --world: sample from the most likely codes that together have this probability."""
    objective: Literal["reward", "goal-pixels", "goal-codes"] = "reward"
    """The sum of rewards, or minus the mean squared error to --goal, in pixels or in embeddings of codes."""
    goal: Path | None = None
    """A picture (PNG) of the size of a frame, for the goal objectives."""
    true_simulator: bool = True
    """Also plan in the environment itself."""
    baselines: tuple[str, ...] = ("random",)
    """Policies to compare with, as for `eval policy`."""
    success: str = ""
    """When an episode is a success: a condition on a variable of the last step, as 'distance<0.05', or on 'return'."""
    episodes: int = 20
    first_seed: int = 1_000_000
    """Test seeds are first_seed, first_seed + 1, ...; `collect` never uses them."""
    env_options: Annotated[EnvOptions, tyro.conf.arg(name="")] = field(default_factory=EnvOptions)
    device: str = "auto"
    """auto, cpu or cuda: device of the world."""
    out: Path | None = None
    """Also write the table to this file, as JSON."""
    json: bool = False
    """Print the result as JSON."""

    def __post_init__(self) -> None:
        if self.episodes < 2 or self.first_seed < 0:
            raise UserError(f"got --episodes {self.episodes} --first-seed {self.first_seed}; wanted at least 2 and 0.")
        if self.world is None and not self.true_simulator:
            raise UserError("eval plan without the true simulator needs --world; there is nothing to plan in.")
        if (self.objective != "reward") != (self.goal is not None):
            raise UserError(f"--objective {self.objective} with --goal {self.goal}: a goal objective needs a goal.")
        if self.objective == "goal-codes" and self.world is None:
            raise UserError("--objective goal-codes needs --world, whose codes are compared.")
        parse_success(self.success)

    def make_planner(self) -> Planner:
        """The planner with these settings.

        Raises:
            UserError: an unknown setting in `planner_args`, or one out of range.
        """
        from worldmodel.dream.planners import PLANNERS

        planner, arguments = PLANNERS[self.planner], parse_env_args(self.planner_args)
        accepted = [f.name for f in fields(planner) if f.name not in ("horizon", "candidates", "rounds")]
        for name, value in arguments.items():
            if name not in accepted:
                raise unknown_name(f"setting of {self.planner}", name, accepted)
            if isinstance(value, bool) or not isinstance(value, int | float):
                raise UserError(f"planner_args {name}={value!r}: wanted a number.")
        return planner(horizon=self.horizon, candidates=self.candidates, rounds=self.rounds, **arguments)


def parse_success(text: str) -> tuple[str, Callable[[float], bool]] | None:
    """'distance<0.05' -> ("distance", the condition); "" -> None.

    Raises:
        UserError: not NAME<NUMBER or NAME>NUMBER.
    """
    if not text:
        return None
    found = re.fullmatch(r"\s*(\w+)\s*([<>])\s*(-?[\d.]+(?:e-?\d+)?)\s*", text)
    try:
        assert found is not None
        name, limit, compare = found[1], float(found[3]), _COMPARISONS[found[2]]
    except (AssertionError, ValueError):
        raise UserError(f"success {text!r}: wanted NAME<NUMBER or NAME>NUMBER, as distance<0.05.") from None
    return name, lambda value: compare(value, limit)


def eval_plan(config: EvalPlan) -> list[dict[str, Any]]:
    """Run `worldmodel eval plan`: print the table or JSON, and return the rows."""
    from worldmodel import envs
    from worldmodel.common.files import write_json_atomic
    from worldmodel.common.run_info import run_info
    from worldmodel.common.runtime import choose_runtime
    from worldmodel.world.world_model import WorldModel

    name, kwargs = choose_env(config.env, config.world, config.env_options)
    env = envs.make(name, **kwargs)
    try:
        world = None
        if config.world is not None:
            world = WorldModel.from_pretrained(config.world, choose_runtime(config.device).device)
            _check_fits(world, env, name, config.world)
        _check_success(config.success, env)
        rows = _compare(config, env, _policies(config, name, env, world))
    finally:
        env.close()
    if config.out is not None:
        write_json_atomic(config.out, {**run_info("eval plan", config), "rows": rows})
    print(json.dumps(rows) if config.json else format_plan_table(rows))
    return rows


def _check_fits(world: WorldModel, env: PixelEnv, name: str, path: Path) -> None:
    """Refuse a world of other frames or actions than the environment's."""
    spec, meta = world.spec, env.meta
    if spec.pixels.frame_shape != meta.pixels.frame_shape or spec.action_space != meta.action_space:
        raise UserError(
            f"{name} has frames {meta.pixels.frame_shape} and actions {meta.action_space}, the world {path} has "
            f"{spec.pixels.frame_shape} and {spec.action_space}; give another --env, frame size or crop."
        )


def _check_success(success: str, env: PixelEnv) -> None:
    """Refuse a condition on a variable that the environment does not have."""
    condition = parse_success(success)
    if condition is not None and condition[0] not in ("return", *env.meta.variables):
        raise UserError(
            f"success {success!r}: {env.meta.id} has the variables return, {', '.join(env.meta.variables)}."
        )


def _score(config: EvalPlan, env: PixelEnv, world: WorldModel | None) -> Score:
    """The score of a step by the objective."""
    from worldmodel.dream.plan_scores import goal_embedding_mse, goal_mse, reward_score

    if config.goal is None:
        return reward_score
    import torch
    from PIL import Image

    try:
        picture = np.asarray(Image.open(config.goal).convert("RGB"))
    except OSError as error:
        raise UserError(f"--goal {config.goal} is not a picture: {error}.") from None
    if picture.shape != env.meta.pixels.frame_shape:
        raise UserError(f"--goal {config.goal} has shape {picture.shape}, wanted {env.meta.pixels.frame_shape}.")
    goal = torch.from_numpy(picture.copy())
    return (
        goal_mse(goal)
        if world is None or config.objective == "goal-pixels"
        else goal_embedding_mse(goal, world.tokenizer)
    )


def _policies(config: EvalPlan, name: str, env: PixelEnv, world: WorldModel | None) -> dict[str, Any]:
    """Label -> policy, the planner in the world first."""
    from worldmodel import envs
    from worldmodel.collect.policy_specs import check_policy_fits, parse_policy
    from worldmodel.dream.planning_policies import DreamPlanningPolicy, EnvPlanningPolicy
    from worldmodel.dream.simulator import Simulator
    from worldmodel.prior.sampling import Sampling

    score, planner = _score(config, env, world), config.make_planner()
    policies: dict[str, Any] = {}
    if world is not None:
        sampling = Sampling(config.temperature, top_p=config.top_p, exact=False)  # nobody reads the log-probabilities
        simulator = Simulator(world, config.candidates * config.dreams, config.first_seed, sampling)
        policies[f"{config.planner}, dream"] = DreamPlanningPolicy(
            simulator, planner, score, config.dreams, config.replan_every
        )
    if config.true_simulator:
        policies[f"{config.planner}, true simulator"] = EnvPlanningPolicy(env, planner, score, config.replan_every)
    for text in config.baselines:
        spec = parse_policy(text, env.meta.action_space, envs.policy_defaults(name))
        check_policy_fits(spec, env)
        policies[text] = spec.build(env.meta.action_space, env)
    return policies


def _compare(config: EvalPlan, env: PixelEnv, policies: dict[str, Any]) -> list[dict[str, Any]]:
    """One row per policy, as `policy_evaluation.comparison_rows`, with successes and seconds per search."""
    from tqdm import tqdm

    from worldmodel.collect.policy_evaluation import bootstrap_interval, comparison_rows
    from worldmodel.collect.rollout import play

    seeds = range(config.first_seed, config.first_seed + config.episodes)
    episodes: dict[str, list[Episode]] = {}
    for label, policy in policies.items():
        episodes[label] = [
            play(env, policy, index=seed, seed=0, policy_name=label, env_seed=seed) for seed in tqdm(seeds, desc=label)
        ]
    returns = {label: np.asarray([float(e.rewards.sum()) for e in played]) for label, played in episodes.items()}
    steps = {label: np.asarray([e.length for e in played]) for label, played in episodes.items()}
    rows = comparison_rows(returns, steps)
    condition, first = parse_success(config.success), None
    for row, (label, policy) in zip(rows, policies.items(), strict=True):
        if getattr(policy, "searches", 0):
            row["seconds_per_search"] = policy.seconds / policy.searches
        if condition is None:
            continue
        values = (
            returns[label] if condition[0] == "return" else [e.variables[condition[0]][-1] for e in episodes[label]]
        )
        successes = np.asarray([condition[1](float(value)) for value in values], float)
        row["success"] = _with_interval(successes, bootstrap_interval)
        first = successes if first is None else first
        row["success_first_minus_this"] = _with_interval(first - successes, bootstrap_interval)
        row["successes"] = successes.tolist()
    return rows


def _with_interval(values: np.ndarray, interval: Callable[[np.ndarray], tuple[float, float]]) -> dict[str, float]:
    low, high = interval(values)
    return {"mean": float(values.mean()), "low": low, "high": high}


def format_plan_table(rows: list[dict[str, Any]]) -> str:
    """The rows as text."""

    def interval(figure: dict[str, float] | None, sign: str = "") -> str:
        return "" if figure is None else "{mean:{s}.2f} [{low:{s}.2f}, {high:{s}.2f}]".format(s=sign, **figure)

    header = ("policy", "return", "first minus this", "success", "first minus this", "steps", "seconds per search")
    table = [header]
    for r in rows:
        returns = {"mean": r["return_mean"], "low": r["low"], "high": r["high"]}
        seconds = f"{r['seconds_per_search']:.3f}" if "seconds_per_search" in r else ""
        table.append(
            (
                r["policy"], interval(returns), interval(r.get("first_minus_this"), "+"), interval(r.get("success")),
                interval(r.get("success_first_minus_this") if r is not rows[0] else None, "+"),
                f"{r['steps_mean']:.1f}", seconds,
            )
        )  # fmt: skip
    columns = [i for i in range(len(header)) if any(line[i] for line in table[1:])]
    widths = {i: max(len(line[i]) for line in table) for i in columns}
    return "\n".join("  ".join(f"{line[i]:<{widths[i]}}" for i in columns).rstrip() for line in table)
