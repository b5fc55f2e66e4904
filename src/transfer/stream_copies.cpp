// SPDX-License-Identifier: Apache-2.0
#include "transfer/stream_copies.hpp"

#include <fmt/format.h>

#include <memory>
#include <vector>

#include "kvbm/core/error.hpp"
#include "kvbm/core/log.hpp"

namespace kvbm::transfer {
namespace {

/// What the arrays behind kvbm_copy_boxes hold, for work that runs after the call.
struct OwnedBoxes {
  std::vector<std::uintptr_t> segments;
  std::vector<std::uint32_t> blocks;
  kvbm_copy_boxes boxes;

  explicit OwnedBoxes(kvbm_copy_boxes const& from) : boxes(from) {
    segments.assign(from.src_segments, from.src_segments + from.num_segments);
    segments.insert(segments.end(), from.dst_segments, from.dst_segments + from.num_segments);
    blocks.assign(from.src_blocks, from.src_blocks + from.num_blocks);
    blocks.insert(blocks.end(), from.dst_blocks, from.dst_blocks + from.num_blocks);
    boxes.src_segments = segments.data();
    boxes.dst_segments = segments.data() + from.num_segments;
    boxes.src_blocks = blocks.data();
    boxes.dst_blocks = blocks.data() + from.num_blocks;
  }
};

void enqueue_emulated(device::Stream& stream, kvbm_copy_template const& shape,
                      kvbm_copy_boxes const& boxes) {
  auto const owned = std::make_shared<OwnedBoxes>(boxes);
  stream.enqueue([shape, owned] {
    kvbm_status const status = kvbm_cpu_strided_copy(&shape, &owned->boxes);
    if (status != KVBM_STATUS_OK) {
      log::write(log::Level::Error,
                 fmt::format("an emulated device's copy failed: {}", kvbm_status_string(status)));
    }
  });
}

}  // namespace

void check_status(kvbm_status status, char const* what) {
  if (status == KVBM_STATUS_OK) { return; }
  if (status == KVBM_STATUS_CUDA_ERROR) {
    int const code = kvbm_cuda_last_error();
    throw_error(ErrorCode::Device, fmt::format("{}: {}", what, kvbm_cuda_error_string(code)), code);
  }
  throw_error(status == KVBM_STATUS_NOT_SUPPORTED ? ErrorCode::Unsupported : ErrorCode::Internal,
              fmt::format("{}: {}", what, kvbm_status_string(status)));
}

void enqueue_kernel_copy(device::Stream& stream, kvbm_copy_template const& shape,
                         kvbm_copy_boxes const& boxes, unsigned max_ctas) {
  if (stream.backend() == device::Backend::Host) {
    enqueue_emulated(stream, shape, boxes);
    return;
  }
  kvbm_cuda_launch const launch{stream.native_handle(), max_ctas, KVBM_CUDA_WAY_AUTO};
  check_status(kvbm_cuda_strided_copy(&shape, &boxes, &launch), "starting a copy kernel");
}

void enqueue_dma(device::Stream& stream, kvbm_copy_template const& shape,
                 kvbm_copy_boxes const& boxes) {
  if (stream.backend() == device::Backend::Host) {
    enqueue_emulated(stream, shape, boxes);
    return;
  }
  check_status(kvbm_cuda_strided_dma(&shape, &boxes, KVBM_MEMCPY_BATCHED_WITH_FALLBACK,
                                     stream.native_handle(), nullptr, nullptr),
               "submitting copies");
}

CurrentDevice::CurrentDevice(device::Backend backend, DeviceId id) {
  if (backend == device::Backend::Cuda) {
    check_status(kvbm_cuda_make_current(id, &previous_), "selecting the device");
  }
}

CurrentDevice::~CurrentDevice() {
  if (previous_ >= 0) { static_cast<void>(kvbm_cuda_make_current(previous_, nullptr)); }
}

}  // namespace kvbm::transfer
