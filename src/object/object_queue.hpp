// SPDX-License-Identifier: Apache-2.0
#pragma once

#include <cstddef>
#include <cstdint>
#include <memory>
#include <vector>

#include "object/object_merge.hpp"
#include "object/object_store_impl.hpp"

namespace kvbm::object {

/// Extents under way between object stores of one family and memory.
class ObjectQueue final : public memory::ExtentQueue {
 public:
  /// @param store  one of the family
  explicit ObjectQueue(ObjectBlockStore::Impl const& store);

  void start_write(std::shared_ptr<memory::BlockStore> const& store,
                   std::span<memory::ExtentIo const> extents) override;
  void start_read(std::shared_ptr<memory::BlockStore> const& store,
                  std::span<memory::ExtentIo const> extents) override;
  std::vector<std::exception_ptr> finish() override;
  void register_buffer(std::span<std::byte> buffer) override;
  [[nodiscard]] std::size_t num_started() const noexcept override;

 private:
  struct Entry {
    ObjectBlockStore::Impl* store = nullptr;
    bool is_read = false;
    memory::ExtentIo io;
    Place place;
    Checksum checksum;  // of what is written
    std::exception_ptr error;
  };
  /// A request of the batch and the entries that it serves.
  struct Pending {
    std::size_t request = 0;
    std::vector<std::size_t> entries;
  };

  std::size_t append(bool is_read, std::shared_ptr<memory::BlockStore> const& store,
                     std::span<memory::ExtentIo const> extents);
  [[nodiscard]] std::vector<std::vector<std::size_t>> group_by_object(std::size_t first) const;
  void put(std::vector<std::size_t> const& entries);
  void get(std::vector<std::size_t> const& entries);
  void finish_merges();
  void finish(S3Outcome const& outcome, std::vector<std::size_t> const& entries);
  void finish_read(S3Outcome const& outcome, std::vector<std::size_t> const& entries);
  [[nodiscard]] bool is_any_corrupt(std::vector<std::size_t> const& entries) const;
  void fail(std::vector<std::size_t> const& entries, std::exception_ptr const& error);

  std::shared_ptr<S3Client> client_;
  void const* family_;
  std::vector<std::shared_ptr<ObjectBlockStore>> stores_;  // that entries point to
  std::vector<Entry> entries_;
  std::vector<Pending> pending_;
  std::vector<std::vector<std::size_t>> merges_;  // writes of parts of objects
  std::unique_ptr<ObjectBatch> batch_;  // last: waits before what its requests point to goes
};

}  // namespace kvbm::object
