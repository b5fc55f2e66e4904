// SPDX-License-Identifier: Apache-2.0
#include <gtest/gtest.h>

#include <array>
#include <cstring>
#include <random>
#include <tuple>

#include "unit/kernels/cuda_memory.hpp"
#include "unit/kernels/strided_oracle.hpp"

namespace kvbm::kernels::testing {
namespace {

/// Addresses in a table that the device reads.
template <class Pointer>
class DeviceTable {
 public:
  explicit DeviceTable(std::vector<Pointer> const& pointers)
      : memory_(MemoryKind::Device, std::as_bytes(std::span(pointers))) {}
  [[nodiscard]] Pointer const* get() const noexcept {
    return reinterpret_cast<Pointer const*>(memory_.data());
  }

 private:
  CudaBuffer memory_;
};

struct Pairs {
  std::vector<std::size_t> src_offsets;
  std::vector<std::size_t> dst_offsets;
  std::size_t size = 0;

  [[nodiscard]] std::vector<std::byte> applied(std::vector<std::byte> const& source,
                                               std::vector<std::byte> destination) const {
    for (std::size_t i = 0; i < src_offsets.size(); ++i) {
      std::memcpy(destination.data() + dst_offsets[i], source.data() + src_offsets[i], size);
    }
    return destination;
  }
  [[nodiscard]] std::vector<void const*> sources(CudaBuffer const& memory) const {
    std::vector<void const*> result;
    for (std::size_t const offset : src_offsets)
      result.push_back(memory.data() + offset);
    return result;
  }
  [[nodiscard]] std::vector<void*> destinations(CudaBuffer const& memory) const {
    std::vector<void*> result;
    for (std::size_t const offset : dst_offsets)
      result.push_back(memory.data() + offset);
    return result;
  }
};

/// `count` pairs whose sides take turns in the offsets of `offsets`, guard bytes between them.
Pairs mixed_pairs(std::size_t size, std::size_t count, std::span<std::size_t const> offsets) {
  std::size_t const slot = (size + 64 + 15) / 16 * 16;
  Pairs pairs;
  pairs.size = size;
  for (std::size_t i = 0; i < count; ++i) {
    pairs.src_offsets.push_back(16 + slot * ((i * 7) % count) + offsets[i % offsets.size()]);
    pairs.dst_offsets.push_back(16 + slot * i + offsets[i / offsets.size() % offsets.size()]);
  }
  return pairs;
}

constexpr std::array<std::size_t, 5> kOffsets{0, 1, 2, 4, 8};

class CudaVectorizedCopy : public CudaTest {
 protected:
  void expect_copied(Pairs const& pairs, MemoryKind from, MemoryKind to) {
    std::size_t const bytes = pairs.src_offsets.size() * (pairs.size + 80) + 64;
    auto const source = noise(bytes, 1);
    auto const before = noise(bytes, 2);
    CudaBuffer const src(from, source);
    CudaBuffer const dst(to, before);
    DeviceTable<void const*> const sources(pairs.sources(src));
    DeviceTable<void*> const destinations(pairs.destinations(dst));
    ASSERT_EQ(kvbm_cuda_vectorized_copy(sources.get(), destinations.get(), pairs.size,
                                        static_cast<int>(pairs.src_offsets.size()), stream()),
              KVBM_STATUS_OK);
    synchronize();
    EXPECT_TRUE(dst.read() == pairs.applied(source, before))
        << pairs.size << " bytes, " << name_of(from) << " to " << name_of(to);
  }
};

TEST_F(CudaVectorizedCopy, P10_EveryPairHasAnAlignmentOfItsOwn) {
  for (std::size_t const size : {1U, 2U, 3U, 4U, 8U, 12U, 15U, 16U, 17U, 31U, 4097U}) {
    for (MemoryKind const from : {MemoryKind::Device, MemoryKind::Mapped}) {
      for (MemoryKind const to : {MemoryKind::Device, MemoryKind::Mapped})
        expect_copied(mixed_pairs(size, 53, kOffsets), from, to);
    }
  }
}

TEST_F(CudaVectorizedCopy, FewLargePairsAndManySmallOnes) {
  expect_copied(mixed_pairs(std::size_t{5} << 20U, 3, kOffsets), MemoryKind::Device,
                MemoryKind::Device);
  expect_copied(mixed_pairs(48, 100'003, kOffsets), MemoryKind::Device, MemoryKind::Device);
  expect_copied(mixed_pairs(2048, 8191, std::array<std::size_t, 1>{0}), MemoryKind::Mapped,
                MemoryKind::Device);
}

class CudaMemcpyBatch : public CudaTest {};

TEST_F(CudaMemcpyBatch, K4_EveryModeBothDirections) {
  struct Shape {
    std::size_t count, size;
  };
  for (auto const& [count, size] : {Shape{1, 256}, Shape{8, 512}, Shape{3, std::size_t{1} << 20U},
                                    Shape{4, 999}, Shape{256, 64}}) {
    Pairs const pairs = mixed_pairs(size, count, std::array<std::size_t, 1>{0});
    std::size_t const bytes = count * (size + 80) + 64;
    auto const source = noise(bytes, 1);
    auto const before = noise(bytes, 2);
    for (int const mode : {0, 1, 2}) {
      for (bool const to_device : {true, false}) {
        CudaBuffer const src(to_device ? MemoryKind::Mapped : MemoryKind::Device, source);
        CudaBuffer const dst(to_device ? MemoryKind::Device : MemoryKind::Mapped, before);
        auto const sources = pairs.sources(src);
        auto const destinations = pairs.destinations(dst);
        auto path = KVBM_MEMCPY_PATH_NONE;
        kvbm_status const status =
            kvbm_cuda_memcpy_batch(sources.data(), destinations.data(), size, count,
                                   static_cast<kvbm_memcpy_batch_mode>(mode), &path, stream());
        synchronize();
        if (mode == 2 && kvbm_cuda_has_memcpy_batch() == 0) {
          EXPECT_EQ(status, KVBM_STATUS_NOT_SUPPORTED);
          continue;
        }
        ASSERT_EQ(status, KVBM_STATUS_OK)
            << kvbm_cuda_error_string(kvbm_cuda_last_error()) << " mode " << mode;
        EXPECT_EQ(path, mode == 1 || kvbm_cuda_has_memcpy_batch() == 0 ? KVBM_MEMCPY_PATH_INDIVIDUAL
                                                                       : KVBM_MEMCPY_PATH_BATCHED);
        EXPECT_TRUE(dst.read() == pairs.applied(source, before)) << count << " x " << size;
      }
    }
  }
}

TEST_F(CudaMemcpyBatch, NullStreamAndPageableMemoryAreCopiedOneByOne) {
  Pairs const pairs = mixed_pairs(512, 9, std::array<std::size_t, 1>{0});
  std::size_t const bytes = 9 * (512 + 80) + 64;
  auto const source = noise(bytes, 1);
  auto const before = noise(bytes, 2);
  CudaBuffer const src(MemoryKind::Mapped, source);
  CudaBuffer const dst(MemoryKind::Device, before);
  auto const sources = pairs.sources(src);
  auto const destinations = pairs.destinations(dst);
  auto path = KVBM_MEMCPY_PATH_NONE;
  ASSERT_EQ(kvbm_cuda_memcpy_batch(sources.data(), destinations.data(), 512, 9,
                                   KVBM_MEMCPY_BATCHED_WITH_FALLBACK, &path, nullptr),
            KVBM_STATUS_OK);
  EXPECT_EQ(path, KVBM_MEMCPY_PATH_INDIVIDUAL);
  EXPECT_TRUE(dst.read() == pairs.applied(source, before));

  dst.write(before);
  std::vector<void const*> pageable;
  for (std::size_t const offset : pairs.src_offsets)
    pageable.push_back(source.data() + offset);
  ASSERT_EQ(kvbm_cuda_memcpy_batch(pageable.data(), destinations.data(), 512, 9,
                                   KVBM_MEMCPY_BATCHED_WITH_FALLBACK, &path, stream()),
            KVBM_STATUS_OK);
  EXPECT_EQ(path, KVBM_MEMCPY_PATH_INDIVIDUAL);
  synchronize();
  EXPECT_TRUE(dst.read() == pairs.applied(source, before));
  EXPECT_EQ(kvbm_cuda_memcpy_batch(pageable.data(), destinations.data(), 512, 9,
                                   KVBM_MEMCPY_BATCH_WITHOUT_FALLBACK, &path, stream()),
            KVBM_STATUS_NOT_SUPPORTED);
}

TEST_F(CudaMemcpyBatch, StridedDmaCopiesWhatTheCpuTwinCopies) {
  std::mt19937_64 random(8);
  for (int i = 0; i < 60; ++i) {
    std::uint64_t const run = 1 + random() % 5000;
    kvbm_copy_template const shape = random_template(random, run, 1U << 16U);
    BoxLayout const layout =
        scattered(shape, 1 + random() % 3, 1 + random() % 6, 1, 0, 0, random());
    if (layout.src_bytes > (8U << 20U) || layout.dst_bytes > (8U << 20U)) continue;
    auto source = noise(layout.src_bytes, 1);
    auto const before = noise(layout.dst_bytes, 2);
    bool const to_device = i % 2 == 0;
    CudaBuffer const src(to_device ? MemoryKind::Mapped : MemoryKind::Device, source);
    CudaBuffer const dst(to_device ? MemoryKind::Device : MemoryKind::Mapped, before);
    PlacedBoxes const placed(layout, src.address(), dst.address());
    ASSERT_EQ(kvbm_cuda_strided_dma(&layout.shape, &placed.get(), KVBM_MEMCPY_BATCHED_WITH_FALLBACK,
                                    stream(), nullptr, nullptr),
              KVBM_STATUS_OK)
        << kvbm_cuda_error_string(kvbm_cuda_last_error());
    synchronize();
    EXPECT_TRUE(dst.read() == copied_by_cpu(layout, source, before)) << describe(shape);
  }
}

TEST_F(CudaMemcpyBatch, StridedDmaCanBeCaptured) {
  kvbm_copy_template shape{};
  shape.run_bytes = 512;
  BoxLayout const layout = scattered(shape, 2, 20, 16, 0, 0, 4);
  auto source = noise(layout.src_bytes, 1);
  auto const before = noise(layout.dst_bytes, 2);
  CudaBuffer const src(MemoryKind::Mapped, source);
  CudaBuffer const dst(MemoryKind::Device, before);
  PlacedBoxes const placed(layout, src.address(), dst.address());
  auto* const cuda_stream = static_cast<cudaStream_t>(stream());
  cudaGraph_t graph = nullptr;
  cudaGraphExec_t executable = nullptr;
  auto path = KVBM_MEMCPY_PATH_NONE;
  ASSERT_EQ(cudaStreamBeginCapture(cuda_stream, cudaStreamCaptureModeThreadLocal), cudaSuccess);
  EXPECT_EQ(kvbm_cuda_strided_dma(&layout.shape, &placed.get(), KVBM_MEMCPY_BATCHED_WITH_FALLBACK,
                                  stream(), &path, nullptr),
            KVBM_STATUS_OK);
  ASSERT_EQ(cudaStreamEndCapture(cuda_stream, &graph), cudaSuccess);
  EXPECT_EQ(path, KVBM_MEMCPY_PATH_INDIVIDUAL);
  ASSERT_EQ(cudaGraphInstantiate(&executable, graph, 0), cudaSuccess);
  ASSERT_EQ(cudaGraphLaunch(executable, cuda_stream), cudaSuccess);
  synchronize();
  EXPECT_TRUE(dst.read() == copied_by_cpu(layout, source, before));
  EXPECT_EQ(cudaGraphExecDestroy(executable), cudaSuccess);
  EXPECT_EQ(cudaGraphDestroy(graph), cudaSuccess);
}

struct PermuteExtents {
  std::size_t nh, nl, no, nt, hd, nb;
};

class CudaPermute : public CudaTest,
                    public ::testing::WithParamInterface<std::tuple<kvbm_dtype, kvbm_block_order>> {
 protected:
  /// There, against the CPU twin; and back, against the beginning.
  void expect_round_trip(PermuteExtents const& n, MemoryKind kind) {
    auto const [dtype, order] = GetParam();
    std::size_t const width = dtype == KVBM_DTYPE_F64   ? 8
                              : dtype == KVBM_DTYPE_F32 ? 4
                              : dtype == KVBM_DTYPE_U8  ? 1
                                                        : 2;
    std::size_t const chunk_bytes = n.nt * n.nh * n.hd * width;
    std::size_t const num_chunks = n.nb * n.nl * n.no;
    std::size_t const block_bytes = chunk_bytes * n.nl * n.no;
    auto const chunks = noise(num_chunks * chunk_bytes, 1);
    std::vector<std::byte> expected(chunks.size(), std::byte{0xDE});
    std::vector<void const*> cpu_chunks;
    std::vector<void*> cpu_universal;
    CudaBuffer const chunk_memory(kind, chunks);
    CudaBuffer const universal_memory(MemoryKind::Device, expected);
    std::vector<void*> chunk_ptrs;
    std::vector<void*> universal_ptrs;
    for (std::size_t i = 0; i < num_chunks; ++i) {
      cpu_chunks.push_back(chunks.data() + i * chunk_bytes);
      chunk_ptrs.push_back(chunk_memory.data() + i * chunk_bytes);
    }
    for (std::size_t i = 0; i < n.nb; ++i) {
      cpu_universal.push_back(expected.data() + i * block_bytes);
      universal_ptrs.push_back(universal_memory.data() + i * block_bytes);
    }
    ASSERT_EQ(kvbm_cpu_universal_from_block(cpu_universal.data(), cpu_chunks.data(), n.nb, n.nh,
                                            n.nl, n.no, n.nt, n.hd, dtype, order),
              KVBM_STATUS_OK);
    DeviceTable<void*> const chunk_table(chunk_ptrs);
    DeviceTable<void*> const universal_table(universal_ptrs);
    ASSERT_EQ(kvbm_cuda_universal_from_block(
                  universal_table.get(), const_cast<void const* const*>(chunk_table.get()), n.nb,
                  n.nh, n.nl, n.no, n.nt, n.hd, dtype, order, stream()),
              KVBM_STATUS_OK);
    synchronize();
    EXPECT_TRUE(universal_memory.read() == expected);
    chunk_memory.write(std::vector<std::byte>(chunks.size(), std::byte{0xDE}));
    ASSERT_EQ(kvbm_cuda_block_from_universal(const_cast<void const* const*>(universal_table.get()),
                                             chunk_table.get(), n.nb, n.nh, n.nl, n.no, n.nt, n.hd,
                                             dtype, order, stream()),
              KVBM_STATUS_OK);
    synchronize();
    EXPECT_TRUE(chunk_memory.read() == chunks);
  }
};

TEST_P(CudaPermute, K1_BothWaysEqualTheCpuTwin) {
  expect_round_trip({3, 2, 2, 4, 5, 3}, MemoryKind::Device);
  expect_round_trip({3, 2, 2, 4, 5, 3}, MemoryKind::Mapped);
}

TEST_P(CudaPermute, K2_RoundTripRestoresTheChunks) {
  expect_round_trip({2, 2, 2, 3, 4, 2}, MemoryKind::Device);
}

TEST_P(CudaPermute, K1_RealModelShapes) {
  expect_round_trip({8, 32, 2, 16, 128, 2}, MemoryKind::Device);
  expect_round_trip({1, 27, 1, 64, 576, 2}, MemoryKind::Mapped);
}

INSTANTIATE_TEST_SUITE_P(TypesAndOrders, CudaPermute,
                         ::testing::Combine(::testing::Values(KVBM_DTYPE_F16, KVBM_DTYPE_BF16,
                                                              KVBM_DTYPE_F32, KVBM_DTYPE_F64,
                                                              KVBM_DTYPE_U8),
                                            ::testing::Values(KVBM_BLOCK_NHD, KVBM_BLOCK_HND)));

class CudaOperational : public CudaTest {};

TEST_F(CudaOperational, K7_RoundTripThroughEveryWay) {
  constexpr std::size_t kChunkBytes = 2 * 4 * 3 * 2;  // nh, nt, hd, two bytes
  constexpr std::size_t kChunks = 2 * 3 * 2;          // nb, nl, no
  auto const original = noise(kChunkBytes * kChunks, 1);
  std::vector<std::byte> const poison(2 * original.size(), std::byte{0xDE});
  for (int way = 0; way < 5; ++way) {
    if (way == KVBM_MEMCPY_BATCH_WITHOUT_FALLBACK && kvbm_cuda_has_memcpy_batch() == 0) continue;
    CudaBuffer const flat(MemoryKind::Device, original);
    CudaBuffer const scattered_chunks(MemoryKind::Device, poison);
    std::vector<void*> chunk_ptrs;
    std::vector<void*> flat_ptrs;
    for (std::size_t i = 0; i < kChunks; ++i) {
      chunk_ptrs.push_back(scattered_chunks.data() + 2 * i * kChunkBytes);
      flat_ptrs.push_back(flat.data() + i * kChunkBytes);
    }
    auto const copy = [&](std::vector<void*> const& from, std::vector<void*> const& to) {
      std::vector<void const*> const src(from.begin(), from.end());
      if (way < 3) {
        return kvbm_cuda_memcpy_batch(src.data(), to.data(), kChunkBytes, kChunks,
                                      static_cast<kvbm_memcpy_batch_mode>(way), nullptr, stream());
      }
      if (way == 3) {
        DeviceTable<void const*> const sources(src);
        DeviceTable<void*> const destinations(to);
        auto const status = kvbm_cuda_vectorized_copy(sources.get(), destinations.get(),
                                                      kChunkBytes, kChunks, stream());
        synchronize();  // before the tables go
        return status;
      }
      kvbm_copy_template shape{};
      shape.run_bytes = kChunkBytes;
      std::vector<std::uintptr_t> src_segments;
      std::vector<std::uintptr_t> dst_segments;
      for (std::size_t i = 0; i < kChunks; ++i) {
        src_segments.push_back(reinterpret_cast<std::uintptr_t>(from[i]));
        dst_segments.push_back(reinterpret_cast<std::uintptr_t>(to[i]));
      }
      std::uint32_t const id = 0;
      kvbm_copy_boxes const boxes{kChunks, src_segments.data(), dst_segments.data(), 0, 0, 1, &id,
                                  &id};
      kvbm_cuda_launch const launch{stream(), 0, KVBM_CUDA_WAY_AUTO};
      return kvbm_cuda_strided_copy(&shape, &boxes, &launch);
    };
    ASSERT_EQ(copy(flat_ptrs, chunk_ptrs), KVBM_STATUS_OK) << "way " << way;
    synchronize();
    flat.write(std::vector<std::byte>(original.size(), std::byte{0xDE}));
    ASSERT_EQ(copy(chunk_ptrs, flat_ptrs), KVBM_STATUS_OK) << "way " << way;
    EXPECT_TRUE(flat.read() == original) << "way " << way;
  }
}

}  // namespace
}  // namespace kvbm::kernels::testing
