// SPDX-License-Identifier: Apache-2.0
#include "unit/kernels/strided_oracle.hpp"

#include <algorithm>
#include <numeric>
#include <sstream>

namespace kvbm::kernels::testing {
namespace {

constexpr std::size_t kPage = 4096;
constexpr std::size_t kGuard = 256;

template <class Stride>
Footprint footprint(kvbm_copy_template const& shape, Stride stride_of) {
  Footprint result{shape.run_bytes, 0};
  for (std::uint32_t i = 0; i < shape.num_dims; ++i) {
    if (shape.dims[i].extent == 0) return {0, 0};
    auto const reach =
        stride_of(shape.dims[i]) * static_cast<std::int64_t>(shape.dims[i].extent - 1);
    result.bytes += static_cast<std::uint64_t>(reach < 0 ? -reach : reach);
    if (reach < 0) result.origin += static_cast<std::uint64_t>(-reach);
  }
  return result;
}

std::vector<std::size_t> shuffled(std::size_t count, std::mt19937_64& random) {
  std::vector<std::size_t> order(count);
  std::iota(order.begin(), order.end(), 0U);
  std::shuffle(order.begin(), order.end(), random);
  return order;
}

}  // namespace

Footprint src_footprint(kvbm_copy_template const& shape) {
  return footprint(shape, [](kvbm_copy_dim const& dim) { return dim.src_stride; });
}

Footprint dst_footprint(kvbm_copy_template const& shape) {
  return footprint(shape, [](kvbm_copy_dim const& dim) { return dim.dst_stride; });
}

void copy_by_definition(kvbm_copy_template const& shape, std::byte const* src, std::byte* dst) {
  std::uint64_t count = 1;
  for (std::uint32_t i = 0; i < shape.num_dims; ++i)
    count *= shape.dims[i].extent;
  for (std::uint64_t index = 0; index < count; ++index) {
    std::uint64_t rest = index;
    std::int64_t from = 0;
    std::int64_t to = 0;
    for (std::uint32_t i = shape.num_dims; i-- > 0;) {
      auto const at = static_cast<std::int64_t>(rest % shape.dims[i].extent);
      rest /= shape.dims[i].extent;
      from += at * shape.dims[i].src_stride;
      to += at * shape.dims[i].dst_stride;
    }
    for (std::uint64_t b = 0; b < shape.run_bytes; ++b) {
      dst[to + static_cast<std::int64_t>(b)] = src[from + static_cast<std::int64_t>(b)];
    }
  }
}

std::vector<std::byte> noise(std::size_t bytes, std::uint64_t seed) {
  std::mt19937_64 random(seed);
  std::vector<std::byte> result(bytes);
  for (std::byte& value : result)
    value = static_cast<std::byte>(random() >> 32U);
  return result;
}

std::string describe(kvbm_copy_template const& shape) {
  std::ostringstream text;
  for (std::uint32_t i = 0; i < shape.num_dims; ++i) {
    text << '[' << shape.dims[i].extent << " x (" << shape.dims[i].src_stride << " -> "
         << shape.dims[i].dst_stride << ")] ";
  }
  text << "run " << shape.run_bytes;
  return text.str();
}

kvbm_copy_template random_template(std::mt19937_64& random, std::uint64_t run_bytes,
                                   std::uint64_t max_bytes) {
  auto const below = [&random](std::uint64_t limit) { return random() % limit; };
  kvbm_copy_template shape{};
  shape.run_bytes = run_bytes;
  shape.num_dims = static_cast<std::uint32_t>(below(KVBM_MAX_COPY_DIMS + 1));
  std::uint64_t room = std::max<std::uint64_t>(1, max_bytes / run_bytes);
  for (std::uint32_t i = 0; i < shape.num_dims; ++i) {
    std::uint64_t const usual = std::min<std::uint64_t>(room, below(4) == 0 ? 80 : 9);
    shape.dims[i].extent = 1 + below(usual);
    room /= shape.dims[i].extent;
  }
  // Each side lays the loops out in an order of its own, densely or with a gap after each row.
  bool const backwards = below(4) == 0;
  bool const gaps[2] = {below(2) == 0, below(2) == 0};
  for (int side = 0; side < 2; ++side) {
    auto row = static_cast<std::int64_t>(run_bytes);
    for (std::size_t const at : shuffled(shape.num_dims, random)) {
      kvbm_copy_dim& dim = shape.dims[at];
      std::int64_t stride = row;
      if (gaps[side] && below(3) == 0) stride += static_cast<std::int64_t>(1 + below(40));
      row = stride * static_cast<std::int64_t>(dim.extent);
      if (side == 1) {
        dim.dst_stride = stride;
      } else {
        dim.src_stride = backwards && below(3) == 0 ? -stride : stride;
        if (backwards && below(6) == 0) dim.src_stride = 0;
      }
    }
  }
  return shape;
}

kvbm_copy_template reversed(kvbm_copy_template const& shape) {
  kvbm_copy_template result = shape;
  for (kvbm_copy_dim& dim : result.dims)
    std::swap(dim.src_stride, dim.dst_stride);
  return result;
}

GuardedBuffer::GuardedBuffer(std::uint64_t bytes, std::uint64_t offset, std::uint64_t seed)
    : storage_(noise(bytes + offset + kPage + 2 * kGuard, seed)) {
  auto const address = reinterpret_cast<std::uintptr_t>(storage_.data()) + kGuard;
  begin_ = kGuard + (kPage - address % kPage) % kPage + offset;
}

kvbm_copy_template dense_permute(std::span<std::uint64_t const> extents,
                                 std::span<std::size_t const> src_order, std::uint64_t run_bytes) {
  kvbm_copy_template shape{};
  shape.run_bytes = run_bytes;
  shape.num_dims = static_cast<std::uint32_t>(extents.size());
  auto src = static_cast<std::int64_t>(run_bytes);
  auto dst = src;
  for (std::size_t i = extents.size(); i-- > 0;) {
    auto const extent = static_cast<std::int64_t>(extents[i]);
    shape.dims[i].extent = extents[i];
    shape.dims[i].dst_stride = dst;
    dst *= extent;
    shape.dims[src_order[i]].src_stride = src;
    src *= static_cast<std::int64_t>(extents[src_order[i]]);
  }
  return shape;
}

}  // namespace kvbm::kernels::testing
