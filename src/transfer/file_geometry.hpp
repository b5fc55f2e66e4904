// SPDX-License-Identifier: Apache-2.0
#pragma once

#include "kvbm/layout/physical_layout.hpp"
#include "kvbm/transfer/validate.hpp"

/// Pure questions about how blocks lie in files and in the memory beside them.
namespace kvbm::transfer {

/// Whether every block consists of the same extents with the same bytes in them on both sides.
[[nodiscard]] bool same_extents(layout::PhysicalLayout const& a, layout::PhysicalLayout const& b);

/// same_extents, and the selection takes every extent it touches as a whole.
[[nodiscard]] bool extents_match(ValidatedPair const& pair);

/// Whether a selection takes only parts of `layout`'s extents: then writing needs reading first.
[[nodiscard]] bool is_partial(layout::PhysicalLayout const& layout, IndexRange layers,
                              IndexRange heads);

/// Whether the memory side of a pair with one store can be read and written by its I/O itself.
[[nodiscard]] bool aligned_for_direct_io(ValidatedPair const& pair);

/// Whether a bounce layout has the extents of the file side, so that it can take staging's place.
[[nodiscard]] bool bounce_serves_as_staging(ValidatedPair const& pair,
                                            layout::PhysicalLayout const& bounce);

/// Checks that a bounce layout can hold the pair's blocks.
/// @throws Error(InvalidArgument) it has the shape of neither side
void validate_bounce_fits(ValidatedPair const& pair, layout::PhysicalLayout const& bounce);

}  // namespace kvbm::transfer
