# SPDX-License-Identifier: Apache-2.0
"""The demo of the prefix store, on random weights."""

from __future__ import annotations

import json
import os
import re
from pathlib import Path

import pytest

import demo
import local_s3
import prefix
from backend import HostBackend


def far_tiers() -> list[str]:
    """["G4"] where there can be an S3 server; KVBM_REQUIRE_MOTO says that there must be one."""
    missing = local_s3.why_missing()
    assert not (missing and "KVBM_REQUIRE_MOTO" in os.environ), missing
    return [] if missing else ["G4"]


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
    assert [row["tier"] for row in rows] == ["none", "G1", "G2", "G3", *far_tiers()]
    assert [row["blocks_hit"] for row in rows[1:]] == [16] * (len(rows) - 1)
    assert [row["prefilled_tokens"] for row in rows] == [300] + [44] * (len(rows) - 1)
    assert list(folder.iterdir()) == []


def test_the_table_says_what_differs(tmp_path: Path) -> None:
    result = prefix.run(tmp_path, HostBackend(), True, 150, 2)
    table = prefix.table(result)
    assert "everything is equal" in table
    assert ("G4 is a bucket of moto" in table) == bool(far_tiers())
    result["rows"][1]["same_tokens"] = result["passed"] = False
    assert "DIFFER" in prefix.table(result)


def test_a_named_bucket_is_taken_and_left_as_it_was(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    if not far_tiers():
        pytest.skip(local_s3.why_missing())
    with local_s3.LocalS3() as server:
        server.wait().make_bucket("somebodys")
        monkeypatch.setenv("KVBM_DEMO_BUCKET", "somebodys")
        monkeypatch.setenv("AWS_ENDPOINT_URL", server.endpoint)
        monkeypatch.setenv("AWS_ACCESS_KEY_ID", "anybody")
        monkeypatch.setenv("AWS_SECRET_ACCESS_KEY", "anything")
        for run in ("first", "second"):
            (tmp_path / run).mkdir()
            result = prefix.run(tmp_path / run, HostBackend(), True, 150, 2)
            assert result["passed"]
            assert result["rows"][-1]["tier"] == "G4"
            assert "bucket somebodys of KVBM_DEMO_BUCKET" in prefix.table(result)
        listed = server.ask("GET", "/somebodys?list-type=2&prefix=kvbm-demo/").decode()
    keys = re.findall("<Key>([^<]*)</Key>", listed)
    assert len(keys) == 2
    assert all(key.endswith("/manifest") for key in keys)


def test_without_moto_there_is_no_g4(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.delenv("KVBM_DEMO_BUCKET", raising=False)
    monkeypatch.setattr(prefix, "why_missing", lambda: "moto is not installed: install it")
    result = prefix.run(tmp_path, HostBackend(), True, 150, 2)
    assert result["passed"]
    assert [row["tier"] for row in result["rows"]] == ["none", "G1", "G2", "G3"]
    assert "no G4" in prefix.table(result)
    assert "install it" in prefix.table(result)


def test_a_server_that_does_not_start_says_why(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(local_s3.sys, "executable", "/bin/false")
    with pytest.raises(OSError, match="does not start"):
        local_s3.LocalS3().wait()


def test_short_prompts_share_nothing() -> None:
    with pytest.raises(ValueError, match="more than 128"):
        prefix.make_prompts(True, 128)
