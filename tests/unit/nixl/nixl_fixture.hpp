// SPDX-License-Identifier: Apache-2.0
#pragma once

#include <algorithm>
#include <cstddef>
#include <cstdint>
#include <cstdlib>
#include <cstring>
#include <memory>
#include <span>
#include <string>
#include <string_view>
#include <thread>
#include <vector>

#include <gtest/gtest.h>

#include "kvbm/core/error.hpp"
#include "nixl/nixl_agent.hpp"

namespace kvbm::nixl {

/// Why tests that use NIXL cannot run here; empty: they can.
inline std::string nixl_refusal() {
#if defined(__SANITIZE_THREAD__)
  return "ThreadSanitizer cannot see what NIXL's threads synchronise with";
#else
  try {
    NixlLibrary::load();
    return {};
  } catch (UnsupportedError const& error) { return error.what(); }
#endif
}

/// Skips where there is no NIXL; fails there instead where KVBM_REQUIRE_NIXL is set.
#define KVBM_SKIP_WITHOUT_NIXL()                                                    \
  if (std::string const refusal = ::kvbm::nixl::nixl_refusal(); !refusal.empty()) { \
    if (std::getenv("KVBM_REQUIRE_NIXL") != nullptr) { FAIL() << refusal; }         \
    GTEST_SKIP() << refusal;                                                        \
  }

inline std::span<std::byte const> bytes_of(std::string_view text) {
  return std::as_bytes(std::span(text));
}
inline std::string text_of(std::span<std::byte const> bytes) {
  std::string text(bytes.size(), '\0');
  if (!text.empty()) { std::memcpy(text.data(), bytes.data(), bytes.size()); }
  return text;
}

/// The range of a buffer's bytes [first, first + count).
template <typename Buffer>
NixlRange range_of(Buffer const& buffer, std::size_t first, std::size_t count) {
  return {reinterpret_cast<std::uintptr_t>(buffer.data()) + first, count, 0};
}

/// An agent that reaches others over UCX, with one registered buffer of `size` bytes.
class Worker {
 public:
  Worker(std::shared_ptr<NixlLibrary const> library, std::string name, std::size_t size)
      : agent(std::move(library), std::move(name)), buffer(size) {
    agent.create_backend("UCX", {});
    NixlRange const whole = range_of(buffer, 0, size);
    registrations.push_back(agent.register_memory(Segment::Dram, {&whole, 1}));
  }

  void learn(Worker const& other) { agent.load_remote(other.agent.local_metadata()); }

  /// One request of ranges of `bytes` each at the offsets `here` and `there`.
  NixlAgent::Request request(Direction direction, std::vector<std::size_t> const& here,
                             Worker const& other, std::vector<std::size_t> const& there,
                             std::size_t bytes) {
    std::vector<NixlRange> local;
    std::vector<NixlRange> remote;
    for (std::size_t const offset : here) {
      local.push_back(range_of(buffer, offset, bytes));
    }
    for (std::size_t const offset : there) {
      remote.push_back(range_of(other.buffer, offset, bytes));
    }
    return agent.make_request(direction, Segment::Dram, local, Segment::Dram, remote,
                              other.agent.name());
  }

  NixlAgent agent;
  std::vector<std::uint8_t> buffer;
  std::vector<NixlAgent::Registration> registrations;
};

inline void run(NixlAgent::Request& request) {
  request.post();
  while (!request.is_done()) {
    std::this_thread::yield();
  }
}

/// The next `count` messages; ctest's time limit ends a wait in vain.
inline std::vector<NixlAgent::Message> wait_for_messages(NixlAgent& agent, std::size_t count) {
  std::vector<NixlAgent::Message> all;
  while (all.size() < count) {
    for (NixlAgent::Message& message : agent.take_messages()) {
      all.push_back(std::move(message));
    }
    std::this_thread::yield();
  }
  return all;
}

}  // namespace kvbm::nixl
