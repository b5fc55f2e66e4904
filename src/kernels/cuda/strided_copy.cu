// SPDX-License-Identifier: Apache-2.0
//
// The general copy: segments and block ids travel as kernel parameters.
#include <algorithm>
#include <cstdint>

#include "kernels/box_copier.hpp"
#include "kernels/cuda/launch.cuh"
#include "kernels/cuda/load_kernels.hpp"
#include "kernels/cuda/reduced_shape.hpp"
#include "kernels/cuda/status.hpp"
#include "kernels/cuda/tuning.hpp"
#include "kvbm/kernels/copy_engine.hpp"

namespace kvbm::kernels {
namespace {

// Parameters of a launch end at 32764 bytes. Small calls take a smaller variant: what is not there
// is not copied.
using SmallBoxes = ParamBoxes<3584>;
using MediumBoxes = ParamBoxes<15872>;
using LargeBoxes = ParamBoxes<32256>;
static_assert(sizeof(LargeBoxes) + sizeof(CopyNest) + 2 * sizeof(std::uint32_t) <= 32764);

enum class Kernel : std::uint8_t { Units, Stretches, Bulk };

/// What was decided once for all launches of a call.
struct Method {
  Kernel kernel = Kernel::Units;
  unsigned width = 16;           ///< of a unit's vector
  std::uint64_t unit_bytes = 0;  ///< Units: width
  int unroll = 4;
  std::uint32_t slots = 1;        ///< Bulk: units of a stage
  std::uint32_t stage_bytes = 0;  ///< Bulk
};

/// The widest vector that every address of the call is a multiple of; 16 at most.
unsigned common_width(kvbm_copy_template const& shape, kvbm_copy_boxes const& boxes) noexcept {
  std::uint64_t bits = 16 | shape.run_bytes | boxes.src_block_stride | boxes.dst_block_stride;
  for (std::uint32_t i = 0; i < shape.num_dims; ++i) {
    bits |= static_cast<std::uint64_t>(shape.dims[i].src_stride | shape.dims[i].dst_stride);
  }
  for (std::size_t i = 0; i < boxes.num_segments; ++i)
    bits |= boxes.src_segments[i] | boxes.dst_segments[i];
  return static_cast<unsigned>(bits & (0 - bits));
}

bool takes_bulk(kvbm_copy_template const& shape, unsigned width, kvbm_cuda_launch const& launch,
                DeviceTraits const& device) noexcept {
  constexpr std::uint64_t kAutoMinRun = 1024;
  constexpr std::uint32_t kAutoMaxCtas = 16;
  if (device.compute_capability < 90 || width < 16) return false;
  if (launch.way != KVBM_CUDA_WAY_AUTO) return launch.way == KVBM_CUDA_WAY_BULK;
  return shape.run_bytes >= kAutoMinRun && launch.max_ctas != 0 && launch.max_ctas <= kAutoMaxCtas;
}

Method choose(kvbm_copy_template const& shape, kvbm_copy_boxes const& boxes,
              kvbm_cuda_launch const& launch, DeviceTraits const& device, CopyTuning& tuning) {
  Method method;
  method.width = common_width(shape, boxes);
  if (takes_bulk(shape, method.width, launch, device)) {
    if (tuning.bulk_warps == 0) tuning.bulk_warps = 4;
    if (tuning.bulk_stage_bytes == 0) tuning.bulk_stage_bytes = 8192;
    method.kernel = Kernel::Bulk;
    method.stage_bytes = tuning.bulk_stage_bytes;
    std::uint64_t const pieces = (shape.run_bytes + method.stage_bytes - 1) / method.stage_bytes;
    // Pieces of equal size, whole lines each.
    method.unit_bytes =
        pieces == 1 ? shape.run_bytes
                    : (shape.run_bytes / pieces + kBulkAlignment) / kBulkAlignment * kBulkAlignment;
    method.unit_bytes = std::min<std::uint64_t>(method.unit_bytes, method.stage_bytes);
    method.slots = static_cast<std::uint32_t>(
        std::min<std::uint64_t>(kWarp, method.stage_bytes / method.unit_bytes));
    return method;
  }
  std::uint64_t const min_run = tuning.stretch_min_run != 0 ? tuning.stretch_min_run
                                : method.width == 16        ? kStretchMinRun
                                                            : kNarrowStretchMinRun;
  if (shape.run_bytes < min_run) {
    method.unit_bytes = method.width;
    return method;
  }
  method.kernel = Kernel::Stretches;
  method.unroll = tuning.unroll != 0        ? static_cast<int>(tuning.unroll)
                  : shape.run_bytes >= 4096 ? 8
                                            : 4;
  method.unit_bytes = kWarp * 16 * static_cast<unsigned>(method.unroll);
  return method;
}

template <class Boxes>
cudaError_t launch_boxes(Method const& method, Boxes const& source, CopyNest const& nest,
                         LaunchPlan const& plan) {
  if (method.kernel == Kernel::Bulk) {
    return plan.tuning.bulk_lag == 3
               ? launch_bulk<Boxes, 3>(source, nest, method.slots, method.stage_bytes, plan)
               : launch_bulk<Boxes, 1>(source, nest, method.slots, method.stage_bytes, plan);
  }
  if (method.kernel == Kernel::Stretches) {
    return launch_loads<Boxes>(
        method.unroll == 8 ? copy_stretches<Boxes, 8> : copy_stretches<Boxes, 4>, source, nest, 1,
        plan);
  }
  constexpr int kUnroll = 4;
  if (method.width == 16) {
    return launch_loads<Boxes>(copy_units<Boxes, 16, kUnroll>, source, nest, kWarp * kUnroll, plan);
  }
  if constexpr (Boxes::kTableBytes == LargeBoxes::kTableBytes) {
    switch (method.width) {
      case 8:
        return launch_loads<Boxes>(copy_units<Boxes, 8, kUnroll>, source, nest, kWarp * kUnroll,
                                   plan);
      case 4:
        return launch_loads<Boxes>(copy_units<Boxes, 4, kUnroll>, source, nest, kWarp * kUnroll,
                                   plan);
      case 2:
        return launch_loads<Boxes>(copy_units<Boxes, 2, kUnroll>, source, nest, kWarp * kUnroll,
                                   plan);
      default:
        return launch_loads<Boxes>(copy_units<Boxes, 1, kUnroll>, source, nest, kWarp * kUnroll,
                                   plan);
    }
  }
  return cudaErrorInvalidValue;
}

/// A part of the boxes that one launch takes.
struct Slice {
  std::size_t first_segment;
  std::size_t num_segments;
  std::size_t first_block;
  std::size_t num_blocks;
  [[nodiscard]] std::size_t table_bytes() const noexcept {
    return num_segments * 2 * sizeof(std::uint64_t) + num_blocks * 2 * sizeof(std::uint32_t);
  }
};

template <class Boxes>
cudaError_t launch_slice(kvbm_copy_template const& shape, kvbm_copy_boxes const& boxes,
                         Slice const& slice, std::int64_t src_offset, std::int64_t dst_offset,
                         Method const& method, LaunchPlan const& plan) {
  Boxes source;
  source.src_block_stride = boxes.src_block_stride;
  source.dst_block_stride = boxes.dst_block_stride;
  source.segments_inside = segments_lie_in_block(boxes) ? 1 : 0;
  source.inner = FastDivider(source.segments_inside != 0 ? slice.num_segments : slice.num_blocks);
  source.num_segments = static_cast<std::uint32_t>(slice.num_segments);
  source.num_blocks = static_cast<std::uint32_t>(slice.num_blocks);
  for (std::size_t i = 0; i < slice.num_segments; ++i) {
    source.tables[i] =
        boxes.src_segments[slice.first_segment + i] + static_cast<std::uint64_t>(src_offset);
    source.tables[slice.num_segments + i] =
        boxes.dst_segments[slice.first_segment + i] + static_cast<std::uint64_t>(dst_offset);
  }
  auto* const ids = reinterpret_cast<std::uint32_t*>(source.tables + 2 * slice.num_segments);
  std::copy_n(boxes.src_blocks + slice.first_block, slice.num_blocks, ids);
  std::copy_n(boxes.dst_blocks + slice.first_block, slice.num_blocks, ids + slice.num_blocks);
  CopyNest const nest(shape, method.unit_bytes,
                      std::uint64_t{slice.num_segments} * slice.num_blocks);
  return launch_boxes(method, source, nest, plan);
}

cudaError_t launch_piece(kvbm_copy_template const& shape, kvbm_copy_boxes const& boxes,
                         std::int64_t src_offset, std::int64_t dst_offset, Method const& method,
                         LaunchPlan const& plan) {
  constexpr std::size_t kCapacity = LargeBoxes::kTableBytes;
  constexpr std::size_t kSegmentBytes = 2 * sizeof(std::uint64_t);
  constexpr std::size_t kBlockBytes = 2 * sizeof(std::uint32_t);
  std::uint64_t const units = units_per_box(shape, method.unit_bytes);
  std::size_t const max_boxes = std::max<std::uint64_t>(1, kMaxUnits / units);
  std::size_t const max_segments =
      std::min<std::size_t>({boxes.num_segments, kCapacity / 2 / kSegmentBytes, max_boxes});
  for (std::size_t segment = 0; segment < boxes.num_segments; segment += max_segments) {
    std::size_t const segments = std::min(max_segments, boxes.num_segments - segment);
    std::size_t const max_blocks = std::min((kCapacity - segments * kSegmentBytes) / kBlockBytes,
                                            std::max<std::size_t>(1, max_boxes / segments));
    for (std::size_t block = 0; block < boxes.num_blocks; block += max_blocks) {
      Slice const slice{segment, segments, block, std::min(max_blocks, boxes.num_blocks - block)};
      bool const narrow = method.kernel == Kernel::Units && method.width < 16;
      auto* const launch =
          narrow || slice.table_bytes() > MediumBoxes::kTableBytes ? launch_slice<LargeBoxes>
          : slice.table_bytes() > SmallBoxes::kTableBytes          ? launch_slice<MediumBoxes>
                                                                   : launch_slice<SmallBoxes>;
      cudaError_t const error = launch(shape, boxes, slice, src_offset, dst_offset, method, plan);
      if (error != cudaSuccess) return error;
    }
  }
  return cudaSuccess;
}

template <class Kernel>
void const* address_of(Kernel* kernel) {
  return reinterpret_cast<void const*>(kernel);
}

template <class Boxes>
cudaError_t load_kernels_over() {
  return load_kernels({address_of(copy_units<Boxes, 16, 4>), address_of(copy_stretches<Boxes, 8>),
                       address_of(copy_stretches<Boxes, 4>),
                       address_of(copy_bulk<Boxes, kBulkStages, 1>)});
}

}  // namespace

cudaError_t load_copy_kernels() {
  cudaError_t error = load_kernels_over<SmallBoxes>();
  if (error == cudaSuccess) { error = load_kernels_over<MediumBoxes>(); }
  if (error == cudaSuccess) { error = load_kernels_over<LargeBoxes>(); }
  if (error != cudaSuccess) { return error; }
  return load_kernels(
      {address_of(copy_units<LargeBoxes, 8, 4>), address_of(copy_units<LargeBoxes, 4, 4>),
       address_of(copy_units<LargeBoxes, 2, 4>), address_of(copy_units<LargeBoxes, 1, 4>)});
}

kvbm_status strided_copy(kvbm_copy_template const* shape, kvbm_copy_boxes const* boxes,
                         kvbm_cuda_launch const* launch, CopyTuning const& tuning) {
  if (shape == nullptr || boxes == nullptr || launch == nullptr ||
      find_fault(*shape, *boxes) != nullptr ||
      (launch->way != KVBM_CUDA_WAY_AUTO && launch->way != KVBM_CUDA_WAY_LOADS &&
       launch->way != KVBM_CUDA_WAY_BULK)) {
    return KVBM_STATUS_INVALID_VALUE;
  }
  if (boxes->num_segments == 0 || boxes->num_blocks == 0 || box_bytes(*shape) == 0) {
    return KVBM_STATUS_OK;
  }
  LaunchPlan plan{static_cast<cudaStream_t>(launch->stream), launch->max_ctas, {}, tuning};
  if (cudaError_t const error = current_device_traits(plan.device); error != cudaSuccess) {
    return checked(error);
  }
  kvbm_copy_template const simple = reduced(*shape, tuning.walk);
  Method const method = choose(simple, *boxes, *launch, plan.device, plan.tuning);
  return checked(
      for_each_piece(simple, method.unit_bytes, 0, 0,
                     [&](kvbm_copy_template const& piece, std::int64_t src, std::int64_t dst) {
                       return launch_piece(piece, *boxes, src, dst, method, plan);
                     }));
}

}  // namespace kvbm::kernels

extern "C" kvbm_status kvbm_cuda_load_kernels(void) {
  cudaError_t const error = kvbm::kernels::load_copy_kernels();
  return kvbm::kernels::checked(error != cudaSuccess ? error
                                                     : kvbm::kernels::load_checksum_kernels());
}

extern "C" kvbm_status kvbm_cuda_strided_copy(kvbm_copy_template const* shape,
                                              kvbm_copy_boxes const* boxes,
                                              kvbm_cuda_launch const* launch) {
  return kvbm::kernels::strided_copy(shape, boxes, launch, {});
}
