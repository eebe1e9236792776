"""Kinds of moments that a dream can begin from; needs no torch."""

from __future__ import annotations

NO_START = -1  # of a dream that began from a given context
KIND_EPISODE = 0  # a start that is the first frame of an episode
KIND_INSIDE = 1  # a moment inside one, with the frames before it
