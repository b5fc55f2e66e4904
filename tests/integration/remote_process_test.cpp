// SPDX-License-Identifier: Apache-2.0
//
// Two processes: this program starts itself again as the other worker. With a GPU, its memory is
// mapped by CUDA IPC, or moved as images through the peer's host memory.
#include <fcntl.h>

#include <chrono>

#include "integration/two_workers.hpp"
#include "kvbm/testing/child_process.hpp"

namespace kvbm::testing {
namespace {

using namespace std::chrono_literals;  // NOLINT(google-build-using-namespace): literals

constexpr std::uint64_t kBlocks = 8;

enum class Ask : std::uint64_t { Metadata, Expect, Fill, Notified };

void send_bytes(ChildChannel const& channel, std::vector<std::byte> const& bytes) {
  channel.send<std::uint64_t>(bytes.size());
  for (std::byte const byte : bytes) {
    channel.send(byte);
  }
}

std::vector<std::byte> receive_bytes(ChildChannel const& channel) {
  std::vector<std::byte> bytes(channel.receive<std::uint64_t>());
  for (std::byte& byte : bytes) {
    byte = channel.receive<std::byte>();
  }
  return bytes;
}

PhysicalLayout make_at(TransferManager& worker, StorageKind storage, LayoutShape const& shape) {
  return make_layout(worker.memory_source(), small_config(kBlocks), shape, storage);
}

LayoutShape engine_shape() {
  return {layout::LayoutKind::LayerSeparate, BlockDimension::Second, KvBlockLayout::OperationalNHD};
}

/// The other process: does what it is asked until nobody asks any more.
TEST(RemoteChild, ServesWhoeverStartedIt) {
  if (::fcntl(ChildChannel::kFdInChild, F_GETFD) < 0) {
    GTEST_SKIP() << "only for the process that another test starts";
  }
  ChildChannel const parent(ChildChannel::kFdInChild);
  auto const reach = static_cast<Reach>(parent.receive<std::uint64_t>());
  auto const storage = static_cast<StorageKind>(parent.receive<std::uint64_t>());
  auto worker = remote_manager("child", reach).build();
  auto const layout = make_at(worker, storage, engine_shape());
  write_all_blocks(layout, 0);
  static_cast<void>(worker.register_layout(layout));
  auto notices = worker.subscribe_write_notifications();
  std::uint64_t ask = 0;
  while (parent.receive(ask)) {
    switch (static_cast<Ask>(ask)) {
      case Ask::Metadata: send_bytes(parent, worker.export_metadata().to_bytes()); break;
      case Ask::Expect: {
        auto const wanted = make_at(worker, StorageKind::System, engine_shape());
        write_all_blocks(wanted, parent.receive<std::uint64_t>());
        Image found = snapshot(layout);
        Image expected = snapshot(wanted);
        parent.send<std::uint64_t>(
            count_element_differences(layout, found, expected, first_blocks(kBlocks)));
        break;
      }
      case Ask::Fill:
        write_all_blocks(layout, parent.receive<std::uint64_t>());
        parent.send<std::uint64_t>(0);
        break;
      case Ask::Notified: {
        auto const told = notices.next(20s);
        parent.send<std::uint64_t>(told ? told->worker_id : 0);
        parent.send<std::uint64_t>(told ? told->value : 0);
        break;
      }
    }
  }
}

struct Case {
  Reach reach;
  StorageKind here;
  StorageKind there;
};

class RemoteProcess : public ::testing::TestWithParam<Case> {};

TEST_P(RemoteProcess, BlocksOfEveryStorageGoBothWays) {
  if (auto const why = why_no_nixl(); !why.empty()) { GTEST_SKIP() << why; }
  ChildProcess child("/proc/self/exe", {"--gtest_filter=RemoteChild.*"});
  auto const& channel = child.channel();
  channel.send(static_cast<std::uint64_t>(GetParam().reach));
  channel.send(static_cast<std::uint64_t>(GetParam().there));
  auto const ask = [&](Ask what) { channel.send(static_cast<std::uint64_t>(what)); };

  auto worker = remote_manager("parent", GetParam().reach).build();
  auto const near = make_at(worker, GetParam().here, contiguous(KvBlockLayout::UniversalTP));
  auto const near_handle = worker.register_layout(near);
  ask(Ask::Metadata);
  auto const peer = worker.import_metadata(receive_bytes(channel));
  auto const far_handle = worker.imported_handles().front();
  auto const how = worker.how_reached(far_handle);
  if (GetParam().reach == Reach::Mapped) {
    EXPECT_EQ(how.substr(0, 6), "mapped") << how;
  } else {
    EXPECT_EQ(how.substr(0, 4), "NIXL") << how;
  }
  // The child's blocks in the order of ours hold the elements that it expects in its own order.
  auto const like_child = make_at(worker, StorageKind::System, engine_shape());
  auto const like_child_handle = worker.register_layout(like_child);
  auto const ids = first_blocks(kBlocks);
  for (std::uint64_t round = 1; round < 4; ++round) {
    write_all_blocks(like_child, round);
    worker.execute_transfer(like_child_handle, ids, near_handle, ids).wait();
    auto const options = TransferOptions::builder().nixl_write_notification(round).build();
    worker.execute_transfer(near_handle, ids, far_handle, ids, options).wait();
    ask(Ask::Notified);
    EXPECT_EQ(channel.receive<std::uint64_t>(), worker.worker_id());
    EXPECT_EQ(channel.receive<std::uint64_t>(), round);
    ask(Ask::Expect);
    channel.send<std::uint64_t>(round);
    EXPECT_EQ(channel.receive<std::uint64_t>(), 0U) << "elements differ at the peer";

    ask(Ask::Fill);
    channel.send<std::uint64_t>(100 + round);
    static_cast<void>(channel.receive<std::uint64_t>());
    worker.execute_transfer(far_handle, ids, near_handle, ids).wait();
    worker.execute_transfer(near_handle, ids, like_child_handle, ids).wait();
    auto const wanted = make_at(worker, StorageKind::System, engine_shape());
    write_all_blocks(wanted, 100 + round);
    Image found = snapshot(like_child);
    Image expected = snapshot(wanted);
    EXPECT_EQ(count_element_differences(like_child, found, expected, ids), 0U) << "read";
  }
  child.stop();
  Failure last;
  auto const deadline = std::chrono::steady_clock::now() + 20s;
  while (last.code != ErrorCode::PeerLost && std::chrono::steady_clock::now() < deadline) {
    last = failure_of_call([&] {
      worker.execute_transfer(near_handle, ids, far_handle, ids).wait();
      return 0;
    });
  }
  EXPECT_EQ(last.code, ErrorCode::PeerLost) << last.message;
  EXPECT_TRUE(last.names("child")) << last.message;
  worker.unimport_worker(peer);
}

INSTANTIATE_TEST_SUITE_P(
    Storages, RemoteProcess,
    ::testing::Values(Case{Reach::Mapped, StorageKind::Pinned, StorageKind::Pinned},
                      Case{Reach::Mapped, StorageKind::Device, StorageKind::Device},
                      Case{Reach::Mapped, StorageKind::Device, StorageKind::Pinned},
                      Case{Reach::Wire, StorageKind::Pinned, StorageKind::Pinned},
                      Case{Reach::Wire, StorageKind::Device, StorageKind::Device},
                      Case{Reach::Wire, StorageKind::System, StorageKind::Device},
                      Case{Reach::Wire, StorageKind::Device, StorageKind::System}),
    [](auto const& given) {
      return to_string(given.param.reach) + std::string(memory::to_string(given.param.here)) +
             "To" + std::string(memory::to_string(given.param.there));
    });

}  // namespace
}  // namespace kvbm::testing
