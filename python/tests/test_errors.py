# SPDX-License-Identifier: Apache-2.0
"""Every failure is a typed exception that names the value and says its code."""

from __future__ import annotations

import builtins
import errno
import pickle
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from support import (
    UNIVERSAL_TP,
    Builder,
    Gate,
    config,
    contiguous,
    engine_layout,
    random_cache,
)

import kvbm_cpp as kvbm
from kvbm_cpp import _errors

Pair = tuple[kvbm.LayoutHandle, kvbm.LayoutHandle]

BUILTINS: dict[str, type[Exception]] = {
    "InvalidArgument": ValueError,
    "OutOfRange": IndexError,
    "Overflow": OverflowError,
    "Unsupported": NotImplementedError,
    "NotFound": LookupError,
    "AlreadyExists": FileExistsError,
    "Busy": RuntimeError,
    "Corrupt": RuntimeError,
    "VersionMismatch": RuntimeError,
    "OutOfMemory": MemoryError,
    "Io": OSError,
    "Device": RuntimeError,
    "Timeout": builtins.TimeoutError,
    "Cancelled": RuntimeError,
    "ShuttingDown": RuntimeError,
    "PeerLost": ConnectionError,
    "Internal": RuntimeError,
}


@pytest.fixture
def pair(manager: kvbm.TransferManager) -> Pair:
    engine = manager.register_layout(engine_layout(manager, random_cache()))
    return engine, manager.register_layout(contiguous(manager, config()))


@pytest.mark.parametrize("code", kvbm.ErrorCode)
def test_every_code_has_a_class_and_a_builtin(code: kvbm.ErrorCode) -> None:
    error = _errors.make_error(code, "what happened", errno.ENOSPC, True)
    assert isinstance(error, kvbm.Error)
    assert isinstance(error, BUILTINS[code.name])
    assert error.code is code
    assert error.native_code == errno.ENOSPC
    assert error.retryable
    assert (error.kind, error.http_status, error.attempts) == (None, 0, 0)
    assert str(error) == "what happened"
    copy = pickle.loads(pickle.dumps(error))
    assert type(copy) is type(error)
    assert (str(copy), copy.code, copy.native_code) == (str(error), code, errno.ENOSPC)


def test_block_ids_are_checked(manager: kvbm.TransferManager, pair: Pair) -> None:
    def move(src: Any, dst: Any) -> None:
        manager.execute_transfer(pair[0], src, pair[1], dst).wait()

    with pytest.raises(kvbm.OutOfRangeError, match=r"src_blocks\[1\] is -1"):
        move([0, -1], [0, 1])
    with pytest.raises(kvbm.OutOfRangeError, match=r"dst_blocks\[0\] is 4294967296"):
        move([0], [2**32])
    with pytest.raises(kvbm.OutOfRangeError, match=r"src_blocks\[1\] is -3"):
        move(np.array([0, -3]), [0, 1])
    with pytest.raises(kvbm.OutOfRangeError, match="dst_blocks"):
        move([0], np.array([2**40], np.uint64))
    with pytest.raises(kvbm.OutOfRangeError, match="6"):
        move([6], [0])
    with pytest.raises(kvbm.InvalidArgumentError, match=r"2.*1|1.*2"):
        move([0, 1], [0])
    with pytest.raises(kvbm.InvalidArgumentError, match="3"):
        move([0, 1], [3, 3])
    with pytest.raises(TypeError, match="no integer type"):
        move(np.zeros(2), [0, 1])
    with pytest.raises(TypeError, match="2 dimensions"):
        move(np.zeros((2, 2), np.int64), [0, 1])
    with pytest.raises(TypeError, match="must be integers"):
        move(3, [0])
    with pytest.raises(TypeError, match="must be integers"):
        move("01", [0])
    with pytest.raises(TypeError):
        move([0.5], [0])
    with pytest.raises(TypeError):
        move([None], [0])


@pytest.mark.parametrize(
    "ids",
    [
        [4, 2],
        (4, 2),
        range(4, 0, -2),
        iter([4, 2]),
        np.array([4, 2], np.uint32),
        np.array([4, 2], np.int64),
        np.array([4, 2], np.uint8),
        np.array([4, 2], np.int16),
        np.array([4, 9, 2, 9], np.uint32)[::2],
        np.array([2, 4])[::-1],
        [np.int32(4), np.uint64(2)],
    ],
    ids=lambda ids: type(ids).__name__,
)
def test_block_ids_are_any_integers(manager: kvbm.TransferManager, pair: Pair, ids: Any) -> None:
    manager.execute_transfer(pair[0], ids, pair[1], [0, 1]).wait()
    assert manager.block_checksums(pair[1], [0, 1]) == manager.block_checksums(pair[0], [4, 2])


def test_nothing_to_move_is_ready_at_once(manager: kvbm.TransferManager, pair: Pair) -> None:
    for empty in ([], np.array([], np.uint32), ()):
        done = manager.execute_transfer(pair[0], empty, pair[1], empty)
        assert done.is_ready()
        assert not done.could_yield()


@pytest.mark.parametrize("option", ["layer_range", "head_range"])
def test_ranges_are_checked(manager: kvbm.TransferManager, pair: Pair, option: str) -> None:
    for bad, error in (
        ((2, 2), kvbm.InvalidArgumentError),
        ((2, 1), kvbm.InvalidArgumentError),
        ((0, 9), kvbm.OutOfRangeError),
    ):
        with pytest.raises(error, match=option):
            manager.execute_transfer(
                pair[0], [0], pair[1], [0], kvbm.TransferOptions(**{option: bad})
            )


def test_unlike_layouts_are_refused(manager: kvbm.TransferManager, pair: Pair) -> None:
    wide = manager.register_layout(contiguous(manager, config(width=4)))
    with pytest.raises(kvbm.InvalidArgumentError, match="4"):
        manager.execute_transfer(pair[0], [0], wide, [0])
    unknown = manager.register_layout(contiguous(manager, config(), kvbm.KvBlockLayout.Unknown))
    with pytest.raises(kvbm.InvalidArgumentError, match="Unknown"):
        manager.execute_transfer(pair[0], [0], unknown, [0])


def test_foreign_and_stale_handles_are_refused(manager: kvbm.TransferManager, pair: Pair) -> None:
    manager.unregister_layout(pair[1])
    foreign = kvbm.LayoutHandle(manager.worker_id ^ 1, 0)
    reserved = kvbm.LayoutHandle.from_u128(pair[0].to_u128() | (1 << 100))
    for bad in (pair[1], foreign, reserved):
        with pytest.raises(kvbm.NotFoundError):
            manager.execute_transfer(pair[0], [0], bad, [0])


def test_overlap_within_a_layout_is_refused(manager: kvbm.TransferManager, pair: Pair) -> None:
    with pytest.raises(kvbm.InvalidArgumentError):
        manager.execute_transfer(pair[0], [0, 1], pair[0], [1, 2])


def test_files_that_cannot_be_made_say_why(manager: kvbm.TransferManager, tmp_path: Path) -> None:
    with pytest.raises(kvbm.IoError, match="no/such") as caught:
        contiguous(manager, config(), place=lambda b: b.allocate_disk(tmp_path / "no/such/file"))
    assert caught.value.native_code == errno.ENOENT
    assert caught.value.errno == errno.ENOENT
    taken = tmp_path / "taken"
    taken.write_bytes(b"x")
    with pytest.raises(kvbm.AlreadyExistsError, match="taken"):
        contiguous(manager, config(), place=lambda b: b.allocate_disk(taken))
    with pytest.raises(kvbm.NotFoundError, match="missing"):
        manager.open_disk(tmp_path / "missing")
    with pytest.raises(TypeError):
        manager.open_disk(5)  # type: ignore[arg-type]


def test_a_flipped_bit_names_file_and_block(manager: kvbm.TransferManager, tmp_path: Path) -> None:
    path = tmp_path / "store"
    with kvbm.TransferManager() as writer:
        layout = contiguous(writer, config(), place=lambda b: b.allocate_disk(path))
        view = layout.block_view(3)
        writer.fill_blocks(writer.register_layout(layout), range(6), kvbm.FillPattern())
    del layout
    with path.open("r+b") as file:
        file.seek(view.offset + 100)
        byte = file.read(1)[0]
        file.seek(view.offset + 100)
        file.write(bytes([byte ^ 0x10]))
    again = manager.register_layout(manager.open_disk(path, read_only=True))
    memory = contiguous(manager, config(), place=Builder.allocate_pinned)
    target = manager.register_layout(memory)
    done = manager.execute_transfer(again, range(6), target, range(6))
    with pytest.raises(kvbm.CorruptError, match=r"store.*3"):
        done.wait()
    failed = done.failed_blocks()
    assert [block.position for block in failed] == [3]
    assert isinstance(failed[0].error, kvbm.CorruptError)
    others = [0, 1, 2, 4, 5]
    assert manager.block_checksums(target, others) == manager.block_checksums(again, others)


def test_absent_backends_are_unsupported() -> None:
    if not kvbm.cuda_unavailable_reason():
        pytest.skip("there is a CUDA device here")
    with pytest.raises(kvbm.UnsupportedError, match="CUDA"):
        kvbm.TransferManager(cuda_device_id=0)
    with pytest.raises(kvbm.UnsupportedError, match=r"(?i)nixl"):
        kvbm.TransferManager(nixl_backends=["UCX"], nixl_library="/nowhere/libnixl_capi.so")
    assert kvbm.cuda_unavailable_reason()


def test_bad_managers_are_refused() -> None:
    for field in ("host_devices", "disk_queue_depth"):
        with pytest.raises(
            kvbm.InvalidArgumentError, match=field.removeprefix("disk_").rstrip("s")
        ):
            kvbm.TransferManager(**{field: 0})
    with pytest.raises(kvbm.InvalidArgumentError, match="host_devices is -1"):
        kvbm.TransferManager(host_devices=-1)
    with pytest.raises(kvbm.InvalidArgumentError, match="host_devices"):
        kvbm.TransferManager(devices=[kvbm.make_host_device()], host_devices=2)
    with pytest.raises(TypeError):
        kvbm.TransferManager(3)  # type: ignore[call-arg]


def test_layouts_in_use_are_busy(manager: kvbm.TransferManager, gate: Gate, pair: Pair) -> None:
    device = manager.register_layout(
        contiguous(manager, config(), place=lambda b: b.allocate_device(0))
    )
    options = kvbm.TransferOptions(wait_for=[gate.event])
    done = manager.execute_transfer(pair[0], [0], device, [0], options)
    with pytest.raises(kvbm.BusyError):
        manager.unregister_layout(device)
    gate.open()
    done.wait()
    manager.unregister_layout(device)


def test_a_closed_manager_says_so() -> None:
    manager = kvbm.TransferManager()
    handle = manager.register_layout(contiguous(manager, config()))
    prepared = manager.prepare_transfer(
        handle, manager.register_layout(contiguous(manager, config(), UNIVERSAL_TP))
    )
    assert not manager.is_closed
    manager.close()
    manager.close()
    assert manager.is_closed
    with pytest.raises(kvbm.ShuttingDownError, match="closed"):
        manager.register_layout(contiguous(kvbm.TransferManager(), config()))
    with pytest.raises(kvbm.ShuttingDownError):
        prepared.submit([0], [0])
