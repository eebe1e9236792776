"""A small classifier of recorded frames: whether an event belongs to the step before, at, or after a step.

Shapes: N steps, K views of a step, S = 3 shifts, M events, H W pixels.
"""

from __future__ import annotations

import numpy as np
import torch
import torch.nn.functional as nf
from torch import Tensor, nn

SHIFTS = (-1, 0, 1)  # the event of step t + shift, from the frames of step t
VIEWS = ("last frame", "last change")  # the frame after the step; its difference from the frame before the step
MAX_SIDE = 32  # larger frames are averaged down to this
WIDTH, BATCH, LEARNING_RATE = 16, 64, 3e-3
MAX_WEIGHT = 20.0  # of a positive sample in the loss


class EventClassifier(nn.Module):
    """A network for each view, which share nothing: frames of a step -> logits of every event at every shift.

    Args:
        frame_shape: (H, W, 3) of the frames, at most MAX_SIDE after `shrink`.
        num_events: M.
    """

    def __init__(self, frame_shape: tuple[int, int, int], num_events: int) -> None:
        super().__init__()
        self.num_events = num_events
        height, width = ((side + 3) // 4 for side in frame_shape[:2])  # after two strides of 2
        self.networks = nn.ModuleList(
            nn.Sequential(
                nn.Conv2d(3, WIDTH, 3, 2, 1),
                nn.ReLU(),
                nn.Conv2d(WIDTH, 2 * WIDTH, 3, 2, 1),
                nn.ReLU(),
                nn.Flatten(),
                nn.Linear(2 * WIDTH * height * width, 64),
                nn.ReLU(),
                nn.Linear(64, num_events * len(SHIFTS)),
            )
            for _ in VIEWS
        )

    def forward(self, frames: Tensor) -> Tensor:
        """Logits (N, K, M, S) of the two frames of each step, (N, 2, H, W, 3) uint8."""
        before, after = (frames.movedim(-1, 2).float() / 255).unbind(1)  # (N, 3, H, W)
        views = (after - 0.5, after - before)
        logits = [network(view) for network, view in zip(self.networks, views, strict=True)]
        return torch.stack(logits, 1).unflatten(-1, (self.num_events, len(SHIFTS)))


def shrink(frames: np.ndarray) -> np.ndarray:
    """Frames (..., H, W, 3) uint8 averaged down by a whole factor until no side is above MAX_SIDE."""
    factor = -(-max(frames.shape[-3:-1]) // MAX_SIDE)
    if factor == 1:
        return frames
    height, width = (side // factor for side in frames.shape[-3:-1])
    part = frames[..., : height * factor, : width * factor, :]
    blocks = part.reshape(*frames.shape[:-3], height, factor, width, factor, 3)
    return blocks.mean((-4, -2)).round().astype(np.uint8)


def train_classifier(
    frames: np.ndarray, labels: np.ndarray, known: np.ndarray, seed: int, num_steps: int
) -> EventClassifier:
    """Train on recorded steps.

    Args:
        frames: (N, 2, H, W, 3) uint8, the frame before and after each step.
        labels: (N, M, S) bool.
        known: (N, M, S) bool, there is a step at that shift.
        seed: seed of weights and batches.
        num_steps: training steps.
    """
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(seed)
        model = EventClassifier(frames.shape[2:], labels.shape[1])
    rng = np.random.default_rng(seed)
    positive, total = (labels & known).sum(0), known.sum(0)  # (M, S)
    weight = torch.from_numpy(np.clip((total - positive) / np.maximum(positive, 1), 1, MAX_WEIGHT)).float()
    optimizer = torch.optim.AdamW(model.parameters(), LEARNING_RATE)
    schedule = torch.optim.lr_scheduler.OneCycleLR(optimizer, LEARNING_RATE, num_steps, pct_start=0.1)
    with torch.enable_grad():
        for _ in range(num_steps):
            rows = rng.integers(len(frames), size=BATCH)
            logits = model(torch.from_numpy(frames[rows]))
            truth, mask = (torch.from_numpy(x[rows])[:, None].expand(logits.shape).float() for x in (labels, known))
            loss = nf.binary_cross_entropy_with_logits(logits, truth, pos_weight=weight, reduction="none")
            optimizer.zero_grad()
            ((loss * mask).sum() / mask.sum().clamp_min(1)).backward()
            optimizer.step()
            schedule.step()
    return model.eval()


@torch.no_grad()
def event_logits(model: EventClassifier, frames: np.ndarray) -> np.ndarray:
    """Logits of all steps, (N, K, M, S) float32."""
    return torch.cat([model(chunk) for chunk in torch.from_numpy(frames).split(256)]).numpy()
