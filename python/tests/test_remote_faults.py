# SPDX-License-Identifier: Apache-2.0
"""Workers that die, stand still, come back, or lie; and the others, who go on."""

from __future__ import annotations

import json
import os
from collections.abc import Callable, Iterator
from typing import Any

import pytest
from remote_support import ALL, SHAPE, TRANSPORTS, Crew, Process, fails, require_nixl, seal, unseal
from remote_worker import WorkerError

#: Rounds of import and unimport, and of kill and restart, in which nothing may leak.
IMPORTS = int(os.environ.get("KVBM_FAULT_ROUNDS", "200"))
KILLS = max(6, IMPORTS // 100)

#: 64 blocks of 1 MiB: moving all of them takes long enough to be disturbed.
BIG: dict[str, Any] = {
    "num_blocks": 64,
    "num_layers": 8,
    "outer_dim": 2,
    "page_size": 16,
    "inner_dim": 8 * 256,
    "dtype_width_bytes": 2,
    "num_heads": 8,
}
MANY = list(range(BIG["num_blocks"]))

Two = tuple[Process, Process]


@pytest.fixture(autouse=True)
def crew() -> Iterator[Crew]:
    require_nixl()
    made = Crew()
    yield made
    made.dismiss()


@pytest.fixture(params=list(TRANSPORTS))
def transport(request: pytest.FixtureRequest) -> str:
    name: str = request.param
    return name


def hire(crew: Crew, count: int, transport: str, shape: Any = SHAPE, **keywords: Any) -> Any:
    """Workers with a layout "g2" each, the last one of which has imported the others."""
    workers = crew.hire(count, transport, **keywords)
    handles = [worker.add("g2", shape, "UniversalTP", "pinned") for worker in workers]
    for number, worker in enumerate(workers):
        worker.fill("g2", range(shape["num_blocks"]), number)
    for worker in workers[:-1]:
        workers[-1].meet(worker.export())
    return workers, handles


def outcome(call: Callable[..., Any], *arguments: Any) -> WorkerError | None:
    """The error of kvbm that a call ends with, or None."""
    try:
        call(*arguments)
    except WorkerError as error:
        return error
    return None


def expect_goes_on(b: Process, c: Process, of_c: int) -> None:
    """b moves blocks within itself, and from and to another peer."""
    b.move("g2", [0], "g2", [1])
    b.move(of_c, [2], "g2", [3])
    assert b.checksums("g2", [3]) == c.checksums("g2", [2])
    b.move("g2", [1], of_c, [0])
    assert c.checksums("g2", [0]) == b.checksums("g2", [1])


def test_a_peer_that_died_before(crew: Crew, transport: str) -> None:
    (a, c, b), (of_a, of_c, _) = hire(crew, 3, transport)
    b.move(of_a, [0], "g2", [0])
    a.kill()
    for _ in range(2):
        with fails("PeerLostError", str(a.id)):
            b.move(of_a, [0], "g2", [0])
        with fails("PeerLostError", str(a.id)):
            b.move("g2", [0], of_a, [0])
    expect_goes_on(b, c, of_c)
    b.part(a.id)
    assert b.imported()[0] == [c.id]


@pytest.mark.parametrize("writes", [False, True], ids=["read", "write"])
def test_a_peer_that_dies_meanwhile(crew: Crew, transport: str, writes: bool) -> None:
    (a, c, b), (of_a, of_c, _) = hire(crew, 3, transport, BIG)
    b.add("local", BIG, "UniversalTP", "pinned")
    b.fill("local", MANY, 7)
    for key in range(4):
        b.ask(
            "begin", f"{key}", *(("g2", MANY, of_a, MANY) if writes else (of_a, MANY, "g2", MANY))
        )
    a.kill()
    began = [outcome(b.answer) for _ in range(4)]
    ended = [outcome(b.wait, f"{key}") for key in range(4) if began[key] is None]
    # Those that began may have ended well before; nothing else may have happened to them.
    for error in (*began, *ended):
        assert error is None or (error.kind == "PeerLostError" and str(a.id) in error.message)
    with fails("PeerLostError", str(a.id)):
        b.move(of_a, [0], "g2", [0])
    # The dead write nothing any more: the blocks of failed transfers can be used.
    b.await_free("local", MANY, "g2", MANY)
    assert b.checksums("g2", MANY) == b.checksums("local", MANY)
    expect_goes_on(b, c, of_c)


def test_a_peer_that_shut_down(crew: Crew, transport: str) -> None:
    (a, c, b), (of_a, of_c, _) = hire(crew, 3, transport)
    b.move(of_a, [0], "g2", [0])
    a.close()
    with fails("PeerLostError|NotFoundError", str(a.id)):
        b.await_refusal(of_a, [0], "g2", [0])
    expect_goes_on(b, c, of_c)


@pytest.mark.parametrize("ending", ["resumed", "killed"])
@pytest.mark.parametrize("writes", [False, True], ids=["read", "write"])
def test_a_peer_that_stands_still_over_tcp(crew: Crew, writes: bool, ending: str) -> None:
    (a, c, b), (of_a, of_c, _) = hire(crew, 3, "tcp", BIG, remote_timeout=3.0)
    b.add("local", BIG, "UniversalTP", "pinned")
    b.fill("local", MANY, 7)
    touched, others = MANY[:32], MANY[32:]
    kept = b.checksums("g2", others)
    b.move(of_a, [0], "g2", [0])
    a.stop()
    arguments = ("g2", touched, of_a, touched) if writes else (of_a, touched, "g2", touched)
    b.begin("stuck", *arguments)
    with fails("TimeoutError", str(a.id)):
        b.wait("stuck")
    # What the peer may still write when it wakes up belongs to nobody.
    with fails("BusyError", str(a.id)):
        b.move("local", touched, "g2", touched)
    # Blocks beside them and other peers are not concerned.
    b.move("g2", [32], "local", [32])
    assert b.checksums("local", [32]) == kept[:1]
    b.move(of_c, [40], "local", [33])
    assert b.checksums("local", [33]) == c.checksums("g2", [40])
    assert b.checksums("g2", others) == kept
    if ending == "resumed":
        a.resume()
        b.await_free(of_a, touched, "g2", touched)
        assert b.checksums("g2", touched) == a.checksums("g2", touched)
    else:
        a.kill()
        b.await_free("local", touched, "g2", touched)
        assert b.checksums("g2", touched) == b.checksums("local", touched)
    assert b.checksums("g2", others) == kept
    b.part(a.id)


def test_a_standing_peer_is_forgotten(crew: Crew) -> None:
    (a, c, b), (of_a, of_c, _) = hire(crew, 3, "tcp", BIG, remote_timeout=3.0)
    b.move(of_a, [0], "g2", [0])
    a.stop()
    with fails("TimeoutError", str(a.id)):
        b.move(of_a, MANY[:32], "g2", MANY[:32])
    b.part(a.id)
    expect_busy_or_free = outcome(b.move, of_c, [40], "g2", [1])
    assert expect_busy_or_free is None or expect_busy_or_free.kind == "BusyError"
    a.resume()
    b.await_free(of_c, MANY, "g2", MANY)
    assert b.checksums("g2", MANY) == c.checksums("g2", MANY)
    b.meet(a.export())
    b.move(of_a, MANY, "g2", MANY)
    assert b.checksums("g2", MANY) == a.checksums("g2", MANY)


def test_a_transfers_own_timeout(crew: Crew) -> None:
    (a, b), (of_a, _) = hire(crew, 2, "tcp", BIG)
    a.stop()
    with fails("TimeoutError", str(a.id)):
        b.move(of_a, MANY, "g2", MANY, timeout=0.3)
    a.resume()
    b.await_free(of_a, MANY, "g2", MANY)
    assert b.checksums("g2", MANY) == a.checksums("g2", MANY)


def test_mapped_memory_of_a_standing_peer_is_read(crew: Crew) -> None:
    (a, b), (of_a, _) = hire(crew, 2, "mapped")
    expected = a.checksums("g2", ALL)
    a.stop()
    b.move(of_a, ALL, "g2", ALL)
    assert b.checksums("g2", ALL) == expected
    a.resume()


def test_unregister_waits_for_a_standing_importer(crew: Crew, transport: str) -> None:
    (a, b), (of_a, _) = hire(crew, 2, transport, remote_timeout=3.0)
    b.move(of_a, [0], "g2", [0])
    b.stop()
    with fails("BusyError", str(b.id)):
        a.remove("g2")
    a.fill("g2", ALL, 5)  # it is still there
    b.resume()
    a.remove("g2")
    with fails("NotFoundError"):
        b.move(of_a, [0], "g2", [0])


def test_stale_metadata_is_refused(crew: Crew, transport: str) -> None:
    (a, c, b), _ = hire(crew, 3, transport, agent_name="")
    a.add("other", SHAPE)
    before = a.export()
    a.remove("other")
    b.part(a.id)
    with fails("Error", str(a.id)):
        b.meet(before)
    assert b.imported()[0] == [c.id]
    b.meet(a.export())
    b.part(a.id)
    last = a.export()
    a.kill()
    with fails("PeerLostError", str(a.id)):
        b.meet(last)
    assert b.imported()[0] == [c.id]


def change_region(metadata: Any, field: str, change: Callable[[int], int]) -> None:
    """Changes a number of the first region, which is JSON within the blob."""
    layout = json.loads(metadata["layouts"][0]["layout"])
    region = layout["regions"][0]
    region[field] = change(region[field])
    metadata["layouts"][0]["layout"] = json.dumps(layout, sort_keys=True, separators=(",", ":"))


def wrap_region(metadata: Any, _: Process) -> None:
    change_region(metadata, "address", lambda _: (1 << 64) - 4096)


def wrap_landing(metadata: Any, _: Process) -> None:
    metadata["landing"]["address"] = (1 << 64) - 4096


def shrink_region(metadata: Any, _: Process) -> None:
    change_region(metadata, "bytes", lambda number: number // 2)


def take_handle(metadata: Any, other: Process) -> None:
    handle = metadata["layouts"][0]["handle"]
    assert isinstance(handle, list)
    handle[0] = other.id


def take_worker_id(metadata: Any, other: Process) -> None:
    metadata["worker_id"] = other.id


def take_agent_name(metadata: Any, _: Process) -> None:
    metadata["address"]["agent_name"] = "somebody else"


def take_tier(metadata: Any, _: Process) -> None:
    metadata["layouts"][0]["tier"] = "G1"


def twice(metadata: Any, _: Process) -> None:
    metadata["layouts"].append(metadata["layouts"][0])


@pytest.mark.parametrize(
    "lie",
    [
        wrap_region,
        wrap_landing,
        shrink_region,
        take_handle,
        take_worker_id,
        take_agent_name,
        take_tier,
        twice,
    ],
)
def test_m8_a_lie_in_metadata_is_refused(crew: Crew, lie: Callable[[Any, Process], None]) -> None:
    (a, c, b), (of_a, of_c, _) = hire(crew, 3, "cma")
    blob = a.export()
    b.part(a.id)
    metadata = unseal(blob)
    lie(metadata, c)
    with fails("CorruptError|InvalidArgumentError|AlreadyExistsError|OutOfRangeError"):
        b.meet(seal(blob, metadata))
    assert b.imported() == ([c.id], [of_c])
    expect_goes_on(b, c, of_c)
    b.meet(blob)
    b.move(of_a, [0], "g2", [4])
    assert b.checksums("g2", [4]) == a.checksums("g2", [0])


def test_shared_memory_that_is_not_what_it_says_is_not_mapped(crew: Crew) -> None:
    (a, c, b), (of_a, of_c, _) = hire(crew, 3, "mapped")
    blob = a.export()
    b.part(a.id)
    metadata = unseal(blob)
    metadata["layouts"][0]["shared"][0]["inode"] += 1
    b.meet(seal(blob, metadata))
    assert sorted(way.split(":")[0] for way in b.ways()) == ["NIXL", "mapped"]
    b.move(of_a, ALL, "g2", ALL)
    assert b.checksums("g2", ALL) == a.checksums("g2", ALL)
    b.part(a.id)
    # A process that is said to have started at another time is another one: it has ended.
    metadata = unseal(blob)
    metadata["process"]["start_time"] += 1
    refused = outcome(b.meet, seal(blob, metadata))
    assert refused is None or refused.kind == "PeerLostError"
    expect_goes_on(b, c, of_c)


@pytest.mark.parametrize("transport", ["cma", "tcp"])
def test_memory_that_was_never_registered_is_not_reached(crew: Crew, transport: str) -> None:
    (a, c, b), (of_a, of_c, _) = hire(crew, 3, transport)
    blob = a.export()
    b.part(a.id)
    metadata = unseal(blob)
    change_region(metadata, "address", lambda address: address + (1 << 40))
    sums = b.checksums("g2", ALL)
    refused = outcome(b.meet, seal(blob, metadata))
    if refused is None:
        with fails("OutOfRangeError", "registered"):
            b.move(of_a, ALL, "g2", ALL)
        b.part(a.id)
    else:
        assert refused.kind in ("CorruptError", "OutOfRangeError", "NotFoundError")
    assert b.checksums("g2", ALL) == sums
    expect_goes_on(b, c, of_c)
    # The true metadata works all the same.
    b.meet(blob)
    b.move(of_a, [0], "g2", [4])
    assert b.checksums("g2", [4]) == a.checksums("g2", [0])


def test_a_blob_that_was_cut_or_damaged_is_refused(crew: Crew) -> None:
    (a, b), _ = hire(crew, 2, "mapped")
    blob = a.export()
    b.part(a.id)
    pieces = [blob[:length] for length in range(0, len(blob), 97)]
    pieces += [
        blob[:at] + bytes([blob[at] ^ 16]) + blob[at + 1 :] for at in range(0, len(blob), 61)
    ]
    pieces.append(blob + b"\0")
    for piece in pieces:
        with fails("CorruptError|VersionMismatchError"):
            b.meet(piece)
    assert b.imported() == ([], [])


@pytest.mark.slow
def test_import_and_unimport_leak_nothing(crew: Crew, transport: str) -> None:
    (a, b), (_, _) = hire(crew, 2, transport)
    b.part(a.id)
    blob = a.export()
    b.rounds(blob, 20)
    before = [worker.usage() for worker in (a, b)]
    rounds = IMPORTS
    while rounds > 0:
        b.rounds(blob, min(rounds, 100))
        rounds -= 100
    expect_no_leak(before, [worker.usage() for worker in (a, b)], IMPORTS)
    a.await_stats(importers=0)


@pytest.mark.slow
def test_peers_that_die_leak_nothing(crew: Crew, transport: str) -> None:
    (b,), _ = hire(crew, 1, transport)
    usage = []
    for round in range(KILLS):
        (a,) = crew.hire(1, transport, agent_name="always the same")
        handle = a.add("g2", SHAPE, "UniversalTP", "pinned")
        a.fill("g2", ALL, round)
        b.meet(a.export())
        a.meet(b.export())
        b.move(handle, ALL, "g2", ALL)
        assert b.checksums("g2", ALL) == a.checksums("g2", ALL)
        a.kill()
        with fails("PeerLostError", str(a.id)):
            b.move(handle, ALL, "g2", ALL)
        b.part(a.id)
        usage.append(b.usage())
    expect_no_leak([usage[1]], [usage[-1]], KILLS - 2)


def expect_no_leak(before: Any, after: Any, rounds: int) -> None:
    for (fds, threads, kib), (fds_now, threads_now, kib_now) in zip(before, after, strict=True):
        assert fds_now <= fds + 3, f"{fds} descriptors, then {fds_now}"
        assert threads_now <= threads + 2, f"{threads} threads, then {threads_now}"
        assert kib_now <= kib + 4096 + 2 * rounds, f"{kib} KiB, then {kib_now}"
