"""The colour rules of Doom environments against the labels buffer of the engine."""

from typing import Any

import numpy as np
import pytest

pytest.importorskip("vizdoom")

from worldmodel import envs
from worldmodel.collect.policy_specs import parse_policy
from worldmodel.common.errors import UserError
from worldmodel.envs import doom_objects
from worldmodel.envs.env_registry import load_entry_point

DISTANCE = 6.0  # pixels
NAMES = {"medikit": {"CustomMedikit", "Medikit"}, "fireball": {"DoomImpBall"}, "monster": {"DoomImp"}}
# environment, policy of the frames, kind -> least (precision, recall)
CASES = [
    ("doom/take-cover", "random", {"fireball": (0.9, 0.85), "monster": (0.9, 0.9)}),
    ("doom/health-gathering", "seeker", {"medikit": (0.6, 0.5)}),
    ("doom/health-gathering-supreme", "seeker", {"medikit": (0.75, 0.7)}),
    ("doom/battle", "fighter", {"monster": (0.7, 0.4), "medikit": (0.5, 0.5)}),
    ("doom/battle2", "fighter", {"monster": (0.3, 0.25)}),
]


def labelled_frames(env: Any, policy: str, number: int, first_seed: int = 500) -> list[tuple[np.ndarray, list[Any]]]:
    """Frames with their labels, every ninth step of some episodes."""
    space = env.meta.action_space
    player = parse_policy(policy, space, envs.policy_defaults(env.meta.id), epsilon=0.3).build(space, env)
    env.enable_privileged_state()
    frames: list[tuple[np.ndarray, list[Any]]] = []
    seed = first_seed
    while len(frames) < number:
        frame, _ = env.reset(seed=seed)
        player.begin(np.random.default_rng(seed))
        seed += 1
        for step in range(200):
            if step % 9 == 5:
                frames.append((frame, env.privileged_state()["labels"]))
            frame, _, terminated, truncated, _ = env.step(player.act(frame))
            if terminated or truncated:
                break
    return frames[:number]


def matches(found: list[tuple[float, float]], wanted: list[tuple[float, float]]) -> int:
    """The number of pairs within `DISTANCE`, nearest first; each place is in one pair."""
    pairs = sorted(
        (np.hypot(a[0] - b[0], a[1] - b[1]), i, j) for i, a in enumerate(found) for j, b in enumerate(wanted)
    )
    used_found: set[int] = set()
    used_wanted: set[int] = set()
    for distance, i, j in pairs:
        if distance <= DISTANCE and i not in used_found and j not in used_wanted:
            used_found.add(i)
            used_wanted.add(j)
    return len(used_found)


def precision_and_recall(rule: Any, frames: list[tuple[np.ndarray, list[Any]]], kind: str) -> tuple[float, float, int]:
    hits = num_found = num_wanted = 0
    for frame, labels in frames:
        height, width, _ = frame.shape
        found = [(row, column) for name, row, column in rule(frame) if name == kind]
        wanted = [
            (label["row"] - 0.5, label["column"] - 0.5)
            for label in labels
            if label["name"] in NAMES[kind] and label["height"] * label["width"] >= 1
            if 0 <= label["row"] < height and 0 <= label["column"] < width
        ]
        hits += matches(found, wanted)
        num_found += len(found)
        num_wanted += len(wanted)
    return hits / max(1, num_found), hits / max(1, num_wanted), num_wanted


@pytest.mark.slow
@pytest.mark.parametrize(("name", "policy", "least"), CASES, ids=[case[0] for case in CASES])
def test_rules_find_what_the_engine_labels(name: str, policy: str, least: dict[str, tuple[float, float]]) -> None:
    try:
        env = envs.make(name)
    except UserError as error:
        pytest.skip(f"the map cannot be fetched: {error}")
    rule = load_entry_point(envs.lookup(name).objects)
    frames = labelled_frames(env, policy, 200)
    env.close()
    for kind, (precision, recall) in least.items():
        got = precision_and_recall(rule, frames, kind)
        print(f"| {name} | {kind} | {got[2]} | {got[0]:.2f} | {got[1]:.2f} |")
        assert got[0] >= precision, (kind, got)
        assert got[1] >= recall, (kind, got)


def test_a_spot_is_found_at_its_centre() -> None:
    frame = np.full((64, 64, 3), 60, np.uint8)
    assert doom_objects.take_cover_objects(frame) == []
    frame[30:33, 10:12] = (250, 240, 150)
    frame[28, 50] = (120, 20, 20)
    assert doom_objects.take_cover_objects(frame) == [("fireball", 31.0, 10.5), ("monster", 30.0, 50.0)]
    frame = np.full((64, 64, 3), (20, 60, 20), np.uint8)
    frame[40:44, 20:24] = (115, 140, 115)
    assert doom_objects.health_gathering_objects(frame) == [("medikit", 41.5, 21.5)]


def test_a_red_flash_contains_no_monster() -> None:
    frame = np.full((64, 64, 3), (160, 10, 10), np.uint8)
    assert doom_objects.battle2_objects(frame) == []


def test_every_declared_rule_takes_a_frame_of_any_content() -> None:
    rng = np.random.default_rng(0)
    for row in envs.rows():
        if row.objects.startswith("worldmodel.envs.doom_objects:"):
            rule = load_entry_point(row.objects)
            for frame in (np.zeros((64, 64, 3), np.uint8), rng.integers(0, 256, (64, 64, 3), dtype=np.uint8)):
                assert all(0 <= column < 64 for _, _, column in rule(frame))
