// SPDX-License-Identifier: Apache-2.0
#include <fmt/format.h>
#include <sys/mman.h>

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
#include "kvbm/memory/shared_memory.hpp"
#include "memory/mapping.hpp"
#include "memory/shared_file.hpp"

namespace kvbm::memory {
namespace {

// From here on a mapping of its own: cheaper to zero, given back to the system at once.
constexpr std::uint64_t kMapBytes = std::uint64_t{1} << 20;

[[noreturn]] void throw_out_of_memory(AllocationRequest const& request, int error) {
  throw_error(ErrorCode::OutOfMemory,
              fmt::format("{} bytes of {} memory (device {}): {}", request.bytes,
                          to_string(request.kind), request.device_id, describe_errno(error)),
              error);
}

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
    std::optional<SharedMemoryName> shared_name = {};
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
    auto const found = look_up(at);
    if (found == entries_.end()) { return std::nullopt; }
    auto const& [begin, entry] = *found;
    return PointerInfo{entry.kind, entry.device_id, entry.bytes - (at - begin)};
  }

  [[nodiscard]] std::optional<SharedMemoryName> share(std::uintptr_t at,
                                                      std::uint64_t bytes) const {
    std::lock_guard const lock(mutex_);
    auto const found = look_up(at);
    if (found == entries_.end()) { return std::nullopt; }
    auto const& [begin, entry] = *found;
    if (bytes > entry.bytes - (at - begin)) { return std::nullopt; }
    auto name = entry.shared_name;
    if (name) { name->offset += at - begin; }
    return name;
  }

  [[nodiscard]] PinnedStats pinned_stats() const {
    std::lock_guard const lock(mutex_);
    PinnedStats stats;
    for (auto const& [address, entry] : entries_) {
      if (entry.mapped_bytes == 0) { continue; }  // not Pinned, or mapped from another process
      ++stats.regions;
      stats.bytes += entry.mapped_bytes;
      stats.locked_bytes += entry.locked_bytes;
    }
    return stats;
  }

 private:
  using Entries = std::map<std::uintptr_t, Entry>;
  [[nodiscard]] Entries::const_iterator look_up(std::uintptr_t at) const {
    auto const next = entries_.upper_bound(at);
    if (next == entries_.begin()) { return entries_.end(); }
    auto const found = std::prev(next);
    return at - found->first < found->second.bytes ? found : entries_.end();
  }

  mutable std::mutex mutex_;
  Entries entries_;
};

// One allocation: registered while it lives, deregistered before its memory goes.
class Allocation {
 public:
  Allocation(std::shared_ptr<Registry> registry, AllocationRequest const& request, int node,
             bool shareable)
      : registry_(std::move(registry)) {
    Registry::Entry entry{request.bytes, request.kind, -1, 0, 0, {}};
    std::uint64_t const alignment = std::max(request.alignment, kRegionAlignment);
    std::uint64_t const least_mapped = shareable ? page_bytes() : kMapBytes;
    if (request.kind == StorageKind::System && request.bytes < least_mapped) {
      allocate_on_heap(request, alignment);
    } else {
      map(request, alignment, shareable);
    }
    if (request.kind == StorageKind::Pinned) {
      entry.device_id = request.device_id;
      pin(node, entry);
    }
    if (file_) { entry.shared_name = name_shared_file(file_, mapping_.bytes()); }
    shared_name_ = entry.shared_name;
    registry_->add(data_, entry);
  }
  ~Allocation() { registry_->remove(data_); }
  Allocation(Allocation const&) = delete;
  Allocation& operator=(Allocation const&) = delete;

  [[nodiscard]] void* data() const { return data_; }
  [[nodiscard]] std::optional<SharedMemoryName> const& shared_name() const { return shared_name_; }

 private:
  void map(AllocationRequest const& request, std::uint64_t alignment, bool shareable) {
    if (request.bytes >= kHugePageBytes) { alignment = std::max(alignment, kHugePageBytes); }
    std::uint64_t const bytes = checked_align_up(request.bytes, page_bytes());
    int error = 0;
    // First private memory, also where a file takes its place: of more than the machine has, the
    // kernel gives none.
    mapping_ = Mapping::try_make(bytes, alignment, 0, error);
    if (error == 0 && shareable) {
      file_ = try_make_shared_file(bytes, error);
      if (error == 0) { error = mapping_.replace(file_, 0); }
    }
    if (error != 0) { throw_out_of_memory(request, error); }
    mapping_.advise_huge_pages();
    data_ = mapping_.data();
  }

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
    if (node >= 0 && !prefer_numa_node(mapping_.data(), mapping_.bytes(), node)) {
      log::write(log::Level::Info,
                 fmt::format("{} bytes of pinned memory could not be placed on NUMA node {}",
                             mapping_.bytes(), node));
    }
    entry.mapped_bytes = mapping_.bytes();
    entry.locked_bytes = lock_prefix(mapping_.data(), mapping_.bytes());
    if (entry.locked_bytes < entry.mapped_bytes) {
      log::write(log::Level::Info,
                 fmt::format("only {} of {} bytes of pinned memory are locked: raise "
                             "RLIMIT_MEMLOCK (ulimit -l) to lock them all",
                             entry.locked_bytes, entry.mapped_bytes));
    }
  }

  std::shared_ptr<Registry> registry_;
  FileHandle file_;  // open while the memory lives: by its number others find it
  Mapping mapping_;
  std::optional<SharedMemoryName> shared_name_;
  HeapMemory heap_;
  void* data_ = nullptr;
};

// Memory of another process: registered like our own while it is mapped.
class Mapped {
 public:
  Mapped(std::shared_ptr<Registry> registry, Region region)
      : registry_(std::move(registry)), region_(std::move(region)) {
    registry_->add(region_.host_data(), {region_.bytes(), region_.kind(), -1, 0, 0, {}});
  }
  ~Mapped() { registry_->remove(region_.host_data()); }
  Mapped(Mapped const&) = delete;
  Mapped& operator=(Mapped const&) = delete;

 private:
  std::shared_ptr<Registry> registry_;
  Region region_;
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
  explicit HostMemory(HostMemoryOptions options)
      : node_of_device_(options.node_of_device ? std::move(options.node_of_device)
                                               : nodes_from_sysfs()),
        shareable_(options.shareable) {}

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
    auto allocation = std::make_shared<Allocation>(registry_, request, node, shareable_);
    void* const data = allocation->data();
    auto const shared_name = allocation->shared_name();
    auto region = Region::of_memory(request.kind, data, request.bytes,
                                    pinned ? request.device_id : -1, true, std::move(allocation));
    return shared_name ? region.with_shared_name(*shared_name) : region;
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

  [[nodiscard]] std::optional<SharedMemoryName> share(Region const& region) const override {
    auto name = region.shared_name();
    return name || !is_memory(region.kind()) ? name
                                             : registry_->share(region.address(), region.bytes());
  }

  [[nodiscard]] Region open_shared(ProcessName const& owner, SharedMemoryName const& name,
                                   std::uint64_t bytes, StorageKind kind) override {
    KVBM_EXPECTS(kind != StorageKind::Device, NotFound,
                 "this source has host memory only, no device whose memory could be mapped");
    auto region = map_shared(owner, name, bytes, kind, -1);
    auto* const data = region.host_data();
    return Region::of_memory(kind, data, bytes, -1, true,
                             std::make_shared<Mapped>(registry_, std::move(region)));
  }

 private:
  NodeOfDevice node_of_device_;
  bool shareable_;
  std::shared_ptr<Registry> registry_ = std::make_shared<Registry>();
  std::mutex disk_io_mutex_;
  std::shared_ptr<DiskIo> disk_io_;
};

}  // namespace

Region MemorySource::open_shared(ProcessName const& owner, SharedMemoryName const& /*name*/,
                                 std::uint64_t bytes, StorageKind kind) {
  throw UnsupportedError(fmt::format(
      "{} bytes of {} memory of process {}: this memory source maps no memory of others", bytes,
      to_string(kind), owner.pid));
}

std::shared_ptr<MemorySource> make_host_memory_source(NodeOfDevice node_of_device) {
  return make_host_memory_source(HostMemoryOptions{std::move(node_of_device)});
}

std::shared_ptr<MemorySource> make_host_memory_source(HostMemoryOptions options) {
  return std::make_shared<HostMemory>(std::move(options));
}

}  // namespace kvbm::memory
