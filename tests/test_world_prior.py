"""Contracts of the factored prior: what it may depend on, its likelihood, its dreams."""

from __future__ import annotations

import dataclasses
import itertools
import math
from dataclasses import replace

import numpy as np
import pytest
import torch

from worldmodel.common import spaces
from worldmodel.common.errors import UserError
from worldmodel.prior import CodeClip, Context, FactoredConfig, FactoredPrior, StatusConfig
from worldmodel.prior.factored.group_order import make_groups
from worldmodel.prior.factored.mixture import UNIFORM_SHARE, Mixture, mixture_log_likelihood, nats_by_place
from worldmodel.prior.sampling import Sampling, uniforms
from worldmodel.prior.targets import make_targets

V, GRID = 6, (2, 3)
VARIANTS: dict[str, dict[str, object]] = {
    "columns": {},
    "raster": {"order": "raster"},
    "frame": {"order": "frame"},
    "two groups": {"order": "groups", "num_groups": 2},
    "uneven groups": {"order": "groups", "num_groups": 3},
    "a mixture of frames": {"order": "frame", "mixture": 3},
    "a mixture of columns": {"mixture": 2},
    "a mixture of groups": {"order": "groups", "num_groups": 3, "mixture": 2},
}
every_variant = pytest.mark.parametrize("sizes", VARIANTS.values(), ids=VARIANTS.keys())
SPACES = [
    spaces.Discrete(3),
    spaces.MultiDiscrete((2, 3)),
    spaces.MultiBinary(3),
    spaces.Box((-1.0, -1.0), (1.0, 1.0)),
]


def make_prior(space: spaces.Space = SPACES[0], **sizes: object) -> FactoredPrior:
    torch.manual_seed(0)
    settings = {
        "window": 2, "width": 16, "num_heads": 2, "trunk_layers": 1, "decoder_layers": 1, "embed_dim": 8,
        "action_dim": 4, "status": StatusConfig("health", (0.5, 1.5)),
    }  # fmt: skip
    prior = FactoredPrior(FactoredConfig(**{**settings, **sizes}), GRID, V, space, end_has_frame=False)  # type: ignore[arg-type]
    with torch.no_grad():  # no zeros: everything that could matter does
        for parameter in prior.parameters():
            parameter.add_(0.2 * torch.randn_like(parameter))
    return prior.eval()


def make_clip(batch: int = 3, length: int = 5, space: spaces.Space = SPACES[0]) -> CodeClip:
    g = torch.Generator().manual_seed(1)
    rng = np.random.default_rng(1)
    actions = np.stack([[space.sample(rng) for _ in range(length - 1)] for _ in range(batch)])
    ends = torch.zeros(batch, length - 1, dtype=torch.bool)
    ends[0, -1] = True
    valid = torch.ones(batch, length, dtype=torch.bool)
    valid[0, -1] = False
    return CodeClip(
        codes=torch.randint(0, V, (batch, length, *GRID), generator=g),
        frame_valid=valid,
        actions=torch.from_numpy(actions),
        rewards=torch.rand(batch, length - 1, generator=g),
        terminations=ends,
        truncations=torch.zeros_like(ends),
        status=torch.randint(0, 3, (batch, length), generator=g),
        weights=torch.ones(batch, length),
    )


def all_predictions(prior: FactoredPrior, clip: CodeClip) -> list[torch.Tensor]:
    """All predictions for a clip, and the log-probabilities of a mixture's components, leading axes (B, T)."""
    targets = prior._make_targets(clip).flatten()
    predictions, component_log_probs = prior._predict(targets, targets.status)
    components = [component_log_probs] if prior.config.mixture > 1 else []
    return [x.unflatten(0, clip.frame_valid.shape) for x in (*vars(predictions).values(), *components)]


@pytest.mark.parametrize(
    ("space", "sizes"),
    [*((space, {}) for space in SPACES), *((SPACES[0], sizes) for sizes in VARIANTS.values())],
    ids=[*(type(space).__name__ for space in SPACES), *VARIANTS],
)
def test_the_future_changes_no_earlier_prediction(space: spaces.Space, sizes: dict[str, object]) -> None:
    prior, clip = make_prior(space, **sizes), make_clip(space=space)
    before = all_predictions(prior, clip)
    cut = 3
    other = make_clip(space=space)
    rolled = {name: value.roll(1, 0) for name, value in vars(other).items()}
    mixed = {}
    for name, value in vars(clip).items():
        begin = cut if value.shape[1] == clip.frame_valid.shape[1] else cut - 1
        mixed[name] = torch.cat([value[:, :begin], rolled[name][:, begin:]], 1)
    after = all_predictions(prior, CodeClip(**mixed))
    for a, b in zip(before, after, strict=True):
        torch.testing.assert_close(a[:, :cut], b[:, :cut])
    # end and status of the step into frame `cut` depend on its action, never on the frame or its outcome
    keep_action = {**mixed, "actions": torch.cat([clip.actions[:, :cut], mixed["actions"][:, cut:]], 1)}
    after = all_predictions(prior, CodeClip(**keep_action))
    torch.testing.assert_close(after[1][:, : cut + 1], before[1][:, : cut + 1])
    torch.testing.assert_close(after[2][:, : cut + 1], before[2][:, : cut + 1])


def test_predictions_depend_on_actions() -> None:
    prior, clip = make_prior(), make_clip()
    other = replace(clip, actions=(clip.actions + 1) % 3)
    for a, b in zip(all_predictions(prior, clip), all_predictions(prior, other), strict=True):
        assert not torch.allclose(a[:, 1:], b[:, 1:])


@every_variant
def test_invalid_frames_have_no_influence(sizes: dict[str, object]) -> None:
    prior, clip = make_prior(**sizes), make_clip(length=6)
    valid = clip.frame_valid.clone()
    valid[1, 2] = valid[2, 0] = False
    clip = replace(clip, frame_valid=valid)
    noise = torch.where(valid[:, :, None, None], clip.codes, (clip.codes + 1) % V)
    status = torch.where(valid, clip.status, (clip.status + 1) % 3)
    noisy = replace(clip, codes=noise, status=status)
    for a, b in zip(all_predictions(prior, clip), all_predictions(prior, noisy), strict=True):
        assert torch.equal(a, b)
    prior.train()
    losses = []
    for c in (clip, noisy):
        torch.manual_seed(5)
        losses.append(prior.loss(c))
    assert all(torch.equal(losses[0][k], losses[1][k]) for k in losses[0])
    assert (prior.log_prob(clip)[~valid] == 0).all()


def test_a_truncated_step_has_no_loss_of_the_end() -> None:
    clip = make_clip()
    both = clip.truncations.clone()
    both[0, -1] = both[1, -1] = True  # row 0: both flags; row 1: truncated only
    targets = make_targets(replace(clip, truncations=both), 2, V, 3)
    assert not targets.has_end[:, 0].any()
    assert targets.has_end[:, 1:-1].all()
    assert targets.has_end[:, -1].tolist() == [False, False, True]
    assert not targets.terminations.any()


ALL_FRAMES = torch.tensor(list(itertools.product(range(3), repeat=4))).unflatten(1, (2, 2))  # 81 frames of 3 codes


def make_tiny_prior(sizes: dict[str, object], spread: float) -> FactoredPrior:
    torch.manual_seed(0)
    config = FactoredConfig(
        **{"window": 2, "width": 16, "num_heads": 2, "trunk_layers": 1, "decoder_layers": 1, "embed_dim": 8, **sizes}  # type: ignore[arg-type]
    )
    prior = FactoredPrior(config, (2, 2), 3, spaces.Discrete(2)).eval()
    for parameter in prior.parameters():
        parameter.data.add_(spread * torch.randn_like(parameter))
    return prior


def log_prob_of_every_frame(prior: FactoredPrior) -> torch.Tensor:
    """Of the 81 possible frames of a tiny prior, after one frame and action 0: (81,)."""
    first = torch.tensor([[[0, 2], [1, 1]]]).expand(81, 1, 2, 2)
    steps = torch.zeros(81, 1)
    clip = CodeClip(
        codes=torch.cat([first, ALL_FRAMES[:, None]], 1),
        frame_valid=torch.ones(81, 2, dtype=torch.bool),
        actions=steps.long(),
        rewards=steps,
        terminations=steps.bool(),
        truncations=steps.bool(),
        status=torch.zeros(81, 2, dtype=torch.int64),
        weights=torch.ones(81, 2),
    )
    return prior.log_prob(clip)[:, 1]


@every_variant
def test_likelihood_sums_to_one_and_frames_are_sampled_with_that_probability(sizes: dict[str, object]) -> None:
    prior, rows = make_tiny_prior(sizes, 0.3), 5000
    probs = log_prob_of_every_frame(prior).exp()
    torch.testing.assert_close(probs.sum(), torch.tensor(1.0), atol=1e-5, rtol=0)
    first = torch.tensor([[[0, 2], [1, 1]]]).expand(rows, 1, 2, 2)
    no_actions = torch.zeros(rows, 0, dtype=torch.int64)
    state = prior.context(
        first, torch.ones(rows, 1, dtype=torch.bool), no_actions, torch.zeros(rows, dtype=torch.int64)
    )
    numbers = uniforms(torch.arange(rows), torch.zeros(rows).long(), torch.zeros(rows).long(), prior.num_uniforms)
    numbers[:, 0] = 0.999999  # no row terminates
    step = prior.step(state, torch.zeros(rows, dtype=torch.int64), numbers, Sampling())
    number = (step.codes.flatten(1) * torch.tensor([27, 9, 3, 1])).sum(1)  # of the frame among the 81
    expected = probs * rows
    distance = ((number.bincount(minlength=81) - expected).square() / expected).sum()
    assert distance < 80 + 5 * (2 * 80) ** 0.5  # chi-square of 80 degrees of freedom
    torch.testing.assert_close(step.log_probs.exp(), probs[number], atol=1e-5, rtol=1e-4)
    joint = prior.step(state, torch.zeros(rows, dtype=torch.int64), numbers, Sampling(exact=False))
    assert torch.equal(joint.codes, step.codes)
    difference = step.log_probs - joint.log_probs
    if prior.config.mixture == 1:
        assert torch.equal(joint.log_probs, step.log_probs)
    else:
        assert difference.min() > 0 < difference.mean() < math.log(prior.config.mixture)
    some = torch.arange(50)
    likeliest = prior.step(state.select(some), some * 0, numbers[:50], Sampling(temperature=0)).codes
    assert torch.equal(likeliest, likeliest[:1].expand_as(likeliest))  # independent of the uniform numbers


@every_variant
def test_a_code_changes_the_logits_of_all_later_groups_and_no_others(sizes: dict[str, object]) -> None:
    prior, clip = make_prior(**sizes), make_clip(batch=1, length=2)
    clip = replace(clip, frame_valid=torch.ones(1, 2, dtype=torch.bool))
    group_of = torch.zeros(GRID, dtype=torch.int64).flatten()
    for number, group in enumerate(make_groups(prior.config.order, GRID, prior.config.num_groups)):
        group_of[group] = number
    logits = all_predictions(prior, clip)[0][0, 1]  # (K, P, V)
    for place in range(len(group_of)):
        codes = clip.codes.clone()
        codes[0, 1].view(-1)[place] = (codes[0, 1].view(-1)[place] + 1) % V
        other = all_predictions(prior, replace(clip, codes=codes))[0][0, 1]
        changed = prior.order.to_grid(((other - logits).abs() > 1e-6).any(2)).flatten(1)  # (K, P)
        assert torch.equal(changed, (group_of > group_of[place]).expand_as(changed))


def test_groups_have_similar_sizes_and_neighbours_are_in_different_groups() -> None:
    for h, w, num, nearest in (
        (4, 8, 2, 2**0.5),
        (4, 8, 4, 2),
        (8, 8, 4, 2),
        (4, 4, 16, 9),
        (5, 5, 4, 1),
        (1, 3, 2, 1),
    ):
        groups = make_groups("groups", (h, w), num)
        assert sorted(itertools.chain.from_iterable(groups)) == list(range(h * w))
        assert len(groups) == num
        assert [len(group) for group in groups] == sorted(len(group) for group in groups)
        assert len(groups[-1]) - len(groups[0]) <= 1
        for a, b in itertools.chain.from_iterable(itertools.combinations(group, 2) for group in groups):
            assert math.dist(divmod(a, w), divmod(b, w)) >= nearest, (h, w, num)
    # the orders of worlds on disk
    assert make_groups("columns", (2, 3), 4) == [[0, 3], [1, 4], [2, 5]]
    assert make_groups("raster", (2, 2), 4) == [[0], [1], [2], [3]]
    assert make_groups("frame", (2, 2), 4) == [[0, 1, 2, 3]]
    assert make_groups("groups", (4, 4), 4) == [[0, 2, 8, 10], [5, 7, 13, 15], [1, 3, 9, 11], [4, 6, 12, 14]]


def test_sizes_out_of_range_are_refused() -> None:
    for sizes, message in (
        ({"order": "groups", "num_groups": 7}, "wanted 1 to 6"),
        ({"mixture": 0}, "mixture=0"),
        ({"window": 0}, "window=0"),
        ({"order": "colums"}, "Did you mean 'columns'"),
        ({"num_heads": -2}, "num_heads=-2: wanted 1 or more"),
        ({"history_loss": 1.5}, "history_loss=1.5: wanted 0 to 1"),
        ({"end_weight": float("nan")}, "end_weight=nan"),
        ({"width": 15}, "multiple of num_heads=2"),
        ({"rare_share": 1.0}, "rare_share=1.0"),
    ):
        with pytest.raises(UserError, match=message):
            make_prior(**sizes)


def test_every_component_of_a_mixture_keeps_a_minimum_probability() -> None:
    mixture = Mixture(4, 8, 2)
    with torch.no_grad():
        mixture.component_head.bias.copy_(torch.tensor([50.0, 0.0, 0.0, 0.0]))
        probs = mixture.log_probs(torch.randn(5, 8), torch.randn(5, 2)).exp()
    torch.testing.assert_close(probs.sum(1), torch.ones(5))
    torch.testing.assert_close(probs[:, 1:], torch.full((5, 3), UNIFORM_SHARE / 4))


def test_nats_by_place_sum_to_the_mixtures_likelihood_and_weights_do_not_bias_it() -> None:
    torch.manual_seed(0)
    component_logits = torch.randn(1, 3, requires_grad=True)
    logits = torch.randn(1, 3, 2, 4, requires_grad=True)  # 3 components, 2 places, 4 codes
    frames = torch.tensor(list(itertools.product(range(4), repeat=2)))  # (16, 2)

    def nats_of_frames() -> tuple[torch.Tensor, torch.Tensor]:
        nats = -logits.log_softmax(-1).expand(16, -1, -1, -1).gather(3, frames[:, None, :, None].expand(-1, 3, -1, 1))
        return component_logits.log_softmax(1).expand(16, -1), nats[..., 0]

    likelihood = mixture_log_likelihood(*nats_of_frames())
    nats, component_nats = nats_by_place(*nats_of_frames())
    torch.testing.assert_close(nats.sum(1) + component_nats, -likelihood)
    wanted = torch.autograd.grad(-likelihood[5], [component_logits, logits])
    nats, component_nats = nats_by_place(*nats_of_frames())
    found = torch.autograd.grad(nats[5].sum() + component_nats[5], [component_logits, logits])
    for a, b in zip(found, wanted, strict=True):
        torch.testing.assert_close(a, b)
    nats, component_nats = nats_by_place(*nats_of_frames())
    probs = likelihood.exp().detach()  # the data has the mixture's own distribution
    assert probs.sum() == pytest.approx(1)
    weighted = (probs * (nats @ torch.tensor([1.0, 4.0]) + component_nats)).sum()
    for gradient in torch.autograd.grad(weighted, [component_logits, logits]):
        assert gradient.abs().max() < 1e-6


def select_rows(state: Context, index: list[int]) -> Context:
    return state.select(torch.tensor(index))


@every_variant
def test_stepping_equals_the_full_forward_and_rows_are_independent(sizes: dict[str, object]) -> None:
    prior, clip = make_prior(**sizes), make_clip(batch=5, length=4)
    clip = replace(
        clip, frame_valid=torch.ones(5, 4, dtype=torch.bool), terminations=torch.zeros(5, 3, dtype=torch.bool)
    )
    state = prior.context(clip.codes[:, :2], clip.frame_valid[:, :2], clip.actions[:, :1], clip.status[:, 1])
    numbers = uniforms(torch.arange(5), torch.zeros(5).long(), torch.zeros(5).long(), prior.num_uniforms)
    numbers[:, 0] = 0.999999  # no row terminates
    out = prior.step(state, clip.actions[:, 1], numbers, Sampling())
    for i in range(5):
        alone = prior.step(select_rows(state, [i]), clip.actions[i : i + 1, 1], numbers[i : i + 1], Sampling())
        assert torch.equal(alone.codes[0], out.codes[i])
        torch.testing.assert_close(alone.log_probs[0], out.log_probs[i], atol=1e-5, rtol=1e-5)
        torch.testing.assert_close(alone.rewards[0], out.rewards[i], atol=1e-5, rtol=1e-5)
    # the full forward of a clip with these codes has the likelihood that the step returned
    codes, status = clip.codes.clone(), clip.status.clone()
    codes[:, 2], status[:, 2] = out.codes, out.status
    full = replace(clip, codes=codes, status=status)
    torch.testing.assert_close(prior.log_prob(full)[:, 2], out.log_probs, atol=1e-4, rtol=1e-5)
    logits = all_predictions(prior, full)
    torch.testing.assert_close(out.hazards, logits[1][:, 2].sigmoid(), atol=1e-5, rtol=1e-5)
    torch.testing.assert_close(out.rewards, prior.heads.unstandardise_rewards(logits[3][:, 2]), atol=1e-5, rtol=1e-5)
    # and the next state is the one that the longer context gives
    longer = prior.context(codes[:, :3], clip.frame_valid[:, :3], clip.actions[:, :2], status[:, 2])
    second = prior.step(out.state, clip.actions[:, 2], numbers, Sampling())
    again = prior.step(longer, clip.actions[:, 2], numbers, Sampling())
    assert torch.equal(second.codes, again.codes)


def test_a_termination_without_a_frame() -> None:
    prior, clip = make_prior(), make_clip()
    state = prior.context(clip.codes[:, :1], clip.frame_valid[:, :1], clip.actions[:, :0], clip.status[:, 0])
    numbers = torch.full((3, prior.num_uniforms), 0.5)
    numbers[:, 0] = 0.0  # all rows terminate
    out = prior.step(state, clip.actions[:, 0], numbers, Sampling())
    assert out.terminations.all()
    assert not out.has_frame.any()
    assert (out.log_probs == 0).all()
    assert (out.state.codes[:, -1] == V).all()


def test_corrupted_histories_leave_the_target_unchanged() -> None:
    clip = make_clip(batch=200, length=6)
    targets = make_targets(clip, 2, V, 3).flatten()
    torch.manual_seed(0)
    noisy = targets.corrupt_history(0.9, V)
    changed = noisy.context.codes != targets.context.codes
    assert changed.any()
    assert not changed[targets.context.codes == V].any()
    dropped = targets.drop_history(0.5, V, 3)
    lost = (dropped.context.codes == V).flatten(2).all(2) & ~(targets.context.codes == V).flatten(2).all(2)  # (N, W)
    assert not lost[:, -1].any()  # the newest frame and its action stay
    assert torch.equal(dropped.context.has_action[:, -1], targets.context.has_action[:, -1])
    assert 0.1 < lost[:, 0].float().mean() < 0.4
    assert (dropped.context.has_action[:, 0][lost[:, 0]] == 0).all()
    assert (dropped.context.status[lost[:, 0]] == 3).all()
    for corrupted in (noisy, dropped):
        assert torch.equal(corrupted.codes, targets.codes)


def test_places_near_rare_codes_have_a_higher_weight() -> None:
    prior = FactoredPrior(
        FactoredConfig(window=2, width=16, num_heads=2, trunk_layers=1, decoder_layers=1, embed_dim=8, rare_share=0.1),
        (3, 4), V, SPACES[0],
    ).eval()  # fmt: skip
    counts = torch.full((3, 4, V), 100.0)
    counts[:, :, 5] = 1  # code 5 is rare at every place, code 2 at one place
    counts[0, 0, 2] = 2
    prior.init_from_codes(torch.randn(V, 4), counts)
    codes = torch.zeros(2, 2, 3, 4, dtype=torch.int64)
    codes[0, 1, 2, 3] = 5
    codes[0, 0] = 5  # older frames do not count
    codes[1, 1, 0, 0] = codes[1, 1, 2, 2] = 2
    blank = torch.zeros(2, 1, dtype=torch.int64)
    context = prior.context(codes, torch.ones(2, 2, dtype=torch.bool), blank, blank[:, 0])
    near = prior.order.to_grid(prior._near_rare_code(context))
    wanted = torch.zeros(2, 3, 4, dtype=torch.bool)
    wanted[0, 1:, 2:] = True
    wanted[1, :2, :2] = True
    assert torch.equal(near, wanted)

    def total(weight: float) -> tuple[float, float]:
        heavy = FactoredPrior(dataclasses.replace(prior.config, rare_weight=weight), (3, 4), V, SPACES[0]).eval()
        heavy.load_state_dict(prior.state_dict())
        clip = replace(make_clip(), codes=torch.full((3, 5, 3, 4), 5))  # rare everywhere
        with torch.no_grad():
            losses = heavy.loss(clip)
        return float(losses["loss"] - losses["codes"]), float(losses["codes"])

    unweighted, weighted = total(1.0), total(3.0)
    assert unweighted[1] == pytest.approx(weighted[1])  # the reported loss of the codes is not weighted
    assert weighted[0] > unweighted[0] + weighted[1]  # 4 of 5 frames have a rare frame before them and count for three


@pytest.mark.parametrize(("order", "mixture"), [("frame", 1), ("raster", 1), ("frame", 8)])
def test_a_mixture_or_raster_order_learns_dependent_places_and_one_group_does_not(order: str, mixture: int) -> None:
    """The next frame has the same code at all four places, one of three, independent of the past."""
    prior = make_tiny_prior({"order": order, "mixture": mixture}, 0.0).train()
    optimiser = torch.optim.Adam(prior.parameters(), lr=1e-2)
    steps, generator = torch.zeros(48, 1), torch.Generator().manual_seed(0)
    for _ in range(80):
        optimiser.zero_grad()
        clip = CodeClip(
            codes=torch.randint(3, (48, 2, 1, 1), generator=generator).expand(-1, -1, 2, 2),
            frame_valid=torch.ones(48, 2, dtype=torch.bool),
            actions=steps.long(),
            rewards=steps,
            terminations=steps.bool(),
            truncations=steps.bool(),
            status=torch.zeros(48, 2, dtype=torch.int64),
            weights=torch.tensor([0.0, 1.0]).expand(48, -1),
        )
        prior.loss(clip)["loss"].backward()
        optimiser.step()
    is_uniform = (ALL_FRAMES[:, :1, :1] == ALL_FRAMES).flatten(1).all(1)
    probs = log_prob_of_every_frame(prior.eval()).exp()[is_uniform]
    if (order, mixture) == ("frame", 1):
        assert probs.sum() < 0.1  # independent places reach at most 1/27
    else:
        assert probs.sum() > 0.9
        assert probs.min() > 0.2
