// SPDX-License-Identifier: Apache-2.0
#include "object/object_batch.hpp"

namespace kvbm::object {

namespace {

class CurlBatch final : public ObjectBatch {
 public:
  explicit CurlBatch(S3Client& client) : batch_(client) {}

  void put(std::string key, std::vector<std::span<std::byte const>> pieces, S3Metadata metadata,
           std::string const&) override {
    batch_.put(std::move(key), std::move(pieces), std::move(metadata));
  }
  void get(std::string key, std::uint64_t offset, std::vector<S3Piece> pieces,
           std::uint64_t object_bytes) override {
    batch_.get(std::move(key), offset, std::move(pieces), object_bytes);
  }
  [[nodiscard]] std::size_t size() const noexcept override { return batch_.size(); }
  S3Outcome const& wait_for(std::size_t index) override { return batch_.wait_for(index); }
  std::vector<S3Outcome> wait() override { return batch_.wait(); }
  bool read_again(std::size_t) override { return false; }

 private:
  S3Batch batch_;
};

}  // namespace

std::unique_ptr<ObjectBatch> make_curl_batch(S3Client& client) {
  return std::make_unique<CurlBatch>(client);
}

}  // namespace kvbm::object
