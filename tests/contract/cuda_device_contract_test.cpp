// SPDX-License-Identifier: Apache-2.0
#include "contract/device_contract.hpp"

namespace kvbm::device::contract {
namespace {

DeviceFactory cuda(DeviceId id) {
  return {"cuda" + std::to_string(id), [id] { return make_cuda_device(id); }, true};
}

INSTANTIATE_TEST_SUITE_P(Cuda, DeviceContract, ::testing::Values(cuda(0)),
                         [](auto const& instance) { return instance.param.name; });

}  // namespace
}  // namespace kvbm::device::contract
