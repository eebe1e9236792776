"""A learned world: a tokenizer, a prior with its outcome heads, and contexts to begin from.

Shapes: B batch, T frames, H W pixels, h w code grid, A action size.
"""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import Any

import torch
from torch import Tensor, nn

from worldmodel.common import spaces
from worldmodel.common.directories import load_matching_weights
from worldmodel.common.errors import UserError
from worldmodel.common.threads import limit_threads
from worldmodel.prior import PriorConfig, build_prior
from worldmodel.prior.code_clip import CodeClip
from worldmodel.prior.context import Context
from worldmodel.tokenizer import TokenizerConfig, make_tokenizer
from worldmodel.world.config_values import check_model_size, check_world_tokenizer
from worldmodel.world.hub import find_world
from worldmodel.world.model_construction import stored_model
from worldmodel.world.starts import Starts
from worldmodel.world.world_spec import WorldSpec
from worldmodel.world.world_storage import read_world, tokenizer_hash, write_world


class WorldModel(nn.Module):
    """A world that can be stepped without its data.

    Args:
        tokenizer_config: size of the tokenizer.
        prior_config: size of the prior.
        spec: the environment that it was learned from.

    Raises:
        UserError: sizes that are out of range or do not fit each other.

    Attributes:
        tokenizer: frames to codes and back.
        prior: predicts the next codes; its heads predict termination, status and reward.
        starts: contexts to begin from; None until training has gathered them.
        report: figures measured after training, JSON, shown on the card.
        directory: the directory it was read from; None if it was not read.
    """

    def __init__(self, tokenizer_config: TokenizerConfig, prior_config: PriorConfig, spec: WorldSpec) -> None:
        super().__init__()
        check_model_size(tokenizer_config, prior_config, spec.pixels.frame_shape)
        check_world_tokenizer(tokenizer_config, prior_config.window)
        self.spec = spec
        self.tokenizer = make_tokenizer(tokenizer_config, spec.pixels.frame_shape)
        self.prior = build_prior(
            prior_config,
            self.tokenizer.grid,
            tokenizer_config.num_codes,
            spec.action_space,
            spec.end_has_frame,
        )
        self.starts: Starts | None = None
        self.report: dict[str, Any] = {}
        self.directory: Path | None = None

    def _apply(self, fn: Callable[[Tensor], Tensor], recurse: bool = True) -> WorldModel:
        """As in torch, for `to` and similar methods: the starts move with the weights."""
        super()._apply(fn, recurse)
        if self.starts is not None:
            self.starts = self.starts.to(self.device)
        return self

    @property
    def device(self) -> torch.device:
        """Where the weights are."""
        return next(self.prior.parameters()).device

    @property
    def context_frames(self) -> int:
        """Frames that determine a context: the prior's window, and those before that a causal tokenizer needs."""
        return self.prior.window + self.tokenizer.encoder_past

    def log_prob(self, frames: Tensor, actions: Tensor) -> Tensor:
        """Log-likelihood of real frames, each conditioned on the frames before it and the actions.

        Args:
            frames: (B, T, H, W, 3) uint8.
            actions: (B, T-1) or (B, T-1, A).

        Returns:
            (B, T) float32 on the world's device, nats per frame; frame 0 has no condition.

        Raises:
            UserError: frames of another size, or actions that do not fit between them.
        """
        self._check_clip("log_prob", frames, actions)
        frames, actions, shape = frames.to(self.device), actions.to(self.device), frames.shape[:2]
        steps = torch.zeros((shape[0], shape[1] - 1), dtype=torch.float32, device=frames.device)
        clip = CodeClip(
            codes=self.tokenizer.encode(frames),
            frame_valid=torch.ones(shape, dtype=torch.bool, device=frames.device),
            actions=actions,
            rewards=steps,
            terminations=steps.bool(),
            truncations=steps.bool(),
            status=torch.full(shape, self.prior.status_config.num_bins, device=frames.device),
            weights=torch.ones(shape, dtype=torch.float32, device=frames.device),
        )
        return self.prior.log_prob(clip)

    def context(
        self,
        frames: Tensor,
        actions: Tensor,
        frame_valid: Tensor | None = None,
        status: Tensor | None = None,
    ) -> Context:
        """Encode real frames as a context to begin dreams from; only the last `context_frames` frames matter.

        With a causal tokenizer the first frame given begins a sequence. Codes are those of the whole episode if
        there are `context_frames` frames or the first is the first of an episode.

        Args:
            frames: (B, T, H, W, 3) uint8, T >= 1.
            actions: (B, T-1) or (B, T-1, A), the actions between the frames.
            frame_valid: (B, T) bool; None for all valid.
            status: (B,) int64, bin of the hidden variable at the last frame; None for unknown.

        Raises:
            UserError: frames of another size, actions that do not fit between them, or a status out of range.
        """
        self._check_clip("context", frames, actions)
        window, device, bins = self.prior.window, self.device, self.prior.status_config.num_bins
        if status is not None and not _is_status(status, len(frames), bins):
            raise UserError(
                f"context: got status {status.tolist()}; wanted an integer from 0 to {bins} for each of {len(frames)} "
                f"rows; {bins} means unknown."
            )
        frames, actions = frames[:, -self.context_frames :], actions[:, max(0, actions.shape[1] - window + 1) :]
        actions = actions.to(device)
        actions = actions.to(torch.float32 if self.spec.action_space.dtype.kind == "f" else torch.int64)
        codes = self.tokenizer.encode(frames.to(device))[:, -window:]
        if frame_valid is None:
            frame_valid = torch.ones(codes.shape[:2], dtype=torch.bool)
        if status is None:
            status = torch.full((len(codes),), bins)
        return self.prior.context(codes, frame_valid[:, -window:].to(device), actions, status.to(device, torch.int64))

    def _check_clip(self, caller: str, frames: Tensor, actions: Tensor) -> None:
        """Refuse frames that are not (B, T, H, W, 3) uint8, T >= 1, and actions that do not fit between them."""
        size, space = self.tokenizer.frame_shape, self.spec.action_space
        if frames.ndim != 5 or frames.shape[2:] != size or frames.dtype != torch.uint8:
            wanted = f"(B, T, {size[0]}, {size[1]}, 3) uint8"
            raise UserError(f"{caller}: got frames {tuple(frames.shape)} {frames.dtype}, wanted {wanted}.")
        if not frames.shape[1]:
            raise UserError(f"{caller}: got no frame; wanted at least one in each row.")
        if actions.shape != (frames.shape[0], frames.shape[1] - 1, *space.shape):
            raise UserError(
                f"{caller} of {tuple(frames.shape[:2])} frames and actions of shape {tuple(actions.shape)}: wanted one "
                f"action fewer than frames in each row, each of shape {space.shape} for {space}."
            )
        if actions.device.type == "cpu":
            spaces.check_actions(space, actions.detach().numpy(), f"{caller}: actions")

    def save_pretrained(self, directory: str | Path, extras: Path | None = None, half: bool = False) -> None:
        """Write the world as a directory, atomically.

        Args:
            directory: made, or replaced if it already holds a world.
            extras: a folder that is copied in under its own name (the training log).
            half: store the matrices of the prior in bfloat16, which halves their size. They are rounded; a world that
                is loaded from there has float32 weights again. The tokenizer, and so every code, stays exact.

        Raises:
            UserError: the directory holds something that is not a world.
        """
        write_world(self, Path(directory).expanduser(), extras, half)

    @staticmethod
    @limit_threads(1)  # so that a process that has loaded a world can fork
    def from_pretrained(directory: str | Path, device: str | torch.device = "cpu") -> WorldModel:
        """Read a world directory; nothing is unpickled.

        Args:
            directory: what `save_pretrained` or training made, or the name of a world that comes with the package.
            device: where to put it.

        Returns:
            The world, in evaluation mode.

        Raises:
            UserError: not a world, another version, damaged, or a prior that was trained on another tokenizer.
        """
        if isinstance(directory, nn.Module):  # a ClipModel, given to an interface that steps worlds
            raise UserError(f"a {type(directory).__name__} cannot be stepped: give a WorldModel or its directory.")
        path = find_world(directory)
        stored = read_world(path)
        with stored_model(path, stored.weights, stored.has_checksum):
            world = WorldModel(stored.tokenizer, stored.prior, stored.spec)
        load_matching_weights(
            world, stored.weights, f"the weights of {path}", "Its config.json is another's; copy it again."
        )
        stored.starts.check(world.prior, path)
        if tokenizer_hash(world.tokenizer, stored.tokenizer_weights) != stored.tokenizer_hash:
            raise UserError(
                f"{path}: the prior was trained on another tokenizer's codes; put its own tokenizer back or "
                "train the prior again."
            )
        world.starts, world.report, world.directory = stored.starts, stored.report, path
        return world.to(device).eval()


def _is_status(status: Tensor, rows: int, bins: int) -> bool:
    """Whether a tensor holds one bin per row, or the number of bins for "unknown"."""
    is_integer = not status.is_floating_point() and status.dtype != torch.bool
    return is_integer and status.shape == (rows,) and bool(((status >= 0) & (status <= bins)).all())
