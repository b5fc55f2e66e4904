// SPDX-License-Identifier: Apache-2.0
#include "remote/worker/nixl_peer.hpp"

#include <fmt/format.h>

#include <algorithm>
#include <chrono>
#include <deque>
#include <thread>
#include <utility>
#include <vector>

#include "kvbm/core/error.hpp"
#include "kvbm/core/log.hpp"

namespace kvbm::remote {
namespace {

using transfer::WireDirection;
using transfer::WireMemory;
using transfer::WireRun;

/// Of one request: over shared memory (CMA) all of it is copied before the post returns, and until
/// then nobody can stop it and messages wait.
constexpr std::uint64_t kMaxRequestBytes = std::uint64_t{8} << 20U;
constexpr std::size_t kMaxRequestRuns = 1024;
/// Requests under way at once, so that a network never waits for the next post.
constexpr std::size_t kMaxRequests = 4;
nixl::NixlRange range(std::uintptr_t address, std::uint64_t bytes, WireMemory const& memory) {
  return {address, bytes, memory.is_gpu ? static_cast<std::uint64_t>(memory.device_id) : 0};
}

/// Polls quickly first, then lets others run.
class Pause {
 public:
  void operator()() {
    if (++count_ < 200) { return; }
    if (count_ < 2000) {
      std::this_thread::yield();
      return;
    }
    std::this_thread::sleep_for(std::chrono::microseconds(50));
  }

 private:
  unsigned count_ = 0;
};

/// Landing memory that is given back when nobody needs it any more.
class LentLanding {
 public:
  LentLanding(std::shared_ptr<Contact> contact, transfer::Landing const& lent)
      : landing(lent), contact_(std::move(contact)), generation_(contact_->generation()) {}
  LentLanding(LentLanding const&) = delete;
  LentLanding& operator=(LentLanding const&) = delete;
  ~LentLanding() {
    // After a disconnection bytes of ours may still arrive there: the lender keeps it until this
    // worker says farewell or ends.
    if (contact_->generation() != generation_) { return; }
    try {
      contact_->send(ReturnLanding{landing.address});
    } catch (std::exception const& error) {
      log::write(log::Level::Info,
                 fmt::format("landing memory was not given back: {}", error.what()));
    }
  }

  transfer::Landing landing;

 private:
  std::shared_ptr<Contact> const contact_;
  std::uint64_t const generation_;
};

}  // namespace

/// The requests of one move that are under way.
class NixlPeer::Moves {
 public:
  Moves(NixlPeer& peer, WireDirection direction, WireMemory local, WireMemory remote,
        std::shared_ptr<void const> hold)
      : peer_(peer),
        direction_(direction == WireDirection::Read ? nixl::Direction::Read
                                                    : nixl::Direction::Write),
        local_(local),
        remote_(remote),
        hold_(std::move(hold)) {}
  Moves(Moves const&) = delete;
  Moves& operator=(Moves const&) = delete;
  /// What is still under way is left to the agent, and `hold` with it, until it ends by itself.
  ~Moves() {
    for (auto& request : requests_) {
      request.abandon(hold_);
    }
  }

  void post(std::span<nixl::NixlRange const> local, std::span<nixl::NixlRange const> remote) {
    requests_.push_back(peer_.agent_->make_request(
        direction_, local_.is_gpu ? nixl::Segment::Vram : nixl::Segment::Dram, local,
        remote_.is_gpu ? nixl::Segment::Vram : nixl::Segment::Dram, remote,
        peer_.contact_->agent_name()));
    requests_.back().post();
  }

  [[nodiscard]] std::size_t count() const noexcept { return requests_.size(); }

  /// Waits until at most `count` are under way.
  void wait(std::size_t count, ShouldStop const& should_stop) {
    Pause pause;
    while (requests_.size() > count) {
      if (requests_.front().is_done()) {
        requests_.pop_front();
        continue;
      }
      if (should_stop()) {
        throw CancelledError("stopped while moving blocks from or to " + peer_.name());
      }
      pause();
    }
  }

 private:
  NixlPeer& peer_;
  nixl::Direction const direction_;
  WireMemory const local_;
  WireMemory const remote_;
  std::shared_ptr<void const> const hold_;
  std::deque<nixl::NixlAgent::Request> requests_;
};

NixlPeer::NixlPeer(std::shared_ptr<nixl::NixlAgent> agent, std::shared_ptr<Contact> contact,
                   std::shared_ptr<ExposedMemory> exposed, std::shared_ptr<Calls> calls,
                   std::optional<LandingZone> const& landing)
    : agent_(std::move(agent)),
      contact_(std::move(contact)),
      exposed_(std::move(exposed)),
      calls_(std::move(calls)),
      landing_bytes_(landing ? landing->bytes : 0) {}

void NixlPeer::move(WireDirection direction, WireMemory local, WireMemory remote,
                    std::span<WireRun const> runs, std::shared_ptr<void const> const& hold,
                    ShouldStop const& should_stop) {
  contact_->connect();
  std::vector<nixl::NixlRange> here;
  std::vector<nixl::NixlRange> there;
  try {
    Moves moves(*this, direction, local, remote, hold);
    std::uint64_t bytes = 0;
    auto const flush = [&] {
      if (here.empty()) { return; }
      if (should_stop()) { throw CancelledError("stopped before all blocks were moved"); }
      moves.wait(kMaxRequests - 1, should_stop);
      moves.post(here, there);
      here.clear();
      there.clear();
      bytes = 0;
    };
    for (WireRun const& run : runs) {
      for (std::uint64_t offset = 0; offset < run.bytes;) {
        std::uint64_t const part = std::min(run.bytes - offset, kMaxRequestBytes - bytes);
        here.push_back(range(run.local + offset, part, local));
        there.push_back(range(run.remote + offset, part, remote));
        bytes += part;
        offset += part;
        if (bytes == kMaxRequestBytes || here.size() == kMaxRequestRuns) { flush(); }
      }
    }
    flush();
    moves.wait(0, should_stop);
  } catch (Error const& error) {
    bool const is_lost = dynamic_cast<PeerError const*>(&error) != nullptr;
    // Another move found the peer lost and ended the connection between two posts of this one.
    bool const was_ended = error.code() == ErrorCode::NotFound;
    if (!is_lost && !was_ended) { throw; }
    if (is_lost) { contact_->disconnect(); }
    contact_->expect_alive();  // says it better where the process is known to have ended
    throw PeerError(fmt::format("{}: {}", name(), error.what()));
  }
}

void NixlPeer::notify(std::uint64_t value) { contact_->send(WriteNotice{value}); }

std::shared_ptr<transfer::Landing const> NixlPeer::borrow_landing(std::uint64_t bytes,
                                                                  ShouldStop const& should_stop) {
  while (true) {
    Calls::Call call(*calls_, contact_);
    contact_->send(BorrowLanding{call.id(), bytes});
    Reply reply;
    try {
      reply = call.wait(should_stop);
    } catch (CancelledError const&) {
      // What was lent meanwhile goes back; what is lent later finds nobody, and goes back as well.
      if (auto const late = call.forget(); late && !late->error) {
        LentLanding const unused(contact_, {late->address, late->bytes});
      }
      throw;
    }
    if (!reply.error) {
      auto const lent =
          std::make_shared<LentLanding>(contact_, transfer::Landing{reply.address, reply.bytes});
      KVBM_EXPECTS(
          reply.bytes >= bytes && reply.address != 0 && reply.address + reply.bytes > reply.address,
          Corrupt, fmt::format("{} lends impossible landing memory", name()));
      return {lent, &lent->landing};
    }
    if (*reply.error != ErrorCode::Busy) {
      throw_error(*reply.error, fmt::format("{}: {}", name(), reply.text));
    }
    // All of it is lent: others give it back as their transfers end.
    if (should_stop()) { throw CancelledError("stopped while waiting for landing memory"); }
    std::this_thread::sleep_for(std::chrono::milliseconds(1));
  }
}

void NixlPeer::copy_image(WireDirection direction, transfer::ImageOrder const& order,
                          ShouldStop const& should_stop) {
  Calls::Call call(*calls_, contact_);
  contact_->send(CopyImage{call.id(), direction == WireDirection::Read, order.handle.layout_id(),
                           order.block_ids, order.slots, order.layers, order.heads,
                           order.image_format, order.landing.address, order.landing.bytes});
  Reply const reply = call.wait(should_stop);
  if (reply.error) { throw_error(*reply.error, fmt::format("{}: {}", name(), reply.text)); }
}

}  // namespace kvbm::remote
