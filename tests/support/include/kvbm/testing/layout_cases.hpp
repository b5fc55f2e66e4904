// SPDX-License-Identifier: Apache-2.0
#pragma once

#include <atomic>
#include <cstddef>
#include <cstdint>
#include <exception>
#include <filesystem>
#include <fstream>
#include <memory>
#include <stdexcept>
#include <string>
#include <vector>

#include "kvbm/core/error.hpp"
#include "kvbm/layout/physical_layout.hpp"
#include "kvbm/memory/block_file.hpp"
#include "kvbm/object/object_store.hpp"
#include "kvbm/testing/object_server.hpp"
#include "kvbm/testing/tensor_oracle.hpp"

/// Every way to lay a block out, and what a layout holds as plain bytes: what suites over all
/// layouts are generated from and compared with.
namespace kvbm::testing {

/// Kind and format of a layout.
struct LayoutShape {
  layout::LayoutKind kind = layout::LayoutKind::FullyContiguous;
  layout::BlockDimension dimension = layout::BlockDimension::First;
  layout::KvBlockLayout format = layout::KvBlockLayout::OperationalNHD;

  [[nodiscard]] std::string name() const {
    std::string const text = kind == layout::LayoutKind::FullyContiguous  ? "FC"
                             : dimension == layout::BlockDimension::First ? "LS1"
                                                                          : "LS2";
    return text + " " + format.to_string();
  }
};

inline LayoutShape contiguous(layout::KvBlockLayout const& format) {
  return {layout::LayoutKind::FullyContiguous, layout::BlockDimension::First, format};
}
inline LayoutShape layer_wise(layout::BlockDimension dimension,
                              layout::KvBlockLayout const& format) {
  return {layout::LayoutKind::LayerSeparate, dimension, format};
}

/// Fully contiguous in every named format and two custom ones; layer separate, block first and
/// second, in both operational formats.
inline std::vector<LayoutShape> every_shape() {
  using layout::BlockDim;
  using Format = layout::KvBlockLayout;
  std::vector<LayoutShape> shapes;
  for (auto const& format :
       {Format::UniversalTP, Format::UniversalPP, Format::OperationalHND, Format::OperationalNHD,
        Format::Custom(
            {BlockDim::Token, BlockDim::Outer, BlockDim::Head, BlockDim::Layer, BlockDim::HeadDim}),
        Format::Custom({BlockDim::HeadDim, BlockDim::Head, BlockDim::Layer, BlockDim::Token,
                        BlockDim::Outer})}) {
    shapes.push_back(contiguous(format));
  }
  for (auto const dimension : {layout::BlockDimension::First, layout::BlockDimension::Second}) {
    shapes.push_back(layer_wise(dimension, Format::OperationalNHD));
    shapes.push_back(layer_wise(dimension, Format::OperationalHND));
  }
  return shapes;
}

/// Whether there are layouts of this shape in this storage: objects hold whole blocks.
inline bool is_possible(LayoutShape const& shape, memory::StorageKind storage) {
  return storage != memory::StorageKind::Object ||
         shape.kind == layout::LayoutKind::FullyContiguous;
}

/// Objects of their own, in a server that all tests of this process share.
inline object::ObjectStoreOptions new_objects() {
  static ObjectServer const server;
  static std::atomic<std::uint64_t> number{0};
  object::ObjectStoreOptions options;
  options.s3.endpoint = server.endpoint();
  options.s3.bucket = "blocks";
  options.s3.connections = 4;
  options.s3.credentials = object::Credentials{"key", "secret", {}, "the test", {}};
  options.scheme.prefix = "layout-" + std::to_string(number++);
  return options;
}

/// A layout of `shape` in owned storage: a device, a temporary file, objects, or host memory.
inline layout::PhysicalLayout make_layout(std::shared_ptr<memory::MemorySource> const& source,
                                          layout::LayoutConfig const& config,
                                          LayoutShape const& shape, memory::StorageKind storage,
                                          DeviceId device_id = 0) {
  auto const start = layout::PhysicalLayout::builder(source).config(config);
  auto const builder = shape.kind == layout::LayoutKind::FullyContiguous
                           ? start.fully_contiguous(shape.format)
                           : start.layer_separate(shape.dimension, shape.format);
  switch (storage) {
    case memory::StorageKind::System: return builder.allocate_system().build();
    case memory::StorageKind::Pinned: return builder.allocate_pinned().build();
    case memory::StorageKind::Device: return builder.allocate_device(device_id).build();
    case memory::StorageKind::Object: return builder.allocate_object(new_objects()).build();
    default: return builder.allocate_disk().build();
  }
}

/// Bytes [offset, offset + bytes) of a file, read without kvbm.
inline std::vector<std::byte> read_file(std::filesystem::path const& path, std::uint64_t offset,
                                        std::uint64_t bytes) {
  std::vector<std::byte> content(bytes);
  std::ifstream file(path, std::ios::binary);
  file.seekg(static_cast<std::streamoff>(offset));
  file.read(reinterpret_cast<char*>(content.data()), static_cast<std::streamsize>(bytes));
  if (!file) { throw std::runtime_error("cannot read " + path.string()); }
  return content;
}

/// What a layout of objects holds, read block by block; blocks that are not there are zeros.
inline Image image_of_objects(layout::PhysicalLayout const& layout) {
  auto const& region = layout.regions().front();
  Image image(1, std::vector<std::byte>(region.bytes()));
  auto const queue = region.store()->make_queue();
  std::vector<memory::ExtentIo> reads;
  for (BlockId block = 0; block < layout.config().num_blocks(); ++block) {
    auto const extent = layout.extent(block, 0);
    reads.push_back(
        {region.store_index(), extent.index, image[0].data() + extent.offset, extent.bytes});
  }
  queue->start_read(region.store(), reads);
  for (auto const& error : queue->finish()) {
    try {
      if (error != nullptr) { std::rethrow_exception(error); }
    } catch (Error const& failure) {
      if (failure.code() != ErrorCode::NotFound) { throw; }
    }
  }
  return image;
}

/// What a layout holds, files read without kvbm.
inline Image image_of(layout::PhysicalLayout const& layout) {
  if (memory::is_memory(layout.storage_kind())) { return snapshot(layout); }
  if (layout.storage_kind() == memory::StorageKind::Object) { return image_of_objects(layout); }
  Image image;
  for (auto const& region : layout.regions()) {
    image.push_back(read_file(region.store()->name(), region.store_offset(), region.bytes()));
  }
  return image;
}

/// Part of a block: layers, and equally many heads on both sides.
struct Part {
  IndexRange layers;
  IndexRange src_heads;
  IndexRange dst_heads;
};

/// All of a block.
inline Part whole(layout::PhysicalLayout const& layout) {
  auto const& extents = layout.geometry().extents;
  return {{0, extents[0]}, {0, extents[3]}, {0, extents[3]}};
}

/// Copies blocks between images, element by element: what a transfer should do.
inline void copy_elements(layout::PhysicalLayout const& src, Image& src_image,
                          std::vector<BlockId> const& src_blocks, layout::PhysicalLayout const& dst,
                          Image& dst_image, std::vector<BlockId> const& dst_blocks,
                          Part const& part) {
  auto const inside = [](std::uint64_t i, IndexRange range) {
    return range.begin <= i && i < range.end;
  };
  for (std::size_t i = 0; i < src_blocks.size(); ++i) {
    for_each_element(src, [&](Element const& from) {
      if (!inside(from.layer, part.layers) || !inside(from.head, part.src_heads)) { return; }
      Element to = from;
      to.head = from.head - part.src_heads.begin + part.dst_heads.begin;
      std::memcpy(element_of(dst_image, dst, dst_blocks[i], to),
                  element_of(src_image, src, src_blocks[i], from), src.geometry().element_bytes);
    });
  }
}

/// Elements of whole blocks that differ between two images of one layout.
inline std::uint64_t count_element_differences(layout::PhysicalLayout const& layout, Image& a,
                                               Image& b, std::vector<BlockId> const& blocks) {
  std::uint64_t differences = 0;
  for (BlockId const block : blocks) {
    for_each_element(layout, [&](Element const& e) {
      differences += std::memcmp(element_of(a, layout, block, e), element_of(b, layout, block, e),
                                 layout.geometry().element_bytes) != 0;
    });
  }
  return differences;
}

/// 0, 1, ... count - 1.
inline std::vector<BlockId> first_blocks(std::uint64_t count) {
  std::vector<BlockId> ids(count);
  for (std::size_t i = 0; i < ids.size(); ++i) {
    ids[i] = static_cast<BlockId>(i);
  }
  return ids;
}

/// Writes element_value(seed, block, ...) into every block of a layout in memory.
inline void write_all_blocks(layout::PhysicalLayout const& layout, std::uint64_t seed) {
  auto const ids = first_blocks(layout.config().num_blocks());
  write_blocks(layout, ids, seed, ids);
}

}  // namespace kvbm::testing
