"""Sampling codes from logits in numpy, as `prior.sampling` does with tensors."""

from __future__ import annotations

import numpy as np

from worldmodel.common.sampling_options import SamplingOptions


def sample(options: SamplingOptions, logits: np.ndarray, uniforms: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """Sample a category of each place.

    Args:
        options: temperature, top_k and top_p.
        logits: (..., V) float32.
        uniforms: (...) float32 in [0, 1), uniform numbers.

    Returns:
        (...) int64 in [0, V), and its log-probability as predicted (at temperature 1, unrestricted), float32.
    """
    shifted = logits - logits.max(-1, keepdims=True)
    cumulative = np.exp(shifted).cumsum(-1, dtype=np.float64)
    unrestricted = options.temperature == 1 and not options.top_k and options.top_p == 1
    codes = _locate(cumulative, uniforms) if unrestricted else _sample_restricted(options, shifted, uniforms)
    flat = shifted.reshape(-1, shifted.shape[-1])
    chosen = flat[np.arange(len(flat)), codes.ravel()].reshape(codes.shape)
    return codes, (chosen - np.log(cumulative[..., -1])).astype(np.float32)


def softmax(logits: np.ndarray) -> np.ndarray:
    """Probabilities: (..., V) float32."""
    weights = np.exp(logits - logits.max(-1, keepdims=True))
    return weights / weights.sum(-1, keepdims=True)


def inverse_cdf(logits: np.ndarray, uniforms: np.ndarray) -> np.ndarray:
    """Sample a category by the position of a uniform number in the cumulative probabilities.

    Args:
        logits: (..., V) float32.
        uniforms: (...) float32 in [0, 1).

    Returns:
        (...) int64 in [0, V), never one of probability 0.
    """
    return _locate(softmax(logits).cumsum(-1, dtype=np.float64), uniforms)


def _locate(cumulative: np.ndarray, uniforms: np.ndarray) -> np.ndarray:
    """The categories of uniform numbers (...) in cumulative weights (..., V) float64, which need not end at 1."""
    # a number that rounding carries to the total itself would lie after the last category of positive probability
    position = np.minimum(uniforms, np.float32(1 - 2.0**-23)) * cumulative[..., -1]
    return (cumulative > position[..., None]).argmax(-1)


def _sample_restricted(options: SamplingOptions, logits: np.ndarray, uniforms: np.ndarray) -> np.ndarray:
    """Sample under temperature, top_k and top_p."""
    if options.temperature == 0 or options.top_k == 1:
        return logits.argmax(-1)
    logits = logits / np.float32(options.temperature)
    if 0 < options.top_k < logits.shape[-1]:
        smallest = np.partition(logits, -options.top_k, -1)[..., -options.top_k, None]
        logits = np.where(logits < smallest, np.float32(-np.inf), logits)
    if options.top_p < 1:
        order = np.argsort(-logits, -1, kind="stable")
        ordered = np.take_along_axis(softmax(logits), order, -1)
        before = ordered.cumsum(-1, dtype=np.float64) - ordered  # total probability of the likelier codes
        dropped = np.zeros_like(before, dtype=bool)
        np.put_along_axis(dropped, order, before >= options.top_p, -1)
        logits = np.where(dropped, np.float32(-np.inf), logits)
    return inverse_cdf(logits, uniforms)
