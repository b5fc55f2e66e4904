// SPDX-License-Identifier: Apache-2.0
#include "remote/nixl/nixl_library.hpp"

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

#include "kvbm/core/error.hpp"

namespace kvbm::remote {

namespace {

namespace fs = std::filesystem;

constexpr char const* kLibraryName = "libnixl_capi.so";
constexpr char const* kHowToGet = "pip install --no-deps nixl-cu13";

// Folders of the wheels in site-packages, the preferred one first.
constexpr std::array kWheelFolders = {".nixl_cu13.mesonpy.libs", ".nixl_cu12.mesonpy.libs",
                                      ".nixl.mesonpy.libs"};

std::string environment(char const* name) {
  char const* const value = std::getenv(name);
  return value == nullptr ? std::string() : std::string(value);
}

bool is_file(fs::path const& path) {
  std::error_code ignored;
  return fs::is_regular_file(path, ignored);
}

std::vector<fs::path> entries(fs::path const& folder) {
  std::vector<fs::path> found;
  std::error_code error;
  for (fs::directory_iterator it(folder, error), end; !error && it != end; it.increment(error)) {
    found.push_back(it->path());
  }
  std::ranges::sort(found);
  return found;
}

// The site-packages of an environment's Pythons.
void append_site_packages(fs::path const& prefix, std::vector<fs::path>& out) {
  for (fs::path const& folder : entries(prefix / "lib")) {
    std::error_code ignored;
    fs::path packages = folder / "site-packages";
    if (folder.filename().string().starts_with("python3") && fs::is_directory(packages, ignored) &&
        std::ranges::find(out, packages) == out.end()) {
      out.push_back(std::move(packages));
    }
  }
}

// What surrounds a file: the site-packages that it was installed into, those of the environment
// whose bin/ it is in, and the environment of a build tree.
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

fs::path path_of_this_code() {
  Dl_info info{};
  static char const marker = 0;
  if (dladdr(&marker, &info) == 0 || info.dli_fname == nullptr) { return {}; }
  std::error_code ignored;
  return fs::absolute(info.dli_fname, ignored);
}

std::vector<fs::path> site_packages(NixlSearch const& search, NixlPlaces const& places) {
  std::vector<fs::path> found;
  for (fs::path const& prefix : search.prefixes) {
    append_site_packages(prefix, found);
  }
  if (!places.virtual_env.empty()) { append_site_packages(places.virtual_env, found); }
  for (fs::path const& file : places.around) {
    append_surroundings(file, found);
  }
  return found;
}

// The version that the wheel's record beside its folder of libraries states.
std::string wheel_version(fs::path const& library) {
  fs::path const folder = library.parent_path();
  std::string const name = folder.filename().string();
  constexpr std::string_view kSuffix = ".mesonpy.libs";
  if (!name.starts_with('.') || !name.ends_with(kSuffix)) { return {}; }
  std::string const package = name.substr(1, name.size() - 1 - kSuffix.size()) + "-";
  constexpr std::string_view kRecord = ".dist-info";
  for (fs::path const& entry : entries(folder.parent_path())) {
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
  for (fs::path const& entry : entries(library.parent_path() / "plugins")) {
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
  std::error_code ignored;
  return find_nixl(search, {environment("KVBM_NIXL_LIBRARY"),
                            environment("VIRTUAL_ENV"),
                            {path_of_this_code(), fs::read_symlink("/proc/self/exe", ignored)}});
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
  std::vector<fs::path> const packages = site_packages(search, places);
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

}  // namespace kvbm::remote
