# SPDX-License-Identifier: Apache-2.0
"""Workers in two network namespaces, with a link between them that can be taken down."""

from __future__ import annotations

import os
import shutil
import subprocess
import time
from collections.abc import Iterator

import pytest
from remote_support import ALL, PATIENCE, TCP, Crew, Process, fails, require_nixl
from remote_worker import WorkerError
from test_remote_faults import BIG, MANY

#: Of the link, in each namespace: addresses that no machine has.
SUBNET = "198.18.77"


def ip(*words: str) -> None:
    subprocess.run(["ip", *words], check=True, capture_output=True, text=True)


class Link:
    """Two network namespaces and a virtual cable between them."""

    def __init__(self) -> None:
        self.names = [f"kvbm{os.getpid()}{side}" for side in "ab"]
        for name in self.names:
            ip("netns", "add", name)
        try:
            ip("link", "add", "kvbm0", "netns", self.names[0], "type", "veth", "peer", "name",
               "kvbm0", "netns", self.names[1])  # fmt: skip
            for number, name in enumerate(self.names):
                ip("-n", name, "addr", "add", f"{SUBNET}.{number + 1}/24", "dev", "kvbm0")
                ip("-n", name, "link", "set", "kvbm0", "up")
                ip("-n", name, "link", "set", "lo", "up")
        except BaseException:
            self.remove()
            raise

    def start(self, side: int, **keywords: object) -> Process:
        """A worker in one of the namespaces, reached over TCP."""
        prefix = ["ip", "netns", "exec", self.names[side]]
        process = Process(prefix, UCX_TLS=TCP, UCX_NET_DEVICES="kvbm0")
        return process.start(map_peer_memory=False, **keywords)

    def set(self, state: str) -> None:
        ip("-n", self.names[0], "link", "set", "kvbm0", state)

    def remove(self) -> None:
        for name in self.names:
            subprocess.run(["ip", "netns", "del", name], check=False, capture_output=True)


@pytest.fixture
def link() -> Iterator[Link]:
    require_nixl()
    if shutil.which("ip") is None:
        pytest.skip("no command ip (Debian: iproute2)")
    try:
        made = Link()
    except subprocess.CalledProcessError as error:
        pytest.skip(f"no network namespaces here: {error.stderr.strip()}")
    yield made
    made.remove()


@pytest.fixture
def crew() -> Iterator[Crew]:
    made = Crew()
    yield made
    made.dismiss()


def hire(crew: Crew, link: Link, side: int, **keywords: object) -> tuple[Process, int]:
    worker = link.start(side, **keywords)
    crew.members.append(worker)
    return worker, worker.add("g2", BIG, "UniversalTP", "pinned")


def move_when_free(worker: Process, src: int, ids: list[int]) -> None:
    """Reads blocks once nothing else can touch them; TCP takes its time after an outage."""
    deadline = time.monotonic() + PATIENCE
    while True:
        try:
            worker.move(src, ids, "g2", ids, timeout=PATIENCE / 2)
            return
        except WorkerError as error:
            if error.kind not in ("BusyError", "PeerLostError") or time.monotonic() > deadline:
                raise


def test_blocks_cross_a_network(link: Link, crew: Crew) -> None:
    (a, of_a), (b, _) = hire(crew, link, 0), hire(crew, link, 1)
    a.fill("g2", MANY, 1)
    b.fill("g2", MANY, 2)
    b.meet(a.export())
    b.move(of_a, ALL, "g2", ALL)
    assert b.checksums("g2", ALL) == a.checksums("g2", ALL)
    b.move("g2", [60], of_a, [3])
    assert a.checksums("g2", [3]) == b.checksums("g2", [60])


@pytest.mark.parametrize("writes", [False, True], ids=["read", "write"])
def test_a_link_that_goes_down_and_comes_back(link: Link, crew: Crew, writes: bool) -> None:
    (a, of_a), (b, _) = hire(crew, link, 0), hire(crew, link, 1, remote_timeout=4.0)
    c, of_c = hire(crew, link, 1)
    for number, worker in enumerate((a, b, c)):
        worker.fill("g2", MANY, number)
    b.meet(a.export())
    b.meet(c.export())
    b.move(of_a, [0], "g2", [0])
    link.set("down")
    touched, others = MANY[:8], MANY[8:]
    kept = b.checksums("g2", others)
    with fails("TimeoutError", str(a.id)):
        b.move(*(("g2", touched, of_a, touched) if writes else (of_a, touched, "g2", touched)))
    # A peer on this side of the link is not concerned.
    b.move("g2", [40], of_c, [1])
    assert c.checksums("g2", [1]) == b.checksums("g2", [40])
    link.set("up")
    move_when_free(b, of_a, touched)
    assert b.checksums("g2", touched) == a.checksums("g2", touched)
    assert b.checksums("g2", others) == kept
