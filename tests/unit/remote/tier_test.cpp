// SPDX-License-Identifier: Apache-2.0
#include "kvbm/remote/tier.hpp"

#include <gtest/gtest.h>

#include "kvbm/testing/failure.hpp"

namespace kvbm::remote {
namespace {

TEST(Tier, NamesRoundTrip) {
  for (auto const tier : {LogicalLayoutHandle::G1, LogicalLayoutHandle::G2, LogicalLayoutHandle::G3,
                          LogicalLayoutHandle::G4}) {
    EXPECT_EQ(tier_from_string(to_string(tier)), tier);
  }
}

TEST(Tier, AnUnknownNameIsRefused) {
  try {
    static_cast<void>(tier_from_string("G5"));
    FAIL() << "G5 was accepted";
  } catch (Error const& error) {
    EXPECT_EQ(error.code(), ErrorCode::InvalidArgument);
    EXPECT_NE(std::string_view(error.what()).find("G5"), std::string_view::npos);
  }
}

TEST(Tier, StorageKindsHaveTheirTier) {
  EXPECT_EQ(tier_of(memory::StorageKind::Device), LogicalLayoutHandle::G1);
  EXPECT_EQ(tier_of(memory::StorageKind::System), LogicalLayoutHandle::G2);
  EXPECT_EQ(tier_of(memory::StorageKind::Pinned), LogicalLayoutHandle::G2);
  EXPECT_EQ(tier_of(memory::StorageKind::Disk), LogicalLayoutHandle::G3);
  EXPECT_EQ(tier_of(memory::StorageKind::Object), LogicalLayoutHandle::G4);
}

}  // namespace
}  // namespace kvbm::remote
