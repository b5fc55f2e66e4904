# SPDX-License-Identifier: Apache-2.0
"""What a manager counts: as values, as text for Prometheus, and over HTTP."""

from __future__ import annotations

import urllib.error
import urllib.request

import pytest
from support import Builder, config, contiguous

import kvbm_cpp as kvbm

BLOCK_BYTES = config().block_bytes


def move_some(manager: kvbm.TransferManager) -> None:
    src = manager.register_layout(contiguous(manager, config()))
    dst = manager.register_layout(contiguous(manager, config(), place=Builder.allocate_pinned))
    manager.execute_transfer(src, [0, 1], dst, [3, 4]).wait()
    stop = kvbm.StopSource()
    stop.request_stop()
    options = kvbm.TransferOptions(cancellation=stop)
    with pytest.raises(kvbm.CancelledError):
        manager.execute_transfer(dst, [0], src, [1], options).wait()


def metrics_of(text: str) -> dict[str, float]:
    lines = [line for line in text.splitlines() if not line.startswith("#")]
    return {name: float(value) for name, _, value in (line.rpartition(" ") for line in lines)}


def series(name: str, **labels: str) -> str:
    return name + "{" + ",".join(f'{key}="{value}"' for key, value in sorted(labels.items())) + "}"


def served(port: int) -> str:
    with urllib.request.urlopen(f"http://127.0.0.1:{port}/metrics", timeout=30) as answer:
        assert answer.headers["Content-Type"].startswith("text/plain")
        return str(answer.read().decode())


def test_statistics_are_counted_by_route(manager: kvbm.TransferManager) -> None:
    move_some(manager)
    stats = manager.statistics()
    counts = stats.transfers.of("system_to_pinned")
    assert (counts.submitted, counts.completed, counts.in_flight) == (1, 1, 0)
    assert counts.bytes_completed == 2 * BLOCK_BYTES
    assert counts.latency.count == 1
    assert len(counts.latency.buckets) == len(counts.latency.bounds) + 1
    assert counts.latency.bounds[:2] == [1e-6, 2e-6]
    assert counts.latency.sum > 0
    assert counts.errors == {}
    back = stats.transfers.of("pinned_to_system")
    assert (back.cancelled, back.failed) == (1, 0)
    assert back.errors == {kvbm.ErrorCode.Cancelled: 1}
    assert back.bytes_failed == BLOCK_BYTES
    total = stats.transfers.total
    assert total.bytes_submitted == total.bytes_completed + total.bytes_failed
    assert [(r.route, r.reach, r.src, r.dst) for r in stats.transfers.routes] == [
        ("system_to_pinned", "local", kvbm.StorageKind.System, kvbm.StorageKind.Pinned),
        ("pinned_to_system", "local", kvbm.StorageKind.Pinned, kvbm.StorageKind.System),
    ]
    assert stats.transfers.of("system_to_pinned", "to_peer").submitted == 0
    assert stats.num_layouts == 2
    assert stats.plan_cache.misses >= 1
    assert stats.remote is None


def text_or_skip(manager: kvbm.TransferManager) -> str:
    try:
        return manager.metrics_text()
    except kvbm.UnsupportedError as error:
        pytest.skip(str(error))


def test_text_has_the_same_numbers(manager: kvbm.TransferManager) -> None:
    move_some(manager)
    metrics = metrics_of(text_or_skip(manager))
    local = {"route": "system_to_pinned", "reach": "local"}
    name = series("kvbm_transfer_bytes_total", outcome="completed", **local)
    assert metrics[name] == 2 * BLOCK_BYTES
    assert metrics[series("kvbm_transfer_duration_seconds_count", **local)] == 1
    assert metrics["kvbm_layouts"] == 2


def test_a_server_answers_until_the_manager_is_closed() -> None:
    with kvbm.TransferManager() as manager:
        text_or_skip(manager)
        port = manager.serve_metrics("127.0.0.1:0")
        assert metrics_of(served(port))["kvbm_layouts"] == 0
        move_some(manager)
        assert metrics_of(served(port))["kvbm_layouts"] == 2
        with pytest.raises(kvbm.AlreadyExistsError):
            manager.serve_metrics("127.0.0.1:0")
        with kvbm.TransferManager() as other, pytest.raises(kvbm.IoError):
            other.serve_metrics(f"127.0.0.1:{port}")
    with pytest.raises(urllib.error.URLError):
        served(port)
    with pytest.raises(kvbm.ShuttingDownError):
        manager.serve_metrics("127.0.0.1:0")


def test_bad_addresses_are_refused(manager: kvbm.TransferManager) -> None:
    text_or_skip(manager)
    for address in ("", "localhost", "127.0.0.1:http", "127.0.0.1:70000"):
        with pytest.raises(kvbm.InvalidArgumentError, match="HOST:PORT"):
            manager.serve_metrics(address)
