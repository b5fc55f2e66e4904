// SPDX-License-Identifier: Apache-2.0
//
// What a build without CUDA answers.
#include "kvbm/core/error.hpp"
#include "plain_copies.hpp"

namespace kvbm::cli {

std::unique_ptr<PlainCopies> make_plain_cuda(DeviceId /*id*/) {
  throw UnsupportedError("no CUDA device: this build has no CUDA backend");
}

}  // namespace kvbm::cli
