"""Behaviour cloning: a Stable-Baselines3 policy that imitates recorded policies.

The same command continues a stopped training: batches are a function of (seed, step), and the checkpoint has the
optimizer.

Shapes: N steps of the chosen episodes, B batch, D stacked frames, h w size of the view, A components of an action.
"""

from __future__ import annotations

import json
import shutil
import time
from dataclasses import asdict, replace
from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch import Tensor

from worldmodel.collect.clone_config import TrainClone
from worldmodel.collect.learner_config import LearnerConfig
from worldmodel.collect.learner_model import new_model, save_model
from worldmodel.common.errors import UserError
from worldmodel.common.files import atomic_path, expand_path, write_json_atomic
from worldmodel.common.policy_view import PolicyView
from worldmodel.common.run_info import check_same_run, remove_run, save_run_info
from worldmodel.common.spaces import NoAction, to_gymnasium
from worldmodel.common.torch_state import isolated_torch_state
from worldmodel.data import Dataset
from worldmodel.envs.env_registry import row_of

SCORED_STEPS = 4096  # of the validation split
WARMUP = 100  # steps in which the learning rate rises; it falls linearly to 0 afterwards


class ClonedSteps:
    """Observations, actions and returns of the steps of some episodes.

    Args:
        data: the dataset.
        episodes: numbers of the episodes, at least one.
        learner: frame_stack, view, gamma, hold, reward and reward_scale.
    """

    def __init__(self, data: Dataset, episodes: np.ndarray, learner: LearnerConfig) -> None:
        data.check_episodes(episodes)
        pixels = data.header.pixels
        self.view = PolicyView(pixels.frame_shape, learner.frame_stack, learner.view, pixels.origin, "learner.view")
        lengths = data.lengths[episodes]
        self.place = np.concatenate([np.arange(n) for n in lengths])  # (N,) step in its episode
        self._frame = np.repeat(data.frame_offsets[episodes], lengths) + self.place  # (N,) over all files
        self._step = np.repeat(data.step_offsets[episodes], lengths) + self.place
        self._source = np.repeat(data.source_numbers[episodes], lengths)
        first = np.searchsorted(data.source_numbers, np.arange(len(data.paths)))
        self._source_start = data.frame_offsets[first]
        self._data, self._actions = data, data.flat("actions")
        self.returns = np.concatenate([_returns(data, int(number), learner) for number in episodes])  # (N,)

    def __len__(self) -> int:
        """N."""
        return len(self.place)

    def batch(self, rows: np.ndarray) -> tuple[Tensor, Tensor, Tensor]:
        """Observations (B, D*3, h, w) uint8, actions (B,) int64 or (B, A), and returns (B,) float32 of some steps."""
        depth = self.view.frame_stack
        back = np.minimum(self.place[rows][:, None], np.arange(depth - 1, -1, -1))  # the first frame is repeated
        frames = self._frame[rows][:, None] - back  # (B, D)
        height, width, channels = self.view.shape
        out = np.empty((len(rows), depth, height, width, channels // depth), np.uint8)
        for source in np.unique(self._source[rows]):
            mine = self._source[rows] == source
            recorded = self._data.frames_of_source(int(source))
            wanted, inverse = np.unique(frames[mine] - self._source_start[source], return_inverse=True)
            out[mine] = self.view.crop(recorded[wanted])[inverse.reshape(-1, depth)]
        observations = torch.from_numpy(np.ascontiguousarray(out.transpose(0, 1, 4, 2, 3))).flatten(1, 2)
        return observations, torch.from_numpy(self._actions[self._step[rows]]), torch.from_numpy(self.returns[rows])


def _returns(data: Dataset, number: int, learner: LearnerConfig) -> np.ndarray:
    """Discounted returns of the learner's reward from each step of an episode, (T,) float32.

    The discount of a step is gamma ** (1 / hold). Truncated episodes are cut off: their last returns are too small.
    """
    start, length = int(data.step_offsets[number]), int(data.lengths[number])
    if learner.reward == "env":
        rewards = data.flat("rewards")[start : start + length].astype(np.float64)
    else:
        if "health" not in data.header.variables:
            raise UserError(f"learner.reward={learner.reward!r} needs a dataset with the variable 'health'.")
        first = int(data.frame_offsets[number])
        health = np.maximum(data.flat("variables/health")[first : first + length + 1].astype(np.float64), 0)
        if data.flat("terminations")[start + length - 1]:
            health[-1] = 0.0
        change = np.diff(health) / 100
        rewards = np.minimum(change, 0) if learner.reward == "health" else change
    gamma, total = learner.gamma ** (1 / learner.hold), 0.0
    returns = np.empty(length, np.float32)
    for t in range(length - 1, -1, -1):
        total = returns[t] = rewards[t] * learner.reward_scale + gamma * total
    return returns


def choose_episodes(data: Dataset, split: str, policies: str, best: float) -> np.ndarray:
    """Numbers of the episodes of a split that named policies played, and of these the share with the highest return.

    Raises:
        UserError: no recorded policy has that name, or no episode is left.
    """
    names = [name.strip() for name in policies.split(",") if name.strip()]
    unknown = [name for name in names if name not in data.header.policy_names]
    if unknown:
        raise UserError(
            f"policies={policies!r}: {unknown[0]!r} did not play; recorded: {list(data.header.policy_names)}."
        )
    numbers = data.episodes_of(split)
    if names:
        numbers = numbers[np.isin(data.policies[numbers], names)]
    if not len(numbers):
        raise UserError(f"{data.name} has no episode of {policies or 'any policy'} in the {split} split.")
    if best == 1:
        return numbers
    sums = np.add.reduceat(data.flat("rewards").astype(np.float64), data.step_offsets)[numbers]
    count = max(1, round(best * len(numbers)))
    return np.sort(numbers[np.argsort(-sums, kind="stable")[:count]])


def train_clone(config: TrainClone) -> Path:
    """Run `worldmodel train clone`: train, continue a stopped training, or print the result of a finished one.

    Args:
        config: the resolved config.

    Returns:
        The path of policy.zip.

    Raises:
        UserError: a bad dataset, no episodes, or another run at `config.out`.
    """
    config = replace(config, out=expand_path(config.out), data=tuple(expand_path(path) for path in config.data))
    out = config.out
    if config.force:
        remove_run(out)
    check_same_run(out / "run.json", out, config)
    policy = out / "policy.zip"
    if not policy.exists():
        with Dataset(list(config.data)) as data:
            _train(config, data)
    result = json.loads((out / "policy.json").read_text())["result"]
    if config.json:
        print(json.dumps({"policy": str(policy), **result}))
    else:
        print(
            f"{policy}: {result['steps']} steps on {result['episodes']} episodes, {result['minutes']:.1f} min; "
            f"validation: {result['nats']:.3f} nats per action, components right {result['accuracy']:.1%}."
        )
    return policy


@isolated_torch_state()
def _train(config: TrainClone, data: Dataset) -> None:
    from tqdm import tqdm

    out, learner = config.out, config.learner
    if isinstance(data.header.action_space, NoAction):
        raise UserError(f"{data.name} has no actions: there is nothing to imitate.")
    chosen = choose_episodes(data, "train", config.policies, config.best)
    steps = ClonedSteps(data, chosen, learner)
    held_out = ClonedSteps(data, choose_episodes(data, "validation", config.policies, config.best), learner)
    out.mkdir(parents=True, exist_ok=True)
    save_run_info(out / "run.json", "train clone", config, data_fingerprint=data.fingerprint)
    model = new_model(learner, _spaces_only(steps.view, data, learner.num_envs), config.seed, out, "cpu")
    optimizer = torch.optim.Adam(model.policy.parameters(), learner.learning_rate, eps=1e-5)
    done, minutes = _load_checkpoint(out, model, optimizer)
    before = time.monotonic() - 60 * minutes
    saved = time.monotonic()
    with tqdm(total=config.steps, initial=done, unit="step", desc="cloning") as bar, torch.enable_grad():
        for step in range(done, config.steps):
            rows = np.random.default_rng([config.seed, step]).integers(len(steps), size=learner.batch_size)
            share = min((step + 1) / WARMUP, 1 - step / config.steps)
            loss = _step(model, optimizer, steps.batch(rows), learner, learner.learning_rate * share)
            bar.update()
            if step % 50 == 0:
                bar.set_postfix(loss=f"{loss:.3f}")
            if time.monotonic() - saved > learner.checkpoint_seconds:
                saved = time.monotonic()
                _save_checkpoint(out, model, optimizer, step + 1, (saved - before) / 60)
    nats, accuracy = _score(model, held_out, config.seed)
    result = {
        "steps": config.steps,
        "episodes": len(chosen),
        "recorded_steps": len(steps),
        "minutes": (time.monotonic() - before) / 60,
        "nats": nats,
        "accuracy": accuracy,
    }
    row = row_of(data.header.env)
    env = data.header.env if row is None else row.name
    write_json_atomic(out / "policy.json", {"env": env, "learner": asdict(learner), "result": result})
    save_model(model, out / "policy.zip", exclude=("tensorboard_log",))
    shutil.rmtree(out / "checkpoint", ignore_errors=True)


def _step(
    model: Any,
    optimizer: torch.optim.Optimizer,
    batch: tuple[Tensor, Tensor, Tensor],
    learner: LearnerConfig,
    rate: float,
) -> float:
    """One optimisation step; the loss before it."""
    observations, actions, returns = batch
    values, log_prob, _ = model.policy.evaluate_actions(observations, actions)
    loss = -log_prob.mean() + learner.value_coef * torch.nn.functional.mse_loss(values.flatten(), returns)
    for group in optimizer.param_groups:
        group["lr"] = rate
    optimizer.zero_grad()
    loss.backward()
    torch.nn.utils.clip_grad_norm_(model.policy.parameters(), learner.max_grad_norm)
    optimizer.step()
    return float(loss.detach())


@torch.no_grad()
def _score(model: Any, steps: ClonedSteps, seed: int) -> tuple[float, float]:
    """Negative log-likelihood of an action, and the share of its components that the most likely action has right.

    For a Box the sign counts.
    """
    rows = np.random.default_rng([seed, 2**32]).permutation(len(steps))[:SCORED_STEPS]
    nats, right = [], []
    for chunk in np.split(rows, range(256, len(rows), 256)):
        observations, actions, _ = steps.batch(chunk)
        nats.append(-model.policy.evaluate_actions(observations, actions)[1])
        found = model.policy.get_distribution(observations).get_actions(deterministic=True)
        same = found == actions if actions.dtype == torch.int64 else (found > 0) == (actions > 0)
        right.append(same.float().flatten())
    return float(torch.cat(nats).mean()), float(torch.cat(right).mean())


def _spaces_only(view: PolicyView, data: Dataset, num_envs: int) -> Any:
    """An SB3 VecEnv that has the spaces of a training and cannot be stepped."""
    import gymnasium as gym
    from stable_baselines3.common.vec_env import DummyVecEnv

    from worldmodel.common.channels_first import VecChannelsFirst

    class SpacesOnly(gym.Env):
        observation_space = gym.spaces.Box(0, 255, view.shape, np.uint8)
        action_space = to_gymnasium(data.header.action_space)

    return VecChannelsFirst(DummyVecEnv([SpacesOnly] * num_envs))


def _save_checkpoint(out: Path, model: Any, optimizer: torch.optim.Optimizer, step: int, minutes: float) -> None:
    state = {"policy": model.policy.state_dict(), "optimizer": optimizer.state_dict(), "step": step, "minutes": minutes}
    (out / "checkpoint").mkdir(exist_ok=True)
    with atomic_path(out / "checkpoint" / "state.pt") as temporary:
        torch.save(state, temporary)


def _load_checkpoint(out: Path, model: Any, optimizer: torch.optim.Optimizer) -> tuple[int, float]:
    """Steps and minutes so far; loads weights and optimizer if there is a checkpoint."""
    path = out / "checkpoint" / "state.pt"
    if not path.exists():
        return 0, 0.0
    state = torch.load(path, weights_only=True)
    model.policy.load_state_dict(state["policy"])
    optimizer.load_state_dict(state["optimizer"])
    return int(state["step"]), float(state["minutes"])
