// SPDX-License-Identifier: Apache-2.0
#pragma once

#include <filesystem>
#include <string>
#include <vector>

namespace kvbm::nixl {

/// A NIXL that lies on this machine.
struct NixlLibraryInfo {
  std::filesystem::path path;        ///< of libnixl_capi.so
  std::string version;               ///< of the package that it came with; empty: unknown
  std::vector<std::string> plugins;  ///< names of its backends' files: present, not tried
};

/// Where to look for NIXL, which kvbm loads when it is used and never links.
struct NixlSearch {
  /// libnixl_capi.so itself; nothing else is tried then. Empty: look for it.
  std::filesystem::path library;
  /// Python environments (folders with lib/python3*/site-packages) to look into first.
  std::vector<std::filesystem::path> prefixes;
};

/// Finds NIXL without loading its backends. The first of these that is there: search.library; the
/// environment variable KVBM_NIXL_LIBRARY; the wheels nixl-cu13 and nixl-cu12 in search.prefixes,
/// in VIRTUAL_ENV, and in the Python environment around this library or program (in a build tree:
/// build/venv); what the dynamic linker calls libnixl_capi.so.
///
/// @throws UnsupportedError  there is none: says where it looked and how to get one
[[nodiscard]] NixlLibraryInfo find_nixl(NixlSearch const& search = {});

}  // namespace kvbm::nixl
