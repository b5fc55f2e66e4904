// SPDX-License-Identifier: Apache-2.0
#include "device/cuda/pinned_memory.hpp"

#include <fmt/format.h>
#include <unistd.h>

#include <algorithm>
#include <atomic>
#include <cstddef>
#include <exception>
#include <map>
#include <mutex>
#include <thread>
#include <utility>
#include <vector>

#include "device/cuda/cuda_memory.hpp"
#include "kvbm/core/checked.hpp"
#include "kvbm/core/error.hpp"
#include "kvbm/core/log.hpp"
#include "kvbm/memory/shared_memory.hpp"

namespace kvbm::device {
namespace {

constexpr std::size_t kMaxThreads = 16;

std::uint64_t page_bytes() {
  static auto const bytes = static_cast<std::uint64_t>(sysconf(_SC_PAGESIZE));
  return bytes;
}

struct Range {
  std::uintptr_t begin = 0;
  std::uintptr_t end = 0;
};

class Registration;

// The registrations that kvbm made in this process, so that two regions that share one can keep it
// both: the driver counts none of that.
class Registry {
 public:
  void add(std::uintptr_t begin, std::weak_ptr<Registration const> registration) {
    std::lock_guard const lock(mutex_);
    by_address_.insert_or_assign(begin, std::move(registration));
  }
  void remove(std::uintptr_t begin) {
    std::lock_guard const lock(mutex_);
    by_address_.erase(begin);
  }
  struct Found {
    std::shared_ptr<Registration const> registration;
    bool ends = false;  // it is about to be undone
  };
  [[nodiscard]] Found find(std::uintptr_t address) const;

 private:
  mutable std::mutex mutex_;
  std::map<std::uintptr_t, std::weak_ptr<Registration const>> by_address_;
};

std::shared_ptr<Registry> const& registry() {
  static auto const instance = std::make_shared<Registry>();
  return instance;
}

// One cudaHostRegister, undone with it.
class Registration {
 public:
  Registration(std::shared_ptr<CudaContext> context, Range range)
      : context_(std::move(context)), registry_(registry()), range_(range) {}
  ~Registration() {
    {
      CudaScope const scope(*context_);
      if (cudaHostUnregister(reinterpret_cast<void*>(range_.begin)) != cudaSuccess) {
        forget_last_cuda_error();
      }
    }
    registry_->remove(range_.begin);
  }
  Registration(Registration const&) = delete;
  Registration& operator=(Registration const&) = delete;

  [[nodiscard]] Range range() const noexcept { return range_; }

 private:
  std::shared_ptr<CudaContext> const context_;
  std::shared_ptr<Registry> const registry_;
  Range const range_;
};

Registry::Found Registry::find(std::uintptr_t address) const {
  std::lock_guard const lock(mutex_);
  auto const next = by_address_.upper_bound(address);
  if (next == by_address_.begin()) { return {}; }
  auto registration = std::prev(next)->second.lock();
  if (registration == nullptr) { return {nullptr, true}; }
  if (address >= registration->range().end) { return {}; }
  return {std::move(registration), false};
}

using Registrations = std::vector<std::shared_ptr<Registration const>>;

class Registrar {
 public:
  explicit Registrar(std::shared_ptr<CudaContext> context) : context_(std::move(context)) {}

  // Registers what of whole pages in `range` is not registered yet.
  void cover(Range range, Registrations& made) const {
    CudaScope const scope(*context_);
    while (range.begin < range.end) {
      cudaError_t const status =
          cudaHostRegister(reinterpret_cast<void*>(range.begin), range.end - range.begin,
                           cudaHostRegisterPortable | cudaHostRegisterMapped);
      if (status == cudaSuccess) {
        auto registration = std::make_shared<Registration>(context_, range);
        registry()->add(range.begin, registration);
        made.push_back(std::move(registration));
        return;
      }
      forget_last_cuda_error();
      if (status != cudaErrorHostMemoryAlreadyRegistered) { refuse(range, status); }
      if (skip_registered(range, made)) { continue; }
      std::uint64_t const pages = (range.end - range.begin) / page_bytes();
      if (pages <= 1) { refuse(range, status); }
      // A part further on is registered: look on either side.
      std::uintptr_t const middle = range.begin + pages / 2 * page_bytes();
      cover({range.begin, middle}, made);
      range.begin = middle;
    }
  }

 private:
  // Moves the begin past what is registered there. @return whether there was something
  static bool skip_registered(Range& range, Registrations& made) {
    for (;;) {
      auto [registration, ends] = registry()->find(range.begin);
      if (registration != nullptr) {
        range.begin = std::min(range.end, registration->range().end);
        made.push_back(std::move(registration));
        return true;
      }
      if (!ends) { break; }
      std::this_thread::yield();
    }
    if (cuda_attributes(range.begin).type != cudaMemoryTypeHost) { return false; }
    std::uintptr_t const end = end_of_cuda_range(range.begin);
    std::uintptr_t const page_end = (range.begin / page_bytes() + 1) * page_bytes();
    range.begin = std::min(range.end, std::max(end / page_bytes() * page_bytes(), page_end));
    return true;
  }

  [[noreturn]] void refuse(Range range, cudaError_t status) const {
    ErrorCode const code =
        status == cudaErrorMemoryAllocation ? ErrorCode::OutOfMemory : ErrorCode::Device;
    throw_error(code,
                fmt::format("CUDA device {}: {} bytes at {} cannot be pinned: {}",
                            context_->device_id(), range.end - range.begin,
                            reinterpret_cast<void*>(range.begin), describe_cuda_error(status)),
                static_cast<int>(status));
  }

  std::shared_ptr<CudaContext> const context_;
};

std::vector<Range> cut(Range range) {
  std::vector<Range> chunks;
  while (range.begin < range.end) {
    std::uintptr_t const next = (range.begin / kPinChunkBytes + 1) * kPinChunkBytes;
    chunks.push_back({range.begin, std::min(range.end, next)});
    range.begin = chunks.back().end;
  }
  return chunks;
}

// Pinning touches every page: several threads do several chunks in less time.
Registrations register_chunks(std::shared_ptr<CudaContext> const& context,
                              std::vector<Range> const& chunks) {
  std::vector<Registrations> made(chunks.size());
  std::vector<std::exception_ptr> failures(chunks.size());
  std::atomic<std::size_t> next{0};
  auto const work = [&] {
    Registrar const registrar(context);
    for (std::size_t i = next++; i < chunks.size(); i = next++) {
      try {
        registrar.cover(chunks[i], made[i]);
      } catch (...) { failures[i] = std::current_exception(); }
    }
  };
  std::vector<std::jthread> threads;
  for (std::size_t i = 1; i < std::min(chunks.size(), kMaxThreads); ++i) {
    threads.emplace_back(work);
  }
  work();
  threads.clear();
  for (auto const& failure : failures) {
    if (failure != nullptr) { std::rethrow_exception(failure); }
  }
  Registrations all;
  for (auto& some : made) {
    all.insert(all.end(), some.begin(), some.end());
  }
  return all;
}

// The registrations go first, then the memory.
struct Pinned {
  memory::Region memory;
  Registrations registrations;
};

}  // namespace

memory::Region pin_memory(std::shared_ptr<CudaContext> const& context, memory::Region host) {
  KVBM_EXPECTS(memory::is_host(host.kind()), InvalidArgument,
               fmt::format("CUDA device {}: {} memory cannot be pinned, only memory of the host",
                           context->device_id(), memory::to_string(host.kind())));
  std::uintptr_t const address = host.address();
  Range const pages{address / page_bytes() * page_bytes(),
                    checked_align_up(address + host.bytes(), page_bytes())};
  DeviceId const near = host.kind() == memory::StorageKind::Pinned ? host.device_id() : -1;
  std::uint64_t const bytes = host.bytes();
  auto const shared_name = host.shared_name();
  auto registrations = register_chunks(context, cut(pages));
  auto pinned = std::make_shared<Pinned>(Pinned{std::move(host), std::move(registrations)});
  auto region =
      memory::Region::of_memory(memory::StorageKind::Pinned, reinterpret_cast<void*>(address),
                                bytes, near, true, std::move(pinned));
  return shared_name ? region.with_shared_name(*shared_name) : region;
}

}  // namespace kvbm::device
