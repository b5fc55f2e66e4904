// SPDX-License-Identifier: Apache-2.0
#pragma once

#include <array>
#include <cstddef>
#include <cstdint>

#include "kvbm/kernels/kernels.h"

namespace kvbm::kernels {

/// One loop of a copy; strides in bytes.
struct Loop {
  std::uint64_t extent = 1;
  std::int64_t src_stride = 0;
  std::int64_t dst_stride = 0;
};

/// The two innermost loops around a run, which one kernel call walks.
struct Nest {
  Loop outer;                   ///< where possible the loop with the source's smallest stride
  Loop inner;                   ///< the loop with the destination's smallest stride
  std::uint64_t run_bytes = 0;  ///< contiguous on both sides
  std::uint64_t tile = 1;       ///< iterations of `inner` walked before `outer` advances
};

/// Walks one nest. Chosen once per call, so that no decision is left to the element.
using NestKernel = void (*)(std::byte const* src, std::byte* dst, Nest const& nest) noexcept;

/// A copy template made ready to run: loops merged and ordered, kernel chosen.
struct BoxPlan {
  std::uint32_t num_loops = 0;
  std::array<Loop, KVBM_MAX_COPY_DIMS> loops{};  ///< around the nest, outermost first
  Nest nest;
  NestKernel kernel = nullptr;
  bool transposes = false;    ///< the kernel moves single elements through tiles
  bool non_temporal = false;  ///< the kernel stores around the caches: fence afterwards
  std::uint64_t bytes = 0;    ///< of one box
  /// Source bytes to walk through in order before the loops from `stretch_level` on, which leap
  /// about in them; 0 where nothing is gained.
  std::uint64_t stretch_bytes = 0;
  std::uint32_t stretch_level = 0;
};

/// Merges what is contiguous on both sides, orders the loops and chooses the kernel.
/// @pre shape.num_dims <= KVBM_MAX_COPY_DIMS and the bytes of the box fit into 63 bits
BoxPlan plan_box(kvbm_copy_template const& shape, bool non_temporal) noexcept;

/// Copies one box. The caller fences after the last one where the plan is non-temporal.
void copy_planned(BoxPlan const& plan, std::byte const* src, std::byte* dst) noexcept;

/// Makes non-temporal stores of this thread visible before whatever it stores next.
void fence_non_temporal() noexcept;

/// Cuts the box of a plan into pieces of about equal size that may be copied in any order.
class BoxSplit {
 public:
  BoxSplit(BoxPlan const& plan, std::uint64_t wanted_pieces) noexcept;
  [[nodiscard]] std::uint64_t num_pieces() const noexcept { return num_pieces_; }
  void copy_piece(std::uint64_t piece, std::byte const* src, std::byte* dst) const noexcept;

 private:
  enum class Part : std::uint8_t { OuterLoop, NestOuter, NestInner, Run };
  /// One loop that is cut; only the last one is cut in steps of more than 1.
  struct Slot {
    Part part = Part::OuterLoop;
    std::uint32_t loop = 0;
    std::uint64_t extent = 1;
    std::uint64_t quantum = 1;
    [[nodiscard]] std::uint64_t units() const noexcept { return (extent + quantum - 1) / quantum; }
  };
  void restrict(BoxPlan& plan, Slot const& slot, std::uint64_t begin, std::uint64_t count,
                std::byte const*& src, std::byte*& dst) const noexcept;

  BoxPlan plan_;
  std::array<Slot, KVBM_MAX_COPY_DIMS + 3> slots_{};
  std::uint32_t num_slots_ = 0;
  std::uint64_t num_units_ = 1;
  std::uint64_t num_pieces_ = 1;
};

}  // namespace kvbm::kernels
