// SPDX-License-Identifier: Apache-2.0
#pragma once

#include <memory>
#include <span>
#include <string>
#include <string_view>
#include <type_traits>

#include "nixl/nixl_agent.hpp"

namespace kvbm::nixl {

/// Ends a NIXL object with one of the functions of the library that made it.
template <typename Object>
struct NixlDeleter {
  nixl_c::Status (*destroy)(Object*) = nullptr;
  void operator()(Object* object) const noexcept { destroy(object); }
};
template <typename Handle>
using NixlHandle =
    std::unique_ptr<std::remove_pointer_t<Handle>, NixlDeleter<std::remove_pointer_t<Handle>>>;

/// Calls `create(&handle)` and owns what it made; throws Error(Internal) naming `what`.
template <typename Handle, typename Create>
NixlHandle<Handle> make_nixl_handle(char const* what, nixl_c::Status (*destroy)(Handle),
                                    Create const& create);

/// Throws Error(Internal) that names the call and its status.
[[noreturn]] void throw_nixl(std::string_view call, nixl_c::Status status);

template <typename Handle, typename Create>
NixlHandle<Handle> make_nixl_handle(char const* what, nixl_c::Status (*destroy)(Handle),
                                    Create const& create) {
  Handle handle = nullptr;
  nixl_c::Status const status = create(&handle);
  if (status != nixl_c::kSuccess || handle == nullptr) { throw_nixl(what, status); }
  return NixlHandle<Handle>(handle, NixlDeleter<std::remove_pointer_t<Handle>>{destroy});
}

/// NIXL's word for a segment.
nixl_c::Memory to_nixl(Segment segment) noexcept;

/// Refuses what must not reach NIXL: no ranges, more than it counts, an empty one, or one whose end
/// wraps around, which would pass NIXL's own check and disconnect the peer for good.
/// @param side  "local" or "remote", for the message
void check_ranges(std::string_view side, std::span<NixlRange const> ranges);

/// check_ranges of both, and that they pair up.
void check_pairs(std::span<NixlRange const> local, std::span<NixlRange const> remote);

NixlHandle<nixl_c::TransferList> make_transfer_list(nixl_c::Functions const& functions,
                                                    Segment segment,
                                                    std::span<NixlRange const> ranges);
NixlHandle<nixl_c::RegistrationList> make_registration_list(nixl_c::Functions const& functions,
                                                            Segment segment,
                                                            std::span<NixlRange const> ranges,
                                                            std::string_view metadata);

}  // namespace kvbm::nixl
