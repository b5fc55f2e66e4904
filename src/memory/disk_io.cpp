// SPDX-License-Identifier: Apache-2.0
#include "kvbm/memory/disk_io.hpp"

#include <fmt/format.h>

#include <utility>

#include "kvbm/core/error.hpp"
#include "kvbm/core/log.hpp"
#include "memory/disk_engines.hpp"

namespace kvbm::memory {

std::string_view to_string(DiskEngine engine) noexcept {
  switch (engine) {
    case DiskEngine::Auto: return "Auto";
    case DiskEngine::IoUring: return "IoUring";
    case DiskEngine::Threads: return "Threads";
  }
  return "Unknown";
}

std::size_t DiskQueue::wait_some(std::vector<DiskCompletion>& done) {
  std::vector<int> const errors = finish();
  for (std::size_t i = 0; i < errors.size(); ++i) {
    done.push_back({i, errors[i]});
  }
  return errors.size();
}

EngineChoice choose_engine(DiskEngine asked, std::function<UringProbe()> const& probe) {
  if (asked == DiskEngine::Threads) { return {DiskEngine::Threads, "asked for"}; }
  UringProbe const found = probe();
  if (asked == DiskEngine::IoUring) {
    if (!found.usable) {
      throw UnsupportedError(fmt::format(
          "io_uring was asked for and cannot be used: {}; use DiskEngine::Auto", found.reason));
    }
    return {DiskEngine::IoUring, "asked for; " + found.reason};
  }
  return {found.usable ? DiskEngine::IoUring : DiskEngine::Threads, found.reason};
}

std::string DiskIo::describe(int error) const { return describe_errno(error); }

namespace {

void check_options(DiskIoOptions const& options) {
  KVBM_EXPECTS(options.queue_depth >= 1 && options.queue_depth <= 4096, InvalidArgument,
               fmt::format("queue_depth {} is not in 1..4096", options.queue_depth));
  KVBM_EXPECTS(options.num_threads >= 1 && options.num_threads <= 256, InvalidArgument,
               fmt::format("num_threads {} is not in 1..256", options.num_threads));
}

}  // namespace

std::shared_ptr<DiskIo> make_disk_io(DiskIoOptions const& options, DiskCalls calls,
                                     std::string reason) {
  check_options(options);
  KVBM_EXPECTS(calls.move && calls.describe, InvalidArgument, "a DiskIo needs both of its calls");
  return make_threads_disk_io(options, std::move(calls), std::move(reason));
}

std::shared_ptr<DiskIo> make_disk_io(DiskIoOptions const& options) {
  check_options(options);
  EngineChoice choice = choose_engine(options.engine, probe_uring);
  log::write(log::Level::Debug,
             fmt::format("disk engine {}: {}", to_string(choice.engine), choice.reason));
  if (choice.engine == DiskEngine::IoUring) {
    return make_uring_disk_io(options, std::move(choice.reason));
  }
  return make_threads_disk_io(options, std::move(choice.reason));
}

}  // namespace kvbm::memory
