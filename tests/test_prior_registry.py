"""A new prior is a config class, a prior class and one row of the registry."""

from __future__ import annotations

import json
from dataclasses import asdict, dataclass, replace
from pathlib import Path
from typing import Any, Literal, get_args

import numpy as np
import pytest
import torch
from square import record_square
from untrained import make_world

from worldmodel.common.entries import load_entry
from worldmodel.common.errors import UserError
from worldmodel.common.run_info import config_from_json, config_to_json
from worldmodel.dream import Simulator
from worldmodel.onnx import graphs
from worldmodel.prior import PRIORS, FactoredConfig, FlatConfig, FlatPrior, Prior, PriorConfig, build_prior
from worldmodel.prior.prior_registry import PriorRow, prior_configs
from worldmodel.train import train_world
from worldmodel.train.presets import PRESETS
from worldmodel.train.training_config import LoopConfig, PriorTraining
from worldmodel.train.workspace import _read_identity
from worldmodel.world.world_model import WorldModel


@dataclass(frozen=True)
class ThirdConfig(FlatConfig):
    """A kind of prior that the package does not have."""

    kind: Literal["third"] = "third"  # type: ignore[assignment]


class ThirdPrior(FlatPrior):
    """As the flat prior, but it never terminates an episode."""

    def predict_step(self, state: Any, actions: torch.Tensor) -> Any:
        predictions = super().predict_step(state, actions)
        return replace(predictions, hazards=torch.zeros_like(predictions.hazards))


@pytest.fixture
def third_kind(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(PRIORS, "third", PriorRow(ThirdConfig, f"{__name__}:ThirdPrior"))


@pytest.mark.parametrize("kind", PRIORS)
def test_each_row_names_what_exists(kind: str) -> None:
    row = PRIORS[kind]
    config = row.config()
    assert config.kind == kind
    assert issubclass(load_entry(row.prior), Prior)
    assert config.upgrade_saved(asdict(config)) == asdict(config)
    assert config.benchmark_variants()[0] == config
    assert {"kind", "window", "width", "status"} <= asdict(config).keys()
    if row.onnx is not None:
        runtime, export = load_entry(row.onnx.runtime), load_entry(row.onnx.export)
        assert [*runtime.state_type.__annotations__] == [*export.state_type.__annotations__]


def test_the_union_of_configs_has_every_row() -> None:
    assert get_args(PriorConfig) == tuple(row.config for row in PRIORS.values())


@pytest.mark.usefixtures("third_kind")
def test_a_third_prior_needs_one_row(tmp_path: Path) -> None:
    torch.set_num_threads(1)
    tiny = PRESETS["tiny-flat"]
    steps = LoopConfig(num_steps=3, batch_size=4, clip_length=3, validations=1)
    prior = ThirdConfig(window=2, width=16, num_heads=2, num_layers=1, action_dim=4)
    config = replace(tiny, prior=prior, train_tokenizer=steps, train_prior=steps, num_starts=4)
    train_world(record_square(tmp_path / "square.h5", num_episodes=20), tmp_path / "world", config)
    world = WorldModel.from_pretrained(tmp_path / "world")
    assert type(world.prior) is ThirdPrior
    assert world.prior.config == prior
    simulator = Simulator(world, 3, seed=1)
    simulator.reset()
    out = [simulator.step(torch.tensor([t % 2, 0, 1])) for t in range(4)]
    assert not any(step.hazards.any() for step in out)
    assert all(step.log_probs.isfinite().all() for step in out)
    with pytest.raises(UserError, match="a third prior has no export"):
        graphs.world_graphs(world)


@pytest.mark.usefixtures("third_kind")
def test_a_registered_kind_is_read_from_json() -> None:
    @dataclass(frozen=True)
    class Holder:
        prior: prior_configs()  # type: ignore[valid-type]

    Holder.__annotations__["prior"] = prior_configs()
    holder = Holder(ThirdConfig(window=3))
    assert config_from_json(config_to_json(holder), Holder, "run.json") == holder


def test_an_unknown_kind_is_refused() -> None:
    @dataclass(frozen=True)
    class UnknownConfig(FactoredConfig):
        kind: Literal["factord"] = "factord"  # type: ignore[assignment]

    with pytest.raises(UserError, match="Did you mean 'factored'"):
        build_prior(UnknownConfig(), (2, 2), 4, make_world().spec.action_space)


# -- the former scope of the flat prior ----------------------------------------------------------------------


def saved_training(**fields: object) -> dict[str, Any]:
    saved = config_to_json(PriorTraining(prior=FlatConfig(window=3)))
    return {**saved, "prior": {**saved["prior"], **fields}}


def test_a_config_saved_with_scope_step_is_read() -> None:
    training = config_from_json(saved_training(scope="step"), PriorTraining, "run.json")
    assert training.prior == FlatConfig(window=3)


def test_a_config_saved_with_scope_clip_is_refused_in_one_sentence() -> None:
    with pytest.raises(UserError, match=r"train a clip model with `worldmodel train clip`") as error:
        config_from_json(saved_training(scope="clip"), PriorTraining, "run.json")
    assert "run.json" in str(error.value)
    with pytest.raises(UserError, match="scope"):
        config_from_json(saved_training(scope="frame"), PriorTraining, "run.json")


@pytest.mark.parametrize(("value", "same"), [("step", True), ("clip", False)])
def test_a_training_that_noted_the_scope_step_is_continued(value: str, same: bool, tmp_path: Path) -> None:
    identity = {"config": saved_training(), "dataset": "x"}
    noted = {**identity, "config": saved_training(scope=value)}
    (tmp_path / "run.json").write_text(json.dumps(noted))
    assert (_read_identity(tmp_path) == identity) == same
    clip_model = {"config": {"prior": {"width": 8}, "seed": 0}, "dataset": "x"}
    (tmp_path / "run.json").write_text(json.dumps(clip_model))
    assert _read_identity(tmp_path) == clip_model


def test_a_world_saved_with_scope_clip_is_refused_in_one_sentence(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    world = make_world(flat=True)
    with monkeypatch.context() as patch:
        patch.setattr("worldmodel.world.world_storage.asdict", lambda config: asdict(config) | scope(config))
        world.save_pretrained(tmp_path / "world")
    with pytest.raises(UserError, match=r"scope='clip'.*train a clip model with `worldmodel train clip`"):
        WorldModel.from_pretrained(tmp_path / "world")


def scope(config: object) -> dict[str, str]:
    return {"scope": "clip"} if isinstance(config, FlatConfig) else {}


def test_the_hash_of_a_flat_world_did_not_change_when_scope_was_removed() -> None:
    names = list(FlatConfig().hashed_fields())
    assert names[names.index("scope") - 1 : names.index("scope") + 2] == ["positions", "scope", "previous_frame"]
    assert FlatConfig().hashed_fields()["scope"] == "step"


# -- the step ----------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("flat", [False, True])
@pytest.mark.parametrize("end_has_frame", [False, True])
def test_a_step_without_a_frame_stores_none(flat: bool, end_has_frame: bool) -> None:
    world = make_world(flat=flat, hazard=30.0)
    world.prior.end_has_frame = end_has_frame
    assert world.starts is not None
    index = torch.arange(3)
    state = world.prior.init_state(world.starts.context.select(index))
    numbers = torch.full((3, world.prior.num_uniforms), 0.5)
    out = world.prior.step(state, torch.zeros(3, dtype=torch.int64), numbers, simulator_sampling(world))
    last = out.state.codes if flat else out.state.codes[:, -1]
    assert out.terminations.all()
    assert not out.rewards.requires_grad
    np.testing.assert_array_equal(out.has_frame, np.full(3, end_has_frame))
    assert torch.equal(last, out.codes) if end_has_frame else bool((last == world.prior.num_codes).all())
    assert bool((out.log_probs != 0).all()) == end_has_frame


def simulator_sampling(world: WorldModel) -> Any:
    return Simulator(world, 1, backend="torch").sampling
