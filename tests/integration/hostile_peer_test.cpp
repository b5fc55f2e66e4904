// SPDX-License-Identifier: Apache-2.0
//
// A manager whose peer breaks every rule: nothing happens beyond what an honest peer may cause, and
// it goes on with honest ones.
#include <atomic>
#include <random>
#include <thread>

#include "integration/hostile_fixture.hpp"

namespace kvbm::testing {
namespace {

std::vector<std::byte> bytes_of_text(std::string const& text) {
  auto const bytes = std::as_bytes(std::span(text));
  return {bytes.begin(), bytes.end()};
}

// ---- bytes ----

TEST_F(HostilePeer, BytesThatAreNoMessageAreCountedAndNothingElse) {
  meet();
  std::mt19937_64 random(3);
  expect_ignored(204, [&] {
    for (auto const* text : {"", "K", "KVBMNOT", "KVBMMETA and more"}) {
      peer_->send_bytes(bytes_of_text(text));
    }
    for (int i = 0; i < 200; ++i) {
      std::vector<std::byte> bytes(random() % 300);
      for (auto& byte : bytes) {
        byte = static_cast<std::byte>(random());
      }
      peer_->send_bytes(bytes);
    }
  });
}

TEST_F(HostilePeer, DamagedMessagesAreCountedAndNothingElse) {
  meet();
  auto message = peer_->next(WriteNotice{1});
  auto const honest = message.to_bytes();
  expect_ignored(honest.size() * 2 - 8, [&] {
    for (std::size_t i = 0; i < honest.size(); ++i) {
      auto damaged = honest;
      damaged[i] ^= std::byte{0x10};
      peer_->send_bytes(damaged);
    }
    for (std::size_t count = 8; count < honest.size(); ++count) {
      peer_->send_bytes(std::span(honest).first(count));
    }
  });
  // What was damaged has used up no number: the message itself still counts.
  EXPECT_EQ(counted([&] { peer_->send_bytes(honest); }).notifications, 1U);
}

TEST_F(HostilePeer, DuplicatesAndReplaysCountOnce) {
  meet();
  auto notices = victim_->subscribe_write_notifications();
  std::vector<std::vector<std::byte>> sent;
  auto const stats = counted([&] {
    for (std::uint64_t i = 0; i < 20; ++i) {
      sent.push_back(peer_->next(WriteNotice{i}).to_bytes());
      for (int copies = 0; copies < 3; ++copies) {
        peer_->send_bytes(sent.back());
      }
    }
    for (auto const& again : sent) {
      peer_->send_bytes(again);
    }
  });
  EXPECT_EQ(stats.notifications, 20U);
  EXPECT_EQ(stats.duplicate_messages, 60U);
  for (std::uint64_t i = 0; i < 20; ++i) {
    EXPECT_EQ(notices.next(20s), (remote::WriteNotification{kStranger, i}));
  }
  EXPECT_EQ(notices.next(0s), std::nullopt);
}

// ---- who speaks ----

TEST_F(HostilePeer, NobodySpeaksForAnother) {
  meet();
  expect_ignored(12, [&] {
    for (auto const worker_id :
         {honest_->worker_id(), victim_->worker_id(), kStranger + 1, std::uint64_t{0}}) {
      auto notice = peer_->next(WriteNotice{1});
      notice.worker_id = worker_id;
      peer_->send_bytes(notice.to_bytes());
      auto farewell = peer_->next(Farewell{true});
      farewell.worker_id = worker_id;
      peer_->send_bytes(farewell.to_bytes());
      auto revoke = peer_->next(Revoke{1, 0});
      revoke.worker_id = worker_id;
      peer_->send_bytes(revoke.to_bytes());
    }
  });
}

TEST_F(HostilePeer, NobodySpeaksBeforeItsHello) {
  auto const before = victim_->remote_stats();
  peer_->send(WriteNotice{1});
  peer_->send(BorrowLanding{1, 4096});
  peer_->send(Farewell{true});
  peer_->send(Revoke{1, 0});
  meet();
  auto const after = victim_->remote_stats();
  EXPECT_EQ(after.foreign_messages, before.foreign_messages + 4);
  EXPECT_EQ(after.notifications, before.notifications);
  EXPECT_EQ(after.landing_bytes_lent, 0U);
}

TEST_F(HostilePeer, AHelloWithStaleKnowledgeIsRefusedAndLeavesNothing) {
  EXPECT_EQ(peer_->hello(victim_->worker_id() + 1).error, ErrorCode::PeerLost);
  EXPECT_EQ(peer_->hello(victim_->worker_id(), {9999}).error, ErrorCode::NotFound);
  EXPECT_EQ(peer_->hello(victim_->worker_id(), {far_handle_.layout_id(), 9999}).error,
            ErrorCode::NotFound);
  EXPECT_EQ(victim_->remote_stats().importers, 1U) << "the honest one";
  EXPECT_EQ(peer_->hello(victim_->worker_id(), {far_handle_.layout_id()}).error, std::nullopt);
  EXPECT_EQ(victim_->remote_stats().importers, 2U);
}

TEST_F(HostilePeer, AHelloInAnothersNameIsIgnored) {
  meet();
  auto const say = [&](std::uint64_t worker_id, remote::WorkerAddress address) {
    auto message =
        peer_->next(Hello{1, victim_->worker_id(), {}, std::move(address), std::nullopt});
    message.worker_id = worker_id;
    peer_->send_bytes(message.to_bytes());
  };
  auto const mine = peer_->address();
  expect_ignored(4, [&] {
    say(kStranger + 1, honest_->worker_address());
    say(kStranger + 1, {"honest", mine.nixl_metadata});
    say(victim_->worker_id(), victim_->worker_address());
    say(honest_->worker_id(), mine);
  });
}

TEST_F(HostilePeer, AHelloWithTheWayToAnotherAgentHarmsNobodysConnection) {
  for (auto const& way : {honest_->worker_address(), victim_->worker_address()}) {
    // Answers to it cannot reach anybody.
    peer_->send(Hello{1, victim_->worker_id(), {}, {"hostile", way.nixl_metadata}, std::nullopt});
    expect_working();
  }
}

TEST_F(HostilePeer, OneAgentWithEverNewWorkersIsOneImporter) {
  for (std::uint64_t i = 0; i < 50; ++i) {
    auto message =
        peer_->next(Hello{2000 + i, victim_->worker_id(), {}, peer_->address(), std::nullopt});
    message.worker_id = kStranger + i;
    message.session = 1000 + i;
    message.sequence = 1;
    peer_->send_bytes(message.to_bytes());
  }
  auto const deadline = std::chrono::steady_clock::now() + 20s;
  while (victim_->remote_stats().importers < 2 && std::chrono::steady_clock::now() < deadline) {
    std::this_thread::yield();
  }
  expect_working();
  EXPECT_LE(victim_->remote_stats().importers, 3U) << "only the last of them, and the honest one";
}

TEST_F(HostilePeer, WhoTookAWorkersIdBeforeItCameDoesNotKeepItOut) {
  auto late = remote_manager("late", Reach::Wire).build();
  auto const handle = late.register_layout(make(late, StorageKind::Pinned));
  {
    RawPeer pretender("pretender", late.worker_id(), victim_->worker_address());
    ASSERT_EQ(pretender.hello(victim_->worker_id()).error, std::nullopt);
    ASSERT_EQ(pretender.borrow(4096).error, std::nullopt);
    EXPECT_EQ(victim_->import_metadata(late.export_metadata()), late.worker_id());
    EXPECT_EQ(victim_->imported_handles(), std::vector{handle});
    expect_lent(0);
  }
  late.unregister_layout(handle);
  EXPECT_TRUE(victim_->imported_handles().empty());
}

// ---- requests ----

TEST_F(HostilePeer, RepliesToNobodyAreIgnored) {
  meet();
  expect_ignored(0, [&] {
    for (std::uint64_t const id : {std::uint64_t{0}, std::uint64_t{1}, kMost}) {
      peer_->send(Reply{id, ErrorCode::Io, "nobody asked", 0, 0});
      peer_->send(Reply{id, {}, {}, 0, 0});
    }
    peer_->send(Reply{7, {}, {}, 0x1000, 4096});
  });
  // What seems lent and is not wanted goes back to whoever lent it.
  EXPECT_EQ(peer_->wait_for<ReturnLanding>(), ReturnLanding{0x1000});
}

TEST_F(HostilePeer, RevokingWhatIsUnknownIsConfirmedAndChangesNothing) {
  meet();
  for (std::uint16_t const id : {std::uint16_t{0}, far_handle_.layout_id(), std::uint16_t{65535}}) {
    EXPECT_EQ(peer_->ask([&](std::uint64_t request) { return Revoke{request, id}; }).error,
              std::nullopt);
  }
  EXPECT_EQ(victim_->handles(), std::vector{far_handle_});
}

TEST_F(HostilePeer, LandingMemoryIsLentAsFarAsItGoesAndComesBackWithTheFarewell) {
  meet();
  auto const most = std::uint64_t{4} << 20U;
  for (auto const bytes : {std::uint64_t{0}, most + 1, kMost}) {
    EXPECT_EQ(peer_->borrow(bytes).error, ErrorCode::InvalidArgument) << bytes;
  }
  EXPECT_EQ(victim_->remote_stats().landing_bytes_lent, 0U);
  std::vector<Reply> lent;
  Reply last;
  for (last = peer_->borrow(65536); !last.error; last = peer_->borrow(65536)) {
    lent.push_back(last);
  }
  EXPECT_EQ(last.error, ErrorCode::Busy);
  EXPECT_EQ(lent.size(), most / 65536);
  EXPECT_EQ(victim_->remote_stats().landing_bytes_lent, most);

  // What is not lent, is another's, or came back already, does not come back.
  auto const first = lent.front().address;
  for (auto const address : {std::uint64_t{0}, first + 1, first + most, kMost}) {
    peer_->send(ReturnLanding{address});
  }
  RawPeer other("other", kStranger + 1, victim_->worker_address());
  ASSERT_EQ(other.hello(victim_->worker_id()).error, std::nullopt);
  other.send(ReturnLanding{first});
  other.drain();
  peer_->drain();
  EXPECT_EQ(victim_->remote_stats().landing_bytes_lent, most);
  peer_->send(ReturnLanding{first});
  peer_->send(ReturnLanding{first});
  peer_->drain();
  EXPECT_EQ(victim_->remote_stats().landing_bytes_lent, most - 65536);
  EXPECT_EQ(other.borrow(65536).error, std::nullopt);
  EXPECT_EQ(other.borrow(65536).error, ErrorCode::Busy);
  other.send(Farewell{false});
  expect_lent(most - 65536);
  peer_->send(Farewell{false});
  expect_lent(0);
  expect_soon(&remote::RemoteStats::importers, 1);
}

TEST_F(HostilePeer, ImagesAreMadeOnlyInsideWhatWasLentAndOfWhatIsThere) {
  meet();
  auto const block = block_bytes(*far_);
  Reply const lent = peer_->borrow(4 * block);
  ASSERT_EQ(lent.error, std::nullopt);
  Reply const small = peer_->borrow(64);
  ASSERT_EQ(small.error, std::nullopt);
  RawPeer other("other", kStranger + 1, victim_->worker_address());
  ASSERT_EQ(other.hello(victim_->worker_id()).error, std::nullopt);
  Reply const others = other.borrow(4 * block);
  ASSERT_EQ(others.error, std::nullopt);

  CopyImage good;
  good.layout_id = far_handle_.layout_id();
  good.block_ids = {0, 1};
  good.slots = {2, 3};
  good.layers = {0, 4};
  good.heads = {0, 4};
  good.image_format = KvBlockLayout::OperationalNHD;
  good.landing_address = lent.address;
  good.landing_bytes = lent.bytes;
  auto const ask = [&](CopyImage copy) {
    return peer_->ask([&](std::uint64_t id) {
      copy.request = id;
      return copy;
    });
  };
  struct Case {
    char const* name;
    std::function<void(CopyImage&)> change;
  };
  std::vector<Case> const cases{
      {"landing that was not lent", [&](CopyImage& c) { c.landing_address += 65536; }},
      {"landing at 0", [&](CopyImage& c) { c.landing_address = 0; }},
      {"the middle of it", [&](CopyImage& c) { c.landing_address += 64; }},
      {"another's landing", [&](CopyImage& c) { c.landing_address = others.address; }},
      {"more than was lent", [&](CopyImage& c) { c.landing_bytes += 1; }},
      {"far more", [&](CopyImage& c) { c.landing_bytes = kMost; }},
      {"less than was lent", [&](CopyImage& c) { c.landing_bytes = block; }},
      {"none", [&](CopyImage& c) { c.landing_bytes = 0; }},
      {"landing below a block",
       [&](CopyImage& c) {
         c.landing_address = small.address;
         c.landing_bytes = small.bytes;
       }},
      {"blocks behind the end", [&](CopyImage& c) { c.block_ids = {0, 8}; }},
      {"blocks far behind", [&](CopyImage& c) { c.block_ids = {0, 4294967295}; }},
      {"slots behind the end", [&](CopyImage& c) { c.slots = {3, 4}; }},
      {"slots far behind", [&](CopyImage& c) { c.slots = {0, 4294967295}; }},
      {"a slot twice, or a block",
       [&](CopyImage& c) { (c.fill ? c.slots : c.block_ids) = {1, 1}; }},
      {"more blocks than slots", [&](CopyImage& c) { c.block_ids = {0, 1, 2}; }},
      {"more slots than blocks", [&](CopyImage& c) { c.slots = {0, 1, 2}; }},
      {"layers behind the end", [&](CopyImage& c) { c.layers = {0, 5}; }},
      {"layers backwards", [&](CopyImage& c) { c.layers = {3, 1}; }},
      {"layers far away", [&](CopyImage& c) { c.layers = {kMost - 1, kMost}; }},
      {"heads behind the end", [&](CopyImage& c) { c.heads = {0, 5}; }},
      {"heads backwards", [&](CopyImage& c) { c.heads = {3, 1}; }},
      {"heads far away", [&](CopyImage& c) { c.heads = {kMost - 1, kMost}; }},
      {"an unknown layout", [&](CopyImage& c) { c.layout_id = 999; }},
  };
  Image const before = snapshot(*far_);
  for (bool const fill : {true, false}) {
    for (auto const& one : cases) {
      SCOPED_TRACE(std::string(one.name) + (fill ? ", filled" : ", read"));
      CopyImage copy = good;
      copy.fill = fill;
      one.change(copy);
      auto const reply = ask(copy);
      EXPECT_TRUE(reply.error) << "accepted";
      EXPECT_FALSE(reply.text.empty());
      EXPECT_EQ(snapshot(*far_), before);
    }
  }
  EXPECT_EQ(victim_->remote_stats().images, 0U);

  // What is right is done: blocks 0 and 1 become 5 and 7 by way of the image.
  good.fill = true;
  EXPECT_EQ(ask(good).error, std::nullopt);
  good.fill = false;
  good.block_ids = {5, 7};
  EXPECT_EQ(ask(good).error, std::nullopt);
  EXPECT_EQ(victim_->remote_stats().images, 2U);
  Image source = before;
  Image expected = before;
  copy_elements(*far_, source, {0, 1}, *far_, expected, {5, 7}, whole(*far_));
  EXPECT_EQ(snapshot(*far_), expected);

  // Given back while images are still being made of it: what was lent stays until they are done.
  for (int i = 0; i < 50; ++i) {
    good.request = 500000 + static_cast<std::uint64_t>(i);
    peer_->send(good);
  }
  peer_->send(Farewell{false});
  other.send(Farewell{false});
  expect_lent(0);
  EXPECT_EQ(snapshot(*far_), expected);
}

TEST_F(HostilePeer, ABurstIsTakenWholeAndInOrder) {
  meet();
  auto notices = victim_->subscribe_write_notifications();
  constexpr std::uint64_t kCount = 10000;
  auto const stats = counted([&] {
    for (std::uint64_t i = 0; i < kCount; ++i) {
      peer_->send(WriteNotice{i});
    }
  });
  EXPECT_EQ(stats.notifications, kCount);
  EXPECT_EQ(stats.foreign_messages + stats.duplicate_messages + stats.undelivered, 0U);
  for (std::uint64_t i = 0; i < kCount; ++i) {
    ASSERT_EQ(notices.next(20s), (remote::WriteNotification{kStranger, i}));
  }
}

// ---- who is silent ----

TEST_F(HostilePeer, ALayoutStaysWhileASilentPeerMayUseItAndGoesAfterItsFarewell) {
  ASSERT_EQ(peer_->hello(victim_->worker_id(), {far_handle_.layout_id()}).error, std::nullopt);
  auto const failure = unregister(far_handle_);
  EXPECT_EQ(failure.code, ErrorCode::Busy);
  EXPECT_TRUE(failure.names("hostile")) << failure.message;
  EXPECT_FALSE(failure.names("honest")) << failure.message;
  EXPECT_EQ(victim_->handles(), std::vector{far_handle_});

  // Who comes while it is on its way out may not use it.
  RawPeer other("other", kStranger + 1, victim_->worker_address());
  std::thread removing([&] { EXPECT_EQ(unregister(far_handle_).code, std::nullopt); });
  ASSERT_TRUE(peer_->wait_for<Revoke>());
  ASSERT_TRUE(peer_->wait_for<Revoke>());
  EXPECT_EQ(other.hello(victim_->worker_id(), {far_handle_.layout_id()}).error,
            ErrorCode::NotFound);
  peer_->send(Farewell{false});
  removing.join();
  EXPECT_TRUE(victim_->handles().empty());

  // For the check that the honest peer still works.
  honest_->unimport_worker(victim_->worker_id());
  far_handle_ = victim_->register_layout(*far_);
  static_cast<void>(honest_->import_metadata(victim_->export_metadata()));
}

TEST_F(HostilePeer, WhoNeverSaysWhatItTookIsSentNoMoreAfterAWhile) {
  ASSERT_EQ(import_peer().code, std::nullopt);
  auto const handle = victim_->imported_handles().front();
  std::vector<BlockId> const ids{0};
  Failure failure;
  std::uint64_t sent = 0;
  while (!failure.code && sent < 20000) {
    std::vector<TransferCompleteNotification> moves;
    for (int i = 0; i < 50; ++i) {
      auto const options = TransferOptions::builder().nixl_write_notification(sent++).build();
      moves.push_back(victim_->execute_transfer(far_handle_, ids, handle, ids, options));
    }
    failure = failure_of_call([&] {
      TransferCompleteNotification::aggregate(moves).wait();
      return 0;
    });
  }
  EXPECT_EQ(failure.code, ErrorCode::PeerLost) << failure.message;
  EXPECT_TRUE(failure.names("hostile")) << failure.message;
  EXPECT_GT(sent, 1000U);
  EXPECT_LT(sent, 10000U);
  victim_->unimport_worker(kStranger);
  EXPECT_TRUE(victim_->imported_handles().empty());
}

// ---- importing ----

TEST_F(HostilePeer, AnImportThatIsRefusedOrNotAnsweredLeavesNothingAndMayBeTriedAgain) {
  auto const refused = import_peer([&](Hello const& hello) {
    peer_->send(Reply{hello.request, ErrorCode::NotFound, "stale", 0, 0});
  });
  EXPECT_EQ(refused.code, ErrorCode::NotFound) << refused.message;
  EXPECT_TRUE(peer_->wait_for<Farewell>());
  EXPECT_EQ(import_peer([](Hello const&) {}).code, ErrorCode::Timeout);
  EXPECT_TRUE(peer_->wait_for<Farewell>());
  EXPECT_TRUE(victim_->imported_handles().empty());
  EXPECT_TRUE(victim_->imported_workers().empty());
  EXPECT_EQ(import_peer().code, std::nullopt);
  EXPECT_EQ(victim_->imported_handles().size(), 1U);
}

TEST_F(HostilePeer, ALayoutThatIsRevokedWhileItIsImportedIsNotThere) {
  auto const failure = import_peer([&](Hello const& hello) {
    peer_->send(Revoke{1, 3});
    peer_->send(Reply{hello.request, {}, {}, 0, 0});
  });
  EXPECT_EQ(failure.code, std::nullopt) << failure.message;
  EXPECT_TRUE(peer_->wait_for<Reply>([](Reply const& reply) { return reply.request == 1; }));
  EXPECT_EQ(victim_->imported_workers(), std::vector{kStranger});
  EXPECT_TRUE(victim_->imported_handles().empty());
}

TEST_F(HostilePeer, BothMayImportEachOtherAtTheSameTime) {
  honest_->unimport_worker(victim_->worker_id());
  for (int round = 0; round < 10; ++round) {
    std::thread theirs([&] {
      EXPECT_EQ(failure_of_call([&] {
                  return honest_->import_metadata(victim_->export_metadata());
                }).message,
                "");
    });
    EXPECT_EQ(failure_of_call([&] {
                return victim_->import_metadata(honest_->export_metadata());
              }).message,
              "");
    theirs.join();
    honest_->unimport_worker(victim_->worker_id());
    victim_->unimport_worker(honest_->worker_id());
  }
  static_cast<void>(honest_->import_metadata(victim_->export_metadata()));
}

TEST_F(HostilePeer, ImportingAndUnimportingAWorkerAtOnceLeavesAllOfItOrNothing) {
  auto const metadata = honest_->export_metadata();
  for (int round = 0; round < 20; ++round) {
    std::vector<std::thread> threads;
    for (int t = 0; t < 2; ++t) {
      threads.emplace_back([&] {
        auto const code = failure_of_call([&] { return victim_->import_metadata(metadata); }).code;
        EXPECT_TRUE(!code || code == ErrorCode::AlreadyExists);
      });
    }
    threads.emplace_back([&] { victim_->unimport_worker(metadata.worker_id); });
    for (auto& thread : threads) {
      thread.join();
    }
    EXPECT_EQ(victim_->imported_handles().size(), victim_->imported_workers().size());
  }
  victim_->unimport_worker(metadata.worker_id);
  EXPECT_TRUE(victim_->imported_handles().empty());
  // Nobody uses it any more, and its owner has heard of it.
  honest_->unregister_layout(near_handle_);
  near_handle_ = honest_->register_layout(*near_);
}

}  // namespace
}  // namespace kvbm::testing
