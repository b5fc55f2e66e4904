# SPDX-License-Identifier: Apache-2.0
"""What this machine can do at best: plain copies and plain disk I/O of the same bytes."""

from __future__ import annotations

import contextlib
import mmap
import os
from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from pathlib import Path

import numpy as np
from numpy.typing import NDArray

from tiers import repeat

#: Requests under way at once; the best of them is the limit.
DISK_THREADS = (2, 8, 32)
SECTOR = 4096


@dataclass(frozen=True)
class Limit:
    """A measured rate and what was measured."""

    rate: float  # bytes per second
    how: str


def copy_limit(num_bytes: int) -> Limit:
    """memcpy of num_bytes between two arrays, by one thread and by one per CPU."""
    source = np.ones(num_bytes, np.uint8)
    target = np.zeros(num_bytes, np.uint8)
    best = Limit(0.0, "")
    cpus = len(os.sched_getaffinity(0))
    for threads in sorted({1, cpus}):
        pieces = list(
            zip(np.array_split(target, threads), np.array_split(source, threads), strict=True)
        )
        with ThreadPoolExecutor(threads) as pool:

            def run(pieces: list[tuple[NDArray[np.uint8], ...]] = pieces) -> None:
                list(pool.map(lambda pair: np.copyto(*pair), pieces))

            run()  # first touch and thread start
            seconds, _ = repeat(run)
        if num_bytes / seconds > best.rate:
            best = Limit(num_bytes / seconds, f"memcpy, {threads} threads")
    return best


@contextlib.contextmanager
def _scratch_file(folder: Path, num_bytes: int, flags: int) -> Iterator[int]:
    path = folder / "limit.scratch"
    descriptor = os.open(path, os.O_RDWR | os.O_CREAT | os.O_EXCL | flags, 0o600)
    try:
        os.posix_fallocate(descriptor, 0, num_bytes)
        yield descriptor
    finally:
        os.close(descriptor)
        path.unlink()


def _transfer_all(
    operation: Callable[[int, list[memoryview], int], int],
    descriptor: int,
    memory: mmap.mmap,
    block_bytes: int,
    pool: ThreadPoolExecutor,
) -> None:
    view = memoryview(memory)

    def one(offset: int) -> None:
        moved = operation(descriptor, [view[offset : offset + block_bytes]], offset)
        if moved != block_bytes:
            raise OSError(f"{moved} of {block_bytes} bytes at offset {offset}")

    with contextlib.ExitStack() as stack:
        stack.callback(view.release)
        list(pool.map(one, range(0, len(memory), block_bytes)))


def disk_limits(folder: Path, num_blocks: int, block_bytes: int) -> tuple[Limit, Limit]:
    """Write and read rate of a file in `folder`, past the page cache where it can be (O_DIRECT).

    Requests of one block each, rounded up to whole sectors; without a sync, like the hops.
    """
    padded = -(-block_bytes // SECTOR) * SECTOR
    num_bytes = padded * num_blocks
    direct = True
    try:
        with _scratch_file(folder, SECTOR, os.O_DIRECT):
            pass
    except OSError:
        direct = False
    kind = "O_DIRECT" if direct else "page cache, the file system has no O_DIRECT"
    write, read = Limit(0.0, ""), Limit(0.0, "")
    with (
        mmap.mmap(-1, num_bytes) as memory,
        _scratch_file(folder, num_bytes, os.O_DIRECT if direct else 0) as descriptor,
    ):
        memory[:] = b"\x5a" * num_bytes
        for threads in DISK_THREADS:
            with ThreadPoolExecutor(threads) as pool:
                for operation in (os.pwritev, os.preadv):
                    seconds, _ = repeat(
                        lambda op=operation, pool=pool: _transfer_all(
                            op, descriptor, memory, padded, pool
                        )
                    )
                    # Padding is no payload: it does not count for the store either.
                    rate = num_blocks * block_bytes / seconds
                    limit = Limit(rate, f"{kind}, {threads} requests at once")
                    if operation is os.pwritev:
                        write = max(write, limit, key=lambda one: one.rate)
                    else:
                        read = max(read, limit, key=lambda one: one.rate)
    return write, read
