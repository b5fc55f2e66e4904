// SPDX-License-Identifier: Apache-2.0
#pragma once

#include <memory>
#include <mutex>
#include <string>

#include "device/stream_registry.hpp"
#include "device/stream_state.hpp"
#include "kvbm/device/stream.hpp"

namespace kvbm::device {

/// The point that was recorded last.
class HostEvent final : public Event {
 public:
  [[nodiscard]] bool is_complete() const override;
  void wait() const override;

  void set(Point point);
  [[nodiscard]] Point point() const;

 private:
  mutable std::mutex mutex_;
  Point point_;
};

/// A stream of the host device: owns the life of its StreamState's thread.
class HostStream final : public Stream {
 public:
  HostStream(DeviceId device_id, std::shared_ptr<StreamState> state,
             std::shared_ptr<StreamRegistry> registry);
  ~HostStream() override;
  HostStream(HostStream const&) = delete;
  HostStream& operator=(HostStream const&) = delete;

  [[nodiscard]] Backend backend() const noexcept override { return Backend::Host; }
  [[nodiscard]] DeviceId device_id() const noexcept override { return device_id_; }
  [[nodiscard]] std::string const& name() const noexcept override { return state_->name(); }

  void enqueue(std::function<void()> work) override;
  void record(EventPtr const& event) override;
  void wait(EventPtr const& event) override;
  void synchronize() override;
  [[nodiscard]] bool is_idle() const override { return state_->is_idle(); }

  [[nodiscard]] std::shared_ptr<StreamState> const& state() const noexcept { return state_; }

 private:
  DeviceId device_id_;
  std::shared_ptr<StreamState> state_;
  std::shared_ptr<StreamRegistry> registry_;
};

}  // namespace kvbm::device
