# SPDX-License-Identifier: Apache-2.0
"""Workers from the command line: two processes, with NIXL where it is installed and without."""

from __future__ import annotations

import json
import os
import signal
import subprocess
import time
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


def why_no_workers() -> str:
    if not BINARY.exists():
        return f"{BINARY} is not built"
    nixl = kvbm_json("info")["nixl"]
    return "" if nixl["ucx"] else f"no workers without NIXL: {nixl['reason'] or nixl['ucx_reason']}"


WHY_NOT = why_no_workers()
needs_nixl = pytest.mark.skipif(bool(WHY_NOT), reason=WHY_NOT)

NOWHERE = {"KVBM_NIXL_LIBRARY": "/no/such/libnixl_capi.so"}
QUICK = ["bench", "remote", "--quick", "--mib", 1, "--repeat", 1, "--rounds", 5]


def remote_bench(*arguments: object) -> dict:
    return kvbm_json(*QUICK, *arguments)


def workers_of(parent: int) -> list[int]:
    found = []
    for status in Path("/proc").glob("[0-9]*/stat"):
        try:
            fields = status.read_text().rsplit(")", 1)[1].split()
        except OSError:
            continue
        if int(fields[1]) == parent and fields[0] != "Z":
            found.append(int(status.parent.name))
    return found


# --- without NIXL


@pytest.mark.parametrize("verb", [["demo", "--workers", 2], ["bench", "remote", "--quick"]])
def test_without_nixl_says_in_one_sentence_what_to_do(verb: list) -> None:
    result = kvbm(*verb, expect=ERROR, **NOWHERE)
    assert_one_sentence(result)
    assert "/no/such/libnixl_capi.so" in result.stderr
    assert "pip install" in result.stderr


def test_a_library_that_is_no_nixl_is_refused(tmp_path: Path) -> None:
    fake = tmp_path / "libnixl_capi.so"
    fake.write_bytes(b"no library")
    result = kvbm("demo", "--workers", 2, expect=ERROR, KVBM_NIXL_LIBRARY=str(fake))
    assert_one_sentence(result)
    assert str(fake) in result.stderr


def test_doctor_and_info_do_without_nixl() -> None:
    doctor = json.loads(kvbm("doctor", "--json", **NOWHERE).stdout)
    checks = {check["key"]: check for check in doctor["checks"]}
    assert checks["nixl"]["health"] == "info"
    assert "pip install" in checks["nixl"]["advice"]
    assert "nixl_ucx" not in checks
    info = json.loads(kvbm("info", "--json", **NOWHERE).stdout)["nixl"]
    assert info["found"] is False
    assert info["ucx"] is False


def test_doctor_tries_what_processes_may_do_with_each_other() -> None:
    checks = {check["key"]: check for check in kvbm_json("doctor")["checks"]}
    assert checks["map_peers"]["health"] in ("ok", "warn")
    assert checks["cma"]["health"] in ("ok", "warn")
    assert "ptrace_scope" in checks["cma"]["found"]


@pytest.mark.parametrize(
    ("arguments", "named"),
    [
        (["demo", "--workers", 3], "--workers"),
        (["demo", "--workers", 2, "--corrupt"], "--corrupt"),
        (["bench", "remote", "--sections", "nothing"], "nothing"),
        (["bench", "remote", "--runs", 100], "100"),
        (["bench", "remote", "--runs", 4194304, "--mib", 1], "4194304"),
        (["bench", "remote", "--mib", 512], "--area-mib"),
        (["bench", "remote", "--ids", "sorted"], "sorted"),
    ],
)
def test_wrong_values_are_named(arguments: list, named: str) -> None:
    result = kvbm(*arguments, expect=USAGE)
    assert_one_sentence(result)
    assert named in result.stderr


def test_the_worker_verb_is_hidden_and_ends_with_its_parent() -> None:
    assert "remote-worker" not in kvbm("--help").stdout
    # Whoever is not its parent gets no worker.
    result = subprocess.run(
        [str(BINARY), "remote-worker", "--parent", "1"],
        stdin=subprocess.DEVNULL,
        capture_output=True,
        timeout=20,
        check=False,
    )
    assert result.returncode == 0


# --- with NIXL


@needs_nixl
def test_demo_moves_every_block_between_processes_and_survives_the_loss() -> None:
    result = kvbm_json("demo", "--workers", 2, "--blocks", 24, "--rounds", 1)
    assert result["ok"] is True
    ways = {way["way"]: way for way in result["ways"]}
    assert "mapped" in ways["mapped"]["how"]
    assert "NIXL" in ways["wire"]["how"]
    assert ways["wire"]["strategy"].endswith("Remote")
    for way in ways.values():
        assert way["blocks_equal"] == 24
        assert way["notified"] is True
        assert way["bytes"] == 24 * 360 * 1024
        assert 0 < way["told_seconds"] < way["first_block_seconds"]
    assert result["lost"]["code"] == "PeerLost"
    assert result["lost"]["goes_on"] is True
    assert 0 < result["lost"]["seconds"] < 20


@needs_nixl
@pytest.mark.parametrize("width", [1, 4])
def test_demo_takes_other_shapes(width: int) -> None:
    arguments = ["--workers", 2, "--blocks", 5, "--rounds", 1, *TINY, "--width", width]
    assert kvbm_json("demo", *arguments)["ok"] is True


@needs_nixl
def test_demo_says_so_in_words() -> None:
    text = kvbm("demo", "--workers", 2, "--blocks", 8, "--rounds", 1).stdout
    assert "prefill G2 -> decode G1" in text
    assert "mapped memory" in text
    assert "PeerLost" in text
    assert text.rstrip().endswith("all equal")


@needs_nixl
def test_bench_sweeps_ways_beside_the_limits(tmp_path: Path) -> None:
    saved = tmp_path / "remote.json"
    result = remote_bench("--sections", "sweep", "--save", saved)
    # 2 runs x 2 orders x 2 directions, and over tcp without mapped memory
    assert len(result["sweep"]) == 16
    ways = {case["way"] for case in result["cases"]}
    assert ways == {"memcpy", "memcpy2", "mapped", "nixl", "direct", "staged", "packed", "auto"}
    assert all(case["bytes_per_second"] > 0 for case in result["cases"])
    mapped = [case for case in result["cases"] if case["way"] == "mapped"]
    assert {case["transport"] for case in mapped} == {"default"}
    adjacent = [case for case in result["cases"] if case["ids"] == "contiguous"]
    assert {case["pieces"] for case in adjacent} == {1}
    assert json.loads(saved.read_text()) == result


@needs_nixl
def test_bench_measures_latencies_of_both_sides() -> None:
    result = remote_bench("--sections", "latency", "--transports", "default")
    assert {row["way"] for row in result["latency"]} == {"mapped", "wire"}
    for row in result["latency"]:
        assert 0 < row["sender_p50"] <= row["sender_p99"]
        assert 0 < row["receiver_p50"] <= row["receiver_p99"]


@needs_nixl
def test_bench_sees_a_killed_peer_and_names_it() -> None:
    result = remote_bench("--sections", "faults", "--transports", "default")
    assert len(result["faults"]) == 4
    for row in result["faults"]:
        assert row["code"] == "PeerLost", row["message"]
        assert "kvbm-there" in row["message"]


@needs_nixl
def test_bench_imports_peers_with_many_blocks() -> None:
    result = remote_bench("--sections", "import", "--max-blocks", 1000)
    assert {row["way"] for row in result["import"]} == {"mapped", "wire"}
    assert all(row["blocks"] == 1000 for row in result["import"])


@needs_nixl
def test_bench_leaves_ucx_out_where_its_program_is_missing() -> None:
    result = json.loads(kvbm(*QUICK, "--sections", "ucx", "--json", PATH="/nonexistent").stdout)
    assert "libucx-cu13" in result["ucx_skipped"]


@needs_nixl
def test_no_worker_outlives_its_parent() -> None:
    with subprocess.Popen(
        [str(BINARY), "bench", "remote", "--sections", "latency", "--rounds", "100000"],
        stdout=subprocess.DEVNULL,
        stderr=subprocess.DEVNULL,
        env=os.environ,
    ) as process:
        deadline = time.monotonic() + 60
        while len(workers := workers_of(process.pid)) < 2:
            assert time.monotonic() < deadline
            assert process.poll() is None
            time.sleep(0.01)
        process.send_signal(signal.SIGKILL)
        process.wait(timeout=20)
    while any(Path(f"/proc/{pid}/exe").exists() for pid in workers):
        assert time.monotonic() < deadline
        time.sleep(0.01)


@needs_nixl
def test_doctor_and_info_say_which_nixl_and_that_ucx_starts() -> None:
    checks = {check["key"]: check for check in kvbm_json("doctor")["checks"]}
    assert checks["nixl"]["health"] == "ok"
    assert checks["nixl_ucx"]["health"] == "ok"
    nixl = kvbm_json("info")["nixl"]
    assert nixl["ucx"] is True
    assert nixl["path"].endswith(".so")
    assert "UCX" in nixl["plugins"]
