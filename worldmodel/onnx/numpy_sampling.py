"""Drawing codes from logits in numpy, as `prior.sampling` does with tensors."""

from __future__ import annotations

import numpy as np

from worldmodel.common.sampling_options import SamplingOptions


def draw(restrictions: SamplingOptions, logits: np.ndarray, draws: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """Draw a category of each place.

    Args:
        restrictions: how.
        logits: (..., V) float32.
        draws: (...) float32 in [0, 1).

    Returns:
        (...) int64 in [0, V), and its log-probability as predicted (at temperature 1, unrestricted), float32.
    """
    shifted = logits - logits.max(-1, keepdims=True)
    cumulated = np.exp(shifted).cumsum(-1, dtype=np.float64)
    plain = restrictions.temperature == 1 and not restrictions.top_k and restrictions.top_p == 1
    codes = _pick(cumulated, draws) if plain else _restricted(restrictions, shifted, draws)
    flat = shifted.reshape(-1, shifted.shape[-1])
    chosen = flat[np.arange(len(flat)), codes.ravel()].reshape(codes.shape)
    return codes, (chosen - np.log(cumulated[..., -1])).astype(np.float32)


def softmax(logits: np.ndarray) -> np.ndarray:
    """Probabilities: (..., V) float32."""
    weights = np.exp(logits - logits.max(-1, keepdims=True))
    return weights / weights.sum(-1, keepdims=True)


def inverse_cdf(logits: np.ndarray, draws: np.ndarray) -> np.ndarray:
    """Draw a category by where a uniform number falls in the cumulated probabilities.

    Args:
        logits: (..., V) float32.
        draws: (...) float32 in [0, 1).

    Returns:
        (...) int64 in [0, V), never one of probability 0.
    """
    return _pick(softmax(logits).cumsum(-1, dtype=np.float64), draws)


def _pick(cumulated: np.ndarray, draws: np.ndarray) -> np.ndarray:
    """Where draws (...) fall in cumulated weights (..., V) float64 (as torch sums), which need not end at 1."""
    # a number that rounding carries to the total itself would fall behind the last category that can be drawn
    at = np.minimum(draws, np.float32(1 - 2.0**-23)) * cumulated[..., -1]
    return (cumulated > at[..., None]).argmax(-1)


def _restricted(restrictions: SamplingOptions, logits: np.ndarray, draws: np.ndarray) -> np.ndarray:
    """Draw under temperature, top_k and top_p."""
    if restrictions.temperature == 0 or restrictions.top_k == 1:
        return logits.argmax(-1)
    logits = logits / np.float32(restrictions.temperature)
    if 0 < restrictions.top_k < logits.shape[-1]:
        least = np.partition(logits, -restrictions.top_k, -1)[..., -restrictions.top_k, None]
        logits = np.where(logits < least, np.float32(-np.inf), logits)
    if restrictions.top_p < 1:
        order = np.argsort(-logits, -1, kind="stable")
        ordered = np.take_along_axis(softmax(logits), order, -1)
        before = ordered.cumsum(-1, dtype=np.float64) - ordered  # probability of the likelier codes
        dropped = np.zeros_like(before, dtype=bool)
        np.put_along_axis(dropped, order, before >= restrictions.top_p, -1)
        logits = np.where(dropped, np.float32(-np.inf), logits)
    return inverse_cdf(logits, draws)
