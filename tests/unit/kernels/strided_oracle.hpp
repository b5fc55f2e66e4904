// SPDX-License-Identifier: Apache-2.0
#pragma once

#include <cstddef>
#include <cstdint>
#include <random>
#include <span>
#include <string>
#include <vector>

#include "kvbm/kernels/kernels.h"

namespace kvbm::kernels::testing {

/// Bytes a box spans on one side from its lowest to its highest byte, and where its first element
/// lies in there (negative strides lead below it).
struct Footprint {
  std::uint64_t bytes = 0;
  std::uint64_t origin = 0;
};

Footprint src_footprint(kvbm_copy_template const& shape);
Footprint dst_footprint(kvbm_copy_template const& shape);

/// The copy as the contract states it: every loop in order, one byte at a time.
void copy_by_definition(kvbm_copy_template const& shape, std::byte const* src, std::byte* dst);

/// Bytes that differ from their neighbours at every distance of interest.
std::vector<std::byte> noise(std::size_t bytes, std::uint64_t seed);

/// "[3 x (+64 -> +2)] run 2".
std::string describe(kvbm_copy_template const& shape);

/// A template whose two sides hold the same box in two permuted orders, each side with gaps of
/// random size. `max_bytes` bounds the box.
kvbm_copy_template random_template(std::mt19937_64& random, std::uint64_t run_bytes,
                                   std::uint64_t max_bytes);

/// The template that goes back.
kvbm_copy_template reversed(kvbm_copy_template const& shape);

/// Memory with guard bytes around; its first byte lies `offset` bytes after a page boundary.
class GuardedBuffer {
 public:
  GuardedBuffer(std::uint64_t bytes, std::uint64_t offset, std::uint64_t seed);
  [[nodiscard]] std::byte* data() noexcept { return storage_.data() + begin_; }
  [[nodiscard]] std::span<std::byte> all() noexcept { return storage_; }
  [[nodiscard]] std::size_t begin() const noexcept { return begin_; }

 private:
  std::vector<std::byte> storage_;
  std::size_t begin_ = 0;
};

/// A dense permute: `extents` in the order of the destination; `src_order` names the same axes
/// from the source's outermost to its innermost.
kvbm_copy_template dense_permute(std::span<std::uint64_t const> extents,
                                 std::span<std::size_t const> src_order, std::uint64_t run_bytes);

}  // namespace kvbm::kernels::testing
