// SPDX-License-Identifier: Apache-2.0
#pragma once

#include <nlohmann/json.hpp>

#include <algorithm>
#include <array>
#include <cstddef>
#include <cstdint>
#include <optional>
#include <random>
#include <span>
#include <string>
#include <utility>
#include <vector>

#include "kvbm/core/checked.hpp"
#include "kvbm/layout/dims.hpp"
#include "kvbm/remote/metadata.hpp"
#include "remote/sealed.hpp"

/// Metadata that the tests write and read. The fixed ones are those of the golden blobs.
namespace kvbm::remote::testing {

using layout::BlockDimension;
using layout::Dim;
using layout::KvBlockLayout;
using layout::KvDimLayout;
using layout::LayoutConfig;
using layout::LayoutDescriptor;
using layout::LayoutHandle;
using layout::LayoutKind;
using memory::ProcessName;
using memory::SharedMemoryName;
using memory::StorageKind;

inline constexpr std::uint64_t kWorker = 0xfedcba9876543210;

inline std::vector<std::byte> counted_bytes(std::size_t count, unsigned first) {
  std::vector<std::byte> bytes(count);
  for (std::size_t i = 0; i < count; ++i) {
    bytes[i] = static_cast<std::byte>(first + i);
  }
  return bytes;
}

inline LayoutConfig small_config() {
  return LayoutConfig::builder()
      .num_blocks(5)
      .num_layers(3)
      .outer_dim(2)
      .page_size(4)
      .inner_dim(6 * 7)
      .num_heads(6)
      .build();
}

/// A descriptor whose regions lie `stride` bytes apart from `address` on.
inline LayoutDescriptor place(LayoutDescriptor descriptor, StorageKind kind, DeviceId device_id,
                              std::uint64_t address, std::uint64_t stride) {
  auto const bytes = descriptor.geometry().region_bytes;
  auto const count = descriptor.kind == LayoutKind::LayerSeparate ? descriptor.config.num_layers()
                                                                  : std::uint64_t{1};
  for (std::uint64_t i = 0; i < count; ++i) {
    descriptor.regions.push_back({kind, device_id, address + i * stride, bytes});
  }
  return descriptor;
}

inline SerializedLayout no_layouts() {
  SerializedLayout metadata;
  metadata.worker_id = kWorker;
  metadata.address = {"kvbm-fedcba9876543210", counted_bytes(40, 1)};
  return metadata;
}

/// Tensors of an engine, rows padded, in an order that no format names.
inline SerializedLayout one_layout() {
  auto metadata = no_layouts();
  KvDimLayout const tensor({{Dim::Block, 5, 4096},
                            {Dim::Head, 6, 512},
                            {Dim::Token, 4, 64},
                            {Dim::Outer, 2, 32},
                            {Dim::HeadDim, 7, 2}},
                           2);
  LayoutDescriptor descriptor{.config = tensor.config(3),
                              .kind = LayoutKind::LayerSeparate,
                              .dimension = BlockDimension::First,
                              .format = KvBlockLayout::OperationalNHD,
                              .tensor = tensor,
                              .regions = {}};
  // The format that follows from the tensor.
  descriptor.format = KvBlockLayout::Strided({{0, 32, 64, 512, 2}, 2798});
  descriptor = place(std::move(descriptor), StorageKind::Device, 2, 0x7f0000000000, 1U << 20U);
  metadata.layouts.push_back(
      {LayoutHandle(kWorker, 65535), LogicalLayoutHandle::G1, std::move(descriptor), {}});
  return metadata;
}

/// Device, pinned and disk layouts of one shape, the first two shared.
inline SerializedLayout three_layouts() {
  auto metadata = no_layouts();
  metadata.process = ProcessName{{0x0123456789abcdef, 2}, 4026531836, 4711, 99887766};
  metadata.landing = LandingZone{0x7e0000000000, 64U << 20U};

  auto device = place({.config = small_config(),
                       .kind = LayoutKind::LayerSeparate,
                       .dimension = BlockDimension::Second,
                       .format = KvBlockLayout::OperationalHND,
                       .tensor = std::nullopt,
                       .regions = {}},
                      StorageKind::Device, 1, 0x7f0000000000, 4096);
  std::vector<std::optional<SharedMemoryName>> ipc(3);
  for (auto const i : {std::size_t{0}, std::size_t{2}}) {
    SharedMemoryName name;
    name.kind = SharedMemoryName::Kind::CudaIpc;
    name.offset = 4096 * i;
    name.file_bytes = 1U << 20U;
    std::ranges::copy(counted_bytes(64, 100), name.ipc_handle.begin());
    std::ranges::copy(counted_bytes(16, 30), name.device_uuid.begin());
    ipc[i] = name;
  }
  metadata.layouts.push_back(
      {LayoutHandle(kWorker, 0), LogicalLayoutHandle::G1, std::move(device), std::move(ipc)});

  auto pinned = place({.config = small_config().with_alignment(512),
                       .kind = LayoutKind::FullyContiguous,
                       .dimension = BlockDimension::First,
                       .format = KvBlockLayout::UniversalTP,
                       .tensor = std::nullopt,
                       .regions = {}},
                      StorageKind::Pinned, -1, 0x7d0000000000, 0);
  SharedMemoryName file;
  file.fd = 17;
  file.device = 1;
  file.inode = 1234567;
  file.offset = 2U << 20U;
  file.file_bytes = 4U << 20U;
  metadata.layouts.push_back(
      {LayoutHandle(kWorker, 1), LogicalLayoutHandle::G2, std::move(pinned), {file}});

  auto disk = place({.config = small_config().with_alignment(4096),
                     .kind = LayoutKind::FullyContiguous,
                     .dimension = BlockDimension::First,
                     .format = KvBlockLayout::OperationalNHD,
                     .tensor = std::nullopt,
                     .regions = {}},
                    StorageKind::Disk, -1, 8192, 0);
  metadata.layouts.push_back(
      {LayoutHandle(kWorker, 7), LogicalLayoutHandle::G3, std::move(disk), {}});
  return metadata;
}

/// The CBOR in a blob.
inline std::span<std::byte const> body_of(std::span<std::byte const> blob) {
  return blob.subspan(detail::kEnvelopeHeaderBytes,
                      blob.size() - detail::kEnvelopeHeaderBytes - detail::kEnvelopeChecksumBytes);
}

/// What a hostile sender sends: any bytes in an envelope that is right.
inline std::vector<std::byte> wrap(std::span<std::byte const> body, std::uint32_t version = 1,
                                   std::string_view magic = "KVBMMETA") {
  std::vector<std::byte> blob;
  auto const name = std::as_bytes(std::span(magic));
  blob.insert(blob.end(), name.begin(), name.end());
  for (unsigned i = 0; i < 4; ++i) {
    blob.push_back(static_cast<std::byte>(version >> (8 * i)));
  }
  for (unsigned i = 0; i < 8; ++i) {
    blob.push_back(static_cast<std::byte>(std::uint64_t{body.size()} >> (8 * i)));
  }
  blob.insert(blob.end(), body.begin(), body.end());
  detail::append_checksum(blob);
  return blob;
}

inline std::vector<std::byte> wrap(nlohmann::json const& value) {
  auto const cbor = nlohmann::json::to_cbor(value);
  return wrap(std::as_bytes(std::span(cbor)));
}

inline nlohmann::json value_in(std::span<std::byte const> blob) {
  auto const body = body_of(blob);
  auto const* first = reinterpret_cast<std::uint8_t const*>(body.data());
  return nlohmann::json::from_cbor(first, first + body.size());
}

/// Draws metadata from a seed.
class Generator {
 public:
  explicit Generator(std::uint64_t seed) : random_(seed) {}

  std::uint64_t between(std::uint64_t low, std::uint64_t high) {
    return low + random_() % (high - low + 1);
  }
  bool coin() { return between(0, 1) == 1; }

  SerializedLayout metadata() {
    SerializedLayout result;
    result.worker_id = random_();
    result.address.agent_name = std::string(between(1, 256), static_cast<char>(between(' ', '~')));
    result.address.nixl_metadata =
        counted_bytes(between(0, 2000), static_cast<unsigned>(between(0, 255)));
    if (coin()) {
      result.process = ProcessName{{random_(), random_()},
                                   random_(),
                                   static_cast<std::int64_t>(between(1, 0x7fffffff)),
                                   random_()};
    }
    if (coin()) { result.landing = LandingZone{between(1, 1U << 30U), between(1, 1U << 30U)}; }
    auto const count = between(0, 4);
    for (std::uint64_t i = 0; i < count; ++i) {
      result.layouts.push_back(
          layout(LayoutHandle(result.worker_id, static_cast<std::uint16_t>(65535 - 1000 * i)),
                 result.process.has_value()));
    }
    return result;
  }

 private:
  LayoutConfig config() {
    auto const heads = between(1, 4);
    return LayoutConfig::builder()
        .num_blocks(between(1, 50))
        .num_layers(between(1, 6))
        .outer_dim(between(1, 2))
        .page_size(std::uint64_t{1} << between(0, 3))
        .num_heads(heads)
        .inner_dim(heads * between(1, 5))
        .dtype_width_bytes(std::uint64_t{1} << between(0, 3))
        .alignment(std::uint64_t{1} << between(0, 10))
        .build();
  }

  LayoutDescriptor shape() {
    LayoutDescriptor result{.config = config(),
                            .kind = LayoutKind::FullyContiguous,
                            .dimension = BlockDimension::First,
                            .format = KvBlockLayout::Unknown,
                            .tensor = std::nullopt,
                            .regions = {}};
    std::array const operational{KvBlockLayout::OperationalNHD, KvBlockLayout::OperationalHND,
                                 KvBlockLayout::Unknown};
    if (coin()) {
      result.kind = LayoutKind::LayerSeparate;
      result.dimension = coin() ? BlockDimension::First : BlockDimension::Second;
      result.format = operational[between(0, 2)];
    } else if (coin()) {
      KvBlockLayout::Order order{layout::BlockDim::Layer, layout::BlockDim::Outer,
                                 layout::BlockDim::Token, layout::BlockDim::Head,
                                 layout::BlockDim::HeadDim};
      std::shuffle(order.begin(), order.end(), random_);
      result.format = KvBlockLayout::Custom(order);
    } else {
      result.format = coin() ? KvBlockLayout::UniversalTP : KvBlockLayout::UniversalPP;
    }
    return result;
  }

  LogicalLayoutDescriptor layout(LayoutHandle handle, bool may_share) {
    std::array const kinds{StorageKind::System, StorageKind::Pinned, StorageKind::Device,
                           StorageKind::Disk};
    auto const kind = kinds[between(0, 3)];
    auto const is_device = kind == StorageKind::Device;
    auto const device_id = is_device ? static_cast<DeviceId>(between(0, 7)) : -1;
    auto shaped = shape();
    auto const bytes = shaped.geometry().region_bytes;
    auto const stride = checked_align_up(bytes, 4096) + 4096 * between(0, 3);
    auto placed = place(std::move(shaped), kind, device_id,
                        4096 * between(1, std::uint64_t{1} << 40U), stride);
    LogicalLayoutDescriptor result{handle, tier_of(kind), std::move(placed), {}};
    result.is_gpu = is_device && coin();
    if (may_share && coin() && kind != StorageKind::Disk) {
      auto const use_ipc = is_device && coin();
      for (std::uint64_t i = 0; i < result.layout.regions.size(); ++i) {
        result.shared.push_back(shared_name(use_ipc, i * stride, bytes));
      }
    }
    return result;
  }

  std::optional<SharedMemoryName> shared_name(bool use_ipc, std::uint64_t offset,
                                              std::uint64_t bytes) {
    if (between(0, 4) == 0) { return std::nullopt; }
    SharedMemoryName name;
    name.offset = offset;
    name.file_bytes = offset + bytes + between(0, 4096);
    if (use_ipc) {
      name.kind = SharedMemoryName::Kind::CudaIpc;
      std::ranges::copy(counted_bytes(64, static_cast<unsigned>(between(0, 255))),
                        name.ipc_handle.begin());
      return name;
    }
    name.fd = between(0, 1000);
    name.device = random_();
    name.inode = random_();
    return name;
  }

  std::mt19937_64 random_;
};

}  // namespace kvbm::remote::testing
