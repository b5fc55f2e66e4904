// SPDX-License-Identifier: Apache-2.0
#pragma once

#include <cstddef>
#include <cstdint>

#include "kernels/worker_pool.hpp"
#include "kvbm/kernels/kernels.h"

namespace kvbm::kernels {

struct BoxAddress {
  std::byte const* src;
  std::byte* dst;
};

/// Where box i of [0, num_boxes) starts on both sides; `at` may be called from any thread.
struct BoxTable {
  std::uint64_t num_boxes;
  BoxAddress (*at)(void const* context, std::uint64_t box) noexcept;
  void const* context;
};

/// Why a template and its boxes cannot be copied; null where they can.
char const* find_fault(kvbm_copy_template const& shape) noexcept;
char const* find_fault(kvbm_copy_template const& shape, kvbm_copy_boxes const& boxes) noexcept;

/// Destinations of a call from this many bytes on do not fit into the last-level cache.
std::uint64_t default_non_temporal_threshold() noexcept;

/// Copies every box with the threads of the pool; small calls stay in the calling thread.
/// @pre find_fault(shape) is null
void copy_boxes(WorkerPool& pool, kvbm_copy_template const& shape, BoxTable const& table,
                std::uint64_t non_temporal_threshold_bytes, int priority);
void copy_boxes(WorkerPool& pool, kvbm_copy_template const& shape, kvbm_copy_boxes const& boxes,
                std::uint64_t non_temporal_threshold_bytes, int priority);

}  // namespace kvbm::kernels
