// SPDX-License-Identifier: Apache-2.0
#include "kvbm/remote/tier.hpp"

#include <fmt/format.h>

#include <array>
#include <string>
#include <utility>

#include "kvbm/core/error.hpp"

namespace kvbm::remote {
namespace {

constexpr std::array<std::pair<LogicalLayoutHandle, std::string_view>, kNumTiers> kNames = {{
    {LogicalLayoutHandle::G1, "G1"},
    {LogicalLayoutHandle::G2, "G2"},
    {LogicalLayoutHandle::G3, "G3"},
    {LogicalLayoutHandle::G4, "G4"},
}};

}  // namespace

std::string_view to_string(LogicalLayoutHandle tier) noexcept {
  for (auto const& [value, name] : kNames) {
    if (value == tier) { return name; }
  }
  return "unknown";
}

LogicalLayoutHandle tier_from_string(std::string_view name) {
  for (auto const& [value, known] : kNames) {
    if (known == name) { return value; }
  }
  throw_error(ErrorCode::InvalidArgument,
              fmt::format("tier '{}' is unknown; there are G1, G2, G3, G4", name));
}

LogicalLayoutHandle tier_of(memory::StorageKind kind) noexcept {
  switch (kind) {
    case memory::StorageKind::Device: return LogicalLayoutHandle::G1;
    case memory::StorageKind::System:
    case memory::StorageKind::Pinned: return LogicalLayoutHandle::G2;
    case memory::StorageKind::Disk: return LogicalLayoutHandle::G3;
    case memory::StorageKind::Object: break;
  }
  return LogicalLayoutHandle::G4;
}

}  // namespace kvbm::remote
