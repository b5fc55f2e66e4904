// SPDX-License-Identifier: Apache-2.0
#include "kvbm/memory/shared_memory.hpp"

#include <fcntl.h>
#include <gtest/gtest.h>
#include <sys/mman.h>
#include <sys/stat.h>
#include <unistd.h>

#include <algorithm>
#include <filesystem>
#include <fstream>
#include <limits>
#include <optional>

#include "kvbm/memory/memory_source.hpp"
#include "kvbm/testing/child_process.hpp"
#include "kvbm/testing/failure.hpp"
#include "memory/file_handle.hpp"
#include "memory/process.hpp"
#include "support/test_program.hpp"
#include "unit/memory/shared_memory_peer.hpp"

namespace kvbm::memory::test {
namespace {

using namespace literals;
using testing::failure_of_call;

class Peer {
 public:
  PeerAnswer tell(PeerRequest const& request) const {
    process.channel().send(request);
    return process.channel().receive<PeerAnswer>();
  }
  [[nodiscard]] SharedMemory allocate(StorageKind kind, std::uint64_t bytes) const {
    auto const answer = tell({PeerCommand::Allocate, kind, bytes, {}});
    EXPECT_FALSE(answer.failed) << answer.message.data();
    return answer.memory;
  }
  void expect(PeerCommand command, std::uint64_t value = 0) const {
    auto const answer = tell({command, StorageKind::System, value, {}});
    EXPECT_FALSE(answer.failed) << answer.message.data();
  }

  testing::ChildProcess process{testing::test_program(KVBM_SHARED_MEMORY_PEER), {}};
};

std::uint64_t count_open_files() {
  auto const open = std::filesystem::directory_iterator("/proc/self/fd");
  return static_cast<std::uint64_t>(std::distance(begin(open), end(open)));
}

std::uint64_t count_mappings() {
  std::ifstream maps("/proc/self/maps");
  return static_cast<std::uint64_t>(std::count_if(std::istreambuf_iterator<char>(maps),
                                                  std::istreambuf_iterator<char>(),
                                                  [](char letter) { return letter == '\n'; }));
}

std::span<std::byte> bytes_of(Region const& region) { return {region.host_data(), region.bytes()}; }

class SharedHostMemory : public ::testing::TestWithParam<std::tuple<StorageKind, std::uint64_t>> {
 protected:
  std::shared_ptr<MemorySource> source_ = make_host_memory_source(HostMemoryOptions{{}, true});
};

INSTANTIATE_TEST_SUITE_P(Kinds, SharedHostMemory,
                         ::testing::Combine(::testing::Values(StorageKind::System,
                                                              StorageKind::Pinned),
                                            ::testing::Values(4096, 100'000, 3_MiB + 1)),
                         [](auto const& chosen) {
                           return std::string(to_string(std::get<0>(chosen.param))) +
                                  std::to_string(std::get<1>(chosen.param));
                         });

TEST_P(SharedHostMemory, IsZeroedAlignedNamedAndClassifiedLikePrivateMemory) {
  auto const [kind, bytes] = GetParam();
  auto const region = source_->allocate({kind, bytes, 1024, -1});
  EXPECT_EQ(region.kind(), kind);
  EXPECT_EQ(region.bytes(), bytes);
  EXPECT_EQ(region.address() % (bytes >= 2_MiB ? 2_MiB : 4_KiB), 0U);
  auto const content = bytes_of(region);
  EXPECT_TRUE(std::all_of(content.begin(), content.end(),
                          [](std::byte byte) { return byte == std::byte{0}; }));
  auto const info = source_->classify(region.host_data() + 1);
  ASSERT_TRUE(info);
  EXPECT_EQ(info->kind, kind);
  EXPECT_EQ(info->bytes_left, bytes - 1);
  auto const name = region.shared_name();
  ASSERT_TRUE(name);
  EXPECT_EQ(name->kind, SharedMemoryName::Kind::File);
  EXPECT_EQ(name->offset, 0U);
  EXPECT_EQ(name->file_bytes, (bytes + 4095) / 4096 * 4096);
  EXPECT_EQ(source_->share(region), name);
  EXPECT_EQ(source_->pinned_stats().regions, kind == StorageKind::Pinned ? 1U : 0U);
}

TEST_P(SharedHostMemory, WhatOneProcessWritesTheOtherReadsInBothDirections) {
  auto const [kind, bytes] = GetParam();
  Peer const peer;
  auto const memory = peer.allocate(kind, bytes);
  auto const region = source_->open_shared(memory.owner, memory.name, bytes, kind);
  EXPECT_EQ(region.kind(), kind);
  EXPECT_EQ(region.bytes(), bytes);
  EXPECT_FALSE(region.shared_name());
  ASSERT_TRUE(source_->classify(region.host_data()));
  EXPECT_EQ(source_->classify(region.host_data())->kind, kind);
  EXPECT_EQ(source_->pinned_stats().regions, 0U);
  peer.expect(PeerCommand::Fill, 1);
  EXPECT_EQ(find_mismatch(bytes_of(region), 1), std::nullopt);
  fill_pattern(bytes_of(region), 2);
  peer.expect(PeerCommand::Check, 2);

  auto const own = source_->allocate({kind, bytes, 512, -1});
  auto const answer = peer.tell(
      {PeerCommand::Map, kind, 0, {ProcessName::current(), own.shared_name().value(), bytes}});
  ASSERT_FALSE(answer.failed) << answer.message.data();
  fill_pattern(bytes_of(own), 3);
  peer.expect(PeerCommand::Check, 3);
  peer.expect(PeerCommand::Fill, 4);
  EXPECT_EQ(find_mismatch(bytes_of(own), 4), std::nullopt);
}

class SharedMemoryFaults : public ::testing::Test {
 protected:
  [[nodiscard]] testing::Failure map(ProcessName const& owner, SharedMemoryName const& name,
                                     std::uint64_t bytes = 4096,
                                     StorageKind kind = StorageKind::System) const {
    return failure_of_call([&] { return map_shared(owner, name, bytes, kind, -1); });
  }
  // The name that memory at `file` would have.
  static SharedMemoryName name_of(FileHandle const& file, std::uint64_t bytes) {
    auto const status = file.status("test");
    return {SharedMemoryName::Kind::File,
            static_cast<std::uint64_t>(file.fd()),
            status.st_dev,
            status.st_ino,
            0,
            bytes,
            {},
            {}};
  }

  std::shared_ptr<MemorySource> source_ = make_host_memory_source(HostMemoryOptions{{}, true});
  Region own_ = source_->allocate({StorageKind::System, 3_MiB, 512, -1});
  ProcessName self_ = ProcessName::current();
  SharedMemoryName name_ = own_.shared_name().value();
};

TEST_F(SharedMemoryFaults, APartIsMappedWhereverItBegins) {
  fill_pattern(bytes_of(own_), 9);
  for (std::uint64_t const offset : {std::uint64_t{1}, std::uint64_t{4095}, std::uint64_t{4096},
                                     std::uint64_t{100'001}, 3_MiB - 5000}) {
    auto const part = own_.subregion(offset, 5000);
    auto const name = part.shared_name().value();
    EXPECT_EQ(name.offset, offset);
    auto const mapped = map_shared(self_, name, 5000, StorageKind::Device, 4);
    EXPECT_NE(mapped.address(), part.address());
    EXPECT_EQ(mapped.device_id(), 4);
    EXPECT_TRUE(std::equal(mapped.host_data(), mapped.host_data() + 5000, part.host_data()))
        << offset;
  }
}

TEST_F(SharedMemoryFaults, OwnerKilledWhileMappedLeavesTheMemoryReadable) {
  Peer peer;
  auto const memory = peer.allocate(StorageKind::Pinned, 3_MiB);
  peer.expect(PeerCommand::Fill, 5);
  ProcessWatch const watch(memory.owner);
  EXPECT_TRUE(watch.is_alive());
  EXPECT_TRUE(is_alive_by_stat(memory.owner));
  auto const region = map_shared(memory.owner, memory.name, 3_MiB, StorageKind::System, -1);

  peer.process.stop();
  EXPECT_FALSE(watch.is_alive());
  EXPECT_FALSE(is_alive_by_stat(memory.owner));
  EXPECT_FALSE(ProcessWatch(memory.owner).is_alive());
  EXPECT_TRUE(watch.ends_within(std::chrono::milliseconds(0)));
  EXPECT_EQ(find_mismatch(bytes_of(region), 5), std::nullopt);
  fill_pattern(bytes_of(region), 6);
  EXPECT_EQ(find_mismatch(bytes_of(region), 6), std::nullopt);
  auto const failure = map(memory.owner, memory.name);
  EXPECT_EQ(failure.code, ErrorCode::NotFound);
  EXPECT_TRUE(failure.names("has ended")) << failure.message;
}

TEST_F(SharedMemoryFaults, AZombieIsDead) {
  Peer peer;
  auto const owner = peer.allocate(StorageKind::System, 4096).owner;
  ProcessWatch const watch(owner);
  peer.process.send_signal(SIGKILL);
  siginfo_t info{};
  ASSERT_EQ(waitid(P_PID, static_cast<id_t>(peer.process.pid()), &info, WEXITED | WNOWAIT), 0);
  EXPECT_FALSE(watch.is_alive());
  EXPECT_FALSE(is_alive_by_stat(owner));
  EXPECT_FALSE(ProcessWatch(owner).is_alive());
}

TEST_F(SharedMemoryFaults, AStoppedProcessIsAlive) {
  Peer const peer;
  auto const owner = peer.allocate(StorageKind::System, 4096).owner;
  peer.process.suspend();
  EXPECT_TRUE(ProcessWatch(owner).is_alive());
  EXPECT_TRUE(is_alive_by_stat(owner));
  peer.process.resume();
}

TEST_F(SharedMemoryFaults, AnotherProcessUnderThePidIsNotTakenForTheOwner) {
  ProcessName other = self_;
  ++other.start_time;
  EXPECT_EQ(map(other, name_).code, ErrorCode::NotFound);
  EXPECT_FALSE(ProcessWatch(other).is_alive());
  EXPECT_TRUE(ProcessWatch(self_).is_alive());
  EXPECT_NE(other, self_);
}

TEST_F(SharedMemoryFaults, OtherMachinesAndNamespacesAreRefused) {
  ProcessName other = self_;
  EXPECT_TRUE(is_same_machine(other));
  ++other.boot_id[1];
  EXPECT_FALSE(is_same_machine(other));
  EXPECT_EQ(map(other, name_).code, ErrorCode::Unsupported);
  EXPECT_EQ(failure_of_call([&] { return ProcessWatch(other).is_alive(); }).code,
            ErrorCode::Unsupported);
  other = self_;
  ++other.pid_namespace;
  EXPECT_FALSE(is_same_machine(other));
  EXPECT_EQ(map(other, name_).code, ErrorCode::Unsupported);
  for (std::int64_t const pid : {std::int64_t{0}, std::int64_t{-1}, std::int64_t{1} << 40U}) {
    other = self_;
    other.pid = pid;
    EXPECT_EQ(map(other, name_).code, ErrorCode::InvalidArgument);
    EXPECT_EQ(failure_of_call([&] { return ProcessWatch(other).is_alive(); }).code,
              ErrorCode::InvalidArgument);
  }
}

TEST_F(SharedMemoryFaults, NamesThatLieAreTypedErrors) {
  auto const code = [&](auto change, std::uint64_t bytes = 4096,
                        StorageKind kind = StorageKind::System) {
    SharedMemoryName name = name_;
    change(name);
    return map(self_, name, bytes, kind).code;
  };
  auto const same = [](SharedMemoryName&) {};
  constexpr auto kHuge = std::numeric_limits<std::uint64_t>::max();
  EXPECT_EQ(code([](auto& name) { ++name.inode; }), ErrorCode::NotFound);
  EXPECT_EQ(code([](auto& name) { ++name.device; }), ErrorCode::NotFound);
  EXPECT_EQ(code([](auto& name) { name.fd = 100'000; }), ErrorCode::NotFound);
  EXPECT_EQ(code([](auto& name) { name.fd = kHuge; }), ErrorCode::InvalidArgument);
  EXPECT_EQ(code([](auto& name) { name.file_bytes += 4096; }), ErrorCode::OutOfRange);
  EXPECT_EQ(code([](auto& name) { name.file_bytes -= 4096; }), ErrorCode::OutOfRange);
  EXPECT_EQ(code([](auto& name) { name.file_bytes = kHuge; }), ErrorCode::OutOfRange);
  EXPECT_EQ(code([](auto& name) { name.offset = 3_MiB - 4095; }), ErrorCode::OutOfRange);
  EXPECT_EQ(code([](auto& name) { name.offset = kHuge - 1; }), ErrorCode::OutOfRange);
  EXPECT_EQ(code([](auto& name) { name.kind = SharedMemoryName::Kind::CudaIpc; }),
            ErrorCode::Unsupported);
  EXPECT_EQ(code(same, 3_MiB + 1), ErrorCode::OutOfRange);
  EXPECT_EQ(code(same, kHuge), ErrorCode::OutOfRange);
  EXPECT_EQ(code(same, 0), ErrorCode::InvalidArgument);
  EXPECT_EQ(code(same, 4096, StorageKind::Disk), ErrorCode::InvalidArgument);
  EXPECT_EQ(code(same, 3_MiB), std::nullopt);
}

TEST_F(SharedMemoryFaults, FreedMemoryIsNotFoundNorIsWhatTookItsNumber) {
  Peer const peer;
  auto const memory = peer.allocate(StorageKind::System, 8192);
  peer.expect(PeerCommand::Free);
  auto failure = map(memory.owner, memory.name);
  EXPECT_EQ(failure.code, ErrorCode::NotFound);
  EXPECT_TRUE(failure.names("freed")) << failure.message;
  auto const next = peer.allocate(StorageKind::System, 8192);
  ASSERT_EQ(next.name.fd, memory.name.fd) << "the test wants the number to be taken again";
  failure = map(memory.owner, memory.name);
  EXPECT_EQ(failure.code, ErrorCode::NotFound);
  EXPECT_TRUE(failure.names("inode")) << failure.message;
}

TEST_F(SharedMemoryFaults, TheOwnerCannotShortenWhatOthersHaveMapped) {
  Peer const peer;
  auto const memory = peer.allocate(StorageKind::System, 8192);
  auto const region = map_shared(memory.owner, memory.name, 8192, StorageKind::System, -1);
  auto const answer = peer.tell({PeerCommand::Shorten, StorageKind::System, 0, {}});
  EXPECT_TRUE(answer.failed);
  EXPECT_EQ(answer.code, ErrorCode::Io);
  fill_pattern(bytes_of(region), 3);
  peer.expect(PeerCommand::Check, 3);
}

TEST_F(SharedMemoryFaults, FilesThatCouldBeShortenedAreRefused) {
  auto const unsealed = FileHandle::adopt(memfd_create("test", MFD_CLOEXEC | MFD_ALLOW_SEALING));
  ASSERT_EQ(ftruncate(unsealed.fd(), 4096), 0);
  EXPECT_EQ(map(self_, name_of(unsealed, 4096)).code, ErrorCode::Unsupported);
  ASSERT_EQ(fcntl(unsealed.fd(), F_ADD_SEALS, F_SEAL_SHRINK | F_SEAL_GROW), 0);
  EXPECT_EQ(map(self_, name_of(unsealed, 4096)).code, ErrorCode::Unsupported);
  ASSERT_EQ(fcntl(unsealed.fd(), F_ADD_SEALS, F_SEAL_WRITE | F_SEAL_SEAL), 0);
  EXPECT_EQ(map(self_, name_of(unsealed, 4096)).code, ErrorCode::Unsupported);
  int error = 0;
  auto const on_disk = FileHandle::try_open("/proc/self/exe", O_RDONLY, error);
  auto const status = on_disk.status("test");
  EXPECT_NE(map(self_, name_of(on_disk, static_cast<std::uint64_t>(status.st_size)), 4096).code,
            std::nullopt);
  auto const folder = FileHandle::try_open("/", O_RDONLY | O_DIRECTORY, error);
  EXPECT_EQ(map(self_, name_of(folder, 4096)).code, ErrorCode::NotFound);
  int ends[2] = {};
  ASSERT_EQ(pipe2(ends, O_CLOEXEC), 0);
  auto const in = FileHandle::adopt(ends[0]);
  auto const out = FileHandle::adopt(ends[1]);
  EXPECT_EQ(map(self_, name_of(in, 4096)).code, ErrorCode::NotFound);
}

TEST_F(SharedMemoryFaults, WithoutPermissionTheErrorSaysSo) {
  if (geteuid() != 0) { GTEST_SKIP() << "needs to change the user of a child"; }
  Peer const peer;
  peer.expect(PeerCommand::DropUser);
  auto const answer = peer.tell({PeerCommand::Map, StorageKind::System, 0, {self_, name_, 3_MiB}});
  ASSERT_TRUE(answer.failed);
  EXPECT_EQ(answer.code, ErrorCode::Unsupported);
  EXPECT_NE(std::string(answer.message.data()).find("no permission"), std::string::npos)
      << answer.message.data();
}

TEST_F(SharedMemoryFaults, AThousandMappingsLeaveNothingBehind) {
  Peer const peer;
  auto const memory = peer.allocate(StorageKind::System, 3_MiB);
  SharedMemoryName wrong = memory.name;
  ++wrong.inode;
  auto const once = [&] {
    auto const region = source_->open_shared(memory.owner, memory.name, 3_MiB, StorageKind::System);
    region.host_data()[3_MiB - 1] = std::byte{1};
    EXPECT_EQ(map(memory.owner, wrong).code, ErrorCode::NotFound);
    EXPECT_TRUE(ProcessWatch(memory.owner).is_alive());
    static_cast<void>(source_->allocate({StorageKind::Pinned, 8192, 512, -1}));
  };
  once();
  auto const files = count_open_files();
  auto const mappings = count_mappings();
  for (int i = 0; i < 1000; ++i) {
    once();
  }
  EXPECT_EQ(count_open_files(), files);
  // The allocator of the process may have taken or given back some by itself.
  EXPECT_LT(count_mappings(), mappings + 20);
}

TEST_F(SharedMemoryFaults, MemoryIsPrivateUnlessAskedFor) {
  auto const source = make_host_memory_source();
  for (StorageKind const kind : {StorageKind::System, StorageKind::Pinned}) {
    auto const region = source->allocate({kind, 3_MiB, 512, -1});
    EXPECT_FALSE(region.shared_name());
    EXPECT_FALSE(source->share(region));
  }
  EXPECT_FALSE(source_->allocate({StorageKind::System, 4095, 512, -1}).shared_name());
  EXPECT_TRUE(source_->allocate({StorageKind::Pinned, 1, 512, -1}).shared_name());
}

TEST_F(SharedMemoryFaults, MemoryIsFoundByItsAddressToo) {
  auto const known =
      Region::of_memory(StorageKind::System, own_.host_data() + 4096, 4096, -1, true);
  EXPECT_FALSE(known.shared_name());
  auto const name = source_->share(known);
  ASSERT_TRUE(name);
  EXPECT_EQ(name->offset, 4096U);
  EXPECT_EQ(name->inode, name_.inode);
  auto const beyond = Region::of_memory(StorageKind::System, own_.host_data(), 3_MiB + 1, -1, true);
  EXPECT_FALSE(source_->share(beyond));
  int local = 0;
  EXPECT_FALSE(source_->share(Region::of_memory(StorageKind::System, &local, 1, -1, true)));
}

TEST_F(SharedMemoryFaults, AHostSourceHasNoDevices) {
  EXPECT_EQ(failure_of_call([&] {
              return source_->open_shared(self_, name_, 4096, StorageKind::Device);
            }).code,
            ErrorCode::NotFound);
}

TEST_F(SharedMemoryFaults, TooMuchMemoryIsRefusedLikePrivateMemory) {
  auto const failure = failure_of_call(
      [&] { return source_->allocate({StorageKind::System, std::uint64_t{1} << 60U, 512, -1}); });
  EXPECT_EQ(failure.code, ErrorCode::OutOfMemory);
}

TEST(ProcessStat, ReadsFieldsBehindANameFullOfTraps) {
  std::string fields = "S";
  for (int field = 4; field <= 30; ++field) {
    fields += ' ' + std::to_string(field * 10);
  }
  auto const found = parse_process_stat("42 (a) 7 (b) R 1) " + fields);
  ASSERT_TRUE(found);
  EXPECT_EQ(found->state, 'S');
  EXPECT_EQ(found->start_time, 220U);
  EXPECT_FALSE(parse_process_stat(""));
  EXPECT_FALSE(parse_process_stat("42 (a) "));
  EXPECT_FALSE(parse_process_stat("42 (a) S 1 2 3"));
}

TEST(ProcessName, IsTheSameWheneverAskedAndTellsProcessesApart) {
  EXPECT_EQ(ProcessName::current(), ProcessName::current());
  EXPECT_EQ(ProcessName::current().pid, getpid());
  Peer const peer;
  auto const other = peer.allocate(StorageKind::System, 4096).owner;
  EXPECT_NE(other, ProcessName::current());
  EXPECT_TRUE(is_same_machine(other));
}

}  // namespace
}  // namespace kvbm::memory::test
