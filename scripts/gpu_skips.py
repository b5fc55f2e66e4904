#!/usr/bin/env python3
# SPDX-License-Identifier: Apache-2.0
"""Counts the tests that a GPU would have run, and says why they were skipped.

usage: gpu_skips.py RESULTS

RESULTS is a folder of GoogleTest and pytest XML files. A test counts as skipped for want of a GPU
when its message says "no CUDA device: <reason>". Prints one line and exits with 0.
"""

from __future__ import annotations

import re
import sys
import xml.etree.ElementTree as ElementTree
from collections import Counter
from pathlib import Path

REASON = re.compile(r"no CUDA device: ?([^\r\n]*)")


def skip_reasons(folder: Path) -> tuple[Counter[str], int]:
    """How often each reason was given, and how many tests there are in all."""
    reasons: Counter[str] = Counter()
    tests = 0
    for path in sorted(folder.glob("*.xml")):
        for case in ElementTree.parse(path).iter("testcase"):
            tests += 1
            skipped = case.find("skipped")
            if skipped is None:
                continue
            match = REASON.search((skipped.get("message") or "") + "\n" + (skipped.text or ""))
            if match:
                reasons[match.group(1).strip() or "no reason given"] += 1
    return reasons, tests


def main(arguments: list[str]) -> int:
    if len(arguments) != 1 or arguments[0].startswith("-"):
        print(__doc__, file=sys.stderr)
        return 2
    reasons, tests = skip_reasons(Path(arguments[0]))
    skipped = sum(reasons.values())
    if not skipped:
        print(f"GPU tests: none of {tests} tests was skipped for want of a CUDA device")
        return 0
    why = "; ".join(f"{reason} ({count})" for reason, count in reasons.most_common())
    print(f"GPU tests: {skipped} of {tests} tests skipped, no CUDA device: {why}")
    return 0


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
