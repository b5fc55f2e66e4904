# SPDX-License-Identifier: Apache-2.0
"""What the commands do with a GPU, and what they say and still do without one."""

from __future__ import annotations

import json
import os
import subprocess
from pathlib import Path

import pytest
from program import (
    BINARY,
    ERROR,
    TINY,
    USAGE,
    assert_one_sentence,
    is_built,
    kvbm,
    kvbm_json,
)

pytestmark = is_built


def gpu_reason() -> str:
    """Why there is no GPU here; empty where there is one."""
    return "" if not BINARY.exists() else kvbm_json("info")["cuda"]["reason"]


without_gpu = pytest.mark.skipif(
    not BINARY.exists() or not gpu_reason(), reason="there is a GPU: the message of its absence"
)
with_gpu = pytest.mark.skipif(
    not BINARY.exists() or bool(gpu_reason()), reason=f"no CUDA device: {gpu_reason()}"
)


# --- GPU: what works without one


EMULATED = ["bench", "gpu", "--emulate", "--mib", 2, "--area-mib", 32, "--minutes", 0.3]


@without_gpu
@pytest.mark.parametrize(
    "arguments",
    [["bench", "gpu"], ["bench", "figures", "--gpu"], ["demo", "--device", "cuda"]],
)
def test_a_missing_gpu_is_one_sentence_with_the_reason(arguments: list[str]) -> None:
    result = kvbm(*arguments, expect=ERROR)
    assert_one_sentence(result)
    assert "no CUDA device: " in result.stderr


def test_bench_gpu_runs_every_way_on_an_emulated_device_and_compares_bytes(tmp_path: Path) -> None:
    csv = tmp_path / "ways.csv"
    result = kvbm_json(
        *EMULATED, "--sections", "rates", "--only", "smollm2", "--repeat", 2, "--csv", csv,
        "--save", tmp_path / "all.json", "--plot", tmp_path / "plot",
    )  # fmt: skip
    cases = result["cases"]
    assert {case["direction"] for case in cases} == {"h2d", "d2h", "both", "d2d"}
    assert {case["far_side"] for case in cases} == {"contiguous", "universal", "scattered"}
    for case in cases:
        ours = [way for way in case["ways"] if way["name"] == "kvbm"]
        assert len(ours) >= 5
        for way in ours:
            assert way["verified"] or way["skipped"]
        assert sum(way["automatic"] for way in ours) == 2
    first = cases[0]["ways"]
    assert {"cudaMemcpyAsync each", "cudaMemcpyBatchAsync"} <= {way["name"] for way in first}
    assert len(result["rates"]) == len(cases)
    lines = csv.read_text().splitlines()
    assert len(lines) == 1 + sum(len(case["ways"]) for case in cases)
    assert all(line.count(",") == lines[0].count(",") for line in lines)
    assert json.loads((tmp_path / "all.json").read_text())["cases"] == cases
    assert (tmp_path / "plot.png").read_bytes().startswith(b"\x89PNG\r\n\x1a\n")
    html = (tmp_path / "plot.html").read_text()
    assert html.count("<svg") == len(cases)
    assert "http" not in html


def test_bench_gpu_measures_costs_on_an_emulated_device() -> None:
    result = kvbm_json(*EMULATED, "--quick", "--sections", "submit,permute,latency,model")
    assert len(result["gpu_submit"]) >= 2
    assert all(row["prepared_seconds"] > 0 for row in result["gpu_submit"])
    assert result["gpu_permute"] == []
    assert {row["direction"] for row in result["gpu_latency"]} == {"H2D", "D2H"}
    assert result["model"] == []


def test_bench_gpu_reproduces_the_grid(tmp_path: Path) -> None:
    csv = tmp_path / "grid.csv"
    kvbm(*EMULATED, "--sections", "grid", "--grid-csv", csv)
    lines = csv.read_text().splitlines()
    assert lines[0].startswith("model,tokens_per_block,num_blocks,direction,pattern")
    assert len(lines) > 1
    assert any(",fc_to_fc," in line for line in lines)
    assert any(",lw_to_fc," in line for line in lines)


def test_bench_gpu_puts_torch_beside(tmp_path: Path) -> None:
    file = tmp_path / "torch.json"
    row = {
        "workload": "smollm2-135m",
        "direction": "d2h",
        "far_side": "universal",
        "blocks": 5,
        "way": "copy_",
        "bytes_per_second": 1e9,
    }
    file.write_text(json.dumps({"rows": [row]}))
    arguments = [*EMULATED, "--sections", "rates", "--only", "d2h ls2 universal", "--torch", file]
    (found,) = kvbm_json(*arguments)["torch"]
    assert found["bytes_per_second"] == 1e9
    file.write_text("[]")
    assert_one_sentence(kvbm(*arguments, "--json", expect=USAGE))


@pytest.mark.parametrize(
    ("arguments", "named"),
    [
        (["bench", "gpu", "--sections", "beauty"], "beauty"),
        (["bench", "gpu", "--minutes", "0"], "0"),
        (["bench", "figures", "--quick"], "--gpu"),
        (["demo", "--device", "tpu"], "tpu"),
        (["explain", "--strategy", "Teleport"], "Teleport"),
        (["explain", "--spare-cpu", "--spare-sms"], "--spare"),
        (["tune", "--area-mib", "1"], "area-mib"),
    ],
)
def test_gpu_options_name_what_they_refuse(arguments: list[str], named: str) -> None:
    result = kvbm(*arguments, expect=USAGE)
    assert_one_sentence(result)
    assert named in result.stderr


def test_tune_stores_what_it_measured_and_shows_it(tmp_path: Path) -> None:
    cache = {"XDG_CACHE_HOME": str(tmp_path)}
    assert "nothing measured yet" in kvbm("tune", "--show", **cache).stdout
    text = kvbm("tune", "--seconds", 0.001, **cache).stdout
    assert "stored in" in text
    if gpu_reason():
        assert "no CUDA device: " in text
    (file,) = (tmp_path / "kvbm").iterdir()
    assert f"measured costs in {file}" in kvbm("tune", "--show", **cache).stdout
    file.write_text("{}")
    result = kvbm("tune", "--show", **cache)
    assert str(file) in result.stderr
    assert "nothing measured yet" in result.stdout


def test_tune_measures_every_path_of_an_emulated_device(tmp_path: Path) -> None:
    result = subprocess.run(
        [str(BINARY), "tune", "--emulate", "--area-mib", "16", "--seconds", "0.001", "--json"],
        capture_output=True,
        text=True,
        timeout=240,
        env={**os.environ, "XDG_CACHE_HOME": str(tmp_path)},
        check=True,
    )
    rows = json.loads(result.stdout)["gpu"]
    paths = {(row["direction"], row["path"]) for row in rows}
    assert len(paths) == 9
    assert all(row["bytes_per_second"] > 0 for row in rows)
    assert list(tmp_path.iterdir()) == []


def test_tune_names_a_cache_it_cannot_write() -> None:
    result = kvbm("tune", "--seconds", 0.001, expect=ERROR, XDG_CACHE_HOME="/proc/no-such")
    assert "/proc/no-such" in result.stderr


@without_gpu
def test_explain_imagines_a_gpu() -> None:
    down = kvbm_json("explain", "--gpu", "--blocks", 64, "--ids", "random")
    assert down["gpu"] == "imagined"
    assert down["strategy"] == "StagedDma"
    assert len(down["hops"]) == 2
    estimates = {
        row["strategy"]: row["estimated_seconds"]
        for row in down["candidates"]
        if row["estimated_seconds"] is not None
    }
    assert set(estimates) == {"DmaCopy", "SmCopy", "StagedDma"}
    assert any("imagined" in note for note in down["notes"])
    spared = kvbm_json("explain", "--gpu", "--blocks", 64, "--spare-sms")
    refused = {row["strategy"]: row["reason"] for row in spared["candidates"]}
    assert "stores to host memory" in refused["SmCopy"]
    forced = kvbm_json("explain", "--gpu", "--blocks", 64, "--strategy", "DmaCopy")
    assert forced["strategy"] == "DmaCopy"
    assert kvbm_json("explain", "--blocks", 64)["strategy"] == "StreamCopy"


def test_demo_says_which_device_it_used() -> None:
    text = kvbm("demo", *TINY, "--blocks", 4, "--rounds", 1, "--device", "host").stdout
    assert "device: emulated" in text


# --- GPU: only where there is one


@with_gpu
def test_info_and_doctor_know_the_gpu() -> None:
    info = kvbm_json("info")
    gpu = info["cuda_devices"][0]
    assert gpu["uuid"].startswith("GPU-")
    assert gpu["total_bytes"] > 1 << 30
    keys = {check["key"] for check in kvbm_json("doctor")["checks"]}
    assert {"cuda", "cuda_versions", "batch_api"} <= keys
    assert any(key.startswith("pcie") for key in keys)


@with_gpu
def test_demo_keeps_g1_in_the_memory_of_the_gpu() -> None:
    result = kvbm_json("demo", "--blocks", 32, "--rounds", 1)
    assert result["gpu"] is True
    assert result["ok"] is True
    assert result["hops"][0]["limit"] == "contiguous cudaMemcpyAsync"


@with_gpu
def test_bench_gpu_moves_the_right_bytes_by_every_strategy() -> None:
    result = kvbm_json(
        "bench", "gpu", "--mib", 16, "--area-mib", 128, "--minutes", 1, "--repeat", 2,
        "--sections", "rates", "--only", "smollm2",
    )  # fmt: skip
    strategies = {
        way["strategy"]
        for case in result["cases"]
        for way in case["ways"]
        if way["name"] == "kvbm" and way["verified"]
    }
    assert {"DmaCopy", "SmCopy", "StagedDma"} <= strategies


@with_gpu
def test_tune_is_picked_up_for_this_gpu(tmp_path: Path) -> None:
    cache = {"XDG_CACHE_HOME": str(tmp_path)}
    kvbm("tune", "--seconds", 0.001, **cache)
    text = kvbm("info", **cache).stdout
    assert "not tuned" not in text
