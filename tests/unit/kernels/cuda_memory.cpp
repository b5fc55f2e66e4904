// SPDX-License-Identifier: Apache-2.0
#include "unit/kernels/cuda_memory.hpp"

#include <algorithm>
#include <numeric>
#include <random>
#include <stdexcept>

#include "unit/kernels/strided_oracle.hpp"

namespace kvbm::kernels::testing {
namespace {

void require(cudaError_t error, char const* what) {
  if (error != cudaSuccess) {
    throw std::runtime_error(std::string(what) + ": " + cudaGetErrorString(error));
  }
}

std::vector<std::uint32_t> shuffled_ids(std::size_t count, std::size_t of,
                                        std::mt19937_64& random) {
  std::vector<std::uint32_t> ids(of);
  std::iota(ids.begin(), ids.end(), 0U);
  std::shuffle(ids.begin(), ids.end(), random);
  ids.resize(count);
  return ids;
}

std::uint64_t rounded_up(std::uint64_t value, std::uint64_t grain) {
  return (value + grain - 1) / grain * grain;
}

}  // namespace

char const* name_of(MemoryKind kind) noexcept {
  return kind == MemoryKind::Device ? "device" : "mapped";
}

std::string no_cuda_device() {
  int count = 0;
  cudaError_t const error = cudaGetDeviceCount(&count);
  if (error != cudaSuccess) {
    static_cast<void>(cudaGetLastError());
    return std::string("no CUDA device: ") + cudaGetErrorString(error);
  }
  return count == 0 ? "no CUDA device: the driver knows none" : "";
}

CudaBuffer::CudaBuffer(MemoryKind kind, std::size_t bytes) : kind_(kind), bytes_(bytes) {
  void* data = nullptr;
  require(kind == MemoryKind::Device ? cudaMalloc(&data, bytes)
                                     : cudaHostAlloc(&data, bytes, cudaHostAllocPortable),
          "allocate");
  data_ = static_cast<std::byte*>(data);
}

CudaBuffer::CudaBuffer(MemoryKind kind, std::span<std::byte const> contents)
    : CudaBuffer(kind, contents.size()) {
  write(contents);
}

CudaBuffer::~CudaBuffer() {
  static_cast<void>(kind_ == MemoryKind::Device ? cudaFree(data_) : cudaFreeHost(data_));
}

std::vector<std::byte> CudaBuffer::read() const {
  std::vector<std::byte> contents(bytes_);
  require(cudaDeviceSynchronize(), "synchronize");
  require(cudaMemcpy(contents.data(), data_, bytes_, cudaMemcpyDefault), "read");
  return contents;
}

void CudaBuffer::write(std::span<std::byte const> contents) const {
  require(cudaMemcpy(data_, contents.data(), contents.size(), cudaMemcpyDefault), "write");
  require(cudaDeviceSynchronize(), "synchronize");
}

void CudaTest::SetUp() {
  if (std::string const reason = no_cuda_device(); !reason.empty()) GTEST_SKIP() << reason;
  require(cudaStreamCreateWithFlags(&stream_, cudaStreamNonBlocking), "stream");
}

void CudaTest::TearDown() {
  if (stream_ == nullptr) return;
  EXPECT_EQ(cudaStreamSynchronize(stream_), cudaSuccess);
  EXPECT_EQ(cudaStreamDestroy(stream_), cudaSuccess);
}

void CudaTest::synchronize() const { ASSERT_EQ(cudaStreamSynchronize(stream_), cudaSuccess); }

PlacedBoxes::PlacedBoxes(BoxLayout const& layout, std::uintptr_t src, std::uintptr_t dst)
    : src_(layout.src_offsets), dst_(layout.dst_offsets) {
  for (std::uintptr_t& address : src_)
    address += src;
  for (std::uintptr_t& address : dst_)
    address += dst;
  boxes_ = {src_.size(),
            src_.data(),
            dst_.data(),
            layout.src_block_stride,
            layout.dst_block_stride,
            layout.src_blocks.size(),
            layout.src_blocks.data(),
            layout.dst_blocks.data()};
}

BoxLayout scattered(kvbm_copy_template const& shape, std::size_t segments, std::size_t blocks,
                    std::uint64_t grain, std::uint64_t src_offset, std::uint64_t dst_offset,
                    std::uint64_t seed) {
  constexpr std::uint64_t kGuard = 256;
  std::mt19937_64 random(seed);
  std::size_t const slots = blocks + random() % 3;
  auto const from = src_footprint(shape);
  auto const to = dst_footprint(shape);
  BoxLayout layout;
  layout.shape = shape;
  layout.src_block_stride = rounded_up(from.bytes + random() % 64, grain);
  layout.dst_block_stride = rounded_up(to.bytes + random() % 64, grain);
  for (std::size_t s = 0; s < segments; ++s) {
    std::uint64_t const gap = s * kGuard;
    layout.src_offsets.push_back(kGuard + s * slots * layout.src_block_stride + gap + src_offset +
                                 rounded_up(from.origin, grain));
    layout.dst_offsets.push_back(kGuard + s * slots * layout.dst_block_stride + gap + dst_offset +
                                 rounded_up(to.origin, grain));
  }
  layout.src_bytes = layout.src_offsets.back() + slots * layout.src_block_stride + kGuard;
  layout.dst_bytes = layout.dst_offsets.back() + slots * layout.dst_block_stride + kGuard;
  layout.src_blocks = shuffled_ids(blocks, slots, random);
  layout.dst_blocks = shuffled_ids(blocks, slots, random);
  return layout;
}

std::vector<std::byte> copied_by_cpu(BoxLayout const& layout, std::vector<std::byte>& source,
                                     std::vector<std::byte> destination) {
  PlacedBoxes const placed(layout, reinterpret_cast<std::uintptr_t>(source.data()),
                           reinterpret_cast<std::uintptr_t>(destination.data()));
  if (kvbm_cpu_strided_copy(&layout.shape, std::addressof(placed.get())) != KVBM_STATUS_OK) {
    throw std::runtime_error("the CPU twin refuses");
  }
  return destination;
}

}  // namespace kvbm::kernels::testing
