// SPDX-License-Identifier: Apache-2.0
#include <fmt/format.h>

#include <algorithm>
#include <array>
#include <bit>
#include <cctype>
#include <mutex>
#include <utility>

#include "device/cuda/completion_waiter.hpp"
#include "device/cuda/cuda_context.hpp"
#include "device/cuda/cuda_event.hpp"
#include "device/cuda/cuda_ipc.hpp"
#include "device/cuda/cuda_memory.hpp"
#include "device/cuda/cuda_memory_pool.hpp"
#include "device/cuda/cuda_stream.hpp"
#include "device/cuda/pinned_memory.hpp"
#include "device/device_uuid.hpp"
#include "kvbm/core/error.hpp"
#include "kvbm/core/log.hpp"
#include "kvbm/device/device.hpp"
#include "kvbm/memory/numa.hpp"

namespace kvbm::device {
namespace {

// "0000:1b:00.0", as sysfs writes it.
std::string find_pci_address(CudaContext const& context) {
  std::array<char, 32> buffer{};
  context.check(
      "cudaDeviceGetPCIBusId",
      cudaDeviceGetPCIBusId(buffer.data(), static_cast<int>(buffer.size()), context.device_id()));
  std::string address = buffer.data();
  std::transform(address.begin(), address.end(), address.begin(), [](char letter) {
    return static_cast<char>(std::tolower(static_cast<unsigned char>(letter)));
  });
  return address;
}

struct Description {
  std::string name;
  DeviceProperties properties;
  DeviceUuid uuid{};
};

Description describe(CudaContext const& context) {
  CudaScope const scope(context);
  cudaDeviceProp found{};
  context.check("cudaGetDeviceProperties", cudaGetDeviceProperties(&found, context.device_id()));
  Description description;
  description.name = found.name;
  DeviceProperties& properties = description.properties;
  description.uuid = std::bit_cast<DeviceUuid>(found.uuid);
  properties.uuid = format_device_uuid(description.uuid);
  properties.pci_address = find_pci_address(context);
  properties.num_multiprocessors = static_cast<unsigned>(found.multiProcessorCount);
  properties.compute_capability = found.major * 10 + found.minor;
  context.check("cudaDriverGetVersion", cudaDriverGetVersion(&properties.driver_version));
  context.check("cudaRuntimeGetVersion", cudaRuntimeGetVersion(&properties.runtime_version));
  return description;
}

class CudaDevice final : public Device {
 public:
  explicit CudaDevice(std::shared_ptr<CudaContext> context)
      : context_(std::move(context)),
        description_(describe(*context_)),
        numa_node_(memory::numa_node_of_pci_device(description_.properties.pci_address)),
        memory_(std::make_shared<CudaMemorySpace>(context_)),
        streams_(std::make_shared<CudaStreamRegistry>()),
        waiter_(std::make_shared<CompletionWaiter>(context_)) {}
  CudaDevice(CudaDevice const&) = delete;
  CudaDevice& operator=(CudaDevice const&) = delete;
  ~CudaDevice() override {
    waiter_->close();
    streams_->threads().close();
  }

  [[nodiscard]] Backend backend() const noexcept override { return Backend::Cuda; }
  [[nodiscard]] DeviceId id() const noexcept override { return context_->device_id(); }
  [[nodiscard]] std::string const& name() const noexcept override { return description_.name; }
  [[nodiscard]] std::uint64_t total_bytes() const override { return memory_->total_bytes(); }
  [[nodiscard]] std::uint64_t used_bytes() const override { return memory_->used_bytes(); }

  memory::Region allocate(std::uint64_t bytes, std::uint64_t alignment) override {
    return memory_->allocate(bytes, alignment);
  }
  [[nodiscard]] std::optional<memory::PointerInfo> classify(void const* address) const override {
    return classify_cuda_pointer(*context_, address);
  }
  [[nodiscard]] bool is_host_accessible() const noexcept override { return false; }
  [[nodiscard]] int numa_node() const noexcept override { return numa_node_; }
  [[nodiscard]] DeviceProperties properties() const override { return description_.properties; }
  [[nodiscard]] bool can_address(DeviceId other) override;
  memory::Region pin(memory::Region host) override { return pin_memory(context_, std::move(host)); }
  [[nodiscard]] std::optional<memory::SharedMemoryName> share(
      memory::Region const& region) const override {
    return share_cuda_memory(*context_, description_.uuid, region);
  }
  [[nodiscard]] memory::Region open_shared(memory::ProcessName const& owner,
                                           memory::SharedMemoryName const& name,
                                           std::uint64_t bytes) override {
    return open_cuda_memory(context_, description_.uuid, owner, name, bytes);
  }

  [[nodiscard]] StreamPtr create_stream(std::string name) override {
    return make_cuda_stream(context_, std::move(name), streams_);
  }
  [[nodiscard]] EventPtr create_event() override {
    return std::make_shared<CudaEvent>(std::make_shared<CudaEventHandle>(context_));
  }
  [[nodiscard]] std::unique_ptr<MemoryPool> create_memory_pool(
      std::uint64_t reserve_bytes, std::uint64_t release_threshold_bytes) override {
    return make_cuda_memory_pool(memory_, reserve_bytes, release_threshold_bytes);
  }
  void when_complete(EventPtr const& event,
                     std::function<void(std::exception_ptr)> callback) override;
  void synchronize() override { streams_->synchronize(); }

 private:
  std::shared_ptr<CudaContext> const context_;
  Description const description_;
  int const numa_node_;
  std::shared_ptr<CudaMemorySpace> const memory_;
  std::shared_ptr<CudaStreamRegistry> const streams_;
  std::shared_ptr<CompletionWaiter> const waiter_;
};

bool CudaDevice::can_address(DeviceId other) {
  if (other == id()) { return true; }
  int can = 0;
  if (cudaDeviceCanAccessPeer(&can, id(), other) != cudaSuccess) {
    forget_last_cuda_error();  // there is no such device
    return false;
  }
  if (can == 0) { return false; }
  CudaScope const scope(*context_);
  cudaError_t const status = cudaDeviceEnablePeerAccess(other, 0);
  if (status == cudaSuccess) { return true; }
  forget_last_cuda_error();
  if (status == cudaErrorPeerAccessAlreadyEnabled) { return true; }
  log::write(log::Level::Warning,
             fmt::format("CUDA device {} could address device {}, but that cannot be enabled: {}",
                         id(), other, describe_cuda_error(status)));
  return false;
}

void CudaDevice::when_complete(EventPtr const& event,
                               std::function<void(std::exception_ptr)> callback) {
  KVBM_EXPECTS(event != nullptr, InvalidArgument,
               fmt::format("CUDA device {}: when_complete of a null event", id()));
  KVBM_EXPECTS(callback != nullptr, InvalidArgument,
               fmt::format("CUDA device {}: when_complete with an empty callback", id()));
  auto const* const cuda_event = dynamic_cast<CudaEvent const*>(event.get());
  KVBM_EXPECTS(cuda_event != nullptr, InvalidArgument,
               fmt::format("CUDA device {}: when_complete of an event of another backend; ask the "
                           "device that created it",
                           id()));
  waiter_->add(cuda_event->point(), std::move(callback));
}

}  // namespace

DevicePtr make_cuda_device(DeviceId id) {
  return std::make_shared<CudaDevice>(open_cuda_context(id));
}

}  // namespace kvbm::device
