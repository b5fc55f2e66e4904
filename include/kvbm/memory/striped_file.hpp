// SPDX-License-Identifier: Apache-2.0
#pragma once

#include <cstdint>
#include <filesystem>
#include <memory>
#include <optional>
#include <span>
#include <string>
#include <vector>

#include "kvbm/memory/block_file.hpp"

namespace kvbm::memory {

/// What a new StripedFile is made from.
struct StripedFileSpec {
  std::vector<std::filesystem::path>
      paths;                        ///< the data files, one a device; 2 to 256, none exists
  std::vector<ExtentGroup> groups;  ///< as of a BlockFile that holds all of it
  std::string metadata;             ///< opaque bytes kept with the set
};

/// Several BlockFiles that together hold what one would, so that several devices work at a time:
/// extent e of every group lies in file e % N.
///
/// Files  each part is a complete BlockFile that knows its set and its place in it;
/// PATHS[0].stripes
///        names the parts (JSON with a checksum, as a manifest) and appears last: where it is, the
///        set is complete.
/// Queues those of BlockFile with the same I/O engine move extents of both.
/// Durability, Threads  as BlockFile.
class StripedFile final : public BlockStore {
 public:
  /// Creates and preallocates all parts. On failure nothing is left behind, and what a killed
  /// process left of its creation is cleared away by the next one at paths[0].
  /// @throws as BlockFile::create; Error(InvalidArgument) fewer than two paths, too many, two equal
  static std::shared_ptr<StripedFile> create(StripedFileSpec const& spec,
                                             std::shared_ptr<DiskIo> const& io);

  /// Opens the set whose first path is `first`; PATH.stripes says where its parts are.
  /// @throws Error(NotFound) no such set, or a part that is missing, naming it; CorruptError a part
  ///         of another set, at another place in it, or of another shape; as BlockFile::open
  static std::shared_ptr<StripedFile> open(std::filesystem::path const& first, OpenMode mode,
                                           std::shared_ptr<DiskIo> const& io);

  /// Opens a set whose parts have moved since it was made: all of them, in order. PATH.stripes lies
  /// beside the first. @throws as above; Error(InvalidArgument) another number than the set has
  static std::shared_ptr<StripedFile> open(std::vector<std::filesystem::path> const& paths,
                                           OpenMode mode, std::shared_ptr<DiskIo> const& io);

  ~StripedFile() override;

  /// In the order of the stripes.
  [[nodiscard]] std::vector<std::shared_ptr<BlockFile>> const& parts() const noexcept;

  /// Where extent `extent` of any group lies.
  struct Place {
    std::size_t part = 0;
    std::uint64_t extent = 0;
  };
  [[nodiscard]] Place place_of(std::uint64_t extent) const noexcept {
    return {static_cast<std::size_t>(extent % num_parts_), extent / num_parts_};
  }

  [[nodiscard]] StorageKind kind() const noexcept override { return StorageKind::Disk; }
  /// "PATH.stripes" of the first path.
  [[nodiscard]] std::string name() const override;
  [[nodiscard]] std::string const& metadata() const noexcept override;
  [[nodiscard]] std::vector<ExtentGroup> const& groups() const noexcept override;
  [[nodiscard]] bool is_writable() const noexcept override;
  [[nodiscard]] std::optional<Checksum> checksum(std::uint32_t group,
                                                 std::uint64_t extent) const override;
  [[nodiscard]] ExtentStatus status(std::uint32_t group, std::uint64_t extent) const override;
  /// Of all parts.
  [[nodiscard]] StoreSpace space() const override;
  void invalidate(std::uint32_t group, std::uint64_t extent) override;
  void sync() override;
  [[nodiscard]] std::unique_ptr<ExtentQueue> make_queue() override;
  /// The I/O engine.
  [[nodiscard]] void const* family() const noexcept override;

 private:
  class Impl;
  explicit StripedFile(std::unique_ptr<Impl> impl);
  /// @throws Error(OutOfRange)
  void check_extent(std::uint32_t group, std::uint64_t extent) const;
  std::unique_ptr<Impl> impl_;
  std::uint64_t num_parts_;
};

/// Opens what BlockFile::create or StripedFile::create left at `path`, the data file or the first
/// of several. @throws as the open() of both; Error(InvalidArgument) another part than the first of
/// a set
std::shared_ptr<BlockStore> open_block_store(std::filesystem::path const& path, OpenMode mode,
                                             std::shared_ptr<DiskIo> io);

}  // namespace kvbm::memory
