#!/usr/bin/env python3
# SPDX-License-Identifier: Apache-2.0
"""Checks what compilers do not: includes between rooms, licence lines, ASCII, line length, size.

Rooms may include only the rooms before them; public headers include no private header and none of
the libraries that stay behind the door; python/, tools/, bench/ and examples/ see public headers
only. Prints one line per finding and exits with 1 if there is one.
"""

from __future__ import annotations

import re
import subprocess
import sys
from pathlib import Path

ROOT = Path(__file__).resolve().parent.parent

# Which rooms each room may include besides itself.
MAY_INCLUDE: dict[str, set[str]] = {
    "core": set(),
    "nixl": {"core"},
    "memory": {"core"},
    "device": {"core", "memory"},
    "kernels": {"core"},
    "object": {"core", "nixl", "memory"},
    "layout": {"core", "memory", "object"},
    "transfer": {"core", "memory", "device", "kernels", "layout"},
    "remote": {"core", "nixl", "memory", "layout", "transfer"},
    "manager": {"core", "memory", "device", "kernels", "object", "layout", "transfer", "remote"},
    "prefix": {"core", "memory", "object", "layout", "transfer", "remote", "manager"},
    "metrics": {"core", "memory", "object", "layout", "transfer", "remote", "manager", "prefix"},
}

# Users of the library: only include/kvbm for them. The command line reports what the machine's
# devices and disks can do, which is in public headers too.
OUTSIDERS = ("python", "tools", "bench", "examples")

BANNED_IN_PUBLIC_HEADERS = re.compile(
    r"^(fmt|spdlog|nlohmann|CLI|cuda|thrust|cub)/|^(iostream|liburing\.h|numa\.h|xxhash\.h)$"
)

INCLUDE = re.compile(r'^\s*#\s*include\s*([<"])([^>"]+)[>"]', re.MULTILINE)

CXX = {".hpp", ".cpp", ".h", ".cu", ".cuh"}
HASH_COMMENT = {".py", ".pyi", ".sh", ".cmake"}
HASH_COMMENT_NAMES = {"CMakeLists.txt", "dev", "run"}

MAX_LINES = 500
MAX_COLUMNS = 100


def tracked_files() -> list[Path]:
    command = ["git", "ls-files", "--cached", "--others", "--exclude-standard"]
    output = subprocess.run(command, cwd=ROOT, check=True, capture_output=True, text=True).stdout
    return [path for name in output.splitlines() if (path := ROOT / name).is_file()]


def room_of(path: Path) -> tuple[str | None, str]:
    """The room a source belongs to, and the part of the tree: public, private, outside, tests."""
    parts = path.relative_to(ROOT).parts
    if parts[:2] == ("include", "kvbm"):
        return (parts[2] if len(parts) > 3 else None), "public"
    if parts[0] == "src":
        return parts[1], "private"
    if parts[0] in OUTSIDERS:
        return None, "outside"
    return None, "tests"


def room_of_include(name: str, style: str, includer: Path) -> tuple[str | None, bool]:
    """The room that an include names and whether it is a public header."""
    match = re.match(r"^kvbm/([a-z]+)/", name)
    if match:
        return match.group(1), True
    if style == '"':
        if (includer.parent / name).is_file():
            return room_of(includer.parent / name)[0], False
        first = name.split("/", 1)[0]
        if first in MAY_INCLUDE and (ROOT / "src" / name).is_file():
            return first, False
    return None, False


def check_includes(path: Path, text: str) -> list[str]:
    room, part = room_of(path)
    findings = []
    if room is not None and room not in MAY_INCLUDE and part in ("public", "private"):
        return [f"'{room}' is not a room of scripts/check_layers.py"]
    for style, name in INCLUDE.findall(text):
        target, is_public = room_of_include(name, style, path)
        if part == "public" and BANNED_IN_PUBLIC_HEADERS.search(name):
            findings.append(f"public header includes {name}, which belongs behind the door")
        if target is None:
            continue
        if part in ("public", "outside") and not is_public:
            findings.append(f"includes the private header {name}")
        if room is not None and target != room and target not in MAY_INCLUDE[room]:
            findings.append(f"room {room} may not include room {target} ({name})")
    return findings


def check_text(path: Path, text: str) -> list[str]:
    findings = []
    lines = text.splitlines()
    head = "\n".join(lines[:2])
    is_hash = path.suffix in HASH_COMMENT or path.name in HASH_COMMENT_NAMES
    if (
        (is_hash or path.suffix in CXX)
        and lines
        and "SPDX-License-Identifier: Apache-2.0" not in head
    ):
        findings.append("the first line (second after #!) must be the SPDX licence line")
    if is_hash or path.suffix in CXX:
        for number, line in enumerate(lines, 1):
            if not line.isascii():
                findings.append(f"line {number}: not ASCII")
            if line != line.rstrip():
                findings.append(f"line {number}: trailing blanks")
            if path.suffix in CXX and len(line) > MAX_COLUMNS and "http" not in line:
                findings.append(f"line {number}: {len(line)} columns, at most {MAX_COLUMNS}")
        # Stubs are written by a generator.
        if len(lines) > MAX_LINES and path.suffix != ".pyi":
            findings.append(f"{len(lines)} lines, at most {MAX_LINES}: split it")
        if text and not text.endswith("\n"):
            findings.append("no newline at the end")
    if path.suffix in {".hpp"} and "#pragma once" not in text:
        findings.append("header without #pragma once")
    return findings


def check_version(files: list[Path]) -> list[str]:
    """The version stands in CMakeLists.txt; other places must repeat it."""
    project = re.search(r"project\(\s*kvbm\s+VERSION (\S+)", (ROOT / "CMakeLists.txt").read_text())
    version = project.group(1) if project else "?"
    findings = []
    header = ROOT / "include/kvbm/core/version.hpp"
    if header in files:
        parts = re.findall(r"#define KVBM_VERSION_(?:MAJOR|MINOR|PATCH) (\d+)", header.read_text())
        if ".".join(parts) != version:
            findings.append(f"{header.relative_to(ROOT)}: {'.'.join(parts)}, CMake: {version}")
    for name in ("pyproject.toml", "python/pyproject.toml"):
        path = ROOT / name
        if path in files:
            match = re.search(r'^version\s*=\s*"([^"]+)"', path.read_text(), re.MULTILINE)
            if match and match.group(1) != version:
                findings.append(f"{name}: version {match.group(1)}, CMake: {version}")
    return findings


def main() -> int:
    files = tracked_files()
    findings = check_version(files)
    for path in files:
        is_source = path.suffix in CXX | HASH_COMMENT or path.name in HASH_COMMENT_NAMES
        if not is_source:
            continue
        text = path.read_text(encoding="utf-8", errors="surrogateescape")
        problems = check_text(path, text)
        if path.suffix in CXX:
            problems += check_includes(path, text)
        findings += [f"{path.relative_to(ROOT)}: {problem}" for problem in problems]
    for finding in findings:
        print(finding)
    print(f"check_layers: {len(files)} files, {len(findings)} findings")
    return 1 if findings else 0


if __name__ == "__main__":
    sys.exit(main())
