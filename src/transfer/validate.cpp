// SPDX-License-Identifier: Apache-2.0
#include "kvbm/transfer/validate.hpp"

#include <fmt/format.h>
#include <fmt/ranges.h>

#include <algorithm>
#include <optional>
#include <utility>
#include <vector>

#include "kvbm/core/error.hpp"

namespace kvbm::transfer {
namespace {

using layout::BlockDim;
using layout::PhysicalLayout;

void expect_equal(char const* field, std::uint64_t src, std::uint64_t dst) {
  KVBM_EXPECTS(src == dst, InvalidArgument,
               fmt::format("{} differs: source {}, destination {}", field, src, dst));
}

std::uint64_t extent(PhysicalLayout const& layout, BlockDim dim) {
  return layout.geometry().extents[static_cast<std::size_t>(dim)];
}

void check_formats(PhysicalLayout const& src, PhysicalLayout const& dst) {
  bool const src_unknown = src.format().is_unknown();
  bool const dst_unknown = dst.format().is_unknown();
  KVBM_EXPECTS(src_unknown == dst_unknown, InvalidArgument,
               fmt::format("the {} format is Unknown, the other one {}: say how to read it with {}",
                           src_unknown ? "source" : "destination",
                           src_unknown ? dst.format().to_string() : src.format().to_string(),
                           src_unknown ? "src_kv_layout" : "dst_kv_layout"));
  static_cast<void>(src.format().requires_transform(dst.format()));  // warns on Unknown/Unknown
}

Selection select(PhysicalLayout const& src, PhysicalLayout const& dst,
                 TransferOptions const& options) {
  Selection selection;
  selection.layers = options.layer_range.value_or(IndexRange{0, src.config().num_layers()});
  check_range(selection.layers, src.config().num_layers(), "layer_range");

  std::uint64_t const src_heads = extent(src, BlockDim::Head);
  std::uint64_t const dst_heads = extent(dst, BlockDim::Head);
  KVBM_EXPECTS(!(options.src_head_range || options.dst_head_range) || !src.format().is_unknown(),
               InvalidArgument, "a head range needs known formats on both sides, not Unknown");
  selection.src_heads = options.src_head_range.value_or(IndexRange{0, src_heads});
  selection.dst_heads = options.dst_head_range.value_or(IndexRange{0, dst_heads});
  check_range(selection.src_heads, src_heads, "src_head_range");
  check_range(selection.dst_heads, dst_heads, "dst_head_range");
  KVBM_EXPECTS(
      selection.src_heads.size() == selection.dst_heads.size(), InvalidArgument,
      fmt::format(
          "source heads {} of {} and destination heads {} of {} are not as many; name equal "
          "ranges with src_head_range and dst_head_range",
          to_string(selection.src_heads), src_heads, to_string(selection.dst_heads), dst_heads));
  return selection;
}

void check_options(TransferOptions const& options, PairOwners const& owners) {
  if (options.nixl_write_notification && !owners.dst_is_peers) {
    throw UnsupportedError(
        fmt::format("nixl_write_notification {} needs a remote destination; this one is local",
                    *options.nixl_write_notification));
  }
  if (options.cuda_stream && options.nixl_write_notification) {
    throw UnsupportedError(
        "nixl_write_notification on a caller's stream: nobody knows when the blocks have arrived; "
        "leave cuda_stream out");
  }
  if (options.cuda_stream && (options.timeout || options.cancellation.stop_possible())) {
    throw UnsupportedError(
        "timeout and cancellation cannot be told through a caller's stream: its notification is "
        "ready at once; leave cuda_stream or them out");
  }
}

bool same_place(memory::Region const& a, memory::Region const& b) {
  return a.kind() == b.kind() && a.address() == b.address() && a.bytes() == b.bytes() &&
         a.store() == b.store() && a.store_offset() == b.store_offset();
}

bool overlaps(memory::Region const& a, memory::Region const& b) {
  if (a.store() != nullptr || b.store() != nullptr) { return a.store() == b.store(); }
  return a.address() < b.address() + b.bytes() && b.address() < a.address() + a.bytes();
}

bool same_layout(PhysicalLayout const& a, PhysicalLayout const& b) {
  return a.kind() == b.kind() && a.block_dimension() == b.block_dimension() &&
         a.geometry().block_stride == b.geometry().block_stride &&
         std::equal(a.regions().begin(), a.regions().end(), b.regions().begin(), b.regions().end(),
                    same_place);
}

bool may_alias(PhysicalLayout const& a, PhysicalLayout const& b) {
  return std::any_of(a.regions().begin(), a.regions().end(), [&b](auto const& region) {
    return std::any_of(b.regions().begin(), b.regions().end(),
                       [&region](auto const& other) { return overlaps(region, other); });
  });
}

void check_ids_in_range(PhysicalLayout const& layout, std::span<BlockId const> ids,
                        char const* role) {
  std::uint64_t const num_blocks = layout.config().num_blocks();
  auto const bad =
      std::find_if(ids.begin(), ids.end(), [num_blocks](BlockId id) { return id >= num_blocks; });
  KVBM_EXPECTS(bad == ids.end(), OutOfRange,
               fmt::format("{} block {} at position {} is beyond the layout's {} blocks", role,
                           *bad, bad - ids.begin(), num_blocks));
}

/// Block ids as a set: a bitmap where that is small beside the list, else a sorted copy.
class IdSet {
 public:
  IdSet(std::uint64_t num_blocks, std::size_t expected) : dense_(num_blocks / 64 <= expected * 4) {
    if (dense_) {
      bits_.resize(num_blocks);
    } else {
      sorted_.reserve(expected);
    }
  }

  /// Adds all ids; returns those that came more than once, each named once.
  std::vector<BlockId> add_all(std::span<BlockId const> ids) {
    std::vector<BlockId> repeated;
    if (dense_) {
      for (BlockId const id : ids) {
        if (bits_[id]) { repeated.push_back(id); }
        bits_[id] = true;
      }
    } else {
      sorted_.assign(ids.begin(), ids.end());
      std::sort(sorted_.begin(), sorted_.end());
      for (std::size_t i = 1; i < sorted_.size(); ++i) {
        if (sorted_[i] == sorted_[i - 1]) { repeated.push_back(sorted_[i]); }
      }
    }
    std::sort(repeated.begin(), repeated.end());
    repeated.erase(std::unique(repeated.begin(), repeated.end()), repeated.end());
    return repeated;
  }

  [[nodiscard]] bool contains(BlockId id) const {
    return dense_ ? id < bits_.size() && bits_[id]
                  : std::binary_search(sorted_.begin(), sorted_.end(), id);
  }

 private:
  bool dense_;
  std::vector<bool> bits_;
  std::vector<BlockId> sorted_;
};

/// First few of a list, so that a message about a million blocks stays one line.
std::string name_some(std::vector<BlockId> ids) {
  constexpr std::size_t kShown = 8;
  std::size_t const count = ids.size();
  ids.resize(std::min(count, kShown));
  return count > kShown ? fmt::format("[{}, ... {} in all]", fmt::join(ids, ", "), count)
                        : fmt::format("[{}]", fmt::join(ids, ", "));
}

struct Interval {
  std::uintptr_t begin;
  std::uintptr_t end;
};

std::vector<Interval> intervals_of(PhysicalLayout const& layout, BlockId block) {
  std::vector<Interval> intervals;
  if (layout.extents_per_block() == 0) {  // interleaved with other blocks: anywhere in the regions
    for (auto const& region : layout.regions()) {
      intervals.push_back({region.address(), region.address() + region.bytes()});
    }
  }
  for (std::uint32_t i = 0; i < layout.extents_per_block(); ++i) {
    auto const extent = layout.extent(block, i);
    std::uintptr_t const begin = layout.regions()[extent.region].address() + extent.offset;
    intervals.push_back({begin, begin + extent.bytes});
  }
  return intervals;
}

/// Position in `ids` of the first block of `layout` that shares memory with one of `others`.
std::optional<std::size_t> find_overlap(PhysicalLayout const& layout, std::span<BlockId const> ids,
                                        PhysicalLayout const& other_layout,
                                        std::span<BlockId const> others) {
  std::vector<Interval> taken;
  for (BlockId const id : others) {
    auto const intervals = intervals_of(other_layout, id);
    taken.insert(taken.end(), intervals.begin(), intervals.end());
  }
  std::sort(taken.begin(), taken.end(),
            [](Interval const& a, Interval const& b) { return a.begin < b.begin; });
  for (std::size_t i = 0; i < ids.size(); ++i) {
    for (Interval const& wanted : intervals_of(layout, ids[i])) {
      auto const after = std::lower_bound(
          taken.begin(), taken.end(), wanted.end,
          [](Interval const& interval, std::uintptr_t end) { return interval.begin < end; });
      if (after != taken.begin() && std::prev(after)->end > wanted.begin) { return i; }
    }
  }
  return std::nullopt;
}

void check_address_overlap(ValidatedPair const& pair, std::span<BlockId const> src_blocks,
                           std::span<BlockId const> dst_blocks) {
  auto const overlap = find_overlap(pair.src, src_blocks, pair.dst, dst_blocks);
  KVBM_EXPECTS(!overlap, InvalidArgument,
               fmt::format("source block {} shares memory with a destination block of the other "
                           "layout",
                           src_blocks[*overlap]));
}

}  // namespace

ValidatedPair validate_pair(PhysicalLayout const& src, PhysicalLayout const& dst,
                            TransferOptions const& options, PairOwners const& owners) {
  check_options(options, owners);
  ValidatedPair pair{options.src_kv_layout ? src.with_format(*options.src_kv_layout) : src,
                     options.dst_kv_layout ? dst.with_format(*options.dst_kv_layout) : dst,
                     {},
                     false,
                     false,
                     owners.src_is_here,
                     owners.dst_is_here};
  bool const both_here = owners.src_is_here && owners.dst_is_here;
  pair.same_layout = both_here && same_layout(src, dst);
  auto const& a = pair.src.config();
  auto const& b = pair.dst.config();
  expect_equal("num_layers", a.num_layers(), b.num_layers());
  expect_equal("outer_dim", a.outer_dim(), b.outer_dim());
  expect_equal("page_size", a.page_size(), b.page_size());
  expect_equal("dtype_width_bytes", a.dtype_width_bytes(), b.dtype_width_bytes());
  check_formats(pair.src, pair.dst);
  expect_equal(pair.src.format().is_unknown() ? "inner_dim" : "head_dim",
               extent(pair.src, BlockDim::HeadDim), extent(pair.dst, BlockDim::HeadDim));
  pair.selection = select(pair.src, pair.dst, options);
  pair.may_alias = both_here && !pair.same_layout && may_alias(src, dst);
  return pair;
}

void validate_blocks(ValidatedPair const& pair, std::span<BlockId const> src_blocks,
                     std::span<BlockId const> dst_blocks) {
  KVBM_EXPECTS(src_blocks.size() == dst_blocks.size(), InvalidArgument,
               fmt::format("{} source blocks but {} destination blocks", src_blocks.size(),
                           dst_blocks.size()));
  check_ids_in_range(pair.src, src_blocks, "source");
  check_ids_in_range(pair.dst, dst_blocks, "destination");

  // One block needs no set; everything else is linear in the list.
  if (dst_blocks.size() > 1 || pair.same_layout) {
    IdSet written(pair.dst.config().num_blocks(), dst_blocks.size());
    auto const repeated = written.add_all(dst_blocks);
    KVBM_EXPECTS(
        repeated.empty(), InvalidArgument,
        fmt::format("destination blocks {} are named more than once", name_some(repeated)));
    if (pair.same_layout) {
      std::vector<BlockId> both;
      std::copy_if(src_blocks.begin(), src_blocks.end(), std::back_inserter(both),
                   [&written](BlockId id) { return written.contains(id); });
      std::sort(both.begin(), both.end());
      both.erase(std::unique(both.begin(), both.end()), both.end());
      KVBM_EXPECTS(
          both.empty(), InvalidArgument,
          fmt::format("blocks {} are source and destination in one layout", name_some(both)));
    }
  }
  if (pair.may_alias) { check_address_overlap(pair, src_blocks, dst_blocks); }
}

void validate_bounce(PhysicalLayout const& bounce, std::span<BlockId const> block_ids) {
  KVBM_EXPECTS(!block_ids.empty(), InvalidArgument,
               "bounce_buffer names no blocks; give at least one, two or more to overlap the hops");
  check_ids_in_range(bounce, block_ids, "bounce");
  IdSet ids(bounce.config().num_blocks(), block_ids.size());
  auto const repeated = ids.add_all(block_ids);
  KVBM_EXPECTS(repeated.empty(), InvalidArgument,
               fmt::format("bounce blocks {} are named more than once", name_some(repeated)));
  KVBM_EXPECTS(memory::is_memory(bounce.storage_kind()), InvalidArgument,
               fmt::format("bounce_buffer lies in {}; it must be memory",
                           memory::to_string(bounce.storage_kind())));
}

void validate_bounce_apart(ValidatedPair const& pair, std::span<BlockId const> src_blocks,
                           std::span<BlockId const> dst_blocks, PhysicalLayout const& bounce,
                           std::span<BlockId const> bounce_blocks) {
  auto const check = [&](PhysicalLayout const& side, std::span<BlockId const> blocks,
                         char const* role) {
    if (!may_alias(bounce, side)) { return; }
    auto const overlap = find_overlap(bounce, bounce_blocks, side, blocks);
    KVBM_EXPECTS(!overlap, InvalidArgument,
                 fmt::format("bounce block {} shares memory with a {} block; lend blocks that are "
                             "not moved",
                             bounce_blocks[*overlap], role));
  };
  check(pair.src, src_blocks, "source");
  check(pair.dst, dst_blocks, "destination");
}

}  // namespace kvbm::transfer
