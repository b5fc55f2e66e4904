// SPDX-License-Identifier: Apache-2.0
#include <gtest/gtest.h>
#include <sys/resource.h>
#include <unistd.h>

#include <algorithm>
#include <thread>
#include <vector>

#include "kvbm/core/types.hpp"
#include "kvbm/memory/disk_io.hpp"
#include "kvbm/memory/memory_source.hpp"
#include "kvbm/memory/numa.hpp"
#include "kvbm/testing/failure.hpp"

namespace kvbm::memory {
namespace {

using namespace literals;
using testing::failure_of_call;

class HostMemory : public ::testing::TestWithParam<std::tuple<StorageKind, std::uint64_t>> {
 protected:
  std::shared_ptr<MemorySource> source_ = make_host_memory_source();
};

TEST_P(HostMemory, A1_AllocatesZeroedAlignedMemoryThatIsClassified) {
  auto const [kind, bytes] = GetParam();
  auto const region = source_->allocate({kind, bytes, 1024, -1});
  ASSERT_NE(region.host_data(), nullptr);
  EXPECT_EQ(region.bytes(), bytes);
  EXPECT_EQ(region.kind(), kind);
  EXPECT_EQ(region.address() % 1024, 0U);
  if (bytes >= 2_MiB) { EXPECT_EQ(region.address() % 2_MiB, 0U); }
  auto* const data = region.host_data();
  EXPECT_TRUE(std::all_of(data, data + bytes, [](std::byte b) { return b == std::byte{0}; }));
  std::fill(data, data + bytes, std::byte{0xff});

  auto const first = source_->classify(data);
  ASSERT_TRUE(first.has_value());
  EXPECT_EQ(first->kind, kind);
  EXPECT_EQ(first->bytes_left, bytes);
  auto const last = source_->classify(data + bytes - 1);
  ASSERT_TRUE(last.has_value());
  EXPECT_EQ(last->bytes_left, 1U);
}

TEST_P(HostMemory, A1_MemoryOutlivesItsSourceAndIsForgottenWithItsLastRegion) {
  auto const [kind, bytes] = GetParam();
  auto first = std::make_unique<Region>(source_->allocate({kind, bytes, 1, -1}));
  void const* const address = first->host_data();
  auto copy = std::make_unique<Region>(*first);
  first.reset();
  EXPECT_TRUE(source_->classify(address).has_value());
  copy.reset();
  EXPECT_FALSE(source_->classify(address).has_value());

  auto const orphan = source_->allocate({kind, bytes, 1, -1});
  source_.reset();
  orphan.host_data()[bytes - 1] = std::byte{1};
  EXPECT_EQ(orphan.host_data()[bytes - 1], std::byte{1});
}

std::string name_of(::testing::TestParamInfo<HostMemory::ParamType> const& info) {
  return std::string(to_string(std::get<0>(info.param))) + std::to_string(std::get<1>(info.param));
}

INSTANTIATE_TEST_SUITE_P(Kinds, HostMemory,
                         ::testing::Combine(::testing::Values(StorageKind::System,
                                                              StorageKind::Pinned),
                                            ::testing::Values(1, 4095, 4096, 3_MiB + 1)),
                         name_of);

TEST(HostMemorySource, A1_RefusesWithTypedErrors) {
  auto const source = make_host_memory_source();
  auto const code = [&](AllocationRequest const& request) {
    return failure_of_call([&] { return source->allocate(request); }).code;
  };
  EXPECT_EQ(code({StorageKind::System, 0, 512, -1}), ErrorCode::InvalidArgument);
  EXPECT_EQ(code({StorageKind::System, 64, 3, -1}), ErrorCode::InvalidArgument);
  EXPECT_EQ(code({StorageKind::System, 64, 0, -1}), ErrorCode::InvalidArgument);
  EXPECT_EQ(code({StorageKind::Disk, 64, 512, -1}), ErrorCode::InvalidArgument);
  EXPECT_EQ(code({StorageKind::Object, 64, 512, -1}), ErrorCode::InvalidArgument);
  EXPECT_EQ(code({StorageKind::Device, 64, 512, 0}), ErrorCode::NotFound);
  EXPECT_EQ(failure_of_call([&] { return source->is_host_accessible(0); }).code,
            ErrorCode::NotFound);
}

TEST(HostMemorySource, A1_TooMuchMemoryIsAnErrorThatNamesTheBytes) {
  auto const source = make_host_memory_source();
  for (auto const kind : {StorageKind::System, StorageKind::Pinned}) {
    auto const failure =
        failure_of_call([&] { return source->allocate({kind, std::uint64_t{1} << 60U, 512, -1}); });
    EXPECT_EQ(failure.code, ErrorCode::OutOfMemory);
    EXPECT_NE(failure.message.find("1152921504606846976"), std::string::npos) << failure.message;
  }
}

TEST(HostMemorySource, UnknownAddressesAreNotClassified) {
  auto const source = make_host_memory_source();
  int local = 0;
  EXPECT_FALSE(source->classify(&local).has_value());
  EXPECT_FALSE(source->classify(nullptr).has_value());
  auto const region = source->allocate({StorageKind::System, 100, 512, -1});
  EXPECT_FALSE(source->classify(region.host_data() + 100).has_value());
  EXPECT_FALSE(make_host_memory_source()->classify(region.host_data()).has_value());
}

TEST(HostMemorySource, PinnedMemoryIsCountedWhileItLives) {
  auto const source = make_host_memory_source();
  EXPECT_EQ(source->pinned_stats().bytes, 0U);
  {
    auto const system = source->allocate({StorageKind::System, 64_KiB, 512, -1});
    auto const pinned = source->allocate({StorageKind::Pinned, 5000, 512, -1});
    auto const stats = source->pinned_stats();
    EXPECT_EQ(stats.regions, 1U);
    EXPECT_EQ(stats.bytes, 8192U);
    EXPECT_LE(stats.locked_bytes, stats.bytes);
  }
  EXPECT_EQ(source->pinned_stats().regions, 0U);
  EXPECT_EQ(source->pinned_stats().locked_bytes, 0U);
}

// Exits with 0 if an allocation beyond the limit is locked in part and usable as a whole.
[[noreturn]] void allocate_under_a_small_limit() {
  rlimit const limit{64 * 1024, 64 * 1024};
  bool const ready =
      setrlimit(RLIMIT_MEMLOCK, &limit) == 0 && (geteuid() != 0 || setuid(65534) == 0);
  auto const source = make_host_memory_source();
  auto const region = source->allocate({StorageKind::Pinned, 1_MiB, 512, -1});
  region.host_data()[1_MiB - 1] = std::byte{1};
  auto const stats = source->pinned_stats();
  bool const partly = stats.locked_bytes > 0 && stats.locked_bytes <= 64 * 1024;
  _exit(ready && stats.bytes == 1_MiB && partly ? 0 : 1);
}

// In a child: the limit and the lost privilege would outlive the test.
TEST(HostMemorySourceDeathTest, LocksAsMuchAsTheLimitAllowsAndGoesOn) {
#if defined(__SANITIZE_ADDRESS__) || defined(__SANITIZE_THREAD__)
  GTEST_SKIP() << "the sanitizers replace mlock by a function that does nothing";
#endif
  EXPECT_EXIT(allocate_under_a_small_limit(), ::testing::ExitedWithCode(0), "");
}

TEST(HostMemorySource, A4_PinnedMemoryIsPlacedOnTheNodeOfItsDevice) {
  int asked = -1;
  int const node = num_numa_nodes() - 1;
  auto const source = make_host_memory_source([&](DeviceId id) {
    asked = id;
    return node;
  });
  auto const region = source->allocate({StorageKind::Pinned, 4_MiB, 512, 5});
  EXPECT_EQ(asked, 5);
  EXPECT_EQ(region.device_id(), 5);
  EXPECT_EQ(source->classify(region.host_data())->device_id, 5);
  std::fill_n(region.host_data(), region.bytes(), std::byte{1});
  NumaPlacement placement;
  try {
    placement = check_numa_placement(region.host_data(), region.bytes(), node);
  } catch (Error const& error) { GTEST_SKIP() << error.what(); }
  EXPECT_EQ(placement.pages, 1024U);
  EXPECT_EQ(placement.on_node, placement.pages);
  EXPECT_EQ(placement.absent, 0U);
}

TEST(HostMemorySource, DiskIoIsMadeOnceForAllThreads) {
  auto const source = make_host_memory_source();
  std::vector<std::shared_ptr<DiskIo>> found(4);
  {
    std::vector<std::jthread> threads;
    for (auto& one : found) {
      threads.emplace_back([&] { one = source->disk_io(); });
    }
  }
  for (auto const& one : found) {
    EXPECT_EQ(one, found.front());
  }
  ASSERT_NE(found.front(), nullptr);
}

}  // namespace
}  // namespace kvbm::memory
