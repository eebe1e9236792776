"""A learned world: tokenizer, prior with its heads, spaces and starts; and the directory it lives in.

Shapes: B batch, T frames, H W pixels, h w code grid, K = h*w, A action size, S starts.
"""

from __future__ import annotations

import hashlib
import json
from collections.abc import Callable
from dataclasses import asdict, dataclass, field
from pathlib import Path
from typing import Any

import torch
from cattrs.errors import BaseValidationError
from cattrs.preconf.json import make_converter
from safetensors import SafetensorError
from safetensors.torch import load_file
from torch import Tensor, nn

from worldmodel.common import spaces
from worldmodel.common.directories import DirectoryKind, load_matching_weights, read_directory, write_directory
from worldmodel.common.errors import UserError
from worldmodel.common.pixels import PixelSpec
from worldmodel.common.run_info import structure_unions_by_kind
from worldmodel.prior import PriorConfig, build_prior
from worldmodel.prior.code_clip import CodeClip
from worldmodel.prior.context import Context
from worldmodel.tokenizer import FrameTokenizer, Tokenizer, TokenizerConfig
from worldmodel.world.hub import find_world
from worldmodel.world.legacy_keys import rename_world_weights
from worldmodel.world.starts import Starts

WORLD = DirectoryKind(
    "world",
    "worldmodel.world",
    2,
    ("model.safetensors", "starts.safetensors"),
    "worldmodel train world --out",
    older_versions=(1,),
)
_converter = structure_unions_by_kind(make_converter(forbid_extra_keys=True))

_CODES_DEPEND_ON = ("time", "space_stride", "time_stride", "clip_length", "num_heads", "num_codebooks")

Labels = tuple[str, ...] | tuple[tuple[str, ...], ...]


@dataclass(frozen=True)
class WorldSpec:
    """What a world keeps of the environment it was learned from.

    Attributes:
        env: the environment's id.
        pixels: how its screen became frames.
        action_space: its actions.
        action_labels: a name for each action; may be empty.
        env_kwargs: what it was made with, JSON.
        frame_skip: the environment's own ticks a step.
        max_steps: steps after which recording stopped an episode; None for no limit.
        end_has_frame: whether the data shows a picture of the moment an episode ended.
        dataset: fingerprint of the data.
    """

    env: str
    pixels: PixelSpec
    action_space: spaces.Space
    action_labels: Labels = ()
    env_kwargs: dict[str, Any] = field(default_factory=dict)
    frame_skip: int = 1
    max_steps: int | None = None
    end_has_frame: bool = True
    dataset: str = ""

    def to_json(self) -> dict[str, Any]:
        """Every field, as JSON."""
        return {**vars(self), "pixels": self.pixels.to_json(), "action_space": self.action_space.to_json()}

    @staticmethod
    def from_json(spec: dict[str, Any]) -> WorldSpec:
        """The inverse of `to_json`; KeyError or TypeError for fields that are not ours."""
        labels = tuple(x if isinstance(x, str) else tuple(x) for x in spec["action_labels"])
        read = {
            "pixels": PixelSpec.from_json(spec["pixels"]),
            "action_space": spaces.from_json(spec["action_space"]),
            "action_labels": labels,
        }
        return WorldSpec(**{**spec, **read})


class WorldModel(nn.Module):
    """A world that can be stepped without its data.

    Args:
        tokenizer_config: size of the tokenizer.
        prior_config: size of the prior.
        spec: the environment it was learned from.

    Attributes:
        tokenizer: frames to codes and back.
        prior: what comes next; its heads say ends, status and rewards.
        starts: moments to begin from; None until training has gathered them.
        report: figures measured after training, JSON, shown on the card.
        directory: where it was read from, if it was.
    """

    def __init__(self, tokenizer_config: TokenizerConfig, prior_config: PriorConfig, spec: WorldSpec) -> None:
        super().__init__()
        self.spec = spec
        self.tokenizer = FrameTokenizer(tokenizer_config, spec.pixels.frame_shape)
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
        """As torch's, for `to` and its kin: the starts go where the weights go."""
        super()._apply(fn, recurse)
        if self.starts is not None:
            self.starts = self.starts.to(self.device)
        return self

    @property
    def device(self) -> torch.device:
        """Where the weights are."""
        return next(self.prior.parameters()).device

    def log_prob(self, frames: Tensor, actions: Tensor) -> Tensor:
        """Log-likelihood of real frames, each given those before it and the actions.

        Args:
            frames: (B, T, H, W, 3) uint8.
            actions: (B, T-1) or (B, T-1, A).

        Returns:
            (B, T) float32 on the world's device, nats a frame; frame 0 is given nothing.

        Raises:
            UserError: frames of another size, or actions that do not fit between them.
        """
        self._check_clip("log_prob", frames, actions)
        frames, actions, shape = frames.to(self.device), actions.to(self.device), frames.shape[:2]
        steps = torch.zeros((shape[0], shape[1] - 1), device=frames.device)
        clip = CodeClip(
            codes=self.tokenizer.encode(frames),
            frame_valid=torch.ones(shape, dtype=torch.bool, device=frames.device),
            actions=actions,
            rewards=steps,
            terminations=steps.bool(),
            truncations=steps.bool(),
            status=torch.full(shape, self.prior.status_config.num_bins, device=frames.device),
            weights=torch.ones(shape, device=frames.device),
        )
        return self.prior.log_prob(clip)

    def context(
        self,
        frames: Tensor,
        actions: Tensor,
        frame_valid: Tensor | None = None,
        status: Tensor | None = None,
    ) -> Context:
        """Real frames as what dreams can begin from; only the last `prior.window` of them matter.

        Args:
            frames: (B, T, H, W, 3) uint8, T >= 1.
            actions: (B, T-1) or (B, T-1, A), those between the frames.
            frame_valid: (B, T) bool; all are if not given.
            status: (B,) int64, the hidden variable's bin at the last frame; not known if not given.

        Raises:
            UserError: frames of another size, actions that do not fit between them, or a status that is not there.
        """
        self._check_clip("context", frames, actions)
        window, device, bins = self.prior.window, self.device, self.prior.status_config.num_bins
        if status is not None and not _fit(status, len(frames), bins):
            raise UserError(
                f"context: got status {status.tolist()}; wanted an integer of 0 to {bins} for each of {len(frames)} "
                f"rows; {bins} is for not known."
            )
        frames, actions = frames[:, -window:].to(device), actions[:, max(0, actions.shape[1] - window + 1) :].to(device)
        actions = actions.to(torch.float32 if self.spec.action_space.dtype.kind == "f" else torch.int64)
        codes = self.tokenizer.encode(frames)
        if frame_valid is None:
            frame_valid = torch.ones(codes.shape[:2], dtype=torch.bool)
        if status is None:
            status = torch.full((len(codes),), bins)
        return self.prior.context(codes, frame_valid[:, -window:].to(device), actions, status.to(device, torch.int64))

    def _check_clip(self, what: str, frames: Tensor, actions: Tensor) -> None:
        """Refuse frames that are not (B, T, H, W, 3) uint8, T >= 1, and actions that do not lie between them."""
        size, space = self.tokenizer.frame_shape, self.spec.action_space
        if frames.ndim != 5 or frames.shape[2:] != size or frames.dtype != torch.uint8:
            wanted = f"(B, T, {size[0]}, {size[1]}, 3) uint8"
            raise UserError(f"{what}: got frames {tuple(frames.shape)} {frames.dtype}, wanted {wanted}.")
        if not frames.shape[1]:
            raise UserError(f"{what}: got no frame; wanted at least one in each row.")
        if actions.shape != (frames.shape[0], frames.shape[1] - 1, *space.shape):
            raise UserError(
                f"{what} of {tuple(frames.shape[:2])} frames and actions of shape {tuple(actions.shape)}: wanted one "
                f"action fewer than frames in each row, each of shape {space.shape} for {space}."
            )
        if actions.device.type == "cpu":
            spaces.check_actions(space, actions.detach().numpy(), f"{what}: actions")

    # -- on disk -------------------------------------------------------------------------------------------

    def save_pretrained(self, directory: str | Path, extras: Path | None = None) -> None:
        """Write the world as a directory, all of it or nothing.

        Args:
            directory: made, or replaced if it holds a world already.
            extras: a folder copied in under its own name (the training's log).

        Raises:
            UserError: the directory holds something that is not a world.
        """
        assert self.starts is not None, "a world is saved with its starts"
        facts = {
            "spec": self.spec.to_json(),
            "tokenizer": asdict(self.tokenizer.config),
            "prior": asdict(self.prior.config),
            "prior_of_tokenizer": tokenizer_hash(self.tokenizer),
            "report": self.report,
        }
        weights = dict(zip(WORLD.files, (self.state_dict(), self.starts.tensors()), strict=True))
        write_directory(Path(directory), WORLD, facts, weights, self._card(), extras)

    @staticmethod
    def from_pretrained(directory: str | Path, device: str | torch.device = "cpu") -> WorldModel:
        """Read a world directory; nothing is unpickled.

        Args:
            directory: what `save_pretrained` or training made, or the name of a world that comes with the package.
            device: where to put it.

        Returns:
            The world, in evaluation mode.

        Raises:
            UserError: not a world, another version, damaged, or a prior beside the wrong tokenizer.
        """
        path = find_world(directory)
        config = read_directory(path, WORLD)
        try:
            spec = WorldSpec.from_json(config["spec"])
            tokenizer = _converter.structure(config["tokenizer"], TokenizerConfig)
            prior: PriorConfig = _converter.structure(config["prior"], PriorConfig)
            wanted = str(config["prior_of_tokenizer"])
        except (KeyError, TypeError, ValueError, BaseValidationError) as error:
            raise UserError(
                f"{path}/config.json is not whole or not ours ({type(error).__name__}: {error})."
            ) from error
        world = WorldModel(tokenizer, prior, spec)
        try:
            weights = load_file(path / WORLD.files[0])
            world.starts = Starts.from_tensors(load_file(path / WORLD.files[1]))
        except (SafetensorError, KeyError, TypeError) as error:
            raise UserError(f"{path}: its weights or starts cannot be read ({error}).") from error
        # the noted hash depends on the tensors' names, so it is compared under the names of the file
        part = "tokenizer."
        of_tokenizer = {name.removeprefix(part): weights[name] for name in weights if name.startswith(part)}
        if config["version"] == 1:
            weights = rename_world_weights(weights)
        load_matching_weights(world, weights, f"the weights of {path}", "Its config.json is another's; copy it again.")
        if tokenizer_hash(world.tokenizer, of_tokenizer) != wanted:
            raise UserError(
                f"{path}: the prior was trained on another tokenizer's codes; put its own tokenizer back or "
                "train the prior again."
            )
        world.report, world.directory = dict(config.get("report", {})), path
        return world.to(device).eval()

    def _card(self) -> str:
        spec, (h, w) = self.spec, self.tokenizer.grid
        height, width, _ = spec.pixels.frame_shape
        figures = "".join(f"| {name} | {value} |\n" for name, value in self.report.items())
        return (
            "---\nlibrary_name: worldmodel\ntags: [world-model]\n---\n\n"
            f"# A learned {spec.env}\n\n"
            f"Frames of {height} x {width} pixels as {h} x {w} codes, actions {spec.action_space}. One step "
            f"is {spec.frame_skip} of the environment's.\n\n"
            "```python\nimport gymnasium, worldmodel\n"
            'env = gymnasium.make("worldmodel/Dream-v0", world="DIR")\n```\n\n'
            f"| measured on the validation split | |\n|---|---|\n{figures}"
        )


def is_world(path: Path) -> bool:
    """Whether a directory holds a world's config.json (of any version)."""
    return WORLD.matches(path)


def tokenizer_hash(tokenizer: Tokenizer, weights: dict[str, Tensor] | None = None) -> str:
    """sha256 of everything that decides a tokenizer's codes: settings that its weights do not show, and the weights.

    Args:
        tokenizer: the tokenizer.
        weights: its state dict if that has other names, as in a directory of version 1.
    """
    settings = {name: getattr(tokenizer.config, name) for name in _CODES_DEPEND_ON}
    digest = hashlib.sha256(json.dumps([settings, tokenizer.frame_shape]).encode())
    for name, tensor in sorted((weights or tokenizer.state_dict()).items()):
        digest.update(f"{name} {tensor.dtype} {tuple(tensor.shape)}".encode())
        digest.update(tensor.detach().cpu().contiguous().numpy().tobytes())
    return digest.hexdigest()


def _fit(status: Tensor, rows: int, bins: int) -> bool:
    """Whether there is a bin, or the number of bins for "not known", for each row."""
    whole = not status.is_floating_point() and status.dtype != torch.bool
    return whole and status.shape == (rows,) and bool(((status >= 0) & (status <= bins)).all())
