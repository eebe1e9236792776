"""How well a world and a network forecast losses of the hidden variable, such as hits, and what each knows of actions.

    python benchmarks/hit_forecast.py --world runs/cover --data cover.h5 --out hit-forecast.json

Half of the test states are recorded time steps of the test split with a loss of the variable, or a termination, within
--ahead steps; the others have none. The world dreams on from the frames, --dreams times, with the coming actions, and
its forecast is the expected loss. The network has the encoder of `train policy` and learns from --train states of the
training split whether there is a loss, from the frames and the coming actions. Neither is given the variable. Both are
measured by the area under the ROC curve, with the true coming actions and with those of another test state: the
difference is what the forecast knows of actions. "gain by actions" is the area of the difference of both forecasts,
0.5 for a forecast that ignores actions.

Shapes: N states, K steps ahead, D dreams of a state.
"""

from __future__ import annotations

import argparse
import sys
from pathlib import Path
from typing import Any

import gymnasium
import numpy as np
import torch
from torch import Tensor, nn

from worldmodel.collect.cloning import ClonedSteps
from worldmodel.collect.learner_config import learner_config
from worldmodel.collect.learner_view import SmallEncoder
from worldmodel.common.files import write_json_atomic
from worldmodel.data import Dataset
from worldmodel.dream import DreamLearnerEnv
from worldmodel.envs.env_registry import row_of
from worldmodel.world.world_model import WorldModel

BATCH = 128
ROWS = 64  # dreams in a batch


class States:
    """Recorded states of a split: as many with a loss ahead as without.

    Args:
        data: recordings of one environment.
        split: of the states.
        num: of each kind, at most.
        ahead: K.
        variable: the world's hidden variable.
        seed: of the choice.

    Attributes:
        episodes, frames: (N,) int64, the episode and the time step of each state.
        actions: (N, K) int64, the coming actions.
        labels: (N,) bool, whether there is a loss ahead.
    """

    def __init__(self, data: Dataset, split: str, num: int, ahead: int, variable: str, seed: int) -> None:
        self.data, rng = data, np.random.default_rng(seed)
        found: dict[bool, list[np.ndarray]] = {True: [], False: []}
        for number in data.episodes_of(split).tolist():
            length, first, step = (int(x[number]) for x in (data.lengths, data.frame_offsets, data.step_offsets))
            values = data.flat(f"variables/{variable}")[first : first + length + 1].astype(np.float64)
            lost = (np.diff(values) < 0) | data.flat("terminations")[step : step + length]
            within = np.convolve(lost, np.ones(ahead))[ahead - 1 :] > 0  # (T,) a loss in steps t to t+K-1
            times = np.arange(3, length - ahead)
            for label, rows in found.items():
                chosen = times[within[times] == label]
                rows.append(np.stack([np.full(len(chosen), number), chosen], 1))
        kinds = [rng.permutation(np.concatenate(found[label])) for label in (True, False)]
        num = min(num, *map(len, kinds))
        self.labels = np.repeat([True, False], num)
        self.episodes, self.frames = np.concatenate([kind[:num] for kind in kinds]).T
        steps = data.step_offsets[self.episodes] + self.frames
        self.actions = data.flat("actions")[steps[:, None] + np.arange(ahead)]

    def context(self, world: WorldModel, rows: np.ndarray) -> Any:
        """The contexts of some states."""
        depth = min(world.context_frames, 4)
        clips = zip(self.episodes[rows].tolist(), self.frames[rows].tolist(), strict=True)
        frames = np.stack([self.data.frames(number, frame - depth + 1, frame + 1) for number, frame in clips])
        steps = self.data.step_offsets[self.episodes[rows]] + self.frames[rows]
        actions = self.data.flat("actions")[steps[:, None] + np.arange(1 - depth, 0)]
        return world.context(torch.from_numpy(frames), torch.from_numpy(actions))


def dream_forecast(world: WorldModel, states: States, actions: np.ndarray, num_dreams: int) -> np.ndarray:
    """Expected loss in K steps, mean over the dreams of each state: (N,) float64."""
    dreams = DreamLearnerEnv(world, ROWS, frame_stack=1, reward="status", backend="torch")
    forecasts, size = [], ROWS // num_dreams
    for start in range(0, len(actions), size):
        rows = np.arange(start, start + size).clip(max=len(actions) - 1).repeat(num_dreams)
        dreams.reset_after(states.context(world, rows), np.arange(len(rows)) + start * num_dreams)
        loss, running = np.zeros(ROWS), np.ones(ROWS, bool)
        for taken in actions[rows].T:
            _, rewards, dones, _ = dreams.step(taken)
            loss -= rewards * running
            running &= ~dones
        forecasts.append(loss.reshape(size, num_dreams).mean(1))
        print(f"dreams: {min(start + size, len(actions))}/{len(actions)} states", end="\r", file=sys.stderr)
    return np.concatenate(forecasts)[: len(actions)]


class Network(nn.Module):
    """The encoder of a policy, then two layers over its features and the coming actions."""

    def __init__(self, shape: tuple[int, ...], num_actions: int, ahead: int) -> None:
        super().__init__()
        self.num_actions = num_actions
        self.encoder = SmallEncoder(gymnasium.spaces.Box(0, 255, shape, np.uint8))
        self.actions = nn.Sequential(nn.Linear(num_actions * ahead, 64), nn.ReLU())
        self.head = nn.Sequential(nn.Linear(self.encoder.features_dim + 64, 128), nn.ReLU(), nn.Linear(128, 1))

    def forward(self, observations: Tensor, actions: Tensor) -> Tensor:
        """(N, C, h, w) uint8 and (N, K) int64 -> logits (N,)."""
        hot = nn.functional.one_hot(actions, self.num_actions).flatten(1).float()
        return self.head(torch.cat([self.encoder(observations.float() / 255), self.actions(hot)], 1))[:, 0]


def observations_of(states: States) -> Tensor:
    """What the policy of `train policy` observes in each state: (N, C, h, w) uint8."""
    row = row_of(states.data.header.env)
    numbers, inverse = np.unique(states.episodes, return_inverse=True)
    steps = ClonedSteps(states.data, numbers, learner_config("" if row is None else row.name))
    offsets = np.cumsum(states.data.lengths[numbers]) - states.data.lengths[numbers]
    rows = offsets[inverse] + states.frames
    return torch.cat([steps.batch(part)[0] for part in np.split(rows, range(1024, len(rows), 1024))])


def train_network(states: States, num_actions: int, epochs: int) -> Network:
    """Learn losses ahead from frames and actions."""
    torch.manual_seed(0)
    observations, actions = observations_of(states), torch.from_numpy(states.actions)
    labels = torch.from_numpy(states.labels).float()
    network = Network(tuple(observations.shape[1:]), num_actions, actions.shape[1])
    optimiser = torch.optim.AdamW(network.parameters(), 1e-3, weight_decay=3e-2)
    steps = epochs * -(-len(labels) // BATCH)
    schedule = torch.optim.lr_scheduler.OneCycleLR(optimiser, 1e-3, total_steps=max(2, steps))
    for epoch in range(epochs):
        for rows in torch.randperm(len(labels)).split(BATCH):
            logits = network(observations[rows], actions[rows])
            loss = nn.functional.binary_cross_entropy_with_logits(logits, labels[rows])
            optimiser.zero_grad()
            loss.backward()
            optimiser.step()
            schedule.step()
        print(f"network: epoch {epoch + 1}/{epochs}, loss {loss.item():.3f}", end="\r", file=sys.stderr)
    return network.eval()


@torch.no_grad()
def network_forecast(network: Network, observations: Tensor, actions: np.ndarray) -> np.ndarray:
    """Logits (N,)."""
    parts = zip(observations.split(256), torch.from_numpy(actions).split(256), strict=True)
    return torch.cat([network(*part) for part in parts]).double().numpy()


def area(forecast: np.ndarray, labels: np.ndarray) -> float:
    """Area under the ROC curve; equal forecasts count half."""
    order = np.argsort(forecast, kind="stable")
    _, inverse, counts = np.unique(forecast[order], return_inverse=True, return_counts=True)
    ranks = np.empty(len(order))
    ranks[order] = (np.cumsum(counts) - (counts - 1) / 2)[inverse]  # from 1; ties share the mean
    positive = int(labels.sum())
    return float((ranks[labels].sum() - positive * (positive + 1) / 2) / (positive * (len(labels) - positive)))


def main() -> None:
    """Measure both forecasts, write JSON, print the table."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--world", required=True, help="a world directory or name, with a hidden variable")
    parser.add_argument("--data", type=Path, nargs="+", required=True, help="recordings of its environment")
    parser.add_argument("--out", type=Path, required=True)
    parser.add_argument("--ahead", type=int, default=8, help="K")
    parser.add_argument("--test", type=int, default=500, help="test states of each kind")
    parser.add_argument("--train", type=int, default=12_000, help="training states of each kind, for the network")
    parser.add_argument("--dreams", type=int, default=4, help="of each test state")
    parser.add_argument("--epochs", type=int, default=8)
    args = parser.parse_args()
    world = WorldModel.from_pretrained(args.world)
    variable, num_actions = world.prior.status_config.variable, int(getattr(world.spec.action_space, "n", 0))
    if not variable or not num_actions:
        parser.error("wanted a world with a hidden variable and a Discrete action space")
    with Dataset(list(args.data)) as data:
        test = States(data, "test", args.test, args.ahead, variable, 0)
        train = States(data, "train", args.train, args.ahead, variable, 1)
        other = test.actions[np.random.default_rng(2).permutation(len(test.actions))]
        network, observations = train_network(train, num_actions, args.epochs), observations_of(test)
        forecasts = {
            "world": [dream_forecast(world, test, actions, args.dreams) for actions in (test.actions, other)],
            "network": [network_forecast(network, observations, actions) for actions in (test.actions, other)],
        }
    rows = {
        name: {
            "true actions": area(true, test.labels),
            "other actions": area(shuffled, test.labels),
            "gain by actions": area(true - shuffled, test.labels),
        }
        for name, (true, shuffled) in forecasts.items()
    }
    settings = {
        name: [str(x) for x in value] if isinstance(value, list) else str(value) for name, value in vars(args).items()
    }
    report = {
        "settings": settings,
        "test states": len(test.labels),
        "training states": len(train.labels),
        "areas": rows,
    }
    write_json_atomic(args.out, report)
    for name, row in rows.items():
        print(name, ", ".join(f"{column} {value:.3f}" for column, value in row.items()))


if __name__ == "__main__":
    main()
