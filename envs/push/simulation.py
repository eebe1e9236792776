"""The physics of one episode: the MuJoCo model and data, the motion of the hand, poses, and saved states.

Shapes: N toys. Positions are in the frame of `scene`, metres.
"""

from __future__ import annotations

import functools

import numpy as np

from worldmodel.envs.push import arm
from worldmodel.envs.push.mujoco_import import mujoco
from worldmodel.envs.push.scene import CAMERAS, CENTRE, HAND_HALF, HAND_HEIGHT, Factors, sample_scene, scene_xml

FRAMES_PER_STEP = 2  # simulator frames that hold one action
SUBSTEPS = 10  # physics steps per simulator frame: 0.05 s
SETTLE_STEPS = 100  # physics steps before the first frame: toys come to rest
STRIDE = np.array((0.035, 0.035, 0.035))  # metres that a full action moves the hand in one step: x, y, height
HAND_LOW = np.array((CENTRE[0] - HAND_HALF, CENTRE[1] - HAND_HALF, HAND_HEIGHT[0]))
HAND_HIGH = np.array((CENTRE[0] + HAND_HALF, CENTRE[1] + HAND_HALF, HAND_HEIGHT[1]))
DOWNWARDS = np.array((0.0, 1.0, 0.0, 0.0))  # orientation of the hand
STATE = mujoco.mjtState.mjSTATE_INTEGRATION


class Simulation:
    """One episode. It is a function of its seed and of the actions.

    Args:
        seed: of everything that is random in it.
        factors: factors of variation.
    """

    def __init__(self, seed: int, factors: Factors) -> None:
        self.seed = seed
        self.scene = sample_scene(np.random.default_rng(seed), factors)
        self.model = mujoco.MjModel.from_xml_string(scene_xml(self.scene))
        self.data = mujoco.MjData(self.model)
        self._hand = self.model.body("hand").id
        self._toys = np.array([self.model.body(f"toy{index}").id for index in range(len(self.scene.toys))])
        self.data.mocap_pos[0], self.data.mocap_quat[0] = self.scene.hand, DOWNWARDS
        self.data.qpos[: arm.NUM_JOINTS] = arm.REST_POSE
        self._solve_arm(np.array(self.scene.hand))

    def settle(self) -> None:
        """Let the toys come to rest."""
        mujoco.mj_step(self.model, self.data, SETTLE_STEPS)

    def move(self, action: np.ndarray) -> None:
        """Hold an action for two simulator frames.

        Args:
            action: (4,) in [-1, 1]: forwards, left, up, grip (above 0 closes the gripper). The hand moves evenly
                through the first 80 % of the time.
        """
        start = self.data.mocap_pos[0].copy()
        end = np.clip(start + np.asarray(action[:3], np.float64) * STRIDE, HAND_LOW, HAND_HIGH)
        self.data.ctrl[:] = arm.FINGER_TRAVEL if action[3] > 0 else 0.0
        count = FRAMES_PER_STEP * SUBSTEPS
        for index in range(count):
            self.data.mocap_pos[0] = start + (end - start) * min(1.0, (index + 1) / (0.8 * count))
            mujoco.mj_step(self.model, self.data)
        self.refresh()

    def refresh(self) -> None:
        """Compute positions from the state; `mj_step` leaves those of the step before."""
        mujoco.mj_kinematics(self.model, self.data)
        mujoco.mj_comPos(self.model, self.data)
        mujoco.mj_camlight(self.model, self.data)

    def hand(self) -> np.ndarray:
        """Position of the hand, (3,)."""
        return self.data.xpos[self._hand].copy()

    def toys(self) -> np.ndarray:
        """Centres of mass of the toys, (N, 3)."""
        return self.data.xipos[self._toys].copy()

    def goal(self) -> np.ndarray | None:
        """Position of the marker, (3,), or None."""
        return None if self.scene.goal is None else np.array((*self.scene.goal, 0.0))

    def project(self, points: np.ndarray, camera: str, size: tuple[int, int]) -> np.ndarray:
        """Pixels of points.

        Args:
            points: (N, 3).
            camera: name of the camera.
            size: (rows, columns) of its picture.

        Returns:
            (N, 2) row and column; pixel (0, 0) has its centre at (0.5, 0.5).
        """
        camera_id = self.model.camera(camera).id
        axes = self.data.cam_xmat[camera_id].reshape(3, 3)
        local = (points - self.data.cam_xpos[camera_id]) @ axes  # (N, 3) right, up, backwards
        focal = size[0] / 2 / np.tan(np.deg2rad(CAMERAS[camera][2]) / 2)
        depth = -local[:, 2]
        return np.stack((size[0] / 2 - focal * local[:, 1] / depth, size[1] / 2 + focal * local[:, 0] / depth), 1)

    def hidden(self, camera: str) -> np.ndarray:
        """Whether something is in front of the centre of each toy, (N,) bool."""
        origin = self.data.cam_xpos[self.model.camera(camera).id]
        groups, first = np.array((1, 1, 1, 0, 0, 0), np.uint8), np.zeros(1, np.int32)
        result = []
        for body, centre in zip(self._toys, self.toys(), strict=True):
            mujoco.mj_ray(self.model, self.data, origin, centre - origin, groups, 1, -1, first)
            result.append(first[0] < 0 or self.model.geom_bodyid[first[0]] != body)
        return np.array(result)

    def save(self) -> np.ndarray:
        """The full state of the integrator, (S,) float64."""
        state = np.empty(mujoco.mj_stateSize(self.model, STATE))
        mujoco.mj_getState(self.model, self.data, state, STATE)
        return state

    def restore(self, state: np.ndarray) -> None:
        """Go back to a state of `save`: the same actions give the same frames."""
        mujoco.mj_setState(self.model, self.data, state, STATE)
        self.refresh()

    def touched_toys(self) -> set[int]:
        """Indices of the toys that touch the gripper."""
        contacts = self.data.contact.geom[: self.data.ncon]
        bodies = self.model.geom_bodyid[contacts]  # (contacts, 2)
        gripper = self._gripper
        touching = {int(b) for pair in bodies for a, b in (pair, pair[::-1]) if int(a) in gripper}
        return {index for index, body in enumerate(self._toys) if int(body) in touching}

    @functools.cached_property
    def _gripper(self) -> set[int]:
        return {self.model.body(name).id for name in ("hand", "finger_left", "finger_right")}

    def _solve_arm(self, position: np.ndarray, iterations: int = 60, tolerance: float = 1e-4) -> None:
        """Inverse kinematics: damped least squares on the joints of the arm, with a pull to the rest pose."""
        model, data, joints = self.model, self.data, slice(0, arm.NUM_JOINTS)
        translation, rotation = np.zeros((3, model.nv)), np.zeros((3, model.nv))
        error, inverse, turn = np.zeros(6), np.zeros(4), np.zeros(4)
        low, high = model.jnt_range[joints].T
        for _ in range(iterations):
            mujoco.mj_kinematics(model, data)
            mujoco.mj_comPos(model, data)
            error[:3] = position - data.xpos[self._hand]
            mujoco.mju_negQuat(inverse, data.xquat[self._hand])
            mujoco.mju_mulQuat(turn, DOWNWARDS, inverse)
            mujoco.mju_quat2Vel(error[3:], turn, 1.0)
            if np.linalg.norm(error) < tolerance:
                break
            mujoco.mj_jacBody(model, data, translation, rotation, self._hand)
            jacobian = np.concatenate((translation, rotation))[:, joints]  # (6, 7)
            damped = jacobian @ jacobian.T + 1e-3 * np.eye(6)
            step = jacobian.T @ np.linalg.solve(damped, error)
            spare = np.eye(arm.NUM_JOINTS) - jacobian.T @ np.linalg.solve(damped, jacobian)
            step += 0.1 * spare @ (np.array(arm.REST_POSE) - data.qpos[joints])
            data.qpos[joints] = np.clip(data.qpos[joints] + np.clip(step, -0.3, 0.3), low, high)
