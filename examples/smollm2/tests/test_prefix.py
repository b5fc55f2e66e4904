# SPDX-License-Identifier: Apache-2.0
"""The demo of the prefix store, on random weights."""

from __future__ import annotations

import json
from pathlib import Path

import pytest

import demo
import prefix
from backend import HostBackend


def test_a_shared_prefix_is_found_in_every_tier(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    folder = tmp_path / "work"
    arguments = ["--prefix", "--tiny", "--tokens", "300", "--generate", "4"]
    assert demo.main([*arguments, "--workdir", str(folder), "--json"]) == 0
    result = json.loads(capsys.readouterr().out)
    assert result["passed"]
    assert result["shared_tokens"] == 256
    rows = result["rows"]
    assert [row["tier"] for row in rows] == ["none", "G1", "G2", "G3"]
    assert [row["blocks_hit"] for row in rows] == [0, 16, 16, 16]
    assert [row["prefilled_tokens"] for row in rows] == [300, 44, 44, 44]
    assert list(folder.iterdir()) == []


def test_the_table_says_what_differs(tmp_path: Path) -> None:
    result = prefix.run(tmp_path, HostBackend(), True, 150, 2)
    assert "everything is equal" in prefix.table(result)
    result["rows"][1]["same_tokens"] = result["passed"] = False
    assert "DIFFER" in prefix.table(result)


def test_short_prompts_share_nothing() -> None:
    with pytest.raises(ValueError, match="more than 128"):
        prefix.make_prompts(True, 128)
