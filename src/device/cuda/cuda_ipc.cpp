// SPDX-License-Identifier: Apache-2.0
#include "device/cuda/cuda_ipc.hpp"

#include <fmt/format.h>

#include <array>
#include <bit>
#include <cstddef>
#include <map>
#include <mutex>
#include <string>
#include <tuple>
#include <utility>

#include "device/cuda/cuda_memory.hpp"
#include "kvbm/core/error.hpp"
#include "kvbm/core/log.hpp"

namespace kvbm::device {
namespace {

using HandleBytes = std::array<std::byte, 64>;
static_assert(sizeof(cudaIpcMemHandle_t) == sizeof(HandleBytes));

// What of other processes this process has open.
class OpenAllocations {
 public:
  using Key = std::tuple<DeviceId, std::int64_t, std::uint64_t, HandleBytes>;

  /// @return the allocation's first byte
  void* open(CudaContext const& context, Key const& key) {
    std::lock_guard const lock(mutex_);
    auto const at = by_key_.find(key);
    if (at != by_key_.end()) {
      ++at->second.users;
      return at->second.base;
    }
    CudaScope const scope(context);
    void* base = nullptr;
    cudaError_t const status =
        cudaIpcOpenMemHandle(&base, std::bit_cast<cudaIpcMemHandle_t>(std::get<HandleBytes>(key)),
                             cudaIpcMemLazyEnablePeerAccess);
    if (status != cudaSuccess) { refuse(context, key, status); }
    try {
      by_key_.emplace(key, Entry{base, 1});
    } catch (...) {
      cudaIpcCloseMemHandle(base);
      throw;
    }
    return base;
  }

  void close(CudaContext const& context, Key const& key) noexcept {
    std::lock_guard const lock(mutex_);
    auto const at = by_key_.find(key);
    if (at == by_key_.end() || --at->second.users > 0) { return; }
    CudaScope const scope(context);
    if (cudaIpcCloseMemHandle(at->second.base) != cudaSuccess) { forget_last_cuda_error(); }
    by_key_.erase(at);
  }

 private:
  struct Entry {
    void* base = nullptr;
    std::uint64_t users = 0;
  };

  [[noreturn]] static void refuse(CudaContext const& context, Key const& key, cudaError_t status) {
    forget_last_cuda_error();
    std::string const what = fmt::format("CUDA device {}: memory of process {} cannot be opened",
                                         context.device_id(), std::get<std::int64_t>(key));
    std::string const why = describe_cuda_error(status);
    if (status == cudaErrorInvalidResourceHandle) {
      throw_error(ErrorCode::NotFound, fmt::format("{}: it has been freed ({})", what, why),
                  static_cast<int>(status));
    }
    if (status == cudaErrorAlreadyMapped) {
      throw_error(ErrorCode::Busy,
                  fmt::format("{}: what was there before is still open here, or was opened by "
                              "another user of CUDA in this process ({})",
                              what, why),
                  static_cast<int>(status));
    }
    throw_error(status == cudaErrorMemoryAllocation ? ErrorCode::OutOfMemory : ErrorCode::Device,
                fmt::format("{}: {}", what, why), static_cast<int>(status));
  }

  std::mutex mutex_;
  std::map<Key, Entry> by_key_;
};

std::shared_ptr<OpenAllocations> const& open_allocations() {
  static auto const instance = std::make_shared<OpenAllocations>();
  return instance;
}

// One use of an allocation that is open.
class OpenAllocation {
 public:
  OpenAllocation(std::shared_ptr<CudaContext> context, OpenAllocations::Key key)
      : context_(std::move(context)),
        all_(open_allocations()),
        key_(std::move(key)),
        base_(static_cast<std::byte*>(all_->open(*context_, key_))) {}
  ~OpenAllocation() { all_->close(*context_, key_); }
  OpenAllocation(OpenAllocation const&) = delete;
  OpenAllocation& operator=(OpenAllocation const&) = delete;

  [[nodiscard]] std::byte* base() const noexcept { return base_; }

 private:
  std::shared_ptr<CudaContext> const context_;
  std::shared_ptr<OpenAllocations> const all_;
  OpenAllocations::Key const key_;
  std::byte* const base_;
};

}  // namespace

std::optional<memory::SharedMemoryName> share_cuda_memory(CudaContext const& context,
                                                          DeviceUuid const& uuid,
                                                          memory::Region const& region) {
  if (region.kind() != memory::StorageKind::Device) { return region.shared_name(); }
  CudaScope const scope(context);
  cudaPointerAttributes const attributes = cuda_attributes(region.address());
  // Managed memory has no fixed place; memory of pools and what is mapped in pieces have handles
  // of another kind, which must be passed on a socket.
  int capable = 0;
  CUdeviceptr base = 0;
  auto const ask = cuda_driver().pointer_get_attribute;
  if (attributes.type != cudaMemoryTypeDevice || attributes.device != context.device_id() ||
      ask(&capable, CU_POINTER_ATTRIBUTE_IS_LEGACY_CUDA_IPC_CAPABLE, region.address()) !=
          CUDA_SUCCESS ||
      capable == 0 ||
      ask(&base, CU_POINTER_ATTRIBUTE_RANGE_START_ADDR, region.address()) != CUDA_SUCCESS) {
    return std::nullopt;
  }
  std::uintptr_t const end = end_of_cuda_range(region.address());
  if (end == 0 || region.bytes() > end - region.address()) { return std::nullopt; }
  cudaIpcMemHandle_t handle{};
  cudaError_t const status = cudaIpcGetMemHandle(&handle, reinterpret_cast<void*>(base));
  if (status != cudaSuccess) {
    forget_last_cuda_error();
    log::write(log::Level::Info,
               fmt::format("CUDA device {}: {} bytes cannot be shared with other processes: {}",
                           context.device_id(), region.bytes(), describe_cuda_error(status)));
    return std::nullopt;
  }
  memory::SharedMemoryName name;
  name.kind = memory::SharedMemoryName::Kind::CudaIpc;
  name.offset = region.address() - base;
  name.file_bytes = end - base;
  name.ipc_handle = std::bit_cast<HandleBytes>(handle);
  name.device_uuid = uuid;
  return name;
}

memory::Region open_cuda_memory(std::shared_ptr<CudaContext> const& context, DeviceUuid const& uuid,
                                memory::ProcessName const& owner,
                                memory::SharedMemoryName const& name, std::uint64_t bytes) {
  DeviceId const id = context->device_id();
  auto const describe = [&](std::string const& what) {
    return fmt::format("CUDA device {}: {} bytes at offset {} of memory of process {}: {}", id,
                       bytes, name.offset, owner.pid, what);
  };
  if (name.kind != memory::SharedMemoryName::Kind::CudaIpc) {
    throw UnsupportedError(describe("it is host memory, which a GPU cannot open as its own"));
  }
  KVBM_EXPECTS(bytes > 0, InvalidArgument, describe("there is nothing to open"));
  KVBM_EXPECTS(name.device_uuid == uuid, NotFound,
               describe(fmt::format("it is on {}, this is {}", format_device_uuid(name.device_uuid),
                                    format_device_uuid(uuid))));
  KVBM_EXPECTS(name.offset <= name.file_bytes && bytes <= name.file_bytes - name.offset, OutOfRange,
               describe(fmt::format("it has {} bytes", name.file_bytes)));
  KVBM_EXPECTS(owner != memory::ProcessName::current(), InvalidArgument,
               describe("that is this process, which has it already"));
  KVBM_EXPECTS(memory::ProcessWatch(owner).is_alive(), NotFound,
               describe("the process has ended, or is not the one that was meant"));
  auto allocation = std::make_shared<OpenAllocation const>(
      context, OpenAllocations::Key{id, owner.pid, owner.start_time, name.ipc_handle});
  auto const base = reinterpret_cast<std::uintptr_t>(allocation->base());
  std::uintptr_t end = 0;
  {
    CudaScope const scope(*context);
    end = end_of_cuda_range(base);
  }
  // Asked from the driver, as a kernel that reads beyond the end takes the whole context with it.
  KVBM_EXPECTS(
      end > base && name.offset + bytes <= end - base, OutOfRange,
      describe(fmt::format("the driver says that it has {} bytes", end > base ? end - base : 0)));
  void* const data = allocation->base() + name.offset;
  return memory::Region::of_memory(memory::StorageKind::Device, data, bytes, id, false,
                                   std::move(allocation));
}

}  // namespace kvbm::device
