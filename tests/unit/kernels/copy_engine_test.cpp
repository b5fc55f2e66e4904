// SPDX-License-Identifier: Apache-2.0
#include "kvbm/kernels/copy_engine.hpp"

#include <gtest/gtest.h>

#include <algorithm>
#include <array>
#include <numeric>
#include <thread>

#include "kvbm/core/error.hpp"
#include "unit/kernels/strided_oracle.hpp"

namespace kvbm::kernels {
namespace {

using namespace testing;

/// Blocks of several segments on both sides, with shuffled ids and room between the boxes.
class Blocks {
 public:
  Blocks(kvbm_copy_template const& shape, std::size_t num_segments, std::size_t num_blocks,
         bool segments_inside_a_block, std::uint64_t seed)
      : shape_(shape), src_ids_(num_blocks), dst_ids_(num_blocks) {
    std::mt19937_64 random(seed);
    std::iota(src_ids_.begin(), src_ids_.end(), 0U);
    std::iota(dst_ids_.begin(), dst_ids_.end(), 0U);
    std::ranges::shuffle(src_ids_, random);
    std::ranges::shuffle(dst_ids_, random);
    src_stride_ = src_footprint(shape).bytes + 24;
    dst_box_ = dst_footprint(shape).bytes + 40;
    dst_stride_ = segments_inside_a_block ? dst_box_ * num_segments : dst_box_;
    src_ = noise(src_stride_ * num_blocks * num_segments + 64, seed + 1);
    dst_ = noise(dst_box_ * num_blocks * num_segments + 64, seed + 2);
    auto const address = [](std::byte* p) { return reinterpret_cast<std::uintptr_t>(p); };
    for (std::size_t s = 0; s < num_segments; ++s) {
      src_segments_.push_back(address(src_.data()) + 8 + s * num_blocks * src_stride_);
      dst_offsets_.push_back(16 + s * (segments_inside_a_block ? dst_box_ : dst_box_ * num_blocks));
      dst_segments_.push_back(address(dst_.data()) + dst_offsets_.back());
    }
  }

  [[nodiscard]] kvbm_copy_boxes boxes() const {
    return {src_segments_.size(), src_segments_.data(), dst_segments_.data(), src_stride_,
            dst_stride_,          src_ids_.size(),      src_ids_.data(),      dst_ids_.data()};
  }

  void expect_copied_by(CopyEngine& engine, int priority = 0) {
    std::vector<std::byte> expected = dst_;
    for (std::size_t s = 0; s < src_segments_.size(); ++s) {
      for (std::size_t b = 0; b < src_ids_.size(); ++b) {
        copy_by_definition(shape_,
                           src_.data() + 8 + (s * src_ids_.size() + src_ids_[b]) * src_stride_,
                           expected.data() + dst_offsets_[s] + dst_ids_[b] * dst_stride_);
      }
    }
    engine.copy(shape_, boxes(), priority);
    ASSERT_TRUE(dst_ == expected) << describe(shape_);
  }

 private:
  kvbm_copy_template shape_;
  std::vector<std::uint32_t> src_ids_;
  std::vector<std::uint32_t> dst_ids_;
  std::uint64_t src_stride_ = 0;
  std::uint64_t dst_box_ = 0;
  std::uint64_t dst_stride_ = 0;
  std::vector<std::byte> src_;
  std::vector<std::byte> dst_;
  std::vector<std::uintptr_t> src_segments_;
  std::vector<std::uintptr_t> dst_segments_;
  std::vector<std::uint64_t> dst_offsets_;
};

kvbm_copy_template run_of(std::uint64_t bytes) {
  kvbm_copy_template shape{};
  shape.run_bytes = bytes;
  return shape;
}

kvbm_copy_template heads_outside() {
  constexpr std::array<std::uint64_t, 5> kExtents{4, 3, 2, 16, 64};
  constexpr std::array<std::size_t, 5> kNhd{1, 2, 3, 0, 4};
  return dense_permute(kExtents, kNhd, 2);
}

CopyEngineOptions threads(unsigned count, std::uint64_t non_temporal = 0) {
  CopyEngineOptions options;
  options.num_threads = count;
  options.non_temporal_threshold_bytes = non_temporal;
  return options;
}

TEST(CopyEngine, CopiesManyBlocksWithSegments) {
  for (unsigned const count : {1U, 2U, 5U}) {
    for (std::uint64_t const non_temporal : {std::uint64_t{1}, std::uint64_t{1} << 40U}) {
      CopyEngine engine(threads(count, non_temporal));
      EXPECT_EQ(engine.num_threads(), count);
      for (bool const inside : {false, true}) {
        ASSERT_NO_FATAL_FAILURE(Blocks(run_of(4096), 7, 33, inside, 1).expect_copied_by(engine));
        ASSERT_NO_FATAL_FAILURE(Blocks(heads_outside(), 3, 9, inside, 2).expect_copied_by(engine));
        ASSERT_NO_FATAL_FAILURE(Blocks(run_of(31), 3, 3, inside, 3).expect_copied_by(engine));
      }
    }
  }
}

TEST(CopyEngine, SplitsOneHugeRun) {
  for (std::uint64_t const non_temporal : {std::uint64_t{1}, std::uint64_t{1} << 40U}) {
    CopyEngine engine(threads(4, non_temporal));
    Blocks(run_of((9U << 20U) + 13), 1, 1, false, 4).expect_copied_by(engine);
  }
}

TEST(CopyEngine, SplitsOneHugeBox) {
  constexpr std::array<std::uint64_t, 3> kExtents{8, 700, 256};
  constexpr std::array<std::size_t, 3> kHeadsInside{1, 0, 2};
  constexpr std::array<std::size_t, 3> kDimsOutside{2, 1, 0};
  CopyEngine engine(threads(4, 1));
  Blocks(dense_permute(kExtents, kHeadsInside, 2), 1, 1, false, 5).expect_copied_by(engine);
  Blocks(dense_permute(kExtents, kDimsOutside, 1), 1, 1, false, 6).expect_copied_by(engine);
}

TEST(CopyEngine, CopiesAHundredThousandSmallRuns) {
  CopyEngine engine(threads(3));
  Blocks(run_of(16), 1, 100000, false, 7).expect_copied_by(engine);
  kvbm_copy_template shape{};
  shape.num_dims = 1;
  shape.dims[0] = {100000, 24, 12};
  shape.run_bytes = 12;
  Blocks(shape, 1, 1, false, 8).expect_copied_by(engine);
}

class EngineRuns : public ::testing::TestWithParam<std::uint64_t> {};

TEST_P(EngineRuns, P10_RandomBoxesEqualTheDefinition) {
  std::uint64_t const seed = 77 + GetParam();
  SCOPED_TRACE("seed " + std::to_string(seed));
  std::mt19937_64 random(seed);
  CopyEngine cached(threads(3, std::uint64_t{1} << 40U));
  CopyEngine streaming(threads(3, 1));
  for (int round = 0; round < 8; ++round) {
    auto shape = random_template(random, GetParam(), 30000);
    for (kvbm_copy_dim& dim : shape.dims)
      dim.src_stride = std::abs(dim.src_stride);
    Blocks(shape, 1 + random() % 4, 1 + random() % 8, round % 2 == 0, random())
        .expect_copied_by(round % 3 == 0 ? streaming : cached);
    if (HasFatalFailure()) return;
  }
}

INSTANTIATE_TEST_SUITE_P(RunBytes, EngineRuns,
                         ::testing::Values(1, 2, 3, 4, 8, 12, 15, 16, 17, 31, 64, 256, 4097));

TEST(CopyEngine, NothingToCopyReturnsAtOnce) {
  CopyEngine engine(threads(2));
  kvbm_copy_boxes boxes{};
  engine.copy(run_of(64), boxes);
  boxes.num_blocks = 1;
  engine.copy(run_of(64), boxes);
  std::uintptr_t const nowhere = 0;
  std::uint32_t const block = 0;
  boxes = {1, &nowhere, &nowhere, 0, 0, 1, &block, &block};
  engine.copy(run_of(0), boxes);
}

TEST(CopyEngine, RefusesWhatItCannotCopy) {
  CopyEngine engine(threads(1));
  std::uint32_t const block = 0;
  std::uintptr_t const null_segment = 0;
  std::array<std::byte, 64> memory{};
  auto const segment = reinterpret_cast<std::uintptr_t>(memory.data());
  kvbm_copy_boxes const good{1, &segment, &segment, 0, 0, 1, &block, &block};
  auto const expect_refused = [&engine](kvbm_copy_template const& shape,
                                        kvbm_copy_boxes const& boxes) {
    try {
      engine.copy(shape, boxes);
      ADD_FAILURE() << "accepted";
    } catch (Error const& error) {
      EXPECT_EQ(error.code(), ErrorCode::InvalidArgument) << error.what();
    }
  };
  auto shape = run_of(8);
  shape.num_dims = KVBM_MAX_COPY_DIMS + 1;
  expect_refused(shape, good);
  shape.num_dims = 2;
  shape.dims[0] = {std::uint64_t{1} << 40U, 8, 8};
  shape.dims[1] = {std::uint64_t{1} << 40U, 8, 8};
  expect_refused(shape, good);
  shape.num_dims = 1;
  shape.dims[0] = {3, std::int64_t{1} << 62U, 8};
  expect_refused(shape, good);
  auto bad = good;
  bad.src_segments = nullptr;
  expect_refused(run_of(8), bad);
  bad = good;
  bad.dst_blocks = nullptr;
  expect_refused(run_of(8), bad);
  bad = good;
  bad.dst_segments = &null_segment;
  expect_refused(run_of(8), bad);
  bad = good;
  std::uint32_t const far = 4;
  bad.src_blocks = &far;
  bad.src_block_stride = std::uint64_t{1} << 62U;
  expect_refused(run_of(8), bad);
}

TEST(CopyEngine, ServesSixteenCallersAtOnce) {
  CopyEngine engine(threads(4));
  std::vector<std::jthread> callers;
  for (std::uint64_t caller = 0; caller < 16; ++caller) {
    callers.emplace_back([&engine, caller] {
      for (std::uint64_t round = 0; round < 4; ++round) {
        std::uint64_t const seed = caller * 100 + round;
        Blocks(heads_outside(), 2, 12, false, seed)
            .expect_copied_by(engine, static_cast<int>(caller % 3));
        Blocks(run_of(100000), 1, 3, false, seed).expect_copied_by(engine);
        Blocks(run_of(64), 1, 5, false, seed).expect_copied_by(engine);
      }
    });
  }
}

}  // namespace
}  // namespace kvbm::kernels
