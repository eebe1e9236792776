"""Gaussian noise whose power falls with the frequency, for plans whose actions persist over steps."""

from __future__ import annotations

import math

import torch
from torch import Tensor


def coloured_noise(shape: tuple[int, ...], exponent: float, generator: torch.Generator) -> Tensor:
    """Sample noise with the power spectral density f ** -exponent (Timmer and Koenig 1995).

    iCEM samples its plans from it (Pinneri et al. 2020, arXiv:2008.06389, section 3.1). Exponent 0 is white noise, 1
    pink, 2 Brownian. Frequency 0 has the density of the lowest frequency, 1 / L. Every value is standard normal.

    Args:
        shape: (..., L); the spectrum is over the last axis.
        exponent: of the spectrum, at least 0.
        generator: on the CPU.

    Returns:
        (..., L) float32.
    """
    length = shape[-1]
    frequencies = torch.fft.rfftfreq(length).clamp_min(1 / length)  # (L // 2 + 1,), cycles per step
    scale = frequencies.pow(-exponent / 2)
    real, imaginary = torch.randn((2, *shape[:-1], len(frequencies)), generator=generator, dtype=torch.float32)
    is_real = torch.zeros(len(frequencies), dtype=torch.bool)  # the mean and, for an even L, the highest frequency
    is_real[0] = True
    is_real[-1] |= length % 2 == 0
    real = torch.where(is_real, real * math.sqrt(2), real)
    spectrum = torch.complex(real, torch.where(is_real, 0.0, imaginary)) * scale
    # the variance of a value: each complex frequency counts twice, as itself and as its conjugate
    variance = (torch.where(is_real, 2.0, 4.0) * scale.square()).sum() / length**2
    return torch.fft.irfft(spectrum, n=length) / variance.sqrt()
