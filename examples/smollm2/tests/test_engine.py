# SPDX-License-Identifier: Apache-2.0
"""Tests of the demo's engine: tokenizer, forward pass, paged cache, reuse of cached blocks."""

from __future__ import annotations

import numpy as np
import pytest
from gguf import GGUFReader

from engine import Engine, cacheable_tokens
from model import Model, metadata, unpermute_rope_rows
from paged_cache import BLOCK_TOKENS, BlockDimension, PagedCache
from tokenizer import DEFAULT_SYSTEM, Tokenizer

TEXT = (
    "A serving engine prefills a prompt once. The blocks of its KV cache are then offloaded from "
    "device memory to pinned memory and from there to disk, and a later process brings them back. "
    "Each block holds 16 tokens of every layer; keys and values stand apart. What is read back is "
    "checked against a checksum, and a block that fails the check is refused and computed again."
)
NEW_TOKENS = 6


class DenseCache:
    """The obvious cache, one array per layer: the oracle for the paged one."""

    def __init__(self, model: Model, tokens: int):
        shape = model.shape
        self.kv = np.full(
            (shape.num_layers, 2, tokens, shape.num_kv_heads, shape.head_dim), np.nan, np.float32
        )

    def write(self, layer: int, start: int, k: np.ndarray, v: np.ndarray) -> None:
        self.kv[layer, 0, start : start + len(k)] = k
        self.kv[layer, 1, start : start + len(v)] = v

    def gather(self, layer: int, start: int, end: int) -> tuple[np.ndarray, np.ndarray]:
        return self.kv[layer, 0, start:end], self.kv[layer, 1, start:end]


def make_cache(
    model: Model,
    tokens: int,
    *,
    seed: int = 0,
    block_dimension: BlockDimension = BlockDimension.BLOCK_SECOND,
) -> PagedCache:
    shape = model.shape
    cache = PagedCache(
        shape.num_layers,
        shape.num_kv_heads,
        shape.head_dim,
        tokens // BLOCK_TOKENS + 2,
        block_dimension=block_dimension,
        shuffle_seed=seed,
    )
    cache.wipe()
    return cache


def copy_blocks(source: PagedCache, destination: PagedCache, blocks: range) -> None:
    """Moves blocks as a round trip through kvbm does: bytes, by block, into other physical ids."""
    for layer in range(source.num_layers):
        for logical in blocks:
            k, v = source.read_block(layer, logical)
            destination.write(layer, logical * BLOCK_TOKENS, k, v)


@pytest.fixture(scope="module")
def prompt(tokenizer: Tokenizer) -> list[int]:
    ids = tokenizer.encode(tokenizer.chat("What does it say?\n\n" + TEXT))
    assert len(ids) > 6 * BLOCK_TOKENS
    return ids


# Tokenizer


@pytest.mark.parametrize(
    "text",
    [
        TEXT,
        "",
        "  two  leading,\ttab\r\n\n\ntrailing   ",
        "12.5 GB/s of 32768 bytes, 2026-11-24",
        "int main() { return x->y[3] << 2; }  // it's we'll",
        "\u00e9\u00df \u4e2d\u6587 \u0663 \U0001f600",
    ],
)
def test_tokenizer_round_trip(tokenizer: Tokenizer, text: str) -> None:
    assert tokenizer.decode(tokenizer.encode(text)) == text


def test_tokenizer_splits_every_digit_and_joins_space_before_it(tokenizer: Tokenizer) -> None:
    pieces = [tokenizer.decode([i]) for i in tokenizer.encode("a\n\n12 34")]
    assert pieces == ["a", "\n\n", "1", "2", " ", "3", "4"]


def test_chat_uses_the_special_tokens_and_the_template_of_the_file(
    tokenizer: Tokenizer, reader: GGUFReader
) -> None:
    ids = tokenizer.encode(tokenizer.chat("Hi"))
    assert (ids[0], ids.count(1), ids.count(2)) == (1, 3, 2)
    assert tokenizer.end_id == 2
    assert {1, 2} <= tokenizer.special_ids
    assert "im_start" not in tokenizer.decode(ids, skip_special=True)
    assert f"system\n{DEFAULT_SYSTEM}<|im_end|>" in metadata(reader, "tokenizer.chat_template")


# Forward pass


def test_model_answers_a_plain_question(model: Model, tokenizer: Tokenizer) -> None:
    ids = tokenizer.encode(tokenizer.chat("What is the capital of France?"))
    generation = Engine(model, make_cache(model, len(ids) + 8)).generate(
        ids, 8, stop_ids=[tokenizer.end_id]
    )
    assert "Paris" in tokenizer.decode(generation.tokens)
    assert generation.tokens[-1] == tokenizer.end_id


def test_unpermute_is_the_inverse_of_the_gguf_row_order() -> None:
    heads, half = 3, 4
    weight = np.arange(heads * 2 * half * 5, dtype=np.float32).reshape(-1, 5)
    stored = np.empty_like(weight)
    for head in range(heads):
        for row in range(2 * half):
            interleaved = 2 * (row % half) + row // half
            stored[head * 2 * half + interleaved] = weight[head * 2 * half + row]
    np.testing.assert_array_equal(unpermute_rope_rows(stored, heads), weight)


def test_rotation_keeps_norms_and_depends_only_on_distance(model: Model) -> None:
    rng = np.random.default_rng(1)
    q, k = rng.standard_normal((2, 1, 1, model.shape.head_dim)).astype(np.float32)
    dots = []
    for start in (0, 5, 700):
        turned_q, turned_k = model._rotate(q, start + 9), model._rotate(k, start)
        np.testing.assert_allclose(np.linalg.norm(turned_q), np.linalg.norm(q), rtol=1e-5)
        dots.append(float(np.sum(turned_q * turned_k)))
    np.testing.assert_allclose(dots, dots[0], atol=1e-3)
    assert abs(dots[0] - float(np.sum(q * k))) > 1e-2
    np.testing.assert_array_equal(model._rotate(q, 0), q)


def test_a_later_token_changes_no_earlier_position(model: Model, prompt: list[int]) -> None:
    ids = np.array(prompt[:40])
    other = ids.copy()
    other[25] = (other[25] + 1) % model.shape.vocab_size
    first = model.forward(ids, 0, DenseCache(model, 40))
    second = model.forward(other, 0, DenseCache(model, 40))
    np.testing.assert_array_equal(first[:25], second[:25])
    assert np.abs(first[25:] - second[25:]).max(axis=-1).min() > 1e-4


@pytest.mark.parametrize("chunk_tokens", [16, 48])
def test_chunked_prefill_equals_one_shot(
    model: Model, prompt: list[int], chunk_tokens: int
) -> None:
    one_shot = model.forward(np.array(prompt), 0, DenseCache(model, len(prompt)))[-1]
    engine = Engine(model, make_cache(model, len(prompt)), chunk_tokens=chunk_tokens)
    chunked = engine.prefill(prompt, 0)
    want, got = model.logits(one_shot), model.logits(chunked)
    np.testing.assert_allclose(got, want, atol=1e-3)
    assert int(np.argmax(got)) == int(np.argmax(want))


def test_decode_equals_prefill_of_the_same_tokens(model: Model, prompt: list[int]) -> None:
    ids = prompt[:37]
    engine = Engine(model, make_cache(model, len(ids)))
    engine.prefill(ids[:-3], 0)
    for position in range(len(ids) - 3, len(ids)):
        got = engine.decode(ids[position], position)
    want = model.logits(model.forward(np.array(ids), 0, DenseCache(model, len(ids)))[-1])
    np.testing.assert_allclose(got, want, atol=1e-3)
    assert int(np.argmax(got)) == int(np.argmax(want))


# Paged cache


@pytest.mark.parametrize("block_dimension", list(BlockDimension))
@pytest.mark.parametrize("dtype", [np.float32, np.float16])
def test_paged_gather_equals_dense(block_dimension: BlockDimension, dtype: type) -> None:
    cache = PagedCache(2, 3, 8, 7, block_dimension=block_dimension, dtype=dtype, shuffle_seed=3)
    cache.wipe()
    rng = np.random.default_rng(2)
    dense = rng.standard_normal((2, 2, 7 * BLOCK_TOKENS, 3, 8)).astype(dtype).astype(np.float32)
    for start, end in ((0, 32), (32, 39), (39, 40), (40, 64), (64, 112)):
        for layer in range(2):
            cache.write(layer, start, dense[layer, 0, start:end], dense[layer, 1, start:end])
    for start, end in ((0, 112), (0, 1), (16, 48), (5, 61), (111, 112)):
        for layer in range(2):
            k, v = cache.gather(layer, start, end)
            assert k.dtype == v.dtype == np.float32
            np.testing.assert_array_equal(k, dense[layer, 0, start:end])
            np.testing.assert_array_equal(v, dense[layer, 1, start:end])


@pytest.mark.parametrize("block_dimension", list(BlockDimension))
def test_blocks_lie_where_the_table_and_the_order_say(block_dimension: BlockDimension) -> None:
    cache = PagedCache(1, 3, 8, 9, block_dimension=block_dimension, shuffle_seed=4)
    assert sorted(cache.block_table) == list(range(9))
    assert list(cache.block_table) != list(range(9))
    cache.wipe()
    k = np.full((BLOCK_TOKENS, 3, 8), 1.0, np.float32)
    cache.write(0, 5 * BLOCK_TOKENS, k, k + 1)
    (physical,) = cache.physical_blocks([5])
    tensor = cache.layers[0]
    if block_dimension is BlockDimension.BLOCK_FIRST:
        assert tensor.shape == (9, 2, BLOCK_TOKENS, 3, 8)
        block = tensor[physical]
    else:
        assert tensor.shape == (2, 9, BLOCK_TOKENS, 3, 8)
        block = tensor[:, physical]
    np.testing.assert_array_equal(block, np.stack([k, k + 1]))
    np.testing.assert_array_equal(cache.read_block(0, 5), block)
    assert np.count_nonzero(~np.isnan(tensor)) == block.size


def test_cache_lives_in_the_tensors_that_the_allocator_gives() -> None:
    given: list[np.ndarray] = []

    def allocate(shape: tuple[int, ...], dtype: np.dtype) -> np.ndarray:
        given.append(np.zeros(shape, dtype))
        return given[-1]

    cache = PagedCache(3, 1, 4, 2, allocate=allocate)
    cache.write(1, 0, np.ones((3, 1, 4), np.float32), np.ones((3, 1, 4), np.float32))
    assert [int(tensor.sum()) for tensor in given] == [0, 24, 0]
    assert cache.block_bytes == 3 * 2 * BLOCK_TOKENS * 4 * 4
    with pytest.raises(ValueError, match="allocate gave"):
        PagedCache(1, 1, 4, 2, allocate=lambda shape, dtype: np.zeros(shape[1:], dtype))
    with pytest.raises(ValueError, match="C-contiguous"):
        PagedCache(1, 1, 4, 2, allocate=lambda shape, dtype: np.zeros(shape, dtype, order="F"))


def test_cache_refuses_positions_and_blocks_outside() -> None:
    cache = PagedCache(1, 1, 4, 2)
    row = np.zeros((1, 1, 4), np.float32)
    with pytest.raises(IndexError, match=r"\[32, 33\)"):
        cache.write(0, 32, row, row)
    with pytest.raises(IndexError, match="empty"):
        cache.gather(0, 4, 4)
    with pytest.raises(IndexError, match="logical block 2"):
        cache.physical_blocks([2])
    with pytest.raises(ValueError, match="num_blocks is 0"):
        PagedCache(1, 1, 4, 0)
    with pytest.raises(ValueError, match="both must be"):
        cache.write(0, 0, row, np.zeros((2, 1, 4), np.float32))


# Engine


@pytest.mark.parametrize(("prompt_tokens", "cacheable"), [(1, 0), (16, 0), (17, 16), (1000, 992)])
def test_the_tail_keeps_the_last_prompt_token(prompt_tokens: int, cacheable: int) -> None:
    assert cacheable_tokens(prompt_tokens) == cacheable


@pytest.mark.parametrize("whole_blocks", [False, True])
def test_restored_blocks_give_the_same_bits(
    model: Model, prompt: list[int], whole_blocks: bool
) -> None:
    length = 96 if whole_blocks else len(prompt) // BLOCK_TOKENS * BLOCK_TOKENS - 5
    ids = prompt[:length]
    cached = cacheable_tokens(length)
    fresh_cache = make_cache(model, length + NEW_TOKENS, seed=1)
    fresh = Engine(model, fresh_cache).generate(ids, NEW_TOKENS)
    restored_cache = make_cache(
        model, length + NEW_TOKENS, seed=2, block_dimension=BlockDimension.BLOCK_FIRST
    )
    copy_blocks(fresh_cache, restored_cache, range(cached // BLOCK_TOKENS))
    restored = Engine(model, restored_cache).generate(ids, NEW_TOKENS, already_cached_tokens=cached)
    assert restored.tokens == fresh.tokens
    np.testing.assert_array_equal(restored.first_logits, fresh.first_logits)
    assert fresh.prefilled_tokens == length
    assert restored.prefilled_tokens == length - cached


def test_a_missing_block_in_the_middle_is_prefilled_alone(model: Model, prompt: list[int]) -> None:
    cached = cacheable_tokens(len(prompt))
    cache = make_cache(model, len(prompt) + NEW_TOKENS)
    engine = Engine(model, cache)
    fresh = engine.generate(prompt, NEW_TOKENS)
    lost = cache.read_block(7, 3)
    cache.wipe([3])
    assert np.isnan(cache.read_block(7, 3)).all()
    repaired = engine.generate(prompt, NEW_TOKENS, already_cached_tokens=cached, missing_blocks=[3])
    assert repaired.tokens == fresh.tokens
    assert repaired.prefilled_tokens == BLOCK_TOKENS + len(prompt) - cached
    np.testing.assert_allclose(cache.read_block(7, 3), lost, atol=1e-3)
    np.testing.assert_allclose(repaired.first_logits, fresh.first_logits, atol=1e-3)


def test_a_cache_with_a_prefix_only_prefills_the_rest(model: Model, prompt: list[int]) -> None:
    cache = make_cache(model, len(prompt) + NEW_TOKENS)
    engine = Engine(model, cache, chunk_tokens=32)
    fresh = engine.generate(prompt, NEW_TOKENS)
    cache.wipe(range(3, cache.num_blocks))
    again = engine.generate(prompt, NEW_TOKENS, already_cached_tokens=48)
    assert again.tokens == fresh.tokens
    assert again.prefilled_tokens == len(prompt) - 48


def test_a_lost_block_that_nobody_names_shows(model: Model, prompt: list[int]) -> None:
    cached = cacheable_tokens(len(prompt))
    cache = make_cache(model, len(prompt) + 1)
    engine = Engine(model, cache)
    engine.generate(prompt, 1)
    cache.wipe([2])
    broken = engine.generate(prompt, 1, already_cached_tokens=cached)
    assert np.isnan(broken.first_logits).all()


def test_engine_refuses_bad_arguments(model: Model, prompt: list[int]) -> None:
    cache = make_cache(model, 64)
    engine = Engine(model, cache)
    with pytest.raises(ValueError, match="chunk_tokens is 20"):
        Engine(model, cache, chunk_tokens=20)
    with pytest.raises(ValueError, match="the cache has"):
        Engine(model, PagedCache(1, 1, 4, 2))
    with pytest.raises(ValueError, match="empty"):
        engine.generate([], 1)
    with pytest.raises(ValueError, match="n is 0"):
        engine.generate(prompt, 0)
    with pytest.raises(ValueError, match="do not fit"):
        engine.generate(prompt * 2, 1)
    with pytest.raises(ValueError, match="already_cached_tokens is 8"):
        engine.generate(prompt[:40], 1, already_cached_tokens=8)
    with pytest.raises(ValueError, match="missing block 2"):
        engine.generate(prompt[:40], 1, already_cached_tokens=32, missing_blocks=[2])
    with pytest.raises(ValueError, match="token id"):
        engine.prefill([model.shape.vocab_size], 0)
    with pytest.raises(IndexError, match="not a full block"):
        engine.prefill_block(prompt[:40], 2)
