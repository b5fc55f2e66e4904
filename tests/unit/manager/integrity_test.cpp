// SPDX-License-Identifier: Apache-2.0
//
// Checksums and fills through the manager: equal for equal tensors, whatever holds them.
#include "kvbm/transfer/integrity.hpp"

#include <xxhash.h>

#include "contract/transfer_fixture.hpp"

namespace kvbm::testing {
namespace {

using transfer::FillPattern;
using Kind = FillPattern::Kind;

class Integrity : public TransferTest {
 protected:
  /// A block's elements in the order [nl, no, nt, nh, hd], gathered one by one.
  static std::vector<std::byte> canonical_bytes(PhysicalLayout const& layout, Image& image,
                                                BlockId block) {
    std::vector<std::byte> bytes;
    for_each_element(layout, [&](Element const& e) {
      auto const* const element = element_of(image, layout, block, e);
      bytes.insert(bytes.end(), element, element + layout.geometry().element_bytes);
    });
    return bytes;
  }
  static Checksum hash(std::vector<std::byte> const& bytes, std::size_t first, std::size_t count) {
    auto const hashed = XXH3_128bits(bytes.data() + first, count);
    return {hashed.low64, hashed.high64};
  }
};

TEST_F(Integrity, ChecksumsAreThoseOfTheCanonicalBytesInEveryStorageKindAndFormat) {
  std::vector<BlockId> const ids{2, 0};
  for (std::uint64_t const width : {1U, 2U, 4U, 8U}) {
    for (auto const storage : kAllStorage) {
      for (auto const& shape : every_shape()) {
        if (!is_possible(shape, storage)) { continue; }
        SCOPED_TRACE(shape.name() + " in " + std::string(memory::to_string(storage)));
        auto const layout = make(small_config(3, width, 4, 3, 64), shape, storage);
        write(layout, 1);
        auto const handle = manager_.register_layout(layout);
        auto const blocks = manager_.block_checksums(handle, ids);
        auto const layers = manager_.layer_checksums(handle, ids);
        ASSERT_EQ(blocks.size(), 2U);
        ASSERT_EQ(layers.size(), 6U);
        Image image = image_of(layout);
        for (std::size_t i = 0; i < 2; ++i) {
          auto const bytes = canonical_bytes(layout, image, ids[i]);
          EXPECT_EQ(blocks[i], hash(bytes, 0, bytes.size()));
          std::size_t const layer = bytes.size() / 3;
          for (std::size_t l = 0; l < 3; ++l) {
            EXPECT_EQ(layers[i * 3 + l], hash(bytes, l * layer, layer)) << "layer " << l;
          }
        }
      }
    }
    if (HasFailure()) { return; }
  }
}

TEST_F(Integrity, FillsAreTheSameTensorEverywhereAndLeaveOtherBlocksAndPaddingAlone) {
  std::vector<BlockId> const ids{3, 1};
  for (auto const pattern : {FillPattern{Kind::Constant, 0xA5}, FillPattern{Kind::Sequential, 7},
                             FillPattern{Kind::BlockLayer, 9}, FillPattern{Kind::Hashed, 9}}) {
    std::vector<Checksum> expected;
    for (auto const storage : kAllStorage) {
      for (auto const& shape : every_shape()) {
        if (!is_possible(shape, storage)) { continue; }
        SCOPED_TRACE(shape.name() + " in " + std::string(memory::to_string(storage)) + " pattern " +
                     std::to_string(static_cast<int>(pattern.kind)));
        auto const layout = make(small_config(4, 2, 4, 3, 64), shape, storage);
        write(layout, 1);
        auto const handle = manager_.register_layout(layout);
        Image const before = image_of(layout);
        manager_.fill_blocks(handle, ids, pattern);
        Image after = image_of(layout);
        auto const checksums = manager_.block_checksums(handle, ids);
        if (expected.empty()) { expected = checksums; }
        EXPECT_EQ(checksums, expected);

        auto const bytes = canonical_bytes(layout, after, 3);
        for (std::size_t i = 0; i < bytes.size(); ++i) {
          if (pattern.kind == Kind::Constant) { ASSERT_EQ(bytes[i], std::byte{0xA5}); }
          if (pattern.kind == Kind::Sequential) {
            ASSERT_EQ(bytes[i], static_cast<std::byte>(7 + 3 + i));
          }
        }
        // With the two blocks put back everything is as before: nothing else was touched.
        Image old = before;
        Image restored = after;
        copy_elements(layout, old, ids, layout, restored, ids, whole(layout));
        if (memory::is_store(storage)) {
          EXPECT_EQ(count_element_differences(layout, old, restored, all(layout)), 0U);
        } else {
          EXPECT_EQ(restored, before);
        }
      }
    }
    if (HasFailure()) { return; }
    bool const tells_blocks_apart = pattern.kind != Kind::Constant;
    EXPECT_EQ(expected[0] != expected[1], tells_blocks_apart);
  }
}

TEST_F(Integrity, TransfersKeepChecksumsAndOneChangedByteShows) {
  auto const src = manager_.register_layout(
      make(small_config(4), contiguous(KvBlockLayout::UniversalTP), StorageKind::Device));
  auto const layout =
      make(small_config(4), layer_wise(BlockDimension::Second, KvBlockLayout::OperationalNHD),
           StorageKind::Pinned);
  auto const dst = manager_.register_layout(layout);
  manager_.fill_blocks(src, first_blocks(4), {});
  manager_.execute_transfer(src, first_blocks(4), dst, first_blocks(4)).wait();
  auto const sums = manager_.block_checksums(src, first_blocks(4));
  EXPECT_EQ(manager_.block_checksums(dst, first_blocks(4)), sums);
  *element_address(layout, 2, {3, 1, 3, 3, 2}) ^= std::byte{1};
  auto const changed = manager_.block_checksums(dst, first_blocks(4));
  for (std::size_t i = 0; i < 4; ++i) {
    EXPECT_EQ(changed[i] == sums[i], i != 2);
  }
}

TEST_F(Integrity, BlocksBeyondTheLayoutAndBlocksNeverWrittenAreErrors) {
  std::vector<BlockId> const bad{0, 4};
  for (auto const storage : kAllStorage) {
    auto const handle = manager_.register_layout(
        make(small_config(4), contiguous(KvBlockLayout::UniversalTP), storage));
    auto const code = [&](auto const& call) { return failure_of_call(call).code; };
    EXPECT_EQ(code([&] { return manager_.block_checksums(handle, bad); }), ErrorCode::OutOfRange);
    EXPECT_EQ(code([&] { return manager_.layer_checksums(handle, bad); }), ErrorCode::OutOfRange);
    EXPECT_EQ(code([&] {
                manager_.fill_blocks(handle, bad, {});
                return 0;
              }),
              ErrorCode::OutOfRange);
    EXPECT_TRUE(manager_.block_checksums(handle, {}).empty());
    if (memory::is_store(storage)) {
      EXPECT_EQ(code([&] { return manager_.block_checksums(handle, first_blocks(1)); }),
                ErrorCode::NotFound);
    }
  }
}

}  // namespace
}  // namespace kvbm::testing
