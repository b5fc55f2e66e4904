// SPDX-License-Identifier: Apache-2.0
#include <algorithm>
#include <cstring>
#include <limits>

#include "kernels/box_copier.hpp"
#include "kernels/box_plan.hpp"
#include "kernels/permute_shape.hpp"
#include "kvbm/core/checked.hpp"
#include "kvbm/kernels/kernels.h"

namespace kvbm::kernels {
namespace {

/// The threads behind the C ABI, started by the first call that needs them.
struct SharedEngine {
  WorkerPool pool{0, true};
  std::uint64_t non_temporal_threshold_bytes = default_non_temporal_threshold();

  static SharedEngine& get() {
    static SharedEngine engine;
    return engine;
  }
};

/// Runs `body`, which returns a status; nothing leaves the C ABI as an exception.
template <class Body>
kvbm_status guarded(Body const& body) noexcept {
  try {
    return body();
  } catch (...) { return KVBM_STATUS_INTERNAL; }
}

bool any_null(void const* const* pointers, std::size_t count) noexcept {
  return std::find(pointers, pointers + count, nullptr) != pointers + count;
}

struct PairTable {
  void const* const* src_ptrs;
  void* const* dst_ptrs;

  static BoxAddress at(void const* context, std::uint64_t pair) noexcept {
    auto const& self = *static_cast<PairTable const*>(context);
    return {static_cast<std::byte const*>(self.src_ptrs[pair]),
            static_cast<std::byte*>(self.dst_ptrs[pair])};
  }
};

/// Whether `count` pairs of `bytes` bytes may be copied; OK and nothing to do is said by `work`.
kvbm_status check_pairs(void const* const* src_ptrs, void* const* dst_ptrs, std::size_t bytes,
                        std::size_t count, bool& work) noexcept {
  work = bytes != 0 && count != 0;
  if (!work) return KVBM_STATUS_OK;
  std::uint64_t total = 0;
  if (src_ptrs == nullptr || dst_ptrs == nullptr || any_null(src_ptrs, count) ||
      any_null(dst_ptrs, count) ||
      __builtin_mul_overflow(std::uint64_t{bytes}, std::uint64_t{count}, &total) ||
      total > kMaxBytes) {
    return KVBM_STATUS_INVALID_VALUE;
  }
  return KVBM_STATUS_OK;
}

void copy_pairs(void const* const* src_ptrs, void* const* dst_ptrs, std::size_t bytes,
                std::size_t count) {
  kvbm_copy_template shape{};
  shape.run_bytes = bytes;
  PairTable const pairs{src_ptrs, dst_ptrs};
  SharedEngine& engine = SharedEngine::get();
  copy_boxes(engine.pool, shape, {count, PairTable::at, &pairs},
             engine.non_temporal_threshold_bytes, 0);
}

/// Chunk i of all blocks and where its first slice lies in its universal block.
template <class Universal, class Chunk>
struct ChunkTable {
  Universal* const* universal_ptrs;
  Chunk* const* block_ptrs;
  std::uint64_t chunks_per_block;
  std::uint64_t slice_bytes;

  static BoxAddress at(void const* context, std::uint64_t chunk) noexcept {
    auto const& self = *static_cast<ChunkTable const*>(context);
    std::uint64_t const offset = chunk % self.chunks_per_block * self.slice_bytes;
    Universal* const universal = self.universal_ptrs[chunk / self.chunks_per_block];
    if constexpr (std::is_const_v<Universal>) {
      return {static_cast<std::byte const*>(universal) + offset,
              static_cast<std::byte*>(self.block_ptrs[chunk])};
    } else {
      return {static_cast<std::byte const*>(self.block_ptrs[chunk]),
              static_cast<std::byte*>(universal) + offset};
    }
  }
};

template <class Universal, class Chunk>
kvbm_status permute(Universal* const* universal_ptrs, Chunk* const* block_ptrs,
                    PermuteShape shape) {
  if (shape.empty()) return KVBM_STATUS_OK;
  if (!shape.is_known() || !shape.derive() || universal_ptrs == nullptr || block_ptrs == nullptr ||
      any_null(universal_ptrs, shape.num_blocks) || any_null(block_ptrs, shape.num_chunks)) {
    return KVBM_STATUS_INVALID_VALUE;
  }
  ChunkTable<Universal, Chunk> const table{universal_ptrs, block_ptrs, shape.chunks_per_block(),
                                           shape.slice_bytes};
  SharedEngine& engine = SharedEngine::get();
  copy_boxes(engine.pool, shape.chunk_template(!std::is_const_v<Universal>),
             {shape.num_chunks, ChunkTable<Universal, Chunk>::at, &table},
             engine.non_temporal_threshold_bytes, 0);
  return KVBM_STATUS_OK;
}

}  // namespace
}  // namespace kvbm::kernels

using namespace kvbm::kernels;

extern "C" {

char const* kvbm_status_string(kvbm_status status) {
  switch (status) {
    case KVBM_STATUS_OK: return "success";
    case KVBM_STATUS_INVALID_VALUE:
      return "invalid value: null table, unknown tag or size overflow";
    case KVBM_STATUS_NOT_SUPPORTED: return "not supported by this build or on this machine";
    case KVBM_STATUS_INTERNAL: return "internal error";
    case KVBM_STATUS_CUDA_ERROR: return "a CUDA call failed";
  }
  return "unknown status";
}

kvbm_status kvbm_cpu_strided_copy(kvbm_copy_template const* shape, kvbm_copy_boxes const* boxes) {
  return guarded([&] {
    if (shape == nullptr || boxes == nullptr || find_fault(*shape, *boxes) != nullptr) {
      return KVBM_STATUS_INVALID_VALUE;
    }
    SharedEngine& engine = SharedEngine::get();
    copy_boxes(engine.pool, *shape, *boxes, engine.non_temporal_threshold_bytes, 0);
    return KVBM_STATUS_OK;
  });
}

kvbm_status kvbm_cpu_vectorized_copy(void const* const* src_ptrs, void* const* dst_ptrs,
                                     size_t copy_size_bytes, int num_pairs) {
  return guarded([&] {
    if (num_pairs < 0) return KVBM_STATUS_INVALID_VALUE;
    auto const count = static_cast<std::size_t>(num_pairs);
    bool work = false;
    kvbm_status const status = check_pairs(src_ptrs, dst_ptrs, copy_size_bytes, count, work);
    if (status == KVBM_STATUS_OK && work) copy_pairs(src_ptrs, dst_ptrs, copy_size_bytes, count);
    return status;
  });
}

kvbm_status kvbm_cpu_memcpy_batch(void const* const* src_ptrs, void* const* dst_ptrs, size_t bytes,
                                  size_t count, kvbm_memcpy_batch_mode mode,
                                  kvbm_memcpy_batch_path* path) {
  return guarded([&] {
    if (path != nullptr) *path = KVBM_MEMCPY_PATH_NONE;
    bool work = false;
    kvbm_status const status = check_pairs(src_ptrs, dst_ptrs, bytes, count, work);
    if (status != KVBM_STATUS_OK || !work) return status;
    kvbm_memcpy_batch_path taken = KVBM_MEMCPY_PATH_NONE;
    switch (mode) {
      case KVBM_MEMCPY_BATCHED_WITH_FALLBACK:
      case KVBM_MEMCPY_BATCH_WITHOUT_FALLBACK:
        copy_pairs(src_ptrs, dst_ptrs, bytes, count);
        taken = KVBM_MEMCPY_PATH_BATCHED;
        break;
      case KVBM_MEMCPY_FALLBACK_ONLY:
        for (std::size_t i = 0; i < count; ++i)
          std::memcpy(dst_ptrs[i], src_ptrs[i], bytes);
        taken = KVBM_MEMCPY_PATH_INDIVIDUAL;
        break;
      default: return KVBM_STATUS_INVALID_VALUE;
    }
    if (path != nullptr) *path = taken;
    return KVBM_STATUS_OK;
  });
}

kvbm_status kvbm_cpu_universal_from_block(void* const* universal_ptrs,
                                          void const* const* block_ptrs, size_t num_blocks,
                                          size_t nh, size_t nl, size_t no, size_t nt, size_t hd,
                                          kvbm_dtype dtype, kvbm_block_order order) {
  return guarded([&] {
    return permute(universal_ptrs, block_ptrs,
                   {num_blocks, nh, nl, no, nt, hd, width_of(dtype), order});
  });
}

kvbm_status kvbm_cpu_block_from_universal(void const* const* universal_ptrs,
                                          void* const* block_ptrs, size_t num_blocks, size_t nh,
                                          size_t nl, size_t no, size_t nt, size_t hd,
                                          kvbm_dtype dtype, kvbm_block_order order) {
  return guarded([&] {
    return permute(universal_ptrs, block_ptrs,
                   {num_blocks, nh, nl, no, nt, hd, width_of(dtype), order});
  });
}

}  // extern "C"
