// SPDX-License-Identifier: Apache-2.0
#include <fmt/format.h>

#include <array>
#include <utility>

#include "device/host_memory_pool.hpp"
#include "device/host_memory_space.hpp"
#include "device/host_stream.hpp"
#include "device/stream_registry.hpp"
#include "kvbm/core/checked.hpp"
#include "kvbm/core/error.hpp"
#include "kvbm/core/log.hpp"
#include "kvbm/device/device.hpp"

namespace kvbm::device {
namespace {

std::string describe_bytes(std::uint64_t bytes) {
  constexpr std::array<char const*, 5> kUnits = {"bytes", "KiB", "MiB", "GiB", "TiB"};
  auto value = static_cast<double>(bytes);
  std::size_t unit = 0;
  while (value >= 1024 && unit + 1 < kUnits.size()) {
    value /= 1024;
    ++unit;
  }
  return fmt::format("{:.4g} {}", value, kUnits[unit]);
}

// The thread on which the callbacks of a device run, one at a time; started by the first. Alive
// until the last callback has run, whoever is the last to hold it.
class CallbackThread {
 public:
  CallbackThread(std::string name, std::shared_ptr<StreamRegistry> registry)
      : state_(std::make_shared<StreamState>(std::move(name), has_cpus_to_spare())),
        registry_(std::move(registry)) {}
  ~CallbackThread() { registry_->retire(state_); }
  CallbackThread(CallbackThread const&) = delete;
  CallbackThread& operator=(CallbackThread const&) = delete;

  void enqueue(std::function<void()> work) { state_->enqueue(std::move(work)); }

 private:
  std::shared_ptr<StreamState> const state_;
  std::shared_ptr<StreamRegistry> const registry_;
};

class HostDevice final : public Device {
 public:
  HostDevice(DeviceId id, HostDeviceOptions const& options)
      : id_(id),
        name_(fmt::format("host device {} ({})", id, describe_bytes(options.memory_bytes))),
        memory_(std::make_shared<HostMemorySpace>(id, options.memory_bytes, options.shareable)),
        streams_(std::make_shared<StreamRegistry>()),
        callbacks_(std::make_shared<CallbackThread>(fmt::format("done.{}", id), streams_)) {}
  HostDevice(HostDevice const&) = delete;
  HostDevice& operator=(HostDevice const&) = delete;
  ~HostDevice() override { streams_->close(); }

  [[nodiscard]] Backend backend() const noexcept override { return Backend::Host; }
  [[nodiscard]] DeviceId id() const noexcept override { return id_; }
  [[nodiscard]] std::string const& name() const noexcept override { return name_; }
  [[nodiscard]] std::uint64_t total_bytes() const override { return memory_->total_bytes(); }
  [[nodiscard]] std::uint64_t used_bytes() const override { return memory_->used_bytes(); }

  memory::Region allocate(std::uint64_t bytes, std::uint64_t alignment) override {
    return memory_->allocate(bytes, alignment);
  }
  [[nodiscard]] std::optional<memory::PointerInfo> classify(void const* address) const override {
    return memory_->classify(address);
  }
  [[nodiscard]] bool is_host_accessible() const noexcept override { return true; }
  [[nodiscard]] std::optional<memory::SharedMemoryName> share(
      memory::Region const& region) const override {
    return memory_->share(region);
  }
  [[nodiscard]] memory::Region open_shared(memory::ProcessName const& owner,
                                           memory::SharedMemoryName const& name,
                                           std::uint64_t bytes) override {
    return memory_->open_shared(owner, name, bytes);
  }

  [[nodiscard]] StreamPtr create_stream(std::string name) override {
    return std::make_shared<HostStream>(id_, streams_->make_stream(std::move(name)), streams_);
  }
  [[nodiscard]] EventPtr create_event() override { return std::make_shared<HostEvent>(); }
  [[nodiscard]] std::unique_ptr<MemoryPool> create_memory_pool(
      std::uint64_t reserve_bytes, std::uint64_t release_threshold_bytes) override {
    return make_host_memory_pool(memory_, reserve_bytes, release_threshold_bytes);
  }
  void when_complete(EventPtr const& event,
                     std::function<void(std::exception_ptr)> callback) override;
  void synchronize() override { streams_->synchronize(); }

 private:
  DeviceId const id_;
  std::string const name_;
  std::shared_ptr<HostMemorySpace> const memory_;
  std::shared_ptr<StreamRegistry> const streams_;
  std::shared_ptr<CallbackThread> const callbacks_;
};

void HostDevice::when_complete(EventPtr const& event,
                               std::function<void(std::exception_ptr)> callback) {
  KVBM_EXPECTS(event != nullptr, InvalidArgument,
               fmt::format("{}: when_complete of a null event", name_));
  KVBM_EXPECTS(callback != nullptr, InvalidArgument,
               fmt::format("{}: when_complete with an empty callback", name_));
  auto const* const host_event = dynamic_cast<HostEvent const*>(event.get());
  KVBM_EXPECTS(host_event != nullptr, InvalidArgument,
               fmt::format("{}: when_complete of an event of another backend; ask the device that "
                           "created it",
                           name_));
  auto call = [callback = std::move(callback)] { callback(nullptr); };
  Point const point = host_event->point();
  if (point.is_complete()) {
    callbacks_->enqueue(std::move(call));
    return;
  }
  point.stream->when_ended(point.ticket, [callbacks = callbacks_, call = std::move(call)] {
    try {
      callbacks->enqueue(call);
    } catch (Error const& error) {
      // No thread to be had: better from the stream's than never.
      log::write(log::Level::Error, error.what());
      call();
    }
  });
}

}  // namespace

DevicePtr make_host_device(DeviceId id, HostDeviceOptions const& options) {
  KVBM_EXPECTS(id >= 0, InvalidArgument,
               fmt::format("host device id {} is negative; ids count from 0", id));
  KVBM_EXPECTS(options.memory_bytes > 0 && options.memory_bytes <= kMaxBytes, InvalidArgument,
               fmt::format("host device {}: memory_bytes {} is not in [1, {}]", id,
                           options.memory_bytes, kMaxBytes));
  return std::make_shared<HostDevice>(id, options);
}

}  // namespace kvbm::device
