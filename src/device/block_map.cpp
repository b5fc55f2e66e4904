// SPDX-License-Identifier: Apache-2.0
#include "device/block_map.hpp"

#include <algorithm>
#include <iterator>
#include <utility>

namespace kvbm::device {

void BlockMap::add_segment(Segment segment) {
  segments_.emplace(segment.address, segment.bytes);
  auto const [at, added] =
      blocks_.emplace(segment.address, Block{segment.bytes, State::Free, segment.address, {}});
  list(at);
}

void BlockMap::remove_segment(std::uintptr_t address) {
  auto const at = blocks_.find(address);
  unlist(at);
  blocks_.erase(at);
  segments_.erase(address);
}

std::vector<BlockMap::Segment> BlockMap::free_segments() const {
  std::vector<Segment> result;
  for (auto const& [address, bytes] : segments_) {
    Block const& first = blocks_.at(address);
    if (first.state == State::Free && first.bytes == bytes) { result.push_back({address, bytes}); }
  }
  return result;
}

std::optional<BlockMap::Taken> BlockMap::take_free(std::uint64_t bytes) {
  auto const fit = free_.lower_bound({bytes, 0});
  if (fit == free_.end()) { return std::nullopt; }
  return take(blocks_.find(fit->second), bytes);
}

std::optional<BlockMap::Taken> BlockMap::take_pending(std::uint64_t bytes,
                                                      StreamState const* stream) {
  for (auto fit = pending_.lower_bound({bytes, 0}); fit != pending_.end(); ++fit) {
    auto const at = blocks_.find(fit->second);
    if (stream == nullptr || at->second.point.stream.get() == stream) { return take(at, bytes); }
  }
  return std::nullopt;
}

BlockMap::Taken BlockMap::take(Blocks::iterator at, std::uint64_t bytes) {
  unlist(at);
  Block& block = at->second;
  if (block.bytes > bytes) {
    Block rest = block;
    rest.bytes -= bytes;
    block.bytes = bytes;
    list(blocks_.emplace(at->first + bytes, std::move(rest)).first);
  }
  block.state = State::Used;
  return Taken{at->first, std::exchange(block.point, {})};
}

std::uint64_t BlockMap::release(std::uintptr_t address, Point point) {
  auto const at = blocks_.find(address);
  Block& block = at->second;
  std::uint64_t const bytes = block.bytes;
  block.state = point.is_complete() ? State::Free : State::Pending;
  if (block.state == State::Pending) { block.point = std::move(point); }
  list(at);
  merge(at);
  return bytes;
}

void BlockMap::settle() {
  std::vector<std::uintptr_t> reached;
  for (auto const& [bytes, address] : pending_) {
    if (blocks_.at(address).point.is_complete()) { reached.push_back(address); }
  }
  // None of these is merged away by another before its turn: only free blocks merge with free ones,
  // and they become free one by one.
  for (std::uintptr_t const address : reached) {
    auto const at = blocks_.find(address);
    unlist(at);
    at->second.state = State::Free;
    at->second.point = {};
    list(at);
    merge(at);
  }
}

void BlockMap::list(Blocks::iterator at) {
  Block const& block = at->second;
  auto& index = block.state == State::Free ? free_ : pending_;
  index.emplace(block.bytes, at->first);
  if (block.state == State::Free) { free_bytes_ += block.bytes; }
}

void BlockMap::unlist(Blocks::iterator at) {
  Block const& block = at->second;
  auto& index = block.state == State::Free ? free_ : pending_;
  index.erase({block.bytes, at->first});
  if (block.state == State::Free) { free_bytes_ -= block.bytes; }
}

bool BlockMap::can_merge(Block const& a, Block const& b) noexcept {
  if (a.segment != b.segment || a.state != b.state) { return false; }
  if (a.state == State::Pending) { return a.point.stream == b.point.stream; }
  return a.state == State::Free;
}

void BlockMap::merge(Blocks::iterator at) {
  auto const join = [this](Blocks::iterator left, Blocks::iterator right) {
    unlist(left);
    unlist(right);
    left->second.bytes += right->second.bytes;
    left->second.point.ticket = std::max(left->second.point.ticket, right->second.point.ticket);
    blocks_.erase(right);
    list(left);
  };
  // Neighbours in the map are neighbours in memory: a segment's blocks cover it.
  auto const next = std::next(at);
  if (next != blocks_.end() && can_merge(at->second, next->second)) { join(at, next); }
  if (at == blocks_.begin()) { return; }
  auto const previous = std::prev(at);
  if (can_merge(previous->second, at->second)) { join(previous, at); }
}

}  // namespace kvbm::device
