// SPDX-License-Identifier: Apache-2.0
#pragma once

#include <gtest/gtest.h>

#include <algorithm>
#include <array>
#include <map>
#include <memory>
#include <string>
#include <tuple>
#include <utility>
#include <vector>

#include "kvbm/manager/transfer_manager.hpp"
#include "kvbm/testing/failure.hpp"
#include "kvbm/testing/layout_cases.hpp"
#include "kvbm/testing/stream_latch.hpp"
#include "kvbm/testing/test_device.hpp"
#include "kvbm/testing/transfer_books.hpp"

namespace kvbm::testing {

using layout::BlockDimension;
using layout::KvBlockLayout;
using layout::LayoutConfig;
using layout::LayoutHandle;
using layout::PhysicalLayout;
using manager::TransferManager;
using memory::StorageKind;
using transfer::BounceBuffer;
using transfer::TransferCompleteNotification;
using transfer::TransferOptions;

inline constexpr std::array kAllStorage{StorageKind::System, StorageKind::Pinned,
                                        StorageKind::Device, StorageKind::Disk,
                                        StorageKind::Object};
inline constexpr std::array kMemoryStorage{StorageKind::System, StorageKind::Pinned,
                                           StorageKind::Device};

/// A manager of the size that tests need, with an emulated device.
inline TransferManager::Builder emulated_manager() {
  auto builder = TransferManager::builder();
  builder.host_device(1, std::uint64_t{256} << 20U)
      .cuda_pool_reserve_size(1U << 20U)
      .copy_threads(2)
      .staging_bytes(1U << 20U);
  return builder;
}

/// The same with the device that the tests run on; an emulated one where that is missing, for tests
/// that are skipped.
inline TransferManager::Builder small_manager() {
  auto builder = emulated_manager();
  if (on_cuda()) { builder.cuda_device_id(0); }
  return builder;
}

inline LayoutConfig small_config(std::uint64_t num_blocks, std::uint64_t width = 2,
                                 std::uint64_t num_heads = 4, std::uint64_t num_layers = 4,
                                 std::uint64_t alignment = 1) {
  return LayoutConfig::builder()
      .num_blocks(num_blocks)
      .num_layers(num_layers)
      .page_size(4)
      .inner_dim(3 * num_heads)
      .num_heads(num_heads)
      .dtype_width_bytes(width)
      .alignment(alignment)
      .build();
}

/// Which part of the blocks; the numbers rotate through the generated cases.
struct Rotation {
  Part part;
  TransferOptions options;
};

inline Rotation rotation(std::size_t number, PhysicalLayout const& layout) {
  Rotation r{whole(layout), {}};
  switch (number % 5) {
    case 1: r.part.layers = {2, 3}; break;
    case 2: r.part.layers = {1, 3}; break;
    case 3:
      r.part.src_heads = {1, 3};
      r.part.dst_heads = {2, 4};
      break;
    case 4:
      r.part.layers = {3, 4};
      r.part.src_heads = r.part.dst_heads = {3, 4};
      break;
    default: return r;
  }
  r.options.layer_range = r.part.layers;
  r.options.src_head_range = r.part.src_heads;
  r.options.dst_head_range = r.part.dst_heads;
  return r;
}

/// Layouts that are made once per width and shape and used again: a file costs much more than a
/// transfer.
class LayoutCache {
 public:
  /// @param make_layout  called for a layout that is not there yet
  template <typename Make>
  PhysicalLayout const& get(bool is_source, std::uint64_t width, LayoutShape const& shape,
                            std::uint64_t alignment, Make const& make_layout) {
    auto const key = std::make_tuple(is_source, width, alignment, shape.name());
    auto found = layouts_.find(key);
    if (found == layouts_.end()) { found = layouts_.emplace(key, make_layout()).first; }
    return found->second;
  }

 private:
  std::map<std::tuple<bool, std::uint64_t, std::uint64_t, std::string>, PhysicalLayout> layouts_;
};

/// Registered layouts of one manager, filled and compared whatever their storage.
class TransferTest : public ::testing::Test {
 protected:
  explicit TransferTest(TransferManager::Builder builder = small_manager())
      : manager_(builder.build()) {}
  /// Whatever a test did: each transfer ended once, or is in flight.
  void TearDown() override { expect_balanced(manager_.statistics().transfers); }

  PhysicalLayout make(LayoutConfig const& config, LayoutShape const& shape, StorageKind storage) {
    return make_layout(manager_.memory_source(), config, shape, storage);
  }

  /// Writes element values into all blocks; a store gets them through a layout like it in memory.
  void write(PhysicalLayout const& layout, std::uint64_t seed) {
    if (memory::is_memory(layout.storage_kind())) {
      write_all_blocks(layout, seed);
      return;
    }
    auto const memory = like_in_memory(layout);
    write_all_blocks(memory, seed);
    move(memory, all(memory), layout, all(layout)).wait();
  }

  /// What the layout holds according to a transfer of all of its blocks into memory.
  Image image_by_transfer(PhysicalLayout const& layout) {
    if (memory::is_memory(layout.storage_kind())) { return snapshot(layout); }
    auto const memory = like_in_memory(layout);
    move(layout, all(layout), memory, all(memory)).wait();
    return snapshot(memory);
  }

  PhysicalLayout like_in_memory(PhysicalLayout const& layout) {
    return make(layout.config(), {layout.kind(), layout.block_dimension(), layout.format()},
                StorageKind::System);
  }

  TransferCompleteNotification move(PhysicalLayout const& src, std::vector<BlockId> const& src_ids,
                                    PhysicalLayout const& dst, std::vector<BlockId> const& dst_ids,
                                    TransferOptions const& options = {}) {
    return manager_.execute_transfer(transfer::KvBlocks::of(src, src_ids),
                                     transfer::KvBlocks::of(dst, dst_ids), options);
  }

  /// Moves blocks and compares all of the destination, guards and padding too, with the oracle.
  void check_move(PhysicalLayout const& src, std::vector<BlockId> const& src_ids,
                  PhysicalLayout const& dst, std::vector<BlockId> const& dst_ids, Part const& part,
                  TransferOptions const& options) {
    Image source = image_of(src);
    Image expected = image_of(dst);
    copy_elements(src, source, src_ids, dst, expected, dst_ids, part);
    move(src, src_ids, dst, dst_ids, options).wait();
    expect_image(dst, expected);
    EXPECT_EQ(image_of(src), source) << "the source changed";
  }

  void expect_image(PhysicalLayout const& layout, Image& expected) {
    Image found = image_of(layout);
    if (memory::is_memory(layout.storage_kind())) {
      EXPECT_EQ(found, expected);
      return;
    }
    // Padding behind an extent of a store is nobody's.
    Image moved = image_by_transfer(layout);
    EXPECT_EQ(count_element_differences(layout, found, expected, all(layout)), 0U)
        << "in the store";
    EXPECT_EQ(count_element_differences(layout, moved, expected, all(layout)), 0U) << "read back";
  }

  static std::vector<BlockId> all(PhysicalLayout const& layout) {
    return first_blocks(layout.config().num_blocks());
  }

  /// An event that is complete when the latch is open.
  device::EventPtr event_behind(StreamLatch const& latch) {
    auto event = manager_.context().devices().front()->create_event();
    latch.stream()->record(event);
    return event;
  }
  /// A stream that nothing else uses.
  device::StreamPtr own_stream(std::string name) {
    return manager_.context().devices().front()->create_stream(std::move(name));
  }

  TransferManager manager_;
};

}  // namespace kvbm::testing
