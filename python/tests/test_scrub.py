# SPDX-License-Identifier: Apache-2.0
"""Scrubbing a disk layout in the background."""

from __future__ import annotations

import threading
from pathlib import Path

import pytest
from support import config, contiguous

import kvbm_cpp as kvbm


@pytest.fixture
def disk(manager: kvbm.TransferManager, tmp_path: Path) -> kvbm.PhysicalLayout:
    """Six blocks on disk, four of them written."""
    layout = contiguous(
        manager, config(), place=lambda builder: builder.allocate_disk(tmp_path / "store")
    )
    handle = manager.register_layout(layout)
    manager.fill_blocks(handle, range(4), kvbm.FillPattern())
    return layout


def flip(disk: kvbm.PhysicalLayout, path: Path, block: int) -> None:
    with path.open("r+b") as file:
        file.seek(disk.block_view(block).offset + 100)
        byte = file.read(1)[0]
        file.seek(disk.block_view(block).offset + 100)
        file.write(bytes([byte ^ 0x10]))


def test_a_pass_checks_what_was_written(disk: kvbm.PhysicalLayout) -> None:
    with kvbm.Scrubber(disk, bytes_per_second=0) as scrubber:
        assert scrubber.wait_for_passes(1, timeout=60)
        assert scrubber.counters().extents_checked == 4
        scrubber.start_pass()
        assert scrubber.wait_for_passes(2)
        assert scrubber.is_running
        counters = scrubber.counters()
        assert (counters.passes, counters.extents_checked, counters.damaged) == (2, 8, 0)
        assert counters.bytes_checked == 8 * config().block_bytes
        assert not scrubber.wait_for_passes(3, timeout=0.0)
    assert not scrubber.is_running
    assert not scrubber.wait_for_passes(3)


def test_damage_is_reported_and_forgotten(
    manager: kvbm.TransferManager, disk: kvbm.PhysicalLayout, tmp_path: Path
) -> None:
    flip(disk, tmp_path / "store", 2)
    reports: list[kvbm.DamagedExtent] = []
    threads: list[int] = []

    def report(damage: kvbm.DamagedExtent) -> None:
        reports.append(damage)
        threads.append(threading.get_ident())

    with kvbm.Scrubber(
        disk, bytes_per_second=0, max_passes=1, invalidate_damaged=True, on_damage=report
    ) as scrubber:
        assert scrubber.wait_for_passes(1)
    (damage,) = reports
    assert threads != [threading.get_ident()]
    assert (damage.group, damage.extent, damage.invalidated) == (0, 2, True)
    assert damage.store == str(tmp_path / "store")
    assert isinstance(damage.error, kvbm.CorruptError)
    assert "extent=2" in repr(damage)
    space = disk.store_space()
    assert space is not None
    assert space.extents_written == 3
    host = manager.register_layout(contiguous(manager, config()))
    with pytest.raises(kvbm.NotFoundError, match="2"):
        manager.execute_transfer(manager.register_layout(disk), [2], host, [0]).wait()


def test_a_paused_scrubber_ends(disk: kvbm.PhysicalLayout) -> None:
    scrubber = kvbm.Scrubber(disk, bytes_per_second=1, batch_bytes=1)
    scrubber.pause()
    assert not scrubber.wait_for_passes(1, timeout=0.0)
    scrubber.resume()
    scrubber.pause()
    scrubber.stop()
    scrubber.stop()
    assert not scrubber.is_running


def test_what_cannot_be_scrubbed_is_refused(
    manager: kvbm.TransferManager, disk: kvbm.PhysicalLayout, tmp_path: Path
) -> None:
    with pytest.raises(kvbm.InvalidArgumentError, match="memory has no checksums"):
        kvbm.Scrubber(contiguous(manager, config()))
    with pytest.raises(kvbm.InvalidArgumentError, match="max_passes is -1"):
        kvbm.Scrubber(disk, max_passes=-1)
    with pytest.raises(kvbm.InvalidArgumentError, match="between_passes is not a number"):
        kvbm.Scrubber(disk, between_passes=float("nan"))
