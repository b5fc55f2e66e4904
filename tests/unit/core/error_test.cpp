// SPDX-License-Identifier: Apache-2.0
#include "kvbm/core/error.hpp"

#include <gmock/gmock.h>
#include <gtest/gtest.h>

#include <cerrno>
#include <set>
#include <string>

namespace kvbm {
namespace {

TEST(Error, EveryCodeHasItsOwnName) {
  std::set<std::string> names;
  int const last = static_cast<int>(ErrorCode::Internal);
  for (int i = 0; i <= last; ++i) {
    names.emplace(to_string(static_cast<ErrorCode>(i)));
  }
  EXPECT_EQ(names.size(), static_cast<std::size_t>(last) + 1);
  EXPECT_FALSE(names.contains("Unknown"));
  EXPECT_EQ(to_string(ErrorCode::VersionMismatch), "VersionMismatch");
}

TEST(Error, CarriesCodeMessageAndNativeCode) {
  try {
    throw_error(ErrorCode::Io, "the disk is full", ENOSPC);
  } catch (Error const& error) {
    EXPECT_EQ(error.code(), ErrorCode::Io);
    EXPECT_EQ(error.native_code(), ENOSPC);
    EXPECT_STREQ(error.what(), "the disk is full");
    EXPECT_FALSE(error.retryable());
  }
}

TEST(Error, ThrowsTheSubclassOfTheCode) {
  EXPECT_THROW(throw_error(ErrorCode::Corrupt, ""), CorruptError);
  EXPECT_THROW(throw_error(ErrorCode::Timeout, ""), TimeoutError);
  EXPECT_THROW(throw_error(ErrorCode::Cancelled, ""), CancelledError);
  EXPECT_THROW(throw_error(ErrorCode::Unsupported, ""), UnsupportedError);
  EXPECT_THROW(throw_error(ErrorCode::PeerLost, ""), PeerError);
}

TEST(Error, SaysWhetherARetryCanHelp) {
  EXPECT_TRUE(Error(ErrorCode::Busy, "").retryable());
  EXPECT_TRUE(Error(ErrorCode::OutOfMemory, "").retryable());
  EXPECT_TRUE(PeerError("").retryable());
  EXPECT_FALSE(Error(ErrorCode::Corrupt, "").retryable());
}

TEST(Error, DescribesErrno) {
  EXPECT_EQ(describe_errno(ENOSPC), "No space left on device (errno 28)");
}

TEST(Error, ExpectsBuildsItsMessageOnlyOnFailure) {
  int built = 0;
  auto const message = [&built] {
    ++built;
    return std::string("value 3 is odd");
  };
  KVBM_EXPECTS(built == 0, InvalidArgument, message());
  EXPECT_EQ(built, 0);
  EXPECT_THROW(KVBM_EXPECTS(built != 0, Cancelled, message()), CancelledError);
  EXPECT_EQ(built, 1);
}

}  // namespace
}  // namespace kvbm
