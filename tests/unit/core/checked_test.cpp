// SPDX-License-Identifier: Apache-2.0
#include "kvbm/core/checked.hpp"

#include <gmock/gmock.h>
#include <gtest/gtest.h>

namespace kvbm {
namespace {

ErrorCode code_of(auto const& call) {
  try {
    static_cast<void>(call());
  } catch (Error const& error) { return error.code(); }
  ADD_FAILURE() << "nothing was thrown";
  return ErrorCode::Internal;
}

TEST(Checked, AddsUpToTheLimitAndNotBeyond) {
  EXPECT_EQ(checked_add(2, 3), 5U);
  EXPECT_EQ(checked_add(kMaxBytes - 1, 1), kMaxBytes);
  EXPECT_EQ(code_of([] { return checked_add(kMaxBytes, 1); }), ErrorCode::Overflow);
  EXPECT_EQ(code_of([] { return checked_add(~std::uint64_t{0}, 1); }), ErrorCode::Overflow);
}

TEST(Checked, MultipliesUpToTheLimitAndNotBeyond) {
  std::uint64_t const half = std::uint64_t{1} << 32U;
  EXPECT_EQ(checked_mul(std::uint64_t{6}, std::uint64_t{7}), 42U);
  EXPECT_EQ(checked_mul(std::uint64_t{0}, ~std::uint64_t{0}), 0U);
  EXPECT_EQ(code_of([&] { return checked_mul(half, half / 2); }), ErrorCode::Overflow);
  EXPECT_EQ(code_of([&] { return checked_mul(half, half); }), ErrorCode::Overflow);
  EXPECT_EQ(checked_mul(half, half / 4, std::uint64_t{1}), std::uint64_t{1} << 62U);
  EXPECT_EQ(code_of([&] { return checked_mul(half, half / 4, std::uint64_t{2}); }),
            ErrorCode::Overflow);
}

TEST(Checked, OverflowNamesTheOperands) {
  try {
    static_cast<void>(checked_mul(kMaxBytes, std::uint64_t{3}));
    FAIL();
  } catch (Error const& error) {
    EXPECT_THAT(error.what(), testing::HasSubstr("9223372036854775807 * 3"));
  }
}

TEST(Checked, AlignsUp) {
  EXPECT_EQ(checked_align_up(0, 512), 0U);
  EXPECT_EQ(checked_align_up(1, 512), 512U);
  EXPECT_EQ(checked_align_up(512, 512), 512U);
  EXPECT_EQ(checked_align_up(7, 1), 7U);
  EXPECT_EQ(code_of([] { return checked_align_up(1, 3); }), ErrorCode::InvalidArgument);
  EXPECT_EQ(code_of([] { return checked_align_up(1, 0); }), ErrorCode::InvalidArgument);
  EXPECT_EQ(code_of([] { return checked_align_up(kMaxBytes, 2); }), ErrorCode::Overflow);
}

TEST(Checked, KnowsPowersOfTwo) {
  EXPECT_TRUE(is_power_of_two(1));
  EXPECT_TRUE(is_power_of_two(std::uint64_t{1} << 63U));
  EXPECT_FALSE(is_power_of_two(0));
  EXPECT_FALSE(is_power_of_two(3));
}

}  // namespace
}  // namespace kvbm
