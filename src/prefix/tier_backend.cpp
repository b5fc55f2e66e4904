// SPDX-License-Identifier: Apache-2.0
#include "prefix/tier_backend.hpp"

#include <fmt/format.h>

#include <algorithm>
#include <atomic>
#include <set>
#include <string>
#include <unordered_set>
#include <utility>

#include "kvbm/core/error.hpp"
#include "kvbm/memory/block_store.hpp"
#include "kvbm/object/object_store.hpp"
#include "prefix/slot_index.hpp"

namespace kvbm::prefix {
namespace {

using layout::PhysicalLayout;

/// Digest of the stored checksums of a block's extents; nullopt: one is not (completely) written.
std::optional<Checksum> digest_of(PhysicalLayout const& layout, BlockId block) {
  std::vector<Checksum> checksums;
  checksums.reserve(layout.extents_per_block());
  for (std::uint32_t i = 0; i < layout.extents_per_block(); ++i) {
    auto const extent = layout.extent(block, i);
    auto const& region = layout.regions()[extent.region];
    auto const checksum = region.store()->checksum(region.store_index(), extent.index);
    if (!checksum) { return std::nullopt; }
    checksums.push_back(*checksum);
  }
  return checksum_bytes(checksums.data(), checksums.size() * sizeof(Checksum));
}

/// Keys in a file beside the blocks.
class IndexedDisk final : public TierBackend {
 public:
  IndexedDisk(PhysicalLayout layout, BlockKey const& root, std::filesystem::path const& path)
      : layout_(std::move(layout)),
        index_(path, {root.value, layout_.fingerprint(), layout_.config().num_blocks()}) {}

  [[nodiscard]] bool survives() const noexcept override { return true; }
  [[nodiscard]] bool forgets() const noexcept override { return true; }

  Recovered recover(std::uint64_t num_slots) override {
    auto loaded = index_.load();
    Recovered recovered{{}, loaded.num_damaged};
    // Of two records with one key the later one counts.
    std::sort(loaded.entries.begin(), loaded.entries.end(),
              [](auto const& a, auto const& b) { return a.generation > b.generation; });
    if (!loaded.entries.empty()) { generation_ = loaded.entries.front().generation; }
    std::unordered_set<BlockKey> seen;
    for (auto const& entry : loaded.entries) {
      auto const slot = static_cast<BlockId>(entry.slot);
      bool const is_here = entry.slot < num_slots && digest_of(layout_, slot) == entry.digest &&
                           seen.insert(entry.key).second;
      if (is_here) {
        recovered.held.push_back({slot, entry.key});
      } else {
        // Overwritten, half written, or beyond the budget: that is no damage.
        index_.clear(entry.slot);
      }
    }
    std::reverse(recovered.held.begin(), recovered.held.end());
    return recovered;
  }

  std::vector<std::exception_ptr> commit(std::span<SlotKey const> blocks) override {
    std::vector<std::exception_ptr> errors(blocks.size());
    for (std::size_t i = 0; i < blocks.size(); ++i) {
      try {
        auto const digest = digest_of(layout_, blocks[i].slot);
        KVBM_EXPECTS(digest.has_value(), Corrupt,
                     fmt::format("block {} was written and has no checksum", blocks[i].slot));
        index_.put(blocks[i].slot, blocks[i].key, *digest, ++generation_);
      } catch (...) { errors[i] = std::current_exception(); }
    }
    return errors;
  }

  void forget(SlotKey const& block) override { index_.clear(block.slot); }

  void sync() override {
    std::set<std::shared_ptr<memory::BlockStore>> stores;
    for (auto const& region : layout_.regions()) {
      stores.insert(region.store());
    }
    for (auto const& store : stores) {
      store->sync();
    }
    index_.sync();
  }

 private:
  PhysicalLayout layout_;
  SlotIndex index_;
  std::atomic<std::uint64_t> generation_{0};
};

/// Objects that are named by their keys.
class ContentObjects final : public TierBackend {
 public:
  explicit ContentObjects(std::shared_ptr<object::ObjectBlockStore> store)
      : store_(std::move(store)) {}

  [[nodiscard]] bool survives() const noexcept override { return true; }
  [[nodiscard]] bool forgets() const noexcept override { return true; }
  [[nodiscard]] bool is_shared() const noexcept override { return true; }

  Recovered recover(std::uint64_t num_slots) override {
    Recovered recovered;
    std::uint64_t const bytes = store_->groups().front().extent_bytes;
    store_->list([&](std::string const& name, std::uint64_t object_bytes) {
      if (recovered.held.size() == num_slots) { return false; }
      try {
        if (object_bytes != bytes) { throw_error(ErrorCode::Corrupt, "an object of another size"); }
        auto const key = parse_block_key(name);
        auto const slot = static_cast<BlockId>(recovered.held.size());
        store_->bind(slot, name);
        recovered.held.push_back({slot, key});
      } catch (Error const&) { ++recovered.num_damaged; }
      return true;
    });
    return recovered;
  }

  void prepare(std::span<SlotKey const> blocks) override {
    for (auto const& block : blocks) {
      store_->bind(block.slot, to_string(block.key));
    }
  }
  // Learned keys lie where they lie; a name is all that the slot needs.
  std::vector<std::exception_ptr> commit(std::span<SlotKey const> blocks) override {
    return std::vector<std::exception_ptr>(blocks.size());
  }
  void forget(SlotKey const& block) override { store_->remove(to_string(block.key)); }
  void sync() override { store_->sync(); }

  std::vector<bool> exist(std::span<BlockKey const> keys) override {
    std::vector<std::string> names;
    names.reserve(keys.size());
    for (auto const& key : keys) {
      names.push_back(to_string(key));
    }
    return store_->exist(names);
  }

 private:
  std::shared_ptr<object::ObjectBlockStore> store_;
};

}  // namespace

std::unique_ptr<TierBackend> make_backend(PhysicalLayout const& layout, BlockKey const& root,
                                          std::filesystem::path const& index) {
  if (layout.storage_kind() == memory::StorageKind::Object) {
    auto store =
        std::dynamic_pointer_cast<object::ObjectBlockStore>(layout.regions().front().store());
    KVBM_EXPECTS(store != nullptr, Unsupported,
                 "the object tier's layout is not kept by an ObjectBlockStore, the only store that "
                 "names blocks by content");
    return std::make_unique<ContentObjects>(std::move(store));
  }
  KVBM_EXPECTS(index.empty() || layout.storage_kind() == memory::StorageKind::Disk, InvalidArgument,
               fmt::format("index {}: only tiers on disk have one, this tier's blocks are in {}",
                           index.string(), to_string(layout.storage_kind())));
  if (!index.empty()) { return std::make_unique<IndexedDisk>(layout, root, index); }
  return std::make_unique<TierBackend>();
}

}  // namespace kvbm::prefix
