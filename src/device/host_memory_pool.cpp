// SPDX-License-Identifier: Apache-2.0
#include "device/host_memory_pool.hpp"

#include <fmt/format.h>

#include <algorithm>
#include <exception>
#include <map>
#include <mutex>
#include <optional>
#include <utility>

#include "device/block_map.hpp"
#include "device/host_stream.hpp"
#include "kvbm/core/checked.hpp"
#include "kvbm/core/error.hpp"
#include "kvbm/core/log.hpp"

namespace kvbm::device {
namespace {

// Small requests share a piece of this size instead of asking the device each time.
constexpr std::uint64_t kSegmentBytes = std::uint64_t{2} << 20;
constexpr std::uint64_t kSegmentAlignment = 4096;

// Everything of a pool that its regions need; alive until the last of them has come back.
// Lock order: this one, then a stream's or the space's.
class PoolState : public std::enable_shared_from_this<PoolState> {
 public:
  PoolState(std::shared_ptr<HostMemorySpace> space, std::uint64_t release_threshold_bytes)
      : space_(std::move(space)), release_threshold_bytes_(release_threshold_bytes) {}

  [[nodiscard]] HostMemorySpace const& space() const noexcept { return *space_; }

  void reserve(std::uint64_t bytes) {
    std::lock_guard const lock(mutex_);
    add_segment(checked_align_up(bytes, kSegmentAlignment));
  }

  // The address of `bytes` bytes that work of `stream` may use from now on.
  [[nodiscard]] std::uintptr_t take(std::uint64_t bytes, StreamState& stream) {
    std::uint64_t const rounded = checked_align_up(bytes, memory::kRegionAlignment);
    std::lock_guard const lock(mutex_);
    blocks_.settle();
    auto taken = blocks_.take_free(rounded);
    // What the stream itself has yet to finish, it finishes before what is enqueued now.
    if (!taken) { taken = blocks_.take_pending(rounded, &stream); }
    if (!taken && grow(rounded)) { taken = blocks_.take_free(rounded); }
    if (!taken) {
      taken = blocks_.take_pending(rounded, nullptr);
      if (taken) { wait_or_undo(*taken, stream); }
    }
    if (!taken) { throw_out_of_memory(bytes); }
    used_bytes_ += rounded;
    peak_used_bytes_ = std::max(peak_used_bytes_, used_bytes_);
    ++num_allocations_;
    return taken->address;
  }

  void give_back(std::uintptr_t address, StreamState& stream) {
    Point end = stream.end();
    bool const pending = !end.is_complete();
    {
      std::lock_guard const lock(mutex_);
      used_bytes_ -= blocks_.release(address, std::move(end));
      trim(limit());
    }
    if (!pending) { return; }
    // Holds the state, and so the memory, until the stream has finished with it.
    auto const settle_later = [self = shared_from_this()] { self->settle(); };
    if (!stream.try_enqueue(settle_later)) { settle(); }
  }

  void close() {
    std::lock_guard const lock(mutex_);
    closed_ = true;
    blocks_.settle();
    trim(0);
  }

  [[nodiscard]] MemoryPoolStats stats() const {
    std::lock_guard const lock(mutex_);
    return MemoryPoolStats{reserved_bytes_, used_bytes_, peak_used_bytes_, num_allocations_,
                           num_device_allocations_};
  }

 private:
  void wait_or_undo(BlockMap::Taken const& taken, StreamState& stream) {
    try {
      stream.enqueue_wait(taken.ready);
    } catch (...) {
      blocks_.release(taken.address, taken.ready);
      throw;
    }
  }

  [[nodiscard]] std::uint64_t limit() const noexcept {
    return closed_ ? 0 : release_threshold_bytes_;
  }

  void settle() {
    std::lock_guard const lock(mutex_);
    blocks_.settle();
    trim(limit());
  }

  void add_segment(std::uint64_t bytes) {
    memory::Region segment = space_->allocate_private(bytes, kSegmentAlignment);
    std::uintptr_t const address = segment.address();
    segments_.emplace(address, std::move(segment));
    blocks_.add_segment({address, bytes});
    reserved_bytes_ += bytes;
    ++num_device_allocations_;
  }

  [[nodiscard]] bool try_add_segment(std::uint64_t bytes) {
    try {
      add_segment(bytes);
      return true;
    } catch (Error const& error) {
      if (error.code() == ErrorCode::OutOfMemory) { return false; }
      throw;
    }
  }

  // Gets a segment for `bytes`: a generous one, else an exact one, else at the cost of free ones.
  [[nodiscard]] bool grow(std::uint64_t bytes) {
    std::uint64_t const exact = checked_align_up(bytes, kSegmentAlignment);
    if (try_add_segment(checked_align_up(bytes, kSegmentBytes))) { return true; }
    if (try_add_segment(exact)) { return true; }
    // Giving up what is free for nothing would only make the next request slow.
    std::uint64_t releasable = 0;
    for (auto const& segment : blocks_.free_segments()) {
      releasable += segment.bytes;
    }
    std::uint64_t const unused = space_->total_bytes() - space_->used_bytes();
    if (releasable == 0 || releasable + unused < exact) { return false; }
    trim(0);
    return try_add_segment(exact);
  }

  // Gives wholly free segments back until at most `keep` free bytes are left, or none is wholly
  // free; of several the smallest that suffices, to keep as much as possible.
  void trim(std::uint64_t keep) {
    while (blocks_.free_bytes() > keep) {
      std::uint64_t const excess = blocks_.free_bytes() - keep;
      std::optional<BlockMap::Segment> best;
      for (auto const& segment : blocks_.free_segments()) {
        bool const better = !best || (best->bytes < excess
                                          ? segment.bytes > best->bytes
                                          : segment.bytes >= excess && segment.bytes < best->bytes);
        if (better) { best = segment; }
      }
      if (!best) { return; }
      blocks_.remove_segment(best->address);
      segments_.erase(best->address);
      reserved_bytes_ -= best->bytes;
    }
  }

  [[noreturn]] void throw_out_of_memory(std::uint64_t bytes) const {
    throw_error(
        ErrorCode::OutOfMemory,
        fmt::format("memory pool of host device {}: {} bytes asked for; the pool uses {} of "
                    "the {} bytes it holds, the device {} of {} bytes",
                    space_->device_id(), bytes, used_bytes_, reserved_bytes_, space_->used_bytes(),
                    space_->total_bytes()));
  }

  std::shared_ptr<HostMemorySpace> const space_;
  std::uint64_t const release_threshold_bytes_;

  mutable std::mutex mutex_;
  BlockMap blocks_;
  std::map<std::uintptr_t, memory::Region> segments_;
  std::uint64_t reserved_bytes_ = 0;
  std::uint64_t used_bytes_ = 0;
  std::uint64_t peak_used_bytes_ = 0;
  std::uint64_t num_allocations_ = 0;
  std::uint64_t num_device_allocations_ = 0;
  bool closed_ = false;
};

// What keeps a region's memory, and gives it back in the order of its stream. Holds the stream's
// state and not the stream: dropping a region never waits for a stream to end.
class PoolLease {
 public:
  PoolLease(std::shared_ptr<PoolState> pool, std::shared_ptr<StreamState> stream)
      : pool_(std::move(pool)), stream_(std::move(stream)) {}
  ~PoolLease() {
    if (address_ == 0) { return; }
    try {
      pool_->give_back(address_, *stream_);
    } catch (std::exception const& error) { log::write(log::Level::Error, error.what()); }
  }
  PoolLease(PoolLease const&) = delete;
  PoolLease& operator=(PoolLease const&) = delete;

  [[nodiscard]] void* take(std::uint64_t bytes) {
    address_ = pool_->take(bytes, *stream_);
    return reinterpret_cast<void*>(address_);
  }

 private:
  std::shared_ptr<PoolState> pool_;
  std::shared_ptr<StreamState> stream_;
  std::uintptr_t address_ = 0;
};

class HostMemoryPool final : public MemoryPool {
 public:
  explicit HostMemoryPool(std::shared_ptr<PoolState> state) : state_(std::move(state)) {}
  HostMemoryPool(HostMemoryPool const&) = delete;
  HostMemoryPool& operator=(HostMemoryPool const&) = delete;
  ~HostMemoryPool() override { state_->close(); }

  memory::Region allocate(std::uint64_t bytes, StreamPtr const& stream) override {
    DeviceId const device_id = state_->space().device_id();
    KVBM_EXPECTS(bytes > 0, InvalidArgument,
                 fmt::format("memory pool of host device {}: 0 bytes asked for", device_id));
    KVBM_EXPECTS(stream != nullptr, InvalidArgument,
                 fmt::format("memory pool of host device {}: null stream", device_id));
    auto* const host_stream = dynamic_cast<HostStream*>(stream.get());
    KVBM_EXPECTS(
        host_stream != nullptr && host_stream->device_id() == device_id, InvalidArgument,
        fmt::format("memory pool of host device {}: stream '{}' belongs to {} device {}", device_id,
                    stream->name(), to_string(stream->backend()), stream->device_id()));
    auto lease = std::make_shared<PoolLease>(state_, host_stream->state());
    void* const data = lease->take(bytes);
    return memory::Region::of_memory(memory::StorageKind::Device, data, bytes, device_id, true,
                                     std::move(lease));
  }

  [[nodiscard]] MemoryPoolStats stats() const override { return state_->stats(); }

 private:
  std::shared_ptr<PoolState> state_;
};

}  // namespace

std::unique_ptr<MemoryPool> make_host_memory_pool(std::shared_ptr<HostMemorySpace> space,
                                                  std::uint64_t reserve_bytes,
                                                  std::uint64_t release_threshold_bytes) {
  auto state = std::make_shared<PoolState>(std::move(space), release_threshold_bytes);
  if (reserve_bytes > 0) { state->reserve(reserve_bytes); }
  return std::make_unique<HostMemoryPool>(std::move(state));
}

}  // namespace kvbm::device
