"""What a step brings beside its picture: end and status before the codes, the reward after them.

Shapes: B rows, D width, h w code grid, V codes in the book (code V: no picture).
"""

from __future__ import annotations

import torch
import torch.nn.functional as F
from torch import Tensor, nn


class OutcomeHeads(nn.Module):
    """End, status and reward of a step, for any prior that has a summary of the state.

    The summary z_t has seen the state and the action. End and status are read from it before a code of
    the next frame is drawn; the drawn frame is told of them (`condition`), so that picture and outcome
    agree; the reward is read last, from z_t, the end and the new frame.

    Args:
        width: D of the summary.
        num_codes: V.
        num_status: bins of the hidden variable; 0 learns none.
        condition_dim: width of what the codes' decoder is told.
        code_dim: width of a code's vector in the reward's reading of the new frame.
    """

    reward_mean: Tensor
    reward_std: Tensor
    end_scale: Tensor
    end_shift: Tensor

    def __init__(self, width: int, num_codes: int, num_status: int, condition_dim: int, code_dim: int = 32) -> None:
        super().__init__()
        self.num_status = num_status
        self.end = nn.Linear(width, 1)
        self.status = nn.Linear(width, max(num_status, 1))
        self.end_embedding = nn.Embedding(2, condition_dim)
        self.status_embedding = nn.Embedding(num_status + 1, condition_dim)  # the last: not known
        self.picture = nn.Embedding(num_codes + 1, code_dim)  # the last: no picture
        self.local = nn.Conv2d(code_dim, code_dim, 3, padding=1)
        self.reward = nn.Sequential(nn.Linear(width + 2 * code_dim + 1, width), nn.SiLU(), nn.Linear(width, 1))
        self.register_buffer("end_scale", torch.ones(()))
        self.register_buffer("end_shift", torch.zeros(()))
        self.register_buffer("reward_mean", torch.zeros(()))
        self.register_buffer("reward_std", torch.ones(()))

    @torch.no_grad()
    def measure(self, rewards: Tensor) -> None:
        """Measure the rewards' scale on the training split: (N,) float32. Constant rewards keep scale 1."""
        if len(rewards):
            self.reward_mean.copy_(rewards.double().mean())
            std = rewards.double().std(correction=0)
            self.reward_std.copy_(torch.where(std > 1e-6, std, torch.ones_like(std)))

    def end_logits(self, summary: Tensor) -> Tensor:
        """Log-odds that this step ends the episode: (B, D) -> (B,)."""
        return self.end(summary)[:, 0] * self.end_scale + self.end_shift

    @torch.no_grad()
    def calibrate(self, logits: Tensor, ended: Tensor) -> None:
        """Fit scale and shift of the end's log-odds to steps that were not learned (Platt 1999).

        A maximum of likelihood by Newton's method, with a weak pull of the scale to 1: the mean hazard then is the
        rate at which these steps ended. The order of the steps by hazard stays, unless it was upside down.

        Args:
            logits: (N,) float, `end_logits` of the steps.
            ended: (N,) bool.
        """
        if not bool(ended.any()) or bool(ended.all()):
            return
        x = torch.stack([logits.double(), torch.ones_like(logits, dtype=torch.float64)], 1)  # (N, 2)
        begin = torch.tensor([1.0, 0.0], dtype=torch.float64, device=x.device)
        fitted, pull = begin.clone(), torch.diag(begin + 1e-6)
        for _ in range(50):
            p = (x @ fitted).sigmoid()
            gradient = x.T @ (p - ended.double()) + pull @ (fitted - begin)
            curvature = (x * (p * (1 - p))[:, None]).T @ x + pull
            move = torch.linalg.solve(curvature, gradient)
            fitted = fitted - move * (2.0 / move.norm()).clamp_max(1.0)
            if float(move.norm()) < 1e-8:
                break
        scale, shift = fitted.float()
        if scale < 0.05:  # such an order of the steps is worth nothing: every step has the rate
            rate = ended.double().mean()
            scale, shift = torch.zeros_like(scale), (rate / (1 - rate)).log().float()
        self.end_shift.copy_(self.end_shift * scale + shift)
        self.end_scale.mul_(scale)

    def status_logits(self, summary: Tensor) -> Tensor:
        """Logits of the next status, given that the picture goes on: (B, D) -> (B, bins)."""
        return self.status(summary)

    def condition(self, terminations: Tensor, status: Tensor) -> Tensor:
        """What the next frame is told: (B,) bool and (B,) int64 in [0, bins] -> (B, condition_dim).

        At an end the status is not told: it is predicted for rows that go on.
        """
        status = torch.where(terminations, self.num_status, status)
        return self.end_embedding(terminations.long()) + self.status_embedding(status)

    def rewards(self, summary: Tensor, terminations: Tensor, codes: Tensor) -> Tensor:
        """Expected reward of the step, standardised: see `unscale`.

        Args:
            summary: (B, D), z_t.
            terminations: (B,) bool.
            codes: (B, h, w) int64 of the new frame, V throughout where it has no picture.

        Returns:
            (B,) float32.
        """
        seen = F.silu(self.local(self.picture(codes).permute(0, 3, 1, 2)))  # (B, code_dim, h, w)
        ended = terminations[:, None].float()
        features = torch.cat([summary, seen.mean((2, 3)), seen.amax((2, 3)), ended], 1)
        return self.reward(features)[:, 0]

    def scale(self, rewards: Tensor) -> Tensor:
        """Rewards in the environment's units -> standardised."""
        return (rewards - self.reward_mean) / self.reward_std

    def unscale(self, rewards: Tensor) -> Tensor:
        """Standardised rewards -> the environment's units."""
        return rewards * self.reward_std + self.reward_mean
