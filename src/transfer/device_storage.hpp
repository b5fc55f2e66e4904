// SPDX-License-Identifier: Apache-2.0
#pragma once

#include <map>
#include <memory>
#include <mutex>
#include <span>
#include <vector>

#include "kvbm/device/direct_storage.hpp"
#include "kvbm/memory/block_file.hpp"
#include "kvbm/memory/disk_io.hpp"
#include "kvbm/transfer/context.hpp"

namespace kvbm::transfer {

/// GPUDirect Storage for the memory of one device: what a block file's queue needs to move extents
/// between the file and that memory, and to verify them there.
///
/// Threads  methods may be called concurrently.
class DeviceStorage {
 public:
  /// @pre storage is not Refused
  DeviceStorage(TransferContext::Impl& context,
                std::shared_ptr<device::DirectStorage> const& storage, device::DevicePtr device);
  ~DeviceStorage();
  DeviceStorage(DeviceStorage const&) = delete;
  DeviceStorage& operator=(DeviceStorage const&) = delete;

  /// Makes a file known to cuFile for as long as the result lives, which the file must outlive.
  /// @throws as DirectStorage::register_file
  [[nodiscard]] std::shared_ptr<void const> open(memory::BlockFile const& file);

  /// A queue between open files and this device's memory.
  [[nodiscard]] std::unique_ptr<memory::ExtentQueue> make_queue() const;

 private:
  class Files;
  class Memory;
  std::shared_ptr<Files> files_;
  std::shared_ptr<Memory> memory_;
  std::shared_ptr<memory::DiskIo> io_;
};

}  // namespace kvbm::transfer
