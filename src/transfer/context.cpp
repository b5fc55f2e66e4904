// SPDX-License-Identifier: Apache-2.0
#include "kvbm/transfer/context.hpp"

#include <fmt/format.h>

#include <algorithm>
#include <utility>

#include "kvbm/core/error.hpp"
#include "transfer/context_impl.hpp"
#include "transfer/stream_copies.hpp"

namespace kvbm::transfer {
namespace {

ContextOptions complete(ContextOptions options) {
  KVBM_EXPECTS(!options.devices.empty(), InvalidArgument, "a context needs at least one device");
  KVBM_EXPECTS(
      std::find(options.devices.begin(), options.devices.end(), nullptr) == options.devices.end(),
      InvalidArgument, "a device is null");
  KVBM_EXPECTS(options.num_file_workers >= 1, InvalidArgument,
               "file_workers 0: give at least 1 thread for file transfers");
  if (options.event_system == nullptr) { options.event_system = EventSystem::create(); }
  if (options.memory_source == nullptr) {
    options.memory_source = device::make_memory_source(options.devices);
  }
  return options;
}

}  // namespace

TransferContext::Impl::Impl(ContextOptions options)
    : options_(complete(std::move(options))), copy_engine_(options_.copy_engine) {
  // D2D work has streams of its own, so that it never queues behind the slower host link.
  constexpr std::size_t kD2dStreams = 2;
  constexpr std::size_t kInnerStreams = 3;
  for (auto const& device : options_.devices) {
    if (device->backend() == device::Backend::Cuda) {
      CurrentDevice const current(device->backend(), device->id());
      check_status(kvbm_cuda_load_kernels(), "loading the copy kernels");
    }
    per_device_.emplace(device->id(),
                        PerDevice{device->create_memory_pool(options_.pool_reserve_bytes,
                                                             options_.pool_release_threshold_bytes),
                                  device::StreamPool(*device, "h2d", options_.num_h2d_streams),
                                  device::StreamPool(*device, "d2h", options_.num_d2h_streams),
                                  device::StreamPool(*device, "d2d", kD2dStreams),
                                  device::StreamPool(*device, "h2d.inner", kInnerStreams),
                                  device::StreamPool(*device, "d2h.inner", kInnerStreams)});
  }
}

TransferContext::Impl::~Impl() {
  std::unique_lock lock(mutex_);
  idle_.wait(lock, [this] { return in_flight_ == 0; });
}

void TransferContext::Impl::begin_work() {
  std::lock_guard const lock(mutex_);
  ++in_flight_;
}

void TransferContext::Impl::end_work() noexcept {
  // Notified under the lock: the destructor may free this object as soon as it sees zero.
  std::lock_guard const lock(mutex_);
  if (--in_flight_ == 0) { idle_.notify_all(); }
}

void TransferContext::Impl::post_to_lane(Lane which, int priority, PipelineWorkers::Job job) {
  // Two, so that one transfer's copies go on while another one's bytes are on the wire.
  constexpr unsigned kThreadsPerPeer = 2;
  // Under the lock: whoever posts, perhaps a thread of the lane, must not be the last to hold one
  // that close_lane() takes away, for the last one joins its threads.
  std::lock_guard const lock(lanes_mutex_);
  auto& lane = lanes_[which];
  if (lane == nullptr) {
    bool const is_peer = which.kind == Lane::Kind::Peer;
    bool const has_objects = which.kind == Lane::Kind::Objects;
    lane = std::make_unique<PipelineWorkers>(is_peer       ? "kvbm-peer"
                                             : has_objects ? "kvbm-object"
                                                           : "kvbm-file",
                                             is_peer ? kThreadsPerPeer : options_.num_file_workers,
                                             options_.memory_source,
                                             options_.staging_bytes_per_worker);
  }
  lane->post(priority, std::move(job));
}

void TransferContext::Impl::close_lane(std::uint64_t worker_id) {
  std::unique_ptr<PipelineWorkers> closed;  // joins its threads behind the lock
  std::lock_guard const lock(lanes_mutex_);
  if (auto const found = lanes_.find({Lane::Kind::Peer, worker_id}); found != lanes_.end()) {
    closed = std::move(found->second);
    lanes_.erase(found);
  }
}

TransferContext::Impl::PerDevice& TransferContext::Impl::per_device(DeviceId id) {
  auto const found = per_device_.find(id);
  KVBM_EXPECTS(found != per_device_.end(), NotFound,
               fmt::format("device {} does not belong to this manager", id));
  return found->second;
}

device::DirectStorage& TransferContext::Impl::direct_storage() {
  return options_.direct_storage != nullptr ? *options_.direct_storage : *device::direct_storage();
}

DeviceStorage& TransferContext::Impl::device_storage(DeviceId id) {
  auto const& storage =
      options_.direct_storage != nullptr ? options_.direct_storage : device::direct_storage();
  std::lock_guard const lock(storage_mutex_);
  return storage_.try_emplace(id, *this, storage, device(id)).first->second;
}

device::MemoryPool& TransferContext::Impl::memory_pool(DeviceId id) {
  return *per_device(id).memory_pool;
}

device::StreamPtr TransferContext::Impl::acquire_stream(DeviceId device, LinkDirection direction) {
  PerDevice& streams = per_device(device);
  switch (direction) {
    case LinkDirection::HostToDevice: return streams.h2d.acquire();
    case LinkDirection::DeviceToHost: return streams.d2h.acquire();
    case LinkDirection::DeviceToDevice: break;
  }
  return streams.d2d.acquire();
}

device::StreamPtr TransferContext::Impl::acquire_inner_stream(DeviceId device,
                                                              LinkDirection direction) {
  PerDevice& streams = per_device(device);
  return direction == LinkDirection::DeviceToHost ? streams.inner_d2h.acquire()
                                                  : streams.inner_h2d.acquire();
}

device::DevicePtr const& TransferContext::Impl::device(DeviceId id) const {
  auto const& devices = options_.devices;
  auto const found = std::find_if(devices.begin(), devices.end(),
                                  [id](auto const& device) { return device->id() == id; });
  KVBM_EXPECTS(found != devices.end(), NotFound,
               fmt::format("device {} does not belong to this manager", id));
  return *found;
}

device::Device* TransferContext::Impl::device_of(device::Backend backend) const noexcept {
  auto const& devices = options_.devices;
  auto const found = std::find_if(devices.begin(), devices.end(), [backend](auto const& device) {
    return device->backend() == backend;
  });
  return found != devices.end() ? found->get() : nullptr;
}

TransferContext::TransferContext(ContextOptions options)
    : impl_(std::make_unique<Impl>(std::move(options))) {}

TransferContext::~TransferContext() = default;

device::StreamPtr TransferContext::acquire_h2d_stream() {
  return impl_->acquire_stream(impl_->first_device(), LinkDirection::HostToDevice);
}

device::StreamPtr TransferContext::acquire_d2h_stream() {
  return impl_->acquire_stream(impl_->first_device(), LinkDirection::DeviceToHost);
}

device::StreamPtr TransferContext::acquire_d2d_stream() {
  return impl_->acquire_stream(impl_->first_device(), LinkDirection::DeviceToDevice);
}

device::DevicePtr TransferContext::device(DeviceId id) const { return impl_->device(id); }

std::vector<device::DevicePtr> const& TransferContext::devices() const noexcept {
  return impl_->options_.devices;
}

std::shared_ptr<EventSystem> const& TransferContext::event_system() const noexcept {
  return impl_->options_.event_system;
}

std::shared_ptr<memory::MemorySource> const& TransferContext::memory_source() const noexcept {
  return impl_->options_.memory_source;
}

kernels::CopyEngine& TransferContext::copy_engine() noexcept { return impl_->copy_engine_; }

device::MemoryPoolStats TransferContext::memory_pool_stats() const {
  return impl_->memory_pool(impl_->first_device()).stats();
}

TransferStats TransferContext::statistics() const { return impl_->counters_.snapshot(); }

ContextOptions const& TransferContext::options() const noexcept { return impl_->options_; }

}  // namespace kvbm::transfer
