// SPDX-License-Identifier: Apache-2.0
#pragma once

#include "kvbm/nixl/nixl_library.hpp"

namespace kvbm::remote {

using nixl::find_nixl;
using nixl::NixlLibraryInfo;
using nixl::NixlSearch;

}  // namespace kvbm::remote
