"""A model of whole clips: a tokenizer and a clip prior. It is sampled and scored, and cannot be stepped.

Shapes: B clips, L frames of a clip, T time steps of codes, H W pixels, h w code grid, K = h*w, A action size.
"""

from __future__ import annotations

from pathlib import Path
from typing import Any

import torch
from torch import Tensor, nn

from worldmodel.common.arguments import checked_integer
from worldmodel.common.directories import load_matching_weights
from worldmodel.common.errors import UserError
from worldmodel.common.spaces import check_actions
from worldmodel.common.threads import limit_threads
from worldmodel.data.clips import Batch
from worldmodel.prior.clip.clip_conditioning import Conditioning
from worldmodel.prior.clip.clip_config import ClipConfig
from worldmodel.prior.clip.clip_prior import ClipPrior
from worldmodel.prior.sampling import Sampling, uniforms
from worldmodel.tokenizer import TokenizerConfig, make_tokenizer
from worldmodel.world.clip_storage import read_clip_model, write_clip_model
from worldmodel.world.config_values import check_model_size
from worldmodel.world.model_construction import stored_model
from worldmodel.world.world_spec import WorldSpec

DEFAULT_SAMPLING = Sampling()


class ClipModel(nn.Module):
    """The paper's model (VideoGPT): codes of whole clips, from any tokenizer, and a transformer over all of them.

    For a model that is stepped as an environment, see `WorldModel`.

    Args:
        tokenizer_config: size of the tokenizer, of frames or of clips.
        prior_config: size of the prior.
        spec: the environment that it was learned from.
        class_names: name of each class; needed if the prior is conditioned on a class.

    Raises:
        UserError: sizes that are out of range or do not fit each other.

    Attributes:
        tokenizer: frames to codes and back.
        prior: the distribution of the codes.
        report: figures measured after training, JSON, shown on the card.
        directory: the directory it was read from; None if it was not read.

    Example:
        >>> model = ClipModel.from_pretrained("runs/clips")
        >>> clips = model.sample(4, class_index=2, seed=0)  # (4, L, H, W, 3) uint8
    """

    def __init__(
        self,
        tokenizer_config: TokenizerConfig,
        prior_config: ClipConfig,
        spec: WorldSpec,
        class_names: tuple[str, ...] = (),
    ) -> None:
        super().__init__()
        check_model_size(tokenizer_config, prior_config, spec.pixels.frame_shape)
        length = prior_config.num_frames
        if tokenizer_config.time == "clip" and length % tokenizer_config.clip_length:
            raise UserError(
                f"clips of {length} frames (prior num_frames) cannot be cut into the clips of "
                f"{tokenizer_config.clip_length} frames (tokenizer clip_length) that are encoded together: wanted a "
                "multiple of it."
            )
        self.spec, self.class_names = spec, class_names
        self.tokenizer = make_tokenizer(tokenizer_config, spec.pixels.frame_shape)
        self.prior = ClipPrior(
            prior_config,
            self.tokenizer.grid,
            tokenizer_config.num_codes,
            self.tokenizer.time_stride,
            spec.action_space,
            len(class_names),
            self.tokenizer.frame_shape,
        )
        self.report: dict[str, Any] = {}
        self.directory: Path | None = None

    @property
    def device(self) -> torch.device:
        """Where the weights are."""
        return next(self.prior.parameters()).device

    @property
    def clip_shape(self) -> tuple[int, int, int, int]:
        """(L, H, W, 3)."""
        return (self.prior.config.num_frames, *self.tokenizer.frame_shape)

    @torch.no_grad()
    def sample(
        self,
        num: int,
        class_index: int | Tensor | None = None,
        actions: Tensor | None = None,
        seed: int = 0,
        sampling: Sampling = DEFAULT_SAMPLING,
        frames: Tensor | None = None,
        batch_size: int = 32,
    ) -> Tensor:
        """Sample clips.

        Args:
            num: number of clips.
            class_index: the class of all clips, or (num,) int64; required if the model is conditioned on a class.
            actions: (L-1,) or (L-1, A) for all clips, or one more leading axis of `num`; required if the model is
                conditioned on actions.
            seed: clip i is a function of seed + i and its conditions, up to rounding, whatever the batch size.
            sampling: how codes are sampled.
            frames: (n, H, W, 3) uint8, the given first frames of all clips, or one more leading axis of `num`; required
                if the model is conditioned on frames. The clips begin with frames like them, not with copies.
            batch_size: clips sampled at once, to bound memory.

        Returns:
            (num, L, H, W, 3) uint8 on the model's device.

        Raises:
            UserError: a condition is missing, not used, or of another shape or range.
        """
        num, batch_size = checked_integer("num", num), checked_integer("batch_size", batch_size)
        seed = checked_integer("seed", seed, 0)
        conditioning = Conditioning(
            actions=None if actions is None else self._repeat_actions(torch.as_tensor(actions), num),
            class_index=None if class_index is None else torch.as_tensor(class_index).expand(num),
            frames=None if frames is None else frames.expand(num, *frames.shape[-4:]),
        )
        self._check_values(conditioning, num)
        conditioning, clips = conditioning.to(self.device), []
        for begin in range(0, num, batch_size):
            rows = slice(begin, min(num, begin + batch_size))
            seeds = seed + torch.arange(rows.start, rows.stop, device=self.device)
            codes, _ = self.prior.sample(conditioning.select(rows), self._uniforms(seeds), sampling)
            clips.append(self.tokenizer.decode(codes))
        return torch.cat(clips)

    @torch.no_grad()
    def log_prob(self, clips: Tensor, conditioning: Conditioning = Conditioning()) -> Tensor:  # noqa: B008 (frozen)
        """Natural logarithm of the probability of the clips' codes.

        Args:
            clips: (B, L, H, W, 3) uint8.
            conditioning: of the B clips.

        Returns:
            (B,) float32 on the model's device, nats per clip; divide by T*K for nats per code.

        Raises:
            UserError: clips of another shape; a condition is missing, not used, or of another shape or range.
        """
        if clips.dtype != torch.uint8 or clips.ndim != 5 or tuple(clips.shape[1:]) != self.clip_shape:
            wanted = ", ".join(map(str, self.clip_shape))
            raise UserError(f"log_prob: got clips {tuple(clips.shape)} {clips.dtype}, wanted (B, {wanted}) uint8.")
        self._check_values(conditioning, len(clips))
        return self.prior.log_prob(self.tokenizer.encode(clips.to(self.device)), conditioning.to(self.device))

    def conditioning_of(self, batch: Batch[Tensor]) -> Conditioning:
        """The parts of recorded clips that this model is conditioned on."""
        config = self.prior.config
        return Conditioning(
            actions=None if config.actions == "none" else batch.actions,
            class_index=batch.labels if config.class_label else None,
            frames=batch.frames[:, : config.num_given_frames] if config.num_given_frames else None,
        )

    def save_pretrained(self, directory: str | Path, extras: Path | None = None) -> None:
        """Write the model as a directory, atomically.

        Args:
            directory: made, or replaced if it already holds a clip model.
            extras: a folder that is copied in under its own name (the training log).

        Raises:
            UserError: the directory holds something that is not a clip model.
        """
        write_clip_model(self, Path(directory).expanduser(), extras)

    @staticmethod
    @limit_threads(1)  # so that a process that has loaded a model can fork
    def from_pretrained(directory: str | Path, device: str | torch.device = "cpu") -> ClipModel:
        """Read the directory of a clip model; nothing is unpickled.

        Args:
            directory: what `save_pretrained` or `worldmodel train clip` made.
            device: where to put it.

        Returns:
            The model, in evaluation mode.

        Raises:
            UserError: not a clip model, another version, or damaged.
        """
        path = Path(directory).expanduser()
        stored = read_clip_model(path)
        with stored_model(path, stored.weights, stored.has_checksum):
            model = ClipModel(stored.tokenizer, stored.prior, stored.spec, stored.class_names)
        remedy = "Its config.json is another's; copy it again."
        load_matching_weights(model, stored.weights, f"the weights of {path}", remedy)
        model.report, model.directory = stored.report, path
        return model.to(device).eval()

    def _uniforms(self, seeds: Tensor) -> Tensor:
        """Uniform numbers of clips by their seeds: (B,) int64 -> (B, T, K) float32."""
        steps, (h, w) = self.prior.num_steps, self.prior.grid
        zeros = torch.zeros_like(seeds)
        return torch.stack([uniforms(seeds, zeros, zeros + t, h * w) for t in range(steps)], 1)

    def _repeat_actions(self, actions: Tensor, num: int) -> Tensor:
        """Actions of one clip for all of `num` clips; actions that have the axis of clips as they are."""
        one_clip = 1 + len(self.spec.action_space.shape)  # axes of the actions of one clip
        return actions.expand(num, *actions.shape) if actions.ndim == one_clip else actions

    def _check_values(self, conditioning: Conditioning, num: int) -> None:
        """Refuse conditions that do not fit `num` clips, before they are moved to the device."""
        self.prior.condition_encoder.check(conditioning, num)
        actions = conditioning.actions
        if actions is not None and actions.device.type == "cpu":
            check_actions(self.spec.action_space, actions.numpy(), "actions")
