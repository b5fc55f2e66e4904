// SPDX-License-Identifier: Apache-2.0
//
// What NIXL does with a worker in another process: alive, stopped, killed, started again.

#include <cstdint>
#include <cstdlib>
#include <filesystem>
#include <memory>
#include <string>
#include <thread>
#include <vector>

#include <gmock/gmock.h>
#include <gtest/gtest.h>

#include "kvbm/core/error.hpp"
#include "kvbm/testing/child_process.hpp"
#include "nixl/nixl_agent.hpp"
#include "support/test_program.hpp"
#include "unit/nixl/nixl_fixture.hpp"
#include "unit/nixl/nixl_peer_protocol.hpp"

namespace kvbm::nixl {
namespace {

constexpr std::size_t kSize = std::size_t{8} << 20;

/// What UCX may use, while a test runs; "all" is what it chooses itself.
class Transports {
 public:
  explicit Transports(std::string names) {
    // Beside a GPU NIXL starts with this one only.
    if (std::filesystem::exists("/dev/nvidiactl") && names != "all") { names += ",cuda_copy"; }
    setenv("UCX_TLS", names.c_str(), 1);
  }
  Transports(Transports const&) = delete;
  Transports& operator=(Transports const&) = delete;
  ~Transports() { unsetenv("UCX_TLS"); }
};

class Peer {
 public:
  explicit Peer(std::size_t seed)
      : process_(testing::test_program(KVBM_NIXL_PEER),
                 {"peer", std::to_string(kSize), std::to_string(seed)}),
        greeting_(process_.channel().receive<PeerGreeting>()) {}

  [[nodiscard]] std::span<std::byte const> metadata() const {
    return std::span(greeting_.metadata).first(greeting_.metadata_bytes);
  }
  [[nodiscard]] NixlRange range(std::size_t first, std::size_t bytes) const {
    return {greeting_.address + first, bytes, 0};
  }
  [[nodiscard]] PeerAnswer ask(PeerCommand command) const {
    process_.channel().send(command);
    return process_.channel().receive<PeerAnswer>();
  }
  void pause() const { process_.suspend(); }
  void resume() const { process_.resume(); }
  void kill() { process_.stop(); }

 private:
  testing::ChildProcess process_;
  PeerGreeting greeting_;
};

std::vector<std::uint8_t> content(std::size_t seed) {
  std::vector<std::uint8_t> bytes(kSize);
  for (std::size_t i = 0; i < kSize; ++i) {
    bytes[i] = static_cast<std::uint8_t>((i + seed) % 251);
  }
  return bytes;
}

class NixlProcessTest : public ::testing::TestWithParam<std::string> {
 protected:
  void SetUp() override { KVBM_SKIP_WITHOUT_NIXL(); }

  static NixlAgent::Request request(Worker& worker, Direction direction, Peer const& peer,
                                    std::size_t first, std::size_t bytes) {
    NixlRange const here = range_of(worker.buffer, first, bytes);
    NixlRange const there = peer.range(first, bytes);
    return worker.agent.make_request(direction, Segment::Dram, {&here, 1}, Segment::Dram,
                                     {&there, 1}, "peer");
  }
};

TEST_P(NixlProcessTest, MovesBytesAndMessages) {
  Transports const transports(GetParam());
  Peer const peer(3);
  Worker worker(NixlLibrary::load(), "self", kSize);
  EXPECT_EQ(worker.agent.load_remote(peer.metadata()), "peer");
  worker.agent.send("peer", bytes_of("before any transfer"));
  PeerAnswer const heard = peer.ask(PeerCommand::TakeMessage);
  EXPECT_EQ(heard.bytes, 19);
  EXPECT_EQ(heard.sum, sum_of(std::string("before any transfer")));

  auto read = request(worker, Direction::Read, peer, 0, kSize);
  run(read);
  std::vector<std::uint8_t> expected = content(3);
  EXPECT_EQ(worker.buffer, expected);

  std::ranges::fill(worker.buffer, std::uint8_t{77});
  auto write = request(worker, Direction::Write, peer, 1000, 3000000);
  run(write);
  std::fill_n(expected.begin() + 1000, 3000000, std::uint8_t{77});
  EXPECT_EQ(peer.ask(PeerCommand::SumOfBuffer).sum, sum_of(expected));
}

TEST_P(NixlProcessTest, AKilledPeerFailsAndItsSuccessorServes) {
  Transports const transports(GetParam());
  Worker worker(NixlLibrary::load(), "self", kSize);
  {
    Peer peer(1);
    worker.agent.load_remote(peer.metadata());
    auto read = request(worker, Direction::Read, peer, 0, kSize);
    run(read);
    peer.kill();
    for (Direction const direction : {Direction::Read, Direction::Write}) {
      auto late = request(worker, direction, peer, 0, kSize);
      try {
        run(late);
        ADD_FAILURE() << "moved bytes of a dead process";
      } catch (PeerError const& error) {
        EXPECT_TRUE(error.retryable());
        EXPECT_THAT(error.what(), ::testing::HasSubstr("'peer'"));
      }
      EXPECT_THROW(static_cast<void>(late.is_done()), PeerError) << "it stays failed";
    }
  }
  Peer const successor(2);
  EXPECT_THROW(worker.agent.load_remote(successor.metadata()), CorruptError);
  worker.agent.forget_remote("peer");
  worker.agent.load_remote(successor.metadata());
  auto read = request(worker, Direction::Read, successor, 0, kSize);
  run(read);
  EXPECT_EQ(worker.buffer, content(2));
}

INSTANTIATE_TEST_SUITE_P(Transports, NixlProcessTest, ::testing::Values("all", "tcp"),
                         [](auto const& instance) { return instance.param; });

/// A transfer that hangs, because TCP needs the other process to answer.
class NixlStoppedPeerTest : public NixlProcessTest {
 protected:
  void SetUp() override {
    NixlProcessTest::SetUp();
    if (IsSkipped() || HasFatalFailure()) { return; }
    transports_ = std::make_unique<Transports>("tcp");
    peer_ = std::make_unique<Peer>(5);
    worker_ = std::make_unique<Worker>(NixlLibrary::load(), "self", kSize);
    worker_->agent.load_remote(peer_->metadata());
    auto connected = request(*worker_, Direction::Read, *peer_, 0, 64);
    run(connected);
  }

  // Posts to the stopped peer and gives up, then forgets the peer.
  void abandon(Direction direction) {
    peer_->pause();
    if (HasFatalFailure()) { return; }
    auto hanging = request(*worker_, direction, *peer_, 0, kSize);
    hanging.post();
    ASSERT_FALSE(hanging.is_done());
    EXPECT_THROW(hanging.post(), Error);
    hanging.abandon(owner_);
    EXPECT_EQ(owner_.use_count(), 2);
    worker_->agent.forget_remote("peer");
    EXPECT_TRUE(worker_->agent.knows("peer")) << "forgetting waits for what is in flight";
    static_cast<void>(worker_->agent.take_messages());
    EXPECT_EQ(worker_->agent.abandoned(), 1);
    EXPECT_EQ(owner_.use_count(), 2);
  }

  void wait_for_end() {
    while (worker_->agent.abandoned() != 0) {
      static_cast<void>(worker_->agent.take_messages());
      std::this_thread::yield();
    }
    EXPECT_EQ(owner_.use_count(), 1);
    EXPECT_FALSE(worker_->agent.knows("peer"));
  }

  std::unique_ptr<Transports> transports_;
  std::unique_ptr<Peer> peer_;
  std::unique_ptr<Worker> worker_;
  std::shared_ptr<int> owner_ = std::make_shared<int>(0);
};

TEST_F(NixlStoppedPeerTest, AnAbandonedReadKeepsItsMemoryUntilThePeerComesBack) {
  abandon(Direction::Read);
  peer_->resume();
  wait_for_end();
  // It was never stopped: the bytes came after the caller gave up.
  EXPECT_EQ(worker_->buffer, content(5));
  worker_->agent.load_remote(peer_->metadata());
  auto again = request(*worker_, Direction::Read, *peer_, 0, kSize);
  run(again);
}

TEST_F(NixlStoppedPeerTest, AnAbandonedWriteKeepsItsMemoryUntilThePeerComesBack) {
  abandon(Direction::Write);
  peer_->resume();
  wait_for_end();
  EXPECT_EQ(peer_->ask(PeerCommand::SumOfBuffer).sum, sum_of(worker_->buffer));
}

TEST_F(NixlStoppedPeerTest, AnAbandonedRequestEndsWithThePeer) {
  abandon(Direction::Read);
  peer_->kill();
  wait_for_end();
}

TEST_F(NixlStoppedPeerTest, ADroppedRequestStaysUntilItEnds) {
  peer_->pause();
  {
    auto hanging = request(*worker_, Direction::Read, *peer_, 0, kSize);
    hanging.post();
    ASSERT_FALSE(hanging.is_done());
  }
  EXPECT_EQ(worker_->agent.abandoned(), 1);
  peer_->resume();
  while (worker_->agent.abandoned() != 0) {
    static_cast<void>(worker_->agent.take_messages());
    std::this_thread::yield();
  }
  EXPECT_EQ(worker_->buffer, content(5));
}

TEST_F(NixlStoppedPeerTest, SendingToAStoppedPeerDoesNotWait) {
  peer_->pause();
  std::string const text(1000, 'm');
  for (int i = 0; i < 100; ++i) {
    worker_->agent.send("peer", bytes_of(text));
  }
  peer_->resume();
  EXPECT_EQ(peer_->ask(PeerCommand::TakeMessage).bytes, text.size());
}

}  // namespace
}  // namespace kvbm::nixl
