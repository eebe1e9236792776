"""Distances of dreams from recordings by networks with published weights: LPIPS by horizon, and FVD.

They download weights, so they are evaluated by name only, and "all" leaves them out. Whole frames count, as in
`worldmodel eval video`, also where the tokenizer encodes a part of them.

Shapes: B clips, W frames of context, n frames ahead, H W pixels, F features.
"""

from __future__ import annotations

from functools import partial

import numpy as np
import torch
from torch import Tensor

from worldmodel.common.assets import cache_folder
from worldmodel.metrics import clip_protocols
from worldmodel.metrics.clip_dreams import paired_dreams
from worldmodel.metrics.clip_protocols import ClipNetworks, ClipSettings
from worldmodel.metrics.evaluation_run import EvaluationRun
from worldmodel.metrics.feature_distances import FEW, FLOOR
from worldmodel.metrics.frechet import frechet_of_features
from worldmodel.metrics.metric import Metric, MetricValue
from worldmodel.metrics.prediction import OTHER, SECTION, horizons
from worldmodel.metrics.statistics import Estimate, ratio


def networks(run: EvaluationRun) -> ClipNetworks:
    """The networks, on the device of the world; features are kept in the cache folder."""
    return clip_protocols.ClipNetworks(ClipSettings(device=run.world.device.type, cache=cache_folder("features")))


def lpips_by_horizon(run: EvaluationRun, name: str) -> list[MetricValue]:
    """LPIPS of the dream at each horizon, compared with baselines and with the reconstruction as lower bound.

    Args:
        run: the evaluation.
        name: "alex" or "vgg".

    Returns:
        Intervals are by episode; empty for frames smaller than the network takes.
    """
    clips, window, ahead = run.clips, run.world.prior.window, torch.tensor(horizons(run))
    lpips = run.cached(networks).load_lpips(name)
    if min(clips.frames.shape[2:4]) < lpips.network.MIN_SIZE:
        return []
    dreams, found = run.cached(paired_dreams), []
    for rows, clip in run.chunks(f"LPIPS, {name}"):
        frames = clips.frames[rows]
        real = frames[:, window - 1 + ahead]  # (B, horizons, H, W, 3)
        candidates = {
            "dream": dreams.recorded.frames[rows, ahead - 1],
            OTHER: dreams.other.frames[rows, ahead - 1],
            "repeat last": frames[:, window - 1 : window].expand_as(real),
            "reconstruction": run.world.tokenizer.decode(clip.codes[:, window - 1 + ahead]).cpu(),
        }
        found.append(
            {
                candidate: lpips.frames(real.flatten(0, 1), frames.flatten(0, 1)).reshape(real.shape[:2]).numpy()
                for candidate, frames in candidates.items()
            }
        )
    distances = {candidate: np.concatenate([chunk[candidate] for chunk in found]) for candidate in found[0]}
    values = []
    for i, steps in enumerate(horizons(run)):
        by_name = {
            candidate: ratio(column[:, i], np.ones(len(column)), run.settings.seed, run.clips.episodes)
            for candidate, column in distances.items()
        }
        values.append(MetricValue(f"{steps} ahead", by_name.pop("dream"), by_name))
    return values


def frechet_video_distance(run: EvaluationRun) -> list[MetricValue]:
    """FVD of the dreams: the last frame of the context and n frames ahead, against the recorded clips.

    Every clip begins with the recorded frame, as in the protocol of BAIR (1 frame given, 15 predicted). The baselines
    are the last frame repeated, the reconstruction, and the distance between the even and the odd real clips.
    """
    extract, window, dreams = run.cached(networks).features, run.world.prior.window, run.cached(paired_dreams)
    features: dict[str, list[np.ndarray]] = {}
    for rows, clip in run.chunks("FVD"):
        real = run.clips.frames[rows, window - 1 :]  # (B, 1 + n, H, W, 3)
        first = real[:, :1]
        continued: dict[str, Tensor] = {
            "real": real[:, 1:],
            "dream": dreams.recorded.frames[rows],
            "repeat last": first.expand_as(real[:, 1:]),
            "reconstruction": run.world.tokenizer.decode(clip.codes[:, window:]).cpu(),
        }
        for name, frames in continued.items():
            features.setdefault(name, []).append(extract(torch.cat([first, frames], 1)))
    vectors = {name: np.concatenate(found) for name, found in features.items()}  # (B, F)
    recorded, ddof = vectors.pop("real"), _rules(run).ddof
    values = {name: frechet_of_features(recorded, found, ddof) for name, found in vectors.items()}
    values[FLOOR] = frechet_of_features(recorded[::2], recorded[1::2], ddof)
    estimates = {name: Estimate(value) for name, value in values.items() if np.isfinite(value)}
    return [MetricValue("", estimates.pop("dream"), estimates)]


def fvd_note(run: EvaluationRun) -> str:
    """What a reader must know to interpret the FVD of this run."""
    count, rules = len(run.clips.episodes), _rules(run)
    bias = f" Fewer than {FEW} clips: it is biased upwards; compare it with the floor." if count < FEW else ""
    return (
        f"FVD: {count} dreams against {count} recorded clips of {run.settings.ahead + 1} frames, the first one "
        f"given and as recorded; resizing {rules.resizing!r}, covariance divisor N-{rules.ddof}, "
        f"{run.world.device.type}.{bias}"
    )


def _rules(run: EvaluationRun) -> clip_protocols.Protocol:
    return run.cached(networks).settings.rules


ROWS = (
    *(
        Metric(
            name,
            SECTION,
            f"perceptual distance of dreamed frames from real ones (Zhang et al. 2018) by {network}; whole frames",
            "distance",
            "lower",
            partial(lpips_by_horizon, name=key),
            default=False,
            assets=(asset,),
        )
        for name, key, network, asset in (
            ("lpips", "alex", "AlexNet, 31 pixels and more", "lpips-alexnet"),
            ("lpips_vgg", "vgg", "VGG-16, 16 pixels and more", "lpips-vgg16"),
        )
    ),
    Metric(
        "fvd",
        SECTION,
        "Frechet video distance of the dreams from the recorded clips, by I3D; whole frames",
        "squared units of the features",
        "lower",
        frechet_video_distance,
        default=False,
        assets=("i3d-kinetics-400",),
    ),
)
