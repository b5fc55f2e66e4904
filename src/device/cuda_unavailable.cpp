// SPDX-License-Identifier: Apache-2.0
//
// What a build without the CUDA backend answers.
#include <string>

#include "kvbm/core/error.hpp"
#include "kvbm/device/device.hpp"

namespace kvbm::device {

std::string cuda_unavailable_reason() { return "this build has no CUDA backend"; }

DevicePtr make_cuda_device(DeviceId /*id*/) {
  throw UnsupportedError("no CUDA device: " + cuda_unavailable_reason());
}

StreamPtr wrap_cuda_stream(DeviceId /*id*/, void* /*native_handle*/) {
  throw UnsupportedError("no CUDA device: " + cuda_unavailable_reason());
}

EventPtr wrap_cuda_event(DeviceId /*id*/, void* /*native_handle*/) {
  throw UnsupportedError("no CUDA device: " + cuda_unavailable_reason());
}

}  // namespace kvbm::device
