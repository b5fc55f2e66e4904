// SPDX-License-Identifier: Apache-2.0
#pragma once

#include <cstdint>
#include <vector>

#include "kvbm/kernels/kernels.h"
#include "kvbm/transfer/copy_plan.hpp"

namespace kvbm::transfer {

/// Which side of a plan.
enum class Side { Source, Destination };

/// A plan cut in two by a compact image of its blocks, in the order in which they lie on one side
/// (the host's): a kernel copies between the image and the other side, whatever the formats, and
/// between image and host only long contiguous pieces are left, which copy engines like.
struct StagingImage {
  /// One of the two copies. The image's segments are offsets from the start of its block 0; its
  /// blocks lie `block_bytes` apart.
  struct Hop {
    kvbm_copy_template shape{};
    std::vector<std::uint64_t> image_segments;  ///< offsets, one for each of `segments`
    std::vector<SegmentBase> segments;          ///< of the layout at the other end
    std::uint64_t block_stride = 0;             ///< of the layout at the other end
  };
  Hop device;  ///< between the image and the side that is not the host's
  Hop host;    ///< between the image and the host's side
  std::uint64_t block_bytes = 0;
  std::uint64_t pieces_per_block = 0;  ///< contiguous pieces of the host's side
  bool blocks_adjoin =
      false;  ///< the host's side of a block is one piece that the next one follows
};

/// @param host_side  whose order the image has
StagingImage make_staging_image(CopyPlan const& plan, Side host_side);

}  // namespace kvbm::transfer
