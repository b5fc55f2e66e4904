// SPDX-License-Identifier: Apache-2.0
//
// The copies that one would write by hand with the CUDA runtime, and cuBLAS as somebody else's
// model. None of it goes through the library's own kernels.

#include <cuda_runtime.h>
#include <dlfcn.h>

#include <algorithm>
#include <array>
#include <cstring>
#include <string>

#include "kvbm/core/error.hpp"
#include "plain_copies.hpp"

namespace kvbm::cli {
namespace {

void check(cudaError_t status, char const* what) {
  if (status == cudaSuccess) { return; }
  throw Error(ErrorCode::Device, std::string(what) + ": " + cudaGetErrorString(status),
              static_cast<int>(status));
}

cudaMemcpyKind kind_of(transfer::LinkDirection direction) {
  switch (direction) {
    case transfer::LinkDirection::HostToDevice: return cudaMemcpyHostToDevice;
    case transfer::LinkDirection::DeviceToHost: return cudaMemcpyDeviceToHost;
    case transfer::LinkDirection::DeviceToDevice: break;
  }
  return cudaMemcpyDeviceToDevice;
}

/// The usual shape of a copy kernel: one thread block a piece.
__global__ void copy_pieces(void* const* dst, void const* const* src, unsigned long long bytes,
                            unsigned count) {
  unsigned long long const words = bytes / sizeof(uint4);
  for (unsigned piece = blockIdx.x; piece < count; piece += gridDim.x) {
    auto const* const from = static_cast<uint4 const*>(src[piece]);
    auto* const to = static_cast<uint4*>(dst[piece]);
    for (unsigned long long i = threadIdx.x; i < words; i += blockDim.x) {
      to[i] = from[i];
    }
  }
}

class DeviceArray {
 public:
  explicit DeviceArray(std::size_t bytes) {
    check(cudaMalloc(&data_, std::max<std::size_t>(bytes, 1)), "cudaMalloc");
  }
  ~DeviceArray() { cudaFree(data_); }
  DeviceArray(DeviceArray const&) = delete;
  DeviceArray& operator=(DeviceArray const&) = delete;
  [[nodiscard]] void* data() const noexcept { return data_; }

 private:
  void* data_ = nullptr;
};

/// The few functions of cuBLAS that are used, as its documentation declares them.
class Cublas {
 public:
  explicit Cublas(std::string const& given) {
    std::string why;
    for (auto const& name : cublas_candidates(given)) {
      library_ = ::dlopen(name.c_str(), RTLD_NOW | RTLD_LOCAL);
      if (library_ != nullptr) { break; }
      char const* const message = ::dlerror();
      why += (why.empty() ? "" : "; ") + std::string(message != nullptr ? message : name);
    }
    if (library_ == nullptr) { throw UnsupportedError("no cuBLAS: " + why); }
    load(create_, "cublasCreate_v2");
    load(destroy_, "cublasDestroy_v2");
    load(set_stream_, "cublasSetStream_v2");
    load(gemm_, "cublasGemmEx");
    if (create_(&handle_) != 0) { throw UnsupportedError("no cuBLAS: cublasCreate failed"); }
  }
  ~Cublas() {
    if (handle_ != nullptr) { destroy_(handle_); }
    // The library stays loaded: its own threads and contexts outlive a handle.
  }
  Cublas(Cublas const&) = delete;
  Cublas& operator=(Cublas const&) = delete;

  void set_stream(cudaStream_t stream) { expect(set_stream_(handle_, stream), "SetStream"); }

  /// c[m, n] = a[m, k] b[k, n], all bf16 with column-major operands, sums in float.
  void multiply(int m, int n, int k, void const* a, void const* b, void* c) {
    constexpr int kNoTranspose = 0;
    constexpr int kBf16 = 14;         // CUDA_R_16BF
    constexpr int kCompute32F = 68;   // CUBLAS_COMPUTE_32F
    constexpr int kDefaultAlgo = -1;  // CUBLAS_GEMM_DEFAULT
    float const one = 1;
    float const zero = 0;
    expect(gemm_(handle_, kNoTranspose, kNoTranspose, m, n, k, &one, a, kBf16, m, b, kBf16, k,
                 &zero, c, kBf16, m, kCompute32F, kDefaultAlgo),
           "GemmEx");
  }

 private:
  template <typename Function>
  void load(Function& function, char const* name) {
    function = reinterpret_cast<Function>(::dlsym(library_, name));
    if (function == nullptr) { throw UnsupportedError(std::string("no cuBLAS: no ") + name); }
  }
  static void expect(int status, char const* what) {
    if (status != 0) {
      throw Error(ErrorCode::Device, std::string("cublas") + what + " failed", status);
    }
  }

  void* library_ = nullptr;
  void* handle_ = nullptr;
  int (*create_)(void**) = nullptr;
  int (*destroy_)(void*) = nullptr;
  int (*set_stream_)(void*, cudaStream_t) = nullptr;
  int (*gemm_)(void*, int, int, int, int, int, void const*, void const*, int, int, void const*, int,
               int, void const*, void*, int, int, int, int) = nullptr;
};

class CudaGemmLoop final : public GemmLoop {
 public:
  CudaGemmLoop(DeviceId device, std::string const& library, int m, int n, int k)
      : device_(device),
        cublas_(library),
        m_(m),
        n_(n),
        k_(k),
        a_(size(m, k)),
        b_(size(k, n)),
        c_(size(m, n)) {
    check(cudaMemset(a_.data(), 0x3C, size(m, k)), "cudaMemset");
    check(cudaMemset(b_.data(), 0x3B, size(k, n)), "cudaMemset");
    check(cudaStreamCreateWithFlags(&stream_, cudaStreamNonBlocking), "cudaStreamCreate");
    check(cudaEventCreate(&begin_), "cudaEventCreate");
    check(cudaEventCreate(&end_), "cudaEventCreate");
    cublas_.set_stream(stream_);
    enqueue(3);
    check(cudaStreamSynchronize(stream_), "GEMM");
  }
  ~CudaGemmLoop() override {
    cudaStreamSynchronize(stream_);
    cudaEventDestroy(begin_);
    cudaEventDestroy(end_);
    cudaStreamDestroy(stream_);
  }

  void enqueue(unsigned count) override {
    check(cudaSetDevice(device_), "cudaSetDevice");  // may be another thread than the maker's
    check(cudaEventRecord(begin_, stream_), "cudaEventRecord");
    for (unsigned i = 0; i < count; ++i) {
      cublas_.multiply(m_, n_, k_, a_.data(), b_.data(), c_.data());
    }
    check(cudaEventRecord(end_, stream_), "cudaEventRecord");
  }
  [[nodiscard]] bool done() const override {
    auto const status = cudaEventQuery(end_);
    if (status == cudaErrorNotReady) { return false; }
    check(status, "GEMM");
    return true;
  }
  [[nodiscard]] double seconds() const override {
    check(cudaEventSynchronize(end_), "GEMM");
    float ms = 0;
    check(cudaEventElapsedTime(&ms, begin_, end_), "cudaEventElapsedTime");
    return static_cast<double>(ms) * 1e-3;
  }

 private:
  static std::size_t size(int rows, int columns) {
    return std::size_t{2} * static_cast<std::size_t>(rows) * static_cast<std::size_t>(columns);
  }
  DeviceId device_;
  Cublas cublas_;
  int m_;
  int n_;
  int k_;
  DeviceArray a_;
  DeviceArray b_;
  DeviceArray c_;
  cudaStream_t stream_ = nullptr;
  cudaEvent_t begin_ = nullptr;
  cudaEvent_t end_ = nullptr;
};

class PlainCuda final : public PlainCopies {
 public:
  explicit PlainCuda(DeviceId id) : id_(id) {
    check(cudaSetDevice(id), "cudaSetDevice");
    for (auto& stream : streams_) {
      check(cudaStreamCreateWithFlags(&stream, cudaStreamNonBlocking), "cudaStreamCreate");
    }
    check(cudaDeviceGetAttribute(&num_sms_, cudaDevAttrMultiProcessorCount, id), "attributes");
  }
  ~PlainCuda() override {
    for (auto& stream : streams_) {
      cudaStreamSynchronize(stream);
      cudaStreamDestroy(stream);
    }
  }

  void copy(void* dst, void const* src, std::uint64_t bytes, transfer::LinkDirection direction,
            unsigned lane) override {
    check(cudaMemcpyAsync(dst, src, bytes, kind_of(direction), streams_.at(lane)),
          "cudaMemcpyAsync");
  }
  void copy_each(CopyList const& list, transfer::LinkDirection direction) override {
    auto const kind = kind_of(direction);
    for (std::size_t i = 0; i < list.src.size(); ++i) {
      check(cudaMemcpyAsync(list.dst[i], list.src[i], list.bytes, kind, streams_[0]),
            "cudaMemcpyAsync");
    }
  }
  [[nodiscard]] bool has_batch() const override {
    int driver = 0;
    return CUDART_VERSION >= 12090 && cudaDriverGetVersion(&driver) == cudaSuccess &&
           driver >= 12090;
  }
  void copy_batch(CopyList const& list) override {
#if CUDART_VERSION >= 12090
    if (sizes_.size() != list.src.size() || sizes_.empty() || sizes_.front() != list.bytes) {
      sizes_.assign(list.src.size(), list.bytes);
    }
    cudaMemcpyAttributes attributes{};
    attributes.srcAccessOrder = cudaMemcpySrcAccessOrderStream;
    attributes.flags = cudaMemcpyFlagPreferOverlapWithCompute;
    std::size_t first = 0;
#if CUDART_VERSION >= 13000
    check(cudaMemcpyBatchAsync(const_cast<void**>(list.dst.data()),
                               const_cast<void const**>(list.src.data()), sizes_.data(),
                               list.src.size(), &attributes, &first, 1, streams_[0]),
          "cudaMemcpyBatchAsync");
#else
    std::size_t failed = 0;
    check(cudaMemcpyBatchAsync(const_cast<void**>(list.dst.data()),
                               const_cast<void**>(list.src.data()), sizes_.data(), list.src.size(),
                               &attributes, &first, 1, &failed, streams_[0]),
          "cudaMemcpyBatchAsync");
#endif
#else
    throw UnsupportedError("cudaMemcpyBatchAsync: this build's toolkit is older than 12.9");
#endif
  }
  void prepare_kernel(CopyList const& list) override {
    kernel_count_ = list.src.size();
    kernel_bytes_ = list.bytes;
    auto const table = kernel_count_ * sizeof(void*);
    tables_.reset();
    tables_ = std::make_unique<DeviceArray>(2 * table);
    auto* const at = static_cast<char*>(tables_->data());
    check(cudaMemcpy(at, list.dst.data(), table, cudaMemcpyHostToDevice), "cudaMemcpy");
    check(cudaMemcpy(at + table, list.src.data(), table, cudaMemcpyHostToDevice), "cudaMemcpy");
  }
  void copy_kernel(transfer::LinkDirection direction) override {
    constexpr unsigned kLinkCtas = 4;  // more do not move more over a link
    auto const most = static_cast<std::size_t>(
        direction == transfer::LinkDirection::DeviceToDevice ? 2 * num_sms_ : int{kLinkCtas});
    auto const grid = static_cast<unsigned>(std::min(kernel_count_, most));
    auto* const at = static_cast<char*>(tables_->data());
    copy_pieces<<<grid, 1024, 0, streams_[0]>>>(
        reinterpret_cast<void* const*>(at),
        reinterpret_cast<void const* const*>(at + kernel_count_ * sizeof(void*)), kernel_bytes_,
        static_cast<unsigned>(kernel_count_));
    check(cudaGetLastError(), "copy kernel");
  }
  void synchronize(unsigned lane) override {
    check(cudaStreamSynchronize(streams_.at(lane)), "cudaStreamSynchronize");
  }
  std::unique_ptr<GemmLoop> make_gemm(std::string const& library, int m, int n, int k) override {
    return std::make_unique<CudaGemmLoop>(id_, library, m, n, k);
  }

 private:
  DeviceId id_;
  int num_sms_ = 1;
  std::array<cudaStream_t, 2> streams_{};
  std::vector<std::size_t> sizes_;
  std::unique_ptr<DeviceArray> tables_;
  std::size_t kernel_count_ = 0;
  std::uint64_t kernel_bytes_ = 0;
};

}  // namespace

std::unique_ptr<PlainCopies> make_plain_cuda(DeviceId id) {
  return std::make_unique<PlainCuda>(id);
}

}  // namespace kvbm::cli
