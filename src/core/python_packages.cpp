// SPDX-License-Identifier: Apache-2.0
#include "core/python_packages.hpp"

#include <dlfcn.h>

#include <algorithm>
#include <cstdlib>
#include <system_error>
#include <utility>

namespace kvbm::python {
namespace {

namespace fs = std::filesystem;

// The site-packages of an environment's Pythons.
void append_site_packages(fs::path const& prefix, std::vector<fs::path>& out) {
  for (fs::path const& folder : folder_entries(prefix / "lib")) {
    std::error_code ignored;
    fs::path packages = folder / "site-packages";
    if (folder.filename().string().starts_with("python3") && fs::is_directory(packages, ignored) &&
        std::ranges::find(out, packages) == out.end()) {
      out.push_back(std::move(packages));
    }
  }
}

void append_surroundings(fs::path const& file, std::vector<fs::path>& out) {
  for (fs::path folder = file.parent_path(); folder.has_relative_path();
       folder = folder.parent_path()) {
    if (folder.filename() == "site-packages" && std::ranges::find(out, folder) == out.end()) {
      out.push_back(folder);
    }
    if (folder.filename() == "bin") { append_site_packages(folder.parent_path(), out); }
    if (folder.filename() == "build") { append_site_packages(folder / "venv", out); }
  }
}

}  // namespace

std::vector<fs::path> site_packages(PackagePlaces const& places) {
  std::vector<fs::path> found;
  for (fs::path const& prefix : places.prefixes) {
    append_site_packages(prefix, found);
  }
  if (!places.virtual_env.empty()) { append_site_packages(places.virtual_env, found); }
  for (fs::path const& file : places.around) {
    append_surroundings(file, found);
  }
  return found;
}

std::vector<fs::path> files_of_this_process() {
  std::vector<fs::path> files;
  std::error_code ignored;
  Dl_info info{};
  static char const marker = 0;
  if (dladdr(&marker, &info) != 0 && info.dli_fname != nullptr) {
    files.push_back(fs::absolute(info.dli_fname, ignored));
  }
  files.push_back(fs::read_symlink("/proc/self/exe", ignored));
  return files;
}

std::vector<fs::path> folder_entries(fs::path const& folder) {
  std::vector<fs::path> found;
  std::error_code error;
  for (fs::directory_iterator it(folder, error), end; !error && it != end; it.increment(error)) {
    found.push_back(it->path());
  }
  std::ranges::sort(found);
  return found;
}

std::string environment(char const* name) {
  char const* const value = std::getenv(name);
  return value == nullptr ? std::string() : std::string(value);
}

}  // namespace kvbm::python
