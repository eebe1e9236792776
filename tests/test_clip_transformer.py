"""Parts of the clip prior against formulas in numpy: sparse attention, conditions, frame ResNet, dropout."""

from __future__ import annotations

from dataclasses import asdict
from typing import Any

import numpy as np
import pytest
import torch
from clip_priors import random_conditioning, random_frames, random_prior
from torch import nn

from worldmodel.common import spaces
from worldmodel.common.errors import UserError
from worldmodel.prior import Sampling
from worldmodel.prior.clip.clip_conditioning import Conditioning
from worldmodel.prior.clip.clip_config import ClipConfig
from worldmodel.prior.clip.frame_encoder import STAGES, ResNet3D
from worldmodel.prior.clip.sparse_attention import SparseAttention
from worldmodel.prior.conditioning import ConditionalLayerNorm
from worldmodel.world.config_values import read_model_config

# -- sparse attention --------------------------------------------------------------------------------------


def sparse_blocks(num_steps: int, num_rows: int) -> np.ndarray:
    """The paper's layout, one block for each row of codes: (T*h, T*h) bool."""
    visible = np.zeros((num_steps, num_rows, num_steps, num_rows), bool)
    for t in range(num_steps):
        for y in range(num_rows):
            for s in range(t + 1):
                visible[t, y, s, y] = True  # strided: the same row of every time step up to its own
    blocks = visible.reshape(num_steps * num_rows, -1)
    for n in range(len(blocks)):
        blocks[n, max(0, n - 4) : n + 1] = True  # local
    return blocks


def test_the_sparse_layout_has_six_percent_of_the_causal_blocks() -> None:
    blocks = sparse_blocks(8, 32)
    assert (blocks.sum(), 256 * 257 // 2) == (2166, 32896)
    assert round(100 * 2166 / 32896, 1) == 6.6
    mask = SparseAttention(8, (32, 32)).mask().numpy()  # (8200, 8200)
    codes = mask.reshape(8, 1025, 8, 1025)[:, :1024, :, :1024]  # without the last position of each time step
    found = codes.reshape(256, 32, 256, 32).any((1, 3))
    np.testing.assert_array_equal(found, blocks)


@pytest.mark.parametrize(("num_steps", "grid"), [(3, (6, 2)), (4, (3, 2)), (2, (8, 3)), (1, (7, 1)), (5, (1, 4))])
def test_the_sparse_mask_is_the_layout_at_every_position(num_steps: int, grid: tuple[int, int]) -> None:
    h, w = grid
    blocks, positions = sparse_blocks(num_steps, h), []
    for t in range(num_steps):
        positions += [t * h + k // w for k in range(h * w)] + [t * h + h - 1]
    size = len(positions)
    wanted = [[j <= i and blocks[positions[i], positions[j]] for j in range(size)] for i in range(size)]
    attention = SparseAttention(num_steps, grid)
    np.testing.assert_array_equal(attention.mask().numpy(), np.array(wanted))
    steps = torch.cat([nn.functional.pad(m, (0, size - m.shape[1])) for m in attention.step_masks()])
    assert torch.equal(steps, attention.mask())
    assert not attention.state_dict()


def test_a_sparse_layer_reads_the_visible_codes_and_no_other() -> None:
    prior = random_prior(attention="sparse", num_layers=1, positions="paper")
    blocks = sparse_blocks(4, 3)
    codes = torch.randint(0, 8, (1, 4, 3, 2), generator=torch.Generator().manual_seed(2))
    before = prior.logits(codes, Conditioning()).flatten(1, 2)[0]  # (T*K, V)
    for changed in (0, 3, 5, 11, 20):
        other = codes.flatten().clone()
        other[changed] = (other[changed] + 1) % 8
        after = prior.logits(other.view(codes.shape), Conditioning()).flatten(1, 2)[0]
        t, k = divmod(changed, 6)
        row = min(k + 1, 5) // 2  # code k is held by the position that predicts code k+1
        wanted = [blocks[i // 6 * 3 + i % 6 // 2, t * 3 + row] and i > changed for i in range(24)]
        assert ((before - after).abs().amax(1) > 1e-6).tolist() == wanted, changed


@pytest.mark.parametrize("num_kv_heads", [4, 2])
def test_flex_attention_agrees_with_the_masked_product(num_kv_heads: int) -> None:
    attention = SparseAttention(3, (6, 2))
    torch.manual_seed(0)
    q, k, v = (torch.randn(2, heads, 39, 16) for heads in (4, num_kv_heads, num_kv_heads))
    torch.testing.assert_close(attention.flex_attention(q, k, v), attention.function()(q, k, v))


@pytest.mark.gpu
def test_flex_attention_agrees_with_the_masked_product_on_a_gpu() -> None:
    torch.manual_seed(0)
    inputs = [torch.randn(2, 4, 4 * 257, 48) for _ in range(3)]
    outputs, gradients = [], []
    for device in ("cpu", "cuda"):
        attention = SparseAttention(4, (16, 16)).to(device)
        q, k, v = (x.to(device).requires_grad_() for x in inputs)
        y = attention.function()(q, k, v)
        y.square().sum().backward()
        outputs.append(y.detach().cpu())
        gradients.append(torch.stack([x.grad.cpu() for x in (q, k, v) if x.grad is not None]))
    torch.testing.assert_close(outputs[1], outputs[0], rtol=2e-3, atol=2e-3)
    torch.testing.assert_close(gradients[1], gradients[0], rtol=1e-2, atol=1e-2)


CONDITIONS: dict[str, dict[str, Any]] = {
    "none": {},
    "class": {"class_label": True},
    "actions": {"actions": "clip", "action_per_frame": True, "num_kv_heads": 2},
    "frames": {"num_given_frames": 1, "frame_encoder": "resnet18", "frame_units": 8},
    "all": {"class_label": True, "actions": "step", "num_given_frames": 2, "previous_frame": True},
}


@pytest.mark.parametrize("positions", ["paper", "rotary"])
@pytest.mark.parametrize("attention", ["full", "sparse"])
@pytest.mark.parametrize("condition", CONDITIONS)
def test_cached_sampling_equals_a_full_forward(condition: str, attention: str, positions: str) -> None:
    prior = random_prior(attention=attention, positions=positions, **CONDITIONS[condition])
    conditioning, uniforms, sampling = random_conditioning(prior, 3), torch.rand(3, 4, 6), Sampling()
    codes, log_probs = prior.sample(conditioning, uniforms, sampling)
    logits = prior.logits(codes, conditioning)
    assert torch.equal(sampling.sample(logits, uniforms), codes.flatten(2))
    torch.testing.assert_close(log_probs, prior.log_prob(codes, conditioning), rtol=1e-5, atol=1e-4)
    other = random_prior(attention="full", positions=positions, **CONDITIONS[condition])
    assert torch.equal(other.logits(codes, conditioning), logits) == (attention == "full")


# -- conditions --------------------------------------------------------------------------------------------


def test_conditional_layer_norm_is_the_formula() -> None:
    norm, rng = ConditionalLayerNorm(6, 3), np.random.default_rng(0)
    x, c = rng.normal(size=(2, 4, 6)), rng.normal(size=(2, 3))
    normed = (x - x.mean(-1, keepdims=True)) / np.sqrt(x.var(-1, keepdims=True) + 1e-5)

    def output() -> np.ndarray:
        return norm(torch.tensor(x).float(), torch.tensor(c).float()).detach().numpy()

    np.testing.assert_allclose(output(), normed, atol=1e-5)  # at the start: g = 1, all others 0
    g, b, w_g, w_b = rng.normal(size=6), rng.normal(size=6), rng.normal(size=(6, 3)), rng.normal(size=(6, 3))
    with torch.no_grad():
        norm.gain.copy_(torch.tensor(g))
        norm.bias.copy_(torch.tensor(b))
        norm.affine.weight.copy_(torch.tensor(np.concatenate([w_g, w_b])))
    wanted = normed * (g + c @ w_g.T)[:, None] + (b + c @ w_b.T)[:, None]
    np.testing.assert_allclose(output(), wanted, atol=1e-5)
    constant = norm(torch.full((1, 1, 6), 3.0), torch.zeros(1, 3))
    torch.testing.assert_close(constant[0, 0], norm.bias)


@pytest.mark.parametrize("per_frame", [False, True])
def test_the_condition_is_the_flattened_sequence_of_actions(per_frame: bool) -> None:
    rng = np.random.default_rng(1)
    heads = (3, 3, 2, 2, 11)
    battle = random_prior(spaces.MultiDiscrete(heads), actions="clip", num_frames=16, action_per_frame=per_frame)
    indices = np.stack([rng.integers(0, n, (2, 15)) for n in heads], -1)  # (B, L-1, 5)
    features = np.concatenate([np.eye(n)[indices[..., i]] for i, n in enumerate(heads)], -1).reshape(2, -1)
    assert features.shape == (2, 315)
    bair = random_prior(spaces.Box((-2.0,) * 4, (2.0,) * 4), actions="clip", num_frames=16, action_per_frame=per_frame)
    numbers = rng.uniform(-2, 2, (2, 15, 4)).astype(np.float32)
    for prior, actions, wanted, size in ((battle, indices, features, 21), (bair, numbers, numbers / 2, 4)):
        wanted = wanted.reshape(2, -1)
        if per_frame:  # 64 numbers for BAIR
            wanted = np.concatenate([wanted, np.zeros((2, size))], 1)
        condition = prior.condition_encoder(Conditioning(torch.from_numpy(actions)), 2, torch.device("cpu"))
        assert condition.shape == (2, 16, (15 + per_frame) * size)
        for t in range(16):
            np.testing.assert_allclose(condition[:, t].numpy(), wanted, atol=1e-6)


@pytest.mark.parametrize(("name", "depth"), [("resnet18", 18), ("resnet34", 34)])
@pytest.mark.parametrize("shape", [(1, 64, 64), (2, 24, 40), (3, 9, 17)])
def test_the_frame_resnet_has_the_depth_and_the_features_of_its_name(
    name: str, depth: int, shape: tuple[int, int, int]
) -> None:
    num_frames, height, width = shape
    network = ResNet3D(STAGES[name], 8, num_frames, (height, width, 3), 12)
    layers = [m for path, m in network.named_modules() if isinstance(m, nn.Conv3d) and "shortcut" not in path]
    assert len(layers) == depth  # with the projection in place of the last, fully connected layer
    frames = torch.randint(0, 256, (2, num_frames, height, width, 3), dtype=torch.uint8)
    features = network(frames)
    sides = [height, width]
    for _ in range(3):
        sides = [(side - 1) // 2 + 1 for side in sides]  # kernel 3, padding 1, stride 2
    assert features.shape == (2, num_frames * sides[0] * sides[1], 12)
    torch.testing.assert_close(network(frames[1:]), features[1:])  # whatever the rest of the batch
    assert torch.isfinite(network(torch.zeros_like(frames))).all()


def test_the_channels_of_the_frame_resnet_double_in_each_stage() -> None:
    network = ResNet3D(STAGES["resnet34"], 32, 1, (16, 16, 3), 12)
    channels = [block.conv_out.out_channels for block in network.blocks]
    assert channels == [4] * 3 + [8] * 4 + [16] * 6 + [32] * 3
    with pytest.raises(UserError, match="multiple of 8"):
        ClipConfig(frame_units=12)


def test_every_code_depends_on_the_pixels_of_a_given_frame() -> None:
    prior, frames = random_prior(num_given_frames=1, frame_encoder="resnet18", frame_units=16), random_frames(3, 1)
    codes = torch.randint(0, 8, (3, 4, 3, 2), generator=torch.Generator().manual_seed(1))
    before, other = prior.logits(codes, Conditioning(frames=frames)), frames.clone()
    other[1:, 0, 9, 5] = 255 - other[1:, 0, 9, 5]
    after = prior.logits(codes, Conditioning(frames=other))
    assert torch.equal(before[0], after[0])
    assert ((before - after)[1:].abs().amax(-1) > 1e-7).float().mean() > 0.9


def test_more_frames_can_be_given_than_there_are_time_steps_of_codes() -> None:
    prior = random_prior(num_frames=8, time_stride=4, num_given_frames=3)
    assert (prior.num_steps, prior.config.num_given_frames) == (2, 3)
    codes = torch.zeros(1, 2, 3, 2, dtype=torch.int64)
    assert prior.logits(codes, random_conditioning(prior, 1)).shape == (1, 2, 6, 8)


def test_a_config_of_an_earlier_version_is_the_same_model() -> None:
    config = ClipConfig(num_given_frames=1)
    stored = asdict(config)
    for name in ("action_per_frame", "frame_encoder", "frame_units", "attention"):
        del stored[name]
    assert read_model_config(stored, ClipConfig, "prior") == config
    names = set(random_prior(num_given_frames=1).state_dict())
    assert {"frame_encoder.down_convs.0.weight", "frame_encoder.position_embed.axes.0"} <= names


# -- training ----------------------------------------------------------------------------------------------


def test_dropout_is_after_attention_and_feed_forward() -> None:
    codes = torch.randint(0, 8, (2, 4, 3, 2), generator=torch.Generator().manual_seed(1))
    prior = random_prior(num_given_frames=1, dropout=1.0)
    frames = random_frames(2, 1)
    trained, evaluated = [], []
    for given in (frames, 255 - frames):
        for first in (codes, (codes + 1) % 8):
            varied = torch.cat([first[:, :1], codes[:, 1:]], 1)
            for mode, found in ((True, trained), (False, evaluated)):
                logits = prior.train(mode).logits(varied, Conditioning(frames=given))
                found.append(logits[:, 1:].detach())
    assert all(torch.equal(logits, trained[0]) for logits in trained)  # nothing but the residual stream is left
    assert not any(torch.equal(logits, evaluated[0]) for logits in evaluated[1:])
    for block in prior.transformer.blocks:
        torch.nn.init.normal_(block.down_proj.bias)
    assert torch.equal(prior.train().logits(codes, Conditioning(frames=frames))[:, 1:], trained[0])


@pytest.mark.parametrize("attention", ["full", "sparse"])
def test_activation_checkpointing_has_the_same_gradients(attention: str) -> None:
    codes = torch.randint(0, 8, (2, 4, 3, 2), generator=torch.Generator().manual_seed(1))
    gradients, saved = [], []
    for checkpointing in (False, True):
        prior = random_prior(num_given_frames=1, actions="clip", dropout=0.2, attention=attention, num_layers=3).train()
        prior.transformer.activation_checkpointing = checkpointing
        sizes: list[int] = []
        torch.manual_seed(7)
        with torch.autograd.graph.saved_tensors_hooks(lambda x, sizes=sizes: sizes.append(x.numel()) or x, lambda x: x):
            loss = prior.loss(codes, random_conditioning(prior, 2), torch.ones(2, dtype=torch.bool))["loss"]
        loss.backward()
        gradients.append({name: x.grad for name, x in prior.named_parameters()})
        saved.append(sum(sizes))
    assert saved[1] < 0.7 * saved[0]
    for name, gradient in gradients[0].items():
        assert gradient is not None, name
        assert torch.equal(gradient, gradients[1][name]), name
