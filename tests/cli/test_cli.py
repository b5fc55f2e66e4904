# SPDX-License-Identifier: Apache-2.0
"""Runs the real binary: every verb's help, its main use, bad input, exit codes and JSON."""

from __future__ import annotations

import json
import os
import subprocess
from pathlib import Path
from typing import Any

import pytest

ROOT = Path(__file__).resolve().parents[2]
BINARY = Path(os.environ.get("KVBM_BINARY", ROOT / "build/release/tools/kvbm/kvbm"))
VERBS = ["demo", "info", "doctor", "bench", "tune", "explain", "verify"]
TINY = ["--layers", "2", "--heads", "6", "--head-dim", "8"]

OK, FINDING, FAIL, ERROR, USAGE = 0, 1, 2, 3, 64

pytestmark = pytest.mark.skipif(not BINARY.exists(), reason=f"{BINARY} is not built")


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


def gpu_reason() -> str:
    """Why there is no GPU here; empty where there is one."""
    return "" if not BINARY.exists() else kvbm_json("info")["cuda"]["reason"]


without_gpu = pytest.mark.skipif(
    not BINARY.exists() or not gpu_reason(), reason="there is a GPU: the message of its absence"
)
with_gpu = pytest.mark.skipif(
    not BINARY.exists() or bool(gpu_reason()), reason=f"no CUDA device: {gpu_reason()}"
)


def stored_demo(folder: Path, *arguments: str, expect: int = OK) -> Path:
    file = folder / "g3"
    kvbm("demo", *TINY, "--blocks", 12, "--rounds", 1, "--path", file, *arguments, expect=expect)
    return file


# --- every verb


@pytest.mark.parametrize("verb", [[], *([verb] for verb in VERBS), ["bench", "figures"], ["bench", "gpu"]])
def test_help_is_printed_and_names_the_exit_codes(verb: list[str]) -> None:
    text = kvbm(*verb, "--help").stdout
    assert "Usage" in text or "usage" in text
    assert "--json" in text or verb == []
    if len(verb) < 2:
        assert "Exit codes" in text


def test_help_lists_every_verb_but_not_the_hidden_one() -> None:
    text = kvbm("--help").stdout
    assert all(verb in text for verb in VERBS)
    assert "demo-onboard" not in text


def test_version() -> None:
    assert kvbm("--version").stdout.startswith("kvbm 0.")


@pytest.mark.parametrize(
    "arguments",
    [
        [],
        ["unknown"],
        ["demo", "--unknown"],
        ["demo", "--blocks", "many"],
        ["verify"],
        ["doctor", "--needed-gib", "-1"],
        ["bench", "--json", "--markdown"],
        ["bench", "--repeat", "0"],
    ],
)
def test_wrong_command_line_is_one_sentence_and_64(arguments: list[str]) -> None:
    assert_one_sentence(kvbm(*arguments, expect=USAGE))


@pytest.mark.parametrize("verb", ["demo", "explain"])
@pytest.mark.parametrize(
    ("arguments", "named"),
    [
        (["--workload", "gpt-0"], "gpt-0"),
        (["--blocks", "0"], "num_blocks"),
        (["--page-size", "3"], "page_size"),
        (["--width", "3"], "dtype_width"),
        (["--layers", "18446744073709551615"], "num_layers"),
    ],
)
def test_bad_value_is_named_and_64(verb: str, arguments: list[str], named: str) -> None:
    result = kvbm(verb, *arguments, expect=USAGE)
    assert_one_sentence(result)
    assert named in result.stderr


# --- demo


def test_demo_moves_everything_and_says_so() -> None:
    text = kvbm("demo", "--blocks", 8, "--rounds", 1).stdout
    for hop in ("G1 -> G2", "G2 -> G3", "G3 -> G2", "G2 -> G1"):
        assert hop in text
    assert "8 of 8 blocks equal" in text
    assert text.rstrip().endswith("all equal")


def test_demo_json_holds_hops_checks_and_ranks() -> None:
    result = kvbm_json("demo", "--blocks", 8, "--rounds", 1)
    assert result["ok"] is True
    assert [hop["hop"] for hop in result["hops"]] == [
        "G1 -> G2",
        "G2 -> G3",
        "G3 -> G2",
        "G2 -> G1",
    ]
    assert all(hop["bytes"] == 8 * 360 * 1024 for hop in result["hops"])
    assert result["blocks_equal"] == 8
    assert result["failed"] == []
    assert result["tp"] == {"ranks": 3, "heads_per_rank": 1, "blocks": 8, "equal": True}


@pytest.mark.parametrize("width", [1, 2, 4, 8])
def test_demo_takes_other_shapes_and_ranks(width: int) -> None:
    result = kvbm_json("demo", *TINY, "--width", width, "--blocks", 5, "--ranks", 6, "--rounds", 1)
    assert result["ok"] is True
    assert result["tp"]["ranks"] == 6


def test_demo_refuses_a_flipped_bit_alone() -> None:
    result = kvbm_json("demo", "--blocks", 12, "--corrupt")
    assert result["ok"] is True
    assert result["blocks_equal"] == 11
    assert [failed["block"] for failed in result["failed"]] == [4]
    assert result["failed"][0]["code"] == "Corrupt"
    assert "demo.kvbm" in result["failed"][0]["message"]


def test_demo_refuses_ranks_that_do_not_divide_the_heads() -> None:
    result = kvbm("demo", "--ranks", 2, expect=USAGE)
    assert_one_sentence(result)
    assert "--ranks 2" in result.stderr


def test_demo_does_not_overwrite_a_file(tmp_path: Path) -> None:
    file = tmp_path / "mine"
    file.write_text("mine")
    assert_one_sentence(kvbm("demo", "--path", file, expect=ERROR))
    assert file.read_text() == "mine"


def test_demo_names_a_folder_that_does_not_exist() -> None:
    result = kvbm("demo", "--path", "/no/such/folder/file", expect=ERROR)
    assert_one_sentence(result)
    assert "/no/such/folder" in result.stderr


def test_demo_leaves_no_temporary_files(tmp_path: Path) -> None:
    kvbm("demo", *TINY, "--blocks", 4, "--rounds", 1, TMPDIR=str(tmp_path))
    assert list(tmp_path.iterdir()) == []


# --- verify


def test_verify_accepts_what_the_demo_stored(tmp_path: Path) -> None:
    file = stored_demo(tmp_path)
    assert "ok             12" in kvbm("verify", file).stdout
    result = kvbm_json("verify", file)
    assert (result["ok"], result["never_written"], result["corrupt"]) == (12, [], [])


def test_verify_names_a_corrupt_block(tmp_path: Path) -> None:
    file = stored_demo(tmp_path, "--corrupt")
    text = kvbm("verify", file, expect=FINDING).stdout
    assert "corrupt        1: 4" in text
    result = kvbm_json("verify", file, expect=FINDING)
    assert result["ok"] == 11
    assert [entry["block"] for entry in result["corrupt"]] == [4]


def test_verify_does_not_change_the_file(tmp_path: Path) -> None:
    file = stored_demo(tmp_path)
    before = {path.name: path.read_bytes() for path in tmp_path.iterdir()}
    kvbm("verify", file)
    assert {path.name: path.read_bytes() for path in tmp_path.iterdir()} == before


def test_verify_finds_a_truncated_file(tmp_path: Path) -> None:
    file = stored_demo(tmp_path)
    os.truncate(file, file.stat().st_size // 2)
    result = kvbm("verify", file, expect=FINDING)
    assert str(file) in result.stdout + result.stderr


def test_verify_names_a_file_that_is_not_there(tmp_path: Path) -> None:
    result = kvbm("verify", tmp_path / "nothing", expect=ERROR)
    assert_one_sentence(result)
    assert str(tmp_path / "nothing") in result.stderr


def test_verify_refuses_a_file_that_is_no_layout(tmp_path: Path) -> None:
    file = tmp_path / "text"
    file.write_text("text")
    (tmp_path / "text.manifest").write_text("not a manifest")
    assert_one_sentence(kvbm("verify", file, expect=FINDING))


# --- info and doctor


def test_info_says_what_runs_and_why() -> None:
    text = kvbm("info").stdout
    for what in ("version", "copy threads", "host device 0", "disk engine", "NUMA", "CUDA"):
        assert what in text
    result = kvbm_json("info")
    assert result["copy_threads"] >= 1
    assert result["disk_engine"]["engine"] in ("IoUring", "Threads")
    assert result["disk_engine"]["reason"]
    assert isinstance(result["path"]["direct"], bool)


def test_info_measures_limits(tmp_path: Path) -> None:
    limits = kvbm_json("info", "--measure", "--path", tmp_path)["limits"]
    assert len(limits) == 5
    assert all(limit["bytes_per_second"] > 0 for limit in limits)
    assert list(tmp_path.iterdir()) == []


def test_doctor_checks_and_advises() -> None:
    result = kvbm_json("doctor")
    keys = {check["key"] for check in result["checks"]}
    assert {"cpus", "memlock", "huge_pages", "numa", "io_uring", "direct", "cuda", "nixl"} <= keys
    for check in result["checks"]:
        assert check["health"] in ("ok", "info", "warn", "fail")
        assert check["advice"] or check["health"] == "ok"


def test_doctor_strict_turns_warnings_into_1() -> None:
    warnings = kvbm_json("doctor")["warnings"]
    kvbm("doctor", "--strict", expect=FINDING if warnings else OK)


def test_doctor_fails_without_a_usable_folder() -> None:
    text = kvbm("doctor", "--path", "/no/such/folder", expect=FAIL).stdout
    assert "fail: disk tier" in text


def test_doctor_fails_without_enough_room(tmp_path: Path) -> None:
    result = kvbm_json("doctor", "--path", tmp_path, "--needed-gib", 1e9, expect=FAIL)
    assert [c["key"] for c in result["checks"] if c["health"] == "fail"] == ["free_space"]


# --- explain


def test_explain_names_strategy_hops_and_candidates() -> None:
    text = kvbm("explain", "--blocks", 8).stdout
    assert "StreamCopy" in text
    assert "plan:" in text
    result = kvbm_json("explain", "--src", "g1", "--dst", "g3", "--blocks", 8)
    assert result["strategy"] == "StagedFile"
    assert len(result["hops"]) == 2
    assert len(result["candidates"]) == 8
    assert result["total_bytes"] == 8 * result["plan"]["bytes_per_block"]


def test_explain_honours_ranges_and_overrides() -> None:
    whole = kvbm_json("explain", "--blocks", 4)
    part = kvbm_json(
        "explain", "--blocks", 4, "--layer-range", "0:8",
        "--src-head-range", "2:4", "--dst-head-range", "0:2",
    )  # fmt: skip
    assert part["total_bytes"] * 4 * 4 == whole["total_bytes"]
    same = kvbm_json("explain", "--src", "system", "--dst", "system", "--blocks", 4)
    read_as = kvbm_json(
        "explain", "--src", "system", "--dst", "system", "--blocks", 4,
        "--src-read-as", "UniversalTP",
    )  # fmt: skip
    assert same["plan"]["runs_per_block"] < read_as["plan"]["runs_per_block"]


@pytest.mark.parametrize(
    ("arguments", "named"),
    [
        (["--layer-range", "4:2"], "layer_range"),
        (["--layer-range", "0:99"], "layer_range"),
        (["--layer-range", "half"], "--layer-range half"),
        (["--src", "g9"], "g9"),
        (["--src-kind", "zigzag"], "zigzag"),
        (["--src-format", "Spiral"], "Spiral"),
        (["--src-kind", "ls", "--src-format", "UniversalTP"], "UniversalTP"),
    ],
)
def test_explain_names_what_it_refuses(arguments: list[str], named: str) -> None:
    result = kvbm("explain", "--blocks", 4, *arguments, expect=USAGE)
    assert_one_sentence(result)
    assert named in result.stderr


# --- bench


BENCH = ["bench", "--workload", "smollm2-135m", "--blocks", 4, "--repeat", 2]


def test_bench_prints_a_row_per_case(tmp_path: Path) -> None:
    result = kvbm_json(
        *BENCH, "--direction", "system-system,g1-g2,g2-g1,g2-g3,g3-g2,g1-g3,g3-g1",
        "--ids", "random,contiguous", "--path", tmp_path,
    )  # fmt: skip
    assert len(result["cases"]) == 14
    for case in result["cases"]:
        assert case["bytes"] == 4 * 360 * 1024
        assert case["bytes_per_second"] > 0
        assert case["share_of_limit"] > 0
        assert case["p99_seconds"] >= case["p50_seconds"] >= case["submit_seconds"] > 0
    assert list(tmp_path.iterdir()) == []


def test_bench_markdown_is_a_table() -> None:
    text = kvbm(*BENCH, "--direction", "system-pinned", "--markdown").stdout
    assert "| direction |" in text
    assert "| --- |" in text


@pytest.mark.parametrize("engine", ["auto", "threads"])
def test_bench_takes_threads_and_engine(engine: str) -> None:
    result = kvbm_json(*BENCH, "--direction", "g2-g3", "--threads", 1, "--engine", engine)
    assert result["threads"] == 1


@pytest.mark.parametrize(
    ("arguments", "named"),
    [
        (["--direction", "up"], "up"),
        (["--direction", "g1-g7"], "g7"),
        (["--ids", "odd"], "odd"),
        (["--engine", "steam"], "steam"),
        (["--workload", "gpt-0"], "gpt-0"),
    ],
)
def test_bench_names_what_it_refuses(arguments: list[str], named: str) -> None:
    result = kvbm("bench", *arguments, expect=USAGE)
    assert_one_sentence(result)
    assert named in result.stderr


def test_figures_come_with_their_comparison(tmp_path: Path) -> None:
    result = kvbm_json(
        "bench", "figures", "--only", "copy,submit,bookkeeping,checksum,disk", "--mib", 4,
        "--disk-mib", 4, "--max-blocks", 1000, "--repeat", 1, "--disk-repeat", 1, "--no-fio",
        "--path", tmp_path,
    )  # fmt: skip
    assert all(row["share"] > 0 for row in result["copy"] + result["checksum"])
    assert all(row["share_of_raw"] > 0 for row in result["disk"])
    assert [row["blocks"] for row in result["submit"]] == [1, 100, 256, 1000]
    assert len(result["bookkeeping"]) == 4
    assert list(tmp_path.iterdir()) == []


def test_figures_name_an_unknown_one() -> None:
    result = kvbm("bench", "figures", "--only", "beauty", expect=USAGE)
    assert_one_sentence(result)
    assert "beauty" in result.stderr


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
