"""A learned world: tokenizer, prior with its heads, spaces and starts; and the directory it lives in.

Shapes: B batch, T frames, H W pixels, h w code grid, K = h*w, A action size, S starts.
"""

from __future__ import annotations

import hashlib
import json
import os
import shutil
from dataclasses import asdict, dataclass, field
from pathlib import Path
from typing import Any

import torch
from cattrs.errors import BaseValidationError
from cattrs.preconf.json import make_converter
from safetensors import SafetensorError
from safetensors.torch import load_file, save_file
from torch import Tensor, nn

from worldmodel import spaces
from worldmodel.errors import UserError
from worldmodel.pixels import PixelSpec
from worldmodel.prior import PriorConfig, build_prior
from worldmodel.prior.interface import CodeClip
from worldmodel.prior.starts import Starts
from worldmodel.runinfo import told_apart_by_kind
from worldmodel.tokenizer.vqvae import FrameTokenizer, TokenizerConfig

FORMAT = "worldmodel.world"
VERSION = 1
FILES = ("model.safetensors", "starts.safetensors")
_converter = told_apart_by_kind(make_converter(forbid_extra_keys=True))

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
            (B, T) float32, nats a frame; frame 0 is given nothing.
        """
        shape = frames.shape[:2]
        steps = torch.zeros((shape[0], shape[1] - 1), device=frames.device)
        clip = CodeClip(
            codes=self.tokenizer.encode(frames),
            frame_valid=torch.ones(shape, dtype=torch.bool, device=frames.device),
            actions=actions,
            rewards=steps,
            terminations=steps.bool(),
            truncations=steps.bool(),
            status=torch.full(shape, self.prior.status_config.num_bins, device=frames.device),
            learned=torch.ones(shape, dtype=torch.bool, device=frames.device),
        )
        return self.prior.log_prob(clip)

    # -- on disk -------------------------------------------------------------------------------------------

    def save_pretrained(self, directory: str | Path, extras: Path | None = None) -> None:
        """Write the world as a directory, all of it or nothing.

        Args:
            directory: made, or replaced if it holds a world already.
            extras: a folder copied in under its own name (the training's log).

        Raises:
            UserError: the directory holds something that is not a world.
        """
        out = Path(directory)
        assert self.starts is not None, "a world is saved with its starts"
        if out.exists() and not is_world(out) and not (out.is_dir() and not any(out.iterdir())):
            raise UserError(f"{out} exists and is not a world directory; give another one or remove it.")
        out.parent.mkdir(parents=True, exist_ok=True)
        fresh = out.with_name(f".{out.name}.new-{os.getpid()}")
        old = out.with_name(f".{out.name}.old-{os.getpid()}")
        shutil.rmtree(fresh, ignore_errors=True)
        fresh.mkdir()
        try:
            weights = {name: tensor.detach().cpu().contiguous() for name, tensor in self.state_dict().items()}
            save_file(weights, fresh / FILES[0])
            save_file({name: tensor.cpu() for name, tensor in self.starts.tensors().items()}, fresh / FILES[1])
            config = {
                "format": FORMAT,
                "version": VERSION,
                "spec": self.spec.to_json(),
                "tokenizer": asdict(self.tokenizer.config),
                "prior": asdict(self.prior.config),
                "prior_of_tokenizer": tokenizer_hash(self.tokenizer),
                "files": {name: _sha256((fresh / name).read_bytes()) for name in FILES},
                "report": self.report,
            }
            (fresh / "config.json").write_text(json.dumps(config, indent=1))
            (fresh / "README.md").write_text(self._card())
            if extras is not None:
                shutil.copytree(extras, fresh / extras.name)
            for path in fresh.iterdir():
                _sync(path)
            if out.exists():
                out.rename(old)
            fresh.rename(out)
            _sync(out.parent)
        finally:
            shutil.rmtree(fresh, ignore_errors=True)
            shutil.rmtree(old, ignore_errors=True)

    @staticmethod
    def from_pretrained(directory: str | Path, device: str | torch.device = "cpu") -> WorldModel:
        """Read a world directory; nothing is unpickled.

        Args:
            directory: what `save_pretrained` or training made.
            device: where to put it.

        Returns:
            The world, in evaluation mode.

        Raises:
            UserError: not a world, another version, damaged, or a prior beside the wrong tokenizer.
        """
        path = Path(directory)
        config = _read_config(path)
        try:
            spec = WorldSpec.from_json(config["spec"])
            tokenizer = _converter.structure(config["tokenizer"], TokenizerConfig)
            prior: PriorConfig = _converter.structure(config["prior"], PriorConfig)
            hashes, wanted = dict(config["files"]), str(config["prior_of_tokenizer"])
        except (KeyError, TypeError, ValueError, BaseValidationError) as error:
            raise UserError(
                f"{path}/config.json is not whole or not ours ({type(error).__name__}: {error})."
            ) from error
        world = WorldModel(tokenizer, prior, spec)
        for name in FILES:
            if not (path / name).is_file():
                raise UserError(f"{path} has no {name}; the copy is not whole, copy the directory again.")
            if _sha256((path / name).read_bytes()) != hashes.get(name):
                raise UserError(f"{path}/{name} is damaged or of another world: its sha256 is not the one noted.")
        try:
            world.load_state_dict(load_file(path / FILES[0]), strict=True)
            world.starts = Starts.from_tensors(load_file(path / FILES[1]))
        except (RuntimeError, SafetensorError, KeyError, TypeError) as error:
            raise UserError(f"{path}: the weights do not fit config.json ({error}).") from error
        if tokenizer_hash(world.tokenizer) != wanted:
            raise UserError(
                f"{path}: the prior was trained on another tokenizer's codes; put its own tokenizer back or "
                "train the prior again."
            )
        world.report = dict(config.get("report", {}))
        world.starts = world.starts.to(device)
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
    try:
        return json.loads((path / "config.json").read_text()).get("format") == FORMAT
    except (OSError, ValueError, AttributeError):
        return False


def tokenizer_hash(tokenizer: FrameTokenizer) -> str:
    """sha256 of a tokenizer's sizes and of every number that decides its codes."""
    digest = hashlib.sha256(json.dumps([asdict(tokenizer.config), tokenizer.frame_shape]).encode())
    for name, tensor in sorted(tokenizer.state_dict().items()):
        digest.update(f"{name} {tensor.dtype} {tuple(tensor.shape)}".encode())
        digest.update(tensor.detach().cpu().contiguous().numpy().tobytes())
    return digest.hexdigest()


def _read_config(path: Path) -> dict[str, Any]:
    if not path.is_dir():
        raise UserError(f"there is no world directory {path}; give what `train world --out` made.")
    try:
        config = json.loads((path / "config.json").read_text())
    except FileNotFoundError as error:
        raise UserError(f"{path} is not a world directory: it has no config.json.") from error
    except (OSError, ValueError) as error:
        raise UserError(f"{path}/config.json cannot be read ({error}); the copy is damaged.") from error
    if not isinstance(config, dict) or config.get("format") != FORMAT:
        raise UserError(f"{path}/config.json is of something else: wanted format {FORMAT!r}.")
    if config.get("version") != VERSION:
        raise UserError(
            f"{path} is a world of version {config.get('version')}, this code reads {VERSION}; use the "
            "worldmodel that wrote it, or train again."
        )
    return config


def _sha256(data: bytes) -> str:
    return hashlib.sha256(data).hexdigest()


def _sync(path: Path) -> None:
    descriptor = os.open(path, os.O_RDONLY)
    try:
        os.fsync(descriptor)
    finally:
        os.close(descriptor)
