"""Random toys: one to three primitives glued together, in a few colours. Lengths in metres."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np

SHAPES = ("box", "sphere", "capsule", "cylinder", "ellipsoid")
MAX_PARTS = 3
DENSITY = 250  # kg/m3

# Colours of parts, RGB in [0, 1], by the name of the argument `colours` of the environment.
PALETTES: dict[str, tuple[tuple[float, float, float], ...]] = {
    "mixed": (
        *((0.20, 0.72, 0.16), (0.96, 0.50, 0.06), (0.10, 0.30, 0.86), (0.90, 0.16, 0.12), (0.97, 0.84, 0.10)),
        *((0.50, 0.18, 0.66), (0.12, 0.64, 0.80), (0.94, 0.36, 0.62), (0.08, 0.50, 0.30), (0.94, 0.94, 0.94)),
    ),
    "dull": ((0.42, 0.52, 0.40), (0.62, 0.50, 0.38), (0.36, 0.42, 0.56), (0.60, 0.40, 0.40), (0.50, 0.50, 0.52)),
    "warm": ((0.96, 0.50, 0.06), (0.90, 0.16, 0.12), (0.97, 0.84, 0.10), (0.94, 0.36, 0.62)),
    "cool": ((0.20, 0.72, 0.16), (0.10, 0.30, 0.86), (0.50, 0.18, 0.66), (0.12, 0.64, 0.80), (0.08, 0.50, 0.30)),
}
TARGET_COLOUR = (0.10, 0.78, 0.14)  # of the toy to push in the variant with a goal
MARKER_COLOUR = (0.86, 0.10, 0.62)  # of its place
MIN_COLOUR_DISTANCE = 0.45  # other toys keep this distance (Euclidean, RGB) from both


@dataclass(frozen=True)
class Toy:
    """A toy.

    Attributes:
        position: (x, y) where it is dropped.
        yaw: its rotation about the vertical axis, radians.
        geoms: the attributes of its geoms, as XML.
    """

    position: tuple[float, float]
    yaw: float
    geoms: tuple[str, ...]

    def xml(self, name: str, height: float) -> str:
        """Its body, with a free joint, at a height above the floor of the bin."""
        geoms = "".join(f'<geom class="toy" {attributes}/>' for attributes in self.geoms)
        x, y = self.position
        return (
            f'<body name="{name}" pos="{x:.4f} {y:.4f} {height}" euler="0 0 {self.yaw:.4f}">'
            f'<joint type="free" damping=".003"/>{geoms}</body>'
        )


def sample_toy(rng: np.random.Generator, position: tuple[float, float], palette: np.ndarray) -> Toy:
    """A random toy.

    Args:
        rng: source of all randomness.
        position: (x, y).
        palette: (N, 3) colours of parts. The parts after the first keep its colour with probability 0.4.
    """
    first = palette[rng.integers(len(palette))]
    geoms = []
    for part in range(rng.integers(1, MAX_PARTS + 1)):
        keep = part == 0 or rng.random() < 0.4
        colour = first if keep else palette[rng.integers(len(palette))]
        shape = str(rng.choice(SHAPES))
        offset = np.zeros(3) if part == 0 else rng.uniform(-0.026, 0.026, 3) * (1, 1, 0.3)
        geoms.append(
            _geom(shape, rng.uniform(0.017, 0.034, 3), offset, rng, np.clip(colour + rng.normal(0, 0.03, 3), 0, 1))
        )
    return Toy(position, rng.uniform(0, 2 * np.pi), tuple(geoms))


def target_toy(rng: np.random.Generator, position: tuple[float, float]) -> Toy:
    """The toy to push: a low cylinder of one colour. Its size is random."""
    radius = rng.uniform(0.026, 0.032)
    geom = _geom("cylinder", np.array((radius, 0.02, 0.0)), np.zeros(3), rng, np.array(TARGET_COLOUR))
    return Toy(position, rng.uniform(0, 2 * np.pi), (geom,))


def palette_without_goal_colours(palette: np.ndarray) -> np.ndarray:
    """The colours (N, 3) of a palette that cannot be mistaken for the target toy or its marker."""
    marked = np.array((TARGET_COLOUR, MARKER_COLOUR))
    distances = np.linalg.norm(palette[:, None] - marked[None], axis=2).min(axis=1)
    return palette[distances > MIN_COLOUR_DISTANCE]


def _geom(shape: str, size: np.ndarray, offset: np.ndarray, rng: np.random.Generator, colour: np.ndarray) -> str:
    """The attributes of one geom; boxes and capsules are tilted with probability 0.5."""
    num_sizes = {"sphere": 1, "capsule": 2, "cylinder": 2}.get(shape, 3)
    quaternion = np.array((1.0, 0.0, 0.0, 0.0))
    if shape in ("box", "capsule") and rng.random() < 0.5:
        quaternion = rng.normal(size=4)
    return (
        f'type="{shape}" size="{_text(size[:num_sizes])}" pos="{_text(offset)}" quat="{_text(quaternion)}" '
        f'rgba="{_text(colour)} 1"'
    )


def _text(numbers: np.ndarray) -> str:
    return " ".join(f"{x:.4f}" for x in numbers)
