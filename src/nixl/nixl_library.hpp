// SPDX-License-Identifier: Apache-2.0
#pragma once

#include <filesystem>
#include <memory>
#include <string>
#include <string_view>
#include <vector>

#include "kvbm/nixl/nixl_library.hpp"
#include "nixl/nixl_api.hpp"

namespace kvbm::nixl {

/// What find_nixl reads of the process that it runs in.
struct NixlPlaces {
  std::string named;                          ///< KVBM_NIXL_LIBRARY
  std::string virtual_env;                    ///< VIRTUAL_ENV
  std::vector<std::filesystem::path> around;  ///< files whose Python environment counts
  std::string linker_name = "libnixl_capi.so";
};
/// find_nixl in other places than this process's own.
NixlLibraryInfo find_nixl(NixlSearch const& search, NixlPlaces const& places);

/// NIXL, loaded. The process keeps the code mapped once it was loaded (its threads and the memory
/// hooks of UCX cannot be taken out again), so loading it a second time costs nothing.
///
/// Threads  safe to call concurrently. The first load sets NIXL_LOG_LEVEL=FATAL unless the
///          environment says otherwise, because every error comes back as an exception too; setenv
///          is not safe beside other threads that read the environment.
class NixlLibrary {
 public:
  /// @throws UnsupportedError  there is none (find_nixl), it does not load, it lacks functions:
  ///         names them
  static std::shared_ptr<NixlLibrary const> load(NixlSearch const& search = {});

  NixlLibrary(NixlLibrary const&) = delete;
  NixlLibrary& operator=(NixlLibrary const&) = delete;
  ~NixlLibrary() = default;

  [[nodiscard]] NixlLibraryInfo const& info() const noexcept { return info_; }
  [[nodiscard]] nixl_c::Functions const& functions() const noexcept { return functions_; }

  [[nodiscard]] std::string plugin_problem(std::string_view plugin) const;

 private:
  NixlLibrary(NixlLibraryInfo info, nixl_c::Functions const& functions);

  NixlLibraryInfo info_;
  nixl_c::Functions functions_;
};

}  // namespace kvbm::nixl
