# SPDX-License-Identifier: Apache-2.0
"""Runs the real binary: every verb's help, its main use, bad input, exit codes and JSON."""

from __future__ import annotations

import os
from pathlib import Path

import pytest
from program import (
    ERROR,
    FAIL,
    FINDING,
    OK,
    TINY,
    USAGE,
    assert_one_sentence,
    is_built,
    kvbm,
    kvbm_json,
)

VERBS = ["demo", "info", "doctor", "bench", "tune", "explain", "verify"]

pytestmark = is_built


def stored_demo(folder: Path, *arguments: str, expect: int = OK) -> Path:
    file = folder / "g3"
    kvbm("demo", *TINY, "--blocks", 12, "--rounds", 1, "--path", file, *arguments, expect=expect)
    return file


# --- every verb


@pytest.mark.parametrize(
    "verb",
    [[], *([verb] for verb in VERBS), *(["bench", name] for name in ("figures", "gpu", "remote"))],
)
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
    assert len(result["candidates"]) == 12
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
