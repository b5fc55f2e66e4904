// SPDX-License-Identifier: Apache-2.0
#pragma once

#include <cuda_runtime_api.h>
#include <gtest/gtest.h>

#include <cstddef>
#include <cstdint>
#include <span>
#include <string>
#include <vector>

#include "kvbm/kernels/kernels.h"

namespace kvbm::kernels::testing {

enum class MemoryKind { Device, Mapped };
char const* name_of(MemoryKind kind) noexcept;

/// Why CUDA tests cannot run here; empty where they can.
std::string no_cuda_device();

/// Device memory, or pinned host memory that the device reaches. Filled with `contents`.
class CudaBuffer {
 public:
  CudaBuffer(MemoryKind kind, std::span<std::byte const> contents);
  CudaBuffer(MemoryKind kind, std::size_t bytes);
  ~CudaBuffer();
  CudaBuffer(CudaBuffer const&) = delete;
  CudaBuffer& operator=(CudaBuffer const&) = delete;

  [[nodiscard]] std::byte* data() const noexcept { return data_; }
  [[nodiscard]] std::uintptr_t address() const noexcept {
    return reinterpret_cast<std::uintptr_t>(data_);
  }
  /// What is in there now, after everything that was enqueued anywhere.
  [[nodiscard]] std::vector<std::byte> read() const;
  void write(std::span<std::byte const> contents) const;

 private:
  MemoryKind kind_;
  std::size_t bytes_ = 0;
  std::byte* data_ = nullptr;
};

/// Skips where there is no device; gives each test a stream of its own.
class CudaTest : public ::testing::Test {
 protected:
  void SetUp() override;
  void TearDown() override;
  [[nodiscard]] void* stream() const noexcept { return stream_; }
  void synchronize() const;

 private:
  cudaStream_t stream_ = nullptr;
};

/// Boxes given by offsets into a buffer of each side.
struct BoxLayout {
  kvbm_copy_template shape{};
  std::vector<std::uintptr_t> src_offsets;
  std::vector<std::uintptr_t> dst_offsets;
  std::uint64_t src_block_stride = 0;
  std::uint64_t dst_block_stride = 0;
  std::vector<std::uint32_t> src_blocks;
  std::vector<std::uint32_t> dst_blocks;
  std::size_t src_bytes = 0;  ///< of the buffers
  std::size_t dst_bytes = 0;
};

/// The boxes of a layout in two buffers; points into itself.
class PlacedBoxes {
 public:
  PlacedBoxes(BoxLayout const& layout, std::uintptr_t src, std::uintptr_t dst);
  PlacedBoxes(PlacedBoxes const&) = delete;
  PlacedBoxes& operator=(PlacedBoxes const&) = delete;
  [[nodiscard]] kvbm_copy_boxes const& get() const noexcept { return boxes_; }

 private:
  std::vector<std::uintptr_t> src_;
  std::vector<std::uintptr_t> dst_;
  kvbm_copy_boxes boxes_{};
};

/// `shape` in `segments` segments and `blocks` shuffled blocks on both sides, with guard bytes
/// around everything; all addresses are multiples of `grain` plus the side's offset.
BoxLayout scattered(kvbm_copy_template const& shape, std::size_t segments, std::size_t blocks,
                    std::uint64_t grain, std::uint64_t src_offset, std::uint64_t dst_offset,
                    std::uint64_t seed);

/// What the CPU twin makes of `destination`.
std::vector<std::byte> copied_by_cpu(BoxLayout const& layout, std::vector<std::byte>& source,
                                     std::vector<std::byte> destination);

}  // namespace kvbm::kernels::testing
