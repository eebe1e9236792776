"""Drawing a frame's codes: one position after the other, or several ahead of those that are settled.

The code at a position is a function of the codes before it and of that position's own uniform number. So codes that
are not yet drawn may be guessed: a pass computes P positions from the first unsettled one on, each given the guess of
the code before it, and draws each with its own number. The first is right. Each next is right if the guess that it
was given is what was drawn there; from the first wrong guess on, what was drawn is the next pass's guess. The frame
that comes out is the one that is drawn position by position, to rounding, in fewer passes: the cache is read once a
pass (fixed-point iteration, Wiggers and Hoogeboom 2020, "Predictive sampling with forecasting autoregressive models").
The first guess is what the frame before showed.

Each row goes ahead as far as its own guesses hold. A row that is done computes its last P positions again, from the
same numbers, until all are: what a row draws and remembers depends on no other.

Shapes: B rows, P positions of a pass, S positions a frame, K = S-1 codes, N positions in the cache, L layers, G heads
of keys and values, each asked by R heads, d numbers a head, D width, C condition, V codes in the book.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, cast

import torch
import torch.nn.functional as F
from torch import Tensor

from worldmodel.prior.sampling import Sampling
from worldmodel.prior.writing import LayerWriter, Normal, Place, read_weights, turns_of_group

if TYPE_CHECKING:
    from worldmodel.prior.attention import FrameBlock
    from worldmodel.prior.raster import RasterNetwork

STRETCH = 16  # positions for which the part of the cache that is read stays the same
Drawn = tuple[Tensor, Tensor, Tensor]  # codes (B, K) int64, their log-probability (B,), z (B, D)


class Frame:
    """What the passes over one frame share.

    Args:
        network: whose frame.
        keys: (B, G, L, d, N) float32; the frame's own are written into the last S.
        values: (B, G, L, N, d) float32, likewise.
        seen: (B, n) bool, which of the n frames before are seen.
        given: (B, S, D), what positions are given beside their codes.
        times: (B,) int64.
        condition: (B, C).
        positions: P.
    """

    def __init__(
        self,
        network: RasterNetwork,
        keys: Tensor,
        values: Tensor,
        seen: Tensor,
        given: Tensor,
        times: Tensor,
        condition: Tensor,
        positions: int,
    ) -> None:
        device, blocks = keys.device, cast("list[FrameBlock]", list(network.blocks))
        autocast = torch.is_autocast_enabled(device.type)
        dtype = torch.get_autocast_dtype(device.type) if autocast else torch.float32
        self.rows, self.groups, self.size, self.positions = len(times), keys.shape[1], network.size, positions
        self.asking = blocks[0].num_heads // self.groups
        self.past = keys.shape[4] - self.size
        self.network, self.given, self.device = network, given, device
        self.turns = None
        if network.rotary is not None:
            self.turns = turns_of_group(network.rotary.turns(times[:, None]), self.asking)  # (B, S, 1, R+1, E)
        self.layers = [
            LayerWriter(
                block, condition, keys[:, :, i], values[:, :, i], self.size, positions, self.turns is not None, dtype
            )
            for i, block in enumerate(blocks)
        ]
        self.norm = Normal(network.norm, condition, positions, dtype)
        bias, self.weight = read_weights(network.logits, self.rows * positions, dtype)
        self.biases = bias + network.prejudice.to(dtype)  # (K, V)
        visible = F.pad(seen.repeat_interleave(self.size, 1), (0, self.size))  # (B, N), none of its own yet
        self.mask = torch.zeros(visible.shape, device=device).masked_fill_(~visible, -torch.inf)

    def reach(self, end: int) -> None:
        """Read the cache's first positions, so many, from now on."""
        for layer in self.layers:
            layer.reach(end)

    def compute(self, x: Tensor, place: Place) -> Tensor:
        """A pass of all layers: (B, P, D), changed in place, -> (B*P, D)."""
        for layer in self.layers:
            layer(x, place)
        return self.norm(x)


def draw_in_turn(frame: Frame, guess: Tensor, draws: Tensor, sampling: Sampling) -> Drawn:
    """Draw one position after the other: every row is at the same one, and nothing is asked of the device.

    Args:
        frame: to be drawn, P = 1.
        guess: not looked at.
        draws: (B, K) float32 in [0, 1).
        sampling: how the codes are drawn.
    """
    past, size, network = frame.past, frame.size, frame.network
    given, numbers = frame.given[:, :, None].unbind(1), draws.unbind(1)  # S of (B, 1, D), K of (B,)
    turns = [None] * size if frame.turns is None else frame.turns[:, :, None].unbind(1)
    mask = frame.mask.repeat_interleave(frame.groups, 0)[:, None]  # (B*G, 1, N)
    places, codes = mask[..., past:].unbind(2), []
    said = frame.weight.new_empty(size - 1, frame.rows, network.num_codes)
    x = network.start + given[0]
    for n in range(size):
        if n % STRETCH == 0:
            end = past + min(n + STRETCH, size)
            near = mask[..., :end]
            frame.reach(end)
        places[n].zero_()
        z = frame.compute(x, Place(n, near, turns[n]))
        if n < size - 1:
            torch.addmm(frame.biases[n], z, frame.weight, out=said[n])
            codes.append(sampling.draw(said[n].float(), numbers[n]))
            torch.add(network.embed(codes[-1])[:, None], given[n + 1], out=x)
    drawn = torch.stack(codes, 1)  # (B, K)
    nats = said.float().log_softmax(-1).gather(2, drawn.t()[..., None]).sum((0, 2))
    return drawn, nats, z.float()


def draw_ahead(frame: Frame, guess: Tensor, draws: Tensor, sampling: Sampling) -> Drawn:
    """Draw P positions at a time, as many of which are settled as their guesses were right.

    Args:
        frame: to be drawn.
        guess: (B, K) int64 in [0, V], codes that are likely.
        draws: (B, K) float32 in [0, 1).
        sampling: how the codes are drawn.
    """
    past, size, network, count = frame.past, frame.size, frame.network, frame.positions
    rows = torch.arange(frame.rows, device=frame.device)[:, None]
    table = torch.cat([network.embed.weight, network.start[None]])
    begin = torch.full_like(guess[:, :1], len(table) - 1)
    codes = torch.cat([begin, guess, begin], 1)  # (B, S+1): what position n is given; behind the last stands nothing
    numbers, biases = F.pad(draws, (0, 1)), F.pad(frame.biases, (0, 0, 0, 1))
    nats = draws.new_zeros(frame.rows, size)
    order, span = torch.arange(size, device=frame.device), torch.arange(count, device=frame.device)
    mask = frame.mask[:, None].repeat(1, count, 1)  # (B, P, N)
    settled = torch.zeros_like(rows)  # (B, 1), how many positions are
    done = False
    while not done:
        at = settled.clamp_max(size - count) + span  # (B, P)
        mask[..., past:] = torch.where(order <= at[..., None], 0.0, -torch.inf)
        per_head = mask[:, None, :, None].expand(-1, frame.groups, -1, frame.asking, -1).flatten(0, 1).flatten(1, 2)
        place = Place(at, per_head, None if frame.turns is None else frame.turns[rows, at])
        x = table[codes.gather(1, at)] + frame.given[rows, at]  # (B, P, D)
        z = frame.compute(x, place)
        said = torch.mm(z, frame.weight).unflatten(0, (-1, count)).add_(biases[at]).float()  # (B, P, V)
        held = codes.gather(1, at + 1)
        drawn = torch.where((at >= settled) & (at < size - 1), sampling.draw(said, numbers.gather(1, at)), held)
        wrong = torch.where(drawn != held, at, at[:, -1:]).amin(1, keepdim=True)
        codes.scatter_(1, at + 1, drawn)
        chosen = drawn.clamp_max(network.num_codes - 1)[..., None]
        nats.scatter_(1, at, said.log_softmax(-1).gather(2, chosen)[..., 0])
        settled = torch.maximum(settled, wrong + 1)
        done = bool((settled >= size).all())
    return codes[:, 1:-1], nats[:, :-1].sum(1), z.unflatten(0, (-1, count))[:, -1].float()
