"""Atomic writing of files."""

from __future__ import annotations

from pathlib import Path

import pytest
from recordings import names_in

from worldmodel.common.errors import UserError
from worldmodel.common.files import atomic_path, check_free_space


def test_free_space_and_atomic_path(tmp_path: Path) -> None:
    check_free_space(tmp_path / "not" / "yet", 1, "this")
    with pytest.raises(UserError, match=r"this needs 1000000.0 TB"):
        check_free_space(tmp_path / "not" / "yet", 10**18, "this")
    with atomic_path(tmp_path / "new" / "a.txt") as temporary:
        temporary.write_text("a")
        assert not (tmp_path / "new" / "a.txt").exists()

    def interrupted() -> None:
        with atomic_path(tmp_path / "new" / "a.txt") as temporary:
            temporary.write_text("b")
            raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        interrupted()
    assert (tmp_path / "new" / "a.txt").read_text() == "a"
    assert names_in(tmp_path / "new") == ["a.txt"]
    with pytest.raises(UserError, match="is a folder"), atomic_path(tmp_path):
        pass
    with pytest.raises(UserError, match="cannot write"), atomic_path(tmp_path / "new" / "a.txt" / "b"):
        pass
