// SPDX-License-Identifier: Apache-2.0
#pragma once

#include <cstdint>
#include <functional>
#include <memory>
#include <span>
#include <string>
#include <vector>

#include "kvbm/core/types.hpp"
#include "kvbm/layout/format.hpp"
#include "kvbm/layout/handle.hpp"
#include "kvbm/memory/region.hpp"

namespace kvbm::transfer {

/// Bytes that are contiguous here and at a peer.
struct WireRun {
  std::uintptr_t local = 0;
  std::uintptr_t remote = 0;
  std::uint64_t bytes = 0;
  friend bool operator==(WireRun const&, WireRun const&) = default;
};

/// Read: from the peer's memory into ours. Write: from ours into the peer's.
enum class WireDirection { Read, Write };

/// What kind of memory one side of a wire move is.
struct WireMemory {
  bool is_gpu = false;      ///< only a GPU's engines reach it, not the CPU
  DeviceId device_id = -1;  ///< of the process that owns it
  friend bool operator==(WireMemory const&, WireMemory const&) = default;
};

/// Memory of the peer that it lends to this worker for images of blocks.
struct Landing {
  std::uintptr_t address = 0;  ///< at the peer
  std::uint64_t bytes = 0;
};

/// Asks the peer to copy blocks of one of its layouts to or from a dense image in its landing
/// memory: a fully contiguous layout in `image_format` that starts at the landing's address.
struct ImageOrder {
  layout::LayoutHandle handle;     ///< the peer's layout
  std::vector<BlockId> block_ids;  ///< of that layout
  std::vector<BlockId> slots;      ///< block of the image for each of block_ids
  IndexRange layers;               ///< part of the blocks
  IndexRange heads;                ///< likewise, of the peer's heads
  layout::KvBlockLayout image_format = layout::KvBlockLayout::Unknown;
  Landing landing;
};

/// Another worker, as transfers see it: memory that can be read and written, and a few questions.
///
/// Threads  all methods may be called concurrently.
/// Errors   PeerError naming the worker where it died, was stopped or disconnected.
class Peer {
 public:
  /// Whether a call that takes long should give up; asked from time to time.
  using ShouldStop = std::function<bool()>;

  virtual ~Peer() = default;

  [[nodiscard]] virtual std::uint64_t worker_id() const noexcept = 0;
  /// "worker 17 (agent decode-0)", for messages.
  [[nodiscard]] virtual std::string const& name() const noexcept = 0;
  /// @throws PeerError if the worker is known to be gone
  virtual void expect_alive() const = 0;

  /// Whether the wire reaches this memory of ours.
  [[nodiscard]] virtual bool reaches(memory::Region const& region) const = 0;
  /// Lets the wire reach memory of ours for as long as the result lives.
  [[nodiscard]] virtual std::shared_ptr<void const> expose(memory::Region const& region) = 0;

  /// Moves all runs. When it returns they have arrived and are visible where they went. When it
  /// throws, the wire may still read or write local memory, for as long as the peer keeps `hold`: a
  /// network has no way to stop what a stopped peer may go on with when it wakes up.
  /// @param hold  shares ownership of whatever must not be used otherwise until then
  /// @throws PeerError; CancelledError when `should_stop` said so
  virtual void move(WireDirection direction, WireMemory local, WireMemory remote,
                    std::span<WireRun const> runs, std::shared_ptr<void const> const& hold,
                    ShouldStop const& should_stop) = 0;

  /// Delivers `value` to the subscribers of the peer, exactly once, behind everything that was
  /// moved before.
  virtual void notify(std::uint64_t value) = 0;

  /// The most that borrow_landing() would give; 0: the peer packs nothing.
  [[nodiscard]] virtual std::uint64_t landing_bytes() const noexcept = 0;
  /// Borrows at least `bytes` of landing memory; given back when the last copy of the result goes.
  [[nodiscard]] virtual std::shared_ptr<Landing const> borrow_landing(
      std::uint64_t bytes, ShouldStop const& should_stop) = 0;
  /// Has the peer fill an image from its blocks (Read), or its blocks from an image (Write), and
  /// waits until it has.
  virtual void copy_image(WireDirection direction, ImageOrder const& order,
                          ShouldStop const& should_stop) = 0;
};

}  // namespace kvbm::transfer
