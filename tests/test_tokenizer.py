"""Contracts of the tokenizers, compared with formulas written out independently."""

from __future__ import annotations

import threading
from typing import Any

import numpy as np
import pytest
import torch
import torch.nn.functional as F
from safetensors.torch import load, save
from tiny_tokenizers import clip_config, frame_config, make_fitted, random_frames
from torch import Tensor

from worldmodel.bench.bench_tokenizer import bench_tokenizer
from worldmodel.common import processes
from worldmodel.common.errors import UserError
from worldmodel.tokenizer import PAPER_BAIR, Codebook, Tokenizer, TokenizerConfig, codebook, make_tokenizer
from worldmodel.tokenizer.tokenizer_layers import AttentionResidualBlock, PositionEmbedding
from worldmodel.tokenizer.volume_tokenizer import fill_invalid


@pytest.mark.parametrize(
    ("config", "shape", "codes"),
    [
        (frame_config(), (3, 16, 24), (3, 4, 6)),
        (frame_config(space_stride=8), (2, 32, 64), (2, 4, 8)),
        (frame_config(space_stride=16, num_codebooks=2), (1, 16, 32), (1, 1, 4)),
        (clip_config(time_stride=2, space_stride=2), (4, 8, 12), (2, 4, 6)),
        (clip_config(time_stride=4, space_stride=4, axial_attention=False), (4, 8, 12), (1, 2, 3)),
        (clip_config(time_stride=4, space_stride=2, width=10), (4, 8, 8), (1, 4, 4)),
        (clip_config(time_stride=1, space_stride=4, num_codebooks=4), (4, 8, 12), (4, 2, 12)),
        (clip_config(time_stride=1, space_stride=1, clip_length=3, width=6, num_heads=3), (3, 4, 5), (3, 4, 5)),
        (clip_config(space_stride=8), (8, 32, 64), (4, 4, 8)),  # two clips in a row
    ],
)
def test_shapes_for_all_strides_and_codebooks(config: TokenizerConfig, shape: tuple, codes: tuple) -> None:
    frames = random_frames(2, *shape)
    tokenizer = make_fitted(config, frames)
    got = tokenizer.eval().encode(frames)
    assert got.shape == (2, *codes)
    assert got.dtype == torch.int64
    assert got.min() >= 0
    assert got.max() < tokenizer.num_codes
    assert (tokenizer.grid, tokenizer.time_stride) == (codes[1:], config.time_stride)
    made = tokenizer.decode(got)
    assert (made.shape, made.dtype) == (frames.shape, torch.uint8)
    tensors = load(save(tokenizer.state_dict()))  # refuses tensors that share memory
    again = make_tokenizer(config, (*shape[1:], 3))
    again.load_state_dict(tensors)
    assert torch.equal(again.eval().encode(frames), got)


@pytest.mark.parametrize(("config", "step"), [(frame_config(num_codebooks=2), 1), (clip_config(), 4)])
def test_frames_are_encoded_alone_and_clips_together(config: TokenizerConfig, step: int) -> None:
    frames = random_frames(2, 8, 8, 12)
    tokenizer = make_fitted(config, frames).eval()
    codes = tokenizer.encode(frames)
    alone = [tokenizer.encode(frames[:, t : t + step]) for t in range(0, 8, step)]
    assert torch.equal(torch.cat(alone, 1), codes)
    assert torch.equal(torch.cat([tokenizer.decode(part) for part in alone], 1), tokenizer.decode(codes))
    latents = tokenizer._encode_pixels(tokenizer._standardise(tokenizer._to_units(frames, 1)))
    changed = frames.clone()
    changed[:, 3] = 255 - changed[:, 3]
    moved = tokenizer._encode_pixels(tokenizer._standardise(tokenizer._to_units(changed, 1))) != latents
    moved = moved.unflatten(0, (2, -1))
    # a frame's latents depend on that frame alone; a clip's latents on all of its frames and on no other clip
    assert moved[:, 3].all() if step == 1 else moved[:, 0].float().mean() > 0.99
    assert not moved[:, 4:].any() if step == 1 else not moved[:, 1].any()


def test_attention_residual_block_is_the_papers_formula() -> None:
    torch.manual_seed(0)
    block = AttentionResidualBlock(6, 4, num_heads=2)
    positions = PositionEmbedding((2, 3, 4), 6)
    x = torch.randn(2, 6, 2, 3, 4)
    assert torch.equal(block(x, positions()), x)  # initially the identity
    for parameter in (*block.parameters(), *positions.parameters()):
        parameter.data = 0.5 * torch.randn_like(parameter)

    def norm_relu(values: Tensor, norm: torch.nn.LayerNorm) -> Tensor:
        mean = values.mean(1, keepdim=True)
        root = (((values - mean) ** 2).mean(1, keepdim=True) + 1e-5).sqrt()
        scaled = (values - mean) / root * norm.weight.view(-1, 1, 1, 1) + norm.bias.view(-1, 1, 1, 1)
        return scaled.clamp_min(0)

    y = F.conv3d(norm_relu(x, block.norm_conv3), block.conv3.weight, block.conv3.bias, padding=1)
    y = F.conv3d(norm_relu(y, block.norm_conv1), block.conv1.weight, block.conv1.bias)
    time, rows, columns = positions.axes
    place = torch.stack([time[t] + rows[i] + columns[j] for t in range(2) for i in range(3) for j in range(4)])
    y = norm_relu(y, block.norm_attention) + place.T.reshape(6, 2, 3, 4)
    total = torch.zeros_like(x)
    keys = {"w": "thn", "h": "tnw", "t": "nhw"}  # n: places along the axis of attention
    for layer, axis in zip(block.attention, "wht", strict=True):
        q, k, v = torch.einsum("bdthw,ed->bethw", y, layer.qkv_proj.weight).reshape(2, 3, 2, 3, 2, 3, 4).unbind(1)
        weights = (torch.einsum(f"bkdthw,bkd{keys[axis]}->bkthwn", q, k) / 3**0.5).softmax(-1)
        attended = torch.einsum(f"bkthwn,bkd{keys[axis]}->bkdthw", weights, v).reshape(2, 6, 2, 3, 4)
        total += torch.einsum("bdthw,ed->bethw", attended, layer.out_proj.weight) + layer.out_proj.bias.view(
            -1, 1, 1, 1
        )
    torch.testing.assert_close(block(x, positions()), x + total, atol=1e-5, rtol=1e-4)


def test_clip_encoder_and_decoder_are_the_papers_convolutions() -> None:
    torch.manual_seed(0)
    tokenizer = make_tokenizer(
        clip_config(num_layers=0, time_stride=2, space_stride=4, axial_attention=False), (8, 12, 3)
    )
    encoder, decoder = tokenizer.encoder, tokenizer.decoder

    def relu_norm(y: Tensor) -> Tensor:
        return F.layer_norm(y.movedim(1, -1), (8,)).movedim(-1, 1).clamp_min(0)

    x = torch.randn(1, 3, 4, 8, 12)
    y = F.conv3d(x, encoder.down_convs[0].weight, encoder.down_convs[0].bias, (2, 2, 2), 1)
    y = F.conv3d(y.clamp_min(0), encoder.down_convs[1].weight, encoder.down_convs[1].bias, (1, 2, 2), 1)
    y = F.conv3d(relu_norm(y), encoder.output_conv.weight, encoder.output_conv.bias)
    torch.testing.assert_close(tokenizer._encode_pixels(x), y)
    z = relu_norm(F.conv3d(y, decoder.input_conv.weight, decoder.input_conv.bias))
    z = F.conv_transpose3d(z, decoder.up_convs[0].weight, decoder.up_convs[0].bias, (1, 2, 2), 1).clamp_min(0)
    z = F.conv_transpose3d(z, decoder.up_convs[1].weight, decoder.up_convs[1].bias, (2, 2, 2), 1)
    torch.testing.assert_close(tokenizer._decode_latents(y), z)
    assert [tuple(layer.kernel_size) for layer in decoder.up_convs] == [(3, 4, 4), (4, 4, 4)]


def test_number_of_parameters_of_the_papers_tokenizer() -> None:
    hidden, units, layers, d = 240, 128, 4, 256  # table 8, the column of BAIR, RoboNet and ViZDoom
    norm = 2 * hidden
    attention = 3 * (hidden * 3 * hidden + hidden * hidden + hidden)  # along three axes: q, k, v; out and its bias
    block = norm + (27 * hidden * units + units) + 2 * units + (units * hidden + hidden) + norm + attention
    encoder = (27 * 3 * hidden + hidden) + layers * block + norm + (hidden * d + d)
    decoder = (d * hidden + hidden) + layers * block + norm + (64 * hidden * 3 + 3)
    positions = (8 + 32 + 32) * hidden  # once, shared by encoder and decoder
    tokenizer = make_tokenizer(PAPER_BAIR, (64, 64, 3))
    assert sum(p.numel() for p in tokenizer.parameters()) == encoder + decoder + positions
    assert (tokenizer.grid, tokenizer.time_stride) == ((32, 32), 2)
    assert tokenizer.codebook.embeddings.shape == (1024, 256)


@pytest.mark.parametrize(
    "config", [frame_config(rare_weight=2.0), clip_config(), clip_config(rare_weight=2.0, num_codebooks=2)]
)
def test_constant_frames_give_no_nan(config: TokenizerConfig) -> None:
    for value in (0, 200):
        frames = torch.full((2, 4, 8, 8, 3), value, dtype=torch.uint8)
        tokenizer = make_fitted(config, frames)
        losses = tokenizer.loss(frames, torch.ones(2, 4, dtype=torch.bool))
        losses["loss"].backward()
        assert all(torch.isfinite(figure) for figure in losses.values())
        assert all(torch.isfinite(p.grad).all() for p in tokenizer.parameters() if p.grad is not None)
        assert torch.isfinite(tokenizer.codebook.embeddings).all()


def test_a_tiny_clip_tokenizer_overfits_one_batch() -> None:
    torch.manual_seed(0)
    frames = random_frames(2, 4, 2, 3).float().movedim(-1, 2).flatten(0, 1)
    frames = F.interpolate(frames, scale_factor=4, mode="bilinear").round().to(torch.uint8)
    frames = frames.unflatten(0, (2, 4)).movedim(2, -1)  # (2, 4, 8, 12, 3)
    tokenizer = make_tokenizer(clip_config(width=16, num_codes=32, code_dim=8), (8, 12, 3)).train()
    tokenizer.fit_normaliser([frames[0], frames[1]])
    optimiser = torch.optim.AdamW(tokenizer.parameters(), lr=4e-3)
    valid = torch.ones(2, 4, dtype=torch.bool)
    for _ in range(70):
        losses = tokenizer.loss(frames, valid)
        optimiser.zero_grad()
        losses["loss"].backward()
        optimiser.step()
    made = tokenizer.eval().decode(tokenizer.encode(frames))
    mse = ((made.float() - frames.float()) / 255).square().mean((2, 3, 4))
    psnr = (-10 * mse.log10()).mean()
    assert psnr > 28
    assert abs(tokenizer.loss(frames, valid)["psnr"] - psnr) < 0.3  # the decoded frames' PSNR, to rounding


def test_codes_are_the_nearest_embeddings_of_their_slice() -> None:
    rng = np.random.default_rng(0)
    layer = Codebook(5, 6, num_codebooks=3)
    layer.embeddings.copy_(torch.from_numpy(rng.normal(size=(5, 6))))
    x, e = rng.normal(size=(7, 6)).astype(np.float32), layer.embeddings.numpy()
    wanted = np.empty((7, 3), np.int64)
    chosen = np.empty((7, 6), np.float32)
    for c in range(3):
        part = slice(2 * c, 2 * c + 2)
        wanted[:, c] = ((x[:, None, part] - e[None, :, part]) ** 2).sum(-1).argmin(1)
        chosen[:, part] = e[wanted[:, c], part]
    codes = layer.encode(torch.from_numpy(x))
    np.testing.assert_array_equal(codes.reshape(7, 3), wanted)
    np.testing.assert_array_equal(layer.decode(codes), chosen)
    np.testing.assert_array_equal(layer.decode(codes.reshape(1, 21)), chosen[None])  # codebook fastest


def test_moving_averages_and_restarts_of_several_codebooks() -> None:
    rng = np.random.default_rng(1)
    x = rng.normal(size=(40, 4)).astype(np.float32)
    layer = Codebook(3, 4, decay=0.9, restart_below=0.5, num_codebooks=2).train()
    torch.manual_seed(0)
    layer(torch.from_numpy(x))
    # a code that no vector chooses, in the second codebook only, just above the restart threshold
    e, n, m = (t.numpy().copy() for t in (layer.embeddings, layer.ema_counts.view(3, 2), layer.ema_sums))
    e[1, 2:], m[1, 2:], n[1, 1] = 1e3, 1e3, 0.51
    layer.embeddings.copy_(torch.from_numpy(e))
    layer.ema_sums.copy_(torch.from_numpy(m))
    layer.ema_counts.copy_(torch.from_numpy(n).flatten())
    torch.manual_seed(1)
    pick = torch.randperm(40)[:3].numpy()
    torch.manual_seed(1)
    out = layer(torch.from_numpy(x))
    entropy = []
    for c in range(2):
        part = slice(2 * c, 2 * c + 2)
        nearest = ((x[:, None, part] - e[None, :, part]) ** 2).sum(-1).argmin(1)
        uses = np.bincount(nearest, minlength=3)
        share = uses[uses > 0] / 40
        entropy.append(np.exp(-(share * np.log(share)).sum()))
        for v in range(3):
            n[v, c] = 0.9 * n[v, c] + 0.1 * uses[v]
            m[v, part] = 0.9 * m[v, part] + 0.1 * x[nearest == v, part].sum(0)
        for v in np.flatnonzero(n[:, c] < 0.5):
            assert (v, c) == (1, 1)
            n[v, c], m[v, part] = 1, x[pick[v], part]
        e[:, part] = m[:, part] / n[:, c : c + 1]
    assert out.num_dead == 1
    np.testing.assert_allclose(out.perplexity, np.mean(entropy), rtol=1e-5)
    np.testing.assert_allclose(layer.embeddings, e, rtol=1e-4)
    np.testing.assert_allclose(layer.ema_counts.view(3, 2), n, rtol=1e-5)
    layer.ema_counts[4] = 0.1  # in evaluation mode dead codes are counted and nothing is updated
    before = {name: tensor.clone() for name, tensor in layer.state_dict().items()}
    assert layer.eval()(torch.from_numpy(x)).num_dead == 1
    assert all(torch.equal(before[name], tensor) for name, tensor in layer.state_dict().items())


def distance_to_nearest(x: Tensor, vectors: Tensor) -> Tensor:
    """Largest absolute difference to the nearest vector: (n, d) and (N, d) -> (n,)."""
    return (x[:, None] - vectors[None]).abs().amax(2).min(1).values


@pytest.mark.parametrize("num_vectors", [1024, 1100, 5000])
def test_initial_codes_are_different_vectors(num_vectors: int) -> None:
    torch.manual_seed(0)
    vectors = torch.randn(num_vectors, 4)
    layer = Codebook(1024, 4, decay=1.0).train()  # a decay of 1 keeps the initial embeddings
    layer(vectors)
    assert len(layer.embeddings.unique(dim=0)) == 1024
    assert (distance_to_nearest(layer.embeddings, vectors) == 0).all(), "each is one of the vectors"
    assert torch.equal(layer.ema_sums, layer.embeddings)


@pytest.mark.parametrize("num_vectors", [1, 10, 700])
def test_fewer_vectors_than_codes_are_repeated_with_small_noise(num_vectors: int) -> None:
    torch.manual_seed(0)
    vectors = 3 + 0.1 * torch.randn(num_vectors, 4)
    layer = Codebook(1024, 4, decay=1.0).train()
    layer(vectors)
    assert len(layer.embeddings.unique(dim=0)) == 1024
    distance = distance_to_nearest(layer.embeddings, vectors)
    assert (distance[:num_vectors] == 0).all(), "every vector once without noise"
    assert distance[num_vectors:].min() > 0
    assert distance.max() < 0.2, "noise of one percent of the vectors' size"


def test_restarted_codes_are_different_vectors() -> None:
    torch.manual_seed(0)
    layer = Codebook(64, 4, restart_below=0.5).train()
    layer(torch.randn(100, 4))
    layer.ema_counts.zero_()  # all codes are dead
    vectors = torch.randn(100, 4)
    assert layer(vectors).num_dead > 32
    restarted = (distance_to_nearest(layer.embeddings, vectors) == 0).nonzero()[:, 0]
    assert len(layer.embeddings[restarted].unique(dim=0)) == len(restarted) > 32


@pytest.mark.parametrize("config", [frame_config(), clip_config(), clip_config(rare_weight=3.0)])
def test_invalid_frames_have_no_influence(config: TokenizerConfig) -> None:
    frames = random_frames(3, 4, 8, 8)
    valid = torch.tensor([[True, True, False, True], [False, False, True, False], [False] * 4])
    valid[2, 0] = config.time == "frame"
    results = []
    for noise in (0, 77):
        tokenizer = make_fitted(config, random_frames(3, 4, 8, 8, seed=5))
        torch.manual_seed(1)
        altered = torch.where(valid[..., None, None, None], frames, frames + noise)
        results.append({**tokenizer.loss(altered, valid), **tokenizer.state_dict()})
        results[-1]["loss"].backward()
        results[-1].update({f"{name} gradient": p.grad for name, p in tokenizer.named_parameters()})
    assert all(torch.equal(results[0][name], results[1][name]) for name in results[0])


def test_an_invalid_frame_is_replaced_and_has_no_loss() -> None:
    frames = torch.arange(8).view(2, 4)
    valid = torch.tensor([[True, False, False, True], [False, True, False, True]])
    assert fill_invalid(frames, valid).tolist() == [[0, 0, 0, 3], [5, 5, 5, 7]]
    frames = random_frames(1, 4, 8, 8)
    tokenizer = make_fitted(clip_config(), frames).eval()
    filled = frames[:, [0, 1, 1, 3]]
    losses = tokenizer.loss(frames, torch.tensor([[True, True, False, True]]))
    pixels = tokenizer._standardise(filled)  # (1, 3, 4, 8, 8)
    embeddings = tokenizer.codebook.decode(tokenizer.encode(filled)).movedim(-1, 1)
    errors = (tokenizer._decode_latents(embeddings) - pixels).square()[:, :, [0, 1, 3]].mean()
    torch.testing.assert_close(losses["reconstruction"], errors.detach())


@pytest.mark.parametrize("config", [frame_config(rare_weight=5.0), clip_config(rare_weight=5.0)])
def test_rare_pixels_are_weighted(config: TokenizerConfig) -> None:
    torch.manual_seed(0)
    data = (100 + 20 * torch.randn(60, 8, 12, 3)).clamp(0, 255).to(torch.uint8)
    data[:, :, :6] = 90  # constant on the left
    frames = data[:8].view(2, 4, 8, 12, 3).clone()
    frames[0, 1, 2, 3] = torch.tensor([90, 90, 255])  # one bright pixel there, in one colour
    frames[1, 2, 5, 1] = 99  # noise too small to be rare
    tokenizer = make_tokenizer(config, (8, 12, 3))
    tokenizer.fit_normaliser(data.split(7))
    p = data.double().numpy() / 255 - 0.5
    mean, std = p.mean((0, 1, 2)), np.sqrt(((p - p.mean((0, 1, 2))) ** 2).mean())
    np.testing.assert_allclose(tokenizer.pixel_mean, mean, rtol=1e-5)
    np.testing.assert_allclose(tokenizer.pixel_std, std, rtol=1e-5)
    threshold = np.maximum(2 * p.std(0), 0.04)  # (H, W, 3)
    np.testing.assert_allclose(tokenizer.rare_distance, np.moveaxis(threshold, -1, 0) / std, rtol=1e-4)
    np.testing.assert_allclose(tokenizer.mean_frame, np.moveaxis(p.mean(0) - mean, -1, 0) / std, rtol=1e-4, atol=1e-6)

    tokenizer.codebook(torch.randn(50, 4))
    losses = tokenizer.eval().loss(frames, torch.ones(2, 4, dtype=torch.bool))
    x = frames.double().numpy() / 255 - 0.5
    rare = np.abs(x - p.mean(0)) > threshold
    if config.time == "clip":
        rare[:, 1:] |= np.abs(x[:, 1:] - x[:, :-1]) > threshold
    weights = np.where(rare.any(-1, keepdims=True), 5.0, 1.0)
    assert weights[0, 1, 2, 3] == 5
    assert weights[0, 2, 2, 3] == (5 if config.time == "clip" else 1)  # where it was one frame before
    assert weights[1, 2, 5, 1] == 1
    latents = tokenizer._encode_pixels(tokenizer._standardise(tokenizer._to_units(frames, 1)))
    codes = tokenizer.encode(frames)
    output = tokenizer._decode_latents(
        tokenizer.codebook.decode(tokenizer._to_units(codes, config.time_stride)).movedim(-1, 1)
    )
    made = output.movedim(1, -1).reshape(frames.shape).detach().double().numpy()
    squares = (made - (x - mean) / std) ** 2
    wanted = (weights * squares).sum() / (3 * weights.sum())
    np.testing.assert_allclose(losses["reconstruction"], wanted, rtol=1e-4)
    psnr = -10 * np.log10(squares.mean((2, 3, 4)) * std**2).mean()
    np.testing.assert_allclose(losses["psnr"], psnr, rtol=1e-4)  # unweighted
    chosen = tokenizer.codebook.decode(tokenizer._to_units(codes, config.time_stride)).movedim(-1, 1)
    commitment = F.mse_loss(latents, chosen)
    torch.testing.assert_close(losses["commitment"], commitment.detach(), rtol=1e-4, atol=1e-6)
    torch.testing.assert_close(losses["loss"].item(), (losses["reconstruction"] + 0.25 * commitment).item())


class TwoProcesses:
    """Two threads that act as two processes of torch.distributed."""

    def __init__(self, monkeypatch: pytest.MonkeyPatch) -> None:
        self.local, self.barrier, self.inputs = threading.local(), threading.Barrier(2), {}
        for module in (processes, codebook):
            monkeypatch.setattr(module, "process", lambda: (getattr(self.local, "rank", 0), self.num_processes()))
            monkeypatch.setattr(module, "sum_over_processes", self.sum)

    def num_processes(self) -> int:
        return 2 if hasattr(self.local, "rank") else 1

    def sum(self, values: Tensor) -> Tensor:
        if self.num_processes() == 1:
            return values
        self.inputs[self.local.rank] = values
        self.barrier.wait(20)
        total = self.inputs[0] + self.inputs[1]
        self.barrier.wait(20)
        return total

    def run(self, work: Any) -> list[Any]:
        results: dict[int, Any] = {}

        def one(rank: int) -> None:
            self.local.rank = rank
            results[rank] = work(rank)

        threads = [threading.Thread(target=one, args=(rank,)) for rank in range(2)]
        for thread in threads:
            thread.start()
        for thread in threads:
            thread.join()
        return [results[0], results[1]]


@pytest.mark.parametrize(
    "config",
    [
        frame_config(num_codebooks=2, num_codes=48),
        clip_config(rare_weight=3.0),
        frame_config(num_codes=200),  # more codes than vectors: repeated with noise
    ],
)
def test_two_processes_train_as_one(config: TokenizerConfig, monkeypatch: pytest.MonkeyPatch) -> None:
    frames, valid = random_frames(4, 4, 8, 8), torch.ones(4, 4, dtype=torch.bool)
    valid[0, 1:] = False  # the halves of the batch have different weights
    valid[3, 2] = False
    config = TokenizerConfig(**{**vars(config), "restart_below": 0.9, "codebook_decay": 0.5})

    def trained(rank: int, num_ranks: int) -> tuple[list[dict[str, Tensor]], Tokenizer]:
        tokenizer, rows = models.pop(), slice(rank * 4 // num_ranks, (rank + 1) * 4 // num_ranks)
        figures = []
        for _ in range(3):
            losses = tokenizer.loss(frames[rows], valid[rows])
            losses["loss"].backward()
            figures.append({name: value.detach() for name, value in losses.items()})
        return figures, tokenizer

    def generator() -> torch.Generator:  # each process draws other numbers
        return torch.Generator().manual_seed(getattr(pair.local, "rank", 0))

    pair, randperm = TwoProcesses(monkeypatch), torch.randperm
    with monkeypatch.context() as patch:
        patch.setattr(codebook.torch, "randperm", lambda n, device=None: randperm(n, generator=generator()))
        patch.setattr(codebook.torch, "randn_like", lambda x: torch.randn(x.shape, generator=generator()))
        models = [make_fitted(config, frames) for _ in range(3)]
        whole, one = trained(0, 1)
        (first, left), (second, right) = pair.run(lambda rank: trained(rank, 2))
    assert sum(figures["dead_codes"] for figures in whole) > 0  # some codes restarted
    for a, b, both in zip(first, second, whole, strict=True):
        for name, value in both.items():
            torch.testing.assert_close((a[name] + b[name]) / 2, value, rtol=1e-5, atol=1e-6, msg=name)
    for name, tensor in one.state_dict().items():
        assert torch.equal(left.state_dict()[name], right.state_dict()[name])
        torch.testing.assert_close(left.state_dict()[name], tensor, rtol=1e-5, atol=1e-6)
    for a, b, both in zip(left.parameters(), right.parameters(), one.parameters(), strict=True):
        torch.testing.assert_close((a.grad + b.grad) / 2, both.grad, rtol=1e-3, atol=1e-5)  # type: ignore[operator]


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"time": "frame", "time_stride": 2}, "time='clip'"),
        ({"time": "frame", "space_stride": 2}, "4, 8 or 16"),
        ({"time": "clip", "space_stride": 3}, "power of two"),
        ({"time": "clip", "time_stride": 4, "clip_length": 6}, "multiple of time_stride"),
        ({"time": "clip", "width": 9}, "num_heads"),
        ({"code_dim": 6, "num_codebooks": 4}, "equal slices"),
        ({"time": "later"}, "'frame', 'clip' or 'causal'"),
        ({"rare_weight": 0.0}, "above 0"),
        ({"num_codes": 0}, "num_codes=0: wanted 1 or more"),
        ({"codebook_decay": 1.5}, "codebook_decay=1.5: wanted 0 to 1"),
    ],
)
def test_contradicting_sizes_are_refused(options: dict[str, Any], message: str) -> None:
    with pytest.raises(UserError, match=message):
        TokenizerConfig(**options)


def test_clips_of_another_length_are_refused() -> None:
    tokenizer = make_tokenizer(clip_config(), (8, 8, 3))
    with pytest.raises(UserError, match="clip_length=4"):
        tokenizer.encode(random_frames(1, 6, 8, 8))
    with pytest.raises(UserError, match="multiple of 2"):
        tokenizer.decode(torch.zeros(1, 3, 2, 2, dtype=torch.int64))
    with pytest.raises(UserError, match="wanted"):
        tokenizer.decode(torch.zeros(1, 2, 2, 3, dtype=torch.int64))


def test_the_benchmark_measures_every_tokenizer() -> None:
    rows = bench_tokenizer(size=16, frames=8, seconds=0.01, rounds=1)["rows"]
    assert [row["codes per frame"] for row in rows] == [4, 4, 1, 2, 4]
    assert all(row[f"{kind} frames/s"] > 0 for row in rows for kind in ("encode", "decode", "train"))
    assert rows[0]["encode x baseline"] == 1
