// SPDX-License-Identifier: Apache-2.0
#pragma once

#include "kvbm/core/types.hpp"
#include "remote/etcd_client.hpp"

#include <cstddef>
#include <cstdint>
#include <functional>
#include <optional>
#include <span>
#include <string>
#include <vector>

namespace kvbm::remote {

/// How metadata lies in etcd, which takes 1.5 MiB in one request. Below the prefix:
///   name/<name>                  the head: whose it is, and which upload is the valid one
///   data/<name>/<upload>/<n>     chunk n of an upload
/// A head is put when its chunks are there, and chunks are never changed, so that a reader finds
/// either a whole upload or, while one is replaced by the next, a chunk missing and a new head.
class EtcdStore {
 public:
  struct Head {
    std::uint64_t owner_id = 0;
    std::string owner;  ///< for people
    std::uint64_t upload = 0;
    std::uint64_t bytes = 0;
    Checksum checksum{};
    std::int64_t revision = 0;  ///< of its last change in etcd
  };
  struct TakeResult {
    bool is_taken = false;        ///< whether the name is ours now, with this head
    std::int64_t revision = 0;    ///< when it is
    std::optional<Head> there{};  ///< whose it is, when it is another's; none: nobody's any more
  };

  /// @param prefix  ends with '/'
  EtcdStore(EtcdClient& client, std::string prefix) : client_(client), prefix_(std::move(prefix)) {}

  /// Puts the chunks of a new upload.
  /// @param before_chunk  called before each of them; may be empty
  /// @return its head, for take()
  Head upload(std::string const& name, std::span<std::byte const> metadata, std::int64_t lease,
              std::function<void()> const& before_chunk = {});
  void remove_upload(std::string const& name, std::uint64_t upload);
  /// Puts the head when the one that is there was last changed at `revision`; 0: when none is.
  TakeResult take(std::string const& name, Head const& head, std::int64_t lease,
                  std::int64_t revision);
  /// Removes the head, if it was last changed at `revision`, and all chunks of the name.
  bool remove(std::string const& name, std::int64_t revision);

  /// @throws CorruptError; Error(VersionMismatch)
  std::optional<Head> find(std::string const& name);
  /// nullopt: nothing is published; or while it is replaced, look again
  /// @throws CorruptError; Error(VersionMismatch)
  std::optional<std::vector<std::byte>> download(std::string const& name);
  std::vector<std::string> names();

 private:
  [[nodiscard]] std::string head_key(std::string const& name) const;
  [[nodiscard]] std::string upload_prefix(std::string const& name, std::uint64_t upload) const;
  [[nodiscard]] std::string chunk_key(std::string const& name, std::uint64_t upload,
                                      std::size_t chunk) const;

  EtcdClient& client_;
  std::string const prefix_;
};

}  // namespace kvbm::remote
