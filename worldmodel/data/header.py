"""The header of a file: everything that its episodes have in common."""

from __future__ import annotations

import dataclasses
import json
from dataclasses import dataclass, field
from typing import Any

from worldmodel.common import spaces
from worldmodel.common.errors import UserError, unknown_name
from worldmodel.common.pixels import PixelSpec
from worldmodel.data.episode import MAX_SEED, Episode
from worldmodel.data.splits import GIVEN, HASH, SPLIT_RULES

HEADER_VERSION = 2
ADDED_IN_VERSION_2 = ("action_keys", "class_names", "split_rule")  # absent from headers of version 1

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
    "class_names",
    "split_rule",
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
        action_space: one of the kinds of `worldmodel.common.spaces`.
        action_labels: a name for each action, or a tuple of names for each dimension; may be empty.
        action_keys: a keyboard key for each action label, by the names of `KeyboardEvent.key` in browsers; "" for
            none. Empty if the environment has no keys.
        class_names: the name of each class; `Episode.label` is an index of this tuple. Empty if there are no labels.
        split_rule: "hash", the splits follow from seed and index; or "given", each episode has its split.
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
    action_keys: tuple[str, ...] = ()
    class_names: tuple[str, ...] = ()
    split_rule: str = HASH

    def __post_init__(self) -> None:
        def fail(problem: str) -> UserError:
            return UserError(f"header of {self.env!r}: {problem}")

        object.__setattr__(self, "env_kwargs", json.loads(canonical_json(self.env_kwargs)))
        for name in ("action_labels", "action_keys", "class_names", "variables", "policies", "shard"):
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
        if self.split_rule not in SPLIT_RULES:
            raise unknown_name("split_rule", self.split_rule, SPLIT_RULES)
        names = [policy.name for policy in self.policies]
        if not names or len(set(names)) != len(names):
            raise fail(f"policies={names}; wanted at least one, each name once.")
        problem = self._names_problem()
        if problem:
            raise fail(problem)

    def _names_problem(self) -> str | None:
        """What is wrong with the names of keys and classes; None if nothing is."""
        keys, labels, classes = self.action_keys, self.action_labels, self.class_names
        if any(not isinstance(key, str) for key in keys):
            return f"action_keys={keys}; wanted the name of a key for each action, '' for none."
        if len(keys) not in (0, len(labels)):
            return f"{len(keys)} action_keys for {len(labels)} action_labels; wanted the same number."
        if any(not isinstance(name, str) or not name for name in classes):
            return f"class_names={classes}; wanted a name for each class."
        if len(set(classes)) != len(classes):
            return f"class_names={classes}; wanted each name once."
        return None

    @property
    def indices(self) -> range:
        """The episode indices that are planned for this shard."""
        return range(self.shard[0], self.num_episodes, self.shard[1])

    @property
    def policy_names(self) -> tuple[str, ...]:
        """Names of `policies`; sealed files store positions in this tuple."""
        return tuple(policy.name for policy in self.policies)

    def to_json(self) -> dict[str, Any]:
        """Every field as JSON, and {"version": 2}."""
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
            "action_keys": list(self.action_keys),
            "class_names": list(self.class_names),
            "split_rule": self.split_rule,
        }

    def text(self) -> str:
        """The canonical JSON text, which files store and CRCs cover."""
        return canonical_json(self.to_json())

    @staticmethod
    def from_json(spec: dict[str, Any]) -> Header:
        """The inverse of `to_json`; headers of version 1 are read too.

        Raises:
            UserError: another version, or a missing, unknown or invalid field.
        """
        version = spec.get("version")
        if version not in (1, HEADER_VERSION):
            raise UserError(
                f"the header has version {version!r}; this code reads versions 1 and {HEADER_VERSION}. "
                "Update worldmodel, or read the file with the version that wrote it."
            )
        known = {f.name for f in dataclasses.fields(Header)} - set(ADDED_IN_VERSION_2 if version == 1 else ())
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
            UserError: its frames, actions, variables, policy, label, split or length disagree with the header.
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
        if episode.label is not None and not episode.label < len(self.class_names):
            raise fail(f"label is {episode.label}; the header has {len(self.class_names)} class names.")
        if (episode.split is not None) != (self.split_rule == GIVEN):
            wanted = "a split of its own" if self.split_rule == GIVEN else "None"
            raise fail(f"split is {episode.split!r}; wanted {wanted}, because the split rule is {self.split_rule!r}.")
        if self.max_steps is not None and episode.length > self.max_steps:
            raise fail(f"it has {episode.length} steps; the header allows at most {self.max_steps}.")


def _tuples(value: Any) -> Any:
    """Convert lists to tuples, recursively."""
    return tuple(_tuples(v) for v in value) if isinstance(value, list | tuple) else value
