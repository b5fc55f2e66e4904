#!/usr/bin/env python3
# SPDX-License-Identifier: Apache-2.0
"""Counts which acceptance cases ran: ids in test names against tests/acceptance-ids.txt.

usage: acceptance.py RESULTS [--verbose]

RESULTS is a folder of GoogleTest and pytest XML files. A test covers a case when its name starts
with the id (L2_AddressEqualsClosedForm, L1_L2_..., test_L6_...). Skipped tests do not count; failed
ones count as failed. Exits with 1 where a name carries an id that the list does not know, or where
a test with an id failed.
"""

from __future__ import annotations

import re
import sys
import xml.etree.ElementTree as ElementTree
from collections import Counter
from dataclasses import dataclass, field
from pathlib import Path

ROOT = Path(__file__).resolve().parent.parent
IDS_FILE = ROOT / "tests" / "acceptance-ids.txt"

PREFIX = re.compile(r"^(?:test_)?((?:[LMSVOTPNAQK][0-9]+_)+)", re.IGNORECASE)


@dataclass
class Tally:
    """How often each id was seen, by outcome."""

    ran: Counter[str] = field(default_factory=Counter)
    skipped: Counter[str] = field(default_factory=Counter)
    failed: Counter[str] = field(default_factory=Counter)
    tests: int = 0


def expected_ids() -> dict[str, tuple[str, str]]:
    """id -> (what it needs, title); needs is '-' where any machine will do."""
    ids: dict[str, tuple[str, str]] = {}
    for line in IDS_FILE.read_text().splitlines():
        if not line.strip() or line.startswith("#"):
            continue
        name, needs, title = line.split(None, 2)
        ids[name] = (needs, title)
    return ids


def ids_of(test_name: str) -> list[str]:
    # Parameterised and typed suites put a prefix or a suffix around the name, not into it.
    match = PREFIX.match(test_name + "_")
    return sorted(set(match.group(1).upper().strip("_").split("_"))) if match else []


def read_results(folder: Path) -> Tally:
    tally = Tally()
    for path in sorted(folder.glob("*.xml")):
        for case in ElementTree.parse(path).iter("testcase"):
            tally.tests += 1
            skipped = (
                case.find("skipped") is not None
                or case.get("status") == "notrun"
                or case.get("result") == "suppressed"
            )
            failed = case.find("failure") is not None or case.find("error") is not None
            for name in ids_of(case.get("name", "")):
                bucket = tally.skipped if skipped else tally.failed if failed else tally.ran
                bucket[name] += 1
    return tally


def sort_key(name: str) -> tuple[str, int]:
    return name[0], int(name[1:])


def main(arguments: list[str]) -> int:
    verbose = "--verbose" in arguments
    folders = [argument for argument in arguments if not argument.startswith("-")]
    if len(folders) != 1 or not Path(folders[0]).is_dir():
        print(__doc__, file=sys.stderr)
        return 2

    expected = expected_ids()
    tally = read_results(Path(folders[0]))
    wanted = [name for name, (needs, _) in expected.items() if needs == "-"]
    covered = [name for name in wanted if tally.ran[name] and not tally.failed[name]]
    missing = [name for name in wanted if not tally.ran[name] and not tally.failed[name]]
    beyond = [name for name, (needs, _) in expected.items() if needs != "-" and tally.ran[name]]
    unknown = sorted((set(tally.ran) | set(tally.failed)) - set(expected))

    per_id = ", ".join(f"{name} {tally.ran[name]}" for name in sorted(covered, key=sort_key))
    print(f"acceptance cases (id and how many tests carry it): {per_id or 'none'}")
    if beyond:
        print(f"  also ran in part: {', '.join(sorted(beyond, key=sort_key))}")
    for name in sorted(missing, key=sort_key):
        skipped = f" ({tally.skipped[name]} tests skipped)" if tally.skipped[name] else ""
        print(f"  not covered: {name}  {expected[name][1]}{skipped}")
    for name in sorted(tally.failed, key=sort_key):
        print(f"  FAILED: {name}  {expected.get(name, ('', 'unknown id'))[1]}")
    for name in unknown:
        print(f"  unknown id in a test name: {name}")
    if verbose:
        for name, (needs, title) in expected.items():
            if needs != "-":
                print(f"  needs {needs}: {name}  {title}")
    print(
        f"acceptance: {len(covered)} of {len(wanted)} cases that need neither GPU nor NIXL ran, "
        f"in {sum(tally.ran[name] for name in covered)} of {tally.tests} tests"
    )
    return 1 if unknown or tally.failed else 0


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
