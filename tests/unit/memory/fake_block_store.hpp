// SPDX-License-Identifier: Apache-2.0
#pragma once

#include <cstring>
#include <functional>
#include <map>
#include <mutex>
#include <utility>

#include "extent_pattern.hpp"
#include "kvbm/core/error.hpp"
#include "kvbm/memory/block_store.hpp"

namespace kvbm::memory::test {

/// A store in memory whose bytes can be damaged and changed at the worst moment.
class FakeBlockStore : public BlockStore {
 public:
  using Key = std::pair<std::uint32_t, std::uint64_t>;
  /// Called for each extent that is read, after its checksum was looked up and before its bytes.
  using OnRead = std::function<void(Key)>;

  explicit FakeBlockStore(std::vector<ExtentGroup> groups) : groups_(std::move(groups)) {}

  void put(Key key, std::uint64_t generation) {
    std::vector<std::byte> bytes(groups_[key.first].extent_bytes);
    fill_pattern(bytes, key.second, generation);
    std::lock_guard const lock(mutex_);
    content_[key] = {bytes, checksum_bytes(bytes.data(), bytes.size()), nullptr};
  }
  void flip_bit(Key key) {
    std::lock_guard const lock(mutex_);
    content_.at(key).bytes.front() ^= std::byte{1};
  }
  void fail_reads(Key key, std::exception_ptr error) {
    std::lock_guard const lock(mutex_);
    content_[key].error = std::move(error);
  }
  void on_read(OnRead call) {
    std::lock_guard const lock(mutex_);
    on_read_ = std::move(call);
  }
  void set_writable(bool writable) { writable_ = writable; }

  [[nodiscard]] StorageKind kind() const noexcept override { return StorageKind::Disk; }
  [[nodiscard]] std::string name() const override { return "fake"; }
  [[nodiscard]] std::string const& metadata() const noexcept override { return metadata_; }
  [[nodiscard]] std::vector<ExtentGroup> const& groups() const noexcept override { return groups_; }
  [[nodiscard]] bool is_writable() const noexcept override { return writable_; }
  [[nodiscard]] std::optional<Checksum> checksum(std::uint32_t group,
                                                 std::uint64_t extent) const override {
    std::lock_guard const lock(mutex_);
    auto const found = content_.find({group, extent});
    return found == content_.end() ? std::nullopt : std::optional(found->second.checksum);
  }
  void invalidate(std::uint32_t group, std::uint64_t extent) override {
    std::lock_guard const lock(mutex_);
    content_.erase({group, extent});
  }
  void sync() override {}
  [[nodiscard]] std::unique_ptr<ExtentQueue> make_queue() override {
    return std::make_unique<Queue>();
  }
  [[nodiscard]] void const* family() const noexcept override { return this; }

 private:
  struct Content {
    std::vector<std::byte> bytes;
    Checksum checksum;
    std::exception_ptr error;
  };

  class Queue final : public ExtentQueue {
   public:
    void start_write(std::shared_ptr<BlockStore> const& /*store*/,
                     std::span<ExtentIo const> /*extents*/) override {
      throw UnsupportedError("nobody writes through it");
    }
    void start_read(std::shared_ptr<BlockStore> const& store,
                    std::span<ExtentIo const> extents) override {
      auto& fake = dynamic_cast<FakeBlockStore&>(*store);
      for (auto const& io : extents) {
        results_.push_back(fake.read(io));
      }
    }
    std::vector<std::exception_ptr> finish() override { return std::exchange(results_, {}); }
    void register_buffer(std::span<std::byte> /*buffer*/) override {}
    [[nodiscard]] std::size_t num_started() const noexcept override { return results_.size(); }

   private:
    std::vector<std::exception_ptr> results_;
  };

  std::exception_ptr read(ExtentIo const& io) {
    Key const key{io.group, io.extent};
    std::optional<Checksum> const expected = checksum(io.group, io.extent);
    OnRead call;
    {
      std::lock_guard const lock(mutex_);
      call = on_read_;
    }
    if (call) { call(key); }
    std::lock_guard const lock(mutex_);
    auto const found = content_.find(key);
    if (!expected || found == content_.end()) {
      return std::make_exception_ptr(Error(ErrorCode::NotFound, "never written"));
    }
    if (found->second.error != nullptr) { return found->second.error; }
    auto const& bytes = found->second.bytes;
    std::memcpy(io.memory, bytes.data(), bytes.size());
    if (checksum_bytes(io.memory, bytes.size()) == *expected) { return nullptr; }
    return std::make_exception_ptr(CorruptError("damaged"));
  }

  std::vector<ExtentGroup> groups_;
  std::string metadata_;
  bool writable_ = true;
  mutable std::mutex mutex_;
  std::map<Key, Content> content_;
  OnRead on_read_;
};

}  // namespace kvbm::memory::test
