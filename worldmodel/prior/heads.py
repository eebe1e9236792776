"""Heads for the outcomes of a step: end and status are predicted before the codes, the reward after them.

Shapes: B rows, D width, C condition width, h w code grid, V codes in the codebook (code V: no frame).
"""

from __future__ import annotations

import torch
import torch.nn.functional as F
from torch import Tensor, nn


class OutcomeHeads(nn.Module):
    """End, status and reward of a step, for any prior that has a summary vector of the state.

    The summary z_t depends on the state and the action. End and status are predicted from it before any code of the
    next frame is sampled. The next frame is conditioned on the sampled end and status (`embed_outcome`), so that frame
    and outcome agree. The reward is predicted last, from z_t, the end and the new frame.

    Args:
        width: D of the summary.
        num_codes: V.
        num_status: bins of the hidden variable; 0 for none.
        condition_dim: C.
        code_dim: width of the code embeddings from which the reward head reads the new frame.
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
        self.end_embed = nn.Embedding(2, condition_dim)
        self.status_embed = nn.Embedding(num_status + 1, condition_dim)  # the last: not known
        self.code_embed = nn.Embedding(num_codes + 1, code_dim)  # the last: no frame
        self.code_conv = nn.Conv2d(code_dim, code_dim, 3, padding=1)
        self.reward = nn.Sequential(nn.Linear(width + 2 * code_dim + 1, width), nn.SiLU(), nn.Linear(width, 1))
        self.register_buffer("end_scale", torch.ones(()))
        self.register_buffer("end_shift", torch.zeros(()))
        self.register_buffer("reward_mean", torch.zeros(()))
        self.register_buffer("reward_std", torch.ones(()))

    @torch.no_grad()
    def fit_reward_scale(self, rewards: Tensor) -> None:
        """Fit mean and standard deviation of the training split's rewards: (N,) float32.

        Constant rewards keep a standard deviation of 1.
        """
        if len(rewards):
            self.reward_mean.copy_(rewards.double().mean())
            std = rewards.double().std(correction=0)
            self.reward_std.copy_(torch.where(std > 1e-6, std, torch.ones_like(std)))

    def end_logits(self, summary: Tensor) -> Tensor:
        """Log-odds that this step terminates the episode: (B, D) -> (B,)."""
        return self.end(summary)[:, 0] * self.end_scale + self.end_shift

    @torch.no_grad()
    def calibrate(self, logits: Tensor, terminations: Tensor) -> None:
        """Fit scale and shift of the end's log-odds on steps that were not trained on (Platt 1999).

        Maximum likelihood by Newton's method, with a weak ridge that pulls the scale to 1. Afterwards the mean hazard
        of these steps is their rate of termination. The order of the steps by hazard is kept, unless it was inverted.
        Nothing changes if no step or every step terminates.

        Args:
            logits: (N,) float, `end_logits` of the steps.
            terminations: (N,) bool.
        """
        if not bool(terminations.any()) or bool(terminations.all()):
            return
        x = torch.stack([logits.double(), torch.ones_like(logits, dtype=torch.float64)], 1)  # (N, 2)
        initial = torch.tensor([1.0, 0.0], dtype=torch.float64, device=x.device)  # scale, shift
        fitted, ridge = initial.clone(), torch.diag(initial + 1e-6)
        for _ in range(50):
            p = (x @ fitted).sigmoid()
            gradient = x.T @ (p - terminations.double()) + ridge @ (fitted - initial)
            curvature = (x * (p * (1 - p))[:, None]).T @ x + ridge
            update = torch.linalg.solve(curvature, gradient)
            fitted = fitted - update * (2.0 / update.norm()).clamp_max(1.0)
            if float(update.norm()) < 1e-8:
                break
        scale, shift = fitted.float()
        if scale < 0.05:  # the logits do not order the steps usefully: give every step the mean rate
            rate = terminations.double().mean()
            scale, shift = torch.zeros_like(scale), (rate / (1 - rate)).log().float()
        self.end_shift.copy_(self.end_shift * scale + shift)
        self.end_scale.mul_(scale)

    def status_logits(self, summary: Tensor) -> Tensor:
        """Logits of the next status, given that the step does not terminate: (B, D) -> (B, bins)."""
        return self.status(summary)

    def predict_outcome(self, summary: Tensor) -> tuple[Tensor, Tensor]:
        """Hazards (B,) and status logits (B, bins) of a step, float32, from z_t (B, D)."""
        hazards = self.end_logits(summary).float().sigmoid()
        if not self.num_status:
            return hazards, summary.new_zeros(len(summary), 0)
        return hazards, self.status_logits(summary).float()

    def embed_outcome(self, terminations: Tensor, status: Tensor) -> Tensor:
        """Condition of the next frame on its outcome: (B,) bool and (B,) int64 in [0, bins] -> (B, C).

        Where the step terminates the status counts as not known: it is predicted given that the step does not.
        """
        status = torch.where(terminations, self.num_status, status)
        return self.end_embed(terminations.long()) + self.status_embed(status)

    def predict_rewards(self, summary: Tensor, terminations: Tensor, codes: Tensor) -> Tensor:
        """Expected reward of the step, standardised: see `unstandardise_rewards`.

        Args:
            summary: (B, D), z_t.
            terminations: (B,) bool.
            codes: (B, h, w) int64 of the new frame; V at every place where there is no frame.

        Returns:
            (B,) float32.
        """
        frame = F.silu(self.code_conv(self.code_embed(codes).permute(0, 3, 1, 2)))  # (B, code_dim, h, w)
        has_ended = terminations[:, None].float()
        features = torch.cat([summary, frame.mean((2, 3)), frame.amax((2, 3)), has_ended], 1)
        return self.reward(features)[:, 0]

    def standardise_rewards(self, rewards: Tensor) -> Tensor:
        """Rewards in the environment's units -> in standard deviations from the mean."""
        return (rewards - self.reward_mean) / self.reward_std

    def unstandardise_rewards(self, rewards: Tensor) -> Tensor:
        """The inverse of `standardise_rewards`."""
        return rewards * self.reward_std + self.reward_mean
