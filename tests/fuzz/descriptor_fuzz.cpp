// SPDX-License-Identifier: Apache-2.0
#include "kvbm/core/error.hpp"
#include "kvbm/layout/descriptor.hpp"
#include "kvbm/layout/view.hpp"

#include <cstddef>
#include <cstdint>
#include <cstdlib>
#include <string_view>

using kvbm::Error;
using kvbm::ErrorCode;
using kvbm::layout::LayoutDescriptor;
using kvbm::layout::View;

namespace {

/// Untrusted text is refused with one of two codes or yields a value that survives a round trip.
template <typename T, typename Use>
void decode(std::string_view text, Use use) {
  try {
    auto const value = T::from_json(text);
    if (!(T::from_json(value.to_json()) == value)) { std::abort(); }
    use(value);
  } catch (Error const& error) {
    if (error.code() != ErrorCode::Corrupt && error.code() != ErrorCode::VersionMismatch) {
      std::abort();
    }
  }
}

/// Every chunk's address lies inside its region.
void check_corners(LayoutDescriptor const& descriptor) {
  auto const& config = descriptor.config;
  auto const geometry = descriptor.geometry();
  for (auto const block : {std::uint64_t{0}, config.num_blocks() - 1}) {
    for (auto const layer : {std::uint64_t{0}, config.num_layers() - 1}) {
      for (auto const outer : {std::uint64_t{0}, config.outer_dim() - 1}) {
        auto const& region = descriptor.regions[geometry.layers_are_regions ? layer : 0];
        auto const address = descriptor.address(block, layer, outer);
        if (address < region.address || address - region.address >= region.bytes) { std::abort(); }
      }
    }
  }
  static_cast<void>(descriptor.fingerprint());
}

}  // namespace

extern "C" int LLVMFuzzerTestOneInput(std::uint8_t const* data, std::size_t size) {
  std::string_view const text(reinterpret_cast<char const*>(data), size);
  decode<LayoutDescriptor>(text, check_corners);
  decode<View>(text, [](View const& view) { static_cast<void>(view.signature()); });
  return 0;
}
