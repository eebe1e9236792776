"""What a file says of all its episodes."""

from __future__ import annotations

import dataclasses
import json
from dataclasses import dataclass, field
from typing import Any

import numpy as np

from worldmodel.common import spaces
from worldmodel.common.errors import UserError
from worldmodel.common.pixels import PixelSpec
from worldmodel.data.episode import MAX_SEED, Episode

HEADER_VERSION = 1

# The fields that make two files tell of the same world; the rest say who played, when and where.
ENV_FIELDS = (
    "env",
    "env_kwargs",
    "pixels",
    "action_space",
    "action_labels",
    "frame_skip",
    "max_steps",
    "variables",
)

# Labels: one name a choice, or one tuple of names for each of several choices.
Labels = tuple[str, ...] | tuple[tuple[str, ...], ...]


def canonical_json(value: Any) -> str:
    """The one text of a JSON value: ASCII, keys sorted, no spaces, no NaN.

    Raises:
        UserError: the value is not JSON.
    """
    try:
        return json.dumps(value, sort_keys=True, separators=(",", ":"), ensure_ascii=True, allow_nan=False)
    except (TypeError, ValueError) as error:
        raise UserError(
            f"{value!r} cannot be stored as JSON ({error}); use numbers, strings, lists and dicts."
        ) from error


@dataclass(frozen=True)
class PolicyRecord:
    """A policy that played some of the episodes.

    Attributes:
        name: what `Episode.policy` calls it.
        hash: a fingerprint of its weights and settings; "" where there is nothing to hash.
        params: its settings, JSON.
        share: the planned share of episodes, 0 .. 1.
    """

    name: str
    hash: str = ""
    params: dict[str, Any] = field(default_factory=dict)
    share: float = 1.0

    def __post_init__(self) -> None:
        if not self.name:
            raise UserError("a policy has an empty name; give it one.")
        if not 0 <= self.share <= 1:
            raise UserError(f"policy {self.name!r}: share={self.share}; wanted 0 .. 1.")
        object.__setattr__(self, "params", json.loads(canonical_json(self.params)))
        object.__setattr__(self, "share", float(self.share))

    def to_json(self) -> dict[str, Any]:
        """{"name", "hash", "params", "share"}."""
        return dataclasses.asdict(self)


@dataclass(frozen=True, kw_only=True)
class Header:
    """Everything that the episodes of a file have in common.

    Attributes:
        env: the environment's gymnasium id.
        env_kwargs: what it was made with, JSON.
        pixels: how its screen became frames.
        action_space: one of the four kinds of `worldmodel.common.spaces`.
        action_labels: a name for each action, or a tuple of names for each of several choices; may be empty.
        frame_skip: the environment's own ticks a step, >= 1.
        max_steps: steps after which an episode was truncated; None for no limit.
        variables: names of the episodes' variables.
        policies: who played.
        seed: of the recording; with an episode's index it gives the split.
        shard: (i, n): this file holds the planned indices e with e mod n = i.
        num_episodes: planned episodes of all shards together.
        code_version: of the code that recorded.

    Raises:
        UserError: a field does not hold what it should.
    """

    env: str
    pixels: PixelSpec
    action_space: spaces.Space
    seed: int
    num_episodes: int
    policies: tuple[PolicyRecord, ...]
    env_kwargs: dict[str, Any] = field(default_factory=dict)
    action_labels: Labels = ()
    frame_skip: int = 1
    max_steps: int | None = None
    variables: tuple[str, ...] = ()
    shard: tuple[int, int] = (0, 1)
    code_version: str = ""

    def __post_init__(self) -> None:
        def fail(problem: str) -> UserError:
            return UserError(f"header of {self.env!r}: {problem}")

        object.__setattr__(self, "env_kwargs", json.loads(canonical_json(self.env_kwargs)))
        for name in ("action_labels", "variables", "policies", "shard"):
            object.__setattr__(self, name, _tuples(getattr(self, name)))
        if not self.env or not isinstance(self.env, str):
            raise fail("env is empty; wanted the environment's id.")
        if not 0 <= self.seed <= MAX_SEED:
            raise fail(f"seed={self.seed}; wanted 0 .. 2**63 - 1.")
        if self.frame_skip < 1:
            raise fail(f"frame_skip={self.frame_skip}; wanted at least 1.")
        if self.max_steps is not None and self.max_steps < 1:
            raise fail(f"max_steps={self.max_steps}; wanted at least 1, or None for no limit.")
        if self.num_episodes < 1:
            raise fail(f"num_episodes={self.num_episodes}; wanted at least 1.")
        if len(self.shard) != 2 or not 0 <= self.shard[0] < self.shard[1]:
            raise fail(f"shard={self.shard}; wanted (i, n) with 0 <= i < n.")
        if len(set(self.variables)) != len(self.variables):
            raise fail(f"variables={self.variables}; wanted each name once.")
        names = [policy.name for policy in self.policies]
        if not names or len(set(names)) != len(names):
            raise fail(f"policies={names}; wanted at least one, each name once.")

    @property
    def indices(self) -> range:
        """The episode indices that were planned for this shard."""
        return range(self.shard[0], self.num_episodes, self.shard[1])

    @property
    def policy_names(self) -> tuple[str, ...]:
        """Names of `policies`, in order; a sealed file numbers them so."""
        return tuple(policy.name for policy in self.policies)

    def to_json(self) -> dict[str, Any]:
        """Every field as JSON, and {"version": 1}."""
        return {
            "version": HEADER_VERSION,
            "env": self.env,
            "env_kwargs": self.env_kwargs,
            "pixels": self.pixels.to_json(),
            "action_space": self.action_space.to_json(),
            "action_labels": json.loads(canonical_json(self.action_labels)),
            "frame_skip": self.frame_skip,
            "max_steps": self.max_steps,
            "variables": list(self.variables),
            "policies": [policy.to_json() for policy in self.policies],
            "seed": self.seed,
            "shard": list(self.shard),
            "num_episodes": self.num_episodes,
            "code_version": self.code_version,
        }

    def text(self) -> str:
        """The canonical JSON text, as files hold it and as CRCs count it."""
        return canonical_json(self.to_json())

    @staticmethod
    def from_json(spec: dict[str, Any]) -> Header:
        """The inverse of `to_json`.

        Raises:
            UserError: another version, or a field that is missing or unknown.
        """
        version = spec.get("version")
        if version != HEADER_VERSION:
            raise UserError(
                f"the header has version {version!r}; this code reads version {HEADER_VERSION}. "
                "Update worldmodel, or read the file with the version that wrote it."
            )
        known = {f.name for f in dataclasses.fields(Header)}
        got = set(spec) - {"version"}
        if got != known:
            raise UserError(
                f"the header has unknown fields {sorted(got - known)} and lacks {sorted(known - got)}; "
                "it was not written by this format."
            )
        values = {name: spec[name] for name in known}
        try:
            values["pixels"] = PixelSpec.from_json(spec["pixels"])
            values["action_space"] = spaces.from_json(spec["action_space"])
            values["policies"] = tuple(PolicyRecord(**policy) for policy in spec["policies"])
            return Header(**values)
        except (KeyError, TypeError, IndexError) as error:
            raise UserError(f"the header cannot be read: {error!r}.") from error

    def difference(self, other: Header, names: tuple[str, ...] | None = None) -> str | None:
        """Name the first field of `names` (all without it) that differs, with both values; None if none."""
        mine, theirs = self.to_json(), other.to_json()
        for name in names or tuple(mine):
            if mine[name] != theirs[name]:
                return f"{name} is {mine[name]!r} in the one and {theirs[name]!r} in the other"
        return None

    def check(self, episode: Episode) -> None:
        """Hold an episode against this header.

        Raises:
            UserError: its frames, actions, variables, policy or length are not what the header says.
        """

        def fail(problem: str) -> UserError:
            return UserError(f"episode {episode.index} of {self.env!r}: {problem}")

        if episode.frames.shape[1:] != self.pixels.frame_shape:
            raise fail(f"frames are {episode.frames.shape[1:]}; the header says {self.pixels.frame_shape}.")
        space = self.action_space
        if episode.actions.shape[1:] != space.shape or episode.actions.dtype != space.dtype:
            raise fail(
                f"actions have shape {episode.actions.shape} {episode.actions.dtype}; the header's {space} "
                f"wants {(episode.length, *space.shape)} {space.dtype}."
            )
        spaces.check_actions(space, episode.actions, f"episode {episode.index}: actions")
        if set(episode.variables) != set(self.variables):
            raise fail(f"variables are {sorted(episode.variables)}; the header says {sorted(self.variables)}.")
        if episode.policy not in self.policy_names:
            raise fail(f"policy {episode.policy!r} is not among the header's {list(self.policy_names)}.")
        if self.max_steps is not None and episode.length > self.max_steps:
            raise fail(f"it has {episode.length} steps; the header says at most {self.max_steps}.")


def combine(headers: list[Header], names: list[str]) -> tuple[Header, list[np.ndarray]]:
    """One header for several files of the same world.

    Policies are united: one that has the same name and hash in two files is the same; where one name has
    several hashes, each is called name@hash (its first 8 letters). Shares are means over files; seed
    and code version are those of the first file.

    Args:
        headers: one of each file, at least one.
        names: how errors call the files.

    Returns:
        The header, and for each file an array that turns its policy numbers into the new ones.

    Raises:
        UserError: two files tell of different worlds; the sentence names the field.
    """
    if len(headers) == 1:
        return headers[0], [np.arange(len(headers[0].policies))]
    for header, name in zip(headers[1:], names[1:], strict=True):
        difference = headers[0].difference(header, ENV_FIELDS)
        if difference:
            raise UserError(
                f"'{names[0]}' and '{name}' cannot be read as one dataset: {difference}. "
                "Read them apart, or record both alike."
            )
    records = [policy for header in headers for policy in header.policies]
    hashes: dict[str, set[str]] = {}
    for record in records:
        hashes.setdefault(record.name, set()).add(record.hash)
    united: dict[tuple[str, str], PolicyRecord] = {}
    for record in records:
        key = (record.name, record.hash)
        label = record.name if len(hashes[record.name]) == 1 else f"{record.name}@{record.hash[:8] or 'none'}"
        share = sum(r.share for r in records if (r.name, r.hash) == key) / len(headers)
        united.setdefault(key, PolicyRecord(label, record.hash, record.params, min(share, 1.0)))
    numbers = {key: number for number, key in enumerate(united)}
    maps = [np.asarray([numbers[p.name, p.hash] for p in header.policies]) for header in headers]
    same_run = len({header.num_episodes for header in headers}) == 1 and headers[0].shard[1] > 1
    total = headers[0].num_episodes if same_run else sum(len(header.indices) for header in headers)
    return (
        dataclasses.replace(headers[0], policies=tuple(united.values()), shard=(0, 1), num_episodes=total),
        maps,
    )


def _tuples(value: Any) -> Any:
    """Lists as tuples, all the way down."""
    return tuple(_tuples(v) for v in value) if isinstance(value, list | tuple) else value
