// SPDX-License-Identifier: Apache-2.0
//
// The other process of the test of shared memory: does what it is told until nobody tells it more.
#include <unistd.h>

#include <algorithm>
#include <cstdio>
#include <exception>
#include <optional>

#include "kvbm/memory/memory_source.hpp"
#include "kvbm/testing/child_process.hpp"
#include "unit/memory/shared_memory_peer.hpp"

namespace kvbm::memory::test {
namespace {

class Peer {
 public:
  SharedMemory serve(PeerRequest const& request) {
    switch (request.command) {
      case PeerCommand::Allocate: {
        own_.emplace(source_->allocate({request.kind, request.value, 512, -1}));
        return {ProcessName::current(), own_->shared_name().value(), own_->bytes()};
      }
      case PeerCommand::Free: own_.reset(); break;
      case PeerCommand::Map:
        mapped_.emplace(source_->open_shared(request.memory.owner, request.memory.name,
                                             request.memory.bytes, request.kind));
        break;
      case PeerCommand::Unmap: mapped_.reset(); break;
      case PeerCommand::Fill: fill_pattern(bytes(), request.value); break;
      case PeerCommand::Check: {
        if (auto const at = find_mismatch(bytes(), request.value)) {
          throw_error(ErrorCode::Corrupt, "byte " + std::to_string(*at) + " is another");
        }
        break;
      }
      case PeerCommand::Shorten:
        if (ftruncate(static_cast<int>(own_->shared_name().value().fd), 0) != 0) {
          throw_error(ErrorCode::Io, "ftruncate", errno);
        }
        break;
      case PeerCommand::DropUser:
        if (setgid(65534) != 0 || setuid(65534) != 0) {
          throw_error(ErrorCode::Unsupported, "setuid", errno);
        }
        break;
    }
    return {};
  }

 private:
  [[nodiscard]] std::span<std::byte> bytes() const {
    auto const& region = mapped_ ? *mapped_ : own_.value();
    return {region.host_data(), region.bytes()};
  }

  std::shared_ptr<MemorySource> source_ = make_host_memory_source(HostMemoryOptions{{}, true});
  std::optional<Region> own_;
  std::optional<Region> mapped_;
};

int run() {
  testing::ChildChannel const channel(testing::ChildChannel::kFdInChild);
  Peer peer;
  PeerRequest request;
  while (channel.receive(request)) {
    PeerAnswer answer;
    try {
      answer.memory = peer.serve(request);
    } catch (Error const& error) {
      answer.failed = true;
      answer.code = error.code();
      std::snprintf(answer.message.data(), answer.message.size(), "%s", error.what());
    }
    channel.send(answer);
  }
  return 0;
}

}  // namespace
}  // namespace kvbm::memory::test

int main() {
  try {
    return kvbm::memory::test::run();
  } catch (std::exception const& error) {
    std::fprintf(stderr, "shared_memory_peer: %s\n", error.what());
    return 1;
  }
}
