// SPDX-License-Identifier: Apache-2.0
#pragma once

#include <cstddef>
#include <cstdint>
#include <filesystem>
#include <functional>
#include <memory>
#include <optional>
#include <span>
#include <string>
#include <string_view>
#include <vector>

#include "kvbm/memory/block_store.hpp"
#include "kvbm/object/object_keys.hpp"
#include "kvbm/object/s3_client.hpp"

namespace kvbm::object {

/// Who moves the bodies of objects. Lists, the manifest, and merges where a write covers a part of
/// the blocks of an object go over libcurl with all of them. Objects are the same: what one way
/// wrote, the others read.
enum class ObjectTransport {
  /// libcurl: a request an object, retries, all errors told apart.
  Curl,
  /// NIXL's OBJ plugin, which neither sets nor reads metadata: a write goes to a temporary object,
  /// which the server then copies to its key with the metadata; a read has a HEAD beside it. What
  /// NIXL fails at is asked of libcurl, which succeeds or says why.
  ///
  /// NIXL has no deadline and cannot be stopped. A request that is not done at S3Options::deadline
  /// is given up and goes on in memory of the store's own, through which all bytes pass, until it
  /// ends by itself (some seconds; so long a process may take to end). Temporary objects that could
  /// not be removed in time go when a store of this transport opens an hour later.
  ///
  /// stall_timeout and max_retries do not count for NIXL, and S3Stats does not count what it does.
  /// While it starts, AWS_RETRY_MODE and AWS_MAX_ATTEMPTS are set in the environment unless they
  /// are there: not safe beside threads that read the environment.
  Nixl,
  /// Curl where NIXL's plugin does not load; nothing is started then. Where it does: whichever
  /// moves some temporary objects of this store's size faster when it is opened. Not the default:
  /// opening a store would load libraries, start threads and write to the bucket, for a way that
  /// needs three more requests a block.
  Auto,
};

/// "Curl", "Nixl" or "Auto".
std::string_view to_string(ObjectTransport transport) noexcept;

/// What an ObjectBlockStore is opened with.
struct ObjectStoreOptions {
  S3Options s3;
  ObjectKeyScheme scheme;
  /// 1..32 consecutive blocks that share an object; 0: as many as the store has already, and in a
  /// new one default_blocks_per_object().
  std::uint32_t blocks_per_object = 0;
  bool read_only = false;
  ObjectTransport transport = ObjectTransport::Curl;
  /// libnixl_capi.so; empty: looked for, see nixl/nixl_library.hpp.
  std::filesystem::path nixl_library;
};

/// Most blocks that can share an object: their checksums have to fit into its metadata.
inline constexpr std::uint32_t kMaxBlocksPerObject = 32;

/// What blocks_per_object == 0 comes to in a new store: blocks of 64 KiB and less share objects of
/// 256 KiB, at most 32 of them; larger ones, as those of today's models, have their own.
///
/// Measured by `kvbm bench object`, 32 connections, microseconds a block, against a server that
/// costs nearly nothing (and against moto, which costs 2.3 ms a request):
///
///     block    an object  all written  all read   one written        moto: all written, read
///      4 KiB     1 / 32     60 /   8   50 /   5     63 /    451
///     16 KiB     1 / 16     81 /  20   58 /  12     80 /    560      2610 / 216, 2330 / 157
///     64 KiB     1 /  4    132 / 168   65 /  40    111 /   1050      2720 / 831, 2230 / 612
///    256 KiB     1 /  4    617 / 523  153 / 160    311 /   4540
///      1 MiB     1 /  4   2730 / 2700 616 / 674   2420 /  20000
///
/// Reading one block costs the same in any object. A request costs 50 us of our own and about a
/// millisecond of most servers; 256 KiB cost as much to move, so larger objects gain nothing. The
/// price is paid by single blocks that are written into a shared object, which is read, merged and
/// written as a whole: who does that much gives 1.
[[nodiscard]] std::uint32_t default_blocks_per_object(std::uint64_t extent_bytes) noexcept;

/// Blocks as objects of an S3 bucket. One group of extents; extent = block.
///
/// A block lies under its index unless bind() gave it a content key. The metadata of an object
/// holds the format version, the size of a block and the XXH3-128 of each; every read is verified.
/// A PUT shows in whole or not at all, so a block is the old one, the new one, or missing.
///
/// With blocks_per_object > 1 a start_write that covers an object is one PUT; one that covers a
/// part reads, merges and writes it in finish(), and such writers exclude each other within this
/// process, not across processes. Reads of blocks of one object are one GET. Bound blocks always
/// have objects of their own, and so have the last ones where they do not fill an object.
///
/// Errors  of blocks: Error(NotFound) never written; CorruptError; the errors of S3Client. All
///         name the store, the block and the object's key.
class ObjectBlockStore : public memory::BlockStore,
                         public std::enable_shared_from_this<ObjectBlockStore> {
 public:
  /// Asks the endpoint for the store's manifest first, so that an endpoint that is down, a missing
  /// bucket and wrong credentials fail here, at once and without retries; writes the manifest
  /// where there is none. `geometry.file_offset` and `extent_stride` mean nothing here.
  ///
  /// @param metadata  kept in the manifest by who writes it first (the layout's descriptor)
  /// @throws Error(InvalidArgument) bad options, or the manifest names another size of blocks or
  ///         another blocks_per_object than was asked for; Error(VersionMismatch) a newer manifest;
  ///         CorruptError a damaged one; UnsupportedError transport Nixl where its plugin does not
  ///         load or start; what S3Client throws
  static std::shared_ptr<ObjectBlockStore> open(ObjectStoreOptions const& options,
                                                memory::ExtentGroup geometry, std::string metadata);
  /// The same over a client that several stores share: blocks of all of them that have the same
  /// transport can be in one queue.
  static std::shared_ptr<ObjectBlockStore> open(std::shared_ptr<S3Client> client,
                                                ObjectStoreOptions const& options,
                                                memory::ExtentGroup geometry, std::string metadata);
  ~ObjectBlockStore() override;

  // --- memory::BlockStore; sync() has nothing to do: S3 answers a PUT once it is durable.
  [[nodiscard]] memory::StorageKind kind() const noexcept override;
  [[nodiscard]] std::string name() const override;
  [[nodiscard]] std::vector<memory::ExtentGroup> const& groups() const noexcept override;
  [[nodiscard]] bool is_writable() const noexcept override;
  /// Always nullopt for an extent that exists: the store would have to ask.
  [[nodiscard]] std::optional<Checksum> checksum(std::uint32_t group,
                                                 std::uint64_t extent) const override;
  void invalidate(std::uint32_t group, std::uint64_t extent) override;
  void sync() override;
  [[nodiscard]] std::unique_ptr<memory::ExtentQueue> make_queue() override;
  [[nodiscard]] void const* family() const noexcept override;

  // --- what a block is called
  /// From now on `block` is the object of `content_key`. Started transfers keep the former name.
  /// @throws Error(OutOfRange); Error(InvalidArgument) a bad key
  void bind(std::uint64_t block, std::string_view content_key);
  /// Back to the index. @throws Error(OutOfRange)
  void unbind(std::uint64_t block);
  /// The content key; nullopt: the block goes by its index. @throws Error(OutOfRange)
  [[nodiscard]] std::optional<std::string> key_of(std::uint64_t block) const;
  /// The key of the object in which the block lies. @throws Error(OutOfRange)
  [[nodiscard]] std::string object_key_of(std::uint64_t block) const;

  // --- by content key; bytes are exactly one block
  [[nodiscard]] bool exists(std::string_view content_key);
  /// For many keys at once, as many requests in flight as there are connections.
  [[nodiscard]] std::vector<bool> exist(std::span<std::string const> content_keys);
  /// @throws Error(InvalidArgument) wrong size, or not writable
  void put(std::string_view content_key, std::span<std::byte const> bytes);
  /// @throws Error(NotFound), CorruptError (the bytes are zeroed then)
  void get(std::string_view content_key, std::span<std::byte> bytes);
  /// A key that is not there is no error.
  void remove(std::string_view content_key);
  /// Calls `each` for every content key in ascending order of object keys; false ends the list.
  void list(std::function<bool(std::string const& content_key, std::uint64_t bytes)> const& each);

  [[nodiscard]] std::uint32_t blocks_per_object() const noexcept;
  [[nodiscard]] ObjectKeyScheme const& scheme() const noexcept;
  /// The manifest's metadata: that of whoever made the store.
  [[nodiscard]] std::string const& metadata() const noexcept override;
  [[nodiscard]] std::shared_ptr<S3Client> const& client() const noexcept;
  /// Curl or Nixl.
  [[nodiscard]] ObjectTransport transport() const noexcept;
  /// Which way objects are moved, and why it was taken: with Auto, what was measured.
  [[nodiscard]] std::string const& backend_reason() const noexcept;

  class Impl;

 private:
  friend class ObjectQueue;
  explicit ObjectBlockStore(std::unique_ptr<Impl> impl);
  std::unique_ptr<Impl> impl_;
};

}  // namespace kvbm::object
