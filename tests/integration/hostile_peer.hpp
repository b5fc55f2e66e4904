// SPDX-License-Identifier: Apache-2.0
#pragma once

#include <gtest/gtest.h>

#include <chrono>
#include <deque>
#include <memory>
#include <optional>
#include <string>
#include <thread>
#include <utility>
#include <variant>
#include <vector>

#include "kvbm/remote/metadata.hpp"
#include "nixl/nixl_agent.hpp"
#include "remote/worker/message.hpp"

namespace kvbm::testing {

/// A NIXL agent that speaks with a manager by hand, and says whatever a test wants.
class RawPeer {
 public:
  static constexpr std::uint64_t kSession = 77;

  /// Knows the way to the manager whose address that is.
  RawPeer(std::string name, std::uint64_t worker_id, remote::WorkerAddress const& victim)
      : agent_(nixl::NixlLibrary::load(), std::move(name)),
        worker_id_(worker_id),
        victim_(victim.agent_name),
        memory_(1U << 20U) {
    agent_.create_backend("UCX", {});
    nixl::NixlRange const all{reinterpret_cast<std::uintptr_t>(memory_.data()), memory_.size(), 0};
    registrations_.push_back(agent_.register_memory(nixl::Segment::Dram, {&all, 1}));
    agent_.load_remote(victim.nixl_metadata);
  }

  [[nodiscard]] std::uint64_t worker_id() const noexcept { return worker_id_; }
  [[nodiscard]] std::vector<std::byte>& memory() noexcept { return memory_; }
  [[nodiscard]] remote::WorkerAddress address() const {
    return {agent_.name(), agent_.local_metadata()};
  }

  void send_bytes(std::span<std::byte const> bytes) { agent_.send(victim_, bytes); }

  /// The next message of this worker, numbered as an honest one would be.
  [[nodiscard]] remote::Message next(remote::MessageBody body) {
    remote::Message message;
    message.worker_id = worker_id_;
    message.session = kSession;
    message.sequence = ++sequence_;
    message.taken = acknowledges_ ? taken_ : 0;
    message.body = std::move(body);
    return message;
  }
  void send(remote::MessageBody body) { send_bytes(next(std::move(body)).to_bytes()); }
  /// From now on the manager is not told what was taken of its messages.
  void acknowledge_nothing() { acknowledges_ = false; }

  /// The next message of the manager that `is_it` takes; fails the test when none comes.
  template <typename Body>
  std::optional<Body> wait_for(auto const& is_it) {
    auto const deadline = std::chrono::steady_clock::now() + std::chrono::seconds(30);
    while (std::chrono::steady_clock::now() < deadline) {
      take();
      for (auto at = received_.begin(); at != received_.end(); ++at) {
        auto const* const body = std::get_if<Body>(&at->body);
        if (body == nullptr || !is_it(*body)) { continue; }
        Body result = *body;
        received_.erase(at);
        return result;
      }
      std::this_thread::yield();
    }
    ADD_FAILURE() << "the manager did not send what was waited for";
    return std::nullopt;
  }
  template <typename Body>
  std::optional<Body> wait_for() {
    return wait_for<Body>([](Body const&) { return true; });
  }

  /// Asks with a request of its own number, which `make` gets, and waits for the answer.
  remote::Reply ask(auto const& make) {
    std::uint64_t const id = ++request_;
    send(make(id));
    auto const reply =
        wait_for<remote::Reply>([id](remote::Reply const& given) { return given.request == id; });
    return reply.value_or(remote::Reply{});
  }

  remote::Reply hello(std::uint64_t receiver, std::vector<std::uint16_t> layouts = {}) {
    return ask([&](std::uint64_t id) {
      return remote::Hello{id, receiver, layouts, address(), std::nullopt};
    });
  }
  remote::Reply borrow(std::uint64_t bytes) {
    return ask([&](std::uint64_t id) { return remote::BorrowLanding{id, bytes}; });
  }
  /// Returns when the manager has handled all that this agent sent before. @pre it said hello
  void drain() { static_cast<void>(borrow(0)); }

 private:
  void take() {
    for (auto const& raw : agent_.take_messages()) {
      auto message = remote::Message::from_bytes(raw.bytes);
      if (message.session != their_session_) {
        their_session_ = message.session;
        taken_ = 0;
      }
      if (message.sequence != 0 && message.sequence <= taken_) { continue; }  // sent again
      taken_ = std::max(taken_, message.sequence);
      received_.push_back(std::move(message));
    }
  }

  nixl::NixlAgent agent_;
  std::uint64_t const worker_id_;
  std::string const victim_;
  std::vector<std::byte> memory_;
  std::vector<nixl::NixlAgent::Registration> registrations_;
  std::uint64_t sequence_ = 0;
  std::uint64_t their_session_ = 0;
  std::uint64_t taken_ = 0;
  std::uint64_t request_ = 1000;
  bool acknowledges_ = true;
  std::deque<remote::Message> received_;
};

}  // namespace kvbm::testing
