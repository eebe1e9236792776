"""The pushing environment: exact episodes, the look of its frames, physics, saved states, policies and errors."""

from __future__ import annotations

import importlib.util
import json
import multiprocessing
import sys
import threading
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from mujoco_rendering import reason_to_skip

pytest.importorskip("mujoco")

from worldmodel import envs
from worldmodel.collect.policy_specs import parse_policy
from worldmodel.common.errors import UserError
from worldmodel.envs.push import mujoco_renderer
from worldmodel.envs.push.arm import BLACK, CRIMSON, WHITE
from worldmodel.envs.push.push_env import PushEnv
from worldmodel.envs.push.push_objects import find_toys, match

pytestmark = pytest.mark.skipif(bool(reason_to_skip()), reason=reason_to_skip() or "-")
SCRIPT = Path(__file__).parent.parent / "benchmarks" / "push_physics.py"


def physics_script() -> Any:
    """benchmarks/push_physics.py as a module."""
    spec = importlib.util.spec_from_file_location("push_physics", SCRIPT)
    assert spec is not None
    assert spec.loader is not None
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    return module


def policy_of(env: PushEnv, name: str) -> Any:
    """A policy that the row of the environment declares."""
    return parse_policy(name, env.meta.action_space, envs.policy_defaults(env.meta.id)).build(
        env.meta.action_space, env
    )


def play(env: PushEnv, name: str, seed: int, steps: int = 30) -> float:
    """The return of an episode without frames."""
    policy = policy_of(env, name)
    env.reset(seed=seed)
    policy.begin(np.random.default_rng(seed))
    return sum(env.simulate(policy.act(np.zeros((64, 64, 3), np.uint8))) for _ in range(steps))


def frames_of(env: PushEnv, seed: int, steps: int = 4) -> list[bytes]:
    """The frames of an episode with actions sampled from the seed."""
    frames, rng = [env.reset(seed=seed)[0].tobytes()], np.random.default_rng(seed)
    for _ in range(steps):
        frames.append(env.step(env.meta.action_space.sample(rng))[0].tobytes())
    return frames


def put_frames(queue: Any, seed: int) -> None:
    """Send the frames of an episode from another process."""
    queue.put(frames_of(PushEnv(), seed))


def test_an_episode_is_a_function_of_its_seed_and_actions() -> None:
    first = PushEnv()
    expected = frames_of(first, 11)
    second = PushEnv(size=96)
    frames_of(second, 3, 1)  # another episode and another size share the renderer
    assert frames_of(PushEnv(), 11) == expected
    assert frames_of(first, 12) != expected
    assert frames_of(first, 11) == expected


def test_a_forked_process_and_another_thread_render_the_same_frames() -> None:
    expected = frames_of(PushEnv(), 11)
    context = multiprocessing.get_context("fork")
    queue = context.Queue()
    process = context.Process(target=put_frames, args=(queue, 11))
    process.start()
    assert queue.get(timeout=60) == expected
    process.join(60)
    assert process.exitcode == 0
    results: list[list[bytes]] = []
    thread = threading.Thread(target=lambda: results.append(frames_of(PushEnv(), 11)))
    thread.start()
    thread.join(60)
    assert results == [expected]


def test_all_environments_of_a_process_share_one_renderer() -> None:
    first, second = PushEnv(), PushEnv(goal=True, camera="front")
    first.reset(seed=0)
    renderer = mujoco_renderer.shared_renderer(first.simulation.model)
    second.reset(seed=1)
    first.close()
    assert mujoco_renderer.shared_renderer(second.simulation.model) is renderer
    second.step(np.zeros(4))


def test_size_and_crop_and_camera() -> None:
    whole = PushEnv().reset(seed=2)[0]
    crop = PushEnv(crop=(10, 50, 4, 60)).reset(seed=2)[0]
    np.testing.assert_array_equal(crop, whole[10:50, 4:60])
    small = PushEnv(size=32).reset(seed=2)[0]  # averaged from the same 128 x 128
    means = whole.reshape(32, 2, 32, 2, 3).mean(axis=(1, 3))
    assert np.abs(small - means).max() <= 1
    wide = PushEnv(size=(48, 80)).reset(seed=2)[0]
    assert wide.shape == (48, 80, 3)
    front = PushEnv(camera="front").reset(seed=2)[0]
    assert np.abs(front.astype(int) - whole).mean() > 20


def test_factors_are_arguments_and_stored() -> None:
    env = PushEnv(num_toys=5, colours="dull", friction=None, camera_jitter=0.05)
    kwargs = json.loads(json.dumps(env.meta.to_json()))["kwargs"]
    again = envs.make(env.meta.id, **kwargs)
    assert again.meta == env.meta
    frame, info = env.reset(seed=4)
    np.testing.assert_array_equal(again.reset(seed=4)[0], frame)
    values = info["variables"]
    assert values["num_toys"] == 5
    assert 0.4 <= values["friction"] <= 1
    assert 0 < abs(values["camera_dx"]) <= 0.05
    assert env.reset(seed=5)[1]["variables"]["friction"] != values["friction"]
    assert tuple(PushEnv(goal=True).meta.variables)[-1] == "distance"


def test_actions_move_the_hand() -> None:
    env = PushEnv()
    env.reset(seed=0)
    for _ in range(8):  # to the middle of its range
        to_middle = np.array((0.62, 0.0, 0.23)) - env.privileged_state()["hand"]
        env.simulate(np.append(np.clip(to_middle / 0.035, -1, 1), -1.0))
    middle = env.save_state()
    for component in range(3):
        for sign in (1, -1):
            env.restore_state(middle)
            before = env.privileged_state()["hand"]
            env.simulate(sign * np.eye(4)[component])
            moved = env.privileged_state()["hand"] - before
            assert moved[component] * sign > 0.015
            assert np.abs(np.delete(moved, component)).max() < 0.012


def test_the_privileged_state_does_not_change_frames() -> None:
    first, second = PushEnv(goal=True), PushEnv(goal=True)
    second.enable_privileged_state()
    for env in (first, second):
        env.reset(seed=9)
    for action in np.random.default_rng(0).uniform(-1, 1, (4, 4)).astype(np.float32):
        state = second.privileged_state()
        assert {name: np.shape(value)[1:] for name, value in state.items()} == {
            **{"hand": (), "toys": (3,), "toy_pixels": (2,), "visible": (), "goal": ()},
        }
        a, b = first.step(action), second.step(action)
        np.testing.assert_array_equal(a[0], b[0])
        assert a[1:] == b[1:]
        assert set(b[4]) == {"frame_valid", "variables"}


def test_a_restored_state_is_an_exact_branch() -> None:
    env, other = PushEnv(goal=True, max_steps=6), PushEnv(goal=True, max_steps=6, render_mode="rgb_array")
    env.reset(seed=3)
    actions = np.random.default_rng(1).uniform(-1, 1, (6, 4)).astype(np.float32)
    for action in actions[:2]:
        frame, *_ = env.step(action)
    state = env.save_state()
    expected = [env.step(action) for action in actions[2:]]
    assert expected[-1][3], "truncated at step 6"
    for branch in (env, other):  # after the end of the episode; an environment that was never reset
        branch.restore_state(state)
        if branch.render_mode:
            np.testing.assert_array_equal(branch.render(), frame)
        for action, (frame_there, *rest) in zip(actions[2:], expected, strict=True):
            got, *got_rest = branch.step(action)
            np.testing.assert_array_equal(got, frame_there)
            assert got_rest == rest
    env.restore_state(state)
    assert [env.simulate(action) for action in actions[2:]] == [step[1] for step in expected]
    with pytest.raises(UserError, match="other arguments"):
        PushEnv(goal=True, colours="cool").restore_state(state)
    with pytest.raises(UserError, match="wanted the bytes"):
        env.restore_state(b"something else")


def test_the_rewards_of_the_goal() -> None:
    env, sparse = PushEnv(goal=True), PushEnv(goal=True, reward="sparse")
    before = env.reset(seed=5)[1]["variables"]["distance"]
    sparse.reset(seed=5)
    policy, total, hits = policy_of(env, "reach"), 0.0, []
    policy.begin(np.random.default_rng(0))
    for _ in range(30):
        action = policy.act(np.zeros(0))
        _, reward, terminated, _, info = env.step(action)
        hits.append((sparse.simulate(action), info["variables"]["distance"] <= 0.04))
        total += reward
        assert not terminated
    assert total == pytest.approx(100 * (before - info["variables"]["distance"]))
    assert all(reward == float(near) for reward, near in hits)
    assert hits[-1][0] == 1.0


def test_policies_are_reproducible_and_reach_earns_more() -> None:
    env = PushEnv(goal=True)
    assert play(env, "reach", 1) == play(env, "reach", 1)
    assert play(env, "walk", 1) == play(env, "walk", 1)
    assert np.mean([play(env, "reach", seed) for seed in range(4)]) > 8
    walk = policy_of(env, "walk")
    walk.begin(np.random.default_rng(0))
    actions = np.array([walk.act(np.zeros(0)) for _ in range(60)])
    assert env.action_space.contains(actions[0])
    held = np.abs(np.diff(actions, axis=0)).max(axis=1) == 0
    assert 0.5 < held.mean() < 0.9


def geoms_of_colour(env: PushEnv, colour: str) -> np.ndarray:
    """Ids of the geoms of the arm with this colour."""
    model = env.simulation.model
    rgb = np.array([float(x) for x in colour.split()[:3]])
    return np.flatnonzero((np.abs(model.geom_rgba[:, :3] - rgb).max(axis=1) < 1e-3) & (model.geom_group != 0))


def views(env: PushEnv, seeds: range, every: int) -> Iterator[tuple[np.ndarray, np.ndarray]]:
    """(frame, visible geom at each pixel of 128 x 128) of steps of the walk."""
    for seed in seeds:
        frame, _ = env.reset(seed=seed)
        policy = policy_of(env, "walk")
        policy.begin(np.random.default_rng(seed))
        for step in range(31):
            if step % every == 0:
                frame = env._to_frame(env._screen())
                simulation = env.simulation
                renderer = mujoco_renderer.shared_renderer(simulation.model)
                yield frame, renderer.segment(simulation.model, simulation.data, "main", (128, 128))
            env.simulate(policy.act(frame))


def check_look(seeds: range, every: int) -> None:
    """The list by which the look of the frames is judged, over all views."""
    env, arm_visible, toys_visible, extreme, wooden = PushEnv(), [], [], [], []
    for frame, geoms in views(env, seeds, every):
        model = env.simulation.model
        bodies = np.where(geoms >= 0, model.geom_bodyid[geoms], -1)
        parts = [np.isin(geoms, geoms_of_colour(env, colour)).sum() for colour in (CRIMSON, BLACK, WHITE)]
        arm_visible.append(min(parts) >= 16)  # 4 pixels of the frame
        toys_visible.append(sum((bodies == body).sum() >= 16 for body in env.simulation._toys) >= 4)
        extreme.append(max((frame.min(axis=2) >= 250).mean(), (frame.max(axis=2) <= 8).mean()))
        floor = np.array((bodies == model.body("bin").id).reshape(64, 2, 64, 2).all(axis=(1, 3)))
        red, green, blue = frame[floor].mean(axis=0)
        wooden.append(floor.mean() > 0.4 and red > green > blue > 90 and red > 150)
    figures = {
        "crimson, black and white of the arm": np.mean(arm_visible),
        "four toys": np.mean(toys_visible),
        "pale wooden bin": np.mean(wooden),
    }
    print(figures, "greatest share of saturated or black pixels", max(extreme))
    assert min(figures.values()) >= 0.9, figures
    assert max(extreme) <= 0.05


def test_frames_look_as_listed() -> None:
    check_look(range(8), every=10)


def test_the_example_of_the_page_runs() -> None:
    page = (Path(__file__).parent.parent / "docs" / "worlds" / "push.md").read_text()
    code = page.partition("```py\n")[2].partition("```")[0]
    namespace: dict[str, Any] = {}
    exec(code, namespace)
    assert namespace["frame"].shape == (64, 64, 3)


@pytest.mark.slow
def test_frames_look_as_listed_in_256_episodes() -> None:
    check_look(range(1000, 1256), every=3)


def test_projected_centres_are_where_the_toys_are_rendered() -> None:
    env = PushEnv(num_toys=1)
    for seed in range(4):
        env.reset(seed=seed)
        simulation = env.simulation
        renderer = mujoco_renderer.shared_renderer(simulation.model)
        geoms = renderer.segment(simulation.model, simulation.data, "main", (128, 128))
        pixels = np.argwhere(np.where(geoms >= 0, simulation.model.geom_bodyid[geoms], -1) == simulation._toys[0])
        state = env.privileged_state()
        if len(pixels) > 60 and state["visible"][0]:
            assert np.abs((pixels.mean(axis=0) + 0.5) / 2 - state["toy_pixels"][0]).max() < 1.5


def rule_figures(seeds: range, steps: int) -> tuple[float, float]:
    """Precision and recall of `find_toys` on the last frame of each walk of some steps."""
    env, found, right, visible, recalled = PushEnv(), 0, 0, 0, 0
    for seed in seeds:
        frame, _ = env.reset(seed=seed)
        policy = policy_of(env, "walk")
        policy.begin(np.random.default_rng(seed))
        for _ in range(steps):
            env.simulate(policy.act(frame))
        state, objects = env.privileged_state(), find_toys(env._to_frame(env._screen()))
        pairs = match(objects, state["toy_pixels"])
        found, right = found + len(objects), right + len(pairs)
        visible += int(state["visible"].sum())
        recalled += sum(bool(state["visible"][toy]) for _, toy in pairs)
    return right / found, recalled / visible


def test_the_rule_finds_toys() -> None:
    precision, recall = rule_figures(range(10), 4)
    assert precision > 0.9
    assert recall > 0.75


@pytest.mark.slow
def test_the_figures_of_the_rule_on_200_frames() -> None:
    precision, recall = rule_figures(range(2000, 2200), 10)
    print(f"precision {precision:.3f}, recall {recall:.3f}")
    assert precision > 0.95
    assert recall > 0.82


def test_physics_stays_sound() -> None:
    result = physics_script().check(0, 4)
    assert result["faults"] == []


@pytest.mark.slow
def test_physics_stays_sound_in_400_episodes() -> None:
    result = physics_script().check(50_000, 400)
    assert result["faults"] == []
    assert result["touched"]["walk"] > 0.6


def test_wrong_arguments_and_actions_raise_a_sentence() -> None:
    for arguments, sentence in (
        ({"camera": "top"}, "unknown camera 'top'"),
        ({"colours": "mixd"}, "Did you mean 'mixed'"),
        ({"reward": "both"}, "unknown reward"),
        ({"num_toys": 9}, "wanted 1 to 8"),
        ({"friction": 5}, "from 0.1 to 2"),
        ({"camera_jitter": -1}, "metres from 0 to 0.1"),
        ({"goal": "yes"}, "True or False"),
    ):
        with pytest.raises(UserError, match=sentence):
            envs.make("push", **arguments)
    env = PushEnv()
    with pytest.raises(UserError, match=r"call reset\(\) first"):
        env.privileged_state()
    env.reset(seed=0)
    with pytest.raises(UserError, match=r"action: got shape \(3,\)"):
        env.step(np.zeros(3))
    with pytest.raises(UserError, match=r"action: 1\.5"):
        env.step(np.full(4, 1.5))


def test_a_display_that_other_code_ended_is_opened_again() -> None:
    env = PushEnv()
    frame, _ = env.reset(seed=3)
    egl = sys.modules.get("mujoco.egl")
    if egl is None:
        pytest.skip("the frames are not rendered with EGL")
    egl.EGL.eglTerminate(egl.EGL_DISPLAY)
    np.testing.assert_array_equal(env.reset(seed=3)[0], frame)


def test_a_missing_renderer_is_one_sentence(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.delenv("MUJOCO_GL", raising=False)
    monkeypatch.setattr(mujoco_renderer, "_local", threading.local())
    for backend in ("egl", "osmesa"):
        monkeypatch.setitem(sys.modules, f"mujoco.{backend}", None)
    with pytest.raises(UserError, match=r"MuJoCo cannot render.*libegl1 libopengl0 libgl1-mesa-dri.*libosmesa6"):
        PushEnv().reset(seed=0)


def test_missing_mujoco_is_one_sentence(monkeypatch: pytest.MonkeyPatch) -> None:
    for name in [name for name in sys.modules if name.startswith("worldmodel.envs.push.")]:
        monkeypatch.delitem(sys.modules, name)
    monkeypatch.setitem(sys.modules, "mujoco", None)
    with pytest.raises(UserError, match="'push' needs mujoco, which is not installed: pip install mujoco"):
        envs.make("push")


def test_episodes_of_worker_processes_can_be_replayed(tmp_path: Path) -> None:
    from worldmodel.collect import record
    from worldmodel.data import Dataset

    path = tmp_path / "push.h5"
    record("push", "walk", str(path), episodes=10, max_steps=2, workers=2, progress=False)
    env = PushEnv()
    with Dataset(path) as data:
        for index in (0, 1, 9):
            episode = data.episode(index)
            np.testing.assert_array_equal(env.reset(seed=episode.seed)[0], episode.frames[0])
            for action, frame in zip(episode.actions, episode.frames[1:], strict=True):
                np.testing.assert_array_equal(env.step(action)[0], frame)
