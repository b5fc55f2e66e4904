// SPDX-License-Identifier: Apache-2.0
#pragma once

#include <gtest/gtest.h>

#include <cstdint>
#include <cstdio>
#include <filesystem>
#include <functional>
#include <optional>
#include <string>
#include <vector>

#include "kvbm/core/error.hpp"
#include "kvbm/memory/memory_source.hpp"
#include "kvbm/testing/child_process.hpp"
#include "unit/memory/shared_memory_peer.hpp"

/// A second process for the tests of shared device memory: the same program, which runs only the
/// test that serves.
namespace kvbm::device::testing {

using memory::test::PeerAnswer;
using memory::test::PeerCommand;
using memory::test::PeerRequest;
using memory::test::SharedMemory;

/// How the CPU gets at memory of the device under test.
struct MemoryAccess {
  std::function<std::vector<std::byte>(memory::Region const&)> read;
  std::function<void(memory::Region const&, std::vector<std::byte> const&)> write;
};

inline std::vector<std::byte> make_pattern(std::uint64_t bytes, std::uint64_t seed) {
  std::vector<std::byte> pattern(bytes);
  memory::test::fill_pattern(pattern, seed);
  return pattern;
}

/// Does what the other process asks until that hangs up.
inline void serve(memory::MemorySource& source, MemoryAccess const& access) {
  kvbm::testing::ChildChannel const channel(kvbm::testing::ChildChannel::kFdInChild);
  std::optional<memory::Region> own;
  std::optional<memory::Region> mapped;
  PeerRequest request;
  while (channel.receive(request)) {
    PeerAnswer answer;
    auto const& region = mapped ? mapped : own;
    try {
      switch (request.command) {
        case PeerCommand::Allocate: {
          DeviceId const device = request.kind == memory::StorageKind::System ? -1 : 0;
          own.emplace(source.allocate({request.kind, request.value, 512, device}));
          answer.memory = {memory::ProcessName::current(), source.share(*own).value(),
                           own->bytes()};
          break;
        }
        case PeerCommand::Free: own.reset(); break;
        case PeerCommand::Map:
          mapped.emplace(source.open_shared(request.memory.owner, request.memory.name,
                                            request.memory.bytes, request.kind));
          break;
        case PeerCommand::Unmap: mapped.reset(); break;
        case PeerCommand::Fill:
          access.write(region.value(), make_pattern(region->bytes(), request.value));
          break;
        case PeerCommand::Check:
          if (memory::test::find_mismatch(access.read(region.value()), request.value)) {
            throw_error(ErrorCode::Corrupt, "other content");
          }
          break;
        case PeerCommand::Shorten:
        case PeerCommand::DropUser: throw UnsupportedError("not of a device's peer");
      }
    } catch (Error const& error) {
      answer.failed = true;
      answer.code = error.code();
      std::snprintf(answer.message.data(), answer.message.size(), "%s", error.what());
    }
    channel.send(answer);
  }
}

/// The program of this test again, running only the disabled test `name`, which calls serve().
class DevicePeer {
 public:
  explicit DevicePeer(std::string const& name)
      : process(std::filesystem::read_symlink("/proc/self/exe").string(),
                {"--gtest_also_run_disabled_tests", "--gtest_filter=" + name,
                 "--gtest_output=", "--gtest_brief=1"}) {}

  [[nodiscard]] PeerAnswer tell(PeerRequest const& request) const {
    process.channel().send(request);
    return process.channel().receive<PeerAnswer>();
  }
  [[nodiscard]] SharedMemory allocate(memory::StorageKind kind, std::uint64_t bytes) const {
    auto const answer = tell({PeerCommand::Allocate, kind, bytes, {}});
    EXPECT_FALSE(answer.failed) << answer.message.data();
    return answer.memory;
  }
  void map(memory::StorageKind kind, SharedMemory const& memory) const {
    auto const answer = tell({PeerCommand::Map, kind, 0, memory});
    EXPECT_FALSE(answer.failed) << answer.message.data();
  }
  void expect(PeerCommand command, std::uint64_t value = 0) const {
    auto const answer = tell({command, memory::StorageKind::Device, value, {}});
    EXPECT_FALSE(answer.failed) << answer.message.data();
  }

  kvbm::testing::ChildProcess process;
};

}  // namespace kvbm::device::testing
