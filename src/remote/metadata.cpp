// SPDX-License-Identifier: Apache-2.0
#include "kvbm/remote/metadata.hpp"

#include <fmt/format.h>

#include <utility>

#include "kvbm/core/error.hpp"
#include "remote/metadata_codec.hpp"
#include "remote/sealed.hpp"

namespace kvbm::remote {
namespace {

using detail::Envelope;

constexpr Envelope kAddressEnvelope{"worker address", "KVBMADDR", WorkerAddress::kVersion,
                                    SerializedLayout::kMaxBytes};
constexpr Envelope kMetadataEnvelope{"worker metadata", "KVBMMETA", SerializedLayout::kVersion,
                                     SerializedLayout::kMaxBytes};

template <typename T>
T read(Envelope const& envelope, std::span<std::byte const> bytes,
       T (*from)(nlohmann::json const&)) {
  auto const value = detail::unseal(envelope, bytes);
  try {
    return from(value);
  } catch (Error const& error) {
    auto const message = fmt::format("{}: {}", envelope.what, error.what());
    if (error.code() == ErrorCode::VersionMismatch) { throw Error(error.code(), message); }
    throw CorruptError(message);
  }
}

/// Seals `value` and reads it back, so that whatever a peer would refuse is refused here, where
/// somebody can do something about it.
template <typename T>
std::vector<std::byte> write(Envelope const& envelope, T const& value,
                             T (*from)(nlohmann::json const&)) {
  std::vector<std::byte> bytes;
  auto const refuse = [&](char const* why) {
    throw_error(ErrorCode::InvalidArgument,
                fmt::format("{} that no peer would accept: {}", envelope.what, why));
  };
  try {
    bytes = detail::seal(envelope, detail::to_value(value, false));
    if (!(read(envelope, bytes, from) == value)) {
      refuse("a field is set that its kind does not have");
    }
  } catch (Error const& error) {
    if (error.code() == ErrorCode::InvalidArgument) { throw; }
    refuse(error.what());
  }
  return bytes;
}

}  // namespace

std::vector<std::byte> WorkerAddress::to_bytes() const {
  return write(kAddressEnvelope, *this, &detail::address_from);
}

WorkerAddress WorkerAddress::from_bytes(std::span<std::byte const> bytes) {
  return read(kAddressEnvelope, bytes, &detail::address_from);
}

std::vector<std::byte> SerializedLayout::to_bytes() const {
  return write(kMetadataEnvelope, *this, &detail::metadata_from);
}

SerializedLayout SerializedLayout::from_bytes(std::span<std::byte const> bytes) {
  return read(kMetadataEnvelope, bytes, &detail::metadata_from);
}

std::string SerializedLayout::to_json() const {
  return detail::to_value(*this, true).dump(2, ' ', true, nlohmann::json::error_handler_t::replace);
}

LogicalLayoutDescriptor describe_layout(layout::LayoutHandle handle,
                                        layout::PhysicalLayout const& layout) {
  LogicalLayoutDescriptor descriptor{
      handle, tier_of(layout.storage_kind()), layout.descriptor(), {}};
  descriptor.is_gpu = layout.storage_kind() == memory::StorageKind::Device &&
                      layout.regions().front().host_data() == nullptr;
  return descriptor;
}

layout::PhysicalLayout remote_layout(LogicalLayoutDescriptor const& descriptor,
                                     std::shared_ptr<memory::MemorySource> source) {
  auto const& layout = descriptor.layout;
  std::vector<memory::Region> regions;
  regions.reserve(layout.regions.size());
  for (auto const& region : layout.regions) {
    if (!memory::is_memory(region.kind)) {
      throw UnsupportedError(fmt::format(
          "{} is {} storage of its worker, which no other process can address: copy its blocks to "
          "memory there first",
          layout::to_string(descriptor.handle), memory::to_string(region.kind)));
    }
    // NOLINTNEXTLINE(performance-no-int-to-ptr): an address of another process, never dereferenced
    auto* const address = reinterpret_cast<void*>(static_cast<std::uintptr_t>(region.address));
    regions.push_back(
        memory::Region::of_memory(region.kind, address, region.bytes, region.device_id, false));
  }
  auto const builder = layout::PhysicalLayout::builder(std::move(source))
                           .config(layout.config)
                           .with_regions(std::move(regions));
  if (layout.tensor) { return builder.layer_separate(*layout.tensor).build(); }
  if (layout.kind == layout::LayoutKind::FullyContiguous) {
    return builder.fully_contiguous(layout.format).build();
  }
  return builder.layer_separate(layout.dimension, layout.format).build();
}

}  // namespace kvbm::remote
