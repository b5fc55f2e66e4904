// SPDX-License-Identifier: Apache-2.0
#include "device/host_stream.hpp"

#include <fmt/format.h>

#include <utility>

#include "kvbm/core/error.hpp"

namespace kvbm::device {
namespace {

HostEvent& as_host_event(EventPtr const& event, std::string const& stream, char const* action) {
  KVBM_EXPECTS(event != nullptr, InvalidArgument,
               fmt::format("stream '{}': {} of a null event", stream, action));
  auto* const host_event = dynamic_cast<HostEvent*>(event.get());
  KVBM_EXPECTS(host_event != nullptr, InvalidArgument,
               fmt::format("stream '{}': {} of an event of another backend; use one that a host "
                           "device created",
                           stream, action));
  return *host_event;
}

}  // namespace

std::string_view to_string(Backend backend) noexcept {
  switch (backend) {
    case Backend::Host: return "host";
    case Backend::Cuda: return "cuda";
  }
  return "unknown";
}

bool HostEvent::is_complete() const { return point().is_complete(); }

void HostEvent::wait() const {
  Point const now = point();
  if (now.stream != nullptr) { now.stream->wait_for(now.ticket); }
}

void HostEvent::set(Point point) {
  // The former point may be the last owner of its stream's state: let it go outside the lock.
  std::lock_guard const lock(mutex_);
  std::swap(point_, point);
}

Point HostEvent::point() const {
  std::lock_guard const lock(mutex_);
  return point_;
}

HostStream::HostStream(DeviceId device_id, std::shared_ptr<StreamState> state,
                       std::shared_ptr<StreamRegistry> registry)
    : device_id_(device_id), state_(std::move(state)), registry_(std::move(registry)) {}

HostStream::~HostStream() { registry_->retire(state_); }

void HostStream::enqueue(std::function<void()> work) {
  KVBM_EXPECTS(work != nullptr, InvalidArgument,
               fmt::format("stream '{}': enqueue of an empty function", name()));
  state_->enqueue(std::move(work));
}

void HostStream::record(EventPtr const& event) {
  as_host_event(event, name(), "record").set(state_->end());
}

void HostStream::wait(EventPtr const& event) {
  state_->enqueue_wait(as_host_event(event, name(), "wait").point());
}

void HostStream::synchronize() { state_->wait_for(state_->num_enqueued()); }

}  // namespace kvbm::device
