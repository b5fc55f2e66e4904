// SPDX-License-Identifier: Apache-2.0
#include "device/storage/cufile_library.hpp"

#include <dlfcn.h>
#include <link.h>

#include <fmt/format.h>
#include <fmt/ranges.h>

#include <string_view>
#include <system_error>
#include <type_traits>

#include "core/python_packages.hpp"
#include "kvbm/core/error.hpp"

namespace kvbm::device::cufile {
namespace {

namespace fs = std::filesystem;

constexpr char const* kLibraryName = "libcufile.so.0";
constexpr char const* kHowToGet = "pip install nvidia-cufile";

bool is_file(fs::path const& path) {
  std::error_code ignored;
  return fs::is_regular_file(path, ignored);
}

[[noreturn]] void throw_missing(std::string_view setting, fs::path const& path) {
  throw UnsupportedError(fmt::format("{} is '{}', which is no file: name {} of cuFile ({})",
                                     setting, path.string(), kLibraryName, kHowToGet));
}

// The messages of dlerror live until the thread's next call.
std::string linker_message() {
  char const* const message = dlerror();
  return message == nullptr ? "unknown error" : message;
}

void* open_library(char const* name) { return dlopen(name, RTLD_NOW | RTLD_LOCAL | RTLD_NODELETE); }

}  // namespace

std::string describe(Status status) {
  auto const words = [code = status.code]() -> char const* {
    switch (code) {
      case 0: return "no error";
      case 5001: return "its driver is not started, or nvidia_fs is not loaded";
      case 5004: return "nvidia_fs is of another version";
      case 5007: return "this platform has no GPUDirect Storage";
      case 5008: return "not for this file";
      case 5009: return "not for this GPU";
      case 5010: return "nvidia_fs refused a request";
      case kCudaError: return "the CUDA driver failed";
      case 5012: return "not an address of device memory";
      case 5013: return "memory of a kind that it does not serve";
      case 5014: return "beyond the end of the allocation";
      case 5015: return "memory of another CUDA context";
      case 5018: return "not for this type of file";
      case 5019: return "the file was opened in another way than it wants";
      case 5020: return "the file was not opened with O_DIRECT";
      case 5022: return "an invalid argument";
      case 5023: return "the memory is registered already";
      case 5024: return "the memory is not registered";
      case 5025: return "no permission";
      case kDriverAlreadyOpen: return "its driver is started already";
      case 5027: return "the file is not registered";
      case 5028: return "the file is registered already";
      case 5029: return "no GPU";
      case 5030: return "its own error";
      case 5033: return "nvidia_fs did not start";
      case 5034: return "its configuration excludes this file";
      case 5036: return "no more GPU memory can be pinned";
      case 5043: return "no memory";
      case 5044: return "an I/O error";
      default: return "see cufile.h";
    }
  };
  std::string text = fmt::format("cuFile error {} ({})", status.code, words());
  if (status.code == kCudaError) { text += fmt::format(", CUDA error {}", status.cuda_code); }
  return text;
}

Places places_of_this_process() {
  Places places;
  places.named = python::environment("KVBM_CUFILE_LIBRARY");
  places.virtual_env = python::environment("VIRTUAL_ENV");
  places.around = python::files_of_this_process();
  return places;
}

fs::path find_library(DirectStorageOptions const& options, Places const& places) {
  if (!options.library.empty()) {
    if (!is_file(options.library)) { throw_missing("the cuFile library", options.library); }
    return options.library;
  }
  if (!places.named.empty()) {
    if (!is_file(places.named)) { throw_missing("KVBM_CUFILE_LIBRARY", places.named); }
    return places.named;
  }
  auto const packages =
      python::site_packages({options.prefixes, places.virtual_env, places.around});
  for (fs::path const& folder : packages) {
    // nvidia/cu13/lib since CUDA 13, nvidia/cufile/lib before.
    for (fs::path const& wheel : python::folder_entries(folder / "nvidia")) {
      if (fs::path library = wheel / "lib" / kLibraryName; is_file(library)) { return library; }
    }
  }
  for (fs::path const& toolkit : places.toolkits) {
    for (char const* const folder : {"lib64", "lib"}) {
      if (fs::path library = toolkit / folder / kLibraryName; is_file(library)) { return library; }
    }
  }
  if (void* const handle = open_library(places.linker_name.c_str()); handle != nullptr) {
    link_map* map = nullptr;
    bool const known = dlinfo(handle, RTLD_DI_LINKMAP, static_cast<void*>(&map)) == 0;
    fs::path path(known ? map->l_name : places.linker_name.c_str());
    dlclose(handle);
    return path;
  }
  std::string const linker = linker_message();

  std::vector<std::string> looked = {"KVBM_CUFILE_LIBRARY (not set)"};
  if (places.virtual_env.empty()) { looked.emplace_back("VIRTUAL_ENV (not set)"); }
  for (auto const* const folders : {&packages, &places.toolkits}) {
    for (fs::path const& folder : *folders) {
      looked.push_back(folder.string());
    }
  }
  looked.push_back(fmt::format("the dynamic linker ({})", linker));
  throw UnsupportedError(
      fmt::format("cuFile is not here: {} (looked at: {})", kHowToGet, fmt::join(looked, "; ")));
}

Functions load(fs::path const& library) {
  void* const handle = open_library(library.c_str());
  if (handle == nullptr) {
    throw UnsupportedError(
        fmt::format("cuFile at '{}' does not load: {}", library.string(), linker_message()));
  }
  Functions functions;
  std::vector<std::string> missing;
  auto const resolve = [&](auto& function, char const* name, bool required) {
    void* const symbol = dlsym(handle, name);
    if (symbol == nullptr && required) { missing.emplace_back(name); }
    function = reinterpret_cast<std::remove_reference_t<decltype(function)>>(symbol);
  };
#define KVBM_CUFILE_RESOLVE(name, result, parameters) resolve(functions.name, "cuFile" #name, true);
  KVBM_CUFILE_FUNCTIONS(KVBM_CUFILE_RESOLVE)
#undef KVBM_CUFILE_RESOLVE
  resolve(functions.GetVersion, "cuFileGetVersion", false);
  // Opened with RTLD_NODELETE: this gives the reference back, not the code.
  dlclose(handle);
  if (!missing.empty()) {
    throw UnsupportedError(fmt::format("'{}' is not a cuFile that kvbm can use; it lacks {}",
                                       library.string(), fmt::join(missing, ", ")));
  }
  return functions;
}

}  // namespace kvbm::device::cufile
