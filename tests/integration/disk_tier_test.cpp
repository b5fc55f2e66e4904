// SPDX-License-Identifier: Apache-2.0
//
// The disk tier at the manager: reopened, damaged, shared, full and failing.
#include <algorithm>
#include <cerrno>
#include <fstream>
#include <optional>
#include <thread>

#include "integration/tier.hpp"
#include "kvbm/testing/gated_disk.hpp"

namespace kvbm::testing {
namespace {

using memory::OpenMode;

class DiskTier : public ::testing::Test {
 protected:
  DiskTier() : manager_(small_manager().disk_io(disk_.io()).build()) {}

  [[nodiscard]] std::filesystem::path path() const { return folder_ / "tier"; }
  LayoutShape const plain_ = contiguous(KvBlockLayout::UniversalTP);
  std::vector<BlockId> const ids_ = first_blocks(kTierBlocks);

  /// A tier with every block written from a cache of `seed`, closed again.
  void create_filled(std::uint64_t seed, LayoutShape const& shape) {
    auto const tier = create_tier(manager_, path(), shape);
    auto const cache = make_cache(manager_);
    write_all_blocks(cache, seed);
    move_blocks(manager_, cache, ids_, tier, ids_).wait();
  }
  PhysicalLayout open(OpenMode mode = OpenMode::ReadWrite) {
    return PhysicalLayout::open_disk(manager_.memory_source(), path(), mode);
  }
  /// Reads everything; the blocks in `bad` must fail with `code` and name file and block, all
  /// others must hold `seed`.
  void expect_read(PhysicalLayout const& tier, std::uint64_t seed, std::vector<BlockId> const& bad,
                   std::optional<ErrorCode> code) {
    auto const cache = make_cache(manager_);
    auto const reading = move_blocks(manager_, tier, ids_, cache, ids_);
    EXPECT_EQ(failure_of_call([&] { reading.wait(); }).code, bad.empty() ? std::nullopt : code);
    std::vector<BlockId> failed;
    for (auto const& block : reading.failed_blocks()) {
      failed.push_back(static_cast<BlockId>(block.position));
      auto const failure = failure_of(block.error);
      EXPECT_EQ(failure.code, code) << failure.message;
      EXPECT_TRUE(failure.names(path().string())) << failure.message;
      EXPECT_TRUE(failure.names("extent " + std::to_string(block.position))) << failure.message;
    }
    EXPECT_EQ(failed, bad);
    for (BlockId const id : ids_) {
      if (std::ranges::find(bad, id) == bad.end()) {
        EXPECT_EQ(count_differences(cache, id, seed, id), 0U) << "block " << id;
      } else {
        auto const empty = make_cache(manager_);
        EXPECT_EQ(snapshot_of(cache, id), snapshot_of(empty, id)) << "garbage arrived";
      }
    }
  }
  static std::vector<std::byte> snapshot_of(PhysicalLayout const& layout, BlockId block) {
    std::vector<std::byte> bytes;
    ElementAccess elements(layout);
    for_each_element(layout, [&](Element const& e) {
      auto const* const element = elements.at(block, e);
      bytes.insert(bytes.end(), element, element + layout.geometry().element_bytes);
    });
    return bytes;
  }

  TempFolder folder_;
  GatedDisk disk_;
  TransferManager manager_;
};

TEST_F(DiskTier, ReopensWithItsShapeAndContent) {
  for (auto const& shape : every_shape()) {
    SCOPED_TRACE(shape.name());
    create_filled(5, shape);
    {
      auto const tier = open();
      EXPECT_EQ(tier.kind(), shape.kind);
      EXPECT_EQ(tier.format(), shape.format);
      EXPECT_EQ(tier.config().num_blocks(), kTierBlocks);
      expect_read(tier, 5, {}, {});
    }
    for (auto const& name : folder_.list()) {
      std::filesystem::remove(folder_ / name);
    }
  }
}

TEST_F(DiskTier, FlippedBitCostsItsBlockOnlyAndIsNamed) {
  create_filled(5, plain_);
  std::uint64_t offset = 0;
  {
    auto const tier = open();
    auto const extent = tier.extent(7, 0);
    offset = tier.regions()[extent.region].store_offset() + extent.offset + extent.bytes / 2;
  }
  {
    std::fstream file(path(), std::ios::binary | std::ios::in | std::ios::out);
    file.seekg(static_cast<std::streamoff>(offset));
    int const byte = file.get();
    file.seekp(static_cast<std::streamoff>(offset));
    file.put(static_cast<char>(byte ^ 16));
    ASSERT_TRUE(file.good());
  }
  auto const tier = open();
  expect_read(tier, 5, {7}, ErrorCode::Corrupt);
  auto const handle = manager_.register_layout(tier);
  EXPECT_THROW((void)manager_.block_checksums(handle, ids_), CorruptError);
  auto const cache = make_cache(manager_);
  write_all_blocks(cache, 5);
  move_blocks(manager_, cache, {7}, tier, {7}).wait();
  expect_read(tier, 5, {}, {});
}

TEST_F(DiskTier, TruncatedFileIsRefusedOrCostsItsLastBlocks) {
  create_filled(5, plain_);
  auto const size = std::filesystem::file_size(path());
  {
    auto const tier = open();
    std::filesystem::resize_file(path(), size / 2);  // while it is open
    auto const cache = make_cache(manager_);
    auto const reading = move_blocks(manager_, tier, ids_, cache, ids_);
    EXPECT_THROW(reading.wait(), Error);
    auto const failed = reading.failed_blocks();
    ASSERT_EQ(failed.size(), kTierBlocks / 2);
    EXPECT_EQ(failed.front().position, kTierBlocks / 2);
    for (BlockId id = 0; id < kTierBlocks / 2; ++id) {
      EXPECT_EQ(count_differences(cache, id, 5, id), 0U);
    }
  }
  auto const failure = failure_of_call([&] { return open(); });
  EXPECT_EQ(failure.code, ErrorCode::Corrupt);
  EXPECT_TRUE(failure.names(path().string())) << failure.message;
}

TEST_F(DiskTier, TwoManagersCannotWriteOneFileButCanReadIt) {
  create_filled(5, plain_);
  auto other = small_manager().build();
  {
    auto const tier = open();
    auto const failure =
        failure_of_call([&] { return PhysicalLayout::open_disk(other.memory_source(), path()); });
    EXPECT_EQ(failure.code, ErrorCode::Busy);
    EXPECT_TRUE(failure.names(path().string())) << failure.message;
  }
  auto const mine = open(OpenMode::ReadOnly);
  auto const theirs = PhysicalLayout::open_disk(other.memory_source(), path(), OpenMode::ReadOnly);
  expect_read(mine, 5, {}, {});
  auto const cache = make_cache(other);
  move_blocks(other, theirs, ids_, cache, ids_).wait();
  EXPECT_EQ(count_differences(cache, 3, 5, 3), 0U);
  EXPECT_EQ(failure_of_call([&] {
              move_blocks(other, cache, {0}, theirs, {0}).wait();
              return 0;
            }).code,
            ErrorCode::InvalidArgument);
}

TEST_F(DiskTier, PartialWritesFromManyTransfersDoNotLoseUpdates) {
  // Each transfer writes one layer of every block: read, overlaid, written, all at the same time.
  for (auto const& shape : {plain_, contiguous(KvBlockLayout::OperationalNHD)}) {
    for (int round = 0; round < 3; ++round) {
      {
        auto const tier = create_tier(manager_, path(), shape);
        auto const cache = make_cache(manager_);
        write_all_blocks(cache, 9);
        std::vector<std::thread> threads;
        for (std::uint64_t layer = 0; layer < 4; ++layer) {
          threads.emplace_back([&, layer] {
            for (std::uint64_t head = 0; head < 4; head += 2) {
              auto const options = TransferOptions::builder()
                                       .layer_range(layer, layer + 1)
                                       .head_range({head, head + 2})
                                       .build();
              auto const failure = failure_of_call([&] {
                move_blocks(manager_, cache, ids_, tier, ids_, options).wait();
                return 0;
              });
              EXPECT_EQ(failure.code, std::nullopt) << failure.message;
            }
          });
        }
        for (auto& thread : threads) {
          thread.join();
        }
        expect_read(tier, 9, {}, {});
      }
      for (auto const& name : folder_.list()) {
        std::filesystem::remove(folder_ / name);
      }
    }
  }
}

TEST_F(DiskTier, FullAndFailingDisksCostExactlyTheirBlocks) {
  create_filled(5, plain_);
  auto const tier = open();
  std::uint64_t const stride = tier.geometry().block_stride;
  auto const cache = make_cache(manager_);
  write_all_blocks(cache, 6);
  std::vector<BlockId> even;
  for (BlockId id = 0; id < kTierBlocks; id += 2) {
    even.push_back(id);
  }
  for (int const error : {ENOSPC, EIO}) {
    disk_.fail(error, [stride](auto const& request) {
      return request.op == memory::DiskRequest::Op::Write &&
             (request.offset / stride == 8 || request.offset / stride == 14);
    });
    auto const writing = move_blocks(manager_, cache, even, tier, even);
    auto const failure = failure_of_call([&] { writing.wait(); });
    EXPECT_EQ(failure.code, ErrorCode::Io);
    EXPECT_EQ(failure.native_code, error) << failure.message;
    EXPECT_TRUE(failure.names(path().string())) << failure.message;
    auto const failed = writing.failed_blocks();
    ASSERT_EQ(failed.size(), 2U);
    EXPECT_EQ(even[failed[0].position], 8U);
    EXPECT_EQ(even[failed[1].position], 14U);
    disk_.fail(0, {});
    auto const back = make_cache(manager_);
    auto const reading = move_blocks(manager_, tier, ids_, back, ids_);
    EXPECT_EQ(failure_of_call([&] { reading.wait(); }).code, ErrorCode::NotFound);
    EXPECT_EQ(reading.failed_blocks().size(), 2U);
    for (BlockId const id : ids_) {
      if (id == 8 || id == 14) { continue; }
      EXPECT_EQ(count_differences(back, id, id % 2 == 0 ? 6 : 5, id), 0U) << "block " << id;
    }
    move_blocks(manager_, cache, even, tier, even).wait();
  }
}

TEST_F(DiskTier, FileSystemTooSmallIsAnIoErrorNamingThePath) {
  SmallFileSystem const small(256U << 10U);
  if (!small.refusal().empty()) { GTEST_SKIP() << small.refusal(); }
  auto const failure =
      failure_of_call([&] { return create_tier(manager_, small.path() / "tier", plain_); });
  EXPECT_EQ(failure.code, ErrorCode::Io);
  EXPECT_EQ(failure.native_code, ENOSPC);
  EXPECT_TRUE(failure.names((small.path() / "tier").string())) << failure.message;
  EXPECT_TRUE(std::filesystem::is_empty(small.path())) << "something was left behind";
}

TEST_F(DiskTier, PathThatCannotBeWrittenIsAnErrorNamingIt) {
  auto const failure =
      failure_of_call([&] { return create_tier(manager_, folder_ / "missing" / "tier", plain_); });
  EXPECT_EQ(failure.code, ErrorCode::Io);
  EXPECT_EQ(failure.native_code, ENOENT);
  EXPECT_TRUE(failure.names("missing")) << failure.message;
  create_filled(5, plain_);
  EXPECT_EQ(failure_of_call([&] { return create_tier(manager_, path(), plain_); }).code,
            ErrorCode::AlreadyExists);
}

TEST_F(DiskTier, SyncMakesWrittenBlocksDurableAndIsHarmlessElsewhere) {
  auto const tier = create_tier(manager_, path(), plain_);
  auto const handle = manager_.register_layout(tier);
  auto const cache = manager_.register_layout(make_cache(manager_));
  manager_.fill_blocks(cache, ids_, {});
  manager_.execute_transfer(cache, ids_, handle, ids_).wait();
  EXPECT_NO_THROW(manager_.sync(handle));
  EXPECT_NO_THROW(manager_.sync(cache));
  EXPECT_EQ(manager_.block_checksums(handle, ids_), manager_.block_checksums(cache, ids_));
}

}  // namespace
}  // namespace kvbm::testing
