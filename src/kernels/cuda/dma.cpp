// SPDX-License-Identifier: Apache-2.0
//
// Copies by the copy engines.
#include <algorithm>
#include <array>
#include <cstdint>
#include <limits>
#include <new>
#include <vector>

#include "kernels/box_copier.hpp"
#include "kernels/cuda/dma_api.hpp"
#include "kernels/cuda/reduced_shape.hpp"
#include "kernels/cuda/status.hpp"
#include "kvbm/core/checked.hpp"
#include "kvbm/kernels/copy_engine.hpp"

namespace kvbm::kernels {
namespace {

/// Pinned memory may be registered with the driver in pieces that end at multiples of this; one DMA
/// must not touch two of them. A power of two.
constexpr std::uint64_t kRegistrationSpan = std::uint64_t{64} << 30U;

/// The copies of one batch call; kept by the thread so that calls do not allocate.
struct DescriptorBuffer {
  std::vector<void*> dst;
  std::vector<void const*> src;
  std::vector<std::size_t> bytes;

  void clear() noexcept {
    dst.clear();
    src.clear();
    bytes.clear();
  }
  void push(std::uintptr_t from, std::uintptr_t to, std::uint64_t count) {
    dst.push_back(reinterpret_cast<void*>(to));
    src.push_back(reinterpret_cast<void const*>(from));
    bytes.push_back(count);
  }
  static DescriptorBuffer& of_this_thread() {
    thread_local DescriptorBuffer buffer;
    return buffer;
  }
};

/// Takes runs, merges neighbours, and submits.
class DmaQueue {
 public:
  DmaQueue(CudaDmaApi const& api, DmaTuning const& tuning, cudaStream_t stream, bool batched,
           bool may_fall_back)
      : api_(api),
        tuning_(tuning),
        stream_(stream),
        batched_(batched),
        may_fall_back_(may_fall_back),
        buffer_(DescriptorBuffer::of_this_thread()) {
    buffer_.clear();
  }

  cudaError_t run(std::uintptr_t src, std::uintptr_t dst, std::uint64_t bytes) {
    if (bytes_ != 0 && src == src_ + bytes_ && dst == dst_ + bytes_) {
      bytes_ += bytes;
      return cudaSuccess;
    }
    cudaError_t const error = end_run();
    src_ = src;
    dst_ = dst;
    bytes_ = bytes;
    return error;
  }

  cudaError_t rows(std::uintptr_t src, std::uintptr_t dst, kvbm_copy_dim const& dim,
                   std::uint64_t bytes) {
    cudaError_t const error = end_run();
    if (error != cudaSuccess) return error;
    ++num_dma_;
    individual_ = true;
    return api_.copy_rows(reinterpret_cast<void*>(dst), static_cast<std::size_t>(dim.dst_stride),
                          reinterpret_cast<void const*>(src),
                          static_cast<std::size_t>(dim.src_stride), bytes, dim.extent, stream_);
  }

  /// To be called once, at the end.
  cudaError_t finish() {
    cudaError_t const error = end_run();
    return error != cudaSuccess ? error : submit();
  }

  [[nodiscard]] std::size_t num_dma() const noexcept { return num_dma_; }
  [[nodiscard]] kvbm_memcpy_batch_path path() const noexcept {
    return used_batch_   ? KVBM_MEMCPY_PATH_BATCHED
           : individual_ ? KVBM_MEMCPY_PATH_INDIVIDUAL
                         : KVBM_MEMCPY_PATH_NONE;
  }

 private:
  cudaError_t end_run() {
    while (bytes_ != 0) {
      std::uint64_t const piece = std::min({bytes_, kRegistrationSpan - src_ % kRegistrationSpan,
                                            kRegistrationSpan - dst_ % kRegistrationSpan});
      buffer_.push(src_, dst_, piece);
      src_ += piece;
      dst_ += piece;
      bytes_ -= piece;
      if (buffer_.dst.size() >= tuning_.max_batch) {
        if (cudaError_t const error = submit(); error != cudaSuccess) return error;
      }
    }
    return cudaSuccess;
  }

  [[nodiscard]] bool is_better_one_by_one() const noexcept {
    if (!may_fall_back_ || used_batch_) return false;
    if (buffer_.dst.size() <= tuning_.max_individual) return true;
    return std::ranges::all_of(
        buffer_.bytes, [this](std::size_t bytes) { return bytes >= tuning_.min_individual_bytes; });
  }

  cudaError_t submit() {
    std::size_t const count = buffer_.dst.size();
    if (count == 0) return cudaSuccess;
    num_dma_ += count;
    cudaError_t error = cudaErrorNotSupported;
    if (batched_ && !is_better_one_by_one()) {
      error =
          api_.batch(buffer_.dst.data(), buffer_.src.data(), buffer_.bytes.data(), count, stream_);
      if (error == cudaSuccess) used_batch_ = true;
      // Any other error has a cause in the addresses, which copying one by one would only hide.
      if (error != cudaSuccess && (error != cudaErrorNotSupported || !may_fall_back_)) return error;
      batched_ = error == cudaSuccess;
    }
    if (error != cudaSuccess) {
      individual_ = true;
      for (std::size_t i = 0; i < count; ++i) {
        error = api_.copy(buffer_.dst[i], buffer_.src[i], buffer_.bytes[i], stream_);
        if (error != cudaSuccess) return error;
      }
    }
    buffer_.clear();
    return cudaSuccess;
  }

  CudaDmaApi const& api_;
  DmaTuning const& tuning_;
  cudaStream_t stream_;
  bool batched_;
  bool may_fall_back_;
  DescriptorBuffer& buffer_;
  std::uintptr_t src_ = 0;
  std::uintptr_t dst_ = 0;
  std::uint64_t bytes_ = 0;  // of the run that may still grow
  std::size_t num_dma_ = 0;
  bool used_batch_ = false;
  bool individual_ = false;
};

/// Gives every run of one box to the queue.
cudaError_t enqueue_box(kvbm_copy_template const& shape, std::uintptr_t src, std::uintptr_t dst,
                        DmaTuning const& tuning, DmaQueue& queue) {
  std::uint32_t num_dims = shape.num_dims;
  kvbm_copy_dim const* rows = nullptr;
  if (num_dims != 0 && tuning.min_rows != 0) {
    auto const& inner = shape.dims[num_dims - 1];
    auto const run = static_cast<std::int64_t>(shape.run_bytes);
    if (inner.extent >= tuning.min_rows && inner.src_stride >= run && inner.dst_stride >= run) {
      rows = &inner;
      --num_dims;
    }
  }
  std::array<std::uint64_t, KVBM_MAX_COPY_DIMS> index{};
  for (;;) {
    cudaError_t const error = rows != nullptr ? queue.rows(src, dst, *rows, shape.run_bytes)
                                              : queue.run(src, dst, shape.run_bytes);
    if (error != cudaSuccess) return error;
    std::uint32_t at = num_dims;
    for (; at > 0; --at) {
      kvbm_copy_dim const& dim = shape.dims[at - 1];
      src += static_cast<std::uintptr_t>(dim.src_stride);
      dst += static_cast<std::uintptr_t>(dim.dst_stride);
      if (++index[at - 1] < dim.extent) break;
      src -= static_cast<std::uintptr_t>(dim.src_stride) * dim.extent;
      dst -= static_cast<std::uintptr_t>(dim.dst_stride) * dim.extent;
      index[at - 1] = 0;
    }
    if (at == 0) return cudaSuccess;
  }
}

/// Every box, in the order in which neighbours follow one another.
cudaError_t enqueue_boxes(kvbm_copy_template const& shape, kvbm_copy_boxes const& boxes,
                          DmaTuning const& tuning, DmaQueue& queue) {
  bool const segments_inside = boxes.num_segments > 1 &&
                               boxes.src_segments[1] - boxes.src_segments[0] == shape.run_bytes &&
                               boxes.dst_segments[1] - boxes.dst_segments[0] == shape.run_bytes;
  std::size_t const outer = segments_inside ? boxes.num_blocks : boxes.num_segments;
  std::size_t const inner = segments_inside ? boxes.num_segments : boxes.num_blocks;
  for (std::size_t i = 0; i < outer; ++i) {
    for (std::size_t j = 0; j < inner; ++j) {
      std::size_t const segment = segments_inside ? j : i;
      std::size_t const block = segments_inside ? i : j;
      cudaError_t const error = enqueue_box(
          shape, boxes.src_segments[segment] + boxes.src_block_stride * boxes.src_blocks[block],
          boxes.dst_segments[segment] + boxes.dst_block_stride * boxes.dst_blocks[block], tuning,
          queue);
      if (error != cudaSuccess) return error;
    }
  }
  return queue.finish();
}

bool is_known(kvbm_memcpy_batch_mode mode) noexcept {
  return mode == KVBM_MEMCPY_BATCHED_WITH_FALLBACK || mode == KVBM_MEMCPY_FALLBACK_ONLY ||
         mode == KVBM_MEMCPY_BATCH_WITHOUT_FALLBACK;
}

/// Whether the batch function can be asked on this stream.
cudaError_t can_batch(CudaDmaApi const& api, kvbm_memcpy_batch_mode mode, cudaStream_t stream,
                      bool& possible) {
  possible = mode != KVBM_MEMCPY_FALLBACK_ONLY && stream != nullptr && stream != cudaStreamLegacy &&
             api.has_batch();
  if (!possible) return cudaSuccess;
  bool capturing = false;
  cudaError_t const error = api.is_capturing(stream, capturing);
  possible = !capturing;
  return error;
}

/// Whether every address is memory that CUDA knows; the batch function refuses the rest.
cudaError_t all_registered(CudaDmaApi const& api, std::uintptr_t const* addresses,
                           std::size_t count, bool& registered) {
  for (std::size_t i = 0; i < count && registered; ++i) {
    cudaError_t const error = api.is_registered(addresses[i], registered);
    if (error != cudaSuccess) return error;
  }
  return cudaSuccess;
}

/// Runs `enqueue(queue)` as the mode wants it and tells what happened.
template <class Enqueue>
kvbm_status submit_all(CudaDmaApi const& api, DmaTuning const& tuning, kvbm_memcpy_batch_mode mode,
                       cudaStream_t stream, bool possible, kvbm_memcpy_batch_path* path,
                       std::size_t* num_dma, Enqueue const& enqueue) {
  bool const may_fall_back = mode != KVBM_MEMCPY_BATCH_WITHOUT_FALLBACK;
  if (!possible && !may_fall_back) return KVBM_STATUS_NOT_SUPPORTED;
  try {
    DmaQueue queue(api, tuning, stream, possible, may_fall_back);
    cudaError_t const error = enqueue(queue);
    if (path != nullptr) *path = queue.path();
    if (num_dma != nullptr) *num_dma = queue.num_dma();
    if (error == cudaErrorNotSupported && !may_fall_back) {
      static_cast<void>(checked(error));
      return KVBM_STATUS_NOT_SUPPORTED;
    }
    return checked(error);
  } catch (std::bad_alloc const&) { return KVBM_STATUS_INTERNAL; }
}

bool any_null(void const* const* pointers, std::size_t count) noexcept {
  return std::find(pointers, pointers + count, nullptr) != pointers + count;
}

}  // namespace

kvbm_status strided_dma(kvbm_copy_template const* shape, kvbm_copy_boxes const* boxes,
                        kvbm_memcpy_batch_mode mode, void* stream, kvbm_memcpy_batch_path* path,
                        std::size_t* num_dma, CudaDmaApi const& api, DmaTuning const& tuning) {
  if (path != nullptr) *path = KVBM_MEMCPY_PATH_NONE;
  if (num_dma != nullptr) *num_dma = 0;
  if (shape == nullptr || boxes == nullptr || !is_known(mode) ||
      find_fault(*shape, *boxes) != nullptr) {
    return KVBM_STATUS_INVALID_VALUE;
  }
  if (boxes->num_segments == 0 || boxes->num_blocks == 0 || box_bytes(*shape) == 0) {
    return KVBM_STATUS_OK;
  }
  auto* const cuda_stream = static_cast<cudaStream_t>(stream);
  bool possible = false;
  cudaError_t error = can_batch(api, mode, cuda_stream, possible);
  bool registered = true;
  if (error == cudaSuccess && possible) {
    error = all_registered(api, boxes->src_segments, boxes->num_segments, registered);
    if (error == cudaSuccess) {
      error = all_registered(api, boxes->dst_segments, boxes->num_segments, registered);
    }
  }
  if (error != cudaSuccess) return checked(error);
  kvbm_copy_template const simple = reduced(*shape, Walk::Destination);
  return submit_all(api, tuning, mode, cuda_stream, possible && registered, path, num_dma,
                    [&](DmaQueue& queue) { return enqueue_boxes(simple, *boxes, tuning, queue); });
}

kvbm_status memcpy_batch(void const* const* src_ptrs, void* const* dst_ptrs, std::size_t bytes,
                         std::size_t count, kvbm_memcpy_batch_mode mode,
                         kvbm_memcpy_batch_path* path, void* stream, CudaDmaApi const& api) {
  if (path != nullptr) *path = KVBM_MEMCPY_PATH_NONE;
  if (bytes == 0 || count == 0) return KVBM_STATUS_OK;
  std::uint64_t total = 0;
  if (!is_known(mode) || src_ptrs == nullptr || dst_ptrs == nullptr || any_null(src_ptrs, count) ||
      any_null(dst_ptrs, count) ||
      __builtin_mul_overflow(std::uint64_t{bytes}, std::uint64_t{count}, &total) ||
      total > kMaxBytes) {
    return KVBM_STATUS_INVALID_VALUE;
  }
  auto* const cuda_stream = static_cast<cudaStream_t>(stream);
  bool possible = false;
  cudaError_t error = can_batch(api, mode, cuda_stream, possible);
  bool registered = true;
  for (std::size_t i = 0; i < count && error == cudaSuccess && possible && registered; ++i) {
    std::uintptr_t const pair[2] = {reinterpret_cast<std::uintptr_t>(src_ptrs[i]),
                                    reinterpret_cast<std::uintptr_t>(dst_ptrs[i])};
    error = all_registered(api, pair, 2, registered);
  }
  if (error != cudaSuccess) return checked(error);
  DmaTuning tuning;
  tuning.max_individual = 0;  // the caller said what he wants
  tuning.min_individual_bytes = std::numeric_limits<std::uint64_t>::max();
  return submit_all(api, tuning, mode, cuda_stream, possible && registered, path, nullptr,
                    [&](DmaQueue& queue) {
                      cudaError_t result = cudaSuccess;
                      for (std::size_t i = 0; i < count && result == cudaSuccess; ++i) {
                        result = queue.run(reinterpret_cast<std::uintptr_t>(src_ptrs[i]),
                                           reinterpret_cast<std::uintptr_t>(dst_ptrs[i]), bytes);
                      }
                      return result == cudaSuccess ? queue.finish() : result;
                    });
}

}  // namespace kvbm::kernels

extern "C" {

kvbm_status kvbm_cuda_strided_dma(kvbm_copy_template const* shape, kvbm_copy_boxes const* boxes,
                                  kvbm_memcpy_batch_mode mode, void* stream,
                                  kvbm_memcpy_batch_path* path, size_t* num_dma) {
  return kvbm::kernels::strided_dma(shape, boxes, mode, stream, path, num_dma,
                                    kvbm::kernels::cuda_dma_api(), {});
}

kvbm_status kvbm_cuda_memcpy_batch(void const* const* src_ptrs, void* const* dst_ptrs, size_t bytes,
                                   size_t count, kvbm_memcpy_batch_mode mode,
                                   kvbm_memcpy_batch_path* path, void* stream) {
  return kvbm::kernels::memcpy_batch(src_ptrs, dst_ptrs, bytes, count, mode, path, stream,
                                     kvbm::kernels::cuda_dma_api());
}

}  // extern "C"
