# SPDX-License-Identifier: Apache-2.0
"""The tiered prefix store: keys of tokens, tiers, tickets, restarts."""

from __future__ import annotations

import asyncio
from pathlib import Path

import numpy as np
import pytest
from support import TOKENS, config, contiguous, engine_layout, random_cache

import kvbm_cpp as kvbm

MODEL = kvbm.model_fingerprint("test/model", "uint16", config())


def disk(manager: kvbm.TransferManager, folder: Path, blocks: int = 16) -> kvbm.PrefixTier:
    path = folder / "tier"
    layout = (
        manager.open_disk(path)
        if path.exists()
        else contiguous(manager, config(blocks), place=lambda b: b.allocate_disk(path))
    )
    return kvbm.PrefixTier(manager.register_layout(layout), index=folder / "tier.index")


def pinned(manager: kvbm.TransferManager, blocks: int = 4) -> kvbm.LayoutHandle:
    return manager.register_layout(
        contiguous(manager, config(blocks), place=lambda b: b.allocate_pinned())
    )


def test_keys_are_chained_over_full_pages() -> None:
    root = kvbm.root_key(MODEL, TOKENS)
    prompt = list(range(100, 100 + 3 * TOKENS + 1))
    keys = kvbm.chain_keys(root, prompt, TOKENS)
    assert len(keys) == 3
    assert keys == kvbm.chain_keys(root, np.array(prompt, np.uint32), TOKENS)
    assert keys[2:] == kvbm.chain_keys(keys[1], prompt[2 * TOKENS :], TOKENS)
    other = kvbm.chain_keys(root, [*prompt[:TOKENS], 7, *prompt[TOKENS + 1 :]], TOKENS)
    assert other[0] == keys[0]
    assert not set(other[1:]) & set(keys)
    assert kvbm.BlockKey(str(keys[0])) == keys[0]
    assert str(keys[0]) in repr(keys[0])
    assert sorted(keys) == sorted(keys, key=str)
    with pytest.raises(kvbm.InvalidArgumentError, match="no block key"):
        kvbm.BlockKey("12")
    assert kvbm.model_fingerprint("test/model", "float16", config()) != MODEL


def test_a_prefix_comes_back_from_every_tier(manager: kvbm.TransferManager, tmp_path: Path) -> None:
    tensors = random_cache(num_blocks=12)
    expected = [tensor.copy() for tensor in tensors]
    engine = manager.register_layout(engine_layout(manager, tensors))
    with kvbm.PrefixStore(manager, MODEL, [pinned(manager), disk(manager, tmp_path)]) as store:
        keys = store.keys(range(12 * TOKENS + 2))
        assert len(keys) == 12
        assert store.page_size == TOKENS
        assert store.lookup(keys).num_blocks == 0
        stored = store.offload(keys, engine, range(12)).wait()
        assert (stored.written, stored.already_stored, stored.failed) == (12, 0, 0)
        assert store.flush().failed == 0
        assert keys[0] in store
        match = store.lookup(keys)
        assert match.num_blocks == 12
        assert set(match.tiers) == {
            kvbm.LogicalLayoutHandle.G2,
            kvbm.LogicalLayoutHandle.G3,
        }
        for tensor in tensors:
            tensor[...] = 0
        brought = store.onboard(keys, engine, range(12)).wait(timeout=60)
        assert brought.num_blocks == 12
        assert brought.tiers == match.tiers
        for tensor, wanted in zip(tensors, expected, strict=True):
            np.testing.assert_array_equal(tensor, wanted)
        stats = store.stats()
        assert stats.onboarded == 12
        assert sum(tier.hits for tier in stats.tiers) == 12
        assert stats.tiers[1].blocks == 12


def test_a_restarted_store_finds_what_the_disk_has(
    manager: kvbm.TransferManager, tmp_path: Path
) -> None:
    tensors = random_cache(num_blocks=4)
    expected = [tensor.copy() for tensor in tensors]
    engine = manager.register_layout(engine_layout(manager, tensors))
    tier = disk(manager, tmp_path)
    with kvbm.PrefixStore(
        manager, MODEL, [pinned(manager), tier], write_policy=kvbm.WritePolicy.Back
    ) as store:
        keys = store.keys(range(4 * TOKENS))
        store.offload(keys, engine, range(4)).wait()
        assert store.flush().written == 4
        assert store.erase(keys[3:]) == 1
    for tensor in tensors:
        tensor[...] = 0
    with kvbm.PrefixStore(manager, MODEL, [pinned(manager), tier]) as store:
        assert store.stats().tiers[1].recovered == 3
        assert store.prefetch(keys).wait().num_blocks == 3
        assert store.onboard(keys, engine, range(4)).wait().num_blocks == 3
    for tensor, wanted in zip(tensors, expected, strict=True):
        np.testing.assert_array_equal(tensor[:, :3], wanted[:, :3])


def test_tickets_can_be_awaited(manager: kvbm.TransferManager) -> None:
    engine = manager.register_layout(engine_layout(manager, random_cache()))
    with kvbm.PrefixStore(manager, MODEL, [pinned(manager)]) as store:
        keys = store.keys(range(2 * TOKENS))

        async def run() -> tuple[int, int]:
            stored = await store.offload(keys, engine, [0, 1])
            brought = await store.onboard(keys, engine, [2, 3])
            return stored.written, brought.num_blocks

        assert asyncio.run(run()) == (2, 2)


def test_pins_keep_keys(manager: kvbm.TransferManager) -> None:
    engine = manager.register_layout(engine_layout(manager, random_cache()))
    with kvbm.PrefixStore(manager, MODEL, [pinned(manager, 2)]) as store:
        keys = store.keys(range(5 * TOKENS))
        store.offload(keys[:2], engine, [0, 1]).wait()
        with store.pin(keys) as pin:
            assert pin.keys == keys[:2]
            assert store.offload(keys[2:4], engine, [2, 3]).wait().failed == 2
            assert store.erase(keys) == 0
        assert store.offload(keys[2:4], engine, [2, 3]).wait().written == 2
        pin = store.pin(keys[2:3])
    pin.release()


def test_refusals(manager: kvbm.TransferManager, tmp_path: Path) -> None:
    engine = manager.register_layout(engine_layout(manager, random_cache()))
    own = pinned(manager)
    with pytest.raises(kvbm.InvalidArgumentError, match="tiers"):
        kvbm.PrefixStore(manager, MODEL, [])
    with pytest.raises(kvbm.InvalidArgumentError, match="less than one block"):
        kvbm.PrefixStore(manager, MODEL, [kvbm.PrefixTier(own, budget_bytes=1)])
    store = kvbm.PrefixStore(manager, MODEL, [own])
    keys = store.keys(range(2 * TOKENS))
    with pytest.raises(kvbm.InvalidArgumentError, match="2 keys for 1 blocks"):
        store.onboard(keys, engine, [0])
    with pytest.raises(kvbm.InvalidArgumentError, match="own tier"):
        store.onboard(keys, own, [0, 1])
    with pytest.raises(kvbm.OutOfRangeError):
        store.keys([1 << 32])
    store.close()
    store.close()
    with pytest.raises(kvbm.ShuttingDownError, match="closed"):
        store.lookup(keys)
