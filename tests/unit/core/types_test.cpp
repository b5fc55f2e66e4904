// SPDX-License-Identifier: Apache-2.0
#include "kvbm/core/types.hpp"

#include <gtest/gtest.h>

#include <algorithm>
#include <thread>
#include <vector>

#include "kvbm/core/checksum_stream.hpp"
#include "kvbm/core/error.hpp"

namespace kvbm {
namespace {

TEST(IndexRange, SizeEmptinessAndText) {
  EXPECT_EQ((IndexRange{2, 5}).size(), 3U);
  EXPECT_TRUE((IndexRange{5, 5}).empty());
  EXPECT_TRUE((IndexRange{5, 2}).empty());
  EXPECT_EQ(to_string(IndexRange{2, 5}), "[2, 5)");
}

TEST(IndexRange, IsRefusedWhenEmptyReversedOrTooLong) {
  auto const code_of = [](IndexRange range) {
    try {
      check_range(range, 8, "layer_range");
    } catch (Error const& error) {
      EXPECT_NE(std::string(error.what()).find("layer_range " + to_string(range)),
                std::string::npos);
      return error.code();
    }
    return ErrorCode::Internal;
  };
  EXPECT_EQ(code_of({3, 3}), ErrorCode::InvalidArgument);
  EXPECT_EQ(code_of({4, 3}), ErrorCode::InvalidArgument);
  EXPECT_EQ(code_of({0, 9}), ErrorCode::OutOfRange);
  EXPECT_NO_THROW(check_range({0, 8}, 8, "layer_range"));
}

// Published vector of XXH3-128 without seed: the hash of nothing.
TEST(Checksum, OfNothingIsTheKnownValue) {
  EXPECT_EQ(to_string(checksum_bytes(nullptr, 0)), "99aa06d3014798d86001c324468d497f");
}

TEST(Checksum, SeesEveryBitOfShortAndLongInput) {
  for (std::size_t const bytes : {1U, 17U, 240U, 4096U}) {
    std::vector<unsigned char> data(bytes, 0x5a);
    Checksum const before = checksum_bytes(data.data(), bytes);
    for (std::size_t at = 0; at < bytes; at += bytes / 8 + 1) {
      data[at] ^= 1U;
      EXPECT_NE(checksum_bytes(data.data(), bytes), before) << bytes << " bytes, at " << at;
      data[at] ^= 1U;
    }
    EXPECT_EQ(checksum_bytes(data.data(), bytes), before);
  }
}

TEST(Checksum, IsTheSameOnAllThreadsFromTheFirstCallOn) {
  std::vector<unsigned char> const data(100'000, 7);
  std::vector<Checksum> found(8);
  {
    std::vector<std::jthread> threads;
    for (auto& one : found) {
      threads.emplace_back([&] { one = checksum_bytes(data.data(), data.size()); });
    }
  }
  for (auto const& one : found) {
    EXPECT_EQ(one, found.front());
  }
}

TEST(ChecksumStream, EqualsTheHashOfTheWholeHoweverItIsCut) {
  std::vector<unsigned char> data(10'000);
  for (std::size_t i = 0; i < data.size(); ++i) {
    data[i] = static_cast<unsigned char>(i * 131 + i / 251);
  }
  ChecksumStream stream;
  EXPECT_EQ(stream.digest(), checksum_bytes(nullptr, 0));
  for (std::size_t const piece : {1U, 64U, 255U, 256U, 257U, 4096U, 10'000U}) {
    stream.reset();
    for (std::size_t at = 0; at < data.size(); at += piece) {
      stream.update(data.data() + at, std::min(piece, data.size() - at));
      std::size_t const seen = std::min(at + piece, data.size());
      ASSERT_EQ(stream.digest(), checksum_bytes(data.data(), seen)) << piece << ", " << seen;
    }
  }
}

TEST(Literals, AreBinary) {
  using namespace literals;
  EXPECT_EQ(64_KiB, 65536U);
  EXPECT_EQ(2_MiB, 2097152U);
  EXPECT_EQ(1_GiB, 1073741824U);
}

}  // namespace
}  // namespace kvbm
