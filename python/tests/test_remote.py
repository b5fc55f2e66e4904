# SPDX-License-Identifier: Apache-2.0
"""Blocks between the processes of several workers, over every way that one machine has."""

from __future__ import annotations

import shutil
import socket
import subprocess
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from remote_support import ALL, SHAPE, TRANSPORTS, Crew, Process, fails, require_nixl

import kvbm_cpp as kvbm

LAYOUTS = {
    "g2": ("UniversalTP", "pinned", False),
    "nhd": ("OperationalNHD", "system", True),
    "g1": ("OperationalNHD", "device", True),
}
#: Which strategies may be chosen over which way.
STRATEGIES = {
    "mapped": {"HostCopy", "StreamCopy"},
    "cma": {"DirectRemote", "StagedRemote", "PackedRemote"},
    "tcp": {"DirectRemote", "StagedRemote", "PackedRemote"},
}


@pytest.fixture(autouse=True)
def nixl() -> None:
    require_nixl()


@pytest.fixture
def crew() -> Iterator[Crew]:
    made = Crew()
    yield made
    made.dismiss()


class Pair:
    """Two workers who know each other; a's and b's layouts by name."""

    def __init__(self, crew: Crew, transport: str):
        self.transport = transport
        self.a, self.b = crew.hire(2, transport)
        self.of_a = {name: self.a.add(name, SHAPE, *LAYOUTS[name]) for name in LAYOUTS}
        self.of_b = {name: self.b.add(name, SHAPE, *LAYOUTS[name]) for name in LAYOUTS}
        self.b.meet(self.a.export())
        self.a.meet(self.b.export())


@pytest.fixture(scope="module", params=list(TRANSPORTS))
def pair(request: pytest.FixtureRequest) -> Iterator[Pair]:
    require_nixl()
    crew = Crew()
    yield Pair(crew, request.param)
    crew.dismiss()


def test_the_way_is_told(pair: Pair) -> None:
    word = "mapped" if pair.transport == "mapped" else "NIXL"
    assert all(way.startswith(word) for way in pair.b.ways())


@pytest.mark.parametrize("there", LAYOUTS)
@pytest.mark.parametrize("here", LAYOUTS)
def test_whole_blocks_are_read_and_written(pair: Pair, here: str, there: str) -> None:
    a, b = pair.a, pair.b
    some, others = [5, 0, 2], [1, 7, 3]
    a.fill(there, ALL, 1)
    b.fill(here, ALL, 2)
    kept = b.checksums(here, ALL)
    assert b.explain(pair.of_a[there], some, here, others)[0] in STRATEGIES[pair.transport]
    b.move(pair.of_a[there], some, here, others)
    sums = b.checksums(here, ALL)
    assert [sums[block] for block in others] == a.checksums(there, some)
    assert all(sums[block] == kept[block] for block in ALL if block not in others)

    b.fill(here, ALL, 3)
    kept = a.checksums(there, ALL)
    b.move(here, some, pair.of_a[there], others)
    sums = a.checksums(there, ALL)
    assert [sums[block] for block in others] == b.checksums(here, some)
    assert all(sums[block] == kept[block] for block in ALL if block not in others)


@pytest.mark.parametrize("writes", [False, True], ids=["read", "write"])
@pytest.mark.parametrize(("here", "there"), [("g2", "g2"), ("g1", "g2"), ("nhd", "nhd")])
def test_a_range_of_layers_and_heads_moves_alone(
    pair: Pair, here: str, there: str, writes: bool
) -> None:
    a, b = pair.a, pair.b
    a.fill(there, ALL, 4)
    b.fill(here, ALL, 5)
    theirs, ours = a.tensor(there, [1, 2]), b.tensor(here, [1, 2])
    options: dict[str, Any] = {"layer_range": (1, 3)}
    heads_there, heads_here = slice(2, 5), slice(4, 7)
    if writes:
        options |= {"src_head_range": (4, 7), "dst_head_range": (2, 5)}
        b.move(here, [1, 2], pair.of_a[there], [1, 2], **options)
        theirs[:, heads_there, 1:3] = ours[:, heads_here, 1:3]
    else:
        options |= {"src_head_range": (2, 5), "dst_head_range": (4, 7)}
        b.move(pair.of_a[there], [1, 2], here, [1, 2], **options)
        ours[:, heads_here, 1:3] = theirs[:, heads_there, 1:3]
    assert np.array_equal(a.tensor(there, [1, 2]), theirs)
    assert np.array_equal(b.tensor(here, [1, 2]), ours)


@pytest.mark.parametrize("strategy", ["DirectRemote", "StagedRemote", "PackedRemote"])
def test_every_wire_strategy_moves_the_same(pair: Pair, strategy: str) -> None:
    if pair.transport == "mapped":
        with fails("UnsupportedError", strategy):
            pair.b.move(pair.of_a["nhd"], ALL, "nhd", ALL, strategy=strategy)
        return
    pair.a.fill("nhd", ALL, 6)
    images = pair.a.stats()["images"]
    pair.b.move(pair.of_a["nhd"], ALL, "nhd", ALL, strategy=strategy)
    assert pair.b.checksums("nhd", ALL) == pair.a.checksums("nhd", ALL)
    pair.b.fill("nhd", ALL, 7)
    pair.b.move("nhd", ALL, pair.of_a["nhd"], ALL, strategy=strategy)
    assert pair.b.checksums("nhd", ALL) == pair.a.checksums("nhd", ALL)
    assert (pair.a.stats()["images"] > images) == (strategy == "PackedRemote")
    pair.a.await_stats(landing_bytes_lent=0)


def test_m7_tiers_name_layouts(pair: Pair) -> None:
    a, b = pair.a, pair.b
    assert b.resolve(a.id, "G1") == pair.of_a["g1"]
    assert b.resolve(b.id, "G2") == pair.of_b["g2"]
    a.fill("g1", ALL, 8)
    b.move(b.resolve(a.id, "G1"), ALL, b.resolve(b.id, "G2"), ALL)
    assert b.checksums("g2", ALL) == a.checksums("g1", ALL)
    with fails("NotFoundError", str(a.id), "G3"):
        b.resolve(a.id, "G3")


def test_a_write_is_told_once_after_its_data(pair: Pair) -> None:
    a, b = pair.a, pair.b
    for key in ("first", "second", "called"):
        a.subscribe(key)
    a.call_back("called")
    sent = [(b.id, 100 + round) for round in range(8)]
    for round, expected in enumerate(sent):
        b.fill("g2", ALL, 20 + round)
        b.begin("write", "g2", ALL, pair.of_a["g2"], ALL, nixl_write_notification=expected[1])
        assert a.next("first") == expected
        assert a.checksums("g2", ALL) == b.checksums("g2", ALL)
        b.wait("write")
    assert [a.next("second") for _ in sent] == sent
    assert a.called_back(len(sent)) == sent
    for key in ("first", "second"):
        assert a.next(key, 0.0) is None
    for key in ("first", "second", "called"):
        a.unsubscribe(key)
    assert a.stats()["foreign_messages"] == 0


def test_a_read_takes_no_write_notification(pair: Pair) -> None:
    with fails("Unsupported|InvalidArgument", "nixl_write_notification"):
        pair.b.move(pair.of_b["g2"], [0], pair.of_b["nhd"], [0], nixl_write_notification=1)


def test_many_transfers_in_flight(pair: Pair) -> None:
    a, b = pair.a, pair.b
    a.fill("g2", ALL, 40)
    b.fill("nhd", ALL, 41)
    for round in range(8):
        b.begin(f"read {round}", pair.of_a["g2"], [round], "g2", [round])
        b.begin(f"write {round}", "nhd", [round], pair.of_a["nhd"], [round])
    for round in range(8):
        b.wait(f"read {round}")
        b.wait(f"write {round}")
    assert b.checksums("g2", ALL) == a.checksums("g2", ALL)
    assert b.checksums("nhd", ALL) == a.checksums("nhd", ALL)


def test_m6_a_worker_is_imported_once(pair: Pair) -> None:
    a, b = pair.a, pair.b
    assert b.imported() == ([a.id], sorted(pair.of_a.values(), key=lambda bits: bits >> 64))
    with fails("AlreadyExistsError", str(a.id)):
        b.meet(a.export())
    with fails("InvalidArgumentError", "itself"):
        b.meet(b.export())
    b.part(a.id)
    b.part(a.id)
    assert b.imported() == ([], [])
    with fails("NotFoundError", "source"):
        b.move(pair.of_a["g2"], [0], "g2", [0])
    assert b.meet(a.export()) == a.id
    b.move(pair.of_a["g2"], [0], "g2", [0])
    assert b.checksums("g2", [0]) == a.checksums("g2", [0])


def test_m9_descriptors_of_own_layouts_only() -> None:
    with kvbm.TransferManager(host_device_bytes=1 << 24, cuda_pool_reserve_size=0) as manager:
        builder = manager.layout_builder().config(kvbm.LayoutConfig(**SHAPE))
        layout = builder.fully_contiguous(kvbm.KvBlockLayout.UniversalTP).allocate_pinned().build()
        handle = manager.register_layout(layout)
        told = manager.build_logical_descriptor(handle, "G2")
        assert (told.handle, told.tier) == (handle, kvbm.LogicalLayoutHandle.G2)
        assert told.config == layout.config
        assert told.regions == [(layout.regions[0].address, layout.regions[0].bytes)]
        with pytest.raises(kvbm.InvalidArgumentError, match="G2"):
            manager.build_logical_descriptor(handle, kvbm.LogicalLayoutHandle.G1)
        with pytest.raises(kvbm.NotFoundError):
            manager.build_logical_descriptor(kvbm.LayoutHandle(handle.worker_id ^ 1, 0), "G2")
        with pytest.raises(kvbm.UnsupportedError, match="nixl_backend"):
            manager.export_metadata()


def test_m5_metadata_goes_through_bytes_and_json(crew: Crew) -> None:
    (worker,) = crew.hire()
    for names in ([], ["g2"], list(LAYOUTS)):
        for name in names:
            if name not in ("g2",) or names == ["g2"]:
                worker.add(name, SHAPE, *LAYOUTS[name])
        blob = worker.export(names)
        metadata = kvbm.SerializedLayout.from_bytes(blob)
        assert metadata.to_bytes() == blob
        assert metadata == kvbm.SerializedLayout.from_bytes(metadata.to_bytes())
        assert metadata.worker_id == worker.id
        tiers = [layout.tier.name for layout in metadata.layouts]
        assert tiers == ["G1" if name == "g1" else "G2" for name in names]
        assert all(layout.is_shared for layout in metadata.layouts)
        assert f"{worker.id}" in metadata.to_json()
        address = metadata.address
        assert kvbm.WorkerAddress.from_bytes(address.to_bytes()) == address
        assert address.agent_name.startswith("kvbm-")


@pytest.mark.parametrize("transport", TRANSPORTS)
def test_three_workers(crew: Crew, transport: str) -> None:
    workers = crew.hire(3, transport)
    handles = [worker.add("g2", SHAPE, "UniversalTP", "pinned") for worker in workers]
    blobs = [worker.export() for worker in workers]
    for number, worker in enumerate(workers):
        worker.fill("g2", ALL, number)
        for other in range(3):
            if other != number:
                worker.meet(blobs[other])
    a, b, c = workers
    sums = [worker.checksums("g2", ALL) for worker in workers]
    c.subscribe("all")
    a.begin("ac", "g2", [0, 1], handles[2], [0, 1], nixl_write_notification=1)
    b.begin("bc", "g2", [2, 3], handles[2], [2, 3], nixl_write_notification=2)
    c.begin("bc", handles[1], [7], "g2", [7])
    for worker, key in ((a, "ac"), (b, "bc"), (c, "bc")):
        worker.wait(key)
    assert {c.next("all"), c.next("all")} == {(a.id, 1), (b.id, 2)}
    expected = [*sums[0][:2], *sums[1][2:4], *sums[2][4:7], sums[1][7]]
    assert c.checksums("g2", ALL) == expected
    # What one importer forgets stays another one's.
    a.part(c.id)
    b.move(handles[2], [0], "g2", [0])
    assert b.checksums("g2", [0]) == sums[0][:1]


@pytest.mark.parametrize("transport", TRANSPORTS)
def test_unregister_takes_a_layout_back(crew: Crew, transport: str) -> None:
    a, b = crew.hire(2, transport)
    first, second = (a.add(name, SHAPE, "UniversalTP", "pinned") for name in ("one", "two"))
    b.add("g2", SHAPE, "UniversalTP", "pinned")
    b.meet(a.export())
    b.move(first, [0], "g2", [0])
    a.remove("one")  # returns once b has confirmed
    assert b.imported() == ([a.id], [second])
    with fails("NotFoundError", "source"):
        b.move(first, [0], "g2", [0])
    b.move(second, [0], "g2", [0])
    # With the importer gone there is nobody to ask.
    b.kill()
    a.remove("two")


@pytest.mark.parametrize("transport", TRANSPORTS)
def test_a_worker_restarted_under_its_name_is_imported_again(crew: Crew, transport: str) -> None:
    (b,) = crew.hire(1, transport)
    b.add("g2", SHAPE, "UniversalTP", "pinned")
    b.subscribe("all")
    old = None
    for round in range(2):
        (a,) = crew.hire(1, transport, agent_name="same name")
        handle = a.add("g2", SHAPE, "UniversalTP", "pinned")
        a.fill("g2", ALL, round)
        if old is not None:
            b.part(old)
        old = b.meet(a.export())
        b.move(handle, ALL, "g2", ALL)
        assert b.checksums("g2", ALL) == a.checksums("g2", ALL)
        target = b.resolve(b.id, "G2")
        a.meet(b.export())
        a.move("g2", [0], target, [0], nixl_write_notification=round)
        assert b.next("all") == (a.id, round)
        a.kill()


def free_port() -> int:
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        port: int = probe.getsockname()[1]
        return port


@pytest.fixture
def etcd(tmp_path: Path) -> Iterator[str]:
    program = shutil.which("etcd")
    if program is None:
        pytest.skip("no etcd: Debian's package etcd-server has it")
    client, peer = (f"http://127.0.0.1:{free_port()}" for _ in range(2))
    command = [program, "--data-dir", str(tmp_path / "etcd"), "--log-level", "error"]
    command += ["--listen-client-urls", client, "--advertise-client-urls", client]
    command += ["--listen-peer-urls", peer, "--initial-advertise-peer-urls", peer]
    command += ["--initial-cluster", f"default={peer}", "--unsafe-no-fsync"]
    server = subprocess.Popen(command, stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL)
    yield client
    server.kill()
    server.wait()


def exchange_and_move(a: Process, b: Process) -> None:
    """b finds a by its name and reads a block."""
    handle = a.add("g2", SHAPE, "UniversalTP", "pinned")
    b.add("g2", SHAPE, "UniversalTP", "pinned")
    a.fill("g2", ALL, 1)
    b.ask("meet_by_name", "prefill")
    a.publish("prefill")
    assert b.answer() == a.id
    assert b.names() == ["prefill"]
    b.move(handle, ALL, "g2", ALL)
    assert b.checksums("g2", ALL) == a.checksums("g2", ALL)
    a.withdraw("prefill")
    assert b.names() == []


def test_metadata_over_a_folder(crew: Crew, tmp_path: Path) -> None:
    a, b = crew.hire(2)
    for worker in (a, b):
        worker.join("folder", tmp_path)
    exchange_and_move(a, b)
    # What a dead process published is absent.
    a.publish("prefill")
    assert b.names() == ["prefill"]
    a.kill()
    assert b.names() == []


def test_metadata_over_tcp(crew: Crew) -> None:
    a, b = crew.hire(2)
    token = "a token that all workers share"
    address = a.join("tcp", bind_address="127.0.0.1", token=token)
    assert address.startswith("127.0.0.1:")
    assert b.join("tcp", token=token, peers=[address]) == ""
    exchange_and_move(a, b)
    b.join("tcp", token="another token, which is wrong", peers=[address])
    with fails("InvalidArgumentError", "token"):
        b.names()


def test_metadata_over_etcd(crew: Crew, etcd: str) -> None:
    a, b = crew.hire(2)
    for worker in (a, b):
        worker.join("etcd", [etcd], lease_ttl=10.0, request_timeout=20.0)
    exchange_and_move(a, b)


def test_metadata_within_a_process() -> None:
    ours = kvbm.MetadataExchange.in_process()
    theirs = kvbm.MetadataExchange.in_process(ours)
    ours.publish("one", b"metadata")
    assert theirs.fetch("one") == b"metadata"
    with pytest.raises(kvbm.AlreadyExistsError):
        theirs.publish("one", b"mine")
    with pytest.raises(kvbm.TimeoutError, match="two"):
        theirs.fetch("two", 0.3)
    del ours
    assert theirs.list() == []
