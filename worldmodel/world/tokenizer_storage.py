"""The directory that a tokenizer is stored in: `train tokenizer` makes it, `train prior` starts from it."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
from safetensors import SafetensorError
from safetensors.torch import load_file

from worldmodel.common.directories import DirectoryKind, load_matching_weights, read_directory, write_directory
from worldmodel.common.errors import UserError
from worldmodel.common.pixels import PixelSpec
from worldmodel.tokenizer import Tokenizer, TokenizerConfig, make_tokenizer
from worldmodel.world.config_checksum import KEY, check_checksum, with_checksum
from worldmodel.world.config_values import check_model_size, check_object, check_text, read_model_config
from worldmodel.world.hub import with_shipped_names
from worldmodel.world.legacy_keys import rename_tokenizer_weights
from worldmodel.world.model_construction import stored_model
from worldmodel.world.world_model import WorldModel
from worldmodel.world.world_spec import read_pixels
from worldmodel.world.world_storage import check_entries, is_world

WEIGHTS = "model.safetensors"
TOKENIZER = DirectoryKind(
    "tokenizer", "worldmodel.tokenizer", 2, (WEIGHTS,), "worldmodel train tokenizer --out", older_versions=(1,)
)
ENTRIES = ("format", "version", "env", "pixels", "dataset", "tokenizer", "report", "files", KEY)


@dataclass(frozen=True)
class TokenizerCheckpoint:
    """A tokenizer and the data that it was trained on.

    Attributes:
        tokenizer: frames to codes and back.
        env: id of the environment that it was learned from.
        pixels: how the environment's screen was turned into frames.
        dataset: fingerprint of the data.
        report: figures measured after training, JSON, shown on the card.
    """

    tokenizer: Tokenizer
    env: str
    pixels: PixelSpec
    dataset: str
    report: dict[str, Any]

    def save_pretrained(self, directory: str | Path, extras: Path | None = None) -> None:
        """Write a directory of config.json, model.safetensors and README.md, atomically.

        Args:
            directory: made, or replaced if it already holds a tokenizer.
            extras: a folder that is copied in under its own name (the training log).

        Raises:
            UserError: the directory holds something that is not a tokenizer.
        """
        facts = {
            "env": self.env,
            "pixels": self.pixels.to_json(),
            "dataset": self.dataset,
            "tokenizer": self.tokenizer.config.saved_fields(),
            "report": self.report,
        }
        weights = {WEIGHTS: self.tokenizer.state_dict()}
        write_directory(Path(directory).expanduser(), TOKENIZER, with_checksum(facts), weights, self._card(), extras)

    @staticmethod
    def from_pretrained(directory: str | Path, device: str | torch.device = "cpu") -> TokenizerCheckpoint:
        """Read a tokenizer directory, or the tokenizer of a world directory; nothing is unpickled.

        Args:
            directory: what `save_pretrained`, `train tokenizer` or `train world` made, or the name of a shipped world.
            device: where to put it.

        Returns:
            The tokenizer, in evaluation mode.

        Raises:
            UserError: neither a tokenizer nor a world, another version, or damaged.
        """
        path = with_shipped_names(directory)
        if is_world(path):
            world = WorldModel.from_pretrained(path, device)
            spec = world.spec
            return TokenizerCheckpoint(world.tokenizer, spec.env, spec.pixels, spec.dataset, world.report)
        config = read_directory(path, TOKENIZER)
        try:
            check_entries(config, ENTRIES)
            pixels = read_pixels(config["pixels"], "pixels")
            sizes = read_model_config(config["tokenizer"], TokenizerConfig, "tokenizer")
            check_model_size(sizes, None, pixels.frame_shape)
            env, dataset = check_text(config["env"], "env"), check_text(config["dataset"], "dataset")
            report = check_object(config["report"], "report")
        except UserError as error:
            raise UserError(f"{path}/config.json: {error}") from error
        has_checksum = check_checksum(config, path)
        try:
            weights = load_file(path / WEIGHTS)
        except SafetensorError as error:
            raise UserError(f"{path}/{WEIGHTS} cannot be read ({error}).") from error
        if config["version"] == 1:
            weights = rename_tokenizer_weights(weights)
        with stored_model(path, weights, has_checksum):
            tokenizer = make_tokenizer(sizes, pixels.frame_shape)
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
