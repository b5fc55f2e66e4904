// SPDX-License-Identifier: Apache-2.0
#include "shape.hpp"

#include <fmt/format.h>
#include <stdlib.h>

#include <cerrno>
#include <system_error>

#include "kvbm/core/error.hpp"

namespace kvbm::cli {

using layout::BlockDimension;
using layout::KvBlockLayout;
using layout::LayoutKind;
using memory::StorageKind;

void ShapeFlags::add_to(CLI::App& app, std::string const& default_workload) {
  workload = default_workload;
  app.add_option("--workload", workload,
                 "shape of the blocks: " + workload_names() + "; any of them with -fp8")
      ->capture_default_str();
  app.add_option("--layers", layers, "layers instead of the workload's");
  app.add_option("--outer", outer, "2: K and V apart, 1: fused, instead of the workload's");
  app.add_option("--page-size", page_size, "tokens in a block instead of the workload's");
  app.add_option("--heads", heads, "KV heads instead of the workload's");
  app.add_option("--head-dim", head_dim, "elements of a head instead of the workload's");
  app.add_option("--width", width, "bytes of an element instead of the workload's");
}

Workload ShapeFlags::resolve() const {
  Workload result = find_workload(workload);
  result.layers = layers.value_or(result.layers);
  result.outer = outer.value_or(result.outer);
  result.page_size = page_size.value_or(result.page_size);
  result.heads = heads.value_or(result.heads);
  result.head_dim = head_dim.value_or(result.head_dim);
  result.width = width.value_or(result.width);
  return result;
}

Side side_of_tier(std::string const& tier) {
  Side side;
  if (tier == "g1" || tier == "device") {
    side.storage = StorageKind::Device;
    side.kind = LayoutKind::LayerSeparate;
    side.dimension = BlockDimension::Second;
  } else if (tier == "g2") {
    side.storage = StorageKind::Pinned;
    side.format = KvBlockLayout::UniversalTP;
  } else if (tier == "g3" || tier == "disk") {
    side.storage = StorageKind::Disk;
    side.format = KvBlockLayout::UniversalTP;
  } else if (tier == "g4" || tier == "object") {
    side.storage = StorageKind::Object;
    side.format = KvBlockLayout::UniversalTP;
  } else if (tier == "pinned") {
    side.storage = StorageKind::Pinned;
  } else if (tier != "system" && tier != "host") {
    throw Error(
        ErrorCode::InvalidArgument,
        fmt::format("unknown tier '{}': say g1 (device), g2, g3 (disk), g4 (objects), system or "
                    "pinned",
                    tier));
  }
  return side;
}

void set_kind(Side& side, std::string const& kind) {
  if (kind == "fc") {
    side.kind = LayoutKind::FullyContiguous;
  } else if (kind == "ls" || kind == "ls2") {
    side.kind = LayoutKind::LayerSeparate;
    side.dimension = kind == "ls" ? BlockDimension::First : BlockDimension::Second;
    // Universal formats keep all layers of a head together, so regions per layer cannot hold them.
    if (!side.format.is_operational()) { side.format = KvBlockLayout::OperationalNHD; }
  } else {
    throw Error(
        ErrorCode::InvalidArgument,
        fmt::format("unknown kind '{}': say fc (fully contiguous), ls (layer separate, block "
                    "first) or ls2 (layer separate, block second)",
                    kind));
  }
}

void SideFlags::add_to(CLI::App& app, std::string const& role, std::string const& default_tier) {
  tier = default_tier;
  if (!default_tier.empty()) {
    app.add_option("--" + role, tier,
                   "where: g1 (device), g2, g3 (disk), g4 (objects), system or pinned")
        ->capture_default_str();
  }
  app.add_option("--" + role + "-kind", kind,
                 "fc (fully contiguous), ls (layer separate, block first) or ls2 (block second) "
                 "instead of the tier's own");
  app.add_option("--" + role + "-format", format,
                 "UniversalTP, UniversalPP, OperationalHND, OperationalNHD, Unknown or "
                 "Custom[nt,nl,no,nh,hd] instead of the tier's own");
}

Side SideFlags::apply(Side side) const {
  if (!kind.empty()) { set_kind(side, kind); }
  if (!format.empty()) { side.format = KvBlockLayout::parse(format); }
  return side;
}

layout::PhysicalLayout make_layout(manager::TransferManager const& manager,
                                   layout::LayoutConfig const& config, Side const& side,
                                   std::filesystem::path const& file) {
  auto const build = [&](auto const& builder) {
    switch (side.storage) {
      case StorageKind::System: return builder.allocate_system().build();
      case StorageKind::Pinned: return builder.allocate_pinned().build();
      case StorageKind::Device: return builder.allocate_device(side.device).build();
      case StorageKind::Disk:
        return file.empty() ? builder.allocate_disk().build() : builder.allocate_disk(file).build();
      case StorageKind::Object: break;
    }
    KVBM_EXPECTS(!side.bucket.empty(), InvalidArgument,
                 "g4 lies in a bucket: name it with --bucket, and its server with AWS_ENDPOINT_URL "
                 "unless it is AWS's own");
    return builder.allocate_object(side.bucket, side.prefix).build();
  };
  auto const shaped = manager.layout_builder().config(config);
  return side.kind == LayoutKind::FullyContiguous
             ? build(shaped.fully_contiguous(side.format))
             : build(shaped.layer_separate(side.dimension, side.format));
}

layout::PhysicalLayout make_disk_layout(manager::TransferManager const& manager,
                                        layout::LayoutConfig const& config, Side const& side,
                                        std::vector<std::filesystem::path> const& files) {
  auto const shaped = manager.layout_builder().config(config);
  return side.kind == LayoutKind::FullyContiguous
             ? shaped.fully_contiguous(side.format).allocate_disk(files).build()
             : shaped.layer_separate(side.dimension, side.format).allocate_disk(files).build();
}

TempFolder::TempFolder(std::filesystem::path const& parent) {
  auto const folder = parent.empty() ? std::filesystem::temp_directory_path() : parent;
  std::string name = (folder / "kvbm-XXXXXX").string();
  KVBM_EXPECTS(::mkdtemp(name.data()) != nullptr, Io,
               fmt::format("cannot make a folder in {}: {}; name a writable folder with --path",
                           folder.string(), describe_errno(errno)));
  path_ = name;
}

TempFolder::~TempFolder() {
  std::error_code ignored;
  std::filesystem::remove_all(path_, ignored);
}

}  // namespace kvbm::cli
