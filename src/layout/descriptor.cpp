// SPDX-License-Identifier: Apache-2.0
#include "kvbm/layout/descriptor.hpp"

#include "kvbm/core/error.hpp"
#include "layout/json.hpp"
#include "layout/state.hpp"

#include <fmt/format.h>

#include <algorithm>
#include <array>
#include <limits>

namespace kvbm::layout {
namespace {

using detail::read_array;
using detail::read_string;
using detail::read_unsigned;
using memory::StorageKind;
using nlohmann::json;

constexpr char const* kWhat = "layout descriptor";

[[noreturn]] void refuse(std::string const& why) {
  throw CorruptError(fmt::format("{}: {}", kWhat, why));
}

/// The enumerator that a string field names.
template <typename Enum, std::size_t N>
Enum read_enum(json const& object, char const* field, std::array<Enum, N> const& values) {
  auto const& text = read_string(object, field);
  for (auto const value : values) {
    if (text == to_string(value)) { return value; }
  }
  refuse(fmt::format("field '{}' has the unknown value '{}'", field, text.substr(0, 80)));
}

constexpr std::array kDims{Dim::Block, Dim::Layer, Dim::Outer, Dim::Token, Dim::Head, Dim::HeadDim};
constexpr std::array kKinds{LayoutKind::FullyContiguous, LayoutKind::LayerSeparate};
constexpr std::array kDimensions{BlockDimension::First, BlockDimension::Second};
constexpr std::array kStorageKinds{StorageKind::System, StorageKind::Pinned, StorageKind::Device,
                                   StorageKind::Disk, StorageKind::Object};

json config_to_json(LayoutConfig const& config) {
  json value{{"num_blocks", config.num_blocks()},
             {"num_layers", config.num_layers()},
             {"outer_dim", config.outer_dim()},
             {"page_size", config.page_size()},
             {"inner_dim", config.inner_dim()},
             {"alignment", config.alignment()},
             {"dtype_width_bytes", config.dtype_width_bytes()}};
  if (config.num_heads()) { value["num_heads"] = *config.num_heads(); }
  return value;
}

LayoutConfig config_from_json(json const& value) {
  detail::expect_fields(value, "config",
                        {"num_blocks", "num_layers", "outer_dim", "page_size", "inner_dim",
                         "alignment", "dtype_width_bytes"},
                        {"num_heads"});
  auto builder = LayoutConfig::builder();
  builder.num_blocks(read_unsigned(value, "num_blocks"))
      .num_layers(read_unsigned(value, "num_layers"))
      .outer_dim(read_unsigned(value, "outer_dim"))
      .page_size(read_unsigned(value, "page_size"))
      .inner_dim(read_unsigned(value, "inner_dim"))
      .alignment(read_unsigned(value, "alignment"))
      .dtype_width_bytes(read_unsigned(value, "dtype_width_bytes"));
  if (value.contains("num_heads")) { builder.num_heads(read_unsigned(value, "num_heads")); }
  return builder.build();
}

json tensor_to_json(KvDimLayout const& tensor) {
  auto dims = json::array();
  for (auto const& dim : tensor.dims()) {
    dims.push_back(
        {{"dim", to_string(dim.dim)}, {"extent", dim.extent}, {"stride_bytes", dim.stride_bytes}});
  }
  return {{"dims", std::move(dims)}, {"element_bytes", tensor.element_bytes()}};
}

KvDimLayout tensor_from_json(json const& value) {
  detail::expect_fields(value, "tensor", {"dims", "element_bytes"});
  std::vector<TensorDim> dims;
  for (auto const& entry : read_array(value, "dims", kNumDims)) {
    detail::expect_fields(entry, "tensor dimension", {"dim", "extent", "stride_bytes"});
    dims.push_back({read_enum(entry, "dim", kDims), read_unsigned(entry, "extent"),
                    read_unsigned(entry, "stride_bytes")});
  }
  if (dims.empty()) { refuse("tensor without dimensions"); }
  return KvDimLayout(std::move(dims), read_unsigned(value, "element_bytes"));
}

RegionDescriptor region_from_json(json const& entry) {
  detail::expect_fields(entry, "region", {"kind", "address", "bytes"}, {"device_id"});
  RegionDescriptor region;
  region.kind = read_enum(entry, "kind", kStorageKinds);
  region.address = read_unsigned(entry, "address");
  region.bytes = read_unsigned(entry, "bytes");
  if (entry.contains("device_id")) {
    auto const id = read_unsigned(entry, "device_id");
    if (id > static_cast<std::uint64_t>(std::numeric_limits<DeviceId>::max())) {
      refuse(fmt::format("device_id {} is out of range", id));
    }
    region.device_id = static_cast<DeviceId>(id);
  }
  if (region.kind == StorageKind::Device && region.device_id < 0) {
    refuse("a Device region has no device_id");
  }
  return region;
}

void check_region(RegionDescriptor const& region, RegionDescriptor const& first, std::size_t index,
                  detail::LayoutSpec const& spec) {
  if (region.kind != first.kind || region.device_id != first.device_id) {
    refuse(fmt::format("region {} is {} {}, region 0 is {} {}", index,
                       memory::to_string(region.kind), region.device_id,
                       memory::to_string(first.kind), first.device_id));
  }
  if (region.bytes < spec.geometry.region_bytes) {
    refuse(fmt::format("region {} has {} bytes, the layout needs {}", index, region.bytes,
                       spec.geometry.region_bytes));
  }
  if (region.bytes > std::numeric_limits<std::uint64_t>::max() - region.address) {
    refuse(fmt::format("region {} at {:#x} of {} bytes wraps around the address space", index,
                       region.address, region.bytes));
  }
  if (memory::is_memory(region.kind) && region.address == 0) {
    refuse(fmt::format("region {} has a null address", index));
  }
  auto const alignment = std::max(spec.config.alignment(), spec.config.dtype_width_bytes());
  if (region.address % alignment != 0) {
    refuse(fmt::format("region {} at {:#x} is not aligned to {} bytes", index, region.address,
                       alignment));
  }
}

void check_regions(LayoutDescriptor const& descriptor, detail::LayoutSpec const& spec) {
  auto const& regions = descriptor.regions;
  if (regions.size() != spec.num_regions()) {
    refuse(fmt::format("{} regions, the layout needs {}", regions.size(), spec.num_regions()));
  }
  std::vector<std::pair<std::uint64_t, std::uint64_t>> ranges;
  for (std::size_t i = 0; i < regions.size(); ++i) {
    check_region(regions[i], regions.front(), i, spec);
    ranges.emplace_back(regions[i].address, regions[i].address + regions[i].bytes);
  }
  std::sort(ranges.begin(), ranges.end());
  for (std::size_t i = 1; i < ranges.size(); ++i) {
    if (ranges[i].first < ranges[i - 1].second) {
      refuse(
          fmt::format("regions at {:#x} and {:#x} overlap", ranges[i - 1].first, ranges[i].first));
    }
  }
}

detail::LayoutSpec spec_of(LayoutDescriptor const& descriptor) {
  return detail::make_spec({descriptor.config, descriptor.kind, descriptor.dimension,
                            descriptor.format, descriptor.tensor});
}

LayoutDescriptor descriptor_from_json(json const& value) {
  detail::expect_version(value, LayoutDescriptor::kVersion, kWhat);
  detail::expect_fields(value, kWhat,
                        {"version", "config", "kind", "block_dimension", "format", "regions"},
                        {"tensor"});
  LayoutDescriptor descriptor{.config = config_from_json(value["config"]),
                              .kind = read_enum(value, "kind", kKinds),
                              .dimension = read_enum(value, "block_dimension", kDimensions),
                              .format = KvBlockLayout::parse(read_string(value, "format")),
                              .tensor = std::nullopt,
                              .regions = {}};
  if (value.contains("tensor")) { descriptor.tensor = tensor_from_json(value["tensor"]); }
  auto const spec = spec_of(descriptor);
  for (auto const& entry : read_array(value, "regions", spec.num_regions())) {
    descriptor.regions.push_back(region_from_json(entry));
  }
  check_regions(descriptor, spec);
  // A tensor says all about kind and order: what stands beside it has to be what follows from it.
  if (spec.kind != descriptor.kind || spec.dimension != descriptor.dimension ||
      !(spec.format == descriptor.format) || spec.tensor != descriptor.tensor) {
    refuse(fmt::format("kind, block_dimension and format do not follow from the tensor {}",
                       descriptor.tensor->to_string()));
  }
  return descriptor;
}

}  // namespace

std::string LayoutDescriptor::to_json() const {
  auto list = json::array();
  for (auto const& region : regions) {
    json entry{{"kind", memory::to_string(region.kind)},
               {"address", region.address},
               {"bytes", region.bytes}};
    if (region.device_id >= 0) { entry["device_id"] = region.device_id; }
    list.push_back(std::move(entry));
  }
  json value{{"version", kVersion},          {"config", config_to_json(config)},
             {"kind", to_string(kind)},      {"block_dimension", to_string(dimension)},
             {"format", format.to_string()}, {"regions", std::move(list)}};
  if (tensor) { value["tensor"] = tensor_to_json(*tensor); }
  return value.dump();
}

LayoutDescriptor LayoutDescriptor::from_json(std::string_view text) {
  auto const value = detail::parse_untrusted(text, kMaxJsonBytes, kWhat);
  try {
    return descriptor_from_json(value);
  } catch (Error const& error) {
    if (error.code() == ErrorCode::VersionMismatch || error.code() == ErrorCode::Corrupt) { throw; }
    refuse(error.what());
  }
}

BlockGeometry LayoutDescriptor::geometry() const { return spec_of(*this).geometry; }

std::uint64_t LayoutDescriptor::address(std::uint64_t block, std::uint64_t layer,
                                        std::uint64_t outer) const {
  auto const chunk = detail::chunk_address(spec_of(*this), block, layer, outer);
  KVBM_EXPECTS(chunk.region < regions.size(), OutOfRange,
               fmt::format("region {} of {}", chunk.region, regions.size()));
  return regions[chunk.region].address + chunk.offset;
}

Checksum LayoutDescriptor::fingerprint() const { return detail::fingerprint(spec_of(*this)); }

Checksum LayoutDescriptor::shape_fingerprint() const { return detail::shape_fingerprint(config); }

LayoutDescriptor PhysicalLayout::descriptor() const {
  auto const& spec = state_->spec;
  LayoutDescriptor descriptor{.config = spec.config,
                              .kind = spec.kind,
                              .dimension = spec.dimension,
                              .format = spec.format,
                              .tensor = spec.tensor,
                              .regions = {}};
  for (auto const& region : regions()) {
    auto const address =
        is_memory(region.kind()) ? std::uint64_t{region.address()} : region.store_offset();
    descriptor.regions.push_back({region.kind(), region.device_id(), address, region.bytes()});
  }
  return descriptor;
}

}  // namespace kvbm::layout
