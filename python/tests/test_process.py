# SPDX-License-Identifier: Apache-2.0
"""The end of the process: no leaks, no hangs, no crashes; signals reach a wait."""

from __future__ import annotations

import signal
import subprocess
import sys
import textwrap
import time

import pytest

PRELUDE = """
import kvbm_cpp as kvbm
import numpy as np
import threading

config = kvbm.LayoutConfig(
    num_blocks=4, num_layers=2, page_size=4, inner_dim=32, num_heads=4, dtype_width_bytes=2
)
manager = kvbm.TransferManager(host_device_bytes=1 << 24, cuda_pool_reserve_size=0, copy_threads=2)

def device_layout():
    tensors = [manager.device(0).empty((2, 4, 4, 4, 8), np.float16) for _ in range(2)]
    builder = manager.layout_builder().config(config)
    builder = builder.layer_separate(kvbm.BlockDimension.Second)
    return builder.with_external_device_regions(tensors).build()

source = manager.register_layout(device_layout())
target = manager.register_layout(device_layout())
stream = manager.device(0).create_stream("gate")
event = manager.device(0).create_event()
gate = threading.Event()

def start():
    stream.enqueue(gate.wait)
    stream.record(event)
    options = kvbm.TransferOptions(wait_for=[event])
    return manager.execute_transfer(source, [0], target, [1], options)
"""


def run(code: str) -> str:
    """Runs a program in a new process; whatever it says on stderr is a failure."""
    result = subprocess.run(
        [sys.executable, "-X", "faulthandler", "-c", PRELUDE + textwrap.dedent(code)],
        capture_output=True,
        text=True,
        timeout=120,
    )
    assert result.returncode == 0, result.stderr
    assert result.stderr == ""
    return result.stdout


def test_globals_that_live_to_the_end_do_not_leak() -> None:
    run("""
        options = kvbm.TransferOptions(timeout=9.0, wait_for=[event])
        blocks = manager.blocks(source, [0])
        prepared = manager.prepare_transfer(source, target)
        done = prepared.submit([0], [1])
        done.then(lambda error: None)
        array = manager.device(0).empty((4, 4))
        region = manager.device(0).allocate(64)
        explanation = manager.explain_transfer(source, [0], target, [1])
        formats = [kvbm.KvBlockLayout.UniversalTP, kvbm.KvBlockLayout.Unknown]
        bounce = kvbm.BounceBuffer.from_handle(source, [0])
        done.wait()
    """)


def test_leaks_would_be_told() -> None:
    # Without this, the test above could not fail.
    result = subprocess.run(
        [
            sys.executable,
            "-c",
            "import ctypes, kvbm_cpp\n"
            "ctypes.pythonapi.Py_IncRef(ctypes.py_object(kvbm_cpp.StopSource()))",
        ],
        capture_output=True,
        text=True,
        timeout=120,
    )
    assert "leaked" in result.stderr


def test_exit_while_callbacks_are_due() -> None:
    run("""
        done = start()
        for _ in range(1000):
            done.then(lambda error: sum(range(100)))
        gate.set()
    """)


def test_exit_while_a_transfer_is_pending() -> None:
    run("""
        import atexit
        atexit.register(gate.set)
        done = start()
        done.then(lambda error: None)
    """)


def test_exit_while_a_scrubber_works() -> None:
    run("""
        builder = manager.layout_builder().config(config).fully_contiguous()
        disk = builder.allocate_disk().build()
        manager.fill_blocks(manager.register_layout(disk), range(4), kvbm.FillPattern())
        slow = kvbm.Scrubber(disk, bytes_per_second=1, on_damage=print)
        scrubber = kvbm.Scrubber(disk, bytes_per_second=0, between_passes=0.0, on_damage=print)
        assert scrubber.wait_for_passes(3)
    """)


def test_close_in_a_thread_at_exit() -> None:
    out = run("""
        done = start()
        thread = threading.Thread(target=manager.close)
        thread.start()
        gate.set()
        thread.join()
        print(done.is_ready(), manager.is_closed)
    """)
    assert out.split() == ["True", "True"]


WAIT_FOR_A_TRANSFER = """
    done = start()
    try:
        print("waiting", flush=True)
        done.wait()
    except KeyboardInterrupt:
        print("interrupted", flush=True)
    gate.set()
    done.wait()
"""
WAIT_FOR_A_SCRUBBER = """
    builder = manager.layout_builder().config(config).fully_contiguous()
    with kvbm.Scrubber(builder.allocate_disk().build()) as scrubber:
        try:
            print("waiting", flush=True)
            scrubber.wait_for_passes(2)
        except KeyboardInterrupt:
            print("interrupted", flush=True)
"""


@pytest.mark.parametrize(
    "waiting", [WAIT_FOR_A_TRANSFER, WAIT_FOR_A_SCRUBBER], ids=["transfer", "scrubber"]
)
def test_interrupt_reaches_a_wait(waiting: str) -> None:
    code = "import signal\nsignal.signal(signal.SIGINT, signal.default_int_handler)\n"
    code += textwrap.dedent(waiting)
    process = subprocess.Popen(
        [sys.executable, "-c", PRELUDE + code],
        stdout=subprocess.PIPE,
        text=True,
    )
    assert process.stdout is not None
    assert process.stdout.readline() == "waiting\n"
    # Python holds a signal back until the main thread looks: the moment does not matter.
    deadline = time.monotonic() + 60
    process.send_signal(signal.SIGINT)
    assert process.stdout.readline() == "interrupted\n"
    assert time.monotonic() < deadline
    assert process.wait(60) == 0
    process.stdout.close()
