# SPDX-License-Identifier: Apache-2.0
"""Waiting: threads, callbacks, asyncio, deadlines, cancellation; the interpreter lock."""

from __future__ import annotations

import asyncio
import gc
import sys
import threading
import weakref
from typing import Any

import pytest
from support import Gate, config, contiguous

import kvbm_cpp as kvbm

Move = Any  # a function (**options) -> notification


@pytest.fixture
def move(manager: kvbm.TransferManager, gate: Gate) -> Move:
    """Starts a transfer of two blocks that stays pending until the gate opens."""
    handles = [
        manager.register_layout(contiguous(manager, config(), place=lambda b: b.allocate_device(0)))
        for _ in range(2)
    ]

    def start(**options: Any) -> kvbm.TransferCompleteNotification:
        made = kvbm.TransferOptions(wait_for=[gate.event], **options)
        return manager.execute_transfer(handles[0], [0, 1], handles[1], [2, 3], made)

    return start


def test_wait_blocks_until_done(gate: Gate, move: Move) -> None:
    done = move()
    assert not done.is_ready()
    assert done.could_yield()
    assert done.error() is None
    assert "pending" in repr(done)
    assert not done.wait_for(0.0)
    with pytest.raises(kvbm.TimeoutError, match=r"not complete after 0\.01 s"):
        done.wait(timeout=0.01)
    gate.open()
    done.wait()
    assert done.is_ready()
    assert done.wait_for(0.0)
    done.wait(float("inf"))
    assert done.failed_blocks() == []
    assert "done" in repr(done)


def test_completed_needs_no_waiting() -> None:
    done = kvbm.TransferCompleteNotification.completed()
    assert done.is_ready()
    assert not done.could_yield()
    done.wait()
    asyncio.run(_await(done))


async def _await(done: kvbm.TransferCompleteNotification) -> None:
    await done


def test_other_threads_run_while_one_waits(gate: Gate, move: Move) -> None:
    done = move()
    waiting = threading.Event()
    ended = threading.Event()

    def wait() -> None:
        waiting.set()
        done.wait()
        ended.set()

    thread = threading.Thread(target=wait)
    thread.start()
    assert waiting.wait(30)
    # This thread runs Python while the other one is inside wait(): only so can the gate open.
    assert not ended.is_set()
    gate.open()
    thread.join(30)
    assert ended.is_set()


def test_close_waits_without_the_lock(
    manager: kvbm.TransferManager, gate: Gate, move: Move
) -> None:
    done = move()
    closing = threading.Event()

    def close() -> None:
        closing.set()
        manager.close()

    thread = threading.Thread(target=close)
    thread.start()
    assert closing.wait(30)
    gate.open()
    thread.join(30)
    assert not thread.is_alive()
    assert done.is_ready()


def test_callbacks_run_once_with_the_outcome(gate: Gate, move: Move) -> None:
    done = move()
    seen: list[tuple[int, object, int]] = []
    complete = threading.Event()
    for number in range(3):
        done.then(lambda error, n=number: seen.append((n, error, threading.get_ident())))
    done.then(lambda _: complete.set())
    assert seen == []
    gate.open()
    assert complete.wait(30)
    assert [(number, error) for number, error, _ in seen] == [(0, None), (1, None), (2, None)]
    assert threading.get_ident() not in {thread for _, _, thread in seen}
    done.then(lambda error: seen.append((3, error, threading.get_ident())))
    assert seen[-1] == (3, None, threading.get_ident())
    with pytest.raises(TypeError):
        done.then(None)


def test_callback_errors_go_to_the_unraisable_hook(
    gate: Gate, move: Move, monkeypatch: pytest.MonkeyPatch
) -> None:
    caught: list[Any] = []
    told = threading.Event()

    def hook(unraisable: Any) -> None:
        caught.append(unraisable.exc_type)
        told.set()

    monkeypatch.setattr(sys, "unraisablehook", hook)

    def fail(_: object) -> None:
        raise KeyError("from the callback")

    done = move()
    done.then(fail)
    gate.open()
    assert told.wait(30)
    assert caught == [KeyError]


def test_callbacks_are_let_go(gate: Gate, move: Move) -> None:
    class Owner:
        def __call__(self, _: object) -> None:
            ran.set()

    ran = threading.Event()
    last = threading.Event()
    owner = Owner()
    watched = weakref.ref(owner)
    done = move()
    done.then(owner)
    done.then(lambda _: last.set())
    del owner
    gate.open()
    assert ran.wait(30)
    assert last.wait(30)
    gc.collect()
    assert watched() is None


def test_await_resumes_in_the_loop(gate: Gate, move: Move) -> None:
    async def run() -> list[str]:
        order: list[str] = []
        done = move()

        async def waiter() -> None:
            await done
            order.append("done")

        task = asyncio.create_task(waiter())
        await asyncio.sleep(0)
        order.append("loop runs")
        gate.open()
        await asyncio.wait_for(task, 30)
        await done
        return order

    assert asyncio.run(run()) == ["loop runs", "done"]


def test_await_many(gate: Gate, move: Move) -> None:
    async def run() -> None:
        pending = [move() for _ in range(8)]
        gate.open()
        await asyncio.wait_for(asyncio.gather(*(_await(done) for done in pending)), 30)

    asyncio.run(run())


def test_await_raises_the_error(move: Move) -> None:
    async def run() -> None:
        await move(timeout=0.02)

    with pytest.raises(kvbm.TimeoutError):
        asyncio.run(run())


def test_cancelled_task_leaves_the_transfer_going(gate: Gate, move: Move) -> None:
    async def run() -> kvbm.TransferCompleteNotification:
        done = move()
        task = asyncio.create_task(_await(done))
        await asyncio.sleep(0)
        task.cancel()
        with pytest.raises(asyncio.CancelledError):
            await task
        return done

    done = asyncio.run(run())
    assert not done.is_ready()
    # The loop that would have been told is closed by now.
    gate.open()
    done.wait(30)


def test_deadline_fails_the_transfer(move: Move) -> None:
    done = move(timeout=0.02)
    with pytest.raises(kvbm.TimeoutError) as caught:
        done.wait(30)
    assert caught.value.code is kvbm.ErrorCode.Timeout
    assert isinstance(done.error(), kvbm.TimeoutError)
    failed = done.failed_blocks()
    assert [block.position for block in failed] == [0, 1]
    assert isinstance(failed[0].error, kvbm.Error)
    assert "failed" in repr(done)


def test_stop_source_cancels(move: Move) -> None:
    source = kvbm.StopSource()
    done = move(cancellation=source)
    assert not source.stop_requested()
    assert source.request_stop()
    assert not source.request_stop()
    assert source.stop_requested()
    with pytest.raises(kvbm.CancelledError):
        done.wait(30)


def test_aggregate_waits_for_all(gate: Gate, move: Move) -> None:
    ready = kvbm.TransferCompleteNotification.completed()
    assert not kvbm.TransferCompleteNotification.aggregate([]).could_yield()
    assert not kvbm.TransferCompleteNotification.aggregate([ready, ready]).could_yield()
    source = kvbm.StopSource()
    all_of = kvbm.TransferCompleteNotification.aggregate([move(), ready, move(cancellation=source)])
    source.request_stop()
    assert not all_of.is_ready()
    gate.open()
    with pytest.raises(kvbm.CancelledError):
        all_of.wait(30)


def test_record_on_makes_a_stream_wait(
    manager: kvbm.TransferManager, gate: Gate, move: Move
) -> None:
    stream = manager.device(0).create_stream("reader")
    done = move(record_on=[stream])
    read = threading.Event()
    states: list[bool] = []

    def reader() -> None:
        states.append(done.is_ready() or gate.opened.is_set())
        read.set()

    stream.enqueue(reader)
    assert not read.is_set()
    gate.open()
    assert read.wait(30)
    assert states == [True]
    done.wait(30)


def test_events_mark_points_of_streams(manager: kvbm.TransferManager) -> None:
    device = manager.device(0)
    first, second = device.create_stream("first"), device.create_stream("second")
    event = device.create_event()
    assert event.is_complete()
    hold, order = threading.Event(), []
    first.enqueue(hold.wait)
    first.enqueue(lambda: order.append("first"))
    first.record(event)
    second.wait(event)
    second.enqueue(lambda: order.append("second"))
    assert not event.is_complete()
    hold.set()
    event.wait()
    second.synchronize()
    device.synchronize()
    assert order == ["first", "second"]
    assert first.name


def test_streams_end_without_the_lock(manager: kvbm.TransferManager) -> None:
    # The last reference goes while its thread still wants the interpreter lock.
    for _ in range(20):
        stream = manager.device(0).create_stream("short")
        ran = threading.Event()
        stream.enqueue(ran.set)
        del stream
        assert ran.wait(30)
