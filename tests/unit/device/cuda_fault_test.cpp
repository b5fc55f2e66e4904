// SPDX-License-Identifier: Apache-2.0
//
// What a kernel that faults leaves behind. In processes of their own: nothing of CUDA works in one
// afterwards.
#include <gtest/gtest.h>
#include <unistd.h>

#include <atomic>
#include <cstdio>
#include <cstdlib>
#include <exception>
#include <functional>
#include <memory>
#include <string>
#include <vector>

#include "contract/device_support.hpp"
#include "kvbm/core/error.hpp"
#include "kvbm/device/device.hpp"
#include "unit/device/cuda_test_kernels.hpp"

namespace kvbm::device::testing {
namespace {

using contract::Latch;
using namespace kvbm::literals;

// Ends the child with a failure that says where.
void expect(bool condition, char const* what) {
  if (condition) { return; }
  std::fprintf(stderr, "failed: %s\n", what);
  std::_Exit(1);
}

bool is_device_error(std::exception_ptr const& error) {
  if (error == nullptr) { return false; }
  try {
    std::rethrow_exception(error);
  } catch (Error const& thrown) {
    return thrown.code() == ErrorCode::Device && thrown.native_code() != 0 &&
           std::string(thrown.what()).find("cudaError") != std::string::npos;
  } catch (...) { return false; }
}

bool throws_device_error(std::function<void()> const& action) {
  try {
    action();
  } catch (...) { return is_device_error(std::current_exception()); }
  return false;
}

void fault_with_callbacks_pending() {
  alarm(120);  // a hang ends here, as a failure
  {
    auto device = make_cuda_device(0);
    expect(load_kernels() == cudaSuccess, "load");
    auto const region = device->allocate(1_MiB, 512);
    auto pool = device->create_memory_pool(1_MiB, 0);
    auto const faulty = device->create_stream("faulty");
    auto const temporary = pool->allocate(4096, faulty);
    auto const fault_end = device->create_event();
    std::vector<StreamPtr> streams;
    constexpr int kStreams = 6;
    auto const gate = std::make_shared<Latch>();
    // Nothing can end before the fault: all of it stands behind the gate.
    faulty->enqueue([gate] { static_cast<void>(gate->wait()); });
    expect(launch_fault(static_cast<cudaStream_t>(faulty->native_handle())) == cudaSuccess,
           "launch");
    faulty->record(fault_end);
    std::atomic<int> num_called{0};
    std::atomic<int> num_right{0};
    std::atomic<int> num_worked{0};
    auto const all = std::make_shared<Latch>();
    for (int i = 0; i < kStreams; ++i) {
      auto const stream = device->create_stream("behind." + std::to_string(i));
      auto const event = device->create_event();
      stream->wait(fault_end);
      stream->enqueue([&num_worked] { ++num_worked; });
      stream->record(event);
      device->when_complete(event, [&, all](std::exception_ptr const& error) {
        num_right += is_device_error(error) ? 1 : 0;
        if (++num_called == kStreams) { all->open(); }
      });
      streams.push_back(stream);
    }
    gate->open();
    expect(all->wait(), "every callback is called");
    expect(num_right == kStreams, "every callback gets the error of the device");
    expect(throws_device_error([&] { faulty->synchronize(); }), "synchronize reports");
    expect(throws_device_error([&] { fault_end->wait(); }), "an event's wait reports");
    expect(throws_device_error([&] { static_cast<void>(fault_end->is_complete()); }),
           "an event's state reports");
    expect(throws_device_error([&] { device->synchronize(); }), "the device reports");
    expect(throws_device_error([&] { static_cast<void>(device->allocate(4096, 512)); }),
           "an allocation reports");
    // Host work runs in spite of all, and destructors neither throw nor hang.
    auto const late = std::make_shared<Latch>();
    faulty->enqueue([late] { late->open(); });
    expect(late->wait(), "work runs after the fault");
    streams.clear();
    expect(num_worked == kStreams, "all work ran");
  }
  std::fprintf(stderr, "survived\n");
  std::_Exit(0);
}

TEST(CudaFaultDeathTest, EveryPendingCallbackGetsTheError) {
  std::string const reason = cuda_unavailable_reason();
  if (!reason.empty()) { GTEST_SKIP() << "no CUDA device: " << reason; }
  ::testing::FLAGS_gtest_death_test_style = "threadsafe";
  EXPECT_EXIT(fault_with_callbacks_pending(), ::testing::ExitedWithCode(0), "survived");
}

// The end of a process with work of a broken GPU pending is nobody's crash.
void fault_and_return() {
  alarm(120);
  auto const device = make_cuda_device(0);
  auto const stream = device->create_stream("faulty");
  auto const event = device->create_event();
  expect(launch_fault(static_cast<cudaStream_t>(stream->native_handle())) == cudaSuccess, "launch");
  stream->record(event);
  device->when_complete(event, [](std::exception_ptr const&) {});
}

TEST(CudaFaultDeathTest, ProcessEndsCleanly) {
  std::string const reason = cuda_unavailable_reason();
  if (!reason.empty()) { GTEST_SKIP() << "no CUDA device: " << reason; }
  ::testing::FLAGS_gtest_death_test_style = "threadsafe";
  EXPECT_EXIT(
      {
        fault_and_return();
        std::exit(0);
      },
      ::testing::ExitedWithCode(0), "");
}

}  // namespace
}  // namespace kvbm::device::testing
