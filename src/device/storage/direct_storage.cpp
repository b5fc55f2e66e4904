// SPDX-License-Identifier: Apache-2.0
#include "kvbm/device/direct_storage.hpp"

#include <fmt/format.h>
#include <unistd.h>

#include <algorithm>
#include <array>
#include <cerrno>
#include <condition_variable>
#include <cstddef>
#include <exception>
#include <filesystem>
#include <functional>
#include <iterator>
#include <map>
#include <mutex>
#include <optional>
#include <system_error>
#include <thread>
#include <utility>

#include "device/storage/cufile_library.hpp"
#include "kvbm/core/error.hpp"
#include "kvbm/device/device.hpp"

namespace kvbm::device {
namespace {

using Clock = std::chrono::steady_clock;

/// A start of cuFile that somebody waits for, perhaps not until its end.
struct Start {
  std::mutex mutex;
  std::condition_variable ended;
  std::optional<cufile::Status> status;
};

/// @return nullopt: it has not ended in time, and goes on
std::optional<cufile::Status> start_driver(cufile::Functions const& functions,
                                           std::chrono::milliseconds timeout) {
  auto const start = std::make_shared<Start>();
  // Nobody can end this thread if the call hangs, so nobody owns it: it has all that it needs.
  std::thread([start, open = functions.DriverOpen] {
    cufile::Status const status = open();
    std::lock_guard const lock(start->mutex);
    start->status = status;
    start->ended.notify_all();
  }).detach();
  std::unique_lock lock(start->mutex);
  start->ended.wait_for(lock, timeout, [&start] { return start->status.has_value(); });
  return start->status;
}

[[noreturn]] void throw_status(cufile::Status status, std::string const& what) {
  // Those that say what a machine, a file or memory is not made for.
  constexpr std::array kNotServed = {5001, 5007, 5008, 5009, 5013, 5018,
                                     5019, 5020, 5027, 5029, 5034};
  bool const unsupported = std::ranges::find(kNotServed, status.code) != kNotServed.end();
  throw_error(unsupported ? ErrorCode::Unsupported : ErrorCode::Device,
              fmt::format("{}: {}", what, cufile::describe(status)), status.code);
}

/// What cuFile knows of the process, shared by whatever was registered.
class Registry {
 public:
  explicit Registry(cufile::Functions const& functions) : functions_(functions) {}

  [[nodiscard]] cufile::Functions const& functions() const noexcept { return functions_; }

  // Under one lock: a descriptor is registered once at a time, or cuFile refuses it.
  cufile::File acquire(int fd, std::string const& name) {
    std::lock_guard const lock(mutex_);
    auto const found = files_.find(fd);
    if (found != files_.end()) {
      ++found->second.uses;
      return found->second.file;
    }
    cufile::FileDescription description;
    description.fd = fd;
    cufile::File file = nullptr;
    cufile::Status const status = functions_.HandleRegister(&file, &description);
    if (status.code != 0) {
      // It asks udev for the file system's disk, also in compatibility mode.
      bool const has_udev = std::filesystem::exists("/run/udev/data");
      throw_status(status,
                   name + ": registering it with cuFile" +
                       (has_udev ? "" : " (no /run/udev here: a container needs the host's)"));
    }
    files_.emplace(fd, Entry{file, 1});
    return file;
  }

  void release(int fd) noexcept {
    std::lock_guard const lock(mutex_);
    auto const found = files_.find(fd);
    if (--found->second.uses > 0) { return; }
    functions_.HandleDeregister(found->second.file);
    files_.erase(found);
  }

  void acquire_buffer(void const* memory, std::uint64_t bytes) {
    cufile::Status const status = functions_.BufRegister(memory, bytes, 0);
    if (status.code != 0) {
      throw_status(status, fmt::format("registering {} bytes of device memory at {} with cuFile",
                                       bytes, memory));
    }
    std::lock_guard const lock(mutex_);
    buffers_[static_cast<std::byte const*>(memory)] = bytes;
  }

  void release_buffer(void const* memory) noexcept {
    {
      std::lock_guard const lock(mutex_);
      buffers_.erase(static_cast<std::byte const*>(memory));
    }
    static_cast<void>(functions_.BufDeregister(memory));
  }

  /// cuFile knows a buffer by its first byte only. @return it, or memory itself if it is in none
  std::byte const* buffer_of(std::byte const* memory, std::uint64_t bytes) const {
    std::lock_guard const lock(mutex_);
    auto const behind = buffers_.upper_bound(memory);
    if (behind == buffers_.begin()) { return memory; }
    auto const& [first, size] = *std::prev(behind);
    return memory + bytes <= first + size ? first : memory;
  }

 private:
  struct Entry {
    cufile::File file = nullptr;
    std::size_t uses = 0;
  };
  cufile::Functions functions_;
  mutable std::mutex mutex_;
  std::map<int, Entry> files_;
  std::map<std::byte const*, std::uint64_t, std::less<>> buffers_;
};

class RegisteredFile final : public StorageFile {
 public:
  RegisteredFile(std::shared_ptr<Registry> registry, int fd, std::string name)
      : registry_(std::move(registry)),
        fd_(fd),
        name_(std::move(name)),
        file_(registry_->acquire(fd_, name_)) {}
  ~RegisteredFile() override { registry_->release(fd_); }
  RegisteredFile(RegisteredFile const&) = delete;
  RegisteredFile& operator=(RegisteredFile const&) = delete;

  void read(std::uint64_t offset, void* memory, std::uint64_t bytes) const override {
    auto* const first = static_cast<std::byte*>(memory);
    auto const before = first - registry_->buffer_of(first, bytes);
    move("read", offset, bytes, [&](std::uint64_t left, off_t at, off_t done) {
      return registry_->functions().Read(file_, first - before, left, at, before + done);
    });
  }

  void write(std::uint64_t offset, void const* memory, std::uint64_t bytes) const override {
    auto const* const first = static_cast<std::byte const*>(memory);
    auto const before = first - registry_->buffer_of(first, bytes);
    move("write", offset, bytes, [&](std::uint64_t left, off_t at, off_t done) {
      return registry_->functions().Write(file_, first - before, left, at, before + done);
    });
  }

 private:
  // Short reads and writes are continued, as those of any file.
  template <typename Call>
  void move(char const* what, std::uint64_t offset, std::uint64_t bytes, Call const& call) const {
    std::uint64_t done = 0;
    while (done < bytes) {
      errno = 0;
      ssize_t const moved =
          call(bytes - done, static_cast<off_t>(offset + done), static_cast<off_t>(done));
      if (moved > 0 && static_cast<std::uint64_t>(moved) <= bytes - done) {
        done += static_cast<std::uint64_t>(moved);
        continue;
      }
      int const error = errno;
      auto const where = [&] {
        return fmt::format("{}: cuFile's {} of {} bytes at {}", name_, what, bytes, offset);
      };
      if (moved == 0) {
        throw Error(ErrorCode::Io, fmt::format("{}: the file ends after {}", where(), done),
                    ENODATA);
      }
      if (moved == -1 && error != 0) {
        throw Error(ErrorCode::Io, fmt::format("{}: {}", where(), describe_errno(error)), error);
      }
      auto const code = static_cast<int>(moved < 0 ? -moved : moved);
      throw Error(ErrorCode::Io, fmt::format("{}: {}", where(), cufile::describe({code, 0})), code);
    }
  }

  std::shared_ptr<Registry> registry_;
  int fd_;
  std::string name_;
  cufile::File file_;
};

std::string version_words(int version) {
  if (version <= 0) { return "cuFile"; }
  return fmt::format("cuFile {}.{}", version / 1000, version % 1000 / 10);
}

class CuFileStorage final : public DirectStorage {
 public:
  explicit CuFileStorage(DirectStorageInfo info) : info_(std::move(info)) {}

  CuFileStorage(DirectStorageOptions const& options, cufile::Places const& places) {
    try {
      probe(options, places);
    } catch (std::exception const& error) {
      info_.mode = DirectStorageMode::Refused;
      info_.reason = error.what();
    }
  }

  [[nodiscard]] DirectStorageInfo const& info() const noexcept override { return info_; }

  std::shared_ptr<StorageFile> register_file(int fd, std::string const& name) override {
    expect_started();
    return std::make_shared<RegisteredFile>(registry_, fd, name);
  }

  std::shared_ptr<void const> register_buffer(void* memory, std::uint64_t bytes) override {
    expect_started();
    registry_->acquire_buffer(memory, bytes);
    return {memory, [registry = registry_](void const* registered) {
              registry->release_buffer(registered);
            }};
  }

 private:
  void expect_started() const {
    if (registry_ == nullptr) { throw UnsupportedError("GPUDirect Storage: " + info_.reason); }
  }

  void probe(DirectStorageOptions const& options, cufile::Places const& places) {
    info_.library = cufile::find_library(options, places);
    // cuFile's start reads lines until this file ends, which never happens where there is none, and
    // nothing can stop it then.
    if (::access(options.modules.c_str(), R_OK) != 0) {
      int const error = errno;
      throw UnsupportedError(fmt::format("{} cannot be read ({}), and cuFile would spin for ever",
                                         options.modules.string(), describe_errno(error)));
    }
    cufile::Functions const functions = cufile::load(info_.library);
    auto const began = Clock::now();
    auto const status = start_driver(functions, options.open_timeout);
    info_.open_seconds = std::chrono::duration<double>(Clock::now() - began).count();
    if (!status) {
      throw UnsupportedError(fmt::format("cuFile's start has not ended after {} ms: left alone",
                                         options.open_timeout.count()));
    }
    if (status->code != 0 && status->code != cufile::kDriverAlreadyOpen) {
      throw UnsupportedError("cuFile does not start: " + cufile::describe(*status));
    }
    if (functions.GetVersion != nullptr) {
      static_cast<void>(functions.GetVersion(&info_.version));
    }
    cufile::Properties properties;
    cufile::Status const asked = functions.DriverGetProperties(&properties);
    if (asked.code != 0) {
      throw UnsupportedError("cuFile does not tell its properties: " + cufile::describe(asked));
    }
    choose_mode(properties);
    registry_ = std::make_shared<Registry>(functions);
  }

  void choose_mode(cufile::Properties const& properties) {
    std::string const version = version_words(info_.version);
    if (properties.nvfs_major > 0) {
      info_.mode = DirectStorageMode::Direct;
      info_.reason = fmt::format("{} with nvidia_fs {}.{}", version, properties.nvfs_major,
                                 properties.nvfs_minor);
    } else if ((properties.features & cufile::kPeerToPeer) != 0) {
      info_.mode = DirectStorageMode::Direct;
      info_.reason = version + " with the kernel's own peer-to-peer DMA";
    } else {
      info_.mode = DirectStorageMode::Compatible;
      info_.reason =
          fmt::format("{} in compatibility mode: no nvidia_fs and no peer-to-peer DMA", version);
    }
  }

  DirectStorageInfo info_;
  std::shared_ptr<Registry> registry_;  ///< null: refused
};

}  // namespace

std::string_view to_string(DirectStorageMode mode) noexcept {
  switch (mode) {
    case DirectStorageMode::Refused: return "Refused";
    case DirectStorageMode::Compatible: return "Compatible";
    case DirectStorageMode::Direct: return "Direct";
  }
  return "?";
}

std::string DirectStorage::describe(int native_code) {
  return native_code >= cufile::kBaseError ? cufile::describe({native_code, 0})
                                           : describe_errno(native_code);
}

std::shared_ptr<DirectStorage> DirectStorage::open(DirectStorageOptions const& options) {
  return std::make_shared<CuFileStorage>(options, cufile::places_of_this_process());
}

std::shared_ptr<DirectStorage> const& direct_storage() {
  static std::shared_ptr<DirectStorage> const storage = []() -> std::shared_ptr<DirectStorage> {
    if (std::string reason = cuda_unavailable_reason(); !reason.empty()) {
      DirectStorageInfo info;
      info.reason = "no CUDA device: " + reason;
      return std::make_shared<CuFileStorage>(std::move(info));
    }
    return DirectStorage::open();
  }();
  return storage;
}

}  // namespace kvbm::device
