// SPDX-License-Identifier: Apache-2.0
#pragma once

#include <algorithm>
#include <cstddef>
#include <cstdint>
#include <cstdlib>
#include <cstring>
#include <memory>
#include <new>
#include <span>

namespace kvbm::memory::test {

/// Content that differs in every 8 bytes between extents and generations.
inline void fill_pattern(std::span<std::byte> bytes, std::uint64_t extent,
                         std::uint64_t generation) {
  std::uint64_t value = extent * 0x9e3779b97f4a7c15U + generation * 0xbf58476d1ce4e5b9U + 1;
  for (std::size_t at = 0; at < bytes.size(); at += sizeof(value)) {
    value = value * 6364136223846793005U + 1442695040888963407U;
    std::memcpy(bytes.data() + at, &value, std::min(sizeof(value), bytes.size() - at));
  }
}

/// Page-aligned memory.
class AlignedBuffer {
 public:
  explicit AlignedBuffer(std::size_t bytes)
      : bytes_(bytes),
        memory_(static_cast<std::byte*>(std::aligned_alloc(4096, (bytes + 4095) / 4096 * 4096))) {
    if (memory_ == nullptr) { throw std::bad_alloc(); }
    std::memset(memory_.get(), 0xee, bytes);
  }
  [[nodiscard]] std::byte* data() const { return memory_.get(); }
  [[nodiscard]] std::size_t size() const { return bytes_; }
  [[nodiscard]] std::span<std::byte> span() const { return {data(), bytes_}; }

 private:
  struct Free {
    void operator()(std::byte* memory) const { std::free(memory); }
  };
  std::size_t bytes_;
  std::unique_ptr<std::byte, Free> memory_;
};

}  // namespace kvbm::memory::test
