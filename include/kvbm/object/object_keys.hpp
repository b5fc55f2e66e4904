// SPDX-License-Identifier: Apache-2.0
#pragma once

#include <cstdint>
#include <optional>
#include <string>
#include <string_view>

namespace kvbm::object {

/// Turns blocks into keys of objects, so that blocks of another model, format, tensor-parallel
/// layout or format version never meet:
///
///     PREFIX/kvbm-v1/MODEL/FORMAT/tp4-r2/i1/0000000071      a block by its index
///     PREFIX/kvbm-v1/MODEL/FORMAT/tp4-r2/i8/0000000064      eight blocks from index 64 on
///     PREFIX/kvbm-v1/MODEL/FORMAT/tp4-r2/b/CONTENT-KEY      a block by its content key
///     PREFIX/kvbm-v1/MODEL/FORMAT/tp4-r2/manifest           what all of them have in common
///     PREFIX/kvbm-v1/MODEL/FORMAT/tp4-r2/tmp/...            objects on their way to their own key
///
/// In MODEL, FORMAT and CONTENT-KEY letters, digits, '-', '_' and '.' stand for themselves (a '.'
/// at the front does not); every other byte becomes '~' and two hexadecimal digits. A value.
struct ObjectKeyScheme {
  /// Of the keys, the metadata and the manifest.
  static constexpr std::uint32_t kFormatVersion = 1;
  /// S3's limit for a key.
  static constexpr std::size_t kMaxKeyBytes = 1024;

  std::string model;   ///< fingerprint of the model and its configuration; not empty
  std::string format;  ///< name of the layout's format ("OperationalNHD"); not empty
  std::uint32_t tp_size = 1;
  std::uint32_t tp_rank = 0;  ///< < tp_size
  /// In front of everything: folders with '/' between them, none at the ends; may be empty.
  std::string prefix;

  /// @throws Error(InvalidArgument) naming the field
  void check() const;
  /// "PREFIX/kvbm-v1/MODEL/FORMAT/tp4-r2/". @throws as check()
  [[nodiscard]] std::string root() const;
  [[nodiscard]] std::string manifest_key() const;
  /// What all keys of temporary objects start with.
  [[nodiscard]] std::string temporary_prefix() const;
  /// The object of the blocks [first_block, first_block + blocks_per_object).
  [[nodiscard]] std::string index_key(std::uint64_t first_block,
                                      std::uint32_t blocks_per_object) const;
  /// @throws Error(InvalidArgument) an empty content key, or the object's key would be too long
  [[nodiscard]] std::string content_key(std::string_view key) const;
  /// What all content keys start with.
  [[nodiscard]] std::string content_prefix() const;
  /// The content key in an object's key; nullopt: it is none of this scheme's.
  [[nodiscard]] std::optional<std::string> parse_content_key(std::string_view object_key) const;

  friend bool operator==(ObjectKeyScheme const&, ObjectKeyScheme const&) = default;
};

}  // namespace kvbm::object
