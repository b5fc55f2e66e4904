// SPDX-License-Identifier: Apache-2.0
#include <gtest/gtest.h>

#include <functional>
#include <numeric>
#include <string>
#include <vector>

#include "kvbm/core/error.hpp"
#include "kvbm/device/device.hpp"
#include "kvbm/transfer/kv_blocks.hpp"
#include "kvbm/transfer/validate.hpp"

namespace kvbm::transfer {
namespace {

using layout::BlockDimension;
using layout::KvBlockLayout;
using layout::LayoutConfig;
using layout::PhysicalLayout;

struct Shape {
  std::uint64_t nb = 8, nl = 3, no = 2, nt = 4, nh = 2, hd = 8, width = 2;
};

LayoutConfig config_of(Shape const& s) {
  return LayoutConfig::builder()
      .num_blocks(s.nb)
      .num_layers(s.nl)
      .outer_dim(s.no)
      .page_size(s.nt)
      .inner_dim(s.nh * s.hd)
      .num_heads(s.nh)
      .dtype_width_bytes(s.width)
      .build();
}

PhysicalLayout make(Shape const& shape = {},
                    KvBlockLayout const& format = KvBlockLayout::OperationalNHD) {
  return PhysicalLayout::builder(memory::make_host_memory_source())
      .config(config_of(shape))
      .fully_contiguous(format)
      .allocate_system()
      .build();
}

/// Code and message of what `body` throws.
std::pair<ErrorCode, std::string> failure_of(std::function<void()> const& body) {
  try {
    body();
  } catch (Error const& error) { return {error.code(), error.what()}; }
  ADD_FAILURE() << "nothing was thrown";
  return {ErrorCode::Internal, ""};
}

void expect_failure(std::function<void()> const& body, ErrorCode code,
                    std::vector<std::string> const& parts) {
  auto const [found, message] = failure_of(body);
  EXPECT_EQ(to_string(found), to_string(code)) << message;
  for (auto const& part : parts) {
    EXPECT_NE(message.find(part), std::string::npos) << "'" << part << "' not in: " << message;
  }
}

std::function<void()> pairing(PhysicalLayout const& src, PhysicalLayout const& dst,
                              TransferOptions const& options = {}) {
  return [=] { static_cast<void>(validate_pair(src, dst, options)); };
}

TEST(ValidatePair, V2_EveryMismatchOfShapeIsNamedWithBothValues) {
  auto const base = make();
  auto const with = [](auto change) {
    Shape shape;
    change(shape);
    return make(shape);
  };
  using S = Shape;
  expect_failure(pairing(base, with([](S& s) { s.nl = 5; })), ErrorCode::InvalidArgument,
                 {"num_layers", "3", "5"});
  expect_failure(pairing(base, with([](S& s) { s.no = 1; })), ErrorCode::InvalidArgument,
                 {"outer_dim", "2", "1"});
  expect_failure(pairing(base, with([](S& s) { s.nt = 8; })), ErrorCode::InvalidArgument,
                 {"page_size", "4", "8"});
  expect_failure(pairing(base, with([](S& s) { s.hd = 16; })), ErrorCode::InvalidArgument,
                 {"head_dim", "8", "16"});
  expect_failure(pairing(base, with([](S& s) { s.width = 4; })), ErrorCode::InvalidArgument,
                 {"dtype_width_bytes", "2", "4"});
  expect_failure(pairing(base, with([](S& s) { s.nh = 4; })), ErrorCode::InvalidArgument,
                 {"[0, 2)", "[0, 4)", "src_head_range"});
}

TEST(ValidatePair, T1_UnknownAgainstKnownIsRefusedWithoutAnOverride) {
  auto const known = make();
  auto const unknown = make({}, KvBlockLayout::Unknown);
  expect_failure(pairing(unknown, known), ErrorCode::InvalidArgument,
                 {"source", "Unknown", "OperationalNHD", "src_kv_layout"});
  expect_failure(pairing(known, unknown), ErrorCode::InvalidArgument,
                 {"destination", "dst_kv_layout"});
  auto const options =
      TransferOptions::builder().src_kv_layout(KvBlockLayout::OperationalHND).build();
  EXPECT_NO_THROW(pairing(unknown, known, options)());
  EXPECT_NO_THROW(pairing(unknown, unknown)());
}

TEST(ValidatePair, LayerRangesEmptyReversedAndTooLong) {
  auto const layout = make();
  auto const other = make();
  auto const range = [](std::uint64_t begin, std::uint64_t end) {
    return TransferOptions::builder().layer_range(begin, end).build();
  };
  expect_failure(pairing(layout, other, range(1, 1)), ErrorCode::InvalidArgument,
                 {"layer_range", "[1, 1)"});
  expect_failure(pairing(layout, other, range(2, 1)), ErrorCode::InvalidArgument, {"[2, 1)"});
  expect_failure(pairing(layout, other, range(0, 4)), ErrorCode::OutOfRange, {"[0, 4)", "3"});
  EXPECT_EQ(validate_pair(layout, other, range(1, 3)).selection.layers, (IndexRange{1, 3}));
}

TEST(ValidatePair, HeadRangesEmptyReversedTooLongAndUnequal) {
  auto const layout = make();
  auto const shard = make({.nh = 1});
  auto const src = [](std::uint64_t begin, std::uint64_t end) {
    return TransferOptions::builder().src_head_range({begin, end}).build();
  };
  expect_failure(pairing(layout, shard, src(1, 1)), ErrorCode::InvalidArgument,
                 {"src_head_range", "[1, 1)"});
  expect_failure(pairing(layout, shard, src(2, 1)), ErrorCode::InvalidArgument, {"[2, 1)"});
  expect_failure(pairing(layout, shard, src(1, 3)), ErrorCode::OutOfRange, {"[1, 3)", "2"});
  expect_failure(pairing(layout, make(), src(0, 1)), ErrorCode::InvalidArgument,
                 {"[0, 1)", "[0, 2)"});
  EXPECT_NO_THROW(pairing(layout, shard, src(1, 2))());
  auto const unknown = make({}, KvBlockLayout::Unknown);
  expect_failure(pairing(unknown, unknown, src(0, 1)), ErrorCode::InvalidArgument, {"Unknown"});
}

TEST(ValidatePair, O2_OptionsThatNothingHereCanHonourAreRefused) {
  auto const layout = make();
  auto const other = make();
  auto const notify = TransferOptions::builder().nixl_write_notification(7).build();
  expect_failure(pairing(layout, other, notify), ErrorCode::Unsupported,
                 {"nixl_write_notification 7", "remote"});
  auto const stream = device::make_host_device(0)->create_stream("caller");
  auto const timed =
      TransferOptions::builder().cuda_stream(stream).timeout(std::chrono::seconds(1)).build();
  expect_failure(pairing(layout, other, timed), ErrorCode::Unsupported, {"timeout"});
}

TEST(TransferOptionsBuilder, O1_DefaultsAskForNothing) {
  auto const options = TransferOptions::builder().build();
  EXPECT_FALSE(options.layer_range || options.src_head_range || options.dst_head_range);
  EXPECT_FALSE(options.src_kv_layout || options.dst_kv_layout || options.bounce_buffer);
  EXPECT_FALSE(options.nixl_write_notification || options.timeout || options.max_sms);
  EXPECT_EQ(options.cuda_stream, nullptr);
  EXPECT_TRUE(options.wait_for.empty() && options.record_on.empty());
  EXPECT_EQ(options.priority, 0);
  EXPECT_EQ(options.spare, Spare::Fastest);
  EXPECT_FALSE(TransferCapabilities{}.allow_gds || TransferCapabilities{}.allow_gpu_rdma);
  EXPECT_EQ(TransferPreferences{}.native_vs_nixl, NativeVsNixlPolicy::Automatic);
}

TEST(TransferOptionsBuilder, O1_KeepsWhatItIsGiven) {
  auto const options = TransferOptions::builder()
                           .layer_range(0, 16)
                           .head_range({1, 2})
                           .src_kv_layout(KvBlockLayout::OperationalNHD)
                           .dst_kv_layout(KvBlockLayout::UniversalTP)
                           .bounce_buffer(BounceBuffer::from_handle({1, 2}, {3, 4}))
                           .priority(5)
                           .spare(Spare::SpareCpu)
                           .build();
  EXPECT_EQ(options.layer_range, (IndexRange{0, 16}));
  EXPECT_EQ(options.src_head_range, options.dst_head_range);
  EXPECT_EQ(*options.dst_kv_layout, KvBlockLayout::UniversalTP);
  EXPECT_EQ(options.bounce_buffer->block_ids, (std::vector<BlockId>{3, 4}));
  EXPECT_EQ(options.priority, 5);
}

TEST(TransferOptionsBuilder, RefusesNonsense) {
  expect_failure(
      [] {
        static_cast<void>(TransferOptions::builder().timeout(std::chrono::nanoseconds(-5)).build());
      },
      ErrorCode::InvalidArgument, {"-5"});
  expect_failure([] { static_cast<void>(TransferOptions::builder().max_sms(0).build()); },
                 ErrorCode::InvalidArgument, {"max_sms 0"});
  expect_failure([] { TransferOptions::builder().cuda_stream(nullptr); },
                 ErrorCode::InvalidArgument, {"cuda_stream"});
  expect_failure([] { TransferOptions::builder().wait_for(nullptr); }, ErrorCode::InvalidArgument,
                 {"wait_for"});
}

class ValidateBlocks : public ::testing::Test {
 protected:
  void check(std::vector<BlockId> const& src, std::vector<BlockId> const& dst) const {
    validate_blocks(pair_, src, dst);
  }
  PhysicalLayout src_ = make();
  PhysicalLayout dst_ = make();
  ValidatedPair pair_ = validate_pair(src_, dst_, {});
};

TEST_F(ValidateBlocks, V1_DuplicateDestinationsAreNamed) {
  expect_failure([&] { check({0, 1, 2, 3, 4}, {0, 1, 2, 1, 3}); }, ErrorCode::InvalidArgument,
                 {"[1]"});
  expect_failure([&] { check({0, 1, 2, 3}, {5, 6, 6, 5}); }, ErrorCode::InvalidArgument,
                 {"[5, 6]"});
  EXPECT_NO_THROW(check({1, 1, 1}, {0, 1, 2})) << "a source may be read twice";
}

TEST_F(ValidateBlocks, V1_UnequalListsAreNamed) {
  expect_failure([&] { check({0, 1, 2}, {0, 1}); }, ErrorCode::InvalidArgument, {"3", "2"});
}

TEST_F(ValidateBlocks, V2_IdsOutOfRangeAreNamedWithTheirSide) {
  expect_failure([&] { check({0, 8}, {0, 1}); }, ErrorCode::OutOfRange,
                 {"source block 8", "position 1", "8 blocks"});
  expect_failure([&] { check({0, 1}, {0, 4294967295U}); }, ErrorCode::OutOfRange,
                 {"destination block 4294967295"});
}

TEST_F(ValidateBlocks, V1_OverlapInOneLayoutIsNamed) {
  auto const same = validate_pair(src_, src_, {});
  std::vector<BlockId> const from{0, 1, 2};
  std::vector<BlockId> const to{2, 3, 4};
  expect_failure([&] { validate_blocks(same, from, to); }, ErrorCode::InvalidArgument, {"[2]"});
  EXPECT_NO_THROW(check(from, to)) << "the same ids in different layouts are fine";
  EXPECT_NO_THROW(validate_blocks(same, from, std::vector<BlockId>{3, 4, 5}));
}

TEST_F(ValidateBlocks, V2_OverlapByAddressBetweenTwoLayoutsIsFound) {
  // A second layout over the same bytes, shifted by one block.
  auto const& region = src_.regions().front();
  auto const shifted = memory::Region::of_memory(
      memory::StorageKind::System, region.host_data() + src_.geometry().block_stride,
      region.bytes() - src_.geometry().block_stride, -1, true);
  auto const other = PhysicalLayout::builder(memory::make_host_memory_source())
                         .config(config_of({.nb = 7}))
                         .fully_contiguous(KvBlockLayout::OperationalNHD)
                         .with_regions({shifted})
                         .build();
  auto const pair = validate_pair(src_, other, {});
  EXPECT_TRUE(pair.may_alias);
  expect_failure([&] { validate_blocks(pair, std::vector<BlockId>{3}, std::vector<BlockId>{2}); },
                 ErrorCode::InvalidArgument, {"source block 3", "shares memory"});
  EXPECT_NO_THROW(validate_blocks(pair, std::vector<BlockId>{3}, std::vector<BlockId>{3}));
  EXPECT_FALSE(pair_.may_alias);
}

TEST_F(ValidateBlocks, ManyIdsAreCheckedAgainstFewAndManyBlocks) {
  auto const wide = make({.nb = 100000, .nl = 1, .no = 1, .nt = 1, .nh = 1, .hd = 1, .width = 1});
  auto const other = make({.nb = 100000, .nl = 1, .no = 1, .nt = 1, .nh = 1, .hd = 1, .width = 1});
  auto const pair = validate_pair(wide, other, {});
  std::vector<BlockId> all(100000);
  std::iota(all.begin(), all.end(), 0U);
  EXPECT_NO_THROW(validate_blocks(pair, all, all));
  all.back() = 0;
  expect_failure([&] { validate_blocks(pair, all, all); }, ErrorCode::InvalidArgument, {"[0]"});
  std::vector<BlockId> const few{99999, 5, 99999};
  expect_failure([&] { validate_blocks(pair, few, few); }, ErrorCode::InvalidArgument, {"[99999]"});
}

TEST_F(ValidateBlocks, V2_BounceBuffersNeedBlocksInRangeAndApart) {
  expect_failure([&] { validate_bounce(src_, {}); }, ErrorCode::InvalidArgument, {"no blocks"});
  expect_failure([&] { validate_bounce(src_, std::vector<BlockId>{1, 1}); },
                 ErrorCode::InvalidArgument, {"[1]"});
  expect_failure([&] { validate_bounce(src_, std::vector<BlockId>{9}); }, ErrorCode::OutOfRange,
                 {"bounce block 9"});
  EXPECT_NO_THROW(validate_bounce(src_, std::vector<BlockId>{7}));
}

TEST(KvBlocks, L11_ChecksIdsAndOverrides) {
  auto const layout = make();
  expect_failure([&] { static_cast<void>(KvBlocks::of(layout, {0, 8})); }, ErrorCode::OutOfRange,
                 {"block 8", "position 1"});
  auto const separate = PhysicalLayout::builder(memory::make_host_memory_source())
                            .config(config_of({}))
                            .layer_separate(BlockDimension::First, KvBlockLayout::OperationalNHD)
                            .allocate_system()
                            .build();
  expect_failure(
      [&] { static_cast<void>(KvBlocks::of(separate, {0}, KvBlockLayout::UniversalTP)); },
      ErrorCode::InvalidArgument, {"UniversalTP"});
}

TEST(KvBlocks, L11_AnOverrideEqualToTheOwnFormatIsNone) {
  auto const blocks = KvBlocks::of(make(), {0, 1}, KvBlockLayout::OperationalNHD);
  EXPECT_FALSE(blocks.override_format());
  auto const other = KvBlocks::of(make(), {0, 1}, KvBlockLayout::UniversalTP);
  ASSERT_TRUE(other.override_format());
  EXPECT_EQ(other.layout().format(), KvBlockLayout::UniversalTP);
}

TEST(KvBlocks, L11_TellsWhetherATransformIsNeeded) {
  auto const nhd = KvBlocks::of(make(), {0});
  auto const tp = KvBlocks::of(make({}, KvBlockLayout::UniversalTP), {0});
  EXPECT_TRUE(nhd.requires_transform_to(tp));
  EXPECT_FALSE(nhd.requires_transform_to(nhd));
  EXPECT_TRUE(nhd.requires_transform_to(KvBlocks::of(make(), {0}, KvBlockLayout::OperationalHND)));
}

}  // namespace
}  // namespace kvbm::transfer
