// SPDX-License-Identifier: Apache-2.0
#pragma once

#include <chrono>
#include <cstdint>
#include <filesystem>
#include <memory>
#include <string>
#include <string_view>
#include <vector>

namespace kvbm::device {

/// What GPUDirect Storage can do here.
enum class DirectStorageMode {
  Refused,     ///< nothing; the reason says why
  Compatible,  ///< cuFile works, but copies through host memory of its own: no gain over staging
  Direct,      ///< a driver of the kernel moves bytes between disks and GPU memory
};

/// "Refused", "Compatible", "Direct".
std::string_view to_string(DirectStorageMode mode) noexcept;

/// Where cuFile is looked for and how it is started.
struct DirectStorageOptions {
  /// libcufile.so.0 itself; nothing else is tried then. Empty: look for it.
  std::filesystem::path library = {};
  /// Python environments (folders with lib/python3*/site-packages) to look into first.
  std::vector<std::filesystem::path> prefixes = {};
  /// The kernel's list of modules. cuFile reads it when it starts, for ever where it is missing.
  std::filesystem::path modules = "/proc/modules";
  /// How long cuFile may take to start.
  std::chrono::milliseconds open_timeout = std::chrono::seconds(20);
};

/// What a probe found.
struct DirectStorageInfo {
  DirectStorageMode mode = DirectStorageMode::Refused;
  std::string reason;             ///< why this mode, in a sentence
  std::filesystem::path library;  ///< of cuFile; empty where none was found
  int version = 0;                ///< cuFile's: 1130 is 1.13, 1200 is 1.20; 0 where it does not say
  double open_seconds = 0;        ///< what cuFile's start took
};

/// A file that cuFile knows.
///
/// Threads  reads and writes may run concurrently.
/// Lifetime the descriptor must stay open as long as this lives.
class StorageFile {
 public:
  StorageFile() = default;
  virtual ~StorageFile() = default;
  StorageFile(StorageFile const&) = delete;
  StorageFile& operator=(StorageFile const&) = delete;

  /// Reads `bytes` at `offset` of the file into device memory; done when it returns. The device
  /// must be the calling thread's current one.
  /// @throws Error(Io) with errno or cuFile's number, also where the file ends before
  virtual void read(std::uint64_t offset, void* memory, std::uint64_t bytes) const = 0;
  /// Writes likewise. @throws Error(Io)
  virtual void write(std::uint64_t offset, void const* memory, std::uint64_t bytes) const = 0;
};

/// GPUDirect Storage by NVIDIA's cuFile, a library that is loaded when it is there and never
/// linked. The process keeps it, started, until it ends.
///
/// Threads  safe to use concurrently.
/// Lifetime files and buffers may outlive this object.
class DirectStorage {
 public:
  /// Looks for cuFile, loads and starts it. Fails never: info() tells what came of it. cuFile's
  /// start cannot be stopped once it hangs: then it is left alone in a thread of its own, and the
  /// answer is Refused.
  static std::shared_ptr<DirectStorage> open(DirectStorageOptions const& options = {});
  virtual ~DirectStorage() = default;
  DirectStorage(DirectStorage const&) = delete;
  DirectStorage& operator=(DirectStorage const&) = delete;

  [[nodiscard]] virtual DirectStorageInfo const& info() const noexcept = 0;

  /// The native code of an error of reads and writes in words: cuFile's numbers from 5000, errno
  /// below.
  [[nodiscard]] static std::string describe(int native_code);

  /// Makes an open file known to cuFile, which wants O_DIRECT. Descriptors that are known already
  /// are shared. @param name  for messages
  /// @throws UnsupportedError info().mode is Refused, or cuFile does not serve such a file;
  ///         Error(Device) other failures, with cuFile's number
  virtual std::shared_ptr<StorageFile> register_file(int fd, std::string const& name) = 0;

  /// Makes device memory known to cuFile for as long as the result lives, which saves a copy
  /// within the GPU in mode Direct. The memory must live longer.
  /// @throws as register_file
  virtual std::shared_ptr<void const> register_buffer(void* memory, std::uint64_t bytes) = 0;

 protected:
  DirectStorage() = default;
};

/// This process's GPUDirect Storage, probed by the first call; Refused also without a CUDA device.
std::shared_ptr<DirectStorage> const& direct_storage();

}  // namespace kvbm::device
