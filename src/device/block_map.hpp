// SPDX-License-Identifier: Apache-2.0
#pragma once

#include <cstdint>
#include <map>
#include <optional>
#include <set>
#include <utility>
#include <vector>

#include "device/stream_state.hpp"

namespace kvbm::device {

/// Which parts of some segments of memory are used, which are free, and which become free when a
/// stream has reached a point (pending). Addresses only; touches no memory.
///
/// Best fit; neighbours of one segment are merged when both are free, or pending on one stream.
/// Threads  not safe; the pool's lock guards it.
class BlockMap {
 public:
  /// A part that was taken: usable by streams that have passed `ready`.
  struct Taken {
    std::uintptr_t address = 0;
    Point ready;
  };
  struct Segment {
    std::uintptr_t address = 0;
    std::uint64_t bytes = 0;
  };

  /// A new segment, all of it free.
  void add_segment(Segment segment);
  /// Forgets a segment that is wholly free.
  void remove_segment(std::uintptr_t address);
  /// Segments of which nothing is used or pending.
  [[nodiscard]] std::vector<Segment> free_segments() const;

  /// The smallest free part that suffices.
  [[nodiscard]] std::optional<Taken> take_free(std::uint64_t bytes);
  /// The smallest pending part that suffices; of `stream` only, unless that is null.
  [[nodiscard]] std::optional<Taken> take_pending(std::uint64_t bytes, StreamState const* stream);
  /// Gives back what was taken; free once `point` is reached. @return its bytes
  std::uint64_t release(std::uintptr_t address, Point point);
  /// Makes free what is pending on points that have been reached.
  void settle();

  [[nodiscard]] std::uint64_t free_bytes() const noexcept { return free_bytes_; }

 private:
  enum class State { Used, Pending, Free };
  struct Block {
    std::uint64_t bytes = 0;
    State state = State::Free;
    std::uintptr_t segment = 0;
    Point point;  // Pending only
  };
  using Blocks = std::map<std::uintptr_t, Block>;

  [[nodiscard]] Taken take(Blocks::iterator at, std::uint64_t bytes);
  void list(Blocks::iterator at);
  void unlist(Blocks::iterator at);
  // Merges a listed block with its neighbours where possible.
  void merge(Blocks::iterator at);
  [[nodiscard]] static bool can_merge(Block const& a, Block const& b) noexcept;

  Blocks blocks_;
  std::map<std::uintptr_t, std::uint64_t> segments_;
  std::set<std::pair<std::uint64_t, std::uintptr_t>> free_;  // by bytes
  std::set<std::pair<std::uint64_t, std::uintptr_t>> pending_;
  std::uint64_t free_bytes_ = 0;
};

}  // namespace kvbm::device
