"""The verb `predict`: a recorded clip, its reconstruction, and what a world predicts from its first frame."""

from __future__ import annotations

import json
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING

import numpy as np

from worldmodel.common.errors import UserError

if TYPE_CHECKING:
    from worldmodel.data import Dataset
    from worldmodel.world.world_model import WorldModel


@dataclass(frozen=True)
class Predict:
    """Dream on from a frame of a recorded episode, and compare with the recording.

    A PNG has three rows: recorded, reconstructed from codes, dreamed. A GIF or MP4 has them side by side.

    Example:
        worldmodel predict --world runs/cover --data cover.h5 --episode 3 --out episode-3.gif
    """

    world: Path
    """A world directory."""
    data: Path
    """A dataset of the same environment."""
    out: Path
    """NAME.png, NAME.gif or NAME.mp4."""
    episode: int = 0
    """Its number in the dataset."""
    start: int = 0
    """The first frame shown; the dream is conditioned on it and the frames before it."""
    length: int = 32
    """Frames shown; fewer if the episode ends sooner."""
    actions: str = "recorded"
    """recorded; shuffled: the recorded ones in another order; or a FILE with an action a line (label or numbers)."""
    seed: int = 0
    """Of the dream, and of the shuffled order."""
    temperature: float = 1.0
    top_k: int = 0
    top_p: float = 1.0
    device: str = "auto"
    force: bool = False
    """Replace an existing --out."""
    json: bool = False
    """Print the figures as JSON."""


def predict(config: Predict) -> None:
    """Write the image or video and print the PSNRs."""
    from worldmodel.cli.outputs import check_picture_path, write_clips
    from worldmodel.common.runtime import choose_runtime
    from worldmodel.dream.dream_clips import compare_clip
    from worldmodel.prior.sampling import Sampling
    from worldmodel.world.world_model import WorldModel

    check_picture_path(config.out, config.force)
    if config.seed < 0:
        raise UserError(f"--seed {config.seed}: wanted 0 or more.")
    world = WorldModel.from_pretrained(config.world, choose_runtime(config.device).device)
    with _open_data(config.data, world) as data:
        episode = data.episode(config.episode)
        length = min(config.length, episode.length + 1 - config.start)
        if length < 2:
            raise UserError(
                f"--start {config.start} --length {config.length}: episode {config.episode} has {episode.length + 1} "
                "frames; wanted at least two from --start on."
            )
        recorded = episode.actions[config.start : config.start + length - 1]
        actions = _choose_actions(config.actions, recorded, world, config.seed)
        sampling = Sampling(config.temperature, config.top_k, config.top_p)
        clip = compare_clip(world, data, config.episode, config.start, length, actions, config.seed, sampling)
    rows = {"real": clip.real, "reconstructed": clip.reconstructed, "dreamed": clip.dreamed}
    write_clips(config.out, list(rows.items()))
    figures = {
        "out": str(config.out),
        "frames": length,
        "psnr_reconstructed": _psnr(clip.real, clip.reconstructed),
        "psnr_dreamed": _psnr(clip.real[1:], clip.dreamed[1:]),
        "psnr_first_frame_repeated": _psnr(clip.real[1:], np.broadcast_to(clip.real[:1], clip.real[1:].shape)),
        "dream_ended_at": clip.ended,
    }
    text = (
        f"{config.out}: {length} frames; PSNR {figures['psnr_reconstructed']:.1f} dB reconstructed from codes, "
        f"{figures['psnr_dreamed']:.1f} dB dreamed, {figures['psnr_first_frame_repeated']:.1f} dB first frame repeated."
    )
    print(json.dumps(figures) if config.json else text)


def _choose_actions(actions: str, recorded: np.ndarray, world: WorldModel, seed: int) -> np.ndarray:
    """The actions to dream with, as many as were recorded."""
    from worldmodel.cli.action_text import parse_actions

    if actions == "recorded":
        return recorded
    if actions == "shuffled":
        return recorded[np.random.default_rng(seed).permutation(len(recorded))]
    path = Path(actions)
    if not path.is_file():
        raise UserError(f"--actions {actions}: wanted recorded, shuffled, or a file; there is no such file.")
    parsed = parse_actions(path.read_text(), world.spec.action_space, world.spec.action_labels)
    if len(parsed) < len(recorded):
        raise UserError(
            f"--actions {actions} holds {len(parsed)} actions, {len(recorded)} are needed; shorten --length."
        )
    return parsed[: len(recorded)]


def _open_data(path: Path, world: WorldModel) -> Dataset:
    """The dataset, cropped like the world's frames.

    Raises:
        UserError: its frames or actions are not the world's.
    """
    from worldmodel.data import Dataset

    wanted = world.spec.pixels
    data = Dataset.open_cropped(path, wanted)
    if data.header.pixels != wanted or data.header.action_space != world.spec.action_space:
        raise UserError(
            f"{path} has {data.header.pixels} and {data.header.action_space}, but the world was trained on {wanted} "
            f"and {world.spec.action_space}; give a dataset of the same environment."
        )
    return data


def _psnr(a: np.ndarray, b: np.ndarray) -> float:
    """Peak signal-to-noise ratio of frames (T, H, W, 3) uint8, the mean over frames in dB."""
    mse = np.square((a.astype(np.float64) - b) / 255).mean((1, 2, 3))
    return float((-10 * np.log10(np.maximum(mse, 1e-10))).mean())
