# SPDX-License-Identifier: Apache-2.0
"""The real binary, as the tests of this folder run it."""

from __future__ import annotations

import json
import os
import subprocess
from pathlib import Path
from typing import Any

import pytest

ROOT = Path(__file__).resolve().parents[2]
BINARY = Path(os.environ.get("KVBM_BINARY", ROOT / "build/release/tools/kvbm/kvbm"))
TINY = ["--layers", "2", "--heads", "6", "--head-dim", "8"]

OK, FINDING, FAIL, ERROR, USAGE = 0, 1, 2, 3, 64


def kvbm(*arguments: object, expect: int = OK, **environment: str) -> subprocess.CompletedProcess:
    result = subprocess.run(
        [str(BINARY), *map(str, arguments)],
        capture_output=True,
        text=True,
        timeout=240,
        env={**os.environ, **environment},
        check=False,
    )
    assert result.returncode == expect, result.stdout + result.stderr
    return result


def kvbm_json(*arguments: object, expect: int = OK) -> Any:
    result = kvbm(*arguments, "--json", expect=expect)
    return json.loads(result.stdout)


def assert_one_sentence(result: subprocess.CompletedProcess) -> None:
    assert result.stdout == ""
    assert result.stderr.startswith("kvbm: ")
    assert result.stderr.count("\n") == 1


is_built = pytest.mark.skipif(not BINARY.exists(), reason=f"{BINARY} is not built")
