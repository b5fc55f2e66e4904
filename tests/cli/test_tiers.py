# SPDX-License-Identifier: Apache-2.0
"""The tiers below memory: bench disk, object and prefix, verify, and what doctor says of them."""

from __future__ import annotations

import json
import shutil
import signal
import struct
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
from object_server import KEYS, NOWHERE, closed_port, needs_moto, serve
from program import BINARY, ERROR, FAIL, FINDING, OK, USAGE, assert_one_sentence, is_built, kvbm

pytestmark = is_built

BUCKET = "kvbm-cli"
SMALL = ["--workload", "65536", "--mib", 1, "--repeat", 1]


def result_of(*arguments: object, expect: int = OK, **environment: str) -> Any:
    return json.loads(kvbm(*arguments, "--json", expect=expect, **environment).stdout)


@pytest.fixture(scope="module")
def s3(tmp_path_factory: pytest.TempPathFactory) -> Iterator[dict[str, str]]:
    """The environment in which a server with the bucket is found."""
    for endpoint in serve(tmp_path_factory.mktemp("moto"), BUCKET):
        yield {"AWS_ENDPOINT_URL": endpoint, **KEYS, **NOWHERE}


@pytest.mark.parametrize("name", ["disk", "object", "prefix"])
def test_help_names_the_output(name: str) -> None:
    text = kvbm("bench", name, "--help").stdout
    assert all(flag in text for flag in ("--json", "--markdown", "--save"))


# --- bench disk


def test_bench_disk_compares_rates_hops_and_the_verify(tmp_path: Path) -> None:
    result = result_of("bench", "disk", "--quick", "--no-fio", "--path", tmp_path)
    assert {row["direction"] for row in result["disk"]} == {"G2 -> G3", "G3 -> G2"}
    assert {row["workload"] for row in result["disk"]} == {"llama3-8b", "smollm2-135m"}
    assert all(row["share_of_raw"] > 0 and row["share_of_fio"] is None for row in result["disk"])
    assert {row["direction"] for row in result["hops"]} == {"G1 -> G3", "G3 -> G1"}
    assert all(row["share"] > 0 for row in result["hops"])
    assert all(row["checksum_bytes_per_second"] > 0 for row in result["verify"])
    assert result["gds"] == []
    assert list(tmp_path.iterdir()) == []


@pytest.mark.skipif(shutil.which("fio") is None, reason="fio is not installed")
@pytest.mark.parametrize("engine", ["auto", "threads"])
def test_bench_disk_takes_turns_with_fio(tmp_path: Path, engine: str) -> None:
    rows = result_of(
        "bench", "disk", *SMALL, "--sections", "rates", "--engine", engine, "--path", tmp_path
    )["disk"]
    assert len(rows) == 2
    assert all(row["share_of_fio"] > 0 for row in rows)


def test_bench_disk_goes_over_several_files_and_depths(tmp_path: Path) -> None:
    folders = [tmp_path / name for name in "ab"]
    for folder in folders:
        folder.mkdir()
    save = tmp_path / "saved.json"
    result = result_of(
        "bench", "disk", *SMALL, "--no-fio", "--sections", "rates", "--engine", "auto",
        "--depth", "4,32", "--paths", ",".join(map(str, folders)), "--save", save,
    )  # fmt: skip
    assert {(row["files"], row["block_bytes"]) for row in result["disk"]} == {
        (1, 65536),
        (2, 65536),
    }
    assert json.loads(save.read_text()) == result
    assert all(list(folder.iterdir()) == [] for folder in folders)


@pytest.mark.parametrize(
    ("arguments", "named"),
    [
        (["disk", "--workload", "gpt-0"], "gpt-0"),
        (["disk", "--workload", "17"], "17"),
        (["disk", "--sections", "beauty"], "beauty"),
        (["disk", "--engine", "steam"], "steam"),
        (["disk", "--device", "abacus"], "abacus"),
        (["disk", "--depth", "0"], "--depth 0"),
        (["prefix", "--tiers", "g7"], "g7"),
        (["prefix", "--sections", "beauty"], "beauty"),
        (["prefix", "--blocks", "0"], "--blocks 0"),
        (["prefix", "--device", "abacus"], "abacus"),
        (["object", "--connections", "0", "--endpoint", "http://127.0.0.1:9"], "--connections 0"),
    ],
)
def test_tier_benches_name_what_they_refuse(arguments: list[str], named: str) -> None:
    result = kvbm("bench", *arguments, expect=USAGE, **KEYS)
    assert_one_sentence(result)
    assert named in result.stderr


def test_bench_names_who_measures_objects() -> None:
    result = kvbm("bench", "--direction", "g2-g4", expect=USAGE)
    assert_one_sentence(result)
    assert "bench object" in result.stderr


# --- verify, on the stores that bench disk leaves


def kept_store(folder: Path, files: int = 1) -> list[Path]:
    """16 blocks of 64 KiB in one file, or in turn in several."""
    parts = [folder / f"part{i}" for i in range(files)]
    for part in parts:
        part.mkdir()
    kvbm(
        "bench", "disk", *SMALL, "--no-fio", "--sections", "rates", "--engine", "threads",
        "--keep", "--paths", ",".join(map(str, parts)),
    )  # fmt: skip
    ending = f"-{files}"
    return [next(path for path in part.iterdir() if path.name.endswith(ending)) for part in parts]


def flip(path: Path, offset: int) -> None:
    with path.open("r+b") as file:
        file.seek(offset)
        byte = file.read(1)[0]
        file.seek(offset)
        file.write(bytes([byte ^ 1]))


def test_verify_accepts_what_bench_disk_keeps(tmp_path: Path) -> None:
    (file,) = kept_store(tmp_path)
    result = result_of("verify", file, "--strict")
    assert (result["unit"], result["blocks"], result["ok"]) == ("block", 16, 16)
    assert (result["never_written"], result["torn"], result["corrupt"]) == ([], [], [])
    assert result["bytes"] == 16 * 65536
    assert [entry["path"] for entry in result["files"]] == [str(file)]
    assert result["space"]["extents_written"] == 16


def test_verify_names_blocks_of_a_set_of_files(tmp_path: Path) -> None:
    files = kept_store(tmp_path, 2)
    result = result_of("verify", files[0])
    assert (result["blocks"], result["ok"]) == (16, 16)
    assert [entry["path"] for entry in result["files"]] == [str(file) for file in files]
    flip(files[1], 3 * 65536 + 7)  # the fourth block of the second file
    damaged = result_of("verify", files[0], expect=FINDING)
    assert damaged["ok"] == 15
    assert [entry["block"] for entry in damaged["corrupt"]] == [7]
    assert str(files[1]) in damaged["corrupt"][0]["reason"]
    text = kvbm("verify", files[0], expect=FINDING).stdout
    assert "corrupt        1: 7" in text
    assert "part" in text


def test_verify_names_a_part_that_is_gone(tmp_path: Path) -> None:
    files = kept_store(tmp_path, 2)
    files[1].unlink()
    result = kvbm("verify", files[0], expect=ERROR)
    assert_one_sentence(result)
    assert str(files[1]) in result.stderr


def test_verify_refuses_the_second_file_of_a_set_alone(tmp_path: Path) -> None:
    files = kept_store(tmp_path, 2)
    assert_one_sentence(kvbm("verify", files[1], expect=USAGE))


def states(table: Path) -> list[int]:
    """Of the records of a store: 32 bytes each, the state at 16; 1 is Writing."""
    data = table.read_bytes() if table.exists() else b""
    return [struct.unpack_from("<I", data, at + 16)[0] for at in range(0, len(data) - 31, 32)]


def killed_while_writing(folder: Path) -> Path:
    """A store whose writer was killed with blocks under way."""
    arguments = [str(BINARY), "bench", "disk", "--workload", "1048576", "--mib", "64", "--no-fio",
                 "--repeat", "1000", "--sections", "rates", "--engine", "threads", "--keep",
                 "--path", str(folder)]  # fmt: skip
    with subprocess.Popen(arguments, stdout=subprocess.DEVNULL) as writer:
        try:
            table = None
            while table is None or 1 not in states(table):
                assert writer.poll() is None
                table = next(folder.glob("kvbm-*.blocks"), None)
        finally:
            writer.send_signal(signal.SIGKILL)
    return table.with_suffix("")


def test_verify_tells_torn_from_corrupt(tmp_path: Path) -> None:
    for attempt in range(20):  # the writes may have ended before the signal came
        folder = tmp_path / str(attempt)
        folder.mkdir()
        file = killed_while_writing(folder)
        if 1 in states(file.with_name(file.name + ".blocks")):
            break
    result = result_of("verify", file)
    assert result["torn"]
    assert result["corrupt"] == []
    assert result["ok"] + len(result["torn"]) + len(result["never_written"]) == 64
    assert result_of("verify", file, "--strict", expect=FINDING)["torn"] == result["torn"]
    assert f"torn           {len(result['torn'])}: " in kvbm("verify", file).stdout


# --- bench prefix


def test_bench_prefix_finds_blocks_where_they_are(tmp_path: Path) -> None:
    result = result_of(
        "bench", "prefix", "--quick", "--workload", "65536", "--tiers", "g1,g2,g3",
        "--blocks", "1,4", "--path", tmp_path,
    )  # fmt: skip
    assert [(row["tier"], row["blocks"]) for row in result["hits"]] == [
        (tier, blocks) for tier in ("G1", "G2", "G3") for blocks in (1, 4)
    ]
    for row in result["hits"]:
        assert row["elsewhere"] == 0
        assert row["p99_seconds"] >= row["p50_seconds"] > 0
    assert [row["keys"] for row in result["lookups"]] == [1, 16, 64, 1024]
    assert [(row["policy"], row["room"]) for row in result["offloads"]] == [
        (policy, room) for room in ("all", "a quarter") for policy in ("through", "back")
    ]
    for row in result["offloads"]:
        assert row["failed"] == 0
        assert row["written"] == row["blocks"]
    assert list(tmp_path.iterdir()) == []


def test_bench_prefix_leaves_objects_out_without_a_server(tmp_path: Path) -> None:
    result = result_of(
        "bench", "prefix", "--quick", "--workload", "65536", "--sections", "hits", "--blocks", 1,
        "--tiers", "g2,g4", "--path", tmp_path, KVBM_MOTO_SERVER="/nonexistent/moto_server",
    )  # fmt: skip
    assert [row["tier"] for row in result["hits"]] == ["G2"]
    assert "moto_server" in result["g4_skipped"]


@needs_moto
def test_bench_prefix_finds_objects_and_leaves_none(tmp_path: Path, s3: dict[str, str]) -> None:
    result = result_of(
        "bench", "prefix", "--quick", "--workload", "65536", "--sections", "hits",
        "--tiers", "g4", "--blocks", "1,4", "--path", tmp_path,
        "--endpoint", s3["AWS_ENDPOINT_URL"], "--bucket", BUCKET, **s3,
    )  # fmt: skip
    assert [(row["tier"], row["blocks"]) for row in result["hits"]] == [("G4", 1), ("G4", 4)]
    assert all(row["elsewhere"] == 0 for row in result["hits"])


# --- bench object


OBJECT = ["bench", "object", "--block-bytes", 4096, "--connections", 4, "--mib", 1, "--repeat", 1,
          "--shared-bytes", 4096, "--blocks-per-object", "1,4"]  # fmt: skip


@needs_moto
def test_bench_object_starts_a_server_of_its_own() -> None:
    result = result_of(*OBJECT)
    assert all(row["put"] > 0 and row["get"] > 0 for row in result["object"])
    assert [row["blocks_per_object"] for row in result["blocks_per_object"]] == [1, 4]
    assert all(row["write_seconds"] > 0 for row in result["blocks_per_object"])


@needs_moto
def test_bench_object_compares_with_other_clients(s3: dict[str, str]) -> None:
    pytest.importorskip("boto3")
    result = result_of(
        *OBJECT, "--endpoint", s3["AWS_ENDPOINT_URL"], "--bucket", BUCKET,
        "--python", sys.executable, **s3,
    )  # fmt: skip
    assert all(row["put_share"] > 0 and row["peer_get_way"] for row in result["object"])


def test_bench_object_says_what_is_missing() -> None:
    result = kvbm(*OBJECT, "--moto", "/nonexistent/moto_server", expect=ERROR)
    assert_one_sentence(result)
    assert "/nonexistent/moto_server" in result.stderr


def test_bench_object_names_a_server_that_is_not_there() -> None:
    endpoint = f"http://127.0.0.1:{closed_port()}"
    result = kvbm(*OBJECT, "--endpoint", endpoint, expect=ERROR, **KEYS)
    assert_one_sentence(result)
    assert endpoint in result.stderr


# --- explain, info, doctor


def test_explain_says_what_objects_need() -> None:
    result = kvbm("explain", "--src", "g2", "--dst", "g4", "--blocks", 4, expect=USAGE, **NOWHERE)
    assert_one_sentence(result)
    assert "--bucket" in result.stderr
    assert "AWS_ENDPOINT_URL" in result.stderr


@needs_moto
@pytest.mark.parametrize(("src", "dst"), [("g1", "g4"), ("g4", "g2")])
def test_explain_knows_objects(s3: dict[str, str], src: str, dst: str) -> None:
    result = result_of(
        "explain", "--src", src, "--dst", dst, "--blocks", 4, "--bucket", BUCKET, **s3
    )
    assert "Object" in result["src"] + result["dst"]
    assert result["hops"]


def checks_of(*arguments: object, expect: int = OK, **environment: str) -> dict[str, Any]:
    result = result_of("doctor", *arguments, expect=expect, **{**NOWHERE, **environment})
    return {check["key"]: check for check in result["checks"]}


def test_doctor_and_info_take_absent_objects_for_no_fault() -> None:
    nothing = dict.fromkeys((*KEYS, "AWS_ENDPOINT_URL", "AWS_ENDPOINT_URL_S3"), "")
    checks = checks_of(**nothing)
    assert checks["object_credentials"]["health"] == "info"
    assert checks["object_endpoint"]["health"] == "info"
    assert checks["gds"]["health"] in ("ok", "info")
    result = result_of("info", **{**NOWHERE, **nothing})
    assert result["objects"]["asked"] is False
    assert result["direct_storage"]["mode"] in ("Refused", "Compatible", "Direct")


def test_doctor_warns_of_a_server_that_does_not_answer() -> None:
    checks = checks_of(AWS_ENDPOINT_URL=f"http://127.0.0.1:{closed_port()}", **KEYS)
    assert checks["object_endpoint"]["health"] == "warn"
    assert checks["object_credentials"]["found"] == "from the environment"


@needs_moto
def test_doctor_asks_server_and_bucket_and_keeps_the_secret(s3: dict[str, str]) -> None:
    checks = checks_of("--bucket", BUCKET, **s3)
    assert checks["object_endpoint"]["health"] == "ok"
    assert checks["object_bucket"]["health"] == "ok"
    missing = checks_of("--bucket", "no-such-bucket", expect=FAIL, **s3)
    assert missing["object_bucket"]["health"] == "fail"
    for verb in ("doctor", "info"):
        text = kvbm(verb, **s3).stdout
        assert "object" in text
        assert KEYS["AWS_SECRET_ACCESS_KEY"] not in text
