// SPDX-License-Identifier: Apache-2.0
#include "kvbm/testing/temp_folder.hpp"

#include <stdlib.h>
#include <sys/mount.h>

#include <algorithm>
#include <cerrno>
#include <system_error>

#include "kvbm/core/error.hpp"

namespace kvbm::testing {

TempFolder::TempFolder() {
  std::string name = (std::filesystem::temp_directory_path() / "kvbm-test-XXXXXX").string();
  if (mkdtemp(name.data()) == nullptr) {
    throw std::system_error(errno, std::generic_category(), name);
  }
  path_ = name;
}

TempFolder::~TempFolder() {
  std::error_code ignored;
  std::filesystem::remove_all(path_, ignored);
}

std::vector<std::string> TempFolder::list() const {
  std::vector<std::string> names;
  for (auto const& entry : std::filesystem::directory_iterator(path_)) {
    names.push_back(entry.path().filename().string());
  }
  std::sort(names.begin(), names.end());
  return names;
}

SmallFileSystem::SmallFileSystem(std::uint64_t bytes, bool read_only, char const* type) {
  std::string const options = "size=" + std::to_string(bytes);
  unsigned long const flags = read_only ? MS_RDONLY : 0;
  if (mount("none", path().c_str(), type, flags, options.c_str()) != 0) {
    refusal_ = std::string("mount of a ") + type + ": " + describe_errno(errno);
  }
}

SmallFileSystem::~SmallFileSystem() {
  if (refusal_.empty()) { umount2(path().c_str(), MNT_DETACH); }
}

}  // namespace kvbm::testing
