"""Kinds of starts that a dream can begin from. Imports no torch."""

from __future__ import annotations

NO_START = -1  # the dream began from a given context instead
KIND_EPISODE = 0  # the first frame of an episode
KIND_INSIDE = 1  # a time step inside an episode, with the frames before it
