// SPDX-License-Identifier: Apache-2.0
#pragma once

#include <cstdint>

#include "kvbm/device/stream.hpp"
#include "kvbm/kernels/kernels.h"

/// Copies enqueued on a stream, whatever is behind it: kernels and copy engines of a CUDA device,
/// copy threads of an emulated one.
namespace kvbm::transfer {

/// @throws Error(Device), UnsupportedError for a status that is not OK
void check_status(kvbm_status status, char const* what);

/// By a kernel. @param max_ctas  0 = fills the device
/// @throws Error(Device)
void enqueue_kernel_copy(device::Stream& stream, kvbm_copy_template const& shape,
                         kvbm_copy_boxes const& boxes, unsigned max_ctas);

/// By copy engines. @throws Error(Device)
void enqueue_dma(device::Stream& stream, kvbm_copy_template const& shape,
                 kvbm_copy_boxes const& boxes);

/// Makes a CUDA device current in this thread for as long as it lives; nothing for an emulated one.
class CurrentDevice {
 public:
  /// @throws Error(Device)
  CurrentDevice(device::Backend backend, DeviceId id);
  ~CurrentDevice();
  CurrentDevice(CurrentDevice const&) = delete;
  CurrentDevice& operator=(CurrentDevice const&) = delete;

 private:
  int previous_ = -1;
};

}  // namespace kvbm::transfer
