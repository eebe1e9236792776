"""The inverse dynamics model: a small network that reads the action off three consecutive frames.

Shapes: N windows of F = 3 frames, B clips, n steps, A components of an action, H W pixels, O outputs.
"""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
import torch
import torch.nn.functional as nf
from torch import Tensor, nn

from worldmodel.common import spaces
from worldmodel.data import ClipSampler
from worldmodel.metrics.evaluation_run import EvaluationRun

FRAMES = 3  # the action leads from the second to the third; the first shows the motion before it
MAX_SIDE = 64  # larger frames are averaged down to this
BATCH, LEARNING_RATE, WIDTH = 64, 2e-3, 32
MAX_WEIGHT = 10.0  # of a rare class in the loss
CHUNK = 256  # windows evaluated at once


def class_counts(space: spaces.Space) -> list[int]:
    """The number of choices of each component of a discrete action; [] for Box and NoAction."""
    if isinstance(space, spaces.Discrete):
        return [space.n]
    if isinstance(space, spaces.MultiDiscrete):
        return list(space.nvec)
    return [2] * space.n if isinstance(space, spaces.MultiBinary) else []


class InverseDynamics(nn.Module):
    """A convolutional network from windows of frames to the action before their last frame.

    Args:
        frame_shape: (H, W, 3) of the frames.
        space: the action space; not NoAction.
    """

    mean: Tensor
    std: Tensor

    def __init__(self, frame_shape: Sequence[int], space: spaces.Space) -> None:
        super().__init__()
        self.classes = class_counts(space)
        self.num_components = len(self.classes) or space.shape[0]
        self.shrink = -(-max(frame_shape[:2]) // MAX_SIDE)
        self.register_buffer("mean", torch.zeros(self.num_components))  # of the components of a Box
        self.register_buffer("std", torch.ones(self.num_components))
        sides = [-(-(side // self.shrink) // 2) for side in frame_shape[:2]]
        layers: list[nn.Module] = []
        channels = 4 * 3 * FRAMES
        for width in (WIDTH, 2 * WIDTH, 2 * WIDTH):
            layers += [nn.Conv2d(channels, width, 3, 2, 1), nn.GroupNorm(4, width), nn.ReLU()]
            channels, sides = width, [-(-side // 2) for side in sides]
        outputs = sum(self.classes) or self.num_components
        self.layers = nn.Sequential(
            *layers, nn.Flatten(), nn.Linear(channels * sides[0] * sides[1], 128), nn.ReLU(), nn.Linear(128, outputs)
        )

    def forward(self, frames: Tensor) -> Tensor:
        """Outputs (N, O) of windows (N, 3, H, W, 3) uint8: logits of all components, or standardised numbers."""
        x = frames.movedim(-1, 2).float() / 255  # (N, F, 3, H, W)
        x = torch.stack([x[:, 1] - 0.5, x[:, 1] - x[:, 0], x[:, 2] - x[:, 1]], 1).flatten(1, 2)  # (N, 9, H, W)
        if self.shrink > 1:
            x = nf.avg_pool2d(x, self.shrink)
        x = nf.pad(x, (0, x.shape[3] % 2, 0, x.shape[2] % 2))
        return self.layers(nf.pixel_unshuffle(x, 2))

    def loss(self, frames: Tensor, actions: Tensor, weights: Sequence[Tensor]) -> Tensor:
        """Cross entropy of each component with weights of its classes, or the squared error of a Box."""
        outputs = self(frames)
        if not self.classes:
            return nf.mse_loss(outputs, (actions - self.mean) / self.std)
        parts = zip(outputs.split(self.classes, 1), actions.unbind(1), weights, strict=True)
        return torch.stack([nf.cross_entropy(logits, action, weight) for logits, action, weight in parts]).mean()

    @torch.no_grad()
    def outputs(self, frames: Tensor) -> Tensor:
        """Outputs for each step of clips, (B, n, O) on the CPU: log-probabilities by component, or actions of a Box.

        Args:
            frames: (B, n + 2, H, W, 3) uint8; the action of step t leads from frame t + 1 to frame t + 2.
        """
        device = self.mean.device
        windows = torch.stack([frames[:, i : frames.shape[1] - FRAMES + 1 + i] for i in range(FRAMES)], 2)
        flat = windows.flatten(0, 1)  # (B * n, F, H, W, 3)
        found = torch.cat([self(chunk.to(device)) for chunk in flat.split(CHUNK)])
        if self.classes:
            found = torch.cat([part.log_softmax(1) for part in found.split(self.classes, 1)], 1)
        else:
            found = found * self.std + self.mean
        return found.cpu().unflatten(0, windows.shape[:2])

    def choices(self, outputs: Tensor) -> np.ndarray:
        """The most likely action by component, (..., A) int64, or the predicted one of a Box, (..., A) float32."""
        if not self.classes:
            return outputs.numpy()
        return torch.stack([part.argmax(-1) for part in outputs.split(self.classes, -1)], -1).numpy()


def train_inverse_dynamics(run: EvaluationRun) -> InverseDynamics:
    """Train the model on real frames of the training split, the part that the tokenizer encodes."""
    data, settings = run.data, run.settings
    sampler = ClipSampler(data, FRAMES, BATCH, "train", settings.seed)
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(settings.seed)
        model = InverseDynamics(run.world.tokenizer.encoded_shape, data.header.action_space).to(run.world.device)
    weights = _fit_actions(model, data.flat("actions")[_training_steps(run)])
    optimizer = torch.optim.AdamW(model.parameters(), LEARNING_RATE)
    schedule = torch.optim.lr_scheduler.OneCycleLR(optimizer, LEARNING_RATE, settings.inverse_steps, pct_start=0.1)
    with torch.enable_grad():
        for step in range(settings.inverse_steps):
            batch = sampler.batch(step).torch(run.world.device)
            valid = batch.frame_valid.all(1)
            if valid.any():
                frames = run.world.tokenizer.encoded_part(batch.frames[valid])
                actions = batch.actions[valid][:, -1].reshape(int(valid.sum()), -1)
                optimizer.zero_grad()
                model.loss(frames, actions, weights).backward()
                optimizer.step()
            schedule.step()
            if (step + 1) % 10 == 0 or step + 1 == settings.inverse_steps:
                run.progress("inverse dynamics", step + 1, settings.inverse_steps, {})
    return model.eval()


def _training_steps(run: EvaluationRun) -> np.ndarray:
    """Indices of the training split's steps among all steps."""
    data = run.data
    return np.flatnonzero(np.repeat(np.isin(np.arange(len(data)), data.episodes_of("train")), data.lengths))


def _fit_actions(model: InverseDynamics, actions: np.ndarray) -> list[Tensor]:
    """Fit the scale of Box actions; for other spaces the weights of the classes of each component."""
    columns = actions.reshape(len(actions), -1).T
    device = model.mean.device
    if not model.classes:
        model.mean.copy_(torch.from_numpy(columns.mean(1)))
        model.std.copy_(torch.from_numpy(np.maximum(columns.std(1), 1e-6)))
        return []
    weights = []
    for column, count in zip(columns, model.classes, strict=True):
        share = np.bincount(column, minlength=count) / len(column)
        weights.append(torch.tensor(np.minimum(1 / (count * np.maximum(share, 1e-9)), MAX_WEIGHT)).float().to(device))
    return weights
