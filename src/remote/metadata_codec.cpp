// SPDX-License-Identifier: Apache-2.0
#include "remote/metadata_codec.hpp"

#include <fmt/format.h>

#include <algorithm>
#include <array>
#include <limits>
#include <tuple>
#include <unordered_set>
#include <utility>

#include "kvbm/core/error.hpp"
#include "kvbm/core/types.hpp"
#include "layout/json.hpp"

namespace kvbm::remote::detail {
namespace {

using layout::LayoutDescriptor;
using layout::LayoutHandle;
using layout::detail::expect_fields;
using layout::detail::read_array;
using layout::detail::read_string;
using layout::detail::read_unsigned;
using memory::ProcessName;
using memory::SharedMemoryName;
using memory::StorageKind;
using nlohmann::json;

constexpr std::uint64_t kMaxInt = std::numeric_limits<int>::max();

[[noreturn]] void refuse(std::string const& why) { throw CorruptError(why); }

std::uint64_t read_at_most(json const& object, char const* field, std::uint64_t most) {
  auto const value = read_unsigned(object, field);
  if (value > most) { refuse(fmt::format("field '{}' is {}, at most {}", field, value, most)); }
  return value;
}

bool wraps(std::uint64_t begin, std::uint64_t bytes) {
  return bytes > std::numeric_limits<std::uint64_t>::max() - begin;
}

// ---- byte strings ----

std::string to_hex(std::span<std::byte const> bytes) {
  std::string text;
  text.reserve(bytes.size() * 2);
  for (auto const byte : bytes) {
    text += fmt::format("{:02x}", std::to_integer<unsigned>(byte));
  }
  return text;
}

json bytes_value(std::span<std::byte const> bytes, bool for_people) {
  if (for_people) { return to_hex(bytes); }
  auto const* data = reinterpret_cast<std::uint8_t const*>(bytes.data());
  return json::binary(std::vector<std::uint8_t>(data, data + bytes.size()));
}

std::span<std::byte const> read_bytes(json const& object, char const* field) {
  auto const& value = object.at(field);
  if (!value.is_binary()) {
    refuse(fmt::format("field '{}' is not a byte string but {}", field, value.type_name()));
  }
  return std::as_bytes(std::span<std::uint8_t const>(value.get_binary()));
}

template <std::size_t N>
std::array<std::byte, N> read_bytes_of(json const& object, char const* field) {
  auto const bytes = read_bytes(object, field);
  if (bytes.size() != N) {
    refuse(fmt::format("field '{}' has {} bytes, it has to have {}", field, bytes.size(), N));
  }
  std::array<std::byte, N> result{};
  std::copy(bytes.begin(), bytes.end(), result.begin());
  return result;
}

std::array<std::uint64_t, 2> read_pair(json const& object, char const* field) {
  auto const& value = read_array(object, field, 2);
  if (value.size() != 2 || !value[0].is_number_unsigned() || !value[1].is_number_unsigned()) {
    refuse(fmt::format("field '{}' is not a pair of unsigned integers", field));
  }
  return {value[0].get<std::uint64_t>(), value[1].get<std::uint64_t>()};
}

// ---- process and landing zone ----

json process_value(ProcessName const& process) {
  return {{"boot_id", process.boot_id},
          {"pid_namespace", process.pid_namespace},
          {"pid", static_cast<std::uint64_t>(process.pid)},  // negative: too large to be read
          {"start_time", process.start_time}};
}

ProcessName process_from(json const& value) {
  expect_fields(value, "process", {"boot_id", "pid_namespace", "pid", "start_time"});
  ProcessName process;
  process.boot_id = read_pair(value, "boot_id");
  process.pid_namespace = read_unsigned(value, "pid_namespace");
  process.pid = static_cast<std::int64_t>(read_at_most(value, "pid", kMaxInt));
  if (process.pid == 0) { refuse("process: field 'pid' is 0"); }
  process.start_time = read_unsigned(value, "start_time");
  return process;
}

LandingZone landing_from(json const& value) {
  expect_fields(value, "landing", {"address", "bytes"});
  LandingZone const landing{read_unsigned(value, "address"), read_unsigned(value, "bytes")};
  if (landing.address == 0 || landing.bytes == 0) {
    refuse(fmt::format("landing: {} bytes at {:#x} are no memory", landing.bytes, landing.address));
  }
  if (wraps(landing.address, landing.bytes)) {
    refuse(fmt::format("landing: {} bytes at {:#x} wrap around the address space", landing.bytes,
                       landing.address));
  }
  return landing;
}

// ---- shared memory ----

constexpr std::string_view kFile = "File";
constexpr std::string_view kCudaIpc = "CudaIpc";

json shared_value(SharedMemoryName const& name, bool for_people) {
  json value{{"fd", name.fd},
             {"device", name.device},
             {"inode", name.inode},
             {"offset", name.offset},
             {"file_bytes", name.file_bytes},
             {"kind", name.kind == SharedMemoryName::Kind::File ? kFile : kCudaIpc}};
  if (name.kind == SharedMemoryName::Kind::CudaIpc) {
    value["ipc_handle"] = bytes_value(name.ipc_handle, for_people);
    value["device_uuid"] = bytes_value(name.device_uuid, for_people);
  }
  return value;
}

SharedMemoryName shared_name_from(json const& value) {
  expect_fields(value, "shared", {"kind", "fd", "device", "inode", "offset", "file_bytes"},
                {"ipc_handle", "device_uuid"});
  SharedMemoryName name;
  auto const& kind = read_string(value, "kind");
  if (kind != kFile && kind != kCudaIpc) {
    refuse(
        fmt::format("field 'kind' has the unknown value '{}'",
                    json(kind.substr(0, 80)).dump(-1, ' ', true, json::error_handler_t::replace)));
  }
  name.kind = kind == kFile ? SharedMemoryName::Kind::File : SharedMemoryName::Kind::CudaIpc;
  name.fd = read_at_most(value, "fd", kMaxInt);
  name.device = read_unsigned(value, "device");
  name.inode = read_unsigned(value, "inode");
  name.offset = read_unsigned(value, "offset");
  name.file_bytes = read_unsigned(value, "file_bytes");
  auto const is_ipc = name.kind == SharedMemoryName::Kind::CudaIpc;
  for (auto const* field : {"ipc_handle", "device_uuid"}) {
    if (value.contains(field) != is_ipc) {
      refuse(fmt::format("field '{}' is {} in shared memory of kind {}", field,
                         is_ipc ? "missing" : "given", kind));
    }
  }
  if (is_ipc) {
    name.ipc_handle = read_bytes_of<64>(value, "ipc_handle");
    name.device_uuid = read_bytes_of<16>(value, "device_uuid");
  }
  return name;
}

void check_shared_name(SharedMemoryName const& name, layout::RegionDescriptor const& region) {
  if (!memory::is_memory(region.kind)) {
    refuse(fmt::format("a {} region has no shared memory", memory::to_string(region.kind)));
  }
  if (name.kind == SharedMemoryName::Kind::CudaIpc && region.kind != StorageKind::Device) {
    refuse(fmt::format("CudaIpc names device memory, the region is {}",
                       memory::to_string(region.kind)));
  }
  if (name.offset > name.file_bytes || region.bytes > name.file_bytes - name.offset) {
    refuse(fmt::format("offset {} and the region's {} bytes end behind file_bytes {}", name.offset,
                       region.bytes, name.file_bytes));
  }
}

/// Regions that lie apart for their owner lie apart in what it shares, or one layer would overwrite
/// another here.
void check_shared_apart(LogicalLayoutDescriptor const& descriptor) {
  std::vector<std::size_t> order;
  for (std::size_t i = 0; i < descriptor.shared.size(); ++i) {
    if (descriptor.shared[i]) { order.push_back(i); }
  }
  auto const file_of = [&](std::size_t i) {
    auto const& name = *descriptor.shared[i];
    return std::tie(name.kind, name.device, name.inode, name.ipc_handle, name.device_uuid);
  };
  auto const begin_of = [&](std::size_t i) { return descriptor.shared[i]->offset; };
  std::sort(order.begin(), order.end(), [&](std::size_t a, std::size_t b) {
    return file_of(a) != file_of(b) ? file_of(a) < file_of(b) : begin_of(a) < begin_of(b);
  });
  for (std::size_t i = 1; i < order.size(); ++i) {
    auto const before = order[i - 1];
    auto const end = begin_of(before) + descriptor.layout.regions[before].bytes;
    if (file_of(before) == file_of(order[i]) && begin_of(order[i]) < end) {
      refuse(fmt::format("shared: regions {} and {} overlap in the memory that is shared", before,
                         order[i]));
    }
  }
}

void read_shared(json const& value, LogicalLayoutDescriptor& descriptor) {
  auto const& regions = descriptor.layout.regions;
  auto const& list = read_array(value, "shared", regions.size());
  if (list.size() != regions.size()) {
    refuse(
        fmt::format("field 'shared' has {} entries for {} regions", list.size(), regions.size()));
  }
  descriptor.shared.resize(list.size());
  for (std::size_t i = 0; i < list.size(); ++i) {
    if (list[i].is_null()) { continue; }
    try {
      descriptor.shared[i] = shared_name_from(list[i]);
      check_shared_name(*descriptor.shared[i], regions[i]);
    } catch (CorruptError const& error) { refuse(fmt::format("shared[{}]: {}", i, error.what())); }
  }
  check_shared_apart(descriptor);
}

// ---- layouts ----

json layout_value(LogicalLayoutDescriptor const& descriptor, bool for_people) {
  auto const text = descriptor.layout.to_json();
  auto value = json::object();
  value["tier"] = to_string(descriptor.tier);
  if (descriptor.is_gpu) { value["gpu"] = true; }
  if (for_people) {
    value["handle"] = layout::to_string(descriptor.handle);
    value["layout"] = json::parse(text);
  } else {
    value["handle"] = descriptor.handle.to_bits();
    value["layout"] = text;
  }
  if (!descriptor.shared.empty()) {
    auto list = json::array();
    for (auto const& name : descriptor.shared) {
      list.push_back(name ? shared_value(*name, for_people) : json());
    }
    value["shared"] = std::move(list);
  }
  return value;
}

LayoutHandle handle_from(json const& value, std::uint64_t worker_id) {
  auto const handle = LayoutHandle::from_bits(read_pair(value, "handle"));
  if (handle.worker_id() != worker_id) {
    refuse(fmt::format("field 'handle' is {}, which is not of worker {}", layout::to_string(handle),
                       worker_id));
  }
  if (handle.reserved_bits() != 0) {
    refuse(fmt::format("field 'handle' is {} with reserved bits {:#x}", layout::to_string(handle),
                       handle.reserved_bits()));
  }
  return handle;
}

LayoutDescriptor descriptor_from(json const& value) {
  auto const& text = read_string(value, "layout");
  auto descriptor = LayoutDescriptor::from_json(text);
  // One value has one blob: spaces or other spellings are not ours.
  if (descriptor.to_json() != text) {
    refuse("field 'layout' is not written as this library writes it");
  }
  // It would mean nothing, but fingerprints tell it apart.
  if (descriptor.kind == layout::LayoutKind::FullyContiguous &&
      descriptor.dimension != layout::BlockDimension::First) {
    refuse("field 'layout': block_dimension of a FullyContiguous layout is First");
  }
  return descriptor;
}

LogicalLayoutHandle tier_from(json const& value, StorageKind kind) {
  auto const& text = read_string(value, "tier");
  auto const tier = tier_of(kind);
  if (text != to_string(tier)) {
    refuse(fmt::format("field 'tier' is {}, {} storage is {}",
                       json(text.substr(0, 80)).dump(-1, ' ', true, json::error_handler_t::replace),
                       memory::to_string(kind), to_string(tier)));
  }
  return tier;
}

LogicalLayoutDescriptor layout_from(json const& value, std::uint64_t worker_id) {
  expect_fields(value, "layout", {"handle", "tier", "layout"}, {"shared", "gpu"});
  auto const handle = handle_from(value, worker_id);
  auto layout = descriptor_from(value);
  auto const tier = tier_from(value, layout.regions.front().kind);
  LogicalLayoutDescriptor descriptor{handle, tier, std::move(layout), {}};
  if (auto const gpu = value.find("gpu"); gpu != value.end()) {
    // Written only where it says something, so that every value has one form.
    if (!gpu->is_boolean() || !gpu->get<bool>() || tier != LogicalLayoutHandle::G1) {
      refuse("field 'gpu' is not the word true of a device's memory");
    }
    descriptor.is_gpu = true;
  }
  if (value.contains("shared")) { read_shared(value, descriptor); }
  return descriptor;
}

bool names_shared_memory(LogicalLayoutDescriptor const& descriptor) {
  return std::any_of(descriptor.shared.begin(), descriptor.shared.end(),
                     [](auto const& name) { return name.has_value(); });
}

void read_layouts(json const& value, SerializedLayout& metadata) {
  std::unordered_set<LayoutHandle> handles;
  for (auto const& entry : read_array(value, "layouts", SerializedLayout::kMaxLayouts)) {
    auto const where = fmt::format("layouts[{}]", metadata.layouts.size());
    try {
      auto descriptor = layout_from(entry, metadata.worker_id);
      if (!handles.insert(descriptor.handle).second) {
        refuse(
            fmt::format("field 'handle': {} is given twice", layout::to_string(descriptor.handle)));
      }
      if (names_shared_memory(descriptor) && !metadata.process) {
        refuse("field 'shared' names memory of a process, but field 'process' is missing");
      }
      metadata.layouts.push_back(std::move(descriptor));
    } catch (Error const& error) {
      throw_error(error.code(), fmt::format("{}: {}", where, error.what()));
    }
  }
}

}  // namespace

void check_agent_name(std::string const& name) {
  if (name.empty() || name.size() > WorkerAddress::kMaxNameBytes) {
    refuse(fmt::format("field 'agent_name' has {} characters, it has to have 1 to {}", name.size(),
                       WorkerAddress::kMaxNameBytes));
  }
  for (std::size_t i = 0; i < name.size(); ++i) {
    if (name[i] < ' ' || name[i] > '~') {
      refuse(
          fmt::format("field 'agent_name': character {} is {:#04x}, only printable ASCII may "
                      "stand there",
                      i, static_cast<unsigned char>(name[i])));
    }
  }
}

json to_value(WorkerAddress const& address, bool for_people) {
  auto value = json::object();
  value["agent_name"] = address.agent_name;
  auto const& blob = address.nixl_metadata;
  if (for_people) {
    value["nixl_metadata"] = {{"bytes", blob.size()},
                              {"xxh3_128", to_string(checksum_bytes(blob.data(), blob.size()))}};
  } else {
    value["nixl_metadata"] = bytes_value(blob, false);
  }
  return value;
}

WorkerAddress address_from(json const& value) {
  expect_fields(value, "address", {"agent_name", "nixl_metadata"});
  WorkerAddress address;
  address.agent_name = read_string(value, "agent_name");
  check_agent_name(address.agent_name);
  auto const blob = read_bytes(value, "nixl_metadata");
  address.nixl_metadata.assign(blob.begin(), blob.end());
  return address;
}

json to_value(SerializedLayout const& metadata, bool for_people) {
  json value{{"worker_id", metadata.worker_id},
             {"address", to_value(metadata.address, for_people)}};
  if (metadata.process) { value["process"] = process_value(*metadata.process); }
  if (metadata.landing) {
    value["landing"] = {{"address", metadata.landing->address}, {"bytes", metadata.landing->bytes}};
  }
  auto list = json::array();
  for (auto const& descriptor : metadata.layouts) {
    list.push_back(layout_value(descriptor, for_people));
  }
  value["layouts"] = std::move(list);
  if (for_people) { value["version"] = SerializedLayout::kVersion; }
  return value;
}

SerializedLayout metadata_from(json const& value) {
  expect_fields(value, "worker metadata", {"worker_id", "address", "layouts"},
                {"process", "landing"});
  SerializedLayout metadata;
  metadata.worker_id = read_unsigned(value, "worker_id");
  metadata.address = address_from(value["address"]);
  if (value.contains("process")) { metadata.process = process_from(value["process"]); }
  if (value.contains("landing")) { metadata.landing = landing_from(value["landing"]); }
  read_layouts(value, metadata);
  return metadata;
}

}  // namespace kvbm::remote::detail
