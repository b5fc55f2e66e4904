// SPDX-License-Identifier: Apache-2.0
#include "transfer/device_storage.hpp"

#include <algorithm>
#include <cerrno>
#include <cstddef>
#include <cstdint>
#include <cstring>
#include <exception>
#include <limits>
#include <numeric>
#include <optional>
#include <string>
#include <utility>

#include "kvbm/core/error.hpp"
#include "transfer/context_impl.hpp"
#include "transfer/stream_copies.hpp"

namespace kvbm::transfer {

/// The files that are open for cuFile, by their descriptors.
class DeviceStorage::Files {
 public:
  Files(std::shared_ptr<device::DirectStorage> storage, device::Backend backend, DeviceId device)
      : storage_(std::move(storage)), backend_(backend), device_(device) {}

  std::shared_ptr<device::StorageFile> open(memory::BlockFile const& file) {
    std::lock_guard const lock(mutex_);
    auto& known = files_[file.direct_fd()];
    auto shared = known.lock();
    if (shared == nullptr) {
      shared = storage_->register_file(file.direct_fd(), file.name());
      known = shared;
    }
    return shared;
  }

  /// @return 0, an errno, or cuFile's number
  int move(memory::DiskRequest const& request) {
    try {
      auto const file = find(request.fd);
      if (file == nullptr) { return EBADF; }
      CurrentDevice const current(backend_, device_);
      if (request.op == memory::DiskRequest::Op::Read) {
        file->read(request.offset, request.memory, request.bytes);
      } else {
        file->write(request.offset, request.memory, request.bytes);
      }
      return 0;
    } catch (Error const& error) {
      return error.native_code() != 0 ? error.native_code() : EIO;
    } catch (std::exception const&) { return EIO; }
  }

 private:
  std::shared_ptr<device::StorageFile> find(int fd) {
    std::lock_guard const lock(mutex_);
    auto const found = files_.find(fd);
    return found != files_.end() ? found->second.lock() : nullptr;
  }

  std::shared_ptr<device::DirectStorage> const storage_;
  device::Backend const backend_;
  DeviceId const device_;
  std::mutex mutex_;
  std::map<int, std::weak_ptr<device::StorageFile>> files_;
};

/// The device's memory, hashed and zeroed where it is.
class DeviceStorage::Memory final : public memory::FarMemory {
 public:
  Memory(TransferContext::Impl& context, device::DevicePtr device)
      : context_(context), device_(std::move(device)) {}

  std::vector<Checksum> checksums(std::span<std::span<std::byte const> const> ranges) override {
    std::vector<Checksum> results(ranges.size());
    if (device_->is_host_accessible()) {
      context_.copy_engine_.parallel_for(ranges.size(), 1, [&](std::size_t i) {
        results[i] = checksum_bytes(ranges[i].data(), ranges[i].size());
      });
      return results;
    }
    // The kernel takes ranges of one length at a time; a file's extents have few.
    std::vector<std::size_t> left(ranges.size());
    std::iota(left.begin(), left.end(), std::size_t{0});
    while (!left.empty()) {
      std::size_t const bytes = ranges[left.front()].size();
      auto const others = std::partition(left.begin(), left.end(),
                                         [&](std::size_t i) { return ranges[i].size() == bytes; });
      hash_equal(ranges, {left.begin(), others}, results);
      left.erase(left.begin(), others);
    }
    return results;
  }

  void zero(std::span<std::byte> range) override {
    if (device_->is_host_accessible()) {
      std::memset(range.data(), 0, range.size());
      return;
    }
    auto const zeros = context_.options_.memory_source->allocate(
        {memory::StorageKind::Pinned, range.size(), memory::kRegionAlignment, -1});
    kvbm_copy_template shape{};
    shape.run_bytes = range.size();
    std::uintptr_t const from = zeros.address();
    auto const to = reinterpret_cast<std::uintptr_t>(range.data());
    std::uint32_t const block = 0;
    CurrentDevice const current(device_->backend(), device_->id());
    auto const stream = context_.acquire_inner_stream(device_->id(), LinkDirection::HostToDevice);
    enqueue_dma(*stream, shape, {1, &from, &to, 0, 0, 1, &block, &block});
    stream->synchronize();
  }

 private:
  /// Ranges of one length as blocks of one segment: the first one's address and multiples of what
  /// all distances from it have in common.
  void hash_equal(std::span<std::span<std::byte const> const> ranges,
                  std::vector<std::size_t> const& members, std::vector<Checksum>& results) {
    auto const address = [&](std::size_t i) {
      return reinterpret_cast<std::uintptr_t>(ranges[i].data());
    };
    std::uintptr_t base = std::numeric_limits<std::uintptr_t>::max();
    for (std::size_t const i : members) {
      base = std::min(base, address(i));
    }
    std::uint64_t stride = 0;
    for (std::size_t const i : members) {
      stride = std::gcd(stride, address(i) - base);
    }
    stride = std::max<std::uint64_t>(stride, memory::kFileAlignment);  // of a single range
    std::vector<std::uint32_t> blocks;
    blocks.reserve(members.size());
    for (std::size_t const i : members) {
      std::uint64_t const block = (address(i) - base) / stride;
      KVBM_EXPECTS(block <= std::numeric_limits<std::uint32_t>::max(), Unsupported,
                   "extents lie too far apart in device memory to be hashed together");
      blocks.push_back(static_cast<std::uint32_t>(block));
    }
    kvbm_copy_template shape{};
    shape.run_bytes = ranges[members.front()].size();
    kvbm_hash_units const units{1, &base, stride, 1, blocks.size(), blocks.data()};
    auto const halves = run_kernel(shape, units);
    for (std::size_t i = 0; i < members.size(); ++i) {
      results[members[i]] = {halves[2 * i], halves[2 * i + 1]};
    }
  }

  std::vector<std::uint64_t> run_kernel(kvbm_copy_template const& shape,
                                        kvbm_hash_units const& units) {
    constexpr std::uint64_t kScratchBytes = std::uint64_t{32} << 20U;
    std::uint64_t const per_block = kvbm_cuda_xxh3_128_scratch_bytes(&shape, &units);
    std::size_t const num_halves = 2 * units.num_blocks;
    std::lock_guard const lock(mutex_);
    if (!results_ || results_->bytes() < num_halves * sizeof(std::uint64_t)) {
      results_.reset();
      results_ = context_.options_.memory_source->allocate(
          {memory::StorageKind::Pinned, std::max<std::uint64_t>(num_halves * 8, 1U << 16U),
           memory::kRegionAlignment, -1});
    }
    CurrentDevice const current(device_->backend(), device_->id());
    auto const stream = context_.acquire_inner_stream(device_->id(), LinkDirection::DeviceToHost);
    auto const scratch =
        context_.memory_pool(device_->id())
            .allocate(std::max({per_block, std::min(per_block * units.num_blocks, kScratchBytes),
                                memory::kRegionAlignment}),
                      stream);
    auto* const halves = reinterpret_cast<std::uint64_t*>(results_->address());
    check_status(kvbm_cuda_xxh3_128(&shape, &units, reinterpret_cast<void*>(scratch.address()),
                                    scratch.bytes(), halves, stream->native_handle()),
                 "hashing extents on the device");
    stream->synchronize();
    return {halves, halves + num_halves};
  }

  TransferContext::Impl& context_;
  device::DevicePtr const device_;
  std::mutex mutex_;
  std::optional<memory::Region> results_;  ///< where the kernel writes
};

DeviceStorage::DeviceStorage(TransferContext::Impl& context,
                             std::shared_ptr<device::DirectStorage> const& storage,
                             device::DevicePtr device)
    : files_(std::make_shared<Files>(storage, device->backend(), device->id())),
      memory_(std::make_shared<Memory>(context, std::move(device))) {
  memory::DiskIoOptions options;
  options.engine = memory::DiskEngine::Threads;
  options.num_threads = 16;  // each call waits for its bytes: as many are under way at a time
  io_ = memory::make_disk_io(
      options,
      {[files = files_](memory::DiskRequest const& request) { return files->move(request); },
       device::DirectStorage::describe},
      storage->info().reason);
}

DeviceStorage::~DeviceStorage() = default;

std::shared_ptr<void const> DeviceStorage::open(memory::BlockFile const& file) {
  return files_->open(file);
}

std::unique_ptr<memory::ExtentQueue> DeviceStorage::make_queue() const {
  return std::make_unique<memory::BlockFile::Queue>(io_, memory_);
}

}  // namespace kvbm::transfer
