// SPDX-License-Identifier: Apache-2.0
#pragma once

#include <filesystem>
#include <string>
#include <vector>

#include "device/storage/cufile_api.hpp"
#include "kvbm/device/direct_storage.hpp"

namespace kvbm::device::cufile {

/// What find_library reads of the process that it runs in.
struct Places {
  std::string named;                          ///< KVBM_CUFILE_LIBRARY
  std::string virtual_env;                    ///< VIRTUAL_ENV
  std::vector<std::filesystem::path> around;  ///< files whose Python environment counts
  std::vector<std::filesystem::path> toolkits = {"/usr/local/cuda"};
  std::string linker_name = "libcufile.so.0";
};

/// This process's own.
Places places_of_this_process();

/// The first of these that is there: options.library; KVBM_CUFILE_LIBRARY; the wheel nvidia-cufile
/// in options.prefixes, VIRTUAL_ENV and the Python environment around this program; a CUDA toolkit;
/// what the dynamic linker calls libcufile.so.0.
/// @throws UnsupportedError  there is none: says where it looked and how to get one
std::filesystem::path find_library(DirectStorageOptions const& options, Places const& places);

/// Loads it; its code stays until the process ends.
/// @throws UnsupportedError  it does not load, it lacks functions: names them
Functions load(std::filesystem::path const& library);

}  // namespace kvbm::device::cufile
