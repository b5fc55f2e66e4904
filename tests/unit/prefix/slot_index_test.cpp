// SPDX-License-Identifier: Apache-2.0
#include "prefix/slot_index.hpp"

#include <gtest/gtest.h>

#include <filesystem>
#include <fstream>
#include <iterator>
#include <string>

#include "kvbm/core/error.hpp"
#include "kvbm/testing/failure.hpp"
#include "kvbm/testing/temp_folder.hpp"

namespace kvbm::testing {
namespace {

using prefix::BlockKey;
using prefix::SlotIndex;

constexpr std::size_t kHeader = 128;
constexpr std::size_t kRecord = 64;

class SlotIndexFile : public ::testing::Test {
 protected:
  [[nodiscard]] std::filesystem::path path() const { return folder_ / "index"; }
  static SlotIndex::Identity identity(std::uint64_t slots = 4) { return {{1, 2}, {3, 4}, slots}; }

  void write_two() const {
    SlotIndex index(path(), identity());
    index.put(1, BlockKey{{10, 11}}, {20, 21}, 5);
    index.put(3, BlockKey{{12, 13}}, {22, 23}, 6);
  }
  [[nodiscard]] SlotIndex::Loaded load() const { return SlotIndex(path(), identity()).load(); }
  [[nodiscard]] std::string content() const {
    std::ifstream file(path(), std::ios::binary);
    return {std::istreambuf_iterator<char>(file), {}};
  }
  void write_content(std::string const& text) const {
    std::ofstream(path(), std::ios::binary | std::ios::trunc) << text;
  }
  TempFolder folder_;
};

TEST_F(SlotIndexFile, RemembersWhatWasPutAndNotCleared) {
  EXPECT_TRUE(load().entries.empty());
  write_two();
  auto const loaded = load();
  ASSERT_EQ(loaded.entries.size(), 2U);
  EXPECT_EQ(loaded.num_damaged, 0U);
  EXPECT_EQ(loaded.entries[1].slot, 3U);
  EXPECT_EQ(loaded.entries[1].key, (BlockKey{{12, 13}}));
  EXPECT_EQ(loaded.entries[1].digest, (Checksum{22, 23}));
  EXPECT_EQ(loaded.entries[1].generation, 6U);
  SlotIndex(path(), identity()).clear(3);
  EXPECT_EQ(load().entries.size(), 1U);
}

TEST_F(SlotIndexFile, EveryFlippedBitCostsAtMostWhatItIsPartOf) {
  write_two();
  auto const good = content();
  ASSERT_EQ(good.size(), kHeader + 4 * kRecord);
  for (std::size_t at = 0; at < good.size(); ++at) {
    SCOPED_TRACE("byte " + std::to_string(at));
    auto bad = good;
    bad[at] = static_cast<char>(bad[at] ^ 0x10);
    write_content(bad);
    if (at >= 8 && at < 12) {
      EXPECT_EQ(failure_of_call([&] { return load(); }).code, ErrorCode::VersionMismatch);
      continue;
    }
    auto const loaded = load();
    EXPECT_EQ(loaded.num_damaged, 1U);
    std::size_t const slot = (at - kHeader) / kRecord;
    EXPECT_EQ(loaded.entries.size(), at < kHeader ? 0U : slot == 1 || slot == 3 ? 1U : 2U);
    for (auto const& entry : loaded.entries) {
      EXPECT_EQ(entry.key.value.low, entry.slot == 1 ? 10U : 12U);
    }
  }
}

TEST_F(SlotIndexFile, ARecordInAnotherPlaceOrOfAnotherFileIsNotBelieved) {
  write_two();
  auto moved = content();
  moved.replace(kHeader, kRecord, moved.substr(kHeader + kRecord, kRecord));
  auto const old = content().substr(kHeader + 3 * kRecord, kRecord);
  write_content(moved);
  EXPECT_EQ(load().num_damaged, 1U);
  std::filesystem::remove(path());
  EXPECT_TRUE(load().entries.empty());
  auto foreign = content();
  foreign.replace(kHeader + 3 * kRecord, kRecord, old);
  write_content(foreign);
  EXPECT_EQ(load().num_damaged, 1U);
}

TEST_F(SlotIndexFile, EveryLengthIsTakenAndNoneIsTrusted) {
  write_two();
  auto const good = content();
  for (std::size_t length = 0; length <= good.size() + 7; length += 13) {
    auto text = good;
    text.resize(length);
    write_content(text);
    auto const loaded = load();
    EXPECT_EQ(loaded.num_damaged, length == 0 ? 0U : 1U) << length;
    EXPECT_TRUE(loaded.entries.empty()) << length;
  }
}

TEST_F(SlotIndexFile, RefusesWhatIsNotItsOwn) {
  write_two();
  auto const open = [this](SlotIndex::Identity const& wanted) {
    return failure_of_call([&] { return SlotIndex(path(), wanted).load(); });
  };
  auto other = identity();
  other.model.low = 9;
  EXPECT_EQ(open(other).code, ErrorCode::InvalidArgument);
  other = identity();
  other.layout.high = 9;
  EXPECT_EQ(open(other).code, ErrorCode::InvalidArgument);
  EXPECT_EQ(open(identity(5)).code, ErrorCode::InvalidArgument);
  EXPECT_EQ(load().entries.size(), 2U) << "and leaves it as it is";
  SlotIndex const held(path(), identity());
  auto const busy = open(identity());
  EXPECT_EQ(busy.code, ErrorCode::Busy);
  EXPECT_TRUE(busy.names(path().string()));
}

}  // namespace
}  // namespace kvbm::testing
