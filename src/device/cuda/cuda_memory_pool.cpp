// SPDX-License-Identifier: Apache-2.0
#include "device/cuda/cuda_memory_pool.hpp"

#include <fmt/format.h>

#include <algorithm>
#include <limits>
#include <mutex>
#include <utility>
#include <vector>

#include "device/cuda/cuda_stream.hpp"
#include "kvbm/core/checked.hpp"
#include "kvbm/core/error.hpp"
#include "kvbm/core/log.hpp"

namespace kvbm::device {
namespace {

// The driver's pool, and everything of it that regions need; alive until the last has come back.
class CudaPoolState final : public MemoryHolder {
 public:
  explicit CudaPoolState(std::shared_ptr<CudaMemorySpace> space) : space_(std::move(space)) {
    CudaScope const scope(context());
    cudaMemPoolProps properties{};
    properties.allocType = cudaMemAllocationTypePinned;
    properties.handleTypes = cudaMemHandleTypeNone;
    properties.location.type = cudaMemLocationTypeDevice;
    properties.location.id = space_->device_id();
    context().check("cudaMemPoolCreate", cudaMemPoolCreate(&pool_, &properties));
    let_streams_wait(false);
  }
  ~CudaPoolState() override {
    CudaScope const scope(context());
    // Frees that streams have yet to reach end before the driver gives the memory back.
    if (cudaMemPoolDestroy(pool_) != cudaSuccess) { forget_last_cuda_error(); }
  }
  CudaPoolState(CudaPoolState const&) = delete;
  CudaPoolState& operator=(CudaPoolState const&) = delete;

  [[nodiscard]] DeviceId device_id() const noexcept { return space_->device_id(); }
  [[nodiscard]] std::uint64_t held_bytes() const noexcept override {
    CudaScope const scope(context());
    std::uint64_t reserved = 0;
    if (cudaMemPoolGetAttribute(pool_, cudaMemPoolAttrReservedMemCurrent, &reserved) !=
        cudaSuccess) {
      forget_last_cuda_error();
      return 0;
    }
    return reserved;
  }

  void set_release_threshold(std::uint64_t bytes) {
    CudaScope const scope(context());
    context().check("cudaMemPoolSetAttribute",
                    cudaMemPoolSetAttribute(pool_, cudaMemPoolAttrReleaseThreshold, &bytes));
  }

  // Taken and freed once, memory stays in the pool.
  void reserve(std::uint64_t bytes) {
    set_release_threshold(std::numeric_limits<std::uint64_t>::max());
    CudaScope const scope(context());
    void* const data = take_raw(bytes, space_->errand_stream());
    context().check("cudaFreeAsync", cudaFreeAsync(data, space_->errand_stream()));
    context().check("cudaStreamSynchronize", cudaStreamSynchronize(space_->errand_stream()));
  }

  [[nodiscard]] void* take(std::uint64_t bytes, CudaStreamState const& stream) {
    std::uint64_t const rounded = checked_align_up(bytes, memory::kRegionAlignment);
    free_late();
    void* const data = take_raw(rounded, stream.handle());
    std::lock_guard const lock(mutex_);
    used_bytes_ += rounded;
    peak_used_bytes_ = std::max(peak_used_bytes_, used_bytes_);
    ++num_allocations_;
    return data;
  }

  void give_back(void* data, std::uint64_t bytes, std::shared_ptr<CudaStreamState> const& stream) {
    {
      std::lock_guard const lock(mutex_);
      used_bytes_ -= checked_align_up(bytes, memory::kRegionAlignment);
      if (stream->is_capturing()) {
        // In a graph the free would run at every launch.
        late_.push_back({data, stream});
        return;
      }
    }
    free_in_order(data, *stream);
  }

  // The pool's object goes: what is free need not be kept.
  void close() noexcept {
    free_late();
    CudaScope const scope(context());
    std::uint64_t none = 0;
    if (cudaMemPoolSetAttribute(pool_, cudaMemPoolAttrReleaseThreshold, &none) != cudaSuccess ||
        cudaMemPoolTrimTo(pool_, 0) != cudaSuccess) {
      forget_last_cuda_error();
    }
  }

  [[nodiscard]] MemoryPoolStats stats() const {
    std::uint64_t const reserved = held_bytes();
    std::lock_guard const lock(mutex_);
    return MemoryPoolStats{reserved, used_bytes_, peak_used_bytes_, num_allocations_,
                           num_device_allocations_};
  }

 private:
  struct Late {
    void* data;
    std::shared_ptr<CudaStreamState> stream;
  };

  [[nodiscard]] CudaContext const& context() const noexcept { return *space_->context(); }

  // Whether the driver may reuse what another stream has yet to free, by letting the one wait for
  // the other. It would rather do that than take more memory, and transfers would queue up.
  void let_streams_wait(bool allowed) const {
    int value = allowed ? 1 : 0;
    context().check(
        "cudaMemPoolSetAttribute",
        cudaMemPoolSetAttribute(pool_, cudaMemPoolReuseAllowInternalDependencies, &value));
  }

  [[nodiscard]] void* take_raw(std::uint64_t bytes, cudaStream_t stream) {
    CudaScope const scope(context());
    std::lock_guard const lock(growth_mutex_);
    std::uint64_t const before = held_bytes();
    void* data = nullptr;
    cudaError_t status = cudaMallocFromPoolAsync(&data, bytes, pool_, stream);
    if (status == cudaErrorMemoryAllocation) {
      forget_last_cuda_error();
      let_streams_wait(true);
      status = cudaMallocFromPoolAsync(&data, bytes, pool_, stream);
      let_streams_wait(false);
    }
    if (status == cudaErrorMemoryAllocation) { throw_out_of_memory(bytes); }
    context().check("cudaMallocFromPoolAsync", status);
    if (held_bytes() > before) {
      std::lock_guard const counters(mutex_);
      ++num_device_allocations_;
    }
    return data;
  }

  void free_in_order(void* data, CudaStreamState const& stream) const noexcept {
    CudaScope const scope(context());
    cudaError_t const status = cudaFreeAsync(data, stream.handle());
    if (status == cudaSuccess) { return; }
    forget_last_cuda_error();
    log::write(log::Level::Error, fmt::format("memory pool of CUDA device {}: cudaFreeAsync: {}",
                                              device_id(), describe_cuda_error(status)));
  }

  void free_late() noexcept {
    std::vector<Late> due;
    {
      std::lock_guard const lock(mutex_);
      auto const keep = std::partition(
          late_.begin(), late_.end(), [](Late const& late) { return late.stream->is_capturing(); });
      due.assign(keep, late_.end());
      late_.erase(keep, late_.end());
    }
    for (auto const& late : due) {
      free_in_order(late.data, *late.stream);
    }
  }

  [[noreturn]] void throw_out_of_memory(std::uint64_t bytes) const {
    forget_last_cuda_error();
    MemoryPoolStats const now = stats();
    throw_error(
        ErrorCode::OutOfMemory,
        fmt::format("memory pool of CUDA device {}: {} bytes asked for; the pool uses {} "
                    "of the {} bytes it holds; {}",
                    device_id(), bytes, now.used_bytes, now.reserved_bytes, space_->describe_use()),
        static_cast<int>(cudaErrorMemoryAllocation));
  }

  std::shared_ptr<CudaMemorySpace> const space_;
  cudaMemPool_t pool_ = nullptr;
  std::mutex growth_mutex_;  // before mutex_
  mutable std::mutex mutex_;
  std::vector<Late> late_;
  std::uint64_t used_bytes_ = 0;
  std::uint64_t peak_used_bytes_ = 0;
  std::uint64_t num_allocations_ = 0;
  std::uint64_t num_device_allocations_ = 0;
};

// What keeps a region's memory, and frees it in the order of its stream.
class CudaPoolLease {
 public:
  CudaPoolLease(std::shared_ptr<CudaPoolState> pool, std::shared_ptr<CudaStreamState> stream,
                std::uint64_t bytes)
      : pool_(std::move(pool)),
        stream_(std::move(stream)),
        bytes_(bytes),
        data_(pool_->take(bytes, *stream_)) {}
  ~CudaPoolLease() {
    try {
      pool_->give_back(data_, bytes_, stream_);
    } catch (std::exception const& error) { log::write(log::Level::Error, error.what()); }
  }
  CudaPoolLease(CudaPoolLease const&) = delete;
  CudaPoolLease& operator=(CudaPoolLease const&) = delete;

  [[nodiscard]] void* data() const noexcept { return data_; }

 private:
  std::shared_ptr<CudaPoolState> pool_;
  std::shared_ptr<CudaStreamState> stream_;
  std::uint64_t bytes_;
  void* data_;
};

class CudaMemoryPool final : public MemoryPool {
 public:
  explicit CudaMemoryPool(std::shared_ptr<CudaPoolState> state) : state_(std::move(state)) {}
  CudaMemoryPool(CudaMemoryPool const&) = delete;
  CudaMemoryPool& operator=(CudaMemoryPool const&) = delete;
  ~CudaMemoryPool() override { state_->close(); }

  memory::Region allocate(std::uint64_t bytes, StreamPtr const& stream) override {
    DeviceId const device_id = state_->device_id();
    KVBM_EXPECTS(bytes > 0, InvalidArgument,
                 fmt::format("memory pool of CUDA device {}: 0 bytes asked for", device_id));
    KVBM_EXPECTS(stream != nullptr, InvalidArgument,
                 fmt::format("memory pool of CUDA device {}: null stream", device_id));
    auto* const cuda_stream = dynamic_cast<CudaStream*>(stream.get());
    KVBM_EXPECTS(
        cuda_stream != nullptr && cuda_stream->device_id() == device_id, InvalidArgument,
        fmt::format("memory pool of CUDA device {}: stream '{}' belongs to {} device {}", device_id,
                    stream->name(), to_string(stream->backend()), stream->device_id()));
    if (stream->is_capturing()) {
      throw UnsupportedError(
          fmt::format("memory pool of CUDA device {}: stream '{}' is being captured into a CUDA "
                      "graph, which would outlive memory of the pool; allocate before the capture",
                      device_id, stream->name()));
    }
    auto lease = std::make_shared<CudaPoolLease>(state_, cuda_stream->state(), bytes);
    void* const data = lease->data();
    return memory::Region::of_memory(memory::StorageKind::Device, data, bytes, device_id, false,
                                     std::move(lease));
  }

  [[nodiscard]] MemoryPoolStats stats() const override { return state_->stats(); }

 private:
  std::shared_ptr<CudaPoolState> state_;
};

}  // namespace

std::unique_ptr<MemoryPool> make_cuda_memory_pool(std::shared_ptr<CudaMemorySpace> const& space,
                                                  std::uint64_t reserve_bytes,
                                                  std::uint64_t release_threshold_bytes) {
  auto state = std::make_shared<CudaPoolState>(space);
  if (reserve_bytes > 0) { state->reserve(reserve_bytes); }
  state->set_release_threshold(release_threshold_bytes);
  space->count(state);
  return std::make_unique<CudaMemoryPool>(std::move(state));
}

}  // namespace kvbm::device
