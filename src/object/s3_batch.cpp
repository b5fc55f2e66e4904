// SPDX-License-Identifier: Apache-2.0
#include <condition_variable>
#include <deque>
#include <mutex>

#include "kvbm/core/checked.hpp"
#include "object/s3_client_impl.hpp"

namespace kvbm::object {

class S3Batch::Impl final : public RequestSink {
 public:
  explicit Impl(std::shared_ptr<S3Client::Impl> client) : client_(std::move(client)) {}

  void add(std::unique_ptr<Request> request) {
    {
      std::lock_guard const lock(mutex_);
      request->sink = this;
      request->index = slots_.size();
      slots_.emplace_back();
      ++num_pending_;
    }
    try {
      client_->submit(std::move(request));
    } catch (...) {
      // Nobody will hear of it: this thread is the only one that adds.
      std::lock_guard const lock(mutex_);
      slots_.pop_back();
      --num_pending_;
      throw;
    }
  }

  void done(std::size_t index, S3Outcome&& outcome, std::string&&) noexcept override {
    std::lock_guard const lock(mutex_);
    slots_[index].outcome = std::move(outcome);
    slots_[index].is_done = true;
    --num_pending_;
    if (num_pending_ == 0 || index == awaited_) { changed_.notify_all(); }
  }

  [[nodiscard]] std::size_t size() const noexcept {
    std::lock_guard const lock(mutex_);
    return slots_.size();
  }

  S3Outcome const& wait_for(std::size_t index) {
    std::unique_lock lock(mutex_);
    KVBM_EXPECTS(index < slots_.size(), OutOfRange, "a request that is not in the batch");
    awaited_ = index;
    changed_.wait(lock, [&] { return slots_[index].is_done; });
    return slots_[index].outcome;
  }

  std::vector<S3Outcome> wait() {
    std::unique_lock lock(mutex_);
    changed_.wait(lock, [this] { return num_pending_ == 0; });
    std::vector<S3Outcome> outcomes;
    outcomes.reserve(slots_.size());
    for (auto& slot : slots_) {
      outcomes.push_back(std::move(slot.outcome));
    }
    slots_.clear();
    return outcomes;
  }

  [[nodiscard]] S3Client::Impl& client() noexcept { return *client_; }

 private:
  struct Slot {
    S3Outcome outcome;
    bool is_done = false;
  };
  std::shared_ptr<S3Client::Impl> client_;
  mutable std::mutex mutex_;
  std::condition_variable changed_;
  std::deque<Slot> slots_;       // guarded by mutex_; entries stay where they are
  std::size_t num_pending_ = 0;  // guarded by mutex_
  std::size_t awaited_ = 0;      // guarded by mutex_
};

S3Batch::S3Batch(S3Client& client) : impl_(std::make_unique<Impl>(client.impl_)) {}

S3Batch::~S3Batch() {
  if (impl_->size() > 0) { impl_->wait(); }
}

void S3Batch::put(std::string key, std::vector<std::span<std::byte const>> pieces,
                  S3Metadata metadata) {
  check_key(key);
  check_metadata(metadata);
  auto request = impl_->client().make_request(Method::Put, std::move(key));
  for (auto const piece : pieces) {
    request->body_bytes = checked_add(request->body_bytes, piece.size());
  }
  request->body = std::move(pieces);
  request->metadata = std::move(metadata);
  impl_->add(std::move(request));
}

void S3Batch::get(std::string key, std::uint64_t offset, std::vector<S3Piece> pieces,
                  std::optional<std::uint64_t> object_bytes) {
  check_key(key);
  auto request = impl_->client().make_request(Method::Get, std::move(key));
  for (auto const& piece : pieces) {
    request->into_bytes = checked_add(request->into_bytes, piece.bytes);
  }
  static_cast<void>(checked_add(offset, request->into_bytes));
  request->offset = offset;
  request->into = std::move(pieces);
  request->object_bytes = object_bytes;
  KVBM_EXPECTS(request->into_bytes > 0 || !request->has_range(), InvalidArgument,
               "a range of no bytes of an object");
  impl_->add(std::move(request));
}

void S3Batch::head(std::string key) {
  check_key(key);
  impl_->add(impl_->client().make_request(Method::Head, std::move(key)));
}

void S3Batch::delete_object(std::string key) {
  check_key(key);
  impl_->add(impl_->client().make_request(Method::Delete, std::move(key)));
}

std::size_t S3Batch::size() const noexcept { return impl_->size(); }
S3Outcome const& S3Batch::wait_for(std::size_t index) { return impl_->wait_for(index); }
std::vector<S3Outcome> S3Batch::wait() { return impl_->wait(); }

}  // namespace kvbm::object
