// SPDX-License-Identifier: Apache-2.0
#pragma once

#include <cstddef>
#include <cstdint>
#include <memory>
#include <span>
#include <string>
#include <vector>

#include "kvbm/object/s3_client.hpp"

namespace kvbm::object {

/// Objects of blocks on their way: what stores need of an S3Batch, whoever moves the bytes. Used by
/// one thread at a time; the destructor waits.
class ObjectBatch {
 public:
  ObjectBatch() = default;
  virtual ~ObjectBatch() = default;
  ObjectBatch(ObjectBatch const&) = delete;
  ObjectBatch& operator=(ObjectBatch const&) = delete;

  /// As S3Batch::put. Ways that cannot put an object with its metadata at once put it below
  /// `temporary_prefix` first.
  virtual void put(std::string key, std::vector<std::span<std::byte const>> pieces,
                   S3Metadata metadata, std::string const& temporary_prefix) = 0;
  /// As S3Batch::get.
  virtual void get(std::string key, std::uint64_t offset, std::vector<S3Piece> pieces,
                   std::uint64_t object_bytes) = 0;

  /// As those of S3Batch.
  [[nodiscard]] virtual std::size_t size() const noexcept = 0;
  virtual S3Outcome const& wait_for(std::size_t index) = 0;
  virtual std::vector<S3Outcome> wait() = 0;

  /// For a read that has ended and does not fit its metadata: ways that get the bytes and that from
  /// different answers may have had an object between them that was replaced. Starts the read again
  /// in one answer, once; wait_for() then has the new outcome.
  /// @return whether it did; false: the bytes and the metadata are of one answer already
  virtual bool read_again(std::size_t index) = 0;
};

/// Over libcurl: an S3Batch.
std::unique_ptr<ObjectBatch> make_curl_batch(S3Client& client);

}  // namespace kvbm::object
