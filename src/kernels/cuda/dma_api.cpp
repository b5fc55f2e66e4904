// SPDX-License-Identifier: Apache-2.0
#include "kernels/cuda/dma_api.hpp"

namespace kvbm::kernels {
namespace {

constexpr int kFirstVersion = 12090;

bool has_batch() noexcept {
#if CUDART_VERSION >= 12090
  int driver = 0;
  return cudaDriverGetVersion(&driver) == cudaSuccess && driver >= kFirstVersion;
#else
  return false;
#endif
}

cudaError_t batch(void* const* dst, void const* const* src, std::size_t const* bytes,
                  std::size_t count, cudaStream_t stream) noexcept {
#if CUDART_VERSION >= 12090
  cudaMemcpyAttributes attributes{};
  attributes.srcAccessOrder = cudaMemcpySrcAccessOrderStream;
  attributes.flags = cudaMemcpyFlagPreferOverlapWithCompute;
  std::size_t first = 0;
#if CUDART_VERSION >= 13000
  return cudaMemcpyBatchAsync(dst, src, bytes, count, &attributes, &first, 1, stream);
#else
  std::size_t failed = 0;
  return cudaMemcpyBatchAsync(const_cast<void**>(dst), const_cast<void**>(src),
                              const_cast<std::size_t*>(bytes), count, &attributes, &first, 1,
                              &failed, stream);
#endif
#else
  static_cast<void>(dst);
  static_cast<void>(src);
  static_cast<void>(bytes);
  static_cast<void>(count);
  static_cast<void>(stream);
  return cudaErrorNotSupported;
#endif
}

cudaError_t copy(void* dst, void const* src, std::size_t bytes, cudaStream_t stream) noexcept {
  return cudaMemcpyAsync(dst, src, bytes, cudaMemcpyDefault, stream);
}

cudaError_t copy_rows(void* dst, std::size_t dst_pitch, void const* src, std::size_t src_pitch,
                      std::size_t bytes, std::size_t rows, cudaStream_t stream) noexcept {
  return cudaMemcpy2DAsync(dst, dst_pitch, src, src_pitch, bytes, rows, cudaMemcpyDefault, stream);
}

cudaError_t is_capturing(cudaStream_t stream, bool& capturing) noexcept {
  cudaStreamCaptureStatus status = cudaStreamCaptureStatusNone;
  cudaError_t const error = cudaStreamIsCapturing(stream, &status);
  capturing = status == cudaStreamCaptureStatusActive;
  return error;
}

cudaError_t is_registered(std::uintptr_t address, bool& registered) noexcept {
  cudaPointerAttributes attributes{};
  // Addresses arrive as integers because the C ABI speaks of device memory too.
  cudaError_t const error =
      cudaPointerGetAttributes(&attributes, reinterpret_cast<void const*>(address));
  registered = attributes.type != cudaMemoryTypeUnregistered;
  return error;
}

}  // namespace

CudaDmaApi const& cuda_dma_api() noexcept {
  static constexpr CudaDmaApi api{has_batch, batch, copy, copy_rows, is_capturing, is_registered};
  return api;
}

}  // namespace kvbm::kernels
