"""The factored prior's contracts: what it may see, what its likelihood is, what a dream depends on."""

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
from worldmodel.prior.factored.group_order import groups_of
from worldmodel.prior.factored.mixture import FLOOR, Mixture, log_likelihood, shared_nats
from worldmodel.prior.sampling import Sampling, uniforms
from worldmodel.prior.targets import cut_targets

V, GRID = 6, (2, 3)
WAYS: dict[str, dict[str, object]] = {  # of writing a frame
    "columns": {},
    "raster": {"order": "raster"},
    "frame": {"order": "frame"},
    "two groups": {"order": "groups", "num_groups": 2},
    "uneven groups": {"order": "groups", "num_groups": 3},
    "a mixture of frames": {"order": "frame", "mixture": 3},
    "a mixture of columns": {"mixture": 2},
    "a mixture of groups": {"order": "groups", "num_groups": 3, "mixture": 2},
}
every_way = pytest.mark.parametrize("way", WAYS.values(), ids=WAYS.keys())
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


def everything(prior: FactoredPrior, clip: CodeClip) -> list[torch.Tensor]:
    """All logits of a clip, and a mixture's chances, leading axes (B, T)."""
    targets = prior._targets(clip).flat()
    said, log_chances = prior._forward(targets, targets.status)
    chances = [log_chances] if prior.config.mixture > 1 else []
    return [x.unflatten(0, clip.frame_valid.shape) for x in (*vars(said).values(), *chances)]


@pytest.mark.parametrize(
    ("space", "way"),
    [*((space, {}) for space in SPACES), *((SPACES[0], way) for way in WAYS.values())],
    ids=[*(type(space).__name__ for space in SPACES), *WAYS],
)
def test_future_changes_no_earlier_logit(space: spaces.Space, way: dict[str, object]) -> None:
    prior, clip = make_prior(space, **way), make_clip(space=space)
    before = everything(prior, clip)
    cut = 3
    other = make_clip(space=space)
    rolled = {name: value.roll(1, 0) for name, value in vars(other).items()}
    mixed = {}
    for name, value in vars(clip).items():
        begin = cut if value.shape[1] == clip.frame_valid.shape[1] else cut - 1
        mixed[name] = torch.cat([value[:, :begin], rolled[name][:, begin:]], 1)
    after = everything(prior, CodeClip(**mixed))
    for a, b in zip(before, after, strict=True):
        torch.testing.assert_close(a[:, :cut], b[:, :cut])
    # end and status of the step into frame `cut` look at its action, never at the frame or its outcome
    keep_action = {**mixed, "actions": torch.cat([clip.actions[:, :cut], mixed["actions"][:, cut:]], 1)}
    after = everything(prior, CodeClip(**keep_action))
    torch.testing.assert_close(after[1][:, : cut + 1], before[1][:, : cut + 1])
    torch.testing.assert_close(after[2][:, : cut + 1], before[2][:, : cut + 1])


def test_actions_matter() -> None:
    prior, clip = make_prior(), make_clip()
    other = replace(clip, actions=(clip.actions + 1) % 3)
    for a, b in zip(everything(prior, clip), everything(prior, other), strict=True):
        assert not torch.allclose(a[:, 1:], b[:, 1:])


@every_way
def test_missing_frames_are_seen_by_no_one(way: dict[str, object]) -> None:
    prior, clip = make_prior(**way), make_clip(length=6)
    valid = clip.frame_valid.clone()
    valid[1, 2] = valid[2, 0] = False
    clip = replace(clip, frame_valid=valid)
    noise = torch.where(valid[:, :, None, None], clip.codes, (clip.codes + 1) % V)
    status = torch.where(valid, clip.status, (clip.status + 1) % 3)
    noisy = replace(clip, codes=noise, status=status)
    for a, b in zip(everything(prior, clip), everything(prior, noisy), strict=True):
        assert torch.equal(a, b)
    prior.train()
    losses = []
    for c in (clip, noisy):
        torch.manual_seed(5)
        losses.append(prior.loss(c))
    assert all(torch.equal(losses[0][k], losses[1][k]) for k in losses[0])
    assert (prior.log_prob(clip)[~valid] == 0).all()


def test_a_cut_off_step_teaches_nothing_about_the_end() -> None:
    clip = make_clip()
    both = clip.truncations.clone()
    both[0, -1] = both[1, -1] = True  # row 0: both flags; row 1: our limit alone
    targets = cut_targets(replace(clip, truncations=both), 2, V, 3)
    assert not targets.has_end[:, 0].any()
    assert targets.has_end[:, 1:-1].all()
    assert targets.has_end[:, -1].tolist() == [False, False, True]
    assert not targets.terminations.any()


EVERY = torch.tensor(list(itertools.product(range(3), repeat=4))).unflatten(1, (2, 2))  # 81 frames of 3 codes


def tiny(way: dict[str, object], spread: float) -> FactoredPrior:
    torch.manual_seed(0)
    config = FactoredConfig(
        **{"window": 2, "width": 16, "num_heads": 2, "trunk_layers": 1, "decoder_layers": 1, "embed_dim": 8, **way}  # type: ignore[arg-type]
    )
    prior = FactoredPrior(config, (2, 2), 3, spaces.Discrete(2)).eval()
    for parameter in prior.parameters():
        parameter.data.add_(spread * torch.randn_like(parameter))
    return prior


def log_prob_of_every_frame(prior: FactoredPrior) -> torch.Tensor:
    """Of the 81 frames that a tiny prior knows, after a frame and action 0: (81,)."""
    first = torch.tensor([[[0, 2], [1, 1]]]).expand(81, 1, 2, 2)
    steps = torch.zeros(81, 1)
    clip = CodeClip(
        codes=torch.cat([first, EVERY[:, None]], 1),
        frame_valid=torch.ones(81, 2, dtype=torch.bool),
        actions=steps.long(),
        rewards=steps,
        terminations=steps.bool(),
        truncations=steps.bool(),
        status=torch.zeros(81, 2, dtype=torch.int64),
        weights=torch.ones(81, 2),
    )
    return prior.log_prob(clip)[:, 1]


@every_way
def test_every_ways_likelihood_sums_to_one_and_frames_are_drawn_as_often_as_it_says(way: dict[str, object]) -> None:
    prior, rows = tiny(way, 0.3), 5000
    chances = log_prob_of_every_frame(prior).exp()
    torch.testing.assert_close(chances.sum(), torch.tensor(1.0), atol=1e-5, rtol=0)
    first = torch.tensor([[[0, 2], [1, 1]]]).expand(rows, 1, 2, 2)
    nothing = torch.zeros(rows, 0, dtype=torch.int64)
    state = prior.context(first, torch.ones(rows, 1, dtype=torch.bool), nothing, torch.zeros(rows, dtype=torch.int64))
    draws = uniforms(torch.arange(rows), torch.zeros(rows).long(), torch.zeros(rows).long(), prior.num_draws)
    draws[:, 0] = 0.999999  # nobody ends
    step = prior.step(state, torch.zeros(rows, dtype=torch.int64), draws, Sampling())
    number = (step.codes.flatten(1) * torch.tensor([27, 9, 3, 1])).sum(1)  # of the frame among the 81
    expected = chances * rows
    distance = ((number.bincount(minlength=81) - expected).square() / expected).sum()
    assert distance < 80 + 5 * (2 * 80) ** 0.5  # chi-square of 80 degrees of freedom
    torch.testing.assert_close(step.log_probs.exp(), chances[number], atol=1e-5, rtol=1e-4)
    quick = prior.step(state, torch.zeros(rows, dtype=torch.int64), draws, Sampling(exact=False))
    assert torch.equal(quick.codes, step.codes)
    missed = step.log_probs - quick.log_probs
    if prior.config.mixture == 1:
        assert torch.equal(quick.log_probs, step.log_probs)
    else:
        assert missed.min() > 0 < missed.mean() < math.log(prior.config.mixture)
    some = torch.arange(50)
    likeliest = prior.step(state.select(some), some * 0, draws[:50], Sampling(temperature=0)).codes
    assert torch.equal(likeliest, likeliest[:1].expand_as(likeliest))  # no draw matters


@every_way
def test_a_code_is_seen_by_all_later_groups_and_by_no_other(way: dict[str, object]) -> None:
    prior, clip = make_prior(**way), make_clip(batch=1, length=2)
    clip = replace(clip, frame_valid=torch.ones(1, 2, dtype=torch.bool))
    group_of = torch.zeros(GRID, dtype=torch.int64).flatten()
    for number, group in enumerate(groups_of(prior.config.order, GRID, prior.config.num_groups)):
        group_of[group] = number
    said = everything(prior, clip)[0][0, 1]  # (K, P, V)
    for place in range(len(group_of)):
        codes = clip.codes.clone()
        codes[0, 1].view(-1)[place] = (codes[0, 1].view(-1)[place] + 1) % V
        other = everything(prior, replace(clip, codes=codes))[0][0, 1]
        changed = prior.order.to_grid(((other - said).abs() > 1e-6).any(2)).flatten(1)  # (K, P)
        assert torch.equal(changed, (group_of > group_of[place]).expand_as(changed))


def test_groups_are_like_in_size_and_neighbours_are_in_different_ones() -> None:
    for h, w, num, nearest in (
        (4, 8, 2, 2**0.5),
        (4, 8, 4, 2),
        (8, 8, 4, 2),
        (4, 4, 16, 9),
        (5, 5, 4, 1),
        (1, 3, 2, 1),
    ):
        groups = groups_of("groups", (h, w), num)
        assert sorted(itertools.chain.from_iterable(groups)) == list(range(h * w))
        assert len(groups) == num
        assert [len(group) for group in groups] == sorted(len(group) for group in groups)
        assert len(groups[-1]) - len(groups[0]) <= 1
        for a, b in itertools.chain.from_iterable(itertools.combinations(group, 2) for group in groups):
            assert math.dist(divmod(a, w), divmod(b, w)) >= nearest, (h, w, num)
    # what worlds on disk were trained with
    assert groups_of("columns", (2, 3), 4) == [[0, 3], [1, 4], [2, 5]]
    assert groups_of("raster", (2, 2), 4) == [[0], [1], [2], [3]]
    assert groups_of("frame", (2, 2), 4) == [[0, 1, 2, 3]]
    assert groups_of("groups", (4, 4), 4) == [[0, 2, 8, 10], [5, 7, 13, 15], [1, 3, 9, 11], [4, 6, 12, 14]]


def test_sizes_that_make_no_sense_are_refused() -> None:
    for wrong, words in (
        ({"order": "groups", "num_groups": 7}, "wanted 1 to 6"),
        ({"mixture": 0}, "mixture=0"),
        ({"window": 0}, "window=0"),
    ):
        with pytest.raises(UserError, match=words):
            make_prior(**wrong)


def test_no_component_of_a_mixture_is_ever_given_up() -> None:
    mixture = Mixture(4, 8, 2)
    with torch.no_grad():
        mixture.chances.bias.copy_(torch.tensor([50.0, 0.0, 0.0, 0.0]))
        chances = mixture.log_chances(torch.randn(5, 8), torch.randn(5, 2)).exp()
    torch.testing.assert_close(chances.sum(1), torch.ones(5))
    torch.testing.assert_close(chances[:, 1:], torch.full((5, 3), FLOOR / 4))


def test_a_mixtures_shared_nats_are_its_likelihood_and_bend_no_probability_where_places_are_weighted() -> None:
    torch.manual_seed(0)
    chances = torch.randn(1, 3, requires_grad=True)
    logits = torch.randn(1, 3, 2, 4, requires_grad=True)  # 3 components, 2 places, 4 codes
    frames = torch.tensor(list(itertools.product(range(4), repeat=2)))  # (16, 2)

    def said() -> tuple[torch.Tensor, torch.Tensor]:
        nats = -logits.log_softmax(-1).expand(16, -1, -1, -1).gather(3, frames[:, None, :, None].expand(-1, 3, -1, 1))
        return chances.log_softmax(1).expand(16, -1), nats[..., 0]

    likelihood = log_likelihood(*said())
    nats, choice = shared_nats(*said())
    torch.testing.assert_close(nats.sum(1) + choice, -likelihood)
    wanted = torch.autograd.grad(-likelihood[5], [chances, logits])
    nats, choice = shared_nats(*said())
    found = torch.autograd.grad(nats[5].sum() + choice[5], [chances, logits])
    for a, b in zip(found, wanted, strict=True):
        torch.testing.assert_close(a, b)
    nats, choice = shared_nats(*said())
    truth = likelihood.exp().detach()  # the frames come as often as the mixture says
    assert truth.sum() == pytest.approx(1)
    weighted = (truth * (nats @ torch.tensor([1.0, 4.0]) + choice)).sum()
    for slope in torch.autograd.grad(weighted, [chances, logits]):
        assert slope.abs().max() < 1e-6


def rows_of(state: Context, index: list[int]) -> Context:
    return state.select(torch.tensor(index))


@every_way
def test_stepping_is_the_full_forward_and_rows_are_independent(way: dict[str, object]) -> None:
    prior, clip = make_prior(**way), make_clip(batch=5, length=4)
    clip = replace(
        clip, frame_valid=torch.ones(5, 4, dtype=torch.bool), terminations=torch.zeros(5, 3, dtype=torch.bool)
    )
    state = prior.context(clip.codes[:, :2], clip.frame_valid[:, :2], clip.actions[:, :1], clip.status[:, 1])
    draws = uniforms(torch.arange(5), torch.zeros(5).long(), torch.zeros(5).long(), prior.num_draws)
    draws[:, 0] = 0.999999  # nobody ends
    out = prior.step(state, clip.actions[:, 1], draws, Sampling())
    for i in range(5):
        alone = prior.step(rows_of(state, [i]), clip.actions[i : i + 1, 1], draws[i : i + 1], Sampling())
        assert torch.equal(alone.codes[0], out.codes[i])
        torch.testing.assert_close(alone.log_probs[0], out.log_probs[i], atol=1e-5, rtol=1e-5)
        torch.testing.assert_close(alone.rewards[0], out.rewards[i], atol=1e-5, rtol=1e-5)
    # the same codes under the full forward of a clip have the likelihood that the step reported
    codes, status = clip.codes.clone(), clip.status.clone()
    codes[:, 2], status[:, 2] = out.codes, out.status
    full = replace(clip, codes=codes, status=status)
    torch.testing.assert_close(prior.log_prob(full)[:, 2], out.log_probs, atol=1e-4, rtol=1e-5)
    logits = everything(prior, full)
    torch.testing.assert_close(out.hazards, logits[1][:, 2].sigmoid(), atol=1e-5, rtol=1e-5)
    torch.testing.assert_close(out.rewards, prior.heads.unscale(logits[3][:, 2]), atol=1e-5, rtol=1e-5)
    # and the next state is the one that the longer context gives
    longer = prior.context(codes[:, :3], clip.frame_valid[:, :3], clip.actions[:, :2], status[:, 2])
    second = prior.step(out.state, clip.actions[:, 2], draws, Sampling())
    again = prior.step(longer, clip.actions[:, 2], draws, Sampling())
    assert torch.equal(second.codes, again.codes)


def test_an_end_without_picture() -> None:
    prior, clip = make_prior(), make_clip()
    state = prior.context(clip.codes[:, :1], clip.frame_valid[:, :1], clip.actions[:, :0], clip.status[:, 0])
    draws = torch.full((3, prior.num_draws), 0.5)
    draws[:, 0] = 0.0  # all end
    out = prior.step(state, clip.actions[:, 0], draws, Sampling())
    assert out.terminations.all()
    assert not out.has_frame.any()
    assert (out.log_probs == 0).all()
    assert (out.state.codes[:, -1] == V).all()


def test_spoilt_histories_spare_the_target() -> None:
    clip = make_clip(batch=200, length=6)
    flat = cut_targets(clip, 2, V, 3).flat()
    torch.manual_seed(0)
    noisy = flat.noisy(0.9, V)
    changed = noisy.state.codes != flat.state.codes
    assert changed.any()
    assert not changed[flat.state.codes == V].any()
    forgetful = flat.forgetful(0.5, V, 3)
    lost = (forgetful.state.codes == V).flatten(2).all(2) & ~(flat.state.codes == V).flatten(2).all(2)  # (N, W)
    assert not lost[:, -1].any()  # the newest frame and the action now taken stay
    assert torch.equal(forgetful.state.has_action[:, -1], flat.state.has_action[:, -1])
    assert 0.1 < lost[:, 0].float().mean() < 0.4
    assert (forgetful.state.has_action[:, 0][lost[:, 0]] == 0).all()
    assert (forgetful.state.status[lost[:, 0]] == 3).all()
    for spoilt in (noisy, forgetful):
        assert torch.equal(spoilt.codes, flat.codes)


def test_what_is_near_something_rare_counts_more() -> None:
    prior = FactoredPrior(
        FactoredConfig(window=2, width=16, num_heads=2, trunk_layers=1, decoder_layers=1, embed_dim=8, rare_share=0.1),
        (3, 4), V, SPACES[0],
    ).eval()  # fmt: skip
    counts = torch.full((3, 4, V), 100.0)
    counts[:, :, 5] = 1  # one code is rare everywhere, another in one place alone
    counts[0, 0, 2] = 2
    prior.init_from_codes(torch.randn(V, 4), counts)
    codes = torch.zeros(2, 2, 3, 4, dtype=torch.int64)
    codes[0, 1, 2, 3] = 5
    codes[0, 0] = 5  # an older frame is not looked at
    codes[1, 1, 0, 0] = codes[1, 1, 2, 2] = 2
    blank = torch.zeros(2, 1, dtype=torch.int64)
    context = prior.context(codes, torch.ones(2, 2, dtype=torch.bool), blank, blank[:, 0])
    near = prior.order.to_grid(prior._near_rare(context))
    wanted = torch.zeros(2, 3, 4, dtype=torch.bool)
    wanted[0, 1:, 2:] = True
    wanted[1, :2, :2] = True
    assert torch.equal(near, wanted)

    def total(weight: float) -> tuple[float, float]:
        heavy = FactoredPrior(dataclasses.replace(prior.config, rare_weight=weight), (3, 4), V, SPACES[0]).eval()
        heavy.load_state_dict(prior.state_dict())
        clip = replace(make_clip(), codes=torch.full((3, 5, 3, 4), 5))  # rare throughout
        with torch.no_grad():
            losses = heavy.loss(clip)
        return float(losses["loss"] - losses["codes"]), float(losses["codes"])

    plain, heavy = total(1.0), total(3.0)
    assert plain[1] == pytest.approx(heavy[1])  # what is told is not weighted
    assert heavy[0] > plain[0] + heavy[1]  # 4 of 5 frames have a rare frame before them and count for three


@pytest.mark.parametrize(("order", "mixture"), [("frame", 1), ("raster", 1), ("frame", 8)])
def test_what_goes_one_of_three_ways_is_learned_whole_or_torn(order: str, mixture: int) -> None:
    """The next frame shows one code in all four places, and the past does not say which of three."""
    prior = tiny({"order": order, "mixture": mixture}, 0.0).train()
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
    whole = (EVERY[:, :1, :1] == EVERY).flatten(1).all(1)
    chances = log_prob_of_every_frame(prior.eval()).exp()[whole]
    if (order, mixture) == ("frame", 1):
        assert chances.sum() < 0.1  # 1 in 27 is the best that independent places can do
    else:
        assert chances.sum() > 0.9
        assert chances.min() > 0.2
