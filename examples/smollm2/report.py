# SPDX-License-Identifier: Apache-2.0
"""Compares what the demo's processes left, and prints it: table, JSON, picture."""

from __future__ import annotations

import re
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from paged_cache import BLOCK_TOKENS
from tiers import REPEATS

Results = dict[str, Any]


@dataclass(frozen=True)
class Check:
    """One thing that has to be equal."""

    name: str
    passed: bool
    detail: str


def _count_equal(name: str, expected: list[str], found: dict[str, str]) -> Check:
    """Compares checksums by block id; a block that is not in `found` was refused."""
    equal = sum(expected[int(block)] == checksum for block, checksum in found.items())
    return Check(name, bool(found) and equal == len(found), f"{equal} of {len(found)} blocks")


def compare(
    before: Results, after: Results, ranks: list[Results], damaged: int | None
) -> list[Check]:
    """Every claim of the demo, checked on the processes' results.

    @param damaged  the block of which a bit was flipped; None for a sound store
    """
    expected_refused = [] if damaged is None else [str(damaged)]
    num_equal = sum(a == b for a, b in zip(before["tokens"], after["tokens"], strict=False))
    checks = [
        Check(
            "tokens equal",
            bool(before["tokens"]) and before["tokens"] == after["tokens"],
            f"{num_equal} of {len(before['tokens'])}",
        ),
        Check(
            "onboarded by another process",
            before["pid"] != after["pid"],
            f"process {before['pid']}, then {after['pid']}",
        ),
        Check("G1 and G2 wiped before", before["wiped"], "no block's checksum was left"),
    ]
    if damaged is None:
        # A block that is prefilled again may differ in its last bits, and so may what follows.
        same = before["first_logits"] == after["first_logits"]
        checks.append(Check("first logits bit-equal", same, before["first_logits"][:16]))
    for name, key in (("G2", "pinned_checksums"), ("G3", "disk_checksums")):
        found = {str(block): checksum for block, checksum in enumerate(before[key])}
        checks.append(_count_equal(f"checksums equal: {name}", before["checksums"], found))
    checks.append(
        _count_equal("checksums equal: G1 again", before["checksums"], after["checksums"])
    )
    checks.append(
        Check(
            "every block arrived or was refused",
            len(after["checksums"]) + len(after["refused"]) == before["blocks"],
            f"{len(after['checksums'])} arrived, {len(after['refused'])} refused",
        )
    )
    checks += _compare_damage(before, after, expected_refused)
    for index, rank in enumerate(ranks):
        checks.append(_compare_rank(before, rank, index, expected_refused))
    return checks


def _compare_damage(before: Results, after: Results, expected: list[str]) -> list[Check]:
    refused = after["refused"]
    # The tail goes through the model anyway, and so does a damaged block in it.
    cached_blocks = (len(before["prompt"]) - 1) // BLOCK_TOKENS
    cached = [block for block in expected if int(block) < cached_blocks]
    wanted = after["tail_tokens"] + BLOCK_TOKENS * len(cached)
    checks = [
        Check(
            "prompt tokens prefilled again",
            after["prefilled_tokens"] == wanted,
            f"{after['prefilled_tokens']} of {len(before['prompt'])}",
        )
    ]
    if expected:
        errors = list(refused.values())
        checks.append(
            Check(
                "damaged block refused",
                list(refused) == expected and _names(errors[0], expected[0]),
                errors[0] if errors else "nothing was refused",
            )
        )
    else:
        checks.append(Check("no block refused", not refused, f"{len(refused)} refused"))
    return checks


def _names(error: str, block: str) -> bool:
    """Whether an error names the file and the block (an extent of the store is a block)."""
    return "kv.store" in error and re.search(rf"(block|extent) {block}\b", error) is not None


def _compare_rank(before: Results, rank: Results, index: int, refused: list[str]) -> Check:
    equal, total = 0, 0
    for number, sums in enumerate(rank["head_checksums"]):
        expected = before["head_checksums"][rank["first_head"] + number]
        equal += sum(expected[int(block)] == checksum for block, checksum in sums.items())
        total += len(sums)
    complete = total == len(rank["head_checksums"]) * (before["blocks"] - len(refused))
    passed = total > 0 and equal == total and complete and list(rank["refused"]) == refused
    heads = len(rank["head_checksums"])
    first = rank["first_head"]
    return Check(
        f"TP rank {index}: KV heads {first} to {first + heads} equal",
        passed,
        f"{equal} of {total} blocks, {rank['seconds'] * 1e3:.0f} ms",
    )


def summary(before: Results, after: Results, checks: list[Check]) -> Results:
    """What `--json` prints; rates in bytes per second, times in seconds."""
    hops = []
    for hop in before["hops"] + after["hops"]:
        hops.append(
            {
                **hop,
                "rate": hop["bytes"] / hop["seconds"],
                "limit_rate": hop["bytes"] / hop["limit_seconds"],
                "share_of_limit": hop["limit_seconds"] / hop["seconds"],
            }
        )
    return {
        "model": before["model"],
        "device": before["device"],
        "prompt_tokens": len(before["prompt"]),
        "generated_tokens": len(before["tokens"]),
        "text": before["text"],
        "blocks": before["blocks"],
        "block_bytes": before["block_bytes"],
        "disk": before["disk"],
        "hops": hops,
        "sync_seconds": before["sync_seconds"],
        "time_to_first_token": {
            "prefill": before["time_to_first_token"],
            "onboard": after["time_to_first_token"],
            "onboard_hops": after["onboard_seconds"],
            "ratio": before["time_to_first_token"] / after["time_to_first_token"],
        },
        "prefilled_tokens": {
            "prefill": before["prefilled_tokens"],
            "onboard": after["prefilled_tokens"],
        },
        "refused": after["refused"],
        "checks": [vars(check) for check in checks],
        "passed": all(check.passed for check in checks),
    }


def rows(rows: list[list[str]], numbers: set[int]) -> list[str]:
    """Aligns columns, numbers to the right; a line under the first row."""
    widths = [max(len(row[i]) for row in rows) for i in range(len(rows[0]))]
    lines = []
    for row in rows:
        cells = [
            cell.rjust(width) if i in numbers else cell.ljust(width)
            for i, (cell, width) in enumerate(zip(row, widths, strict=True))
        ]
        lines.append("  ".join(cells).rstrip())
    lines.insert(1, "  ".join("-" * min(width, 40) for width in widths))
    return lines


def table(result: Results) -> str:
    """The result for people."""
    mib = 1 << 20
    total = result["blocks"] * result["block_bytes"] / mib
    times, prefilled = result["time_to_first_token"], result["prefilled_tokens"]
    formats = {"G1 -> G2": "NHD -> UniversalTP", "G2 -> G1": "UniversalTP -> NHD"}
    hops = [["hop", "format", "blocks", "MiB", "ms", "GB/s", "limit", "share", "limit is"]]
    for hop in result["hops"]:
        hops.append(
            [
                hop["name"],
                formats.get(hop["name"], "UniversalTP"),
                str(hop["blocks"]),
                f"{hop['bytes'] / mib:.1f}",
                f"{hop['seconds'] * 1e3:.1f}",
                f"{hop['rate'] / 1e9:.2f}",
                f"{hop['limit_rate'] / 1e9:.2f}",
                f"{hop['share_of_limit']:.0%}",
                hop["limit_how"],
            ]
        )
    first = [
        ["time to first token", "prompt tokens run", "seconds"],
        ["prefill", str(prefilled["prefill"]), f"{times['prefill']:.3f}"],
        ["onboard", str(prefilled["onboard"]), f"{times['onboard']:.3f}"],
    ]
    checks = [["check", "", "detail"]]
    for check in result["checks"]:
        checks.append([check["name"], "ok" if check["passed"] else "DIFFERS", check["detail"]])
    return "\n".join(
        [
            f"{result['model']}: {result['prompt_tokens']} prompt tokens, "
            f"{result['generated_tokens']} generated; {result['blocks']} blocks of "
            f"{BLOCK_TOKENS} tokens, {total:.1f} MiB of K and V",
            f"G1 {result['device']} (paged, NHD), G2 pinned, G3 disk ({result['disk']}); "
            f"hops and limits: best of {REPEATS}",
            "",
            *rows(hops, {2, 3, 4, 5, 6, 7}),
            "",
            *rows(first, {1, 2}),
            f"{times['ratio']:.1f} times sooner, of it {times['onboard_hops'] * 1e3:.0f} ms for "
            "opening the store and both hops",
            "",
            *rows(checks, set()),
            "",
            *(
                ["the model says: " + " ".join(result["text"].split()), ""]
                if result["text"]
                else []
            ),
            "everything is equal" if result["passed"] else "SOMETHING DIFFERS: see above",
        ]
    )


def plot(result: Results, path: Path) -> None:
    """Draws times to first token, and the hops beside their limits."""
    import matplotlib as mpl

    mpl.use("Agg")
    from matplotlib import pyplot as plt

    times = result["time_to_first_token"]
    figure, (left, right) = plt.subplots(1, 2, figsize=(11, 4.2), width_ratios=[1, 2])
    labels = [f"prefill\n{result['prompt_tokens']} tokens", "onboard\nfrom disk"]
    bars = left.bar(labels, [times["prefill"], times["onboard"]], color=["#b0b0b0", "#2a78b8"])
    left.bar_label(bars, fmt="%.2f s")
    left.margins(y=0.1)
    left.set_ylabel("time to first token, s")
    left.set_title(f"{times['ratio']:.1f} times sooner")

    hops = result["hops"]
    middle = list(range(len(hops)))
    limits = right.bar(
        [x + 0.2 for x in middle],
        [hop["limit_rate"] / 1e9 for hop in hops],
        0.4,
        label="measured limit",
        color="#d0d0d0",
    )
    rates = right.bar(
        [x - 0.2 for x in middle],
        [hop["rate"] / 1e9 for hop in hops],
        0.4,
        label="kvbm",
        color="#2a78b8",
    )
    right.margins(y=0.25)
    right.bar_label(limits, fmt="%.2f")
    right.bar_label(rates, fmt="%.2f")
    right.set_xticks(middle, [hop["name"] for hop in hops])
    right.set_ylabel("GB/s")
    right.set_title(f"{result['blocks']} blocks, {result['block_bytes'] / 1024:.0f} KiB each")
    right.legend(ncols=2, loc="upper center")
    figure.tight_layout()
    figure.savefig(path, dpi=120)
    plt.close(figure)
