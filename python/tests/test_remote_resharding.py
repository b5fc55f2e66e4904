# SPDX-License-Identifier: Apache-2.0
"""Blocks handed from the ranks of a prefill engine to those of a decode engine, by real processes.

A rank is a process of its own up to four ranks a side; eight ranks share four processes.
"""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any

import numpy as np
import pytest
from numpy.typing import NDArray
from remote_support import Crew, Process, require_nixl

import kvbm_cpp as kvbm

HEADS, HEAD_BYTES, LAYERS, TOKENS, BLOCKS = 8, 32, 3, 4, 5
MOST_PROCESSES = 4


@pytest.fixture(scope="module", autouse=True)
def nixl() -> None:
    require_nixl()


@pytest.fixture(scope="module", params=["mapped", "cma"])
def processes(request: pytest.FixtureRequest) -> Iterator[tuple[list[Process], list[Process]]]:
    """Processes of the prefill and of the decode side, which do not know each other."""
    require_nixl()
    crew = Crew()
    hired = crew.hire(2 * MOST_PROCESSES, request.param, landing_bytes=1 << 20)
    yield hired[:MOST_PROCESSES], hired[MOST_PROCESSES:]
    crew.dismiss()


def shape(heads: int, outer: int = 2) -> dict[str, Any]:
    return {
        "num_blocks": BLOCKS,
        "num_layers": LAYERS,
        "outer_dim": outer,
        "page_size": TOKENS,
        "inner_dim": heads * HEAD_BYTES // 2,
        "dtype_width_bytes": 2,
        "num_heads": heads,
    }


class Side:
    """The ranks of one engine: which process has each, and its layout there."""

    def __init__(self, processes: list[Process], tp: int, heads: int, format: str, outer: int = 2):
        used = processes[: min(tp, MOST_PROCESSES)]
        self.used = used
        self.at = [used[rank % len(used)] for rank in range(tp)]
        self.names = [f"rank {rank}" for rank in range(tp)]
        separate = format == "OperationalNHD"
        self.handles = [
            process.add(name, shape(heads, outer), format, "pinned", separate)
            for process, name in zip(self.at, self.names, strict=True)
        ]

    def leave(self) -> None:
        for process, name in zip(self.at, self.names, strict=True):
            process.remove(name)


def meet(senders: Side, receivers: Side) -> None:
    blobs = [process.export() for process in senders.used]
    for receiver in receivers.used:
        for blob in blobs:
            receiver.meet(blob)


def part(senders: Side, receivers: Side) -> None:
    for receiver in receivers.used:
        for sender in senders.used:
            receiver.part(sender.id)


TENSOR_PARALLEL = [(1, 2), (2, 1), (2, 4), (4, 2), (1, 4), (4, 1), (8, 2), (2, 8), (4, 4)]


@pytest.mark.parametrize(
    ("format", "src_tp", "dst_tp"),
    [
        *(("UniversalTP", *sizes) for sizes in TENSOR_PARALLEL),
        *(("OperationalNHD", *sizes) for sizes in TENSOR_PARALLEL[1:4]),
    ],
)
def test_each_pair_moves_its_intersection_of_heads(
    processes: tuple[list[Process], list[Process]], format: str, src_tp: int, dst_tp: int
) -> None:
    rng = np.random.default_rng(src_tp * 16 + dst_tp)
    axes = (BLOCKS, HEADS, LAYERS, 2, TOKENS, HEAD_BYTES)
    whole: NDArray[Any] = rng.integers(0, 256, axes, np.uint8)
    prefill = Side(processes[0], src_tp, HEADS // src_tp, "OperationalNHD")
    decode = Side(processes[1], dst_tp, HEADS // dst_tp, format)
    source, target = [4, 0, 3, 1], [0, 1, 2, 4]
    for rank in range(src_tp):
        own = kvbm.heads_of_rank(HEADS, src_tp, rank)
        prefill.at[rank].put(prefill.names[rank], range(BLOCKS), whole[:, own.start : own.stop])
    for rank in range(dst_tp):
        decode.at[rank].fill(decode.names[rank], range(BLOCKS), 9)
    meet(prefill, decode)

    moved = 0
    plan = kvbm.plan_resharding(HEADS, src_tp, dst_tp)
    for number, step in enumerate(plan):
        assert step.src_heads is not None
        assert step.dst_heads is not None
        receiver = decode.at[step.dst_rank]
        what = (prefill.handles[step.src_rank], source, decode.names[step.dst_rank], target)
        heads = {
            "src_head_range": (step.src_heads.start, step.src_heads.stop),
            "dst_head_range": (step.dst_heads.start, step.dst_heads.stop),
        }
        _, num_bytes, _ = receiver.explain(*what, **heads)
        assert num_bytes == len(source) * len(step.src_heads) * LAYERS * 2 * TOKENS * HEAD_BYTES
        moved += num_bytes
        receiver.begin(f"{number}", *what, **heads)
    for number, step in enumerate(plan):
        decode.at[step.dst_rank].wait(f"{number}")

    assert moved == whole[source].nbytes  # every byte once
    arrived = [decode.at[r].tensor(decode.names[r], target) for r in range(dst_tp)]
    assert np.array_equal(np.concatenate(arrived, axis=1), whole[source])
    part(prefill, decode)
    prefill.leave()
    decode.leave()


@pytest.mark.parametrize(("src_tp", "dst_tp"), [(1, 2), (2, 1), (2, 4), (4, 2)])
def test_mla_blocks_go_whole_to_every_rank(
    processes: tuple[list[Process], list[Process]], src_tp: int, dst_tp: int
) -> None:
    prefill = Side(processes[0], src_tp, 1, "OperationalNHD", outer=1)
    decode = Side(processes[1], dst_tp, 1, "OperationalNHD", outer=1)
    blocks = list(range(BLOCKS))
    for rank in range(src_tp):  # every rank holds everything
        prefill.at[rank].fill(prefill.names[rank], blocks, 3)
    meet(prefill, decode)
    expected = prefill.at[0].checksums(prefill.names[0], blocks)
    plan = kvbm.plan_resharding(0, src_tp, dst_tp)
    assert sorted(step.dst_rank for step in plan) == list(range(dst_tp))
    assert {step.src_rank for step in plan} == set(range(min(src_tp, dst_tp)))
    for step in plan:
        assert step.src_heads is None
        assert step.dst_heads is None
        receiver = decode.at[step.dst_rank]
        receiver.fill(decode.names[step.dst_rank], blocks, 4)
        receiver.move(prefill.handles[step.src_rank], blocks, decode.names[step.dst_rank], blocks)
        assert receiver.checksums(decode.names[step.dst_rank], blocks) == expected
    part(prefill, decode)
    prefill.leave()
    decode.leave()


def test_more_ranks_than_heads_share_them() -> None:
    assert kvbm.heads_of_rank(2, 8, 5) == range(1, 2)
    plan = kvbm.plan_resharding(2, 8, 1)
    assert sum(len(step.src_heads or ()) for step in plan) == 2
    assert kvbm.transfers_to(plan, 0) == plan
    assert [step for rank in range(8) for step in kvbm.transfers_from(plan, rank)] == plan
    with pytest.raises(kvbm.InvalidArgumentError, match="3"):
        kvbm.plan_resharding(8, 3, 1)
    with pytest.raises(kvbm.OutOfRangeError):
        kvbm.heads_of_rank(8, 2, 2)
