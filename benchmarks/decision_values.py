"""What a decision is worth: actions compared in dreams, against the same comparison in the environment itself.

    python benchmarks/decision_values.py runs/dreamer --world runs/cover --episodes 40 --out decisions.json

Returns of whole episodes are too noisy to judge single decisions by. This script takes decisions of a policy in its
environment and values every action of each: in dreams, as `lookahead:POLICY:WORLD` does, and in the
environment, which is begun again with the seed of the episode, led through the same actions to the same frame, and
continued with each action, then by the policy, with random numbers that the actions share. The environment must repeat
an episode exactly, given its seed and actions; the frame is compared.

Values are discounted sums of the reward that the policy learned from, over --decisions decisions. The figures:

- `dream`: the real gain over the policy's own action where the action that dreams promise most for is taken, as
  lookahead takes it (--margin);
- `best`: the same for the action that is best in half of the real continuations, measured in the other half. It is more
  than any world can gain: all continuations share the environment's own random numbers, which cannot be observed;
- `correlation`: of dreamed and real differences from the policy's own action, over all other actions.

With --only-changed the environment is played only where lookahead takes another action, with the two actions alone.
This is much faster and gives only the figure `dream`.

An episode that is done is kept in --out: repeat the command to continue. Intervals are 95 % bootstrap intervals over
episodes.

Shapes: N decisions, A actions, D dreams, C real continuations, K decisions ahead.
"""

from __future__ import annotations

import argparse
import itertools
import json
from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any

import gymnasium
import numpy as np
import torch

from worldmodel import envs
from worldmodel.collect.action_comparison import action_probabilities, better_actions, sample_actions
from worldmodel.collect.learner_view import LearnerView
from worldmodel.collect.lookahead_policy import LookaheadPolicy
from worldmodel.collect.lookahead_spec import LookaheadConfig
from worldmodel.collect.policy_specs import describe_policy_file
from worldmodel.common.errors import UserError
from worldmodel.common.files import write_json_atomic
from worldmodel.envs.make_like import env_arguments
from worldmodel.metrics.statistics import ratio
from worldmodel.world.world_model import WorldModel


class RecordedSteps(gymnasium.Wrapper):
    """Keeps the frames and the actions of the current episode."""

    def reset(self, **kwargs: Any) -> tuple[np.ndarray, dict[str, Any]]:
        """Start an episode."""
        frame, info = self.env.reset(**kwargs)
        self.frames, self.actions = [frame], []
        return frame, info

    def step(self, action: Any) -> tuple[np.ndarray, Any, bool, bool, dict[str, Any]]:
        """One step."""
        frame, *rest = self.env.step(action)
        self.frames.append(frame)
        self.actions.append(int(action))
        return frame, *rest


class Game:
    """The environment as the policy's learner saw it: a step is a decision, the reward is that of its training."""

    def __init__(self, env: Any, policy: LookaheadPolicy) -> None:
        self.policy, self.steps = policy, RecordedSteps(env)
        self.view = LearnerView(self.steps, replace(policy.learner, mirror=False))

    def begin(self, seed: int, past: Sequence[int] = ()) -> None:
        """Start an episode and take the decisions `past`."""
        self.observation, _ = self.view.reset(seed=seed)
        self.over = False
        for action in past:
            self.decide(action)

    def decide(self, action: int) -> float:
        """Take a decision, and return its reward; 0 after the end."""
        if self.over:
            return 0.0
        self.observation, reward, terminated, truncated, _ = self.view.step(action)
        self.over = bool(terminated or truncated)
        return float(reward)

    def sample(self, uniform: float) -> int:
        """The policy's action for the current observation."""
        probabilities = action_probabilities(self.policy.model, self.observation.transpose(2, 0, 1)[None])
        return int(sample_actions(probabilities, np.asarray([uniform]))[0])


def real_values(
    game: Game, seed: int, past: list[int], frame: np.ndarray, uniforms: np.ndarray, compared: list[int]
) -> np.ndarray:
    """Values (C, A) of the actions after the decisions `past` of an episode; uniforms (C, K-1) give later decisions.

    Only the actions `compared` are tried; the others are NaN.

    Raises:
        UserError: the environment did not repeat the episode.
    """
    gamma = game.policy.learner.gamma
    values = np.full((len(uniforms), game.policy.num_actions), np.nan)
    for c, a in itertools.product(range(len(uniforms)), compared):
        game.begin(seed, past)
        if not np.array_equal(game.steps.frames[-1], frame):
            raise UserError(f"the environment did not repeat episode {seed}: another frame at decision {len(past)}.")
        values[c, a] = game.decide(int(a))
        for k, uniform in enumerate(uniforms[c], 1):
            values[c, a] += gamma**k * game.decide(game.sample(uniform))
    return values


def episode_decisions(game: Game, seed: int, args: argparse.Namespace) -> list[dict[str, Any]]:
    """Play one episode by the policy alone, then compare the actions of some of its decisions."""
    policy, rng = game.policy, np.random.default_rng(seed)
    own: list[int] = []
    game.begin(seed)
    while not game.over:
        own.append(game.sample(rng.random()))
        game.decide(own[-1])
    frames, actions, context = game.steps.frames, game.steps.actions, policy.world.context_frames
    chosen = rng.choice(len(own), min(args.per_episode, len(own)), replace=False)
    found = []
    for i in sorted(chosen.tolist()):
        t = i * policy.learner.hold  # step of the decision
        policy.begin(np.random.default_rng([seed, t]))
        policy.frames.extend(frames[max(0, t + 1 - context) : t + 1])
        policy.actions.extend(actions[max(0, t + 1 - context) : t])
        dream, uniforms = policy.compare().mean(0), rng.random((args.continuations, args.decisions - 1))
        compared = list(range(policy.num_actions))
        if args.only_changed:
            taken = int(better_actions(dream[None], np.asarray([own[i]]), args.margin)[0])
            compared = [] if taken == own[i] else [own[i], taken]
        real = real_values(game, seed, own[:i], frames[t], uniforms, compared)
        values = [[None if np.isnan(x) else float(x) for x in row] for row in real]
        found.append({"step": t, "own": own[i], "dream": dream.tolist(), "real": values})
    return found


def figures(episodes: list[dict[str, Any]], margin: float, only_changed: bool = False) -> dict[str, Any]:
    """The figures, over all decisions of all episodes; with `only_changed` the gain of lookahead alone."""
    decisions = [(i, decision) for i, episode in enumerate(episodes) for decision in episode["decisions"]]
    units = np.asarray([i for i, _ in decisions])
    own = np.asarray([decision["own"] for _, decision in decisions])
    dream = np.asarray([decision["dream"] for _, decision in decisions])  # (N, A)
    real = np.asarray([decision["real"] for _, decision in decisions], np.float64)  # (N, C, A)
    rows, half = np.arange(len(own)), real.shape[1] // 2
    mean, taken = real.mean(1), better_actions(dream, own, margin)
    if only_changed:
        gain = ratio(np.nan_to_num(mean[rows, taken] - mean[rows, own]), np.ones(len(own)), units=units).to_json()
        return {"decisions": len(own), "changed": float((taken != own).mean()), "gain": {"dream": gain}}
    first, second = real[:, :half].mean(1), real[:, half:].mean(1)
    oracle = np.where(first.max(1) > first[rows, own], first.argmax(1), own)
    gains = {
        "dream": mean[rows, taken] - mean[rows, own],
        "best": second[rows, oracle] - second[rows, own],
        "random": mean.mean(1) - mean[rows, own],
    }
    other = np.ones_like(dream, bool)
    other[rows, own] = False
    differences = (dream - dream[rows, own][:, None])[other], (mean - mean[rows, own][:, None])[other]
    return {
        "decisions": len(own),
        "changed": float((taken != own).mean()),
        "gain": {name: ratio(x, np.ones(len(x)), units=units).to_json() for name, x in gains.items()},
        "correlation": float(np.corrcoef(*differences)[0, 1]) if all(x.std() for x in differences) else None,
    }


def main() -> None:
    """Compare the missing episodes, and print the figures."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("policy", type=Path, help="directory of `train policy` or `improve policy`")
    parser.add_argument("--world", required=True, help="a world directory, or the name of a shipped world")
    parser.add_argument("--episodes", type=int, default=40)
    parser.add_argument("--first-seed", type=int, default=2_000_000)
    parser.add_argument("--per-episode", type=int, default=8, help="decisions that are compared")
    parser.add_argument("--dreams", type=int, default=6, help="D")
    parser.add_argument("--continuations", type=int, default=4, help="C")
    parser.add_argument("--decisions", type=int, default=3, help="K")
    parser.add_argument("--margin", type=float, default=0.01)
    parser.add_argument("--only-changed", action="store_true", help="compare in the environment only where it changes")
    parser.add_argument("--backend", default="torch", choices=("torch", "onnx"))
    parser.add_argument("--out", type=Path, required=True)
    args = parser.parse_args()
    if args.continuations < 2:
        parser.error("--continuations: wanted at least 2, one half to choose by and one to measure.")
    torch.set_num_threads(1)
    left_out = ("episodes", "out") if args.only_changed else ("episodes", "out", "margin")
    settings = {name: str(value) for name, value in vars(args).items() if name not in left_out}
    report = json.loads(args.out.read_text()) if args.out.exists() else {"settings": settings, "episodes": []}
    if report["settings"] != settings:
        parser.error(f"{args.out} has other settings: {report['settings']}")
    name, kwargs = env_arguments(WorldModel.from_pretrained(args.world))
    env = envs.make(name, **kwargs)
    lookahead = LookaheadConfig(args.world, args.dreams, args.decisions, args.margin, args.backend)
    spec = describe_policy_file(args.policy / "policy.zip", lookahead=lookahead)
    policy: Any = spec.build(env.meta.action_space, env)
    game = Game(env, policy)
    done = {episode["seed"] for episode in report["episodes"]}
    for seed in range(args.first_seed, args.first_seed + args.episodes):
        if seed not in done:
            report["episodes"].append({"seed": seed, "decisions": episode_decisions(game, seed, args)})
            report["figures"] = figures(report["episodes"], args.margin, args.only_changed)
            write_json_atomic(args.out, report)
            print(f"{len(report['episodes'])} episodes, {report['figures']['decisions']} decisions", flush=True)
    gains = report["figures"]["gain"] if report["episodes"] else {}
    for key, gain in gains.items():
        print(f"{key}: {gain['mean']:.4f} [{gain['low']}, {gain['high']}]")
    env.close()


if __name__ == "__main__":
    main()
