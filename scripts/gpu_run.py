#!/usr/bin/env python3
# SPDX-License-Identifier: Apache-2.0
"""Runs what ./dev gpu-pack packed.

usage: run test [FILTER...] [--jobs N] [--gpu]   every test program, a line for each
       run sanitize [FILTER...]                  compute-sanitizer over the GPU's kernels
       run bench [ARGUMENTS]                     kvbm bench ARGUMENTS
       run kvbm [ARGUMENTS]                      the program kvbm
       run PROGRAM [ARGUMENTS]                   any other program, kvbm_bench_kernels or a test
       run python [ARGUMENTS]                    python3 with the package kvbm_cpp

FILTER is a part of a suite's name, with :GTEST_FILTER behind it where only some of its tests are
wanted: unit.kernels, unit.kernels.cuda:Strided*. --gpu leaves out suites that need no GPU. The
suite `python` is pytest; it runs where python3 is of the version that the extension was built for.
KVBM_GPU_DIR names the folder to unpack into (default: beside this file, or a temporary one).
"""

from __future__ import annotations

import importlib.machinery
import importlib.util
import json
import os
import re
import shutil
import subprocess
import sys
import tarfile
import tempfile
import time
import xml.etree.ElementTree as ElementTree
from collections import Counter
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass, field
from pathlib import Path

HERE = Path(__file__).resolve().parent
SANITIZER_TOOLS = ("memcheck", "racecheck", "initcheck")
# A subset that ends within minutes under the tools, which slow kernels down a hundredfold.
SANITIZER_SUITES = re.compile(r"^kvbm\.unit\.kernels\.cuda")
SANITIZER_FILTER = os.environ.get("KVBM_SANITIZE_FILTER", "*-*Large*:*Gibibytes*:*GiB*:*Stress*")


@dataclass
class Outcome:
    """What one suite did."""

    name: str
    seconds: float = 0.0
    passed: int = 0
    failed: int = 0
    skipped: Counter[str] = field(default_factory=Counter)
    status: int = 0
    problem: str = ""
    output: str = ""

    @property
    def is_good(self) -> bool:
        return not self.failed and not self.problem


def unpack() -> Path:
    """The folder with the payload in it, unpacked the first time."""
    payload = HERE / "payload.tar.xz"
    stamp = f"{payload.stat().st_size} {payload.stat().st_mtime_ns}"
    if "KVBM_GPU_DIR" in os.environ:
        folder = Path(os.environ["KVBM_GPU_DIR"])
    elif os.access(HERE, os.W_OK):
        folder = HERE / "unpacked"
    else:
        folder = Path(tempfile.gettempdir()) / f"kvbm-gpu-{os.getuid()}"
    if not (folder / "stamp").is_file() or (folder / "stamp").read_text() != stamp:
        for name in ("tests", "bin", "lib", "source", "python", "pytest"):
            shutil.rmtree(folder / name, ignore_errors=True)
        folder.mkdir(parents=True, exist_ok=True)
        with tarfile.open(payload) as archive:
            if hasattr(tarfile, "data_filter"):
                archive.extractall(folder, filter="data")
            else:
                archive.extractall(folder)
        (folder / "stamp").write_text(stamp)
    return folder


def environment_of(folder: Path, suite: dict | None = None) -> dict[str, str]:
    environment = dict(os.environ)
    joined = [str(folder / "lib"), environment.get("LD_LIBRARY_PATH", "")]
    environment["LD_LIBRARY_PATH"] = ":".join(item for item in joined if item)
    environment["KVBM_BINARY"] = str(folder / "bin/kvbm")
    environment["KVBM_TEST_SOURCE_DIR"] = str(folder / "source")
    environment["KVBM_TEST_BINARY_DIR"] = str(folder)
    environment["KVBM_TEST_PROGRAMS"] = str(folder / "tests")
    environment["PYTHONDONTWRITEBYTECODE"] = "1"
    paths = [str(folder / "python"), environment.get("PYTHONPATH", "")]
    environment["PYTHONPATH"] = ":".join(item for item in paths if item)
    for item in suite["environment"] if suite else ():
        name, _, value = item.partition("=")
        environment[name] = value
    return environment


def read_results(path: Path, outcome: Outcome) -> None:
    if not path.is_file():
        outcome.problem = outcome.problem or "no results written"
        return
    for case in ElementTree.parse(path).iter("testcase"):
        skipped = case.find("skipped")
        if case.find("failure") is not None or case.find("error") is not None:
            outcome.failed += 1
        elif skipped is not None:
            text = (skipped.get("message") or "").strip().splitlines() or ["no reason given"]
            outcome.skipped[text[-1]] += 1
        elif case.get("status") != "notrun":
            outcome.passed += 1


def run_command(command: list[str], outcome: Outcome, **options: object) -> None:
    timeout = options.pop("timeout")
    start = time.monotonic()
    process = subprocess.Popen(
        command, stdout=subprocess.PIPE, stderr=subprocess.STDOUT, text=True, errors="replace",
        **options,
    )  # fmt: skip
    try:
        outcome.output, _ = process.communicate(timeout=timeout)
        if process.returncode != 0:
            outcome.status = process.returncode
            outcome.problem = f"exit status {process.returncode}"
    except subprocess.TimeoutExpired:
        process.kill()
        outcome.output, _ = process.communicate()
        outcome.problem = f"no end within {timeout:.0f} s"
    outcome.seconds = time.monotonic() - start


def run_suite(folder: Path, suite: dict, gtest_filter: str) -> Outcome:
    outcome = Outcome(suite["name"])
    results = folder / "results" / f"{suite['name']}.xml"
    results.unlink(missing_ok=True)
    environment = environment_of(folder, suite)
    with tempfile.TemporaryDirectory() as work:
        if suite["name"] == "python":
            environment["PYTHONPATH"] += f":{folder / 'pytest'}"
            command = [sys.executable, "-m", "pytest", "-q", "-p", "no:cacheprovider"]
            command += [f"--junitxml={results}", "python/tests", "tests/cli"]
            command += ["-k", gtest_filter] if gtest_filter else []
            work = str(folder / "source")
        else:
            environment["GTEST_OUTPUT"] = f"xml:{results}"
            environment["GTEST_COLOR"] = "no"
            command = [str(folder / suite["program"]), *suite["arguments"]]
            command += [f"--gtest_filter={gtest_filter}"] if gtest_filter else []
        run_command(command, outcome, cwd=work, env=environment, timeout=suite["timeout"])
    if suite["writes_results"]:
        read_results(results, outcome)
    elif not outcome.problem:
        outcome.passed = 1
    elif outcome.status and outcome.status == suite["skip_status"]:
        outcome.problem = ""
        lines = outcome.output.strip().splitlines() or ["no reason given"]
        outcome.skipped[lines[-1]] += 1
    else:
        outcome.failed = 1
    return outcome


def python_suite(manifest: dict) -> dict | str:
    suffix = manifest["extension_suffix"]
    if not suffix:
        return "no extension was packed"
    if suffix not in importlib.machinery.EXTENSION_SUFFIXES:
        version = ".".join(map(str, sys.version_info[:2]))
        return f"the extension is {suffix}, python3 here is {version}"
    if importlib.util.find_spec("numpy") is None:
        return "python3 here has no numpy"
    return {
        "name": "python",
        "environment": [],
        "writes_results": True,
        "labels": ["gpu"],
        "timeout": 900.0,
        "serial": True,
    }


def select(suites: list[dict], filters: list[str]) -> list[tuple[dict, str]]:
    """The suites that the filters name, each with its GoogleTest filter."""
    if not filters:
        return [(suite, "") for suite in suites]
    chosen = []
    for suite in suites:
        for text in filters:
            part, _, gtest_filter = text.partition(":")
            if part in suite["name"]:
                chosen.append((suite, gtest_filter))
                break
    return chosen


def report(outcome: Outcome) -> None:
    state = "ok    " if outcome.is_good else "FAILED"
    skipped = sum(outcome.skipped.values())
    print(
        f"{state} {outcome.name:<44} {outcome.passed:>5} passed {outcome.failed:>3} failed "
        f"{skipped:>4} skipped {outcome.seconds:7.1f} s  {outcome.problem}".rstrip(),
        flush=True,
    )


def failing_output(outcome: Outcome) -> str:
    """The parts of GoogleTest's or pytest's output that are about failures, and the end of it."""
    blocks, block = [], []
    for line in outcome.output.splitlines():
        if line.startswith("[ RUN"):
            block = [line]
            continue
        block.append(line)
        if line.startswith("[  FAILED  ]") and len(block) > 1:
            blocks += block[-40:]
            block = []
    if blocks:
        return "\n".join(blocks[:200])
    lines = outcome.output.splitlines()
    summary = [line for line in lines[:-60] if re.match(r"(FAILED|ERROR|E  ) ", line)]
    return "\n".join([*summary[:200], *lines[-60:]])


def summary(outcomes: list[Outcome], began: float) -> int:
    bad = [outcome for outcome in outcomes if not outcome.is_good]
    for outcome in bad:
        print(f"\n=== {outcome.name}: {outcome.problem or 'failed'}\n{failing_output(outcome)}")
    reasons: Counter[str] = Counter()
    for outcome in outcomes:
        reasons += outcome.skipped
    print()
    for reason, count in reasons.most_common(12):
        print(f"skipped {count:>4}: {reason}")
    print(
        f"{len(outcomes)} suites, {sum(item.passed for item in outcomes)} tests passed, "
        f"{sum(item.failed for item in outcomes)} failed, {sum(reasons.values())} skipped, "
        f"{time.monotonic() - began:.0f} s"
        + (f"; FAILED: {' '.join(item.name for item in bad)}" if bad else "")
    )
    return 1 if bad else 0


def test(folder: Path, arguments: list[str]) -> int:
    jobs = max(1, min(4, (os.cpu_count() or 1) // 2))
    if "--jobs" in arguments:
        at = arguments.index("--jobs")
        jobs = int(arguments[at + 1])
        del arguments[at : at + 2]
    gpu_only = "--gpu" in arguments
    filters = [item for item in arguments if item != "--gpu"]

    manifest = json.loads((folder / "manifest.json").read_text())
    suites = manifest["suites"]
    python = python_suite(manifest)
    if isinstance(python, dict):
        suites = [*suites, python]
    elif not filters:
        print(f"left out: python ({python})")
    if gpu_only:
        suites = [suite for suite in suites if "gpu" in suite["labels"]]
    chosen = select(suites, filters)
    if not chosen:
        print(f"no suite matches {' '.join(filters)}; there are:")
        print("\n".join(f"  {suite['name']}" for suite in suites))
        return 2

    (folder / "results").mkdir(exist_ok=True)
    began = time.monotonic()
    outcomes = []

    def one(item: tuple[dict, str]) -> None:
        outcome = run_suite(folder, *item)
        outcomes.append(outcome)
        report(outcome)

    with ThreadPoolExecutor(jobs) as pool:
        list(pool.map(one, [item for item in chosen if not item[0]["serial"]]))
    for item in chosen:
        if item[0]["serial"]:
            one(item)
    return summary(outcomes, began)


def find_sanitizer() -> str | None:
    places = [os.environ.get("COMPUTE_SANITIZER"), shutil.which("compute-sanitizer")]
    places += ["/usr/local/cuda/bin/compute-sanitizer"]
    places += ["/usr/local/cuda/compute-sanitizer/compute-sanitizer"]
    return next((place for place in places if place and os.access(place, os.X_OK)), None)


def sanitize(folder: Path, filters: list[str]) -> int:
    sanitizer = find_sanitizer()
    if sanitizer is None:
        print("no compute-sanitizer in PATH or /usr/local/cuda; COMPUTE_SANITIZER can name it")
        return 2
    suites = json.loads((folder / "manifest.json").read_text())["suites"]
    chosen = select(suites, filters)
    if not filters:
        chosen = [item for item in chosen if SANITIZER_SUITES.match(item[0]["name"])]
    if not chosen:
        print("no suite to run: name one, ./run sanitize unit.kernels")
        return 2
    began = time.monotonic()
    outcomes = []
    for suite, gtest_filter in chosen:
        for tool in SANITIZER_TOOLS:
            outcome = Outcome(f"{suite['name']} {tool}")
            command = [sanitizer, f"--tool={tool}", "--error-exitcode=86", "--print-limit=10"]
            command += ["--leak-check=full"] if tool == "memcheck" else []
            command += [str(folder / suite["program"]), *suite["arguments"]]
            command += [f"--gtest_filter={gtest_filter or SANITIZER_FILTER}"]
            environment = environment_of(folder, suite) | {"GTEST_COLOR": "no"}
            run_command(command, outcome, cwd=folder, env=environment, timeout=240)
            for word in ("passed", "failed"):
                found = re.findall(rf"\[  {word.upper()}  \] (\d+) test", outcome.output)
                setattr(outcome, word, int(found[0]) if found else 0)
            errors = re.findall(
                r"^=+ (?:ERROR|RACECHECK) SUMMARY: .*", outcome.output, re.MULTILINE
            )
            outcomes.append(outcome)
            report(outcome)
            print("\n".join(f"       {line.strip('= ')}" for line in errors), flush=True)
    return summary(outcomes, began)


def main(arguments: list[str]) -> int:
    if not arguments or arguments[0] in ("-h", "--help", "help"):
        print(__doc__)
        return 0 if arguments else 2
    folder = unpack()
    verb, rest = arguments[0], arguments[1:]
    if verb == "test":
        return test(folder, rest)
    if verb == "sanitize":
        return sanitize(folder, rest)
    if verb == "python":
        command = [sys.executable, *rest]
    elif verb in ("bench", "kvbm"):
        command = [str(folder / "bin/kvbm"), *(["bench"] if verb == "bench" else []), *rest]
    else:
        names = [folder / part / verb for part in ("bin", "tests")]
        program = next((name for name in names if name.is_file()), None)
        if program is None:
            print(f"no program '{verb}' was packed; ./run help says what there is", file=sys.stderr)
            return 2
        command = [str(program), *rest]
    return subprocess.run(command, env=environment_of(folder), check=False).returncode


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
