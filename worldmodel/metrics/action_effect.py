"""How much the actions change a dream: delta-PSNR of Genie (Bruce et al. 2024, arXiv 2402.15391).

Shapes: B clips, W frames of context, n horizons.
"""

from __future__ import annotations

import numpy as np
import torch

from worldmodel.metrics.clip_dreams import paired_dreams, random_dreams
from worldmodel.metrics.dream_rollouts import Dreams
from worldmodel.metrics.evaluation_run import EvaluationRun
from worldmodel.metrics.frame_scores import psnr
from worldmodel.metrics.metric import Metric, MetricValue
from worldmodel.metrics.prediction import horizons
from worldmodel.metrics.statistics import Estimate, ratio


def delta_psnr(run: EvaluationRun) -> list[MetricValue]:
    """PSNR with the recorded actions minus PSNR with random ones, paired by clip and resampled by episode.

    Both dreams of a clip run freely from the same context with the same noise. The baseline "another clip's actions"
    is the same difference for realistic actions: those of another clip of the same policy.
    """
    if not np.prod(run.data.header.action_space.shape):
        return []
    dreams, ahead, seed = run.cached(paired_dreams), horizons(run), run.settings.seed
    recorded, other, random = (_psnr(run, d, ahead) for d in (dreams.recorded, dreams.other, run.cached(random_dreams)))
    one, episodes = np.ones(len(recorded)), run.clips.episodes
    return [
        MetricValue(
            f"{k} ahead",
            ratio(recorded[:, i] - random[:, i], one, seed, episodes),
            {
                "another clip's actions": ratio(recorded[:, i] - other[:, i], one, seed, episodes),
                "actions ignored": Estimate(0.0),
            },
        )
        for i, k in enumerate(ahead)
    ]


def _psnr(run: EvaluationRun, dreams: Dreams, ahead: list[int]) -> np.ndarray:
    """PSNR of the part that the tokenizer encodes, at each horizon: (B, n) dB."""
    encoded, at, start = run.world.tokenizer.encoded_part, torch.tensor(ahead) - 1, run.world.prior.window
    columns = [psnr(encoded(run.clips.frames[:, start + t]), encoded(dreams.frames[:, t])) for t in at.tolist()]
    return torch.stack(columns, 1).numpy()


SECTION = "obedience"
ROWS = (
    Metric(
        "delta_psnr",
        SECTION,
        "PSNR of dreams with the recorded actions minus PSNR of dreams with random actions (Genie, arXiv 2402.15391)",
        "dB",
        "higher",
        delta_psnr,
    ),
)
