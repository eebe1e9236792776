"""Small parts of a world, compared with formulas that are written out independently."""

from __future__ import annotations

import numpy as np
import pytest
import torch

from worldmodel.common import spaces
from worldmodel.common.errors import UserError
from worldmodel.prior.conditioning import ActionEncoder, ConditionalLayerNorm, action_features, num_action_features
from worldmodel.prior.heads import OutcomeHeads
from worldmodel.prior.sampling import Sampling, inverse_cdf, philox, uniforms
from worldmodel.tokenizer import Codebook, FrameTokenizer, TokenizerConfig


def test_conditional_layer_norm_equals_the_papers_formula() -> None:
    rng = np.random.default_rng(0)
    x, c = rng.normal(size=(2, 5, 8)).astype(np.float32), rng.normal(size=(2, 3)).astype(np.float32)
    layer = ConditionalLayerNorm(8, 3)
    mean, variance = x.mean(-1, keepdims=True), x.var(-1, keepdims=True)
    normal = (x - mean) / np.sqrt(variance + 1e-5)
    # at the start the condition does nothing and the gain is exactly 1
    plain = layer(torch.from_numpy(x), torch.from_numpy(c)).detach().numpy()
    np.testing.assert_allclose(plain, normal, atol=1e-5)

    g, b = rng.normal(size=8), rng.normal(size=8)
    w = rng.normal(size=(16, 3))
    layer.load_state_dict({"gain": torch.tensor(g), "bias": torch.tensor(b), "affine.weight": torch.tensor(w)})
    wanted = normal * (g + c @ w[:8].T)[:, None] + (b + c @ w[8:].T)[:, None]
    got = layer(torch.from_numpy(x), torch.from_numpy(c)).detach().numpy()
    np.testing.assert_allclose(got, wanted, atol=1e-4)
    assert torch.isfinite(layer(torch.zeros(1, 2, 8), torch.zeros(1, 3))).all()


@pytest.mark.parametrize(
    ("space", "actions", "wanted"),
    [
        (spaces.Discrete(3), [2, 0], [[0, 0, 1], [1, 0, 0]]),
        (spaces.MultiDiscrete((2, 3)), [[1, 0], [0, 2]], [[0, 1, 1, 0, 0], [1, 0, 0, 0, 1]]),
        (spaces.MultiBinary(2), [[1, 0], [0, 0]], [[1, -1], [-1, -1]]),
        (spaces.Box((-2.0, None), (2.0, None)), [[1.0, 0.0], [-2.0, np.e - 1]], [[0.5, 0], [-1, 1]]),
    ],
)
def test_action_features_of_every_space(space: spaces.Space, actions: list, wanted: list) -> None:
    values = torch.tensor(np.asarray(actions, space.dtype))
    np.testing.assert_allclose(action_features(space, values).numpy(), wanted, atol=1e-6)
    assert action_features(space, values).shape[-1] == num_action_features(space)
    encoder = ActionEncoder(space, 4)
    has = torch.tensor([[True, False]])
    out = encoder(values[None], has)
    assert out.shape == (1, 2, 4)
    torch.testing.assert_close(out[0, 1], encoder.no_action)


def test_codebook_updates_equal_the_moving_averages() -> None:
    rng = np.random.default_rng(1)
    book = Codebook(4, 2, decay=0.9, restart_below=0.0).train()
    first = rng.normal(size=(6, 2)).astype(np.float32)
    torch.manual_seed(0)
    pick = torch.randperm(6)[:4].numpy()
    torch.manual_seed(0)
    book(torch.from_numpy(first))
    e, n, m = first[pick].copy(), np.ones(4), first[pick].astype(np.float64)
    batches = [first, rng.normal(size=(9, 2)).astype(np.float32)]
    for i, x in enumerate(batches):
        if i:
            _, codes, commitment, *_ = book(torch.from_numpy(x))
        nearest = ((x[:, None] - e[None]) ** 2).sum(-1).argmin(1)
        if i:
            np.testing.assert_array_equal(codes.numpy(), nearest)
            np.testing.assert_allclose(commitment.item(), ((x - e[nearest]) ** 2).mean(), rtol=1e-5)
        for k in range(4):
            n[k] = 0.9 * n[k] + 0.1 * (nearest == k).sum()
            m[k] = 0.9 * m[k] + 0.1 * x[nearest == k].sum(0)
        e = (m / n[:, None]).astype(np.float32)
    np.testing.assert_allclose(book.embeddings.numpy(), e, rtol=1e-5)
    np.testing.assert_allclose(book.ema_counts.numpy(), n, rtol=1e-5)


def test_a_dead_code_restarts_with_its_averages() -> None:
    book = Codebook(3, 2, restart_below=0.5).train()
    near = torch.randn(50, 2, generator=torch.Generator().manual_seed(0))
    book(near)
    book.embeddings[2] = book.ema_sums[2] = torch.tensor([1e3, 1e3])
    book.ema_counts[2] = 0.501  # falls below at the next step
    book(near)
    assert book.embeddings[2].abs().max() < 10
    assert book.ema_counts[2] == 1
    torch.testing.assert_close(book.ema_sums[2], book.embeddings[2])


def test_a_codebook_has_only_buffers_and_follows_the_seed() -> None:
    x = torch.randn(30, 2)
    states = []
    for _ in range(2):
        torch.manual_seed(3)
        book = Codebook(4, 2).train()
        book(x)
        states.append(book.state_dict())
    assert set(states[0]) == {"embeddings", "ema_counts", "ema_sums", "initialised"}
    assert all(torch.equal(states[0][k], states[1][k]) for k in states[0])
    loaded = Codebook(4, 2).train()
    loaded.load_state_dict(states[0])
    loaded(x + 100)
    assert loaded.embeddings.abs().max() < 50  # a loaded book is not initialised again


@pytest.mark.parametrize(
    ("counter", "key", "wanted"),
    [  # Random123's known answers for philox4x32 with 10 rounds
        ([0] * 4, [0] * 2, [0x6627E8D5, 0xE169C58D, 0xBC57AC4C, 0x9B00DBD8]),
        ([0xFFFFFFFF] * 4, [0xFFFFFFFF] * 2, [0x408F276D, 0x41C83B0E, 0xA20BC7C6, 0x6D5451FD]),
        (
            [0x243F6A88, 0x85A308D3, 0x13198A2E, 0x03707344],
            [0xA4093822, 0x299F31D0],
            [0xD16CFE09, 0x94FDCCEB, 0x5001E420, 0x24126EA1],
        ),
    ],
)
def test_philox_gives_the_known_answers(counter: list[int], key: list[int], wanted: list[int]) -> None:
    c = [torch.tensor([x]) for x in counter]
    k = [torch.tensor([x]) for x in key]
    assert philox((c[0], c[1], c[2], c[3]), (k[0], k[1]))[0].tolist() == wanted


def test_uniform_numbers_do_not_depend_on_the_batch() -> None:
    seeds, episodes, steps = torch.tensor([7, -1, 2**62]), torch.tensor([0, 3, 1]), torch.tensor([5, 0, 9])
    together = uniforms(seeds, episodes, steps, 10)
    for i in range(3):
        alone = uniforms(seeds[i : i + 1], episodes[i : i + 1], steps[i : i + 1], 10)
        assert torch.equal(alone[0], together[i])
    many = uniforms(torch.arange(4000), torch.zeros(4000).long(), torch.zeros(4000).long(), 8)
    assert (many >= 0).all()
    assert (many < 1).all()
    assert abs(many.mean() - 0.5) < 0.01
    assert abs(np.corrcoef(many[:, 0], many[:, 1])[0, 1]) < 0.05


def test_inverse_cdf_samples_the_softmax() -> None:
    logits = torch.tensor([0.0, 1.0, -1.0])
    draws = (torch.arange(30000) + 0.5) / 30000
    share = torch.bincount(inverse_cdf(logits.expand(30000, 3), draws), minlength=3) / 30000
    torch.testing.assert_close(share, logits.softmax(0), atol=1e-4, rtol=0)
    assert Sampling(temperature=0).sample(logits, torch.tensor(0.99)) == 1
    never = inverse_cdf(torch.tensor([-200.0, 0.0]), torch.tensor(0.0))
    assert never == 1  # a draw of exactly 0 takes no impossible category


@pytest.mark.parametrize("shape", [(16, 16, 3), (8, 24, 3)])
def test_invalid_frames_do_not_change_the_loss_of_a_tokenizer(shape: tuple[int, int, int]) -> None:
    torch.manual_seed(0)
    tokenizer = FrameTokenizer(TokenizerConfig(width=8, code_width=8, num_codes=8, code_dim=4), shape)
    frames = torch.randint(0, 256, (2, 3, *shape), dtype=torch.uint8)
    tokenizer.fit_normaliser([frames[0]])
    pixels = frames[0].double().numpy() / 255 - 0.5
    np.testing.assert_allclose(tokenizer.pixel_mean.numpy(), pixels.mean((0, 1, 2)), rtol=1e-5)
    std = np.sqrt(((pixels - pixels.mean((0, 1, 2))) ** 2).mean())
    np.testing.assert_allclose(tokenizer.pixel_std.item(), std, rtol=1e-5)
    valid = torch.tensor([[True, True, False], [True, False, True]])
    losses = []
    for noise in (0, 1):
        tokenizer.load_state_dict(tokenizer.state_dict())
        torch.manual_seed(1)
        altered = torch.where(valid[:, :, None, None, None], frames, (frames + 77 * noise).to(torch.uint8))
        tokenizer.eval()
        losses.append(tokenizer.loss(altered, valid)["loss"].item())
    assert losses[0] == losses[1]
    codes = tokenizer.encode(frames)
    assert codes.shape == (2, 3, shape[0] // 8, shape[1] // 8)
    assert tokenizer.decode(codes).shape == frames.shape
    torch.testing.assert_close(tokenizer.encode(frames[:1, 1:2]), codes[:1, 1:2])  # a frame alone
    with pytest.raises(UserError, match="multiples"):
        FrameTokenizer(TokenizerConfig(), (60, 64, 3))
    with pytest.raises(UserError, match="wanted"):
        tokenizer.encode(frames.float())


def test_calibration_recovers_scale_and_shift_of_the_log_odds() -> None:
    torch.manual_seed(0)
    heads = OutcomeHeads(8, 4, 0, 6)
    truth = torch.randn(40_000) * 2 - 5  # log-odds
    ended = torch.rand(40_000) < truth.sigmoid()
    predicted = truth * 2 + 3  # overconfident and too high
    heads.calibrate(predicted, ended)
    assert heads.end_scale.item() == pytest.approx(0.5, abs=0.05)
    assert heads.end_shift.item() == pytest.approx(-1.5, abs=0.15)
    fitted = (predicted * heads.end_scale + heads.end_shift).sigmoid()
    assert fitted.mean().item() == pytest.approx(ended.float().mean().item(), rel=0.02)
    before = heads.end_logits(torch.ones(1, 8)).item()
    heads.calibrate(predicted * heads.end_scale + heads.end_shift, ended)  # again: nothing is left to fit
    assert heads.end_logits(torch.ones(1, 8)).item() == pytest.approx(before, abs=0.02)
    heads.calibrate(predicted, torch.zeros_like(ended))  # no end to learn from
    assert heads.end_scale.item() == pytest.approx(0.5, abs=0.05)


def shares(sampling: Sampling, logits: torch.Tensor, num: int = 20_000) -> torch.Tensor:
    draws = (torch.arange(num) + 0.5) / num  # every part of [0, 1) alike
    return torch.bincount(sampling.sample(logits.expand(num, -1), draws), minlength=len(logits)) / num


def test_top_k_and_top_p_keep_the_proportions_of_the_likeliest() -> None:
    p = torch.tensor([0.1, 0.4, 0.05, 0.25, 0.2])
    logits = p.log()
    torch.testing.assert_close(shares(Sampling(), logits), p, atol=1e-3, rtol=0)
    hot = p.square() / p.square().sum()
    torch.testing.assert_close(shares(Sampling(temperature=0.5), logits), hot, atol=1e-3, rtol=0)
    two = torch.tensor([0, 0.4, 0, 0.25, 0]) / 0.65
    torch.testing.assert_close(shares(Sampling(top_k=2), logits), two, atol=1e-3, rtol=0)
    three = torch.tensor([0, 0.4, 0, 0.25, 0.2]) / 0.85  # two hold 0.65, too little
    torch.testing.assert_close(shares(Sampling(top_p=0.7), logits), three, atol=1e-3, rtol=0)
    one = torch.tensor([0.0, 1, 0, 0, 0])
    for sampling in (Sampling(temperature=0), Sampling(top_k=1), Sampling(top_p=0.3)):
        torch.testing.assert_close(shares(sampling, logits, 100), one)
    both = Sampling(top_k=3, top_p=0.5)  # of 0.85 the likeliest is 0.47: one more is needed
    torch.testing.assert_close(shares(both, logits), two, atol=1e-3, rtol=0)
    torch.testing.assert_close(shares(Sampling(top_k=9), logits), p, atol=1e-3, rtol=0)
    # nothing of probability 0 is ever drawn, at either end
    edges = torch.tensor([-torch.inf, 0.0, -torch.inf])
    for draw in (0.0, 1 - 2.0**-24):
        assert inverse_cdf(edges, torch.tensor(draw)) == 1
    for wrong in ({"temperature": -1.0}, {"top_k": -1}, {"top_p": 0.0}, {"top_p": 1.1}, {"temperature": float("nan")}):
        with pytest.raises(UserError, match="wanted"):
            Sampling(**wrong)
