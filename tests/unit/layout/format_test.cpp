// SPDX-License-Identifier: Apache-2.0
#include "kvbm/layout/format.hpp"

#include "kvbm/core/log.hpp"
#include "layout_test_support.hpp"

#include <gtest/gtest.h>

#include <vector>

namespace kvbm::layout {
namespace {

using testing::expect_error;
using testing::small_config;
using enum BlockDim;
using Order = KvBlockLayout::Order;

struct Named {
  KvBlockLayout format;
  char const* name;
  Order order;
  bool operational;
  bool universal;
};

std::vector<Named> named_formats() {
  return {{KvBlockLayout::UniversalTP,
           "UniversalTP",
           {Head, Layer, Outer, Token, HeadDim},
           false,
           true},
          {KvBlockLayout::UniversalPP,
           "UniversalPP",
           {Layer, Head, Outer, Token, HeadDim},
           false,
           true},
          {KvBlockLayout::OperationalHND,
           "OperationalHND",
           {Layer, Outer, Head, Token, HeadDim},
           true,
           false},
          {KvBlockLayout::OperationalNHD,
           "OperationalNHD",
           {Layer, Outer, Token, Head, HeadDim},
           true,
           false}};
}

BlockStrides padded_rows() {
  // [nl, no, nt, nh, hd] of small_config with 100-byte rows instead of 84.
  return {{2 * 4 * 100, 4 * 100, 100, 14, 2}, 3 * 2 * 4 * 100};
}

TEST(KvBlockLayout, L8_NamesAndOrders) {
  for (auto const& named : named_formats()) {
    EXPECT_EQ(named.format.to_string(), named.name);
    EXPECT_EQ(named.format.order(), named.order) << named.name;
    EXPECT_EQ(named.format.is_operational(), named.operational) << named.name;
    EXPECT_EQ(named.format.is_universal(), named.universal) << named.name;
    EXPECT_TRUE(named.format.needs_num_heads());
    EXPECT_FALSE(named.format.is_unknown());
  }
  EXPECT_EQ(KvBlockLayout::Unknown.to_string(), "Unknown");
  EXPECT_EQ(KvBlockLayout::Unknown.order(), std::nullopt);
  EXPECT_FALSE(KvBlockLayout::Unknown.needs_num_heads());
  EXPECT_STREQ(to_string(Layer), "nl");
  EXPECT_STREQ(to_string(HeadDim), "hd");
}

TEST(KvBlockLayout, L8_RequiresTransformOverAllPairs) {
  auto const formats = named_formats();
  for (auto const& a : formats) {
    for (auto const& b : formats) {
      EXPECT_EQ(a.format.requires_transform(b.format), &a != &b) << a.name << " " << b.name;
    }
    EXPECT_TRUE(a.format.requires_transform(KvBlockLayout::Unknown)) << a.name;
    EXPECT_TRUE(KvBlockLayout::Unknown.requires_transform(a.format)) << a.name;
  }
}

TEST(KvBlockLayout, L8_CustomEqualToANamedOrderNeedsNoTransform) {
  for (auto const& named : named_formats()) {
    auto const custom = KvBlockLayout::Custom(named.order);
    EXPECT_EQ(custom.kind(), KvBlockLayout::Kind::Custom);
    EXPECT_FALSE(custom.requires_transform(named.format)) << named.name;
    EXPECT_FALSE(named.format.requires_transform(custom)) << named.name;
    EXPECT_EQ(custom, named.format);
    EXPECT_EQ(custom.is_operational(), named.operational);
    EXPECT_EQ(custom.is_universal(), named.universal);
  }
  auto const other = KvBlockLayout::Custom({Token, Head, Layer, Outer, HeadDim});
  for (auto const& named : named_formats()) {
    EXPECT_TRUE(other.requires_transform(named.format)) << named.name;
  }
}

TEST(KvBlockLayout, L8_TwoUnknownsAreTakenAsEqualWithAWarning) {
  std::vector<std::string> lines;
  log::set_sink([&](log::Level level, std::string_view line) {
    if (level == log::Level::Warning) { lines.emplace_back(line); }
  });
  EXPECT_FALSE(KvBlockLayout::Unknown.requires_transform(KvBlockLayout::Unknown));
  log::set_sink({});
  ASSERT_EQ(lines.size(), 1U);
  EXPECT_NE(lines[0].find("Unknown"), std::string::npos);
}

TEST(KvBlockLayout, L9_CustomWithARepeatedDimensionIsRefused) {
  expect_error(ErrorCode::InvalidArgument, {"nt", "twice"}, [] {
    static_cast<void>(KvBlockLayout::Custom({Layer, Outer, Token, Token, HeadDim}));
  });
  expect_error(ErrorCode::InvalidArgument, {"9"}, [] {
    static_cast<void>(
        KvBlockLayout::Custom({Layer, Outer, Token, static_cast<BlockDim>(9), HeadDim}));
  });
}

TEST(KvBlockLayout, L10_DimensionsOfExtentOneNeedNoTransform) {
  auto const& nhd = KvBlockLayout::OperationalNHD;
  auto const& hnd = KvBlockLayout::OperationalHND;
  auto const& tp = KvBlockLayout::UniversalTP;
  auto const& pp = KvBlockLayout::UniversalPP;
  auto const all = small_config().build();
  EXPECT_TRUE(nhd.requires_transform(hnd, all));
  EXPECT_TRUE(nhd.requires_transform(tp, all));

  auto const one_head = small_config().num_heads(1).build();
  EXPECT_FALSE(nhd.requires_transform(hnd, one_head));
  EXPECT_FALSE(nhd.requires_transform(tp, one_head));
  EXPECT_FALSE(nhd.requires_transform(pp, one_head));

  auto const one_token = small_config().page_size(1).build();
  EXPECT_FALSE(nhd.requires_transform(hnd, one_token));
  EXPECT_TRUE(nhd.requires_transform(tp, one_token));

  auto const one_outer = small_config().outer_dim(1).build();
  EXPECT_FALSE(hnd.requires_transform(pp, one_outer));
  EXPECT_TRUE(nhd.requires_transform(pp, one_outer));

  auto const no_heads = small_config().num_heads(std::nullopt).build();
  EXPECT_TRUE(nhd.requires_transform(hnd, no_heads));
  EXPECT_TRUE(nhd.requires_transform(KvBlockLayout::Unknown, one_head));
}

TEST(KvBlockLayout, StridesFollowTheOrder) {
  auto const config = small_config().build();  // nl 3, no 2, nt 4, nh 6, hd 7, 2 bytes
  auto const tp = KvBlockLayout::UniversalTP.strides(config);
  EXPECT_EQ(tp.bytes,
            (PerDim<std::int64_t>{2 * 4 * 7 * 2, 4 * 7 * 2, 7 * 2, 3 * 2 * 4 * 7 * 2, 2}));
  EXPECT_EQ(tp.footprint, config.block_bytes());
  auto const nhd = KvBlockLayout::OperationalNHD.strides(config);
  EXPECT_EQ(nhd.bytes, (PerDim<std::int64_t>{2 * 4 * 84, 4 * 84, 84, 14, 2}));
  auto const unknown =
      KvBlockLayout::Unknown.strides(small_config().num_heads(std::nullopt).build());
  EXPECT_EQ(unknown.bytes, (PerDim<std::int64_t>{2 * 4 * 84, 4 * 84, 84, 84, 2}));
}

TEST(KvBlockLayout, FormatsThatNameHeadsNeedNumHeads) {
  auto const config = small_config().num_heads(std::nullopt).build();
  for (auto const& named : named_formats()) {
    expect_error(ErrorCode::InvalidArgument, {named.name, "num_heads", "42"},
                 [&] { static_cast<void>(named.format.strides(config)); });
  }
}

TEST(KvBlockLayout, StridedTakesPaddedRows) {
  auto const config = small_config().build();
  auto const format = KvBlockLayout::Strided(padded_rows());
  EXPECT_EQ(format.strides(config), padded_rows());
  EXPECT_EQ(format.explicit_strides(), padded_rows());
  EXPECT_EQ(KvBlockLayout::UniversalTP.explicit_strides(), std::nullopt);
  EXPECT_TRUE(format.requires_transform(KvBlockLayout::OperationalNHD, config));
  auto const dense = KvBlockLayout::Strided(KvBlockLayout::OperationalNHD.strides(config));
  EXPECT_FALSE(dense.requires_transform(KvBlockLayout::OperationalNHD, config));
  EXPECT_FALSE(format.is_operational());
}

TEST(KvBlockLayout, StridedRefusesOverlapFootprintAndOddStrides) {
  auto const config = small_config().build();
  auto overlapping = padded_rows();
  overlapping.bytes[2] = 82;
  expect_error(ErrorCode::InvalidArgument, {"82", "nt", "overlap", "84"},
               [&] { static_cast<void>(KvBlockLayout::Strided(overlapping).strides(config)); });
  auto small = padded_rows();
  small.footprint = 2300;
  expect_error(ErrorCode::InvalidArgument, {"footprint is 2300", "2384"},
               [&] { static_cast<void>(KvBlockLayout::Strided(small).strides(config)); });
  auto odd = padded_rows();
  odd.bytes[2] = 99;
  expect_error(ErrorCode::InvalidArgument, {"99", "nt", "2 bytes"},
               [&] { static_cast<void>(KvBlockLayout::Strided(odd).strides(config)); });
  auto negative = padded_rows();
  negative.bytes[1] = -400;
  expect_error(ErrorCode::InvalidArgument, {"-400", "no"},
               [&] { static_cast<void>(KvBlockLayout::Strided(negative)); });
  auto empty = padded_rows();
  empty.footprint = 0;
  expect_error(ErrorCode::InvalidArgument, {"footprint"},
               [&] { static_cast<void>(KvBlockLayout::Strided(empty)); });
  auto same = padded_rows();
  same.bytes[4] = 0;
  expect_error(ErrorCode::InvalidArgument, {"stride 0 of hd"},
               [&] { static_cast<void>(KvBlockLayout::Strided(same).strides(config)); });
}

TEST(KvBlockLayout, ParseReadsWhatToStringWrites) {
  std::vector<KvBlockLayout> formats{KvBlockLayout::Unknown, KvBlockLayout::Strided(padded_rows()),
                                     KvBlockLayout::Custom({Token, Head, Layer, Outer, HeadDim})};
  for (auto const& named : named_formats()) {
    formats.push_back(named.format);
  }
  for (auto const& format : formats) {
    auto const text = format.to_string();
    EXPECT_EQ(KvBlockLayout::parse(text), format) << text;
    EXPECT_EQ(KvBlockLayout::parse(text).to_string(), text);
  }
  EXPECT_EQ(formats[2].to_string(), "Custom[nt,nh,nl,no,hd]");
}

TEST(KvBlockLayout, ParseRefusesOtherText) {
  for (std::string const text :
       {"", "NHD", "Custom[nl,no,nt,nh]", "Custom[nl,no,nt,nh,xx]", "Custom[nl,no,nt,nh,hd",
        "Strided[nl=1,no=1,nt=1,nh=1,hd=1]", "Strided[no=1,nl=1,nt=1,nh=1,hd=1,footprint=9]",
        "Strided[nl=1,no=1,nt=1,nh=1,hd=1x,footprint=9]",
        "Strided[nl=1,no=1,nt=1,nh=1,hd=1,footprint=-9]",
        "Strided[nl=99999999999999999999,no=1,nt=1,nh=1,hd=1,footprint=9]"}) {
    expect_error(ErrorCode::InvalidArgument, {"'" + text + "'"},
                 [&] { static_cast<void>(KvBlockLayout::parse(text)); });
  }
  expect_error(ErrorCode::InvalidArgument, {"twice"},
               [] { static_cast<void>(KvBlockLayout::parse("Custom[nl,nl,nt,nh,hd]")); });
}

}  // namespace
}  // namespace kvbm::layout
