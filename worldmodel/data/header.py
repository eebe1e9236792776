"""The header of a file: everything that its episodes have in common."""

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

# Files with equal values of these fields can be read as one dataset; the other fields describe the recording.
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

# Labels: one name per choice, or one tuple of names per dimension.
Labels = tuple[str, ...] | tuple[tuple[str, ...], ...]


def canonical_json(value: Any) -> str:
    """The canonical text of a JSON value: ASCII, keys sorted, no spaces, no NaN.

    Raises:
        UserError: the value cannot be stored as JSON.
    """
    try:
        return json.dumps(value, sort_keys=True, separators=(",", ":"), ensure_ascii=True, allow_nan=False)
    except (TypeError, ValueError) as error:
        raise UserError(
            f"{value!r} cannot be stored as JSON ({error}); use numbers, strings, lists and dicts."
        ) from error


@dataclass(frozen=True)
class PolicyRecord:
    """A policy that chose the actions of some episodes.

    Attributes:
        name: the name in `Episode.policy`.
        hash: a hash of its weights and settings; "" if there are none.
        params: its settings, JSON.
        share: the planned share of episodes, 0 .. 1.
    """

    name: str
    hash: str = ""
    params: dict[str, Any] = field(default_factory=dict)
    share: float = 1.0

    def __post_init__(self) -> None:
        if not self.name:
            raise UserError("a policy has an empty name; wanted a name.")
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
        env: gymnasium id of the environment.
        env_kwargs: arguments that it was made with, JSON.
        pixels: how its screen became frames.
        action_space: one of the four kinds of `worldmodel.common.spaces`.
        action_labels: a name for each action, or a tuple of names for each dimension; may be empty.
        frame_skip: environment ticks per step, >= 1.
        max_steps: steps after which an episode is truncated; None for no limit.
        variables: names of the variables of the episodes.
        policies: the policies that chose the actions.
        seed: seed of the recording; with the index of an episode it gives the split.
        shard: (i, n): this file has the planned indices e with e mod n = i.
        num_episodes: planned episodes of all shards together.
        code_version: version of the code that recorded.

    Raises:
        UserError: a field has an invalid value; the message names it.
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
            raise fail("env is empty; wanted the id of the environment.")
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
        """The episode indices that are planned for this shard."""
        return range(self.shard[0], self.num_episodes, self.shard[1])

    @property
    def policy_names(self) -> tuple[str, ...]:
        """Names of `policies`; sealed files store positions in this tuple."""
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
        """The canonical JSON text, which files store and CRCs cover."""
        return canonical_json(self.to_json())

    @staticmethod
    def from_json(spec: dict[str, Any]) -> Header:
        """The inverse of `to_json`.

        Raises:
            UserError: another version, or a missing, unknown or invalid field.
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
                "it was not written in this format."
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
        """Compare the fields `names` (None: all).

        Returns:
            A phrase with the first field that differs and both values; None if all are equal.
        """
        fields, other_fields = self.to_json(), other.to_json()
        for name in names or tuple(fields):
            if fields[name] != other_fields[name]:
                return f"{name} is {fields[name]!r} in the first and {other_fields[name]!r} in the second"
        return None

    def check(self, episode: Episode) -> None:
        """Check an episode against this header.

        Raises:
            UserError: its frames, actions, variables, policy or length disagree with the header.
        """

        def fail(problem: str) -> UserError:
            return UserError(f"episode {episode.index} of {self.env!r}: {problem}")

        if episode.frames.shape[1:] != self.pixels.frame_shape:
            raise fail(f"frames are {episode.frames.shape[1:]}; the header has {self.pixels.frame_shape}.")
        space = self.action_space
        if episode.actions.shape[1:] != space.shape or episode.actions.dtype != space.dtype:
            raise fail(
                f"actions have shape {episode.actions.shape} {episode.actions.dtype}; wanted "
                f"{(episode.length, *space.shape)} {space.dtype} for {space}."
            )
        spaces.check_actions(space, episode.actions, f"episode {episode.index}: actions")
        if set(episode.variables) != set(self.variables):
            raise fail(f"variables are {sorted(episode.variables)}; the header has {sorted(self.variables)}.")
        if episode.policy not in self.policy_names:
            raise fail(f"policy {episode.policy!r} is not one of the header: {list(self.policy_names)}.")
        if self.max_steps is not None and episode.length > self.max_steps:
            raise fail(f"it has {episode.length} steps; the header allows at most {self.max_steps}.")


def combine(headers: list[Header], names: list[str]) -> tuple[Header, list[np.ndarray]]:
    """The common header of several files of the same environment.

    The result has the policies of all files. Policies with the same name and hash are the same policy; if one name
    has several hashes, each gets the name "name@hash" (8 characters of the hash). Shares are means over files; seed
    and code version are those of the first file.

    Args:
        headers: the header of each file, at least one.
        names: the names of the files in error messages.

    Returns:
        The header, and for each file an array that maps its policy numbers to those of the new header.

    Raises:
        UserError: two files are of different environments; the message names the field.
    """
    if len(headers) == 1:
        return headers[0], [np.arange(len(headers[0].policies))]
    for header, name in zip(headers[1:], names[1:], strict=True):
        difference = headers[0].difference(header, ENV_FIELDS)
        if difference:
            raise UserError(
                f"'{names[0]}' and '{name}' cannot be read as one dataset: {difference}. "
                "Read them separately, or record both with the same settings."
            )
    records = [policy for header in headers for policy in header.policies]
    hashes: dict[str, set[str]] = {}
    for record in records:
        hashes.setdefault(record.name, set()).add(record.hash)
    combined: dict[tuple[str, str], PolicyRecord] = {}
    for record in records:
        key = (record.name, record.hash)
        label = record.name if len(hashes[record.name]) == 1 else f"{record.name}@{record.hash[:8] or 'none'}"
        share = sum(r.share for r in records if (r.name, r.hash) == key) / len(headers)
        combined.setdefault(key, PolicyRecord(label, record.hash, record.params, min(share, 1.0)))
    numbers = {key: number for number, key in enumerate(combined)}
    maps = [np.asarray([numbers[p.name, p.hash] for p in header.policies]) for header in headers]
    same_run = len({header.num_episodes for header in headers}) == 1 and headers[0].shard[1] > 1
    total = headers[0].num_episodes if same_run else sum(len(header.indices) for header in headers)
    return (
        dataclasses.replace(headers[0], policies=tuple(combined.values()), shard=(0, 1), num_episodes=total),
        maps,
    )


def _tuples(value: Any) -> Any:
    """Convert lists to tuples, recursively."""
    return tuple(_tuples(v) for v in value) if isinstance(value, list | tuple) else value
