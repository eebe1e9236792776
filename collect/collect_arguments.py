"""Parsers of the arguments --mix and --shard of `worldmodel collect`. Cheap to import."""

from __future__ import annotations

from worldmodel.common.errors import UserError


def parse_mix(mix: str) -> dict[str, float]:
    """'random=0.2,periodic=0.3' -> {"random": 0.2, "periodic": 0.3}.

    Raises:
        UserError: a part that is not NAME=SHARE, a share outside (0, 1], or shares that sum to more than 1.
    """
    shares: dict[str, float] = {}
    for part in filter(None, (p.strip() for p in mix.split(","))):
        name, _, share = part.rpartition("=")
        try:
            value = float(share)
        except ValueError:
            value = -1.0
        if not name or not 0 < value <= 1:
            raise UserError(f"mix {part!r}: wanted NAME=SHARE with a share between 0 and 1, as random=0.2.")
        if name in shares:
            raise UserError(f"mix names {name!r} twice.")
        shares[name] = value
    if sum(shares.values()) > 1 + 1e-9:
        raise UserError(f"mix {mix!r}: the shares sum to {sum(shares.values()):.3g}, more than 1.")
    return shares


def parse_shard(shard: str, environment: dict[str, str]) -> tuple[int, int]:
    """'i/n' -> (i, n). An empty text takes RANK and WORLD_SIZE, else (0, 1).

    Raises:
        UserError: not of the form i/n, or i outside 0..n-1.
    """
    text = shard or f"{environment.get('RANK', '0')}/{environment.get('WORLD_SIZE', '1')}"
    i, _, n = text.partition("/")
    if not (i.isdigit() and n.isdigit() and int(i) < int(n)):
        raise UserError(f"shard {text!r}: wanted i/n with 0 <= i < n, as 0/4.")
    return int(i), int(n)
