"""A tokenizer's own directory: what `train tokenizer` makes and `train prior` begins with."""

from __future__ import annotations

from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

import torch
from cattrs.errors import BaseValidationError
from cattrs.preconf.json import make_converter
from safetensors import SafetensorError
from safetensors.torch import load_file

from worldmodel.common.directories import DirectoryKind, load_matching_weights, read_directory, write_directory
from worldmodel.common.errors import UserError
from worldmodel.common.pixels import PixelSpec
from worldmodel.tokenizer import Tokenizer, TokenizerConfig, make_tokenizer
from worldmodel.world.legacy_keys import rename_tokenizer_weights
from worldmodel.world.world_model import WorldModel, is_world

WEIGHTS = "model.safetensors"
TOKENIZER = DirectoryKind(
    "tokenizer", "worldmodel.tokenizer", 2, (WEIGHTS,), "worldmodel train tokenizer --out", older_versions=(1,)
)
_converter = make_converter(forbid_extra_keys=True)


@dataclass(frozen=True)
class TokenizerCheckpoint:
    """A tokenizer and where it comes from.

    Attributes:
        tokenizer: frames to codes and back.
        env: id of the environment it was learned from.
        pixels: how that environment's screen became frames.
        dataset: fingerprint of the data.
        report: figures measured after training, JSON, shown on the card.
    """

    tokenizer: Tokenizer
    env: str
    pixels: PixelSpec
    dataset: str
    report: dict[str, Any]

    def save_pretrained(self, directory: str | Path, extras: Path | None = None) -> None:
        """Write it as a directory of config.json, model.safetensors and README.md, all of it or nothing.

        Args:
            directory: made, or replaced if it holds a tokenizer already.
            extras: a folder copied in under its own name (the training's log).

        Raises:
            UserError: the directory holds something that is not a tokenizer.
        """
        facts = {
            "env": self.env,
            "pixels": self.pixels.to_json(),
            "dataset": self.dataset,
            "tokenizer": asdict(self.tokenizer.config),
            "report": self.report,
        }
        weights = {WEIGHTS: self.tokenizer.state_dict()}
        write_directory(Path(directory), TOKENIZER, facts, weights, self._card(), extras)

    @staticmethod
    def from_pretrained(directory: str | Path, device: str | torch.device = "cpu") -> TokenizerCheckpoint:
        """Read a tokenizer directory, or take the tokenizer of a world directory; nothing is unpickled.

        Args:
            directory: what `save_pretrained`, `train tokenizer` or `train world` made.
            device: where to put it.

        Returns:
            The tokenizer, in evaluation mode.

        Raises:
            UserError: neither of them, another version, or damaged.
        """
        path = Path(directory)
        if is_world(path):
            world = WorldModel.from_pretrained(path, device)
            spec = world.spec
            return TokenizerCheckpoint(world.tokenizer, spec.env, spec.pixels, spec.dataset, world.report)
        config = read_directory(path, TOKENIZER)
        try:
            pixels = PixelSpec.from_json(config["pixels"])
            sizes = _converter.structure(config["tokenizer"], TokenizerConfig)
            env, dataset, report = str(config["env"]), str(config["dataset"]), dict(config["report"])
        except (KeyError, TypeError, ValueError, BaseValidationError) as error:
            raise UserError(
                f"{path}/config.json is not whole or not ours ({type(error).__name__}: {error})."
            ) from error
        tokenizer = make_tokenizer(sizes, pixels.frame_shape)
        try:
            weights = load_file(path / WEIGHTS)
        except SafetensorError as error:
            raise UserError(f"{path}/{WEIGHTS} cannot be read ({error}).") from error
        if config["version"] == 1:
            weights = rename_tokenizer_weights(weights)
        load_matching_weights(
            tokenizer, weights, f"the weights of {path}", "Its config.json is another's; copy it again."
        )
        return TokenizerCheckpoint(tokenizer.to(device).eval(), env, pixels, dataset, report)

    def _card(self) -> str:
        h, w = self.tokenizer.grid
        height, width, _ = self.pixels.frame_shape
        figures = "".join(f"| {name} | {value} |\n" for name, value in self.report.items())
        return (
            "---\nlibrary_name: worldmodel\ntags: [tokenizer]\n---\n\n"
            f"# A tokenizer of {self.env}\n\n"
            f"Frames of {height} x {width} pixels as {h} x {w} codes out of {self.tokenizer.config.num_codes}.\n\n"
            "```\nworldmodel train prior --tokenizer DIR --data FILE --out WORLD\n```\n\n"
            f"| measured on the validation split | |\n|---|---|\n{figures}"
        )
