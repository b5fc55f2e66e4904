// SPDX-License-Identifier: Apache-2.0
#pragma once

#include <filesystem>
#include <string>
#include <vector>

/// Where Python environments keep the packages that bring native libraries along.
namespace kvbm::python {

/// What a search looks at.
struct PackagePlaces {
  std::vector<std::filesystem::path> prefixes;  ///< folders with lib/python3*/site-packages, first
  std::string virtual_env;                      ///< likewise; empty: none
  std::vector<std::filesystem::path> around;    ///< files whose Python environment counts
};

/// The site-packages folders that are there, the preferred ones first: those of the prefixes, of
/// the virtual environment, and those around the files: the one that a file was installed into,
/// those of the environment whose bin/ it is in, build/venv of a build tree.
std::vector<std::filesystem::path> site_packages(PackagePlaces const& places);

/// The files that this library and this program were loaded from.
std::vector<std::filesystem::path> files_of_this_process();

/// The entries of a folder, sorted; none where it cannot be read.
std::vector<std::filesystem::path> folder_entries(std::filesystem::path const& folder);

/// The value of an environment variable, empty where it is not set.
std::string environment(char const* name);

}  // namespace kvbm::python
