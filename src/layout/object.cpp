// SPDX-License-Identifier: Apache-2.0
#include "kvbm/object/object_store.hpp"

#include <fmt/format.h>

#include "kvbm/core/error.hpp"
#include "layout/state.hpp"
#include "layout/store_geometry.hpp"

namespace kvbm::layout::detail {

std::vector<memory::Region> open_objects(LayoutSpec const& spec,
                                         object::ObjectStoreOptions options) {
  KVBM_EXPECTS(spec.kind == LayoutKind::FullyContiguous, InvalidArgument,
               "allocate_object: an object holds a whole block; use fully_contiguous(format)");
  // Blocks of other shapes and formats never meet, also where the caller names no model.
  if (options.scheme.model.empty()) {
    options.scheme.model = "shape-" + to_string(shape_fingerprint(spec.config));
  }
  if (options.scheme.format.empty()) { options.scheme.format = spec.format.to_string(); }
  return regions_of(
      spec, object::ObjectBlockStore::open(options, group_of(spec, 0),
                                           describe(spec, memory::StorageKind::Object).to_json()));
}

}  // namespace kvbm::layout::detail
