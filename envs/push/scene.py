"""The scene of one episode: a wooden bin with sloped walls, toys, the arm, lights and cameras, as MuJoCo XML.

World frame: origin at the base of the arm, x away from it, y to the left, z up; metres. The floor of the bin is z = 0.
"""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np

from worldmodel.envs.push import arm
from worldmodel.envs.push.toys import (
    DENSITY,
    MARKER_COLOUR,
    PALETTES,
    Toy,
    palette_without_goal_colours,
    sample_toy,
    target_toy,
)

CENTRE = (0.62, 0.0)  # of the bin
HALF = 0.20  # half the side of its floor
MIN_TOYS, MAX_TOYS = 4, 8
TOY_DISTANCE = 0.085  # least distance of two toys when they are dropped
DROP_HEIGHT = 0.05
TARGET_ID = 0  # index of the toy to push in the variant with a goal
GOAL_HALF = 0.11  # target toy and marker start within this distance of the centre, in x and in y
GOAL_DISTANCE = (0.10, 0.20)  # between target toy and marker at the start
HAND_HALF = HALF - 0.03  # the hand stays within this distance of the centre, in x and in y
HAND_HEIGHT = (0.168, 0.30)  # least and greatest height of the hand frame; its finger tips are 0.156 m lower
FRICTION_RANGE = (0.4, 1.0)  # of friction=None
TIMESTEP = 0.005  # seconds

# camera: (position, xyaxes, vertical field of view in degrees)
CAMERAS = {
    "main": ((CENTRE[0] + 0.22, 0.0, 1.10), "0 -1 0 1.10 0 -.26", 28.5),
    "front": ((CENTRE[0] + 0.60, 0.02, 0.52), "0 1 0 -.62 0 .78", 44.0),
}


@dataclass(frozen=True)
class Factors:
    """Factors of variation of the episodes; see `PushEnv`."""

    goal: bool
    num_toys: int | None
    colours: str
    friction: float | None
    camera_jitter: float


@dataclass(frozen=True)
class Scene:
    """What is random in an episode.

    Attributes:
        toys: in the variant with a goal the first one is the toy to push.
        hand: (x, y, z) of the hand at the start.
        goal: (x, y) of the marker, or None.
        friction: sliding friction of toys and bin.
        camera_offset: (x, y) metres that the cameras are moved by.
        wood: RGB of the bin.
    """

    toys: tuple[Toy, ...]
    hand: tuple[float, float, float]
    goal: tuple[float, float] | None
    friction: float
    camera_offset: tuple[float, float]
    wood: tuple[float, float, float]


def sample_scene(rng: np.random.Generator, factors: Factors) -> Scene:
    """Sample an episode."""
    count = int(rng.integers(MIN_TOYS, MAX_TOYS + 1)) if factors.num_toys is None else factors.num_toys
    friction = float(rng.uniform(*FRICTION_RANGE)) if factors.friction is None else factors.friction
    palette = np.array(PALETTES[factors.colours])
    first, goal = _sample_goal(rng) if factors.goal else (None, None)
    positions = _sample_positions(rng, count, first)
    toys = []
    for index, position in enumerate(positions):
        if factors.goal and index == TARGET_ID:
            toys.append(target_toy(rng, position))
        else:
            toys.append(sample_toy(rng, position, palette_without_goal_colours(palette) if factors.goal else palette))
    x, y = np.array(CENTRE) + rng.uniform(-1, 1, 2) * HAND_HALF
    wood = np.array((0.87, 0.77, 0.62)) * rng.uniform(0.96, 1.04)
    offset = rng.uniform(-1, 1, 2) * factors.camera_jitter
    return Scene(
        tuple(toys),
        (float(x), float(y), 0.26),
        goal,
        friction,
        (float(offset[0]), float(offset[1])),
        (float(wood[0]), float(wood[1]), float(wood[2])),
    )


def _sample_goal(rng: np.random.Generator) -> tuple[tuple[float, float], tuple[float, float]]:
    """Positions (x, y) of the toy to push and of its marker."""
    while True:
        toy, goal = np.array(CENTRE) + rng.uniform(-1, 1, (2, 2)) * GOAL_HALF
        if GOAL_DISTANCE[0] < np.hypot(*(toy - goal)) < GOAL_DISTANCE[1]:
            return (float(toy[0]), float(toy[1])), (float(goal[0]), float(goal[1]))


def _sample_positions(
    rng: np.random.Generator, count: int, first: tuple[float, float] | None
) -> list[tuple[float, float]]:
    """Positions (x, y) inside the bin that keep `TOY_DISTANCE`; starts again where no place is left."""
    fixed = [] if first is None else [np.array(first)]
    while True:
        points = list(fixed)
        for _ in range(60 * count):
            if len(points) == count:
                return [(float(x), float(y)) for x, y in points]
            point = np.array(CENTRE) + rng.uniform(-1, 1, 2) * (HALF - 0.045)
            if all(np.hypot(*(point - other)) > TOY_DISTANCE for other in points):
                points.append(point)


def scene_xml(scene: Scene) -> str:
    """The MuJoCo model of an episode.

    Bodies are in the order arm, toys, bin, so that the renderer draws the bin last and skips its hidden pixels.
    """
    toys = "".join(toy.xml(f"toy{index}", DROP_HEIGHT) for index, toy in enumerate(scene.toys))
    friction = f"{scene.friction:.4f} .005 .0005"
    return f"""<mujoco model="push"><compiler angle="radian" autolimits="true"/>
<option timestep="{TIMESTEP}" integrator="implicitfast" cone="elliptic" impratio="2" iterations="30"/>
<size memory="8M"/>
<visual><global offwidth="128" offheight="128"/>
 <quality shadowsize="256" offsamples="0" numslices="10" numstacks="6" numquads="1"/>
 <headlight ambient=".55 .55 .55" diffuse=".24 .24 .24" specular="0 0 0"/><map znear=".02"/></visual>
<default><geom condim="4" friction="{friction}" solref=".01 1"/>{arm.DEFAULTS}
 <default class="toy"><geom contype="2" conaffinity="3" density="{DENSITY}" group="0"/></default>
 <default class="bin"><geom type="box" contype="2" conaffinity="3" group="0"/></default>
 <default class="barrier"><geom type="box" contype="2" conaffinity="2" group="4"/></default></default>
<asset><texture name="grain" type="2d" builtin="gradient" rgb1="1 1 1" rgb2=".93 .92 .90" width="32" height="32"/>
 <material name="wood" texture="grain" texrepeat="4 1" specular="0" shininess="0"/></asset>
<worldbody>
 <light pos="{CENTRE[0] + 0.35} .4 1.9" dir="-.18 -.2 -1" diffuse=".38 .37 .36" specular=".05 .05 .05" cutoff="32"/>
 {_cameras(scene.camera_offset)}
 <body name="hand_target" mocap="true" pos="{_numbers(scene.hand)}"/>
 {arm.arm_xml()}{toys}{_bin(scene)}
</worldbody>
<equality><weld body1="hand_target" body2="hand"
 relpose="0 0 0 1 0 0 0" solref=".02 1" solimp=".9 .95 .001"/></equality>
<actuator>{arm.ACTUATORS}</actuator>
</mujoco>"""


def _cameras(offset: tuple[float, float]) -> str:
    return "".join(
        f'<camera name="{name}" pos="{x + offset[0]:.4f} {y + offset[1]:.4f} {z}" xyaxes="{axes}" fovy="{fovy}"/>'
        for name, ((x, y, z), axes, fovy) in CAMERAS.items()
    )


def _bin(scene: Scene) -> str:
    """The floor, four sloped walls, invisible vertical barriers above them, the ground, and the marker of a goal.

    Barriers stop toys only: no toy leaves the bin, however it is squeezed.
    """
    (x, y), reach = CENTRE, HALF + 0.055
    floor, walls = (
        f'class="bin" material="wood" rgba="{_numbers(tuple(shade * c for c in scene.wood))} 1"'
        for shade in (1.0, 0.88)
    )
    parts = [f'<geom {floor} pos="{x} {y} -.05" size="{HALF + 0.012} {HALF + 0.012} .05"/>']
    for dx, dy in ((1, 0), (-1, 0), (0, 1), (0, -1)):
        size = f".08 {HALF + 0.12} .012" if dx else f"{HALF + 0.12} .08 .012"
        tilt = f"0 {-0.55 * dx} 0" if dx else f"{0.55 * dy} 0 0"
        parts.append(f'<geom {walls} pos="{x + dx * reach} {y + dy * reach} .022" size="{size}" euler="{tilt}"/>')
        thick = ".05 .4 .4" if dx else ".4 .05 .4"
        parts.append(
            f'<geom class="barrier" pos="{x + dx * (HALF + 0.13)} {y + dy * (HALF + 0.13)} .4" size="{thick}"/>'
        )
    parts.append(f'<geom class="base" type="box" pos="{x} 0 -.25" size="5 5 .1" rgba=".50 .52 .55 1"/>')
    if scene.goal is not None:
        marker = f'type="cylinder" size=".028 .0008" rgba="{_numbers(MARKER_COLOUR)} 1"'
        parts.append(f'<geom class="skin" name="marker" pos="{_numbers(scene.goal)} .0008" {marker}/>')
    return f'<body name="bin">{"".join(parts)}</body>'


def _numbers(values: tuple[float, ...]) -> str:
    return " ".join(f"{value:.4f}" for value in values)
