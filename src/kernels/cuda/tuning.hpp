// SPDX-License-Identifier: Apache-2.0
#pragma once

#include <cstdint>

#include "kernels/cuda/reduced_shape.hpp"
#include "kvbm/kernels/kernels.h"

namespace kvbm::kernels {

/// How a copy is spread over the device; 0 means: chosen from shape and launch.
struct CopyTuning {
  unsigned threads = 0;           ///< of a thread block that loads and stores
  unsigned unroll = 0;            ///< vectors in flight per lane: 4 or 8 (runs of 2 KiB and more)
  unsigned stretch_min_run = 0;   ///< runs from here on are copied in stretches
  unsigned bulk_warps = 0;        ///< 1 to 8
  unsigned bulk_stage_bytes = 0;  ///< a multiple of 128
  unsigned bulk_lag = 0;          ///< 1 or 3 of the 6 stages on their way out
  Walk walk = Walk::Destination;
};

/// kvbm_cuda_strided_copy with every choice open.
kvbm_status strided_copy(kvbm_copy_template const* shape, kvbm_copy_boxes const* boxes,
                         kvbm_cuda_launch const* launch, CopyTuning const& tuning);

}  // namespace kvbm::kernels
