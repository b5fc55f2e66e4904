# SPDX-License-Identifier: Apache-2.0
"""KV blocks of a real language model: offloaded to disk, brought back by another process.

A process prefills a prompt, generates tokens, and offloads its KV blocks device -> pinned -> disk.
A new process onboards them and generates the same tokens, after a small part of the time that the
prefill took. Three more processes, the ranks of a tensor-parallel engine, each onboard one KV head.

At last a second prompt that begins like an earlier one finds the shared blocks in a prefix store:
in device memory, in pinned memory, in a file, in an object store, in turn, and does not prefill
them again. With --prefix there is this part alone, with --no-prefix all but it.

With --workers 2 there is no disk between: a decode process reads the blocks of a prompt from the
pinned memory of the prefill process, which is still running, and goes on with the same tokens.

exit status: 0 everything is equal, 1 something differs, 2 a step failed or was called wrongly
"""

from __future__ import annotations

import argparse
import contextlib
import json
import os
import shutil
import subprocess
import sys
import tempfile
from pathlib import Path
from typing import Any

import kvbm_cpp as kvbm

from backend import Backend, BackendError, make_backend

STEPS = ("prefill", "onboard", "rank", "report", "serve", "fetch", "prefix")
TP_RANKS = 3
#: How much of the prefix store the whole demo shows.
PREFIX_TOKENS = 400
PREFIX_GENERATED = 8


class StepError(Exception):
    """A process of the demo ended with an error."""


def parse(arguments: list[str] | None) -> argparse.Namespace:
    """Reads the command line."""
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--tokens", type=int, default=1000, help="prompt tokens (default 1000)")
    parser.add_argument("--generate", type=int, default=32, help="tokens to generate (default 32)")
    parser.add_argument(
        "--workdir", type=Path, help="folder for the store (default: a temporary one)"
    )
    parser.add_argument("--keep", action="store_true", help="leave store and results in the folder")
    parser.add_argument(
        "--corrupt", action="store_true", help="flip one bit of the store before onboarding"
    )
    parser.add_argument("--json", action="store_true", help="print the result as JSON")
    parser.add_argument("--plot", type=Path, metavar="FILE.png", help="draw the result")
    parser.add_argument(
        "--device",
        choices=("cpu", "cuda"),
        default="cpu",
        help="where the engine runs: cpu (numpy, an emulated device; default) or cuda (torch, "
        "the KV cache in HBM)",
    )
    parser.add_argument(
        "--tiny",
        action="store_true",
        help="random weights of the same architecture instead of the model's file",
    )
    parser.add_argument(
        "--workers",
        type=int,
        choices=(1, 2),
        default=1,
        help="2: a prefill and a decode process, connected through NIXL (default 1)",
    )
    parser.add_argument(
        "--prefix",
        action=argparse.BooleanOptionalAction,
        help="only a second prompt that shares a prefix with an earlier one, with as many tokens; "
        "--no-prefix leaves it out (default: both, with at most "
        f"{PREFIX_TOKENS} tokens and {PREFIX_GENERATED} generated)",
    )
    parser.add_argument("step", nargs="?", choices=STEPS, help="run one step only, in --workdir")
    parser.add_argument("--rank", type=int, default=0, help="which rank the step 'rank' is")
    given = parser.parse_args(arguments)
    if given.generate < 1:
        parser.error(f"--generate is {given.generate}, must be at least 1")
    if given.step and given.workdir is None:
        parser.error(f"the step '{given.step}' needs --workdir")
    if given.workers == 2 and (given.corrupt or given.plot):
        parser.error("--workers 2 takes neither --corrupt nor --plot")
    if given.prefix and (given.workers == 2 or given.corrupt or given.plot):
        parser.error("--prefix takes neither --workers 2 nor --corrupt or --plot")
    if given.prefix and given.step not in (None, "onboard"):
        parser.error(f"the step '{given.step}' takes no --prefix")
    if given.plot and given.plot.suffix != ".png":
        parser.error(f"--plot is {given.plot}, must end in .png")
    return given


def keep_blas_polite() -> None:
    """Gives BLAS one thread where the machine is busy: its threads wait for each other by spinning.

    Decided once, because the processes of a run must do their sums in the same order.
    """
    cpus = len(os.sched_getaffinity(0))
    if "OPENBLAS_NUM_THREADS" not in os.environ and os.getloadavg()[0] > cpus:
        os.environ["OPENBLAS_NUM_THREADS"] = "1"
        print("the machine is busy: the model runs in one thread", file=sys.stderr)


def start(
    given: argparse.Namespace, folder: Path, *step: str, stdin: int | None = None
) -> subprocess.Popen[bytes]:
    """Starts a step as a new process."""
    command = [sys.executable, str(Path(__file__).resolve()), *step, "--workdir", str(folder)]
    command += ["--tokens", str(given.tokens), "--generate", str(given.generate)]
    command += ["--device", given.device, *(["--tiny"] if given.tiny else [])]
    return subprocess.Popen(command, stdin=stdin)


def finish(name: str, process: subprocess.Popen[bytes]) -> None:
    """Waits for a step; one that failed ends the demo."""
    status = process.wait()
    if status != 0:
        raise StepError(f"the step '{name}' ended with status {status}, see above")


def second_prompt(given: argparse.Namespace, backend: Backend, model: Any = None) -> None:
    """The demo of the prefix store, in a folder of its own."""
    import prefix
    import roles

    folder = given.workdir / "prefix"
    folder.mkdir()
    result = prefix.run(folder, backend, given.tiny, given.tokens, given.generate, model)
    roles.write_results(given.workdir, "prefix", result)


def run_step(given: argparse.Namespace) -> None:
    """Runs one step in this process."""
    import roles
    import workers

    backend = make_backend(given.device)
    if given.step == "prefill":
        roles.prefill(given.workdir, backend, given.tiny, given.tokens, given.generate)
    elif given.step == "serve":
        workers.serve(given.workdir, backend, given.tiny, given.tokens, given.generate)
    elif given.step == "fetch":
        workers.fetch(given.workdir, backend, given.tiny)
    elif given.step == "onboard":
        model = roles.onboard(given.workdir, backend, given.tiny)
        if given.prefix:
            # The model is loaded already, and a shorter prompt shows as much.
            given.tokens = min(given.tokens, PREFIX_TOKENS)
            given.generate = min(given.generate, PREFIX_GENERATED)
            second_prompt(given, backend, model)
    elif given.step == "prefix":
        second_prompt(given, backend)
    else:
        roles.rank(given.workdir, backend, given.rank, TP_RANKS)


def corrupt(folder: Path) -> None:
    """Flips a bit in the middle block of the store."""
    import roles
    import tiers
    from progress import Progress

    block = roles.read_results(folder, "prefill")["blocks"] // 2
    offset = tiers.flip_one_bit(folder, block)
    roles.write_results(folder, "corrupt", {"block": block, "offset": offset})
    Progress("corrupt").say(f"flipped a bit of block {block}, byte {offset} of the store")


def report(given: argparse.Namespace, folder: Path) -> bool:
    """Compares and prints; whether everything is equal."""
    import report as reports
    import roles

    damaged = None
    if (folder / "corrupt.json").is_file():
        damaged = roles.read_results(folder, "corrupt")["block"]
    before, after = (roles.read_results(folder, role) for role in ("prefill", "onboard"))
    ranks = [roles.read_results(folder, f"rank{index}") for index in range(TP_RANKS)]
    checks = reports.compare(before, after, ranks, damaged)
    result = reports.summary(before, after, checks)
    if not given.json:
        print(reports.table(result), flush=True)
    if given.plot:
        reports.plot(result, given.plot)
        print(f"wrote {given.plot}", file=sys.stderr)
    passed = bool(result["passed"])
    if (folder / "prefix.json").is_file():
        import prefix

        result["prefix"] = roles.read_results(folder, "prefix")
        passed = passed and bool(result["prefix"]["passed"])
        if not given.json:
            print("\n" + prefix.table(result["prefix"]))
    if given.json:
        print(json.dumps(result, indent=2))
    return passed


def has_prefix(given: argparse.Namespace) -> bool:
    """Whether the whole demo has a second prompt: where it is long enough to share something."""
    import prefix

    return given.prefix is None and not given.corrupt and given.tokens > prefix.CHUNK_TOKENS


def run_all(given: argparse.Namespace, folder: Path) -> bool:
    """The whole demo; whether everything is equal."""
    keep_blas_polite()
    finish("prefill", start(given, folder, "prefill"))
    if given.corrupt:
        corrupt(folder)
    finish("onboard", start(given, folder, "onboard", *(["--prefix"] if has_prefix(given) else [])))
    ranks = [start(given, folder, "rank", "--rank", str(index)) for index in range(TP_RANKS)]
    for index, process in enumerate(ranks):
        finish(f"rank {index}", process)
    return report(given, folder)


def run_workers(given: argparse.Namespace, folder: Path) -> bool:
    """The demo of two workers; whether everything is equal."""
    import workers

    kvbm.find_nixl()  # what is missing is told before anything starts
    keep_blas_polite()
    serving = start(given, folder, "serve", stdin=subprocess.PIPE)
    fetching = start(given, folder, "fetch")
    try:
        while fetching.poll() is None:
            if serving.poll() is not None:
                finish("serve", serving)
                raise StepError("the step 'serve' ended before the other worker did")
            with contextlib.suppress(subprocess.TimeoutExpired):
                fetching.wait(0.2)
        finish("fetch", fetching)
        assert serving.stdin is not None
        serving.stdin.close()
        finish("serve", serving)
    finally:
        for process in (serving, fetching):
            process.kill()
            process.wait()
    result = workers.summary(folder)
    print(json.dumps(result, indent=2) if given.json else workers.table(result))
    return bool(result["passed"])


def run_prefix(given: argparse.Namespace, folder: Path) -> bool:
    """The demo of the prefix store alone; whether everything is equal."""
    keep_blas_polite()
    finish("prefix", start(given, folder, "prefix"))
    import prefix
    import roles

    result = roles.read_results(folder, "prefix")
    print(json.dumps(result, indent=2) if given.json else prefix.table(result))
    return bool(result["passed"])


def clean(folder: Path) -> None:
    """Removes what the demo made in a folder that it did not make."""
    names = ["prefill.json", "onboard.json", "corrupt.json", "prefix.json"]
    names += ["serve.json", "fetch.json"]
    names += [f"rank{index}.json" for index in range(TP_RANKS)]
    for path in (*(folder / name for name in names), *folder.glob("kv.store*")):
        path.unlink(missing_ok=True)
    for name in ("workers", "prefix"):
        shutil.rmtree(folder / name, ignore_errors=True)


def main(arguments: list[str] | None = None) -> int:
    """Runs the demo; returns the exit status."""
    given = parse(arguments)
    try:
        if given.step == "report":
            return 0 if report(given, given.workdir) else 1
        if given.step:
            run_step(given)
            return 0
        make_backend(given.device)  # what is missing is told before anything is made
        if given.workdir:
            given.workdir.mkdir(parents=True, exist_ok=True)
            folder = given.workdir
        else:
            folder = Path(tempfile.mkdtemp(prefix="kvbm-demo-"))
        if (folder / "kv.store").exists():
            raise FileExistsError(f"{folder / 'kv.store'} is there already: give another --workdir")
        run = run_prefix if given.prefix else run_all if given.workers == 1 else run_workers
        try:
            return 0 if run(given, folder) else 1
        finally:
            if given.keep:
                print(f"kept {folder}", file=sys.stderr)
            elif given.workdir:
                clean(folder)
            else:
                shutil.rmtree(folder)
    except (StepError, BackendError, kvbm.Error, OSError, ValueError) as error:
        print(f"demo: {error}", file=sys.stderr)
        return 2


if __name__ == "__main__":
    sys.exit(main())
