// SPDX-License-Identifier: Apache-2.0
#include "kvbm/layout/handle.hpp"

#include <fmt/format.h>

namespace kvbm::layout {

std::string to_string(LayoutHandle handle) {
  return fmt::format("LayoutHandle(worker={}, layout={})", handle.worker_id(), handle.layout_id());
}

}  // namespace kvbm::layout
