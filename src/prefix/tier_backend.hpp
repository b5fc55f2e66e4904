// SPDX-License-Identifier: Apache-2.0
#pragma once

#include <cstdint>
#include <exception>
#include <filesystem>
#include <memory>
#include <optional>
#include <span>
#include <vector>

#include "kvbm/core/types.hpp"
#include "kvbm/layout/physical_layout.hpp"
#include "kvbm/prefix/block_key.hpp"

namespace kvbm::prefix {

/// A block of a tier and what lies in it.
struct SlotKey {
  BlockId slot = 0;
  BlockKey key;
};

/// What a tier does about keys besides keeping blocks. Never called under the store's lock.
///
/// Threads  calls for different slots may run concurrently.
class TierBackend {
 public:
  TierBackend() = default;
  virtual ~TierBackend() = default;
  TierBackend(TierBackend const&) = delete;
  TierBackend& operator=(TierBackend const&) = delete;

  /// Whether keys survive the store.
  [[nodiscard]] virtual bool survives() const noexcept { return false; }
  /// Whether forget() does anything.
  [[nodiscard]] virtual bool forgets() const noexcept { return false; }

  struct Recovered {
    std::vector<SlotKey> held;  ///< used longest ago first
    std::uint64_t num_damaged = 0;
  };
  /// What is there already, in slots below `num_slots`. Called once, first.
  virtual Recovered recover(std::uint64_t /*num_slots*/) { return {}; }

  /// Before blocks are written. @throws anything: none of them will be written
  virtual void prepare(std::span<SlotKey const> /*blocks*/) {}
  /// After they were written. @return one entry a block: null, or why it must not be believed
  virtual std::vector<std::exception_ptr> commit(std::span<SlotKey const> blocks) {
    return std::vector<std::exception_ptr>(blocks.size());
  }
  /// The block does not hold the key any more. @throws anything: it may be found again later
  virtual void forget(SlotKey const& /*block*/) {}
  /// Makes all of it survive the loss of power.
  virtual void sync() {}

  /// Which keys others have put there.
  virtual std::vector<bool> exist(std::span<BlockKey const> keys) {
    return std::vector<bool>(keys.size(), false);
  }
  /// Whether exist() asks anybody.
  [[nodiscard]] virtual bool is_shared() const noexcept { return false; }
};

/// The backend for a layout's kind of storage.
/// @param root        of the store: model and page size
/// @param index       file of a disk tier's index, may be empty
std::unique_ptr<TierBackend> make_backend(layout::PhysicalLayout const& layout,
                                          BlockKey const& root, std::filesystem::path const& index);

}  // namespace kvbm::prefix
