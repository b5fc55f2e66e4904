# SPDX-License-Identifier: Apache-2.0
"""The types that are shipped: stubs are there, current, and strict checkers accept them."""

from __future__ import annotations

import subprocess
import sys
from pathlib import Path

import pytest

import kvbm_cpp as kvbm

ROOT = Path(__file__).resolve().parents[2]
PACKAGE = Path(kvbm.__file__).parent


def test_stub_and_marker_are_installed() -> None:
    assert (PACKAGE / "py.typed").is_file()
    assert "class TransferManager" in (PACKAGE / "_kvbm_cpp.pyi").read_text()


def test_stub_is_current() -> None:
    pytest.importorskip("nanobind")
    import gen_stub

    path = ROOT / "python" / "kvbm_cpp" / "_kvbm_cpp.pyi"
    if not path.exists():
        pytest.skip("the stub is not beside these tests")
    checked_in = path.read_text()
    assert gen_stub.stub() == checked_in, "run python/tests/gen_stub.py with the installed package"


def test_everything_public_is_documented() -> None:
    missing = [name for name in kvbm.__all__ if not (getattr(kvbm, name).__doc__ or "").strip()]
    assert missing == []


def test_public_names_are_those_of_the_library() -> None:
    assert sorted(kvbm.__all__) == kvbm.__all__
    native = {name for name in dir(kvbm._kvbm_cpp) if not name.startswith("_")}
    assert native <= set(kvbm.__all__)


SAMPLE = """
from __future__ import annotations

import asyncio

import numpy as np

import kvbm_cpp as kvbm


async def main() -> list[str]:
    config = kvbm.LayoutConfig(num_blocks=4, num_layers=2, page_size=16, inner_dim=64, num_heads=4)
    with kvbm.TransferManager(host_devices=1) as manager:
        tensors = [manager.device(0).empty((2, 4, 16, 4, 16), np.float16) for _ in range(2)]
        engine = manager.register_layout(
            manager.layout_builder()
            .config(config)
            .layer_separate(kvbm.BlockDimension.Second, kvbm.KvBlockLayout.OperationalNHD)
            .with_external_device_regions(tensors, device_id=0)
            .build()
        )
        host = manager.register_layout(
            manager.layout_builder()
            .config(config)
            .fully_contiguous(kvbm.KvBlockLayout.UniversalTP)
            .allocate_pinned()
            .build()
        )
        options = kvbm.TransferOptions(layer_range=range(1), timeout=2.0)
        ids = np.arange(4, dtype=np.uint32)
        done: kvbm.TransferCompleteNotification = manager.execute_transfer(
            engine, ids, host, [3, 2, 1, 0], options
        )
        await done
        error: kvbm.Error | None = done.error()
        assert error is None
        return [str(checksum) for checksum in manager.block_checksums(host, range(4))]


print(len(asyncio.run(main())))
"""

WRONG = """
import kvbm_cpp as kvbm

kvbm.TransferManager(host_devices="two")
kvbm.TransferManager().execute_transfer(1, [0], 2, [0])
kvbm.LayoutConfig(blocks=3)
"""


def mypy(*arguments: str) -> subprocess.CompletedProcess[str]:
    pytest.importorskip("mypy")
    return subprocess.run(
        [sys.executable, "-m", "mypy", "--strict", "--no-incremental", *arguments],
        capture_output=True,
        text=True,
    )


def test_typed_sample_passes_mypy_strict_and_runs(tmp_path: Path) -> None:
    sample = tmp_path / "sample.py"
    sample.write_text(SAMPLE)
    result = mypy(str(sample))
    assert result.returncode == 0, result.stdout
    ran = subprocess.run([sys.executable, str(sample)], capture_output=True, text=True, check=True)
    assert ran.stdout == "4\n"


def test_wrong_calls_are_found_by_mypy(tmp_path: Path) -> None:
    wrong = tmp_path / "wrong.py"
    wrong.write_text(WRONG)
    result = mypy(str(wrong))
    assert result.returncode == 1
    for line in (4, 5, 6):
        assert f"wrong.py:{line}: error" in result.stdout


def test_example_of_the_readme_runs() -> None:
    readme = ROOT / "python" / "README.md"
    if not readme.is_file():
        pytest.skip("python/README.md is in the repository only")
    text = readme.read_text()
    examples = [part.split("```")[0] for part in text.split("```python\n")[1:]]
    assert len(examples) == 3
    exec(compile(examples[0], "README.md", "exec"), {})
    compile(examples[1], "README.md", "exec")  # for a GPU: examples/layerwise.py runs there
    assert "http://127.0.0.1:9000" in examples[2]  # for a bucket: test_object.py runs it
