# SPDX-License-Identifier: Apache-2.0
"""What this machine can do at best: plain copies and plain disk I/O of the same bytes."""

from __future__ import annotations

import contextlib
import mmap
import os
from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

from backend import Copies
from tiers import Hop, repeat

#: Requests under way at once; the best of them is the limit.
DISK_REQUESTS = (2, 8, 32)
SECTOR = 4096


def measure_copy(
    name: str,
    num_blocks: int,
    block_bytes: int,
    hop: Callable[[], object],
    plain: contextlib.AbstractContextManager[Copies],
) -> Hop:
    """Times a hop in memory beside plain copies of as many bytes."""
    num_bytes = num_blocks * block_bytes
    with plain as copies:
        seconds, *limits = repeat(hop, *copies.values())
    best = min(range(len(limits)), key=limits.__getitem__)
    return Hop(name, num_blocks, num_bytes, seconds, limits[best], list(copies)[best])


class PlainFile:
    """A preallocated file that is read and written past the page cache where it can be."""

    def __init__(self, path: Path, num_blocks: int, block_bytes: int):
        # Whole sectors, as O_DIRECT wants; the store pads its blocks likewise.
        self._block_bytes = -(-block_bytes // SECTOR) * SECTOR
        num_bytes = self._block_bytes * num_blocks
        flags = os.O_RDWR | os.O_CREAT
        self.direct = True
        try:
            self._file = os.open(path, flags | os.O_DIRECT, 0o600)
        except OSError:
            self.direct = False
            self._file = os.open(path, flags, 0o600)
        os.posix_fallocate(self._file, 0, num_bytes)
        self._memory = mmap.mmap(-1, num_bytes)
        self._memory.madvise(mmap.MADV_HUGEPAGE)
        self._memory[:] = b"\x5a" * num_bytes

    def close(self) -> None:
        os.close(self._file)
        self._memory.close()

    def write(self, pool: ThreadPoolExecutor) -> None:
        """Writes every block, as many at once as the pool has threads."""
        self._run(pool, os.pwritev)

    def read(self, pool: ThreadPoolExecutor) -> None:
        """Reads every block likewise."""
        self._run(pool, os.preadv)

    def write_at_once(self) -> None:
        """Writes everything in one request."""
        self._expect(os.pwritev(self._file, [self._memory], 0))

    def read_at_once(self) -> None:
        """Reads everything in one request."""
        self._expect(os.preadv(self._file, [self._memory], 0))

    def _expect(self, moved: int) -> None:
        if moved != len(self._memory):
            raise OSError(f"{moved} of {len(self._memory)} bytes in one request")

    def _run(
        self, pool: ThreadPoolExecutor, operation: Callable[[int, list[memoryview], int], int]
    ) -> None:
        with memoryview(self._memory) as view:

            def one(offset: int) -> None:
                with view[offset : offset + self._block_bytes] as block:
                    moved = operation(self._file, [block], offset)
                if moved != self._block_bytes:
                    raise OSError(f"{moved} of {self._block_bytes} bytes at offset {offset}")

            list(pool.map(one, range(0, len(view), self._block_bytes)))


@contextlib.contextmanager
def _plain_file(folder: Path, num_blocks: int, block_bytes: int) -> Iterator[PlainFile]:
    path = folder / "limit.scratch"
    file = PlainFile(path, num_blocks, block_bytes)
    try:
        yield file
    finally:
        file.close()
        path.unlink()


def measure_disk(
    name: str,
    folder: Path,
    num_blocks: int,
    block_bytes: int,
    hop: Callable[[], object],
    *,
    writes: bool,
) -> Hop:
    """Times a hop to or from disk beside plain requests, of one block each and of all in one."""
    with contextlib.ExitStack() as stack:
        file = stack.enter_context(_plain_file(folder, num_blocks, block_bytes))
        pools = [stack.enter_context(ThreadPoolExecutor(count)) for count in DISK_REQUESTS]
        file.write(pools[-1])  # what is read must have been written
        operation = file.write if writes else file.read
        runs = [lambda pool=pool: operation(pool) for pool in pools]
        seconds, at_once, *plain = repeat(
            hop, file.write_at_once if writes else file.read_at_once, *runs
        )
        kind = "O_DIRECT" if file.direct else "page cache"
    best = min(range(len(plain)), key=plain.__getitem__)
    limit, how = plain[best], f"{kind}, {DISK_REQUESTS[best]} blocks at once"
    if at_once < limit:
        limit, how = at_once, f"{kind}, one request"
    return Hop(name, num_blocks, num_blocks * block_bytes, seconds, limit, how)
