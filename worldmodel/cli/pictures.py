"""`worldmodel predict` and `worldmodel sample`: what a world thinks will happen, as pictures."""

from __future__ import annotations

import json
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np

from worldmodel.common import spaces
from worldmodel.common.errors import UserError, unknown_name

SHOWN = 16  # frames on a PNG: longer videos are thinned out to about so many
FPS = 9.0


@dataclass(frozen=True)
class Predict:
    """Dream on from a recorded moment, beside what really happened.

    A PNG has three rows: real, through the codes, dreamed. A GIF or MP4 has them side by side.

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
    """The frame that is shown first; the dream has seen the frames before it."""
    length: int = 32
    """Frames shown; fewer where the episode ends before."""
    actions: str = "recorded"
    """recorded; shuffled: the recorded ones in another order; or a FILE with an action a line (label or numbers)."""
    seed: int = 0
    """Of the dream, and of the shuffle."""
    temperature: float = 1.0
    top_k: int = 0
    top_p: float = 1.0
    device: str = "auto"
    force: bool = False
    """Replace what stands at --out."""
    json: bool = False
    """Print the figures as JSON."""


def predict(config: Predict) -> None:
    """Draw it and say how well it fits."""
    from worldmodel.dream.dream_clips import compare_clip
    from worldmodel.prior.sampling import Sampling

    _check_out(config.out, config.force)
    if config.seed < 0:
        raise UserError(f"--seed {config.seed}: wanted 0 or more.")
    world = _load(config.world, config.device)
    with _data(config.data, world) as data:
        episode = data.episode(config.episode)
        length = min(config.length, episode.length + 1 - config.start)
        if length < 2:
            raise UserError(
                f"--start {config.start} --length {config.length}: episode {config.episode} has {episode.length + 1} "
                "frames; wanted at least two from the start on."
            )
        recorded = episode.actions[config.start : config.start + length - 1]
        taken = _taken(config.actions, recorded, world, config.seed)
        sampling = Sampling(config.temperature, config.top_k, config.top_p)
        shown = compare_clip(world, data, config.episode, config.start, length, taken, config.seed, sampling)
    rows = {"real": shown.real, "through\nthe codes": shown.reconstructed, "dreamed": shown.dreamed}
    _write(config.out, list(rows.items()))
    figures = {
        "out": str(config.out),
        "frames": length,
        "psnr_reconstructed": _psnr(shown.real, shown.reconstructed),
        "psnr_dreamed": _psnr(shown.real[1:], shown.dreamed[1:]),
        "psnr_first_frame_repeated": _psnr(shown.real[1:], np.broadcast_to(shown.real[:1], shown.real[1:].shape)),
        "dream_ended_at": shown.end_step,
    }
    text = (
        f"{config.out}: {length} frames; PSNR {figures['psnr_reconstructed']:.1f} dB through the codes, "
        f"{figures['psnr_dreamed']:.1f} dreamed, {figures['psnr_first_frame_repeated']:.1f} the first frame repeated."
    )
    print(json.dumps(figures) if config.json else text)


@dataclass(frozen=True)
class Sample:
    """Several futures of one sequence of actions, from the same start.

    A PNG has a row for each dream (paper, appendix B); a GIF or MP4 has them all in a grid.

    Example:
        worldmodel sample --world runs/cover --num 8 --actions 'left*12,right*12' --out futures.gif
    """

    world: Path
    """A world directory."""
    out: Path
    """NAME.png, NAME.gif or NAME.mp4."""
    num: int = 16
    """Dreams."""
    actions: str = ""
    """'turn_right*8,forward*7': labels or numbers, each taken so many times; random ones if not given."""
    length: int = 24
    """Steps of a random sequence."""
    start: int | None = None
    """Index into the world's starts; drawn from the seed if not given."""
    seed: int = 0
    """Row i dreams with seed + i; also draws start and random actions."""
    temperature: float = 1.0
    top_k: int = 0
    top_p: float = 1.0
    device: str = "auto"
    force: bool = False
    """Replace what stands at --out."""


def sample(config: Sample) -> None:
    """Dream and draw."""
    import torch

    from worldmodel.dream.simulator import Simulator
    from worldmodel.prior.sampling import Sampling

    _check_out(config.out, config.force)
    if config.num < 1 or config.length < 1 or config.seed < 0:
        raise UserError(
            f"--num {config.num} --length {config.length} --seed {config.seed}: wanted at least 1, 1 and 0."
        )
    world = _load(config.world, config.device)
    space, rng = world.spec.action_space, np.random.default_rng(config.seed)
    if config.actions:
        actions = parse_actions(config.actions, space, world.spec.action_labels)
    else:
        actions = np.stack([space.sample(rng) for _ in range(config.length)])
    sampling = Sampling(config.temperature, config.top_k, config.top_p, exact=False)
    simulator = Simulator(world, config.num, config.seed, sampling)
    assert world.starts is not None
    start = int(rng.choice(world.starts.choices().cpu().numpy())) if config.start is None else config.start
    simulator.reset(starts=torch.full((config.num,), start))
    rollout = simulator.rollout(torch.from_numpy(np.repeat(actions[None], config.num, 0)))
    frames = rollout.frames.cpu().numpy()  # (N, L+1, H, W, 3)
    _write(config.out, [(f"dream {i + 1}", video) for i, video in enumerate(frames)])
    ended = int(rollout.terminations[:, -1].sum())
    print(f"{config.out}: {config.num} dreams of {len(actions)} steps from start {start}; {ended} ended.")


def parse_actions(text: str, space: spaces.Space, labels: Any = ()) -> np.ndarray:
    """'left*8,2*3' -> (11,) actions; several numbers of one action are joined by spaces: '0 1*4'.

    Args:
        text: actions with how often each is taken.
        space: what they must be of.
        labels: names of a Discrete space's actions.

    Raises:
        UserError: not of that form, or not in the space.
    """
    rows = []
    for part in filter(None, (p.strip() for p in text.replace("\n", ",").split(","))):
        name, star, times = part.partition("*")
        if star and not (times.strip().isdigit() and int(times)):
            raise UserError(f"actions {part!r}: wanted NAME*TIMES with a whole number of times, as left*8.")
        rows += [_action(name.strip(), space, labels)] * (int(times) if star else 1)
    if not rows:
        raise UserError(f"actions {text!r}: there is none in it.")
    return spaces.check_actions(space, np.asarray(rows, space.dtype))


def _action(name: str, space: spaces.Space, labels: Any) -> Any:
    """One action by its label or its numbers."""
    if isinstance(space, spaces.Discrete) and name in labels:
        return list(labels).index(name)
    try:
        numbers = [float(x) for x in name.split()]
        if isinstance(space, spaces.Box):
            return numbers
        whole = [int(x) for x in numbers]
        if whole != numbers:
            raise ValueError
        return whole[0] if isinstance(space, spaces.Discrete) and len(whole) == 1 else whole
    except ValueError:
        if isinstance(space, spaces.Discrete) and labels:
            raise unknown_name("action", name, labels) from None
        raise UserError(f"action {name!r}: wanted numbers of {space}, separated by spaces.") from None


def _taken(actions: str, recorded: np.ndarray, world: Any, seed: int) -> np.ndarray:
    """The actions to dream with: as many as were recorded."""
    if actions == "recorded":
        return recorded
    if actions == "shuffled":
        return recorded[np.random.default_rng(seed).permutation(len(recorded))]
    path = Path(actions)
    if not path.is_file():
        raise UserError(f"--actions {actions}: wanted recorded, shuffled, or a file; there is no such file.")
    read = parse_actions(path.read_text(), world.spec.action_space, world.spec.action_labels)
    if len(read) < len(recorded):
        raise UserError(f"--actions {actions} holds {len(read)} actions, {len(recorded)} are needed; shorten --length.")
    return read[: len(recorded)]


def _check_out(path: Path, force: bool) -> None:
    """Refuse what cannot be written before anything is computed."""
    if path.suffix not in (".png", ".gif", ".mp4"):
        raise UserError(f"--out {path}: wanted a name that ends in .png, .gif or .mp4.")
    if path.suffix == ".mp4":
        try:
            import av  # noqa: F401
        except ImportError as error:
            raise UserError(
                f"--out {path}: MP4 needs PyAV: pip install 'worldmodel[video]', or write a .gif."
            ) from error
    if path.exists() and not force:
        raise UserError(f"{path} exists; choose another --out, or --force to replace it.")


def _load(path: Path, device: str) -> Any:
    from worldmodel.common.runtime import choose_runtime
    from worldmodel.world.world_model import WorldModel

    return WorldModel.from_pretrained(path, choose_runtime(device).device)


def _data(path: Path, world: Any) -> Any:
    """The dataset as the world saw it: cropped like its frames.

    Raises:
        UserError: frames or actions are not the world's.
    """
    from worldmodel.data import Dataset

    wanted = world.spec.pixels
    data = Dataset.open_cropped(path, wanted)
    if data.header.pixels != wanted or data.header.action_space != world.spec.action_space:
        raise UserError(
            f"{path} shows {data.header.pixels} under {data.header.action_space}, the world learned {wanted} under "
            f"{world.spec.action_space}; give a dataset of the same environment."
        )
    return data


def _psnr(a: np.ndarray, b: np.ndarray) -> float:
    """Mean over frames, dB."""
    mse = np.square((a.astype(np.float64) - b) / 255).mean((1, 2, 3))
    return float((-10 * np.log10(np.maximum(mse, 1e-10))).mean())


def _write(path: Path, rows: list[tuple[str, np.ndarray]]) -> None:
    """Videos (T, H, W, 3) as rows of a picture, or beside each other in time; whole or not at all."""
    from worldmodel.cli import report
    from worldmodel.common.files import atomic_path

    path.parent.mkdir(parents=True, exist_ok=True)
    if path.suffix == ".png":
        every = max(1, -(-len(rows[0][1]) // SHOWN))
        picture = report.strips([(label, video[::every]) for label, video in rows])
        with atomic_path(path) as temporary:
            temporary.write_bytes(picture)
        return
    video = report.grid([video for _, video in rows])  # (T, H', W', 3)
    with atomic_path(path) as temporary:
        report.write_video(temporary, video, path.suffix, FPS)
