"""Exported worlds: without torch they dream the same as with torch, and the simulator takes either backend."""

from __future__ import annotations

import json
import pickle
import re
import shutil
import subprocess
import sys
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from untrained import SPACES, make_world

from worldmodel.bench.bench_dream import multiply_adds
from worldmodel.bench.bench_worlds import random_world
from worldmodel.cli import command_line as cli
from worldmodel.common import random as numpy_random
from worldmodel.common.errors import UserError
from worldmodel.dream import DreamEnv, DreamVecEnv, Simulator
from worldmodel.dream.backends import OnnxBackend, TorchBackend
from worldmodel.metrics.dream_rollouts import begin_dreams, select_rows
from worldmodel.onnx import OnnxSimulator, OnnxWorld, graphs, numpy_sampling
from worldmodel.onnx import export as export_module
from worldmodel.onnx.export import export_world, find_or_make_export
from worldmodel.prior.code_clip import CodeClip
from worldmodel.prior.sampling import Sampling, philox
from worldmodel.prior.status_config import StatusConfig
from worldmodel.train.presets import PRESETS
from worldmodel.world import hub as shipped
from worldmodel.world.world_model import WorldModel

ROWS, STEPS, RESET_STEP = 3, 40, 17  # rows, steps, and the step before which one row is reset

DREAM_WITHOUT_TORCH = f"""
import sys
class Refused:
    def find_spec(self, name, path=None, target=None):
        if name.split(".")[0] == "torch":
            raise ImportError("torch is blocked in this test")
sys.meta_path.insert(0, Refused())
import numpy as np
from worldmodel.onnx import OnnxSimulator
dreams = OnnxSimulator(sys.argv[1], {ROWS}, seed=5)
found = {{"first": dreams.reset()}}
steps, saved = [], None
for t, actions in enumerate(np.load(sys.argv[2])):
    if t == {RESET_STEP}:
        dreams.reset(np.array([1]))
    if t == {STEPS} - 4:
        saved = dreams.save()
    steps.append(dreams.step(actions))
for name in ("frames", "codes", "rewards", "terminations", "hazards", "status", "log_probs"):
    found[name] = np.stack([getattr(step, name) for step in steps])
dreams.restore(saved)
found["repeated"] = np.stack([dreams.step(actions).codes for actions in np.load(sys.argv[2])[-4:]])
assert "torch" not in sys.modules
np.savez(sys.argv[3], **found)
"""


def small_world(preset: str, **changed: object) -> WorldModel:
    """A small world of random weights with a hidden variable, whose terminations sometimes have no frame."""
    config = PRESETS[preset]
    prior = replace(config.prior, status=StatusConfig("health", (1.0, 2.0)), **changed)  # type: ignore[arg-type]
    world = random_world(replace(config, prior=prior), (32, 32))
    with torch.no_grad():
        world.prior.heads.end.weight.normal_(std=0.3)
        world.prior.heads.end.bias.fill_(-2.5)
    return world


@pytest.fixture(scope="module")
def world_dir(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A world with its export in its directory, made by the command."""
    folder = tmp_path_factory.mktemp("onnx") / "w"
    small_world("tiny").save_pretrained(folder)
    cli.main(["export", str(folder)])
    return folder


@pytest.fixture(scope="module")
def world(world_dir: Path) -> WorldModel:
    return WorldModel.from_pretrained(world_dir)


def recorded_actions() -> np.ndarray:
    return np.random.default_rng(0).integers(0, 3, (STEPS, ROWS))


def dream_with_torch(world: WorldModel) -> tuple[dict[str, np.ndarray], torch.Tensor]:
    """The same dream with torch: arrays by name, (STEPS, ROWS, ...), and the codes in the state after each step."""
    dreams = Simulator(world, ROWS, seed=5, backend="torch")
    found, steps, state_codes = {"first": dreams.reset().numpy()}, [], []
    for t, actions in enumerate(torch.from_numpy(recorded_actions())):
        if t == RESET_STEP:
            dreams.reset(torch.tensor([1]))
        steps.append(dreams.step(actions))
        codes = dreams.state.prior.codes  # type: ignore[attr-defined]
        state_codes.append(codes if codes.ndim == 3 else codes[:, -1])
    for name in ("frames", "rewards", "terminations", "hazards", "status", "log_probs"):
        found[name] = torch.stack([getattr(step, name) for step in steps]).numpy()
    return found, torch.stack(state_codes)


def check_dream_without_torch(world: WorldModel, export: Path, folder: Path) -> None:
    np.save(folder / "actions.npy", recorded_actions())
    command = [
        sys.executable,
        "-c",
        DREAM_WITHOUT_TORCH,
        str(export),
        str(folder / "actions.npy"),
        str(folder / "d.npz"),
    ]
    done = subprocess.run(command, capture_output=True, text=True)
    assert not done.returncode, done.stderr
    found = np.load(folder / "d.npz")
    expected, state_codes = dream_with_torch(world)
    assert expected["terminations"][RESET_STEP - 1].any(), "a row must end before another is reset"
    assert not expected["terminations"].all()
    has_frame = (state_codes != world.prior.num_codes).numpy()
    np.testing.assert_array_equal(np.where(has_frame, found["codes"], 0), np.where(has_frame, state_codes.numpy(), 0))
    for name in ("terminations", "status"):
        np.testing.assert_array_equal(found[name], expected[name])
    for name in ("rewards", "hazards", "log_probs"):
        np.testing.assert_allclose(found[name], expected[name], rtol=1e-4, atol=1e-4)
    for name in ("first", "frames"):
        assert np.abs(found[name].astype(int) - expected[name]).max() <= 1
    np.testing.assert_array_equal(found["repeated"], found["codes"][-4:])


def test_without_torch_an_exported_world_dreams_the_same(world: WorldModel, world_dir: Path, tmp_path: Path) -> None:
    check_dream_without_torch(world, world_dir / "onnx", tmp_path)


@pytest.mark.slow
@pytest.mark.parametrize(
    ("preset", "changed"),
    [
        ("tiny-flat", {}),
        ("tiny-flat", {"num_heads": 4, "num_kv_heads": 2}),
        (
            "tiny-flat",
            {
                "num_kv_heads": 1,
                "attention": "full",
                "positions": "paper",
                "num_frames": STEPS + 2,
                "previous_frame": False,
            },
        ),
        ("tiny", {"order": "raster"}),
        ("tiny", {"order": "frame"}),
        ("tiny", {"order": "groups"}),
    ],
    ids=["flat", "shared-keys", "paper", "raster", "frame", "groups"],
)
def test_every_prior_dreams_the_same_without_torch(preset: str, changed: dict[str, object], tmp_path: Path) -> None:
    world = small_world(preset, **changed)
    check_dream_without_torch(world, export_world(world, tmp_path / "w"), tmp_path)


def test_numpys_uniform_numbers_equal_torchs() -> None:
    rng = np.random.default_rng(0)
    seeds, episodes, steps = rng.integers(-(2**63), 2**63, 5), rng.integers(0, 2**32, 5), rng.integers(0, 2**32, 5)
    found = numpy_random.uniforms(seeds, episodes, steps, 11, stream=1)
    blocks = torch.arange(3)[None]
    counter = (blocks, torch.from_numpy(steps)[:, None], torch.from_numpy(episodes)[:, None], torch.ones_like(blocks))
    low, high = torch.from_numpy(seeds) & 0xFFFFFFFF, (torch.from_numpy(seeds) >> 32) & 0xFFFFFFFF
    words = philox(counter, (low[:, None], high[:, None])).flatten(1)[:, :11]
    np.testing.assert_array_equal(found, ((words >> 8).float() * 2.0**-24).numpy())


@pytest.mark.parametrize(
    "limits", [(1.0, 0, 1.0), (0.7, 0, 1.0), (1.3, 5, 1.0), (1.0, 0, 0.6), (0.9, 9, 0.8), (0, 0, 1.0)]
)
def test_numpy_samples_the_same_codes_as_torch(limits: tuple[float, int, float]) -> None:
    generator = torch.Generator().manual_seed(0)
    logits, uniforms = 3 * torch.randn(4000, 23, generator=generator), torch.rand(4000, generator=generator)
    uniforms[0], uniforms[1] = 0.0, 1 - 2.0**-24
    codes, nats = numpy_sampling.sample(Sampling(*limits), logits.numpy(), uniforms.numpy())
    expected = Sampling(*limits).sample(logits, uniforms)
    np.testing.assert_array_equal(codes, expected.numpy())
    np.testing.assert_allclose(nats, logits.log_softmax(-1).gather(1, expected[:, None])[:, 0], rtol=1e-5, atol=1e-5)


def test_auto_uses_the_export_of_the_worlds_directory_where_it_fits(world: WorldModel, world_dir: Path) -> None:
    backend = Simulator(world, 1).backend
    assert isinstance(backend, OnnxBackend)
    assert backend.onnx_world.directory == world_dir / "onnx" == find_or_make_export(world)
    assert isinstance(Simulator(world, 1, backend="torch").backend, TorchBackend)
    assert isinstance(Simulator(world, 1, batch_invariant=True).backend, TorchBackend)
    assert isinstance(Simulator(world, 1, dtype=torch.bfloat16).backend, TorchBackend)
    changed = WorldModel.from_pretrained(world_dir)
    changed.prior.heads.end.bias.data += 1
    assert isinstance(Simulator(changed, 1).backend, TorchBackend)
    with pytest.raises(UserError, match="Did you mean 'onnx'"):
        Simulator(world, 1, backend="onxx")
    with pytest.raises(UserError, match="bfloat16"):
        Simulator(world, 1, backend="onnx", dtype=torch.bfloat16)


def test_a_world_with_an_export_is_evaluated_with_torch(world: WorldModel) -> None:
    assert world.starts is not None
    codes = world.starts.context.codes[:2, -1:].expand(-1, 4, -1, -1).flip(3)
    flags, acted = torch.ones(codes.shape[:2], dtype=torch.bool), torch.zeros(2, 3, dtype=torch.int64)
    steps, status = torch.zeros(2, 3), torch.zeros(2, 4, dtype=torch.int64)
    clip = CodeClip(codes, flags, acted, steps, steps.bool(), steps.bool(), status, flags.float())
    simulator = begin_dreams(world, clip, 3, torch.tensor([4, 5]), Sampling())
    assert isinstance(simulator.backend, TorchBackend)
    assert torch.equal(simulator.state.codes, codes[:, 2])
    assert torch.equal(simulator.state.frames, world.tokenizer.decode(codes[:, 2:3])[:, 0])
    fewer = select_rows(simulator, torch.tensor([1]))
    assert isinstance(fewer.backend, TorchBackend)
    assert not fewer.sampling.exact, "evaluation does not read exact log-probabilities"
    whole, part = simulator.step(torch.tensor([2, 1])), fewer.step(torch.tensor([1]))
    assert torch.equal(part.codes[0], whole.codes[1])
    assert multiply_adds(world) > 0, "multiply-adds are counted in torch"


def test_an_export_that_is_made_automatically_is_cached(
    world_dir: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    made: list[Path] = []

    def copied(world: WorldModel, out: Path) -> Path:
        made.append(out)
        return Path(shutil.copytree(world_dir / "onnx", out))

    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path))
    monkeypatch.setattr(export_module, "export_world", copied)
    for change, count in ((0, 1), (0, 1), (1, 2)):
        loaded = WorldModel.from_pretrained(world_dir)
        loaded.directory = None
        loaded.prior.heads.end.bias.data += change
        backend = Simulator(loaded, 1, backend="onnx").backend
        assert isinstance(backend, OnnxBackend)
        assert backend.onnx_world.directory == made[-1]
        assert len(made) == count


def test_both_backends_dream_the_same(world: WorldModel) -> None:
    expected, state_codes = dream_with_torch(world)
    dreams = Simulator(world, ROWS, seed=5, backend="onnx")
    assert np.abs(dreams.reset().numpy().astype(int) - expected["first"]).max() <= 1
    for t, actions in enumerate(torch.from_numpy(recorded_actions())):
        if t == RESET_STEP:
            dreams.reset(torch.tensor([1]))
        step = dreams.step(actions)
        assert torch.equal(dreams.state.prior.codes[:, -1], state_codes[t])  # type: ignore[attr-defined]
        for name in ("rewards", "hazards", "log_probs"):
            np.testing.assert_allclose(getattr(step, name), expected[name][t], rtol=1e-4, atol=1e-4)


def test_in_tiles_a_row_is_bit_identical_for_any_number_of_rows(world: WorldModel) -> None:
    def dream(rows: int) -> tuple[torch.Tensor, torch.Tensor]:
        dreams = Simulator(world, rows, seed=9, batch_invariant=True, backend="onnx")
        dreams.reset()
        steps = [dreams.step(torch.full((rows,), t % 3)) for t in range(6)]
        return torch.stack([s.log_probs[0] for s in steps]), torch.stack([s.hazards[0] for s in steps])

    alone = dream(1)
    for rows in (5, 7, 16):
        assert all(torch.equal(a, b) for a, b in zip(alone, dream(rows), strict=True))


def test_interfaces_take_a_backend_and_can_be_pickled(world_dir: Path) -> None:
    env = DreamEnv(world_dir, backend="onnx")
    env.reset(seed=1)
    copy = pickle.loads(pickle.dumps(env))
    step, expected = copy.step(2), env.step(2)
    np.testing.assert_array_equal(step[0], expected[0])
    assert step[1:4] == expected[1:4]
    assert isinstance(env.simulator.backend, OnnxBackend)
    assert isinstance(DreamVecEnv(world_dir, 2, backend="torch").dreams.simulator.backend, TorchBackend)


def test_mistakes_are_refused_in_one_sentence(
    world: WorldModel,
    world_dir: Path,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture[str],
) -> None:
    for arguments, message in (
        (["export", str(world_dir)], "--force"),
        (["export", str(tmp_path / "none")], "there is no world directory"),
        (["export", str(world_dir), "--onnx", str(world_dir.parent), "--force"], "is not a portable world"),
    ):
        with pytest.raises(SystemExit) as done:
            cli.main(arguments)
        assert done.value.code == 2
        assert message in capsys.readouterr().err
    with pytest.raises(UserError, match="there is no portable world"):
        OnnxWorld(tmp_path / "none")
    dreams = OnnxSimulator(world_dir / "onnx", 2)
    with pytest.raises(UserError, match="one per row"):
        dreams.step(np.zeros(3, np.int64))
    other = OnnxSimulator(world_dir / "onnx", 2)
    for simulator in (dreams, other):
        simulator.reset()
    saved = dreams.save()
    step, expected = dreams.step(np.zeros(2, np.int64)), other.step(np.zeros(2, np.int64))
    for name in ("frames", "codes", "terminations", "status"):
        getattr(step, name)[...] = 1
    dreams.reset(np.array([False, True]))[...] = 0
    other.reset(np.array([1]))
    assert other.reset(np.array([], np.int64)).shape == expected.frames.shape
    for name in ("frames", "codes", "ended", "steps"):
        np.testing.assert_array_equal(getattr(dreams.state, name), getattr(other.state, name))
    assert other.state.steps.tolist() == [1, 0]
    np.testing.assert_array_equal(dreams.step(np.ones(2, np.int64)).codes, other.step(np.ones(2, np.int64)).codes)
    with pytest.raises(UserError, match="wanted row numbers"):
        dreams.reset(np.array([1.0]))
    with pytest.raises(UserError, match="give it one of the same world"):
        dreams.restore(replace(saved, prior=replace(saved.prior, codes=saved.prior.codes[:, 1:])))
    one, zero, short = np.array([1]), np.array([0]), dreams.world.starts.select(np.zeros(2, np.int64))
    short = replace(short, codes=short.codes[:, 1:])
    for call, message in (
        (lambda: dreams.reset(np.array([-1])), "has rows 0 to 1"),
        (lambda: dreams.reset(starts=zero), r"starts: got shape \(1,\) for 2 rows"),
        (lambda: dreams.reset(one, np.array([-1])), "this world has starts 0 to"),
        (lambda: dreams.reset(context=short), "this world has"),
        (lambda: dreams.seed(zero), r"seeds: got shape \(1,\) for 2 rows"),
        (lambda: dreams.seed(np.array([0.5, 1.0])), "seeds: got float64, wanted integers"),
        (lambda: dreams.reset(starts=np.array([0.5, 1.0])), "starts: got float64, wanted integers"),
    ):
        with pytest.raises(UserError, match=message):
            call()
    tiny = PRESETS["tiny"]
    for refused, size in (
        (replace(tiny, prior=replace(tiny.prior, order="frame", mixture=3)), (32, 32)),
        (replace(tiny, prior=replace(tiny.prior, order="groups", num_groups=3)), (32, 32)),
    ):
        with pytest.raises(UserError, match=r"[Ss]tep it with torch"):
            graphs.world_graphs(random_world(refused, size))
    monkeypatch.setattr(graphs, "find_spec", lambda name: None)
    with pytest.raises(UserError, match=r"onnx and onnxscript.*worldmodel\[onnx\]"):
        export_world(world, tmp_path / "half")
    assert not any(tmp_path.iterdir()), "nothing incomplete is written"


def test_a_world_given_by_name_is_exported_into_its_own_directory(
    world_dir: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.chdir(tmp_path)
    monkeypatch.setattr(shipped, "SHIPPED_WORLDS", world_dir.parent)
    with pytest.raises(SystemExit):
        cli.main(["export", world_dir.name])
    assert f"{world_dir / 'onnx'} exists" in capsys.readouterr().err
    assert not any(tmp_path.iterdir()), "a folder of that name would be taken in place of the world"


def test_a_damaged_export_is_refused(world_dir: Path, tmp_path: Path) -> None:
    copy = tmp_path / "copy"
    copy.mkdir()
    for file in (world_dir / "onnx").iterdir():
        (copy / file.name).write_bytes(file.read_bytes())
    OnnxWorld(copy)
    with open(copy / "group.onnx", "ab") as file:
        file.write(b"x")
    with pytest.raises(UserError, match=r"group\.onnx is damaged"):
        OnnxWorld(copy)
    (copy / "group.onnx").unlink()
    with pytest.raises(UserError, match=r"has no group\.onnx"):
        OnnxWorld(copy)


def test_an_export_of_version_1_is_refused_and_replaced(
    world_dir: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    old = Path(shutil.copytree(world_dir, tmp_path / "w"))
    config = old / "onnx" / "config.json"
    facts = json.loads(config.read_text())
    config.write_text(json.dumps({**facts, "version": 1, "files": {"tell.onnx": "", "write.onnx": ""}}))
    with pytest.raises(UserError, match=r"version 1.* this code reads .*2.* again with `worldmodel export"):
        OnnxWorld(old / "onnx")
    loaded = WorldModel.from_pretrained(old)
    assert isinstance(Simulator(loaded, 1).backend, TorchBackend)
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path / "cache"))
    monkeypatch.setattr(
        export_module, "export_world", lambda world, out: Path(shutil.copytree(world_dir / "onnx", out))
    )
    backend = Simulator(loaded, 1, backend="onnx").backend
    assert isinstance(backend, OnnxBackend)
    assert tmp_path / "cache" in backend.onnx_world.directory.parents


@pytest.mark.slow
@pytest.mark.parametrize("name", ["Box", "MultiBinary"])
def test_the_example_on_the_card_steps_a_world_of_any_action_space(name: str, tmp_path: Path) -> None:
    export = export_world(make_world(SPACES[name]), tmp_path / "x")
    (example,) = re.findall(r"```python\n(.*?)```", (export / "README.md").read_text(), re.S)
    found: dict[str, Any] = {}
    exec(example.replace("DIR", str(export)), found)
    assert found["step"].frames.shape == (2, 16, 16, 3)
