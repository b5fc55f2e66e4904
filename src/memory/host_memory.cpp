// SPDX-License-Identifier: Apache-2.0
#include <fmt/format.h>
#include <sys/mman.h>
#include <unistd.h>

#include <algorithm>
#include <cerrno>
#include <cstdlib>
#include <cstring>
#include <map>
#include <mutex>
#include <utility>
#include <vector>

#include "kvbm/core/checked.hpp"
#include "kvbm/core/error.hpp"
#include "kvbm/core/log.hpp"
#include "kvbm/memory/disk_io.hpp"
#include "kvbm/memory/memory_source.hpp"
#include "kvbm/memory/numa.hpp"

namespace kvbm::memory {
namespace {

// From here on a mapping of its own: cheaper to zero, given back to the system at once.
constexpr std::uint64_t kMapBytes = std::uint64_t{1} << 20;
constexpr std::uint64_t kHugePageBytes = std::uint64_t{2} << 20;

std::uint64_t page_bytes() {
  static auto const bytes = static_cast<std::uint64_t>(sysconf(_SC_PAGESIZE));
  return bytes;
}

[[noreturn]] void throw_out_of_memory(AllocationRequest const& request, int error) {
  throw_error(ErrorCode::OutOfMemory,
              fmt::format("{} bytes of {} memory (device {}): {}", request.bytes,
                          to_string(request.kind), request.device_id, describe_errno(error)),
              error);
}

// An anonymous mapping, zero by nature.
class Mapping {
 public:
  Mapping(AllocationRequest const& request, std::uint64_t alignment)
      : bytes_(checked_align_up(request.bytes, page_bytes())) {
    std::uint64_t const slack = alignment > page_bytes() ? alignment : 0;
    std::uint64_t const mapped = checked_add(bytes_, slack);
    void* const base =
        mmap(nullptr, mapped, PROT_READ | PROT_WRITE, MAP_PRIVATE | MAP_ANONYMOUS, -1, 0);
    if (base == MAP_FAILED) { throw_out_of_memory(request, errno); }
    auto* const first = static_cast<std::byte*>(base);
    auto const address = reinterpret_cast<std::uintptr_t>(base);
    std::uint64_t const skip = slack == 0 ? 0 : (alignment - address % alignment) % alignment;
    data_ = first + skip;
    if (skip > 0) { munmap(first, skip); }
    if (slack > skip) { munmap(data_ + bytes_, slack - skip); }
    // Advice: a kernel without huge pages refuses it and nothing is lost.
    if (bytes_ >= kHugePageBytes) { madvise(data_, bytes_, MADV_HUGEPAGE); }
  }
  ~Mapping() {
    if (data_ != nullptr) { munmap(data_, bytes_); }
  }
  Mapping(Mapping const&) = delete;
  Mapping& operator=(Mapping const&) = delete;

  [[nodiscard]] std::byte* data() const { return data_; }
  [[nodiscard]] std::uint64_t bytes() const { return bytes_; }

 private:
  std::byte* data_ = nullptr;
  std::uint64_t bytes_ = 0;
};

struct FreeDeleter {
  void operator()(void* memory) const { std::free(memory); }
};
using HeapMemory = std::unique_ptr<void, FreeDeleter>;

// Locks as long a prefix as the limit allows, by halving the step; returns its bytes.
std::uint64_t lock_prefix(std::byte* data, std::uint64_t bytes) {
  std::uint64_t locked = 0;
  std::uint64_t step = bytes;
  while (locked < bytes && step >= page_bytes()) {
    std::uint64_t const part = std::min(step, bytes - locked);
    if (mlock(data + locked, part) == 0) {
      locked += part;
    } else {
      step = step / 2 / page_bytes() * page_bytes();
    }
  }
  return locked;
}

// What has been handed out and is alive; shared by the source and all of its allocations.
class Registry {
 public:
  struct Entry {
    std::uint64_t bytes = 0;
    StorageKind kind = StorageKind::System;
    DeviceId device_id = -1;
    std::uint64_t mapped_bytes = 0;  // Pinned only
    std::uint64_t locked_bytes = 0;  // Pinned only
  };

  void add(void const* address, Entry const& entry) {
    std::lock_guard const lock(mutex_);
    entries_.insert_or_assign(reinterpret_cast<std::uintptr_t>(address), entry);
  }

  void remove(void const* address) {
    std::lock_guard const lock(mutex_);
    entries_.erase(reinterpret_cast<std::uintptr_t>(address));
  }

  [[nodiscard]] std::optional<PointerInfo> find(void const* address) const {
    auto const at = reinterpret_cast<std::uintptr_t>(address);
    std::lock_guard const lock(mutex_);
    auto const next = entries_.upper_bound(at);
    if (next == entries_.begin()) { return std::nullopt; }
    auto const& [begin, entry] = *std::prev(next);
    if (at - begin >= entry.bytes) { return std::nullopt; }
    return PointerInfo{entry.kind, entry.device_id, entry.bytes - (at - begin)};
  }

  [[nodiscard]] PinnedStats pinned_stats() const {
    std::lock_guard const lock(mutex_);
    PinnedStats stats;
    for (auto const& [address, entry] : entries_) {
      if (entry.kind != StorageKind::Pinned) { continue; }
      ++stats.regions;
      stats.bytes += entry.mapped_bytes;
      stats.locked_bytes += entry.locked_bytes;
    }
    return stats;
  }

 private:
  mutable std::mutex mutex_;
  std::map<std::uintptr_t, Entry> entries_;
};

// One allocation: registered while it lives, deregistered before its memory goes.
class Allocation {
 public:
  Allocation(std::shared_ptr<Registry> registry, AllocationRequest const& request, int node)
      : registry_(std::move(registry)) {
    Registry::Entry entry{request.bytes, request.kind, -1, 0, 0};
    std::uint64_t alignment = std::max(request.alignment, kRegionAlignment);
    if (request.kind == StorageKind::System && request.bytes < kMapBytes) {
      allocate_on_heap(request, alignment);
    } else {
      if (request.bytes >= kHugePageBytes) { alignment = std::max(alignment, kHugePageBytes); }
      mapping_ = std::make_unique<Mapping>(request, alignment);
      data_ = mapping_->data();
    }
    if (request.kind == StorageKind::Pinned) {
      entry.device_id = request.device_id;
      pin(node, entry);
    }
    registry_->add(data_, entry);
  }
  ~Allocation() { registry_->remove(data_); }
  Allocation(Allocation const&) = delete;
  Allocation& operator=(Allocation const&) = delete;

  [[nodiscard]] void* data() const { return data_; }

 private:
  void allocate_on_heap(AllocationRequest const& request, std::uint64_t alignment) {
    // Direct I/O wants page alignment; below a page there is nothing to gain.
    if (request.bytes >= page_bytes()) { alignment = std::max(alignment, page_bytes()); }
    void* memory = nullptr;
    int const error = posix_memalign(&memory, alignment, request.bytes);
    if (error != 0) { throw_out_of_memory(request, error); }
    heap_.reset(memory);
    std::memset(memory, 0, request.bytes);
    data_ = memory;
  }

  void pin(int node, Registry::Entry& entry) {
    if (node >= 0 && !prefer_numa_node(mapping_->data(), mapping_->bytes(), node)) {
      log::write(log::Level::Info,
                 fmt::format("{} bytes of pinned memory could not be placed on NUMA node {}",
                             mapping_->bytes(), node));
    }
    entry.mapped_bytes = mapping_->bytes();
    entry.locked_bytes = lock_prefix(mapping_->data(), mapping_->bytes());
    if (entry.locked_bytes < entry.mapped_bytes) {
      log::write(log::Level::Info,
                 fmt::format("only {} of {} bytes of pinned memory are locked: raise "
                             "RLIMIT_MEMLOCK (ulimit -l) to lock them all",
                             entry.locked_bytes, entry.mapped_bytes));
    }
  }

  std::shared_ptr<Registry> registry_;
  std::unique_ptr<Mapping> mapping_;
  HeapMemory heap_;
  void* data_ = nullptr;
};

// Node of the i-th GPU in PCI order, asked once.
NodeOfDevice nodes_from_sysfs() {
  std::vector<int> nodes;
  if (num_numa_nodes() > 1) {
    for (auto const& gpu : find_pci_gpus()) {
      nodes.push_back(gpu.numa_node);
    }
  }
  return [nodes](DeviceId id) {
    return id < 0 || static_cast<std::size_t>(id) >= nodes.size()
               ? -1
               : nodes[static_cast<std::size_t>(id)];
  };
}

class HostMemory final : public MemorySource {
 public:
  explicit HostMemory(NodeOfDevice node_of_device)
      : node_of_device_(node_of_device ? std::move(node_of_device) : nodes_from_sysfs()) {}

  Region allocate(AllocationRequest const& request) override {
    KVBM_EXPECTS(request.bytes > 0, InvalidArgument,
                 fmt::format("0 bytes of {} memory asked for", to_string(request.kind)));
    KVBM_EXPECTS(is_power_of_two(request.alignment), InvalidArgument,
                 fmt::format("alignment {} is not a power of two", request.alignment));
    KVBM_EXPECTS(is_memory(request.kind), InvalidArgument,
                 fmt::format("{} storage is not memory: it cannot be allocated here",
                             to_string(request.kind)));
    KVBM_EXPECTS(
        is_host(request.kind), NotFound,
        fmt::format("device {} is unknown: this source has host memory only", request.device_id));
    bool const pinned = request.kind == StorageKind::Pinned;
    int const node = pinned && request.device_id >= 0 ? node_of_device_(request.device_id) : -1;
    auto allocation = std::make_shared<Allocation>(registry_, request, node);
    void* const data = allocation->data();
    return Region::of_memory(request.kind, data, request.bytes, pinned ? request.device_id : -1,
                             true, std::move(allocation));
  }

  [[nodiscard]] std::optional<PointerInfo> classify(void const* address) const override {
    return registry_->find(address);
  }

  [[nodiscard]] bool is_host_accessible(DeviceId device_id) const override {
    throw_error(ErrorCode::NotFound,
                fmt::format("device {} is unknown: this source has host memory only", device_id));
  }

  [[nodiscard]] std::shared_ptr<DiskIo> disk_io() override {
    std::lock_guard const lock(disk_io_mutex_);
    if (disk_io_ == nullptr) { disk_io_ = make_disk_io(); }
    return disk_io_;
  }

  [[nodiscard]] PinnedStats pinned_stats() const override { return registry_->pinned_stats(); }

 private:
  NodeOfDevice node_of_device_;
  std::shared_ptr<Registry> registry_ = std::make_shared<Registry>();
  std::mutex disk_io_mutex_;
  std::shared_ptr<DiskIo> disk_io_;
};

}  // namespace

std::shared_ptr<MemorySource> make_host_memory_source(NodeOfDevice node_of_device) {
  return std::make_shared<HostMemory>(std::move(node_of_device));
}

}  // namespace kvbm::memory
