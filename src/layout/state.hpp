// SPDX-License-Identifier: Apache-2.0
#pragma once

#include "kvbm/layout/physical_layout.hpp"
#include "layout/spec.hpp"

#include <memory>
#include <vector>

namespace kvbm::object {
struct ObjectStoreOptions;
}  // namespace kvbm::object

namespace kvbm::layout {

/// What all copies of a layout share; never changes.
struct PhysicalLayout::State {
  detail::LayoutSpec spec;
  std::vector<memory::Region> regions;  ///< at least one
  std::shared_ptr<memory::MemorySource> source;
  Checksum fingerprint;
  Checksum shape_fingerprint;
};

namespace detail {

/// Puts spec and checked regions together.
PhysicalLayout make_layout(LayoutSpec spec, std::vector<memory::Region> regions,
                           std::shared_ptr<memory::MemorySource> source);

/// Regions of memory that the source allocates.
std::vector<memory::Region> allocate_regions(LayoutSpec const& spec, memory::MemorySource& source,
                                             memory::StorageKind kind, DeviceId device_id);

/// Checks memory that the caller owns; see PhysicalLayoutBuilder::build.
std::vector<memory::Region> external_regions(LayoutSpec const& spec, memory::MemorySource& source,
                                             std::vector<ExternalRegion> const& given);
std::vector<memory::Region> external_device_regions(LayoutSpec const& spec,
                                                    memory::MemorySource& source,
                                                    std::vector<ExternalDeviceRegion> const& given);
std::vector<memory::Region> existing_regions(LayoutSpec const& spec,
                                             std::vector<memory::Region> const& given);

/// The request with its alignment raised to what files need. @throws Error(InvalidArgument) for
/// tensors that are not blocks in a plain format
SpecRequest for_store(SpecRequest request);

/// Creates the file of a layout, or the several ones; without a path a temporary one.
std::vector<memory::Region> create_files(LayoutSpec const& spec, memory::MemorySource& source,
                                         std::vector<std::filesystem::path> const& paths);

/// Opens or makes the objects of a layout. What the options' key scheme leaves empty is filled in.
/// @throws Error(InvalidArgument) a layout that is not fully contiguous; like
/// ObjectBlockStore::open
std::vector<memory::Region> open_objects(LayoutSpec const& spec,
                                         object::ObjectStoreOptions options);

/// Whether a store region's extents are those of the layout's region. @throws
/// Error(InvalidArgument)
void check_store_region(LayoutSpec const& spec, memory::Region const& region);

}  // namespace detail
}  // namespace kvbm::layout
