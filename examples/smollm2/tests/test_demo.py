# SPDX-License-Identifier: Apache-2.0
"""The demo from end to end, on a short prompt, and that it notices when something differs."""

from __future__ import annotations

import copy
import json
import os
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

import kvbm_cpp as kvbm
import pytest

import demo
import report
import tiers
from backend import HostBackend

DEMO = Path(demo.__file__)
SHORT = ["--tokens", "150", "--generate", "6"]
BLOCKS = 150 // 16

Results = dict[str, Any]


def run(*arguments: str) -> subprocess.CompletedProcess[str]:
    return subprocess.run(
        [sys.executable, str(DEMO), *arguments],
        capture_output=True,
        text=True,
        env={**os.environ, "OPENBLAS_NUM_THREADS": "1"},
    )


@pytest.fixture(scope="module")
def kept(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The folder of a run that went well, with everything in it."""
    folder = tmp_path_factory.mktemp("demo")
    result = run(*SHORT, "--workdir", str(folder), "--keep", "--json")
    assert result.returncode == 0, result.stdout + result.stderr
    (folder / "stdout.json").write_text(result.stdout)
    (folder / "stderr.txt").write_text(result.stderr)
    return folder


@pytest.fixture(scope="module")
def result(kept: Path) -> Results:
    loaded: Results = json.loads((kept / "stdout.json").read_text())
    return loaded


def load(folder: Path) -> tuple[Results, Results, list[Results]]:
    before, after, *ranks = (
        json.loads((folder / f"{name}.json").read_text())
        for name in ("prefill", "onboard", "rank0", "rank1", "rank2")
    )
    return before, after, ranks


def test_everything_is_equal(result: Results) -> None:
    assert result["passed"]
    assert result["blocks"] == BLOCKS
    assert result["prompt_tokens"] == 150
    assert result["generated_tokens"] == 6
    assert result["refused"] == {}
    names = [check["name"] for check in result["checks"]]
    assert sum(name.startswith("TP rank") for name in names) == 3
    assert "first logits bit-equal" in names


def test_a_second_prompt_finds_what_it_shares(result: Results) -> None:
    shown = result["prefix"]
    assert shown["passed"]
    assert shown["shared_tokens"] == 128
    assert [row["tier"] for row in shown["rows"]][:4] == ["none", "G1", "G2", "G3"]


def test_only_the_tail_is_prefilled_again(result: Results) -> None:
    assert result["prefilled_tokens"] == {"prefill": 150, "onboard": 150 - BLOCKS * 16}


def test_every_hop_is_timed_and_compared(result: Results) -> None:
    hops = result["hops"]
    assert [hop["name"] for hop in hops] == ["G1 -> G2", "G2 -> G3", "G3 -> G2", "G2 -> G1"]
    for hop in hops:
        assert hop["blocks"] == BLOCKS
        assert hop["bytes"] == BLOCKS * 30 * 2 * 16 * 3 * 64 * 4
        assert hop["rate"] > 0
        assert hop["limit_rate"] > 0
        assert hop["share_of_limit"] == pytest.approx(hop["rate"] / hop["limit_rate"])
        assert hop["limit_how"]


def test_progress_is_told_on_stderr(kept: Path) -> None:
    told = (kept / "stderr.txt").read_text()
    for word in ("[prefill]", "[onboard]", "[rank 2]", "first token after", "[prefix]", "kept "):
        assert word in told


def test_processes_are_five(kept: Path) -> None:
    before, after, ranks = load(kept)
    assert len({before["pid"], after["pid"], *(rank["pid"] for rank in ranks)}) == 5


def test_table_and_picture(kept: Path, tmp_path: Path) -> None:
    picture = tmp_path / "demo.png"
    shown = run("report", "--workdir", str(kept), "--plot", str(picture))
    assert shown.returncode == 0, shown.stderr
    assert "everything is equal" in shown.stdout
    assert "UniversalTP -> NHD" in shown.stdout
    assert max(len(line) for line in shown.stdout.splitlines()) < 400
    assert picture.read_bytes().startswith(b"\x89PNG")


def test_a_flipped_bit_costs_one_block_and_no_token(tmp_path: Path) -> None:
    folder = tmp_path / "work"
    result = run(*SHORT, "--workdir", str(folder), "--corrupt", "--json")
    assert result.returncode == 0, result.stdout + result.stderr
    told = json.loads(result.stdout)
    damaged = str(BLOCKS // 2)
    assert list(told["refused"]) == [damaged]
    assert "kv.store" in told["refused"][damaged]
    assert told["prefilled_tokens"]["onboard"] == 150 - BLOCKS * 16 + 16
    assert told["passed"]
    # What the demo made in a folder of the caller is gone, the folder is not.
    assert list(folder.iterdir()) == []


def change_token(before: Results, after: Results, ranks: list[Results]) -> None:
    after["tokens"][3] += 1


def lose_tokens(before: Results, after: Results, ranks: list[Results]) -> None:
    before["tokens"], after["tokens"] = [], []


def change_block(before: Results, after: Results, ranks: list[Results]) -> None:
    after["checksums"]["2"] = "0" * 32


def lose_block(before: Results, after: Results, ranks: list[Results]) -> None:
    del after["checksums"]["2"]


def change_pinned(before: Results, after: Results, ranks: list[Results]) -> None:
    before["pinned_checksums"][0] = "0" * 32


def change_disk(before: Results, after: Results, ranks: list[Results]) -> None:
    before["disk_checksums"][0] = "0" * 32


def change_logits(before: Results, after: Results, ranks: list[Results]) -> None:
    after["first_logits"] = "0" * 32


def skip_wiping(before: Results, after: Results, ranks: list[Results]) -> None:
    before["wiped"] = False


def share_process(before: Results, after: Results, ranks: list[Results]) -> None:
    after["pid"] = before["pid"]


def prefill_all(before: Results, after: Results, ranks: list[Results]) -> None:
    after["prefilled_tokens"] = before["prefilled_tokens"]


def refuse_block(before: Results, after: Results, ranks: list[Results]) -> None:
    after["refused"]["1"] = "kv.store"


def change_head(before: Results, after: Results, ranks: list[Results]) -> None:
    ranks[1]["head_checksums"][0]["0"] = "0" * 32


def swap_heads(before: Results, after: Results, ranks: list[Results]) -> None:
    ranks[0]["head_checksums"], ranks[2]["head_checksums"] = (
        ranks[2]["head_checksums"],
        ranks[0]["head_checksums"],
    )


def lose_head(before: Results, after: Results, ranks: list[Results]) -> None:
    ranks[2]["head_checksums"][0].clear()


FAULTS: list[tuple[Callable[[Results, Results, list[Results]], None], str]] = [
    (change_token, "tokens equal"),
    (lose_tokens, "tokens equal"),
    (change_block, "checksums equal: G1 again"),
    (lose_block, "every block arrived or was refused"),
    (change_pinned, "checksums equal: G2"),
    (change_disk, "checksums equal: G3"),
    (change_logits, "first logits bit-equal"),
    (skip_wiping, "G1 and G2 wiped before"),
    (share_process, "onboarded by another process"),
    (prefill_all, "prompt tokens prefilled again"),
    (refuse_block, "no block refused"),
    (change_head, "TP rank 1: KV heads 1 to 2 equal"),
    (swap_heads, "TP rank 0: KV heads 0 to 1 equal"),
    (lose_head, "TP rank 2: KV heads 2 to 3 equal"),
]


@pytest.mark.parametrize(
    ("fault", "check"), FAULTS, ids=lambda given: getattr(given, "__name__", "")
)
def test_a_difference_is_found(
    kept: Path, fault: Callable[[Results, Results, list[Results]], None], check: str
) -> None:
    before, after, ranks = copy.deepcopy(load(kept))
    assert all(found.passed for found in report.compare(before, after, ranks, None))
    fault(before, after, ranks)
    failed = [
        found.name for found in report.compare(before, after, ranks, None) if not found.passed
    ]
    assert check in failed


def test_a_difference_is_the_exit_status(kept: Path, tmp_path: Path) -> None:
    for file in kept.glob("*.json"):
        (tmp_path / file.name).write_bytes(file.read_bytes())
    after = json.loads((tmp_path / "onboard.json").read_text())
    after["tokens"][0] += 1
    (tmp_path / "onboard.json").write_text(json.dumps(after))
    shown = run("report", "--workdir", str(tmp_path))
    assert shown.returncode == 1
    assert "SOMETHING DIFFERS" in shown.stdout
    assert "DIFFERS  5 of 6" in shown.stdout


def test_one_bit_in_g1_is_seen_by_its_checksum(kept: Path) -> None:
    # What the comparison stands on: nothing that is wrong in the engine's memory has the right sum.
    before = json.loads((kept / "prefill.json").read_text())
    with kvbm.TransferManager(host_devices=1, host_device_bytes=1 << 28) as manager:
        shape = before["shape"]
        sizes = (shape["num_layers"], shape["num_kv_heads"], shape["head_dim"])
        cache = HostBackend().engine_cache(manager, *sizes, before["cache_blocks"], 9)
        g1, g3 = tiers.register_cache(manager, cache), tiers.open_store(manager, kept)
        physical = cache.physical_blocks(range(BLOCKS))
        assert tiers.move(manager, g3, range(BLOCKS), g1, physical) == []
        cache.layers[7].view("uint32")[1, physical[4], 3, 2, 1] ^= 1
        sums = {
            str(block): str(checksum)
            for block, checksum in enumerate(manager.block_checksums(g1, physical))
        }
    wrong = [block for block, found in sums.items() if found != before["checksums"][int(block)]]
    assert wrong == ["4"]


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (["--generate", "0"], "--generate is 0"),
        (["onboard"], "needs --workdir"),
        (["--plot", "x.pdf"], "must end in .png"),
        (["--tokens", "10"], "--tokens is 10"),
        (["sideways"], "invalid choice"),
    ],
)
def test_wrong_calls_say_what_to_do(arguments: list[str], message: str) -> None:
    result = run(*arguments)
    assert result.returncode == 2
    assert message in result.stderr


def test_steps_need_the_steps_before(tmp_path: Path) -> None:
    result = run("onboard", "--workdir", str(tmp_path))
    assert result.returncode == 2
    assert "run the step 'prefill' first" in result.stderr


def test_a_store_that_is_there_is_left_alone(tmp_path: Path) -> None:
    (tmp_path / "kv.store").write_bytes(b"somebody's")
    result = run(*SHORT, "--workdir", str(tmp_path))
    assert result.returncode == 2
    assert "give another --workdir" in result.stderr
    assert (tmp_path / "kv.store").read_bytes() == b"somebody's"


@pytest.mark.parametrize(
    ("error", "named"),
    [
        ("/x/kv.store: extent 4 of group 0 is damaged", True),
        ("/x/kv.store: extent 14 of group 0 is damaged", False),
        ("/x/4/kv.store: extent 3 of group 0 is damaged", False),
        ("/x/other: extent 4 of group 0 is damaged", False),
    ],
)
def test_an_error_has_to_name_file_and_block(kept: Path, error: str, named: bool) -> None:
    before, after, ranks = copy.deepcopy(load(kept))
    del after["checksums"]["4"]
    after["refused"]["4"] = error
    after["prefilled_tokens"] += 16
    for rank in ranks:
        rank["refused"]["4"] = error
        for sums in rank["head_checksums"]:
            del sums["4"]
    failed = [found.name for found in report.compare(before, after, ranks, 4) if not found.passed]
    assert failed == ([] if named else ["damaged block refused"])
