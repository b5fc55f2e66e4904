// SPDX-License-Identifier: Apache-2.0
#pragma once

#include <cstdint>

#include "kvbm/kernels/kernels.h"

namespace kvbm::kernels {

/// Which side is walked in the order of its addresses.
enum class Walk : std::uint8_t { Destination, Source };

/// A template with what is contiguous on both sides merged, loops of one iteration dropped, and the
/// loop with the longest stride on the walked side outermost.
/// @pre find_fault(shape) is null and the box is not empty
kvbm_copy_template reduced(kvbm_copy_template const& shape, Walk walk) noexcept;

/// Whether boxes are walked block by block rather than segment by segment.
bool segments_lie_in_block(kvbm_copy_boxes const& boxes) noexcept;

}  // namespace kvbm::kernels
