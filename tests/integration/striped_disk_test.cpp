// SPDX-License-Identifier: Apache-2.0
//
// A disk layout over several files, as a transfer sees it.
#include <fstream>

#include "integration/tier.hpp"
#include "kvbm/memory/striped_file.hpp"

namespace kvbm::testing {
namespace {

class StripedDisk : public ::testing::Test {
 protected:
  StripedDisk() : manager_(small_manager().build()) {}

  [[nodiscard]] std::vector<std::filesystem::path> paths(std::size_t count) const {
    std::vector<std::filesystem::path> result;
    for (std::size_t i = 0; i < count; ++i) {
      result.push_back(folder_ / ("part" + std::to_string(i)));
    }
    return result;
  }
  [[nodiscard]] PhysicalLayout create(LayoutShape const& shape, std::size_t parts) const {
    auto const start = manager_.layout_builder().config(tier_config(kTierBlocks));
    auto const files = paths(parts);
    return shape.kind == layout::LayoutKind::FullyContiguous
               ? start.fully_contiguous(shape.format).allocate_disk(files).build()
               : start.layer_separate(shape.dimension, shape.format).allocate_disk(files).build();
  }
  void clear() const {
    for (auto const& name : folder_.list()) {
      std::filesystem::remove(folder_ / name);
    }
  }

  TempFolder folder_;
  TransferManager manager_;
  std::vector<BlockId> const ids_ = first_blocks(kTierBlocks);
};

TEST_F(StripedDisk, KeepsBlocksOfEveryShapeOverAReopening) {
  for (std::size_t const parts : {2U, 3U, 5U}) {
    for (auto const& shape : every_shape()) {
      SCOPED_TRACE(shape.name() + " in " + std::to_string(parts));
      {
        auto const tier = create(shape, parts);
        auto const cache = make_cache(manager_);
        write_all_blocks(cache, 5);
        move_blocks(manager_, cache, ids_, tier, ids_).wait();
        auto const set =
            std::dynamic_pointer_cast<memory::StripedFile>(tier.regions().front().store());
        ASSERT_NE(set, nullptr);
        EXPECT_EQ(set->parts().size(), parts);
        EXPECT_EQ(set->space().extents_written, set->space().extents_total);
      }
      auto const tier = PhysicalLayout::open_disk(manager_.memory_source(), paths(parts).front());
      EXPECT_EQ(tier.format(), shape.format);
      auto const cache = make_cache(manager_);
      move_blocks(manager_, tier, ids_, cache, ids_).wait();
      for (BlockId const id : ids_) {
        EXPECT_EQ(count_differences(cache, id, 5, id), 0U) << "block " << id;
      }
      clear();
    }
  }
}

TEST_F(StripedDisk, MovesBetweenSetsAndFiles) {
  auto const shape = contiguous(KvBlockLayout::UniversalTP);
  auto const set = create(shape, 3);
  auto const file = create_tier(manager_, folder_ / "file", shape);
  auto const cache = make_cache(manager_);
  write_all_blocks(cache, 8);
  move_blocks(manager_, cache, ids_, set, ids_).wait();
  std::vector<BlockId> const reversed(ids_.rbegin(), ids_.rend());
  move_blocks(manager_, set, ids_, file, reversed).wait();
  auto const back = make_cache(manager_);
  move_blocks(manager_, file, reversed, back, ids_).wait();
  for (BlockId const id : ids_) {
    EXPECT_EQ(count_differences(back, id, 8, id), 0U) << "block " << id;
  }
}

TEST_F(StripedDisk, DamageIsNamedByBlockAndFile) {
  auto const shape = contiguous(KvBlockLayout::UniversalTP);
  auto const set = create(shape, 3);
  auto const cache = make_cache(manager_);
  write_all_blocks(cache, 8);
  move_blocks(manager_, cache, ids_, set, ids_).wait();
  {
    std::fstream file(paths(3)[1], std::ios::binary | std::ios::in | std::ios::out);
    int const byte = file.get();
    file.seekp(0);
    file.put(static_cast<char>(byte ^ 16));
    ASSERT_TRUE(file.good());
  }
  auto const reading = move_blocks(manager_, set, ids_, cache, ids_);
  EXPECT_THROW(reading.wait(), CorruptError);
  auto const failed = reading.failed_blocks();
  ASSERT_EQ(failed.size(), 1U);
  EXPECT_EQ(failed[0].position, 1U);
  auto const failure = failure_of(failed[0].error);
  EXPECT_TRUE(failure.names("extent 1 of group 0")) << failure.message;
  EXPECT_TRUE(failure.names(paths(3)[1].string())) << failure.message;
}

TEST_F(StripedDisk, ListsOfPathsAreCheckedWhenItIsBuilt) {
  auto const builder = manager_.layout_builder().config(tier_config(4)).fully_contiguous();
  auto const failure = [&](std::vector<std::filesystem::path> const& files) {
    return failure_of_call([&] { return builder.allocate_disk(files).build(); });
  };
  EXPECT_EQ(failure({}).code, ErrorCode::InvalidArgument);
  EXPECT_EQ(failure({folder_ / "a", ""}).code, ErrorCode::InvalidArgument);
  EXPECT_EQ(failure({folder_ / "a", folder_ / "a"}).code, ErrorCode::InvalidArgument);
  EXPECT_TRUE(folder_.list().empty());
  EXPECT_EQ(failure({folder_ / "one"}).code, std::nullopt);
  EXPECT_EQ(folder_.list(), (std::vector<std::string>{"one", "one.blocks", "one.manifest"}));
}

}  // namespace
}  // namespace kvbm::testing
