// SPDX-License-Identifier: Apache-2.0
#include "kvbm/layout/physical_layout.hpp"

#include "kvbm/layout/view.hpp"
#include "kvbm/object/object_store.hpp"
#include "layout_test_support.hpp"

#include <gtest/gtest.h>

#include <set>

namespace kvbm::layout {
namespace {

using memory::StorageKind;
using testing::Buffer;
using testing::expect_error;
using testing::FakeSource;
using testing::small_config;

class PhysicalLayoutTest : public ::testing::Test {
 protected:
  std::shared_ptr<FakeSource> source_ = std::make_shared<FakeSource>();
  LayoutConfig config_ = small_config().build();
  // Refused before anybody is asked.
  object::ObjectStoreOptions objects_ = [] {
    object::ObjectStoreOptions options;
    options.s3.endpoint = "http://127.0.0.1:1";
    options.s3.bucket = "kv";
    options.s3.credentials = object::Credentials{"id", "secret", "", "the test", {}};
    return options;
  }();

  [[nodiscard]] auto builder() const { return PhysicalLayout::builder(source_); }
};

using FullyContiguousLayout = PhysicalLayoutTest;
using LayerSeparateLayout = PhysicalLayoutTest;

TEST_F(FullyContiguousLayout, L1_ExactlyTheRequiredBytesSuffice) {
  auto const bytes = 5U * 3 * 2 * 4 * 42 * 2;
  Buffer const buffer(bytes);
  auto const make = [&](std::uint64_t given) {
    return builder()
        .config(config_)
        .fully_contiguous()
        .with_external_regions({{buffer.data(), given, StorageKind::System, {}}})
        .build();
  };
  auto const layout = make(bytes);
  EXPECT_EQ(layout.regions().size(), 1U);
  EXPECT_EQ(layout.regions()[0].address(), reinterpret_cast<std::uintptr_t>(buffer.data()));
  expect_error(ErrorCode::InvalidArgument, {"region 0", "10079 bytes", "needs 10080"},
               [&] { return make(bytes - 1); });
}

TEST_F(FullyContiguousLayout, L2_AddressEqualsClosedForm) {
  auto const layout = builder()
                          .config(config_)
                          .fully_contiguous(KvBlockLayout::OperationalNHD)
                          .allocate_system()
                          .build();
  EXPECT_EQ(layout.kind(), LayoutKind::FullyContiguous);
  for (std::uint64_t b = 0; b < 5; ++b) {
    for (std::uint64_t l = 0; l < 3; ++l) {
      for (std::uint64_t o = 0; o < 2; ++o) {
        auto const address = layout.chunk(b, l, o);
        EXPECT_EQ(address.region, 0U);
        EXPECT_EQ(address.offset, ((b * 3 + l) * 2 + o) * 4 * 42 * 2);
      }
    }
  }
}

TEST_F(FullyContiguousLayout, L2_IndicesOutOfRangeAreErrorsThatNameThem) {
  auto const layout = builder().config(config_).fully_contiguous().allocate_system().build();
  expect_error(ErrorCode::OutOfRange, {"block 5 of 5"}, [&] { return layout.chunk(5, 0, 0); });
  expect_error(ErrorCode::OutOfRange, {"layer 3 of 3"}, [&] { return layout.chunk(0, 3, 0); });
  expect_error(ErrorCode::OutOfRange, {"outer 2 of 2"}, [&] { return layout.chunk(0, 0, 2); });
  expect_error(ErrorCode::OutOfRange, {"block 18446744073709551615"},
               [&] { return layout.chunk(~std::uint64_t{0}, 0, 0); });
}

TEST_F(FullyContiguousLayout, UniversalChunkStartsAtItsFirstElement) {
  auto const layout = builder()
                          .config(config_)
                          .fully_contiguous(KvBlockLayout::UniversalTP)
                          .allocate_system()
                          .build();
  // [nh 6, nl 3, no 2, nt 4, hd 7] x 2 bytes
  EXPECT_EQ(layout.chunk(1, 2, 1).offset, 2016U + 2 * 2 * 4 * 7 * 2 + 4 * 7 * 2);
  auto const chunk = layout.chunk_view(1, 2, 1);
  EXPECT_FALSE(chunk.view.is_contiguous());
  EXPECT_EQ(chunk.offset, layout.chunk(1, 2, 1).offset);
  EXPECT_EQ(chunk.address, layout.regions()[0].address() + chunk.offset);
  EXPECT_EQ(chunk.view.axis(Dim::Head).stride_bytes, 3U * 2 * 4 * 7 * 2);
  EXPECT_EQ(chunk.bytes, 5U * 336 + 4 * 14);
}

TEST_F(FullyContiguousLayout, BlockViewIsTheWholeBlock) {
  auto const layout = builder()
                          .config(config_)
                          .fully_contiguous(KvBlockLayout::OperationalHND)
                          .allocate_system()
                          .build();
  auto const block = layout.block_view(4);
  EXPECT_EQ(block.offset, 4U * 2016);
  EXPECT_EQ(block.bytes, 2016U);
  EXPECT_EQ(block.view.numel(), 2016U / 2);
  expect_error(ErrorCode::OutOfRange, {"5"}, [&] { static_cast<void>(layout.block_view(5)); });
}

TEST_F(LayerSeparateLayout, L3_BlockFirstAddresses) {
  auto const layout =
      builder().config(config_).layer_separate(BlockDimension::First).allocate_system().build();
  ASSERT_EQ(layout.regions().size(), 3U);
  EXPECT_EQ(layout.block_dimension(), BlockDimension::First);
  for (std::uint64_t b = 0; b < 5; ++b) {
    for (std::uint32_t l = 0; l < 3; ++l) {
      for (std::uint64_t o = 0; o < 2; ++o) {
        EXPECT_EQ(layout.chunk(b, l, o).region, l);
        EXPECT_EQ(layout.chunk(b, l, o).offset, (b * 2 + o) * 336);
      }
    }
  }
  EXPECT_EQ(layout.regions()[0].bytes(), 5U * 2 * 336);
}

TEST_F(LayerSeparateLayout, L3_BlockSecondAddresses) {
  auto const layout =
      builder().config(config_).layer_separate(BlockDimension::Second).allocate_system().build();
  ASSERT_EQ(layout.regions().size(), 3U);
  for (std::uint64_t b = 0; b < 5; ++b) {
    for (std::uint32_t l = 0; l < 3; ++l) {
      for (std::uint64_t o = 0; o < 2; ++o) {
        EXPECT_EQ(layout.chunk(b, l, o).region, l);
        EXPECT_EQ(layout.chunk(b, l, o).offset, (o * 5 + b) * 336);
      }
    }
  }
  auto const chunk = layout.chunk_view(3, 2, 1);
  EXPECT_EQ(chunk.region, 2U);
  EXPECT_EQ(chunk.address, layout.regions()[2].address() + (5 + 3) * 336);
  EXPECT_EQ(chunk.bytes, 336U);
  EXPECT_TRUE(chunk.view.is_contiguous());
  expect_error(ErrorCode::Unsupported, {"3 regions"},
               [&] { static_cast<void>(layout.block_view(0)); });
}

TEST_F(PhysicalLayoutTest, L4_BuildsFromExistingRegions) {
  auto const fc = builder().config(config_).fully_contiguous().allocate_pinned(1).build();
  auto const again =
      builder().config(config_).fully_contiguous().with_regions(fc.regions()).build();
  EXPECT_EQ(again.regions()[0].address(), fc.regions()[0].address());
  EXPECT_EQ(again.storage_kind(), StorageKind::Pinned);
  EXPECT_EQ(again.device_id(), 1);

  auto const ls =
      builder().config(config_).layer_separate(BlockDimension::First).allocate_system().build();
  auto const ls_again = builder()
                            .config(config_)
                            .layer_separate(BlockDimension::Second)
                            .with_regions(ls.regions())
                            .build();
  EXPECT_EQ(ls_again.regions()[2].address(), ls.regions()[2].address());
}

TEST_F(PhysicalLayoutTest, L4_WrongNumberOfRegionsIsAnError) {
  auto const ls =
      builder().config(config_).layer_separate(BlockDimension::First).allocate_system().build();
  auto two = ls.regions();
  two.pop_back();
  expect_error(ErrorCode::InvalidArgument, {"3 regions", "got 2"}, [&] {
    return builder()
        .config(config_)
        .layer_separate(BlockDimension::First)
        .with_regions(two)
        .build();
  });
  expect_error(ErrorCode::InvalidArgument, {"1 regions", "got 3"}, [&] {
    return builder().config(config_).fully_contiguous().with_regions(ls.regions()).build();
  });
  expect_error(ErrorCode::InvalidArgument, {"got 0"}, [&] {
    return builder().config(config_).fully_contiguous().with_regions({}).build();
  });
}

TEST_F(PhysicalLayoutTest, L4_MixedKindsAreAnError) {
  auto regions = builder()
                     .config(config_)
                     .layer_separate(BlockDimension::First)
                     .allocate_system()
                     .build()
                     .regions();
  auto const pinned = builder().config(config_).fully_contiguous().allocate_pinned().build();
  regions[1] = pinned.regions()[0];
  expect_error(ErrorCode::InvalidArgument, {"region 1 is Pinned", "region 0 is System"}, [&] {
    return builder()
        .config(config_)
        .layer_separate(BlockDimension::First)
        .with_regions(regions)
        .build();
  });
}

TEST_F(PhysicalLayoutTest, L13_OwnedRegionsAreAlignedAndChunksDoNotOverlap) {
  for (auto const alignment : {1U, 64U, 4096U}) {
    auto const config = config_.with_alignment(alignment);
    auto const layout =
        builder().config(config).layer_separate(BlockDimension::Second).allocate_system().build();
    std::set<std::pair<std::uintptr_t, std::uintptr_t>> ranges;
    for (auto const& region : layout.regions()) {
      EXPECT_EQ(region.address() % 512, 0U);
      EXPECT_EQ(region.address() % alignment, 0U);
    }
    for (std::uint64_t b = 0; b < 5; ++b) {
      for (std::uint64_t l = 0; l < 3; ++l) {
        for (std::uint64_t o = 0; o < 2; ++o) {
          auto const view = layout.chunk_view(b, l, o);
          EXPECT_EQ(view.address % alignment, 0U);
          ranges.emplace(view.address, view.address + view.bytes);
        }
      }
    }
    ASSERT_EQ(ranges.size(), 5U * 3 * 2);
    for (auto it = std::next(ranges.begin()); it != ranges.end(); ++it) {
      EXPECT_LE(std::prev(it)->second, it->first);
    }
  }
  for (auto const& request : source_->requests) {
    EXPECT_GE(request.alignment, 512U);
  }
}

TEST_F(PhysicalLayoutTest, DefaultFormatDependsOnNumHeads) {
  auto const known = builder().config(config_).fully_contiguous().allocate_system().build();
  EXPECT_EQ(known.format(), KvBlockLayout::OperationalNHD);
  auto const config = small_config().num_heads(std::nullopt).build();
  auto const unknown =
      builder().config(config).layer_separate(BlockDimension::First).allocate_system().build();
  EXPECT_EQ(unknown.format(), KvBlockLayout::Unknown);
}

TEST_F(PhysicalLayoutTest, StepsMayComeInAnyOrderAndBuildersCanBeReused) {
  auto const half = builder().allocate_system().config(config_);
  auto const fc = half.fully_contiguous().build();
  auto const ls = half.layer_separate(BlockDimension::First).build();
  EXPECT_EQ(fc.kind(), LayoutKind::FullyContiguous);
  EXPECT_EQ(ls.kind(), LayoutKind::LayerSeparate);
  EXPECT_NE(fc.regions()[0].address(), ls.regions()[0].address());
}

TEST_F(PhysicalLayoutTest, MemoryLivesAsLongAsACopy) {
  auto layout = std::make_unique<PhysicalLayout>(
      builder().config(config_).fully_contiguous().allocate_system().build());
  auto const copy = *layout;
  layout.reset();
  auto* const data = copy.regions()[0].host_data();
  ASSERT_NE(data, nullptr);
  data[copy.regions()[0].bytes() - 1] = std::byte{7};
  EXPECT_EQ(copy.source(), source_);
}

TEST_F(PhysicalLayoutTest, DeviceMemoryKnowsItsDeviceAndAnUnknownOneIsNotFound) {
  auto const layout = builder().config(config_).fully_contiguous().allocate_device(1).build();
  EXPECT_EQ(layout.storage_kind(), StorageKind::Device);
  EXPECT_EQ(layout.device_id(), 1);
  expect_error(ErrorCode::NotFound, {"7"}, [&] {
    return builder().config(config_).fully_contiguous().allocate_device(7).build();
  });
}

TEST_F(PhysicalLayoutTest, BadObjectStorageAndAMissingSourceAreRefused) {
  expect_error(ErrorCode::InvalidArgument, {"fully_contiguous"}, [&] {
    return builder()
        .config(config_)
        .layer_separate(BlockDimension::First)
        .allocate_object(objects_)
        .build();
  });
  expect_error(ErrorCode::InvalidArgument, {"prefix 'a/'"}, [&] {
    auto objects = objects_;
    objects.scheme.prefix = "a/";
    return builder().config(config_).fully_contiguous().allocate_object(objects).build();
  });
  expect_error(ErrorCode::InvalidArgument, {"memory source"}, [&] {
    return PhysicalLayout::builder(nullptr)
        .config(config_)
        .fully_contiguous()
        .allocate_system()
        .build();
  });
}

TEST_F(PhysicalLayoutTest, ExtentsOfEveryKind) {
  auto const fc =
      builder().config(config_.with_alignment(512)).fully_contiguous().allocate_system().build();
  ASSERT_EQ(fc.extents_per_block(), 1U);
  auto const block = fc.extent(3, 0);
  EXPECT_EQ(block.offset, 3U * 2048);
  EXPECT_EQ(block.bytes, 2016U);
  EXPECT_EQ(block.index, 3U);
  EXPECT_EQ(fc.extent_layers(0), (IndexRange{0, 3}));

  auto const first =
      builder().config(config_).layer_separate(BlockDimension::First).allocate_system().build();
  ASSERT_EQ(first.extents_per_block(), 3U);
  auto const layer = first.extent(4, 2);
  EXPECT_EQ(layer.region, 2U);
  EXPECT_EQ(layer.offset, 4U * 672);
  EXPECT_EQ(layer.bytes, 672U);
  EXPECT_EQ(layer.index, 4U);
  EXPECT_EQ(first.extent_layers(2), (IndexRange{2, 3}));

  auto const second =
      builder().config(config_).layer_separate(BlockDimension::Second).allocate_system().build();
  ASSERT_EQ(second.extents_per_block(), 6U);
  auto const chunk = second.extent(4, 3);
  EXPECT_EQ(chunk.region, 1U);
  EXPECT_EQ(chunk.offset, (5U + 4) * 336);
  EXPECT_EQ(chunk.bytes, 336U);
  EXPECT_EQ(chunk.index, 9U);
  EXPECT_EQ(second.extent_layers(3), (IndexRange{1, 2}));
  expect_error(ErrorCode::OutOfRange, {"extent 6 of 6"}, [&] { return second.extent(0, 6); });
  expect_error(ErrorCode::OutOfRange, {"block 5 of 5"}, [&] { return second.extent(5, 0); });
  expect_error(ErrorCode::OutOfRange, {"extent 9"},
               [&] { static_cast<void>(second.extent_layers(9)); });
}

TEST_F(PhysicalLayoutTest, L11_WithFormatReadsTheSameBytesInAnotherOrder) {
  auto const layout =
      builder().config(config_).fully_contiguous(KvBlockLayout::Unknown).allocate_system().build();
  auto const tp = layout.with_format(KvBlockLayout::UniversalTP);
  EXPECT_EQ(tp.format(), KvBlockLayout::UniversalTP);
  EXPECT_EQ(tp.regions()[0].address(), layout.regions()[0].address());
  EXPECT_EQ(tp.geometry().strides[3], 3 * 2 * 4 * 7 * 2);
  EXPECT_EQ(tp.with_format(KvBlockLayout::UniversalTP).fingerprint(), tp.fingerprint());
}

TEST_F(PhysicalLayoutTest, L11_UniversalOverrideOnLayerSeparateIsRefused) {
  auto const layout =
      builder().config(config_).layer_separate(BlockDimension::First).allocate_system().build();
  expect_error(ErrorCode::InvalidArgument, {"UniversalTP"},
               [&] { static_cast<void>(layout.with_format(KvBlockLayout::UniversalTP)); });
  EXPECT_NO_THROW(static_cast<void>(layout.with_format(KvBlockLayout::OperationalHND)));
  auto const padded = KvBlockLayout::Strided({{0, 400, 100, 14, 2}, 800});
  expect_error(ErrorCode::InvalidArgument, {"672", "800"},
               [&] { static_cast<void>(layout.with_format(padded)); });
}

TEST_F(PhysicalLayoutTest, FingerprintDecidesWhichByteMeansWhat) {
  auto const make = [&](LayoutConfig const& config, KvBlockLayout const& format) {
    return builder().config(config).fully_contiguous(format).allocate_system().build();
  };
  auto const nhd = make(config_, KvBlockLayout::OperationalNHD);
  EXPECT_EQ(nhd.fingerprint(), make(config_, KvBlockLayout::OperationalNHD).fingerprint());
  EXPECT_EQ(nhd.fingerprint(),
            make(config_.with_num_blocks(9), KvBlockLayout::OperationalNHD).fingerprint());
  auto const hnd = make(config_, KvBlockLayout::OperationalHND);
  EXPECT_NE(nhd.fingerprint(), hnd.fingerprint());
  EXPECT_EQ(nhd.shape_fingerprint(), hnd.shape_fingerprint());
  auto const second = [&](std::uint64_t blocks) {
    return builder()
        .config(config_.with_num_blocks(blocks))
        .layer_separate(BlockDimension::Second)
        .allocate_system()
        .build();
  };
  EXPECT_EQ(second(5).fingerprint(), second(8).fingerprint());
  EXPECT_NE(second(5).fingerprint(), nhd.fingerprint());
  auto const wide =
      make(small_config().dtype_width_bytes(4).build(), KvBlockLayout::OperationalNHD);
  EXPECT_NE(wide.shape_fingerprint(), nhd.shape_fingerprint());
  // Written down once: a build that computes another value reads stored layouts as foreign.
  EXPECT_EQ(to_string(nhd.fingerprint()), "d2821bb248924497169e065fd7dd21f8");
  EXPECT_EQ(to_string(nhd.shape_fingerprint()), "6006168bf675c24e5628b4caced3f041");
}

TEST_F(PhysicalLayoutTest, ToStringSaysWhatItIs) {
  auto const fc = builder().config(config_).fully_contiguous().allocate_pinned().build();
  EXPECT_EQ(fc.to_string(), "FullyContiguous OperationalNHD, 5 blocks [3,2,4,6,7] x 2 B, Pinned");
  auto const ls = builder()
                      .config(small_config().num_heads(std::nullopt).build())
                      .layer_separate(BlockDimension::Second)
                      .allocate_device(0)
                      .build();
  EXPECT_EQ(ls.to_string(), "LayerSeparate Second Unknown, 5 blocks [3,2,4,42] x 2 B, Device 0");
}

}  // namespace
}  // namespace kvbm::layout
