"""The verb `sample`: several dreams of one sequence of actions from one start."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path

import numpy as np

from worldmodel.common.errors import UserError


@dataclass(frozen=True)
class Sample:
    """Sample several dreams of one sequence of actions, from the same start.

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
    """'turn_right*8,forward*7': labels or numbers, each repeated so many steps; random ones if not given."""
    length: int = 24
    """Steps of a random sequence."""
    start: int | None = None
    """Index into the world's starts; sampled with the seed if not given."""
    seed: int = 0
    """Dream i has the seed `seed + i`; also of the start and of random actions."""
    temperature: float = 1.0
    top_k: int = 0
    top_p: float = 1.0
    device: str = "auto"
    force: bool = False
    """Replace an existing --out."""


def sample(config: Sample) -> None:
    """Dream, and write the image or video."""
    import torch

    from worldmodel.cli.action_text import parse_actions
    from worldmodel.cli.outputs import check_picture_path, write_clips
    from worldmodel.common.runtime import choose_runtime
    from worldmodel.dream.simulator import Simulator
    from worldmodel.prior.sampling import Sampling
    from worldmodel.world.world_model import WorldModel

    check_picture_path(config.out, config.force)
    if config.num < 1 or config.length < 1 or config.seed < 0:
        raise UserError(
            f"--num {config.num} --length {config.length} --seed {config.seed}: wanted at least 1, 1 and 0."
        )
    world = WorldModel.from_pretrained(config.world, choose_runtime(config.device).device)
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
    write_clips(config.out, [(f"dream {i + 1}", video) for i, video in enumerate(frames)])
    ended = int(rollout.terminations[:, -1].sum())
    print(f"{config.out}: {config.num} dreams of {len(actions)} steps from start {start}; {ended} ended.")
