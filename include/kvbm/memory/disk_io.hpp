// SPDX-License-Identifier: Apache-2.0
#pragma once

#include <cstddef>
#include <cstdint>
#include <functional>
#include <memory>
#include <span>
#include <string>
#include <string_view>
#include <vector>

namespace kvbm::memory {

/// Largest piece handed to the operating system at once: large enough for full rate, small enough
/// that a queue's depth is spread over the device.
inline constexpr std::uint64_t kDiskChunkBytes = std::uint64_t{1} << 20;

/// One read or write of a file.
struct DiskRequest {
  enum class Op { Read, Write };
  Op op = Op::Read;
  int fd = -1;
  std::uint64_t offset = 0;  ///< bytes
  std::byte* memory = nullptr;
  std::uint64_t bytes = 0;
};

/// A request that ended: its position among those started since the last finish(), and 0 or an
/// errno.
struct DiskCompletion {
  std::size_t request = 0;
  int error = 0;
};

/// A queue of requests under way, used by one thread at a time.
/// Short reads and writes are continued inside; large requests are split inside.
/// The destructor waits for what is under way.
class DiskQueue {
 public:
  DiskQueue() = default;
  virtual ~DiskQueue() = default;
  DiskQueue(DiskQueue const&) = delete;
  DiskQueue& operator=(DiskQueue const&) = delete;

  /// Starts all requests; returns without waiting for them. Memory must stay valid until finish().
  virtual void start(std::span<DiskRequest const> requests) = 0;

  /// Waits for everything started since the last finish(); one entry a request, in order:
  /// 0, or the errno of the failure (ENODATA: the file ended inside a read).
  virtual std::vector<int> finish() = 0;

  /// Waits until requests have ended that no earlier wait_some() named, and appends them to `done`,
  /// so that finished data can be worked on while the rest is under way. finish() is still needed
  /// afterwards and returns all of them again.
  /// @return how many were appended; 0: nothing is under way
  virtual std::size_t wait_some(std::vector<DiskCompletion>& done);

  /// Makes [memory, memory + bytes) known to the kernel so that its pages need no pinning per
  /// request, where the engine can; a hint, never fails. Empty span undoes it.
  virtual void register_buffer(std::span<std::byte> buffer) = 0;
};

/// Which engine moves bytes between files and memory.
enum class DiskEngine { Auto, IoUring, Threads };

/// How a DiskIo is built.
struct DiskIoOptions {
  DiskEngine engine = DiskEngine::Auto;
  bool allow_direct = true;   ///< O_DIRECT where the file system has it
  unsigned queue_depth = 64;  ///< requests in flight a queue
  unsigned num_threads = 8;   ///< of the Threads engine
};

/// Factory of queues. Threads: make_queue may be called concurrently.
class DiskIo {
 public:
  DiskIo() = default;
  virtual ~DiskIo() = default;
  DiskIo(DiskIo const&) = delete;
  DiskIo& operator=(DiskIo const&) = delete;
  [[nodiscard]] virtual std::unique_ptr<DiskQueue> make_queue() = 0;
  /// The engine in use: IoUring or Threads.
  [[nodiscard]] virtual DiskEngine engine() const noexcept = 0;
  /// Why this engine runs ("io_uring_queue_init: Operation not permitted (errno 1)", "asked for").
  [[nodiscard]] virtual std::string reason() const = 0;
  [[nodiscard]] virtual DiskIoOptions const& options() const noexcept = 0;
  /// What an error of its queues means: errno in words, unless the engine has numbers of its own.
  [[nodiscard]] virtual std::string describe(int error) const;
};

/// "Auto", "IoUring" or "Threads".
std::string_view to_string(DiskEngine engine) noexcept;

/// io_uring where the kernel allows it, else threads with pread/pwrite.
/// @throws UnsupportedError if IoUring was asked for and the kernel refuses it;
///         Error(InvalidArgument) queue_depth not in 1..4096, num_threads not in 1..256
std::shared_ptr<DiskIo> make_disk_io(DiskIoOptions const& options = {});

/// What a DiskIo of threads does where pread and pwrite do not reach.
struct DiskCalls {
  /// Moves all of one request, of at most kDiskChunkBytes, into or out of memory of any kind.
  /// Called from several threads. @return 0, an errno, or a number that `describe` knows
  std::function<int(DiskRequest const&)> move;
  std::function<std::string(int)> describe;  ///< see DiskIo::describe
};

/// options.num_threads threads that make `calls`. @throws Error(InvalidArgument) as above
std::shared_ptr<DiskIo> make_disk_io(DiskIoOptions const& options, DiskCalls calls,
                                     std::string reason);

}  // namespace kvbm::memory
