"""PPO on tensors: a policy is trained in a dream whose frames never leave the world's device.

The dream is a `Simulator`: rows are reset and stepped as tensors, on a GPU if there is one. The environment is the toy,
as in `examples/dream_policy.py` (random play returns 1.01, the best policy 10.00); the policy is then tested in the toy
itself. Takes some minutes. With --quick it takes seconds and the policy is useless.

Shapes: N rows, T steps of a rollout, S frames in a stack, F numbers in it.
"""

import argparse
import time
from dataclasses import replace
from pathlib import Path

import numpy as np
import torch
import torch.nn.functional as F
from torch import Tensor, nn

from worldmodel import WorldModel, envs
from worldmodel.collect import record
from worldmodel.collect.policy_evaluation import bootstrap_interval
from worldmodel.dream import Simulator
from worldmodel.train import train_world
from worldmodel.train.presets import PRESETS

STACK, HORIZON = 4, 40
GAMMA, LAMBDA, CLIP, ENTROPY = 0.97, 0.95, 0.2, 0.01
EPOCHS, BATCH, RATE = 10, 256, 1e-3


class Policy(nn.Module):
    """Logits of the actions and the value of stacked frames (N, S, H, W, 3) uint8."""

    def __init__(self, frame_shape: tuple[int, ...], num_actions: int) -> None:
        super().__init__()
        inputs = STACK * int(np.prod(frame_shape))

        def head(outputs: int, gain: float) -> nn.Sequential:
            last = nn.Linear(64, outputs)
            nn.init.orthogonal_(last.weight, gain)
            return nn.Sequential(nn.Linear(inputs, 64), nn.Tanh(), nn.Linear(64, 64), nn.Tanh(), last)

        self.actor, self.critic = head(num_actions, 0.01), head(1, 1.0)

    def forward(self, stack: Tensor) -> tuple[torch.distributions.Categorical, Tensor]:
        inputs = stack.flatten(1).float() / 255  # (N, F)
        return torch.distributions.Categorical(logits=self.actor(inputs), validate_args=False), self.critic(inputs)[
            :, 0
        ]


class Dreams:
    """N dreams, each reset in the step of its end; everything is a tensor on the world's device."""

    def __init__(self, world: WorldModel, num_rows: int) -> None:
        self.simulator = Simulator(world, num_rows)
        self.stack = self.simulator.reset()[:, None].repeat(1, STACK, 1, 1, 1)  # (N, S, H, W, 3) uint8, oldest first

    def step(self, actions: Tensor) -> tuple[Tensor, Tensor, Tensor, Tensor]:
        """Rewards (N,), terminations (N,) bool, truncations (N,) bool, and the stacks before any row is reset."""
        out = self.simulator.step(actions)
        last = self.stack = torch.cat([self.stack[:, 1:], out.frames[:, None]], 1)
        truncations = (self.simulator.state.steps >= HORIZON) & ~out.terminations
        rows = torch.nonzero(out.terminations | truncations)[:, 0]
        if len(rows):  # the only operation that waits for the device
            first = self.simulator.reset(rows)[rows]
            self.stack = self.stack.index_copy(0, rows, first[:, None].repeat(1, STACK, 1, 1, 1))
        return out.rewards, out.terminations, truncations, last


def generalised_advantages(
    rewards: Tensor, values: Tensor, next_values: Tensor, terminations: Tensor, truncations: Tensor
) -> Tensor:
    """Generalised advantages, all (T, N); the values after each step are `next_values`."""
    advantages, advantage = torch.empty_like(rewards), torch.zeros_like(rewards[0])
    for t in reversed(range(len(rewards))):
        difference = rewards[t] + GAMMA * next_values[t] * ~terminations[t] - values[t]
        advantage = difference + GAMMA * LAMBDA * advantage * ~(terminations[t] | truncations[t])
        advantages[t] = advantage
    return advantages


def train(world: WorldModel, decisions: int, num_rows: int, length: int) -> tuple[Policy, float]:
    """Train in dreams; returns the policy and decisions per second, training included."""
    torch.manual_seed(0)
    dreams = Dreams(world, num_rows)
    policy = Policy(world.tokenizer.frame_shape, world.spec.action_space.n).to(world.device)
    optimizer = torch.optim.Adam(policy.parameters(), RATE, eps=1e-5)
    start = time.perf_counter()
    for _ in range(decisions // (num_rows * length)):
        steps = []
        for _ in range(length):
            stack = dreams.stack
            with torch.no_grad():
                distribution, value = policy(stack)
                action = distribution.sample()
                log_prob = distribution.log_prob(action)
                reward, terminated, truncated, last = dreams.step(action)
                steps.append((stack, action, log_prob, value, reward, terminated, truncated, policy(last)[1]))
        stacks, actions, log_probs, values, *outcome = map(torch.stack, zip(*steps, strict=True))
        rewards, terminations, truncations, next_values = outcome
        advantages = generalised_advantages(rewards, values, next_values, terminations, truncations)  # (T, N)
        batch = [x.flatten(0, 1) for x in (stacks, actions, log_probs, advantages, advantages + values)]  # (T*N, ...)
        for _ in range(EPOCHS):
            for index in torch.randperm(len(batch[0]), device=world.device).split(BATCH):
                stack, action, log_prob, advantage, value_target = (x[index] for x in batch)
                distribution, value = policy(stack)
                ratio = (distribution.log_prob(action) - log_prob).exp()
                advantage = (advantage - advantage.mean()) / (advantage.std() + 1e-8)
                surrogate = torch.minimum(ratio * advantage, ratio.clamp(1 - CLIP, 1 + CLIP) * advantage).mean()
                loss = -surrogate + 0.5 * F.mse_loss(value, value_target) - ENTROPY * distribution.entropy().mean()
                optimizer.zero_grad(set_to_none=True)
                loss.backward()
                nn.utils.clip_grad_norm_(policy.parameters(), 0.5)
                optimizer.step()
    return policy, decisions // (num_rows * length) * num_rows * length / (time.perf_counter() - start)


@torch.no_grad()
def play(policy: Policy, env: envs.PixelEnv, seed: int, device: torch.device) -> float:
    """Play an episode of the environment with the most likely actions; its return."""
    frame, _ = env.reset(seed=seed)
    stack, total, done = [frame] * STACK, 0.0, False
    while not done:
        inputs = torch.from_numpy(np.stack(stack))[None].to(device)
        frame, reward, terminated, truncated, _ = env.step(int(policy(inputs)[0].logits.argmax()))
        stack, total, done = [*stack[1:], frame], total + float(reward), terminated or truncated
    return total


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("folder", nargs="?", type=Path, default=Path("."))
    parser.add_argument("--quick", action="store_true", help="only a few steps of each training")
    arguments = parser.parse_args()
    folder, quick = arguments.folder, arguments.quick
    if not (folder / "world").exists():
        settings = {"seed": 3, "mix_with": "random=0.4", "size": 16, "progress": False}
        data = record("toy", "sticky", folder / "toy.h5", episodes=60 if quick else 3000, **settings)
        toy = PRESETS["toy"]
        if quick:
            loops = {name: replace(getattr(toy, name), num_steps=10) for name in ("train_tokenizer", "train_prior")}
            toy = replace(toy, **loops)
        train_world(data, folder / "world", toy)
    world = WorldModel.from_pretrained(folder / "world", "cuda" if torch.cuda.is_available() else "cpu")
    policy, speed = train(world, *((512, 8, 16) if quick else (41_000, 32, 64)))
    print(f"in the dream: {speed:.0f} decisions per second, training included")
    env = envs.make("toy", size=16)
    returns = np.asarray([play(policy, env, 1_000_000 + i, world.device) for i in range(5 if quick else 100)])
    low, high = bootstrap_interval(returns)
    print(f"in the environment: return {returns.mean():.2f} [{low:.2f}, {high:.2f}]")


if __name__ == "__main__":
    main()
