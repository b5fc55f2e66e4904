// SPDX-License-Identifier: Apache-2.0
#pragma once

#include "kvbm/nixl/nixl_library.hpp"

namespace kvbm::remote {

/// How NIXL is found, under the names that it has here; see kvbm/nixl/nixl_library.hpp.
using nixl::find_nixl;
using nixl::NixlLibraryInfo;
using nixl::NixlSearch;

}  // namespace kvbm::remote
