// SPDX-License-Identifier: Apache-2.0
#include <gtest/gtest.h>

#include <limits>
#include <vector>

#include "kvbm/kernels/kernels.h"

namespace {

/// Universal blocks and chunks of one shape, as bytes; the tables point into them.
struct Permute {
  std::size_t nh, nl, no, nt, hd, nb;
  kvbm_dtype dtype;
  kvbm_block_order order;
  std::size_t width = 0;
  std::vector<std::vector<unsigned char>> universal{};
  std::vector<std::vector<unsigned char>> chunks{};
  std::vector<void*> universal_ptrs{};
  std::vector<void*> chunk_ptrs{};

  void prepare() {
    width = dtype == KVBM_DTYPE_F64   ? 8
            : dtype == KVBM_DTYPE_F32 ? 4
            : dtype == KVBM_DTYPE_U8  ? 1
                                      : 2;
    universal.assign(nb, std::vector<unsigned char>(nh * nl * no * nt * hd * width, 0xDE));
    chunks.assign(nb * nl * no, std::vector<unsigned char>(nt * nh * hd * width, 0xDE));
    for (auto& block : universal)
      universal_ptrs.push_back(block.data());
    for (auto& chunk : chunks)
      chunk_ptrs.push_back(chunk.data());
  }

  /// Calls visit(universal byte, chunk byte, number) for every byte, found from the five indices.
  template <class Visit>
  void for_every_byte(Visit visit) {
    unsigned number = 0;
    for (std::size_t b = 0; b < nb; ++b)
      for (std::size_t l = 0; l < nl; ++l)
        for (std::size_t o = 0; o < no; ++o)
          for (std::size_t t = 0; t < nt; ++t)
            for (std::size_t h = 0; h < nh; ++h)
              for (std::size_t d = 0; d < hd * width; ++d) {
                auto const row = hd * width;
                auto& u = universal[b][(((h * nl + l) * no + o) * nt + t) * row + d];
                auto const at = order == KVBM_BLOCK_NHD ? t * nh + h : h * nt + t;
                auto& c = chunks[(b * nl + l) * no + o][at * row + d];
                visit(u, c, number++);
              }
  }

  [[nodiscard]] std::vector<void const*> constant(std::vector<void*> const& pointers) const {
    return {pointers.begin(), pointers.end()};
  }
  kvbm_status to_universal() {
    auto const sources = constant(chunk_ptrs);
    return kvbm_cpu_universal_from_block(universal_ptrs.data(), sources.data(), nb, nh, nl, no, nt,
                                         hd, dtype, order);
  }
  kvbm_status to_chunks() {
    auto const sources = constant(universal_ptrs);
    return kvbm_cpu_block_from_universal(sources.data(), chunk_ptrs.data(), nb, nh, nl, no, nt, hd,
                                         dtype, order);
  }
};

unsigned char byte_of(unsigned number) {
  return static_cast<unsigned char>((number * 2654435761U) >> 13U);
}

class PermuteTypes : public ::testing::TestWithParam<std::tuple<kvbm_dtype, kvbm_block_order>> {
 protected:
  static Permute make(std::size_t nh, std::size_t nl, std::size_t no, std::size_t nt,
                      std::size_t hd, std::size_t nb) {
    Permute permute{nh, nl, no, nt, hd, nb, std::get<0>(GetParam()), std::get<1>(GetParam())};
    permute.prepare();
    return permute;
  }
};

TEST_P(PermuteTypes, K1_BothWaysEqualTheIndices) {
  Permute forth = make(3, 2, 2, 4, 5, 3);
  forth.for_every_byte([](auto&, auto& chunk, unsigned n) { chunk = byte_of(n); });
  ASSERT_EQ(forth.to_universal(), KVBM_STATUS_OK);
  forth.for_every_byte(
      [](auto& universal, auto&, unsigned n) { ASSERT_EQ(universal, byte_of(n)); });

  Permute back = make(3, 2, 2, 4, 5, 3);
  back.for_every_byte([](auto& universal, auto&, unsigned n) { universal = byte_of(n); });
  ASSERT_EQ(back.to_chunks(), KVBM_STATUS_OK);
  back.for_every_byte([](auto&, auto& chunk, unsigned n) { ASSERT_EQ(chunk, byte_of(n)); });
}

TEST_P(PermuteTypes, K2_RoundTripRestoresTheChunks) {
  Permute permute = make(2, 2, 2, 3, 4, 2);
  permute.for_every_byte([](auto&, auto& chunk, unsigned n) { chunk = byte_of(n); });
  auto const original = permute.chunks;
  ASSERT_EQ(permute.to_universal(), KVBM_STATUS_OK);
  permute.for_every_byte([](auto&, auto& chunk, unsigned) { chunk = 0xDE; });
  ASSERT_EQ(permute.to_chunks(), KVBM_STATUS_OK);
  EXPECT_EQ(permute.chunks, original);
}

TEST_P(PermuteTypes, K1_RealModelShape) {
  Permute permute = make(8, 3, 2, 16, 128, 2);
  permute.for_every_byte([](auto&, auto& chunk, unsigned n) { chunk = byte_of(n); });
  ASSERT_EQ(permute.to_universal(), KVBM_STATUS_OK);
  permute.for_every_byte(
      [](auto& universal, auto&, unsigned n) { ASSERT_EQ(universal, byte_of(n)); });
}

INSTANTIATE_TEST_SUITE_P(TypesAndOrders, PermuteTypes,
                         ::testing::Combine(::testing::Values(KVBM_DTYPE_F16, KVBM_DTYPE_BF16,
                                                              KVBM_DTYPE_F32, KVBM_DTYPE_F64,
                                                              KVBM_DTYPE_U8),
                                            ::testing::Values(KVBM_BLOCK_NHD, KVBM_BLOCK_HND)));

TEST(PermuteAbi, K3_EmptyIsFineAndBadArgumentsAreNot) {
  auto const call = [](void* const* universal, void const* const* chunks, std::size_t nb,
                       std::size_t nh, kvbm_dtype dtype, kvbm_block_order order) {
    return kvbm_cpu_universal_from_block(universal, chunks, nb, nh, 1, 1, 1, 4, dtype, order);
  };
  std::vector<unsigned char> memory(16);
  void* universal = memory.data();
  void const* chunk = memory.data() + 8;
  EXPECT_EQ(call(nullptr, nullptr, 0, 1, KVBM_DTYPE_F16, KVBM_BLOCK_NHD), KVBM_STATUS_OK);
  EXPECT_EQ(call(nullptr, nullptr, 1, 0, KVBM_DTYPE_F16, KVBM_BLOCK_NHD), KVBM_STATUS_OK);
  EXPECT_EQ(call(&universal, &chunk, 1, 1, KVBM_DTYPE_F16, KVBM_BLOCK_NHD), KVBM_STATUS_OK);
  EXPECT_EQ(call(nullptr, &chunk, 1, 1, KVBM_DTYPE_F16, KVBM_BLOCK_NHD), KVBM_STATUS_INVALID_VALUE);
  EXPECT_EQ(call(&universal, nullptr, 1, 1, KVBM_DTYPE_F16, KVBM_BLOCK_NHD),
            KVBM_STATUS_INVALID_VALUE);
  EXPECT_EQ(call(&universal, &chunk, 1, 1, static_cast<kvbm_dtype>(99), KVBM_BLOCK_NHD),
            KVBM_STATUS_INVALID_VALUE);
  EXPECT_EQ(call(&universal, &chunk, 1, 1, KVBM_DTYPE_F16, static_cast<kvbm_block_order>(2)),
            KVBM_STATUS_INVALID_VALUE);
  void const* null_chunk = nullptr;
  EXPECT_EQ(call(&universal, &null_chunk, 1, 1, KVBM_DTYPE_F16, KVBM_BLOCK_NHD),
            KVBM_STATUS_INVALID_VALUE);
}

TEST(PermuteAbi, ProductsThatOverflowAreRefused) {
  std::byte memory{};
  void* universal = &memory;
  void const* chunk = &memory;
  std::size_t const huge = std::numeric_limits<std::size_t>::max() / 2;
  EXPECT_EQ(kvbm_cpu_universal_from_block(&universal, &chunk, 1, huge, huge, 1, 1, 2,
                                          KVBM_DTYPE_F16, KVBM_BLOCK_NHD),
            KVBM_STATUS_INVALID_VALUE);
  EXPECT_EQ(kvbm_cpu_block_from_universal(&chunk, &universal, huge, 2, 2, 2, 1, 2, KVBM_DTYPE_F64,
                                          KVBM_BLOCK_HND),
            KVBM_STATUS_INVALID_VALUE);
}

/// Operational blocks flattened to [nl, no, nt * nh * hd] and their chunks, by every way to copy.
TEST(OperationalCopies, K7_RoundTripThroughEveryWay) {
  constexpr std::size_t kChunkBytes = 2 * 4 * 3 * 2;  // nh, nt, hd, two bytes
  constexpr std::size_t kChunks = 2 * 3 * 2;          // nb, nl, no
  std::vector<unsigned char> flat(kChunkBytes * kChunks);
  for (std::size_t i = 0; i < flat.size(); ++i)
    flat[i] = byte_of(static_cast<unsigned>(i));
  auto const original = flat;
  for (int way = 0; way < 4; ++way) {
    std::vector<std::vector<unsigned char>> chunks(kChunks,
                                                   std::vector<unsigned char>(kChunkBytes, 0xDE));
    std::vector<void*> chunk_ptrs;
    std::vector<void*> flat_ptrs;
    for (std::size_t i = 0; i < kChunks; ++i) {
      chunk_ptrs.push_back(chunks[i].data());
      flat_ptrs.push_back(flat.data() + i * kChunkBytes);
    }
    auto const copy = [way](std::vector<void*> const& from, std::vector<void*> const& to) {
      std::vector<void const*> const src(from.begin(), from.end());
      if (way == 3) {
        return kvbm_cpu_vectorized_copy(src.data(), to.data(), kChunkBytes, kChunks);
      }
      return kvbm_cpu_memcpy_batch(src.data(), to.data(), kChunkBytes, kChunks,
                                   static_cast<kvbm_memcpy_batch_mode>(way), nullptr);
    };
    ASSERT_EQ(copy(flat_ptrs, chunk_ptrs), KVBM_STATUS_OK);
    for (std::size_t i = 0; i < kChunks; ++i) {
      ASSERT_TRUE(std::equal(chunks[i].begin(), chunks[i].end(),
                             original.begin() + static_cast<std::ptrdiff_t>(i * kChunkBytes)));
    }
    flat.assign(flat.size(), 0xDE);
    ASSERT_EQ(copy(chunk_ptrs, flat_ptrs), KVBM_STATUS_OK);
    ASSERT_EQ(flat, original) << "way " << way;
  }
}

}  // namespace
