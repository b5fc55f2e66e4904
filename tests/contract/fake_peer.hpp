// SPDX-License-Identifier: Apache-2.0
#pragma once

#include <gtest/gtest.h>

#include <chrono>
#include <condition_variable>
#include <cstdint>
#include <cstring>
#include <functional>
#include <map>
#include <memory>
#include <mutex>
#include <set>
#include <span>
#include <string>
#include <utility>
#include <vector>

#include "kvbm/core/error.hpp"
#include "kvbm/manager/transfer_manager.hpp"
#include "kvbm/transfer/peer.hpp"

namespace kvbm::testing {

/// Another worker in this process. Its layouts are ordinary ones, shown to transfers with the same
/// addresses but as memory that the CPU does not reach, so that nothing but this wire gets there.
/// The wire refuses, as a failure of the test, every run that is not inside one region on both
/// sides that it was told of.
class FakePeer final : public transfer::Peer, public std::enable_shared_from_this<FakePeer> {
 public:
  static constexpr std::uint64_t kWorkerId = 17;

  /// @param worker         copies images for the peer
  /// @param landing_bytes  the most that it lends
  FakePeer(manager::TransferManager& worker, std::uint64_t landing_bytes)
      : worker_(worker), landing_bytes_(landing_bytes) {}

  /// A layout of the peer, as its importer sees it.
  transfer::Endpoint lend(layout::PhysicalLayout const& real) {
    std::vector<memory::Region> regions;
    for (auto const& region : real.regions()) {
      regions.push_back(memory::Region::of_memory(region.kind(),
                                                  reinterpret_cast<void*>(region.address()),
                                                  region.bytes(), region.device_id(), false));
    }
    auto const start = layout::PhysicalLayout::builder(real.source()).config(real.config());
    transfer::Endpoint endpoint{
        real.kind() == layout::LayoutKind::FullyContiguous
            ? start.fully_contiguous(real.format()).with_regions(std::move(regions)).build()
            : start.layer_separate(real.block_dimension(), real.format())
                  .with_regions(std::move(regions))
                  .build(),
        nullptr};
    endpoint.peer = shared_from_this();
    endpoint.memory.device_id = real.device_id();
    std::lock_guard const lock(mutex_);
    endpoint.handle = layout::LayoutHandle(kWorkerId, static_cast<std::uint16_t>(layouts_.size()));
    layouts_.push_back(real);
    for (auto const& region : real.regions()) {
      remote_.emplace(next_range_++, range_of(region));
    }
    return endpoint;
  }

  /// Lets the wire reach a layout of ours for good.
  void reach(layout::PhysicalLayout const& ours) {
    std::lock_guard const lock(mutex_);
    for (auto const& region : ours.regions()) {
      local_.emplace(next_range_++, range_of(region));
    }
  }

  // What the wire does from now on.

  /// The n-th step from now on fails (0: the next): a move, or an image that the peer copies.
  void fail_step(std::uint64_t n) {
    std::lock_guard const lock(mutex_);
    fail_at_ = num_steps_ + n;
  }
  void fail_no_step() { fail_step(~std::uint64_t{0} / 2); }
  /// Moves wait, asking should_stop() from time to time.
  void hold() {
    std::lock_guard const lock(mutex_);
    held_ = true;
  }
  void release() {
    {
      std::lock_guard const lock(mutex_);
      held_ = false;
    }
    changed_.notify_all();
  }
  /// Moves that are given up may go on: they keep what they hold until let_go().
  void keep_holds() {
    std::lock_guard const lock(mutex_);
    keeps_ = true;
  }
  [[nodiscard]] std::size_t let_go() {
    std::vector<std::shared_ptr<void const>> kept;
    std::lock_guard const lock(mutex_);
    keeps_ = false;
    kept.swap(kept_);
    return kept.size();
  }
  void wait_until_held(std::uint64_t num_moves = 1) {
    std::unique_lock lock(mutex_);
    changed_.wait(lock, [&] { return num_held_ >= num_moves; });
  }
  /// Called when a notification comes in.
  void on_notify(std::function<void(std::uint64_t)> callback) { on_notify_ = std::move(callback); }
  void fail_notify(bool fails) { notify_fails_ = fails; }
  void set_gone(bool gone) {
    std::lock_guard const lock(mutex_);
    gone_ = gone;
  }

  // What it did.

  [[nodiscard]] std::uint64_t num_steps() const {
    std::lock_guard const lock(mutex_);
    return num_steps_;
  }
  [[nodiscard]] std::uint64_t num_runs() const {
    std::lock_guard const lock(mutex_);
    return num_runs_;
  }
  [[nodiscard]] std::uint64_t num_images() const {
    std::lock_guard const lock(mutex_);
    return num_images_;
  }
  /// Regions of ours that are exposed, and landings that are lent.
  [[nodiscard]] std::size_t num_local() const {
    std::lock_guard const lock(mutex_);
    return local_.size();
  }
  [[nodiscard]] std::size_t num_lent() const {
    std::lock_guard const lock(mutex_);
    return num_lent_;
  }
  [[nodiscard]] std::vector<std::uint64_t> notified() const {
    std::lock_guard const lock(mutex_);
    return notified_;
  }

  // Peer

  [[nodiscard]] std::uint64_t worker_id() const noexcept override { return kWorkerId; }
  [[nodiscard]] std::string const& name() const noexcept override { return name_; }
  void expect_alive() const override {
    std::lock_guard const lock(mutex_);
    if (gone_) { throw PeerError(name_ + " is gone"); }
  }
  [[nodiscard]] bool reaches(memory::Region const& region) const override {
    std::lock_guard const lock(mutex_);
    return is_inside(local_, region.address(), region.bytes());
  }
  [[nodiscard]] std::shared_ptr<void const> expose(memory::Region const& region) override {
    std::lock_guard const lock(mutex_);
    std::uint64_t const key = next_range_++;
    local_.emplace(key, range_of(region));
    return {this, [self = shared_from_this(), key](void const*) {
              std::lock_guard const again(self->mutex_);
              self->local_.erase(key);
            }};
  }

  void move(transfer::WireDirection direction, transfer::WireMemory local,
            transfer::WireMemory /*remote*/, std::span<transfer::WireRun const> runs,
            std::shared_ptr<void const> const& hold, ShouldStop const& should_stop) override {
    EXPECT_FALSE(local.is_gpu);
    EXPECT_NE(hold, nullptr);
    EXPECT_FALSE(runs.empty());
    {
      std::unique_lock lock(mutex_);
      check(runs);
      std::uint64_t const step = num_steps_++;
      num_runs_ += runs.size();
      ++num_held_;
      changed_.notify_all();
      while (held_) {
        if (should_stop()) {
          --num_held_;
          if (keeps_) { kept_.push_back(hold); }
          throw CancelledError("a move was given up");
        }
        changed_.wait_for(lock, std::chrono::milliseconds(1));
      }
      --num_held_;
      fail_if(step);
    }
    for (auto const& run : runs) {
      auto* const here = reinterpret_cast<std::byte*>(run.local);
      auto* const there = reinterpret_cast<std::byte*>(run.remote);
      bool const reads = direction == transfer::WireDirection::Read;
      std::memcpy(reads ? here : there, reads ? there : here, run.bytes);
    }
  }

  void notify(std::uint64_t value) override {
    if (notify_fails_) { throw PeerError(name_ + " cannot be told"); }
    if (on_notify_) { on_notify_(value); }
    std::lock_guard const lock(mutex_);
    notified_.push_back(value);
  }

  [[nodiscard]] std::uint64_t landing_bytes() const noexcept override { return landing_bytes_; }

  [[nodiscard]] std::shared_ptr<transfer::Landing const> borrow_landing(
      std::uint64_t bytes, ShouldStop const& /*should_stop*/) override {
    EXPECT_LE(bytes, landing_bytes_);
    auto const region = worker_.memory_source()->allocate(
        {memory::StorageKind::Pinned, bytes, memory::kFileAlignment, -1});
    std::lock_guard const lock(mutex_);
    std::uint64_t const key = next_range_++;
    remote_.emplace(key, range_of(region));
    ++num_lent_;
    return {new transfer::Landing{region.address(), bytes},  // NOLINT: the deleter gives it back
            [self = shared_from_this(), key, region](transfer::Landing const* landing) {
              std::unique_ptr<transfer::Landing const> const owned(landing);
              std::lock_guard const again(self->mutex_);
              self->remote_.erase(key);
              --self->num_lent_;
            }};
  }

  void copy_image(transfer::WireDirection direction, transfer::ImageOrder const& order,
                  ShouldStop const& /*should_stop*/) override {
    layout::PhysicalLayout const real = [&] {
      std::lock_guard const lock(mutex_);
      ++num_images_;
      fail_if(num_steps_++);
      EXPECT_EQ(order.handle.worker_id(), kWorkerId);
      return layouts_.at(order.handle.layout_id());
    }();
    auto const block =
        layout::make_geometry(real.config().with_num_blocks(1), layout::LayoutKind::FullyContiguous,
                              layout::BlockDimension::First, order.image_format);
    auto const image =
        layout::PhysicalLayout::builder(real.source())
            .config(real.config().with_num_blocks(order.landing.bytes / block.block_stride))
            .fully_contiguous(order.image_format)
            .with_regions({memory::Region::of_memory(memory::StorageKind::Pinned,
                                                     reinterpret_cast<void*>(order.landing.address),
                                                     order.landing.bytes, -1, true)})
            .build();
    transfer::TransferOptions options;
    options.layer_range = order.layers;
    options.src_head_range = options.dst_head_range = order.heads;
    auto const blocks = transfer::KvBlocks::of(real, order.block_ids);
    auto const slots = transfer::KvBlocks::of(image, order.slots);
    bool const fills = direction == transfer::WireDirection::Read;
    worker_.execute_transfer(fills ? blocks : slots, fills ? slots : blocks, options).wait();
  }

 private:
  struct Range {
    std::uintptr_t begin;
    std::uint64_t bytes;
  };
  using Ranges = std::map<std::uint64_t, Range>;

  static Range range_of(memory::Region const& region) { return {region.address(), region.bytes()}; }
  static bool is_inside(Ranges const& ranges, std::uintptr_t begin, std::uint64_t bytes) {
    for (auto const& [key, range] : ranges) {
      if (range.begin <= begin && begin + bytes <= range.begin + range.bytes) { return true; }
    }
    return false;
  }
  void check(std::span<transfer::WireRun const> runs) const {
    for (auto const& run : runs) {
      EXPECT_GT(run.bytes, 0U);
      EXPECT_TRUE(is_inside(local_, run.local, run.bytes))
          << run.bytes << " bytes of ours at " << run.local << " are not known to the wire";
      EXPECT_TRUE(is_inside(remote_, run.remote, run.bytes))
          << run.bytes << " bytes of the peer at " << run.remote << " are not known to the wire";
    }
  }
  void fail_if(std::uint64_t step) const {
    if (step == fail_at_) { throw PeerError(name_ + " failed at step " + std::to_string(step)); }
  }

  manager::TransferManager& worker_;
  std::uint64_t const landing_bytes_;
  std::string const name_ = "worker 17 (agent fake)";
  std::function<void(std::uint64_t)> on_notify_;
  bool notify_fails_ = false;

  mutable std::mutex mutex_;
  std::condition_variable changed_;
  std::vector<layout::PhysicalLayout> layouts_;
  Ranges local_;
  Ranges remote_;
  std::uint64_t next_range_ = 0;
  std::uint64_t num_steps_ = 0;
  std::uint64_t fail_at_ = ~std::uint64_t{0};
  std::uint64_t num_runs_ = 0;
  std::uint64_t num_images_ = 0;
  std::uint64_t num_held_ = 0;  ///< moves that wait
  std::size_t num_lent_ = 0;
  bool held_ = false;
  bool keeps_ = false;
  std::vector<std::shared_ptr<void const>> kept_;
  bool gone_ = false;
  std::vector<std::uint64_t> notified_;
};

}  // namespace kvbm::testing
