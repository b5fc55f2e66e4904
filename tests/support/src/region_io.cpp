// SPDX-License-Identifier: Apache-2.0
#include "kvbm/testing/region_io.hpp"

#include <cstring>
#include <stdexcept>
#include <string>

#include "kvbm/kernels/kernels.h"

namespace kvbm::testing {
namespace {

void check(kvbm_status status) {
  if (status == KVBM_STATUS_OK) { return; }
  char const* const why = status == KVBM_STATUS_CUDA_ERROR
                              ? kvbm_cuda_error_string(kvbm_cuda_last_error())
                              : kvbm_status_string(status);
  throw std::runtime_error(std::string("a test's access to device memory: ") + why);
}

/// Makes the device current for a scope.
class Current {
 public:
  explicit Current(DeviceId id) { check(kvbm_cuda_make_current(id, &previous_)); }
  ~Current() { static_cast<void>(kvbm_cuda_make_current(previous_, nullptr)); }
  Current(Current const&) = delete;
  Current& operator=(Current const&) = delete;

 private:
  int previous_ = 0;
};

// On the default stream, which ours are not ordered with. A copy into pageable memory has ended
// when the call returns, and so has everything before it on that stream.
void copy_now(void const* src, void* dst, std::size_t bytes) {
  check(kvbm_cuda_memcpy_batch(&src, &dst, bytes, 1, KVBM_MEMCPY_FALLBACK_ONLY, nullptr, nullptr));
}

}  // namespace

std::vector<std::byte> read_region(memory::Region const& region) {
  std::vector<std::byte> bytes(region.bytes());
  if (region.host_data() != nullptr) {
    std::memcpy(bytes.data(), region.host_data(), bytes.size());
  } else {
    Current const current(region.device_id());
    copy_now(reinterpret_cast<void const*>(region.address()), bytes.data(), bytes.size());
  }
  return bytes;
}

void write_region(memory::Region const& region, std::span<std::byte const> bytes) {
  if (bytes.size() != region.bytes()) {
    throw std::runtime_error("write_region: " + std::to_string(bytes.size()) + " bytes for " +
                             std::to_string(region.bytes()));
  }
  if (region.host_data() != nullptr) {
    std::memcpy(region.host_data(), bytes.data(), bytes.size());
    return;
  }
  Current const current(region.device_id());
  auto* const address = reinterpret_cast<std::byte*>(region.address());
  copy_now(bytes.data(), address, bytes.size());
  std::byte last{};
  copy_now(address + bytes.size() - 1, &last, 1);
}

}  // namespace kvbm::testing
