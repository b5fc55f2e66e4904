// SPDX-License-Identifier: Apache-2.0
#include "workloads.hpp"

#include <algorithm>
#include <numeric>
#include <random>

namespace kvbm::bench {
namespace {

constexpr std::uint64_t kAlignment = 4096;

std::byte* align(std::vector<std::byte>& storage) {
  auto const address = reinterpret_cast<std::uintptr_t>(storage.data());
  return storage.data() + (kAlignment - address % kAlignment) % kAlignment;
}

std::array<std::int64_t, 5> strides(Workload const& workload, Order const& order) {
  std::array<std::int64_t, 5> result{};
  auto stride = static_cast<std::int64_t>(workload.width);
  for (std::size_t i = order.size(); i-- > 0;) {
    result[order[i]] = stride;
    stride *= static_cast<std::int64_t>(workload.extents[order[i]]);
  }
  return result;
}

}  // namespace

std::span<Workload const> workloads() {
  static constexpr std::array<Workload, 6> kWorkloads{{
      {"llama3-8b", {32, 2, 16, 8, 128}, 2},
      {"llama3-70b-tp8", {80, 2, 16, 1, 128}, 2},
      {"qwen3-32b-tp4", {64, 2, 16, 2, 128}, 2},
      {"deepseek-v3-mla", {61, 1, 64, 1, 576}, 2},
      {"smollm2-135m", {30, 2, 16, 3, 64}, 2},
      {"llama3-8b-fp8", {32, 2, 16, 8, 128}, 1},
  }};
  return kWorkloads;
}

kvbm_copy_template permute_template(Workload const& workload, Order const& from, Order const& to) {
  auto const src = strides(workload, from);
  auto const dst = strides(workload, to);
  kvbm_copy_template shape{};
  shape.num_dims = 5;
  for (std::size_t i = 0; i < 5; ++i) {
    shape.dims[i] = {workload.extents[to[i]], src[to[i]], dst[to[i]]};
  }
  shape.run_bytes = workload.width;
  return shape;
}

BlockSet::BlockSet(std::uint64_t block_bytes, std::uint64_t total_bytes)
    : block_bytes_(block_bytes),
      src_storage_(total_bytes + kAlignment, std::byte{1}),
      dst_storage_(total_bytes + kAlignment, std::byte{2}),
      src_(align(src_storage_)),
      dst_(align(dst_storage_)),
      src_segment_(reinterpret_cast<std::uintptr_t>(src_)),
      dst_segment_(reinterpret_cast<std::uintptr_t>(dst_)),
      src_blocks_(total_bytes / block_bytes),
      dst_blocks_(total_bytes / block_bytes) {
  std::iota(src_blocks_.begin(), src_blocks_.end(), 0U);
  std::iota(dst_blocks_.begin(), dst_blocks_.end(), 0U);
  std::shuffle(src_blocks_.begin(), src_blocks_.end(), std::mt19937(7));
}

kvbm_copy_boxes BlockSet::boxes() const noexcept {
  kvbm_copy_boxes boxes{};
  boxes.num_segments = 1;
  boxes.src_segments = &src_segment_;
  boxes.dst_segments = &dst_segment_;
  boxes.src_block_stride = block_bytes_;
  boxes.dst_block_stride = block_bytes_;
  boxes.num_blocks = src_blocks_.size();
  boxes.src_blocks = src_blocks_.data();
  boxes.dst_blocks = dst_blocks_.data();
  return boxes;
}

}  // namespace kvbm::bench
