"""The arm: the seven joints of a Sawyer and a two-finger gripper, drawn with capsules, cylinders and boxes.

The link frames are the public kinematics of Rethink Robotics' sawyer_description; no mesh is used. Lengths in metres.
Only the palm and the fingers touch toys. The hand follows the mocap body `hand_target`, which `scene` welds to it.
"""

from __future__ import annotations

BLACK, CRIMSON, WHITE, GREY = ".10 .10 .11 1", ".52 .06 .14 1", ".86 .86 .84 1", ".36 .37 .39 1"
NUM_JOINTS = 7
REST_POSE = (0.10, -1.05, -0.15, 1.95, 0.15, 0.70, 3.1)  # radians: elbow up and back, hand above the bin
FINGER_TRAVEL = 0.028  # metres from open to closed, per finger
HAND_TO_TIP = 0.156  # metres from the frame of the hand to the finger tips

DEFAULTS = """
<default class="arm"><joint type="hinge" damping="6" armature=".05"/></default>
<default class="skin"><geom contype="0" conaffinity="0" group="1" mass="0"/></default>
<default class="base"><geom contype="0" conaffinity="0" group="2" mass="0"/></default>
<default class="gripper"><geom contype="1" conaffinity="2" group="1" mass="0" friction="1 .01 .001"/></default>
<default class="finger"><joint type="slide" damping="10" armature=".1"/></default>
"""

ACTUATORS = f"""
<position joint="finger_right" kp="400" ctrlrange="0 {FINGER_TRAVEL}" forcerange="-8 8"/>
<position joint="finger_left" kp="400" ctrlrange="0 {FINGER_TRAVEL}" forcerange="-8 8"/>
"""


def _capsule(ends: str, radius: float, colour: str, kind: str = "skin") -> str:
    return f'<geom class="{kind}" type="capsule" fromto="{ends}" size="{radius}" rgba="{colour}"/>'


def _tube(ends: str, radius: float, colour: str, kind: str = "skin") -> str:
    return f'<geom class="{kind}" type="cylinder" fromto="{ends}" size="{radius}" rgba="{colour}"/>'


def _badge(position: str, size: str) -> str:
    return f'<geom class="skin" type="ellipsoid" pos="{position}" size="{size}" rgba="{WHITE}"/>'


# (name, position, quaternion, joint range, mass, principal inertia, skin): each link is a child of the one before it
_LINKS = (
    (
        *("link0", "0 0 .08", "1 0 0 0", "-3.05 3.05", 4.0, ".05 .05 .02"),
        _tube("0 0 -.08 0 0 .2", 0.085, CRIMSON, "base") + _tube("0 0 .2 0 0 .3", 0.09, BLACK, "base"),
    ),
    (
        *("link1", ".081 .05 .237", ".5 -.5 .5 .5", "-3.8 2.27", 3.0, ".02 .02 .01"),
        _capsule("0 0 0 0 0 .12", 0.07, BLACK, "base") + _capsule("0 0 .1425 0 -.12 .1425", 0.06, CRIMSON, "base"),
    ),
    (
        *("link2", "0 -.14 .1425", ".7071068 .7071068 0 0", "-3.04 3.04", 1.7, ".02 .02 .003"),
        _tube("0 0 -.02 0 0 .21", 0.056, CRIMSON, "base") + _tube("0 0 .21 0 0 .24", 0.058, WHITE, "base"),
    ),
    (
        *("link3", "0 -.042 .26", ".7071068 -.7071068 0 0", "-3.04 3.04", 2.0, ".01 .01 .004"),
        _capsule("0 .02 0 0 -.1 0", 0.06, BLACK) + _capsule("0 -.1 -.02 0 -.125 -.12", 0.054, BLACK),
    ),
    (
        *("link4", "0 -.125 -.1265", ".7071068 .7071068 0 0", "-2.97 2.97", 1.1, ".013 .013 .002"),
        _tube("0 0 -.01 0 0 .05", 0.053, CRIMSON)
        + _tube("0 0 .05 0 0 .08", 0.054, WHITE)
        + _tube("0 0 .08 0 0 .21", 0.050, BLACK)
        + _tube("0 0 .21 0 0 .27", 0.051, CRIMSON)
        + _badge("0 .047 .145", ".028 .008 .046")
        + _badge("0 -.047 .145", ".028 .008 .046")
        + _badge(".047 0 .145", ".008 .028 .046")
        + _badge("-.047 0 .145", ".008 .028 .046"),
    ),
    (
        *("link5", "0 .031 .275", ".7071068 -.7071068 0 0", "-2.97 2.97", 1.2, ".005 .005 .002"),
        _capsule("0 .02 0 0 -.04 .03", 0.047, BLACK)
        + _capsule("0 -.05 .06 0 -.06 .1", 0.044, CRIMSON)
        + _tube("0 -.045 .045 0 -.049 .061", 0.049, WHITE),
    ),
    (
        *("link6", "0 -.11 .1053", ".0616248 .06163 -.704416 .704416", "-4.7 4.7", 0.4, ".001 .001 .001"),
        _tube("0 0 -.04 0 0 .02", 0.042, BLACK) + _tube("0 0 .004 0 0 .016", 0.044, WHITE),
    ),
)


def _finger(side: str, offset: float, axis: int) -> str:
    return f"""<body name="finger_{side}" pos="0 {offset} .111" gravcomp="1">
      <inertial pos="0 0 0" mass=".05" diaginertia=".0001 .0001 .0001"/>
      <joint name="finger_{side}" class="finger" axis="0 {axis} 0" range="0 {FINGER_TRAVEL}"/>
      <geom class="gripper" type="box" size=".016 .007 .045" rgba="{BLACK}"/></body>"""


_HAND = f"""<body name="hand" pos="0 0 .0245" quat=".7071068 0 0 .7071068" gravcomp="1">
  <inertial pos="0 0 .05" mass=".5" diaginertia=".001 .001 .001"/>
  <geom class="gripper" type="box" pos="0 0 .05" size=".024 .055 .022" rgba="{GREY}"/>
  {_tube("0 0 0 0 0 .03", 0.033, CRIMSON)}
  {_finger("right", 0.035, -1)}{_finger("left", -0.035, 1)}
</body>"""


def arm_xml() -> str:
    """The bodies of the arm, with its base at the origin: joints `joint0` to `joint6`, body `hand`, two fingers."""
    opened = ""
    for index, (name, position, quaternion, limits, mass, inertia, skin) in enumerate(_LINKS):
        opened += f"""<body name="{name}" pos="{position}" quat="{quaternion}" gravcomp="1">
          <inertial pos="0 0 .08" mass="{mass}" diaginertia="{inertia}"/>
          <joint name="joint{index}" axis="0 0 1" range="{limits}"/>{skin}"""
    pedestal = _tube("0 0 -.4 0 0 .02", 0.11, GREY, "base")
    return f'<body name="base" childclass="arm">{pedestal}{opened}{_HAND}{"</body>" * len(_LINKS)}</body>'
