// SPDX-License-Identifier: Apache-2.0
#include "kvbm/memory/block_store.hpp"

namespace kvbm::memory {

std::string_view to_string(ExtentStatus status) noexcept {
  switch (status) {
    case ExtentStatus::Unknown: return "Unknown";
    case ExtentStatus::Empty: return "Empty";
    case ExtentStatus::Torn: return "Torn";
    case ExtentStatus::Written: return "Written";
    case ExtentStatus::Damaged: return "Damaged";
  }
  return "Unknown";
}

ExtentStatus BlockStore::status(std::uint32_t group, std::uint64_t extent) const {
  return checksum(group, extent) ? ExtentStatus::Written : ExtentStatus::Unknown;
}

StoreSpace BlockStore::space() const {
  StoreSpace space;
  for (std::uint32_t g = 0; g < groups().size(); ++g) {
    space.extents_total += groups()[g].count;
    for (std::uint64_t e = 0; e < groups()[g].count; ++e) {
      ExtentStatus const found = status(g, e);
      space.extents_written += found == ExtentStatus::Written ? 1 : 0;
      space.extents_torn += found == ExtentStatus::Torn ? 1 : 0;
      space.extents_damaged += found == ExtentStatus::Damaged ? 1 : 0;
    }
  }
  return space;
}

}  // namespace kvbm::memory
