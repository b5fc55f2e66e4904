// SPDX-License-Identifier: Apache-2.0
#pragma once

#include <CLI/CLI.hpp>

#include <cstdint>
#include <filesystem>
#include <optional>
#include <string>

#include "kvbm/layout/physical_layout.hpp"
#include "kvbm/manager/transfer_manager.hpp"
#include "workload.hpp"

namespace kvbm::cli {

/// --workload and the flags that change single dimensions of it.
struct ShapeFlags {
  std::string workload;
  std::optional<std::uint64_t> layers;
  std::optional<std::uint64_t> outer;
  std::optional<std::uint64_t> page_size;
  std::optional<std::uint64_t> heads;
  std::optional<std::uint64_t> head_dim;
  std::optional<std::uint64_t> width;

  void add_to(CLI::App& app, std::string const& default_workload);
  /// @throws Error(InvalidArgument) unknown name
  [[nodiscard]] Workload resolve() const;
};

/// Where and how one side of a transfer keeps its blocks.
struct Side {
  memory::StorageKind storage = memory::StorageKind::System;
  DeviceId device = 0;
  layout::LayoutKind kind = layout::LayoutKind::FullyContiguous;
  layout::BlockDimension dimension = layout::BlockDimension::First;
  layout::KvBlockLayout format = layout::KvBlockLayout::OperationalNHD;
  std::string bucket;  ///< of objects; the server is where the environment says
  std::string prefix;
};

/// The natural side of "g1" (device; layer separate, block second, NHD, as engines keep it), "g2"
/// (pinned; fully contiguous UniversalTP), "g3" (disk; the same), "g4" (objects; the same),
/// "system", "pinned" (fully contiguous NHD). @throws Error(InvalidArgument) listing the names
Side side_of_tier(std::string const& tier);
/// "fc", "ls", "ls2". @throws Error(InvalidArgument) listing the names
void set_kind(Side& side, std::string const& kind);

/// "--src", "--src-kind", "--src-format" or the same of dst.
struct SideFlags {
  std::string tier;
  std::string kind;
  std::string format;

  /// @param default_tier  "" leaves the tier flag out
  void add_to(CLI::App& app, std::string const& role, std::string const& default_tier);
  /// `side` as changed by --kind and --format.
  [[nodiscard]] Side apply(Side side) const;
  [[nodiscard]] Side resolve() const { return apply(side_of_tier(tier)); }
};

/// A layout of this shape. @param file  where a disk layout goes; empty: a temporary file
layout::PhysicalLayout make_layout(manager::TransferManager const& manager,
                                   layout::LayoutConfig const& config, Side const& side,
                                   std::filesystem::path const& file = {});
/// A disk layout over one or several files.
layout::PhysicalLayout make_disk_layout(manager::TransferManager const& manager,
                                        layout::LayoutConfig const& config, Side const& side,
                                        std::vector<std::filesystem::path> const& files);

/// A folder of its own that vanishes with the object.
class TempFolder {
 public:
  /// @param parent  empty: the system's folder for temporary files  @throws Error(Io)
  explicit TempFolder(std::filesystem::path const& parent = {});
  ~TempFolder();
  TempFolder(TempFolder const&) = delete;
  TempFolder& operator=(TempFolder const&) = delete;
  [[nodiscard]] std::filesystem::path const& path() const noexcept { return path_; }

 private:
  std::filesystem::path path_;
};

}  // namespace kvbm::cli
