// SPDX-License-Identifier: Apache-2.0
#include "kvbm/layout/descriptor.hpp"
#include "kvbm/layout/dims.hpp"
#include "kvbm/layout/physical_layout.hpp"
#include "kvbm/memory/block_file.hpp"
#include "layout_test_support.hpp"

#include <gtest/gtest.h>

#include <array>

namespace kvbm::layout {
namespace {

using memory::BlockFile;
using memory::BlockFileSpec;
using memory::StorageKind;
using testing::expect_error;
using testing::FakeSource;
using testing::small_config;
using testing::TemporaryFolder;

class DiskLayout : public ::testing::Test {
 protected:
  std::shared_ptr<FakeSource> source_ = std::make_shared<FakeSource>();
  TemporaryFolder folder_;
  std::filesystem::path path_ = folder_.path() / "tier";

  [[nodiscard]] auto builder() const { return PhysicalLayout::builder(source_); }

  /// A valid block file whose metadata is `text`, with the groups of `like`.
  void write_file(std::string const& text, PhysicalLayout const& like) const {
    BlockFileSpec spec;
    spec.path = path_;
    spec.groups = like.regions()[0].store()->groups();
    spec.metadata = text;
    BlockFile::create(spec, source_->disk_io());
  }
};

TEST_F(DiskLayout, RaisesTheAlignmentAndPutsOneGroupARegion) {
  auto const layout = builder()
                          .config(small_config().build())
                          .layer_separate(BlockDimension::Second)
                          .allocate_disk(path_)
                          .build();
  EXPECT_EQ(layout.storage_kind(), StorageKind::Disk);
  EXPECT_EQ(layout.device_id(), -1);
  EXPECT_EQ(layout.config().alignment(), memory::kFileAlignment);
  ASSERT_EQ(layout.regions().size(), 3U);
  auto const& groups = layout.regions()[0].store()->groups();
  ASSERT_EQ(groups.size(), 3U);
  for (std::uint32_t i = 0; i < 3; ++i) {
    auto const& region = layout.regions()[i];
    EXPECT_EQ(region.store_index(), i);
    EXPECT_EQ(region.store_offset(), groups[i].file_offset);
    EXPECT_EQ(region.store_offset(), i * 10U * 4096);
    EXPECT_EQ(groups[i].count, 10U);
    EXPECT_EQ(groups[i].extent_bytes, 336U);
    EXPECT_EQ(groups[i].extent_stride, 4096U);
    EXPECT_EQ(region.address(), 0U);
  }
  for (std::uint64_t b = 0; b < 5; ++b) {
    for (std::uint32_t n = 0; n < layout.extents_per_block(); ++n) {
      auto const extent = layout.extent(b, n);
      auto const& group = groups[extent.region];
      EXPECT_EQ(extent.offset, extent.index * group.extent_stride);
      EXPECT_EQ(extent.bytes, group.extent_bytes);
      EXPECT_LT(extent.index, group.count);
    }
  }
}

TEST_F(DiskLayout, KeepsALargerAlignment) {
  auto const layout = builder()
                          .config(small_config().alignment(16384).build())
                          .fully_contiguous()
                          .allocate_disk(path_)
                          .build();
  EXPECT_EQ(layout.config().alignment(), 16384U);
}

TEST_F(DiskLayout, ReopensAsWhatItWas) {
  for (auto const dimension : {BlockDimension::First, BlockDimension::Second}) {
    auto const path = folder_.path() / std::string(to_string(dimension));
    Checksum fingerprint;
    LayoutConfig config = small_config().build();
    {
      auto const layout = builder()
                              .config(config)
                              .layer_separate(dimension, KvBlockLayout::OperationalHND)
                              .allocate_disk(path)
                              .build();
      fingerprint = layout.fingerprint();
      config = layout.config();
    }
    auto const layout = PhysicalLayout::open_disk(source_, path);
    EXPECT_EQ(layout.kind(), LayoutKind::LayerSeparate);
    EXPECT_EQ(layout.block_dimension(), dimension);
    EXPECT_EQ(layout.format(), KvBlockLayout::OperationalHND);
    EXPECT_EQ(layout.config(), config);
    EXPECT_EQ(layout.fingerprint(), fingerprint);
    EXPECT_EQ(layout.regions().size(), 3U);
  }
}

TEST_F(DiskLayout, ReopenedDataIsReadBack) {
  auto const config = small_config().build();
  std::vector<std::byte> bytes(2016);
  for (std::size_t i = 0; i < bytes.size(); ++i) {
    bytes[i] = static_cast<std::byte>(i * 31 % 251);
  }
  {
    auto const layout = builder()
                            .config(config)
                            .fully_contiguous(KvBlockLayout::UniversalTP)
                            .allocate_disk(path_)
                            .build();
    auto const extent = layout.extent(3, 0);
    ASSERT_EQ(extent.bytes, bytes.size());
    BlockFile::Queue queue(source_->disk_io());
    std::array const io{memory::ExtentIo{extent.region, extent.index, bytes.data(), bytes.size()}};
    queue.start_write(layout.regions()[0].store(), io);
    ASSERT_EQ(queue.finish(), std::vector<std::exception_ptr>{nullptr});
  }
  auto const layout = PhysicalLayout::open_disk(source_, path_, memory::OpenMode::ReadOnly);
  EXPECT_EQ(layout.format(), KvBlockLayout::UniversalTP);
  auto const extent = layout.extent(3, 0);
  std::vector<std::byte> read(bytes.size());
  BlockFile::Queue queue(source_->disk_io());
  std::array const io{memory::ExtentIo{extent.region, extent.index, read.data(), read.size()}};
  queue.start_read(layout.regions()[0].store(), io);
  ASSERT_EQ(queue.finish(), std::vector<std::exception_ptr>{nullptr});
  EXPECT_EQ(read, bytes);
}

TEST_F(DiskLayout, TemporaryFileVanishesWithTheLayout) {
  std::filesystem::path path;
  {
    auto const layout =
        builder().config(small_config().build()).fully_contiguous().allocate_disk().build();
    path = layout.regions()[0].store()->name();
    EXPECT_TRUE(std::filesystem::exists(path));
  }
  EXPECT_FALSE(std::filesystem::exists(path));
}

TEST_F(DiskLayout, ExistingPathAndFolderThatIsNotThereAreErrors) {
  auto const make = [&](std::filesystem::path const& path) {
    return builder().config(small_config().build()).fully_contiguous().allocate_disk(path).build();
  };
  auto const layout = make(path_);
  expect_error(ErrorCode::AlreadyExists, {path_.string()}, [&] { return make(path_); });
  auto const missing = folder_.path() / "no" / "tier";
  expect_error(ErrorCode::Io, {missing.string()}, [&] { return make(missing); });
  expect_error(ErrorCode::InvalidArgument, {"path is empty"}, [&] { return make({}); });
}

TEST_F(DiskLayout, WithRegionsChecksTheFilesExtents) {
  auto const layout =
      builder().config(small_config().build()).fully_contiguous().allocate_disk(path_).build();
  auto const same = builder()
                        .config(layout.config())
                        .fully_contiguous(KvBlockLayout::UniversalPP)
                        .with_regions(layout.regions())
                        .build();
  EXPECT_EQ(same.storage_kind(), StorageKind::Disk);
  expect_error(ErrorCode::InvalidArgument, {path_.string(), "5 extents", "needs 4 of"}, [&] {
    return builder()
        .config(layout.config().with_num_blocks(4))
        .fully_contiguous()
        .with_regions(layout.regions())
        .build();
  });
}

TEST_F(DiskLayout, EngineTensorsHaveNoFileForm) {
  auto const config = small_config().build();
  KvDimLayout const tensor(
      {{Dim::Block, 5}, {Dim::Token, 4}, {Dim::Outer, 2}, {Dim::Head, 6}, {Dim::Payload, 7}}, 2);
  expect_error(ErrorCode::InvalidArgument, {"files and objects", "nb=5"}, [&] {
    return builder().config(config).layer_separate(tensor).allocate_disk(path_).build();
  });
}

class BadDescriptor : public DiskLayout {
 protected:
  PhysicalLayout like_ = builder()
                             .config(small_config().build())
                             .fully_contiguous()
                             .allocate_disk(folder_.path() / "like")
                             .build();

  void expect_refused(std::string const& text, ErrorCode code, std::string const& part) const {
    write_file(text, like_);
    expect_error(code, {path_.string(), part},
                 [&] { static_cast<void>(PhysicalLayout::open_disk(source_, path_)); });
  }
};

TEST_F(BadDescriptor, ThatIsNotJsonIsRefused) {
  expect_refused("layout?", ErrorCode::Corrupt, "not a JSON object");
}

TEST_F(BadDescriptor, OfANewerVersionIsRefused) {
  auto text = like_.regions()[0].store()->metadata();
  auto const at = text.find("\"version\":1");
  ASSERT_NE(at, std::string::npos);
  text.replace(at, 11, "\"version\":2");
  expect_refused(text, ErrorCode::VersionMismatch, "Unsupported version 2");
}

TEST_F(BadDescriptor, OfAnotherShapeThanTheFileIsRefused) {
  auto descriptor = like_.descriptor();
  descriptor.config = descriptor.config.with_num_blocks(4);
  descriptor.regions[0].bytes = 4 * 4096;
  expect_refused(descriptor.to_json(), ErrorCode::Corrupt, "extent group 0");
}

TEST_F(BadDescriptor, OfMemoryIsRefused) {
  auto descriptor = like_.descriptor();
  descriptor.regions[0].kind = StorageKind::System;
  descriptor.regions[0].address = 4096;
  expect_refused(descriptor.to_json(), ErrorCode::Corrupt, "regions");
}

TEST_F(DiskLayout, OpeningNothingIsNotFound) {
  expect_error(ErrorCode::NotFound, {path_.string()},
               [&] { static_cast<void>(PhysicalLayout::open_disk(source_, path_)); });
  expect_error(ErrorCode::InvalidArgument, {"memory source"},
               [&] { static_cast<void>(PhysicalLayout::open_disk(nullptr, path_)); });
}

}  // namespace
}  // namespace kvbm::layout
