// SPDX-License-Identifier: Apache-2.0
#pragma once

#include <atomic>
#include <chrono>
#include <functional>
#include <limits>
#include <optional>
#include <thread>
#include <vector>

#include "integration/hostile_peer.hpp"
#include "integration/two_workers.hpp"

namespace kvbm::testing {

using namespace std::chrono_literals;  // NOLINT(google-build-using-namespace): literals
using remote::BorrowLanding;
using remote::CopyImage;
using remote::Farewell;
using remote::Hello;
using remote::Message;
using remote::Reply;
using remote::ReturnLanding;
using remote::Revoke;
using remote::WriteNotice;
using transfer::Strategy;

inline constexpr std::uint64_t kBlocks = 8;
inline constexpr std::uint64_t kStranger = 4242;
inline constexpr std::uint64_t kMost = std::numeric_limits<std::uint64_t>::max();

class HostilePeer : public ::testing::Test {
 protected:
  void SetUp() override {
    if (auto const why = why_no_nixl(); !why.empty()) { GTEST_SKIP() << why; }
    victim_.emplace(remote_manager("victim", Reach::Wire).remote_timeout(4s).build());
    honest_.emplace(remote_manager("honest", Reach::Wire).build());
    far_.emplace(make(*victim_, StorageKind::Pinned));
    near_.emplace(make(*honest_, StorageKind::System));
    write_all_blocks(*far_, 1);
    far_handle_ = victim_->register_layout(*far_);
    near_handle_ = honest_->register_layout(*near_);
    static_cast<void>(honest_->import_metadata(victim_->export_metadata()));
    peer_.emplace("hostile", kStranger, victim_->worker_address());
  }
  void TearDown() override {
    if (!victim_) { return; }
    expect_working();
  }

  static PhysicalLayout make(TransferManager& worker, StorageKind storage) {
    return make_layout(worker.memory_source(), small_config(kBlocks),
                       contiguous(KvBlockLayout::OperationalNHD), storage);
  }
  static std::uint64_t block_bytes(PhysicalLayout const& layout) {
    return layout.descriptor().geometry().block_stride;
  }

  /// The victim serves an honest peer: packed on its side, through landing memory, and told so. All
  /// of its layout is as it should be, with the guards around it.
  void expect_working() {
    auto notices = victim_->subscribe_write_notifications();
    auto const lent = victim_->remote_stats().landing_bytes_lent;
    std::vector<BlockId> const near_ids{1, 2, 3};
    std::vector<BlockId> const far_ids{6, 0, 4};
    write_all_blocks(*near_, ++seed_);
    Image source = snapshot(*near_);
    Image expected = snapshot(*far_);
    copy_elements(*near_, source, near_ids, *far_, expected, far_ids, whole(*near_));
    auto options = TransferOptions::builder().nixl_write_notification(seed_).build();
    options.strategy = Strategy::PackedRemote;
    honest_->execute_transfer(near_handle_, near_ids, far_handle_, far_ids, options).wait();
    EXPECT_EQ(snapshot(*far_), expected);
    remote::WriteNotification const told{honest_->worker_id(), seed_};
    for (auto one = notices.next(20s); one != told; one = notices.next(20s)) {
      ASSERT_TRUE(one) << "the honest peer's notification did not come";
    }
    expect_lent(lent);
  }
  /// What is given back is given back by a message: it may be under way.
  void expect_lent(std::uint64_t bytes) {
    expect_soon(&remote::RemoteStats::landing_bytes_lent, bytes);
  }
  /// Once the messages under way are handled.
  void expect_soon(std::uint64_t remote::RemoteStats::* count, std::uint64_t value) {
    auto const deadline = std::chrono::steady_clock::now() + 20s;
    while (victim_->remote_stats().*count != value && std::chrono::steady_clock::now() < deadline) {
      std::this_thread::yield();
    }
    EXPECT_EQ(victim_->remote_stats().*count, value);
  }

  void meet() { ASSERT_EQ(peer_->hello(victim_->worker_id()).error, std::nullopt); }

  /// What the victim counts while `act` runs and all that the peer sent in it is handled.
  remote::RemoteStats counted(std::function<void()> const& act) {
    auto const before = victim_->remote_stats();
    act();
    peer_->drain();
    auto after = victim_->remote_stats();
    after.notifications -= before.notifications;
    after.undelivered -= before.undelivered;
    after.foreign_messages -= before.foreign_messages;
    after.duplicate_messages -= before.duplicate_messages;
    after.images -= before.images;
    EXPECT_EQ(after.workers, before.workers);
    EXPECT_EQ(after.importers, before.importers);
    EXPECT_EQ(after.landing_bytes_lent, before.landing_bytes_lent);
    return after;
  }
  void expect_ignored(std::uint64_t count, std::function<void()> const& act) {
    auto const stats = counted(act);
    EXPECT_EQ(stats.foreign_messages, count);
    EXPECT_EQ(stats.notifications, 0U);
    EXPECT_EQ(stats.duplicate_messages, 0U);
    EXPECT_EQ(stats.images, 0U);
  }

  /// Metadata of the peer with one layout in its memory, of this id.
  remote::SerializedLayout peer_metadata(std::uint16_t layout_id = 3) {
    remote::SerializedLayout metadata;
    metadata.worker_id = peer_->worker_id();
    metadata.address = peer_->address();
    auto descriptor = remote::describe_layout(far_handle_, *far_);
    descriptor.handle = LayoutHandle(peer_->worker_id(), layout_id);
    descriptor.layout.regions.front().address =
        reinterpret_cast<std::uintptr_t>(peer_->memory().data());
    metadata.layouts.push_back(std::move(descriptor));
    return metadata;
  }
  /// Imports the peer while `behave` plays its part, which begins with the victim's Hello.
  Failure import_peer(std::function<void(Hello const&)> const& behave,
                      std::uint16_t layout_id = 3) {
    auto const metadata = peer_metadata(layout_id);
    Failure failure;
    std::thread importing(
        [&] { failure = failure_of_call([&] { return victim_->import_metadata(metadata); }); });
    if (auto const hello = peer_->wait_for<Hello>()) { behave(*hello); }
    importing.join();
    return failure;
  }
  Failure import_peer() {
    return import_peer(
        [&](Hello const& hello) { peer_->send(Reply{hello.request, {}, {}, 0, 0}); });
  }
  Failure unregister(LayoutHandle handle) {
    return failure_of_call([&] {
      victim_->unregister_layout(handle);
      return 0;
    });
  }

  std::optional<TransferManager> victim_;
  std::optional<TransferManager> honest_;
  std::optional<PhysicalLayout> far_;   ///< the victim's
  std::optional<PhysicalLayout> near_;  ///< the honest peer's
  LayoutHandle far_handle_;
  LayoutHandle near_handle_;
  std::optional<RawPeer> peer_;
  std::uint64_t seed_ = 100;
};

}  // namespace kvbm::testing
