// SPDX-License-Identifier: Apache-2.0
#include "nixl/nixl_library.hpp"

#include <dlfcn.h>
#include <link.h>

#include <algorithm>
#include <array>
#include <cstdlib>
#include <string>
#include <string_view>
#include <utility>

#include <fmt/format.h>
#include <fmt/ranges.h>

#include "core/python_packages.hpp"
#include "kvbm/core/error.hpp"

namespace kvbm::nixl {

namespace {

namespace fs = std::filesystem;

constexpr char const* kLibraryName = "libnixl_capi.so";
constexpr char const* kHowToGet = "pip install --no-deps nixl-cu13";

// Folders of the wheels in site-packages, the preferred one first.
constexpr std::array kWheelFolders = {".nixl_cu13.mesonpy.libs", ".nixl_cu12.mesonpy.libs",
                                      ".nixl.mesonpy.libs"};

bool is_file(fs::path const& path) {
  std::error_code ignored;
  return fs::is_regular_file(path, ignored);
}

// The version that the wheel's record beside its folder of libraries states.
std::string wheel_version(fs::path const& library) {
  fs::path const folder = library.parent_path();
  std::string const name = folder.filename().string();
  constexpr std::string_view kSuffix = ".mesonpy.libs";
  if (!name.starts_with('.') || !name.ends_with(kSuffix)) { return {}; }
  std::string const package = name.substr(1, name.size() - 1 - kSuffix.size()) + "-";
  constexpr std::string_view kRecord = ".dist-info";
  for (fs::path const& entry : python::folder_entries(folder.parent_path())) {
    std::string const record = entry.filename().string();
    if (record.starts_with(package) && record.ends_with(kRecord)) {
      return record.substr(package.size(), record.size() - package.size() - kRecord.size());
    }
  }
  return {};
}

fs::path plugin_file(fs::path const& library, std::string_view plugin) {
  return library.parent_path() / "plugins" / fmt::format("libplugin_{}.so", plugin);
}

NixlLibraryInfo describe(fs::path const& library) {
  NixlLibraryInfo info{library, wheel_version(library), {}};
  constexpr std::string_view kPrefix = "libplugin_";
  constexpr std::string_view kSuffix = ".so";
  for (fs::path const& entry : python::folder_entries(library.parent_path() / "plugins")) {
    std::string const name = entry.filename().string();
    if (name.starts_with(kPrefix) && name.ends_with(kSuffix)) {
      info.plugins.push_back(
          name.substr(kPrefix.size(), name.size() - kPrefix.size() - kSuffix.size()));
    }
  }
  return info;
}

[[noreturn]] void throw_missing(std::string_view setting, fs::path const& path) {
  throw UnsupportedError(fmt::format("{} is '{}', which is no file: name {} of a NIXL ({})",
                                     setting, path.string(), kLibraryName, kHowToGet));
}

// The messages of dlerror live until the thread's next call.
std::string linker_message() {
  char const* const message = dlerror();
  return message == nullptr ? "unknown error" : message;
}

void* open_library(char const* name) { return dlopen(name, RTLD_NOW | RTLD_LOCAL | RTLD_NODELETE); }

// setenv changes what getenv on other threads may be reading: once, before NIXL reads it.
void quiet_nixl() {
  static bool const kDone = setenv("NIXL_LOG_LEVEL", "FATAL", 0) == 0;
  static_cast<void>(kDone);
}

}  // namespace

NixlLibraryInfo find_nixl(NixlSearch const& search) {
  return find_nixl(search, {python::environment("KVBM_NIXL_LIBRARY"),
                            python::environment("VIRTUAL_ENV"), python::files_of_this_process()});
}

NixlLibraryInfo find_nixl(NixlSearch const& search, NixlPlaces const& places) {
  if (!search.library.empty()) {
    if (!is_file(search.library)) { throw_missing("the NIXL library", search.library); }
    return describe(search.library);
  }
  if (!places.named.empty()) {
    if (!is_file(places.named)) { throw_missing("KVBM_NIXL_LIBRARY", places.named); }
    return describe(places.named);
  }
  std::vector<fs::path> const packages =
      python::site_packages({search.prefixes, places.virtual_env, places.around});
  for (fs::path const& folder : packages) {
    for (char const* const wheel : kWheelFolders) {
      if (fs::path const library = folder / wheel / kLibraryName; is_file(library)) {
        return describe(library);
      }
    }
  }
  quiet_nixl();
  if (void* const handle = open_library(places.linker_name.c_str()); handle != nullptr) {
    link_map* map = nullptr;
    bool const known = dlinfo(handle, RTLD_DI_LINKMAP, static_cast<void*>(&map)) == 0;
    fs::path const path(known ? map->l_name : places.linker_name.c_str());
    dlclose(handle);
    return describe(path);
  }
  std::string const linker = linker_message();

  std::vector<std::string> looked = {"KVBM_NIXL_LIBRARY (not set)"};
  if (places.virtual_env.empty()) { looked.emplace_back("VIRTUAL_ENV (not set)"); }
  for (fs::path const& folder : packages) {
    looked.push_back(folder.string());
  }
  looked.push_back(fmt::format("the dynamic linker ({})", linker));
  throw UnsupportedError(
      fmt::format("NIXL is not here: {} (looked at: {})", kHowToGet, fmt::join(looked, "; ")));
}

NixlLibrary::NixlLibrary(NixlLibraryInfo info, nixl_c::Functions const& functions)
    : info_(std::move(info)), functions_(functions) {}

std::shared_ptr<NixlLibrary const> NixlLibrary::load(NixlSearch const& search) {
  NixlLibraryInfo info = find_nixl(search);
  quiet_nixl();
  void* const handle = open_library(info.path.c_str());
  if (handle == nullptr) {
    throw UnsupportedError(
        fmt::format("NIXL at '{}' does not load: {}", info.path.string(), linker_message()));
  }
  nixl_c::Functions functions;
  std::vector<std::string> missing;
  auto const resolve = [&](auto& function, char const* name) {
    void* const symbol = dlsym(handle, name);
    if (symbol == nullptr) { missing.emplace_back(name); }
    function = reinterpret_cast<std::remove_reference_t<decltype(function)>>(symbol);
  };
#define KVBM_NIXL_RESOLVE(name, ...) resolve(functions.name, "nixl_capi_" #name);
  KVBM_NIXL_FUNCTIONS(KVBM_NIXL_RESOLVE)
#undef KVBM_NIXL_RESOLVE
  // Opened with RTLD_NODELETE: this gives the reference back, not the code.
  dlclose(handle);
  if (!missing.empty()) {
    throw UnsupportedError(
        fmt::format("'{}' is not a NIXL that kvbm can use (1.5 can: {}); it lacks {}",
                    info.path.string(), kHowToGet, fmt::join(missing, ", ")));
  }
  return std::shared_ptr<NixlLibrary const>(new NixlLibrary(std::move(info), functions));
}

std::string NixlLibrary::plugin_problem(std::string_view plugin) const {
  fs::path const file = plugin_file(info_.path, plugin);
  if (!is_file(file)) { return {}; }
  void* const handle = open_library(file.c_str());
  if (handle == nullptr) { return linker_message(); }
  dlclose(handle);
  return {};
}

}  // namespace kvbm::nixl
