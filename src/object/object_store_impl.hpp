// SPDX-License-Identifier: Apache-2.0
#pragma once

#include <array>
#include <cstdint>
#include <mutex>
#include <shared_mutex>
#include <string>
#include <unordered_map>
#include <vector>

#include "kvbm/object/object_store.hpp"
#include "object/block_record.hpp"
#include "object/nixl_objects.hpp"
#include "object/object_batch.hpp"

namespace kvbm::object {

/// Where a block lies.
struct Place {
  std::string object_key;
  std::uint64_t first_block = 0;  ///< of the object
  std::uint32_t num_blocks = 1;   ///< in the object
  std::uint32_t slot = 0;         ///< of the block in the object
};

/// Lock order: names_mutex_ is never held while another is taken; merge locks are taken in the
/// order of their addresses, by ObjectMerge only.
class ObjectBlockStore::Impl {
 public:
  Impl(std::shared_ptr<S3Client> client, ObjectStoreOptions const& options,
       memory::ExtentGroup geometry);

  /// Reads or writes the manifest, then settles the transport.
  void open(std::string metadata, ObjectStoreOptions const& options);

  void check_block(std::uint64_t block) const;
  void check_extent(std::uint32_t group, std::uint64_t extent) const;
  void check_writable() const;
  void check_size(std::string_view content_key, std::size_t bytes) const;
  [[nodiscard]] Place place_of(std::uint64_t block) const;
  /// "block 7 (group 0) of http://...".
  [[nodiscard]] std::string describe(std::uint64_t block) const;
  [[nodiscard]] S3Client::Impl& client_impl() const;
  [[nodiscard]] std::unique_ptr<ObjectBatch> make_batch() const;
  /// See BlockStore::family().
  [[nodiscard]] void const* family() const noexcept {
    return nixl_ != nullptr ? static_cast<void const*>(nixl_.get()) : client_.get();
  }
  [[nodiscard]] std::uint64_t extent_bytes() const noexcept { return groups_[0].extent_bytes; }
  [[nodiscard]] std::mutex& merge_lock(std::uint64_t first_block) noexcept {
    return merge_locks_[first_block / blocks_per_object_ % merge_locks_.size()];
  }
  [[nodiscard]] BlockRecord record_of(Checksum checksum) const {
    return {extent_bytes(), {checksum}};
  }

  std::shared_ptr<S3Client> client_;
  ObjectKeyScheme scheme_;
  bool is_read_only_;
  std::vector<memory::ExtentGroup> groups_;
  bool takes_any_sharing_;  // blocks_per_object was not given: what the manifest says holds
  std::uint32_t blocks_per_object_;
  std::string name_;
  std::string metadata_;
  std::shared_ptr<NixlObjects> nixl_;  // null: libcurl moves everything
  std::string backend_reason_;

  mutable std::shared_mutex names_mutex_;
  std::unordered_map<std::uint64_t, std::string> content_keys_;  // guarded by names_mutex_
  std::array<std::mutex, 64> merge_locks_;

 private:
  void open_manifest(std::string metadata);
};

}  // namespace kvbm::object
