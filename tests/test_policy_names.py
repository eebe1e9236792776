"""Names of the policies of a mixture."""

from __future__ import annotations

import pytest

from worldmodel.collect.policy_specs import PolicySpec, mix_policies
from worldmodel.common.errors import UserError


def policy_file(path: str, share: float) -> PolicySpec:
    return PolicySpec("ppo", "file", path=path, hash=path, share=share)


def test_policy_files_of_one_algorithm_are_named_by_their_directories() -> None:
    base = PolicySpec("random", "random")
    mixed = mix_policies(base, [policy_file("/runs/a/policy.zip", 0.3), policy_file("/runs/b.zip", 0.2)])
    assert [(spec.name, spec.share) for spec in mixed] == [("random", 0.5), ("ppo:a", 0.3), ("ppo:b", 0.2)]


def test_a_single_policy_file_keeps_its_name() -> None:
    assert [spec.name for spec in mix_policies(policy_file("/runs/a/policy.zip", 1.0), [])] == ["ppo"]


def test_two_policies_of_one_name_are_refused() -> None:
    files = [policy_file("/runs/a/policy.zip", 0.3), policy_file("/more/a/policy.zip", 0.2)]
    with pytest.raises(UserError, match="distinct names"):
        mix_policies(PolicySpec("random", "random"), files)
