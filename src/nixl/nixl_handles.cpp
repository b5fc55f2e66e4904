// SPDX-License-Identifier: Apache-2.0
#include "nixl/nixl_handles.hpp"

#include <limits>

#include <fmt/format.h>

#include "kvbm/core/error.hpp"

namespace kvbm::nixl {

namespace {

// NIXL counts and indexes descriptors with int.
constexpr std::size_t kMaxRanges = std::numeric_limits<int>::max();

}  // namespace

std::string_view to_string(Segment segment) noexcept {
  switch (segment) {
    case Segment::Dram: return "Dram";
    case Segment::Vram: return "Vram";
    case Segment::File: return "File";
    case Segment::Object: return "Object";
  }
  return "unknown";
}

nixl_c::Memory to_nixl(Segment segment) noexcept {
  switch (segment) {
    case Segment::Dram: return nixl_c::kDram;
    case Segment::Vram: return nixl_c::kVram;
    case Segment::File: return nixl_c::kFile;
    case Segment::Object: return nixl_c::kObject;
  }
  return nixl_c::kDram;
}

void throw_nixl(std::string_view call, nixl_c::Status status) {
  throw_error(
      ErrorCode::Internal,
      fmt::format("NIXL refused {} (status {}); NIXL_LOG_LEVEL=INFO prints why", call, status),
      status);
}

void check_ranges(std::string_view side, std::span<NixlRange const> ranges) {
  KVBM_EXPECTS(!ranges.empty(), InvalidArgument, fmt::format("there are no {} ranges", side));
  KVBM_EXPECTS(
      ranges.size() <= kMaxRanges, InvalidArgument,
      fmt::format("{} {} ranges are more than NIXL counts ({})", ranges.size(), side, kMaxRanges));
  for (std::size_t i = 0; i < ranges.size(); ++i) {
    NixlRange const& range = ranges[i];
    KVBM_EXPECTS(range.bytes != 0, InvalidArgument,
                 fmt::format("{}[{}] at {:#x} has no bytes", side, i, range.address));
    KVBM_EXPECTS(range.address <= std::numeric_limits<std::uintptr_t>::max() - range.bytes,
                 Overflow,
                 fmt::format("{}[{}] of {} bytes at {:#x} leaves the address space", side, i,
                             range.bytes, range.address));
  }
}

void check_pairs(std::span<NixlRange const> local, std::span<NixlRange const> remote) {
  check_ranges("local", local);
  check_ranges("remote", remote);
  KVBM_EXPECTS(local.size() == remote.size(), InvalidArgument,
               fmt::format("{} local ranges and {} remote ones do not pair up", local.size(),
                           remote.size()));
  for (std::size_t i = 0; i < local.size(); ++i) {
    KVBM_EXPECTS(local[i].bytes == remote[i].bytes, InvalidArgument,
                 fmt::format("local[{}] has {} bytes, remote[{}] has {}", i, local[i].bytes, i,
                             remote[i].bytes));
  }
}

NixlHandle<nixl_c::TransferList> make_transfer_list(nixl_c::Functions const& functions,
                                                    Segment segment,
                                                    std::span<NixlRange const> ranges) {
  auto list = make_nixl_handle<nixl_c::TransferList>(
      "create_xfer_dlist", functions.destroy_xfer_dlist, [&](nixl_c::TransferList* out) {
        return functions.create_xfer_dlist(to_nixl(segment), out, false);
      });
  for (NixlRange const& range : ranges) {
    nixl_c::Status const status =
        functions.xfer_dlist_add_desc(list.get(), range.address, range.bytes, range.device_id);
    if (status != nixl_c::kSuccess) { throw_nixl("xfer_dlist_add_desc", status); }
  }
  return list;
}

NixlHandle<nixl_c::RegistrationList> make_registration_list(nixl_c::Functions const& functions,
                                                            Segment segment,
                                                            std::span<NixlRange const> ranges,
                                                            std::string_view metadata) {
  auto list = make_nixl_handle<nixl_c::RegistrationList>(
      "create_reg_dlist", functions.destroy_reg_dlist, [&](nixl_c::RegistrationList* out) {
        return functions.create_reg_dlist(to_nixl(segment), out, false);
      });
  for (NixlRange const& range : ranges) {
    nixl_c::Status const status = functions.reg_dlist_add_desc(
        list.get(), range.address, range.bytes, range.device_id, metadata.data(), metadata.size());
    if (status != nixl_c::kSuccess) { throw_nixl("reg_dlist_add_desc", status); }
  }
  return list;
}

}  // namespace kvbm::nixl
