// SPDX-License-Identifier: Apache-2.0
#include "contract/device_contract.hpp"

namespace kvbm::device::contract {
namespace {

DeviceFactory host(DeviceId id) {
  return {"host" + std::to_string(id),
          [id] { return make_host_device(id, {std::uint64_t{64} << 20U}); }, true};
}

INSTANTIATE_TEST_SUITE_P(Host, DeviceContract, ::testing::Values(host(0), host(3)),
                         [](auto const& instance) { return instance.param.name; });

}  // namespace
}  // namespace kvbm::device::contract
