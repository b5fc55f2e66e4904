# SPDX-License-Identifier: Apache-2.0
"""Two workers: the decode process goes on from the blocks of the prefill process."""

from __future__ import annotations

import copy
import json
import os
import subprocess
import sys
from pathlib import Path
from typing import Any

import kvbm_cpp as kvbm
import pytest

import demo
import workers

DEMO = Path(demo.__file__)
SHORT = ["--tiny", "--tokens", "150", "--generate", "12", "--workers", "2"]
BLOCKS = 150 // 16

Results = dict[str, Any]


def run(*arguments: str, **environment: str) -> subprocess.CompletedProcess[str]:
    return subprocess.run(
        [sys.executable, str(DEMO), *arguments],
        capture_output=True,
        text=True,
        env={**os.environ, "OPENBLAS_NUM_THREADS": "1", "NIXL_LOG_LEVEL": "FATAL", **environment},
    )


@pytest.fixture(scope="module")
def kept(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The folder of a run that went well."""
    try:
        kvbm.find_nixl()
    except kvbm.UnsupportedError as error:
        pytest.skip(f"no NIXL: {error}")
    folder = tmp_path_factory.mktemp("workers")
    result = run(*SHORT, "--workdir", str(folder), "--keep")
    assert result.returncode == 0, result.stdout + result.stderr
    (folder / "stdout.txt").write_text(result.stdout)
    return folder


def test_the_decode_worker_goes_on_with_the_same_tokens(kept: Path) -> None:
    result = workers.summary(kept)
    assert result["passed"]
    assert result["blocks"] == BLOCKS
    assert result["generated_tokens"] == 12
    assert result["prefilled_tokens"] == {"prefill": 150, "decode": 150 - BLOCKS * 16}
    mapped, wire = result["hops"]
    assert mapped["way"].startswith("mapped")
    assert wire["way"].startswith("NIXL")
    for hop in (mapped, wire):
        assert hop["bytes"] == BLOCKS * result["block_bytes"]
        assert hop["rate"] > 0


def test_the_table_has_rates_and_times(kept: Path) -> None:
    shown = (kept / "stdout.txt").read_text()
    for words in ("GB/s", "time to first token", "decode worker", "everything is equal"):
        assert words in shown


@pytest.mark.parametrize("field", ["tokens", "checksums", "wire_checksums", "first_logits", "pid"])
def test_a_difference_is_noticed(kept: Path, field: str) -> None:
    before, after = (json.loads((kept / f"{name}.json").read_text()) for name in ("serve", "fetch"))
    assert all(check.passed for check in workers.compare(before, after))
    changed = copy.deepcopy(after)
    if isinstance(changed[field], list):
        changed[field] = changed[field][:-1]
    else:
        changed[field] = before["pid"] if field == "pid" else "another"
    assert not all(check.passed for check in workers.compare(before, changed))


def test_no_nixl_is_told(tmp_path: Path) -> None:
    result = run(*SHORT, KVBM_NIXL_LIBRARY=str(tmp_path / "absent.so"))
    assert result.returncode == 2
    assert "NIXL" in result.stderr
