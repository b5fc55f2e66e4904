// SPDX-License-Identifier: Apache-2.0
#include "kvbm/core/checked.hpp"
#include "kvbm/core/error.hpp"
#include "kvbm/layout/descriptor.hpp"
#include "kvbm/memory/striped_file.hpp"
#include "layout/state.hpp"
#include "layout/store_geometry.hpp"

#include <fmt/format.h>
#include <unistd.h>

#include <algorithm>
#include <random>

namespace kvbm::layout {
namespace detail {
namespace {

using memory::BlockFile;
using memory::BlockStore;
using memory::ExtentGroup;
using memory::Region;
using memory::StorageKind;

/// A name that nobody else uses; create() refuses one that exists.
std::filesystem::path temporary_path() {
  std::random_device random;
  return std::filesystem::temp_directory_path() /
         fmt::format("kvbm-{}-{:08x}{:08x}", ::getpid(), random(), random());
}

/// Refuses a descriptor that is not of this store.
void expect_describes(LayoutSpec const& spec, LayoutDescriptor const& descriptor,
                      BlockStore const& store) {
  KVBM_EXPECTS(!descriptor.tensor && descriptor.regions == describe(spec, store.kind()).regions,
               Corrupt, "its regions are not those of a store");
  auto const& groups = store.groups();
  KVBM_EXPECTS(groups.size() == descriptor.regions.size(), Corrupt,
               fmt::format("it has {} regions, the store {} extent groups",
                           descriptor.regions.size(), groups.size()));
  for (std::size_t i = 0; i < groups.size(); ++i) {
    KVBM_EXPECTS(groups[i] == group_of(spec, i), Corrupt,
                 fmt::format("region {} does not fit extent group {} of the store", i, i));
  }
}

}  // namespace

ExtentGroup group_of(LayoutSpec const& spec, std::uint64_t index) {
  return {checked_mul(index, spec.geometry.region_bytes), spec.pieces.bytes, spec.pieces.stride,
          spec.pieces.count};
}

LayoutDescriptor describe(LayoutSpec const& spec, StorageKind kind) {
  LayoutDescriptor descriptor{.config = spec.config,
                              .kind = spec.kind,
                              .dimension = spec.dimension,
                              .format = spec.format,
                              .tensor = spec.tensor,
                              .regions = {}};
  for (std::uint64_t i = 0; i < spec.num_regions(); ++i) {
    descriptor.regions.push_back(
        {kind, -1, group_of(spec, i).file_offset, spec.geometry.region_bytes});
  }
  return descriptor;
}

std::vector<Region> regions_of(LayoutSpec const& spec, std::shared_ptr<BlockStore> const& store) {
  std::vector<Region> regions;
  regions.reserve(spec.num_regions());
  for (std::uint32_t i = 0; i < spec.num_regions(); ++i) {
    regions.push_back(
        Region::of_store(store, i, group_of(spec, i).file_offset, spec.geometry.region_bytes));
  }
  return regions;
}

SpecRequest for_store(SpecRequest request) {
  KVBM_EXPECTS(!request.tensor, InvalidArgument,
               fmt::format("files and objects hold blocks in a format, not engine tensors {}",
                           request.tensor->to_string()));
  if (request.config.alignment() < memory::kFileAlignment) {
    request.config = request.config.with_alignment(memory::kFileAlignment);
  }
  return request;
}

std::vector<Region> create_files(LayoutSpec const& spec, memory::MemorySource& source,
                                 std::vector<std::filesystem::path> const& paths) {
  std::vector<ExtentGroup> groups;
  groups.reserve(spec.num_regions());
  for (std::uint64_t i = 0; i < spec.num_regions(); ++i) {
    groups.push_back(group_of(spec, i));
  }
  auto metadata = describe(spec, StorageKind::Disk).to_json();
  if (paths.size() > 1) {
    return regions_of(spec, memory::StripedFile::create(
                                {paths, std::move(groups), std::move(metadata)}, source.disk_io()));
  }
  memory::BlockFileSpec file{paths.empty() ? temporary_path() : paths.front(), std::move(groups),
                             std::move(metadata), paths.empty()};
  return regions_of(spec, BlockFile::create(file, source.disk_io()));
}

void check_store_region(LayoutSpec const& spec, Region const& region) {
  auto const& groups = region.store()->groups();
  auto const name = region.store()->name();
  KVBM_EXPECTS(region.store_index() < groups.size(), InvalidArgument,
               fmt::format("{} has {} extent groups, the region names group {}", name,
                           groups.size(), region.store_index()));
  auto expected = group_of(spec, 0);
  expected.file_offset = region.store_offset();
  auto const& found = groups[region.store_index()];
  KVBM_EXPECTS(region.bytes() >= spec.geometry.region_bytes && found == expected, InvalidArgument,
               fmt::format("extent group {} of {} has {} extents of {} bytes every {} at {}, the "
                           "layout needs {} of {} every {} at {}",
                           region.store_index(), name, found.count, found.extent_bytes,
                           found.extent_stride, found.file_offset, expected.count,
                           expected.extent_bytes, expected.extent_stride, expected.file_offset));
}

}  // namespace detail

namespace {

PhysicalLayout layout_of(std::shared_ptr<memory::BlockStore> const& store,
                         std::shared_ptr<memory::MemorySource> source) {
  try {
    auto const descriptor = LayoutDescriptor::from_json(store->metadata());
    auto spec = detail::make_spec({descriptor.config, descriptor.kind, descriptor.dimension,
                                   descriptor.format, descriptor.tensor});
    detail::expect_describes(spec, descriptor, *store);
    auto regions = detail::regions_of(spec, store);
    return detail::make_layout(std::move(spec), std::move(regions), std::move(source));
  } catch (Error const& error) {
    auto const code =
        error.code() == ErrorCode::VersionMismatch ? error.code() : ErrorCode::Corrupt;
    throw_error(code, fmt::format("{}: the manifest's layout descriptor is refused: {}",
                                  store->name(), error.what()));
  }
}

void expect_source(std::shared_ptr<memory::MemorySource> const& source) {
  KVBM_EXPECTS(source != nullptr, InvalidArgument,
               "PhysicalLayout::open_disk needs a memory source, got null");
}

}  // namespace

PhysicalLayout PhysicalLayout::open_disk(std::shared_ptr<memory::MemorySource> source,
                                         std::filesystem::path const& path, memory::OpenMode mode) {
  expect_source(source);
  auto const store = memory::open_block_store(path, mode, source->disk_io());
  return layout_of(store, std::move(source));
}

PhysicalLayout PhysicalLayout::open_disk(std::shared_ptr<memory::MemorySource> source,
                                         std::vector<std::filesystem::path> const& paths,
                                         memory::OpenMode mode) {
  expect_source(source);
  KVBM_EXPECTS(!paths.empty(), InvalidArgument, "PhysicalLayout::open_disk: no paths");
  if (paths.size() == 1) { return open_disk(std::move(source), paths.front(), mode); }
  auto const store = memory::StripedFile::open(paths, mode, source->disk_io());
  return layout_of(store, std::move(source));
}

}  // namespace kvbm::layout
