#!/usr/bin/env python3
# SPDX-License-Identifier: Apache-2.0
"""Packs a build into a folder that a GPU machine can run without network, compiler or root.

usage: gpu_pack.py BUILD_TREE FOLDER [--python-tree TREE]

FOLDER gets `run` and `payload.tar.xz`: every test executable with what ctest knows of it, the
programs kvbm and kvbm_bench_*, the shared libraries that they load (all but those of glibc and
gcc), the files that tests read, and with --python-tree the extension module that was built there,
with its tests. Everything is stripped.
"""

from __future__ import annotations

import argparse
import json
import re
import shutil
import subprocess
import sys
import tempfile
from pathlib import Path

ROOT = Path(__file__).resolve().parent.parent

# What every machine with a newer glibc and libstdc++ than ours has itself.
SYSTEM_LIBRARY = re.compile(
    r"^(ld-linux.*|linux-vdso|lib(c|m|dl|rt|pthread|util|resolv|stdc\+\+|gcc_s))\.so"
)
# Read by tests through KVBM_TEST_SOURCE_DIR and by pytest.
SOURCE_FOLDERS = [
    "tests/golden", "tests/unit/remote/golden", "tests/fuzz", "tests/cli", "python/tests",
    "examples",
]  # fmt: skip
# pytest and what it imports: pure Python, so those of our virtual environment serve.
PYTEST_PACKAGES = ["_pytest", "iniconfig", "packaging", "pluggy", "pygments", "pytest"]
# Variables of the tests that name places here, or are for sanitizers.
OF_THIS_BUILD = re.compile(r"^(KVBM_TEST_\w+_DIR|GTEST_\w+|\w+_OPTIONS)=")
LIMIT_BYTES = 60 << 20


def is_elf(path: Path) -> bool:
    with path.open("rb") as file:
        return file.read(4) == b"\x7fELF"


def strip_into(source: Path, target: Path) -> None:
    target.parent.mkdir(parents=True, exist_ok=True)
    subprocess.run(["strip", "-o", str(target), str(source)], check=True)


def ctest_entries(build: Path) -> list[dict]:
    command = ["ctest", "--test-dir", str(build), "--show-only=json-v1"]
    output = subprocess.run(command, check=True, capture_output=True, text=True).stdout
    return json.loads(output)["tests"]


def pack_tests(build: Path, stage: Path) -> list[dict]:
    """Copies the executables of ctest's entries; returns what `run` has to know of them."""
    suites = []
    for entry in ctest_entries(build):
        if "command" not in entry:
            print(f"gpu-pack: {entry['name']} is not built: left out", file=sys.stderr)
            continue
        program = Path(entry["command"][0])
        if not program.is_relative_to(build) or not program.is_file() or not is_elf(program):
            continue  # cmake scripts that compile something
        properties = {item["name"]: item["value"] for item in entry.get("properties", [])}
        environment = properties.get("ENVIRONMENT", [])
        suites.append(
            {
                "name": entry["name"],
                "program": f"tests/{program.name}",
                "arguments": entry["command"][1:],
                "environment": [item for item in environment if not OF_THIS_BUILD.match(item)],
                # Examples are programs that end with a status, everything else writes results.
                "writes_results": any(item.startswith("GTEST_OUTPUT=") for item in environment),
                "skip_status": properties.get("SKIP_RETURN_CODE"),
                "labels": properties.get("LABELS", []),
                "timeout": properties.get("TIMEOUT", 300.0),
                "serial": bool(properties.get("RUN_SERIAL", False)),
            }
        )
        if not (stage / "tests" / program.name).exists():
            strip_into(program, stage / "tests" / program.name)
    return suites


def pack_programs(build: Path, stage: Path) -> None:
    # Started or loaded by tests.
    for program in [*build.glob("tests/**/kvbm_*"), *build.glob("tests/**/libkvbm_fake_*.so")]:
        if program.is_file() and is_elf(program):
            strip_into(program, stage / "tests" / program.name)
    for program in build.glob("bench/*/kvbm_bench_*"):
        if program.is_file() and is_elf(program):
            strip_into(program, stage / "bin" / program.name)
    if (build / "tools/kvbm/kvbm").is_file():
        strip_into(build / "tools/kvbm/kvbm", stage / "bin/kvbm")


def pack_python(tree: Path, stage: Path) -> str:
    """Puts the package kvbm_cpp and pytest into python/; returns the suffix of the extension."""
    (extension,) = tree.glob("python/_kvbm_cpp*.so")
    package = stage / "python/kvbm_cpp"
    shutil.copytree(
        ROOT / "python/kvbm_cpp", package, ignore=shutil.ignore_patterns("__pycache__", "*.so")
    )
    strip_into(extension, package / extension.name)
    (stage / "pytest").mkdir()
    for folder in (ROOT / "build/venv/lib").glob("python3*/site-packages"):
        shutil.copy(folder / "py.py", stage / "pytest/py.py")
        for name in PYTEST_PACKAGES:
            if (folder / name).is_dir():
                shutil.copytree(
                    folder / name,
                    stage / "pytest" / name,
                    ignore=shutil.ignore_patterns("__pycache__", "*.so"),
                    dirs_exist_ok=True,
                )
    shutil.copy(ROOT / "pyproject.toml", stage / "source/pyproject.toml")
    return extension.name.removeprefix("_kvbm_cpp")


def pack_libraries(stage: Path) -> list[str]:
    libraries: dict[str, str] = {}
    for program in [*stage.glob("tests/*"), *stage.glob("bin/*"), *stage.glob("python/**/*.so")]:
        output = subprocess.run(["ldd", str(program)], check=True, capture_output=True, text=True)
        for name, path in re.findall(r"^\s*(\S+) => (/\S+)", output.stdout, re.MULTILINE):
            if not SYSTEM_LIBRARY.match(name):
                libraries[name] = path
    for name, path in libraries.items():
        strip_into(Path(path).resolve(), stage / "lib" / name)
    return sorted(libraries)


def compress(stage: Path, target: Path) -> None:
    # The executables share most of their code: a window over all of them finds it.
    names = sorted(path.name for path in stage.iterdir())
    tar = ["tar", "--sort=name", "--owner=0", "--group=0", "-C", str(stage), "-c", *names]
    with target.open("wb") as file, subprocess.Popen(tar, stdout=subprocess.PIPE) as producer:
        subprocess.run(
            ["xz", "--lzma2=preset=4,dict=128MiB"], stdin=producer.stdout, stdout=file, check=True
        )
    if producer.returncode != 0:
        raise SystemExit("gpu-pack: tar failed")


def tree_bytes(folder: Path) -> int:
    return sum(path.stat().st_size for path in folder.rglob("*") if path.is_file())


def main() -> int:
    parser = argparse.ArgumentParser(description=(__doc__ or "").partition("\n")[0])
    parser.add_argument("build", type=Path)
    parser.add_argument("folder", type=Path)
    parser.add_argument("--python-tree", type=Path)
    arguments = parser.parse_args()
    build, folder = arguments.build.resolve(), arguments.folder

    with tempfile.TemporaryDirectory() as temporary:
        stage = Path(temporary)
        suites = pack_tests(build, stage)
        if not suites:
            raise SystemExit(f"gpu-pack: {build} has no tests")
        pack_programs(build, stage)
        for name in SOURCE_FOLDERS:
            if (ROOT / name).is_dir():
                shutil.copytree(
                    ROOT / name,
                    stage / "source" / name,
                    ignore=shutil.ignore_patterns("__pycache__", "*.cpp", "*.hpp"),
                )
        suffix = pack_python(arguments.python_tree, stage) if arguments.python_tree else ""
        libraries = pack_libraries(stage)
        manifest = {"suites": suites, "extension_suffix": suffix}
        (stage / "manifest.json").write_text(json.dumps(manifest, indent=1))
        unpacked = tree_bytes(stage)
        folder.mkdir(parents=True, exist_ok=True)
        compress(stage, folder / "payload.tar.xz")
    shutil.copy(ROOT / "scripts/gpu_run.py", folder / "run")
    (folder / "run").chmod(0o755)

    packed = sum((folder / name).stat().st_size for name in ("run", "payload.tar.xz"))
    print(f"libraries: {', '.join(libraries)}")
    print(
        f"gpu-pack: {folder}: {packed / 2**20:.1f} MiB ({unpacked / 2**20:.0f} MiB unpacked), "
        f"{len(suites)} test programs, Python extension: {suffix or 'none'}"
    )
    if packed > LIMIT_BYTES:
        print(f"gpu-pack: more than {LIMIT_BYTES >> 20} MiB", file=sys.stderr)
        return 1
    return 0


if __name__ == "__main__":
    sys.exit(main())
