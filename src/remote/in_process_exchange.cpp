// SPDX-License-Identifier: Apache-2.0
#include "kvbm/remote/exchange.hpp"
#include "remote/exchange_common.hpp"

#include <condition_variable>
#include <map>
#include <mutex>
#include <utility>

#include "kvbm/core/error.hpp"

namespace kvbm::remote {
namespace {

using Blob = std::shared_ptr<std::vector<std::byte> const>;

/// What several owners share.
struct Board {
  struct Entry {
    void const* owner;
    Blob metadata;
  };

  std::mutex mutex;
  std::condition_variable changed;
  std::map<std::string, Entry> entries;  // guarded by mutex
};

class InProcessExchange final : public MetadataExchange {
 public:
  explicit InProcessExchange(std::shared_ptr<Board> board) : board_(std::move(board)) {}

  ~InProcessExchange() override {
    std::lock_guard const lock(board_->mutex);
    std::erase_if(board_->entries, [&](auto const& entry) { return entry.second.owner == this; });
  }
  InProcessExchange(InProcessExchange const&) = delete;
  InProcessExchange& operator=(InProcessExchange const&) = delete;

  void publish(std::string const& name, std::span<std::byte const> metadata) override {
    check_exchange_name(name);
    check_metadata_bytes(name, metadata.size());
    auto blob = std::make_shared<std::vector<std::byte> const>(metadata.begin(), metadata.end());
    {
      std::lock_guard const lock(board_->mutex);
      auto const [entry, is_new] = board_->entries.try_emplace(name, Board::Entry{this, {}});
      if (!is_new && entry->second.owner != this) {
        throw_name_taken(name, "another worker of this process");
      }
      // The former blob is freed behind the lock.
      entry->second.metadata.swap(blob);
    }
    board_->changed.notify_all();
  }

  void withdraw(std::string const& name) override {
    check_exchange_name(name);
    std::lock_guard const lock(board_->mutex);
    auto const entry = board_->entries.find(name);
    if (entry != board_->entries.end() && entry->second.owner == this) {
      board_->entries.erase(entry);
    }
  }

  std::vector<std::byte> fetch(std::string const& name,
                               std::chrono::milliseconds timeout) override {
    check_exchange_name(name);
    Deadline const deadline(timeout);
    Blob blob;
    {
      std::unique_lock lock(board_->mutex);
      auto const is_there = [&] { return board_->entries.contains(name); };
      if (!board_->changed.wait_until(lock, deadline.at(), is_there)) {
        throw_not_published(name, timeout, "this process");
      }
      blob = board_->entries.at(name).metadata;
    }
    return *blob;
  }

  std::vector<std::string> list() override {
    std::lock_guard const lock(board_->mutex);
    std::vector<std::string> names;
    names.reserve(board_->entries.size());
    for (auto const& [name, entry] : board_->entries) {
      names.push_back(name);
    }
    return names;
  }

  [[nodiscard]] std::shared_ptr<Board> const& board() const noexcept { return board_; }

 private:
  std::shared_ptr<Board> const board_;
};

}  // namespace

std::shared_ptr<MetadataExchange> make_in_process_exchange() {
  return std::make_shared<InProcessExchange>(std::make_shared<Board>());
}

std::shared_ptr<MetadataExchange> make_in_process_exchange(
    std::shared_ptr<MetadataExchange> const& other) {
  auto const beside = std::dynamic_pointer_cast<InProcessExchange>(other);
  KVBM_EXPECTS(beside != nullptr, InvalidArgument,
               "other is no exchange that make_in_process_exchange() made");
  return std::make_shared<InProcessExchange>(beside->board());
}

}  // namespace kvbm::remote
