// SPDX-License-Identifier: Apache-2.0
#include <gmock/gmock.h>

#include <atomic>
#include <filesystem>
#include <memory>
#include <thread>

#include "device/cuda/cuda_driver.hpp"
#include "unit/device/cuda_fixture.hpp"
#include "unit/device/cuda_test_kernels.hpp"

namespace kvbm::device::testing {
namespace {

using contract::code_of;
using contract::Latch;
using ::testing::HasSubstr;
using ::testing::StartsWith;
using namespace kvbm::literals;

struct CudaDevice : CudaTest {};

TEST(CudaAvailability, ReasonAndRefusalAgree) {
  std::string const reason = cuda_unavailable_reason();
  if (reason.empty()) {
    EXPECT_NO_THROW(static_cast<void>(make_cuda_device(0)));
    return;
  }
  try {
    static_cast<void>(make_cuda_device(0));
    FAIL() << "a device without CUDA";
  } catch (UnsupportedError const& error) { EXPECT_EQ(error.what(), "no CUDA device: " + reason); }
  EXPECT_EQ(code_of([] { static_cast<void>(wrap_cuda_stream(0, nullptr)); }),
            ErrorCode::Unsupported);
  EXPECT_EQ(code_of([] { static_cast<void>(wrap_cuda_event(0, nullptr)); }),
            ErrorCode::Unsupported);
}

TEST_F(CudaDevice, WrongIdNamesThoseThereAre) {
  for (DeviceId const id : {-1, 4711}) {
    try {
      static_cast<void>(make_cuda_device(id));
      FAIL() << "device " << id;
    } catch (Error const& error) {
      EXPECT_EQ(error.code(), ErrorCode::NotFound);
      EXPECT_THAT(error.what(), HasSubstr(std::to_string(id)));
      EXPECT_THAT(error.what(), HasSubstr("[0"));
    }
  }
}

TEST_F(CudaDevice, TellsWhatItIs) {
  EXPECT_EQ(device_->backend(), Backend::Cuda);
  EXPECT_FALSE(device_->name().empty());
  EXPECT_FALSE(device_->is_host_accessible());
  DeviceProperties const properties = device_->properties();
  EXPECT_THAT(properties.uuid, StartsWith("GPU-"));
  EXPECT_EQ(properties.uuid.size(), 40U);
  EXPECT_GT(properties.num_multiprocessors, 0U);
  EXPECT_GE(properties.compute_capability, 70);
  EXPECT_GE(properties.driver_version, 12000);
  EXPECT_GE(properties.runtime_version, 12000);
  EXPECT_GE(device_->numa_node(), -1);
  // In a container sysfs may show nothing.
  if (std::filesystem::exists("/sys/bus/pci/devices")) {
    EXPECT_EQ(properties.pci_address.size(), 12U) << properties.pci_address;
  }
}

TEST_F(CudaDevice, AddressesItselfAndNoDeviceThatIsNotThere) {
  EXPECT_TRUE(device_->can_address(0));
  EXPECT_FALSE(device_->can_address(4711));
}

TEST_F(CudaDevice, LeavesTheCallersContextAlone) {
  // A thread that never used CUDA has no context, and gets none from what we do on it.
  bool had_none = false;
  bool has_none = false;
  std::thread([&] {
    CUcontext context = nullptr;
    cuda_driver().context_get_current(&context);
    had_none = context == nullptr;
    auto const stream = device_->create_stream("elsewhere");
    auto const event = device_->create_event();
    auto const region = device_->allocate(4096, 512);
    stream->record(event);
    event->wait();
    stream->synchronize();
    cuda_driver().context_get_current(&context);
    has_none = context == nullptr;
  }).join();
  EXPECT_TRUE(had_none);
  EXPECT_TRUE(has_none);
}

TEST_F(CudaDevice, TwoThreadsKeepTheirCurrentDevices) {
  int count = 0;
  ASSERT_EQ(cudaGetDeviceCount(&count), cudaSuccess);
  if (count < 2) { GTEST_SKIP() << "one GPU only"; }
  auto const other = make_cuda_device(1);
  auto const use_both = [&](int mine) {
    EXPECT_EQ(cudaSetDevice(mine), cudaSuccess);
    for (int i = 0; i < 100; ++i) {
      static_cast<void>(device_->allocate(4096, 512));
      static_cast<void>(other->allocate(4096, 512));
      other->create_stream("a")->synchronize();
      int now = -1;
      EXPECT_EQ(cudaGetDevice(&now), cudaSuccess);
      EXPECT_EQ(now, mine);
    }
  };
  std::thread first(use_both, 0);
  std::thread second(use_both, 1);
  first.join();
  second.join();
}

TEST_F(CudaDevice, RefusesStreamOfAnotherDevice) {
  int count = 0;
  ASSERT_EQ(cudaGetDeviceCount(&count), cudaSuccess);
  if (count < 2) { GTEST_SKIP() << "one GPU only"; }
  auto const stream = device_->create_stream("mine");
  EXPECT_EQ(code_of([&] { static_cast<void>(wrap_cuda_stream(1, native(stream))); }),
            ErrorCode::InvalidArgument);
}

TEST_F(CudaDevice, WrappedStreamDoesWhatItsOwnerEnqueued) {
  cudaStream_t theirs = nullptr;
  ASSERT_EQ(cudaStreamCreateWithFlags(&theirs, cudaStreamNonBlocking), cudaSuccess);
  auto const counter =
      device_->pin(make_memory_source({})->allocate({memory::StorageKind::System, 4096, 512, -1}));
  auto* const value = reinterpret_cast<int*>(counter.host_data());
  {
    auto const stream = wrap_cuda_stream(0, theirs);
    EXPECT_EQ(stream->native_handle(), theirs);
    EXPECT_EQ(stream->backend(), Backend::Cuda);
    ASSERT_EQ(launch_store(theirs, value, 1, 2000), cudaSuccess);
    int seen = 0;
    stream->enqueue([&] { seen = *value; });
    ASSERT_EQ(launch_store(theirs, value, 2, 0), cudaSuccess);
    auto const event = device_->create_event();
    stream->record(event);
    event->wait();
    EXPECT_EQ(seen, 1);
    EXPECT_EQ(*value, 2);
  }
  EXPECT_EQ(cudaStreamQuery(theirs), cudaSuccess) << "the stream is its owner's";
  EXPECT_EQ(cudaStreamDestroy(theirs), cudaSuccess);
}

TEST_F(CudaDevice, WrapperGoesWithoutWaitingForTheOwnersWork) {
  auto const owner = device_->create_stream("owner");
  auto const latch = std::make_shared<Latch>();
  owner->enqueue([latch] { EXPECT_TRUE(latch->wait()); });
  static_cast<void>(wrap_cuda_stream(0, owner->native_handle()));
  EXPECT_FALSE(owner->is_idle());
  latch->open();
  owner->synchronize();
}

TEST_F(CudaDevice, WrapsAStreamThatIsBeingCapturedWithoutEndingTheCapture) {
  cudaStream_t theirs = nullptr;
  ASSERT_EQ(cudaStreamCreateWithFlags(&theirs, cudaStreamNonBlocking), cudaSuccess);
  ASSERT_EQ(cudaStreamBeginCapture(theirs, cudaStreamCaptureModeGlobal), cudaSuccess);
  EXPECT_TRUE(wrap_cuda_stream(0, theirs)->is_capturing());
  cudaGraph_t graph = nullptr;
  EXPECT_EQ(cudaStreamEndCapture(theirs, &graph), cudaSuccess);
  if (graph != nullptr) { EXPECT_EQ(cudaGraphDestroy(graph), cudaSuccess); }
  EXPECT_EQ(cudaStreamDestroy(theirs), cudaSuccess);
}

TEST_F(CudaDevice, LegacyDefaultStreamServesToo) {
  auto const stream = wrap_cuda_stream(0, nullptr);
  auto const event = device_->create_event();
  int count = 0;
  stream->enqueue([&count] { ++count; });
  stream->record(event);
  stream->wait(event);
  stream->enqueue([&count] { ++count; });
  stream->synchronize();
  EXPECT_EQ(count, 2);
  EXPECT_TRUE(event->is_complete());
  EXPECT_FALSE(stream->is_capturing());
}

TEST_F(CudaDevice, WrappedEventIsWaitedFor) {
  cudaEvent_t theirs = nullptr;
  ASSERT_EQ(cudaEventCreateWithFlags(&theirs, cudaEventDisableTiming), cudaSuccess);
  {
    auto const event = wrap_cuda_event(0, theirs);
    EXPECT_EQ(event->backend(), Backend::Cuda);
    EXPECT_TRUE(event->is_complete());
    auto const stream = device_->create_stream("recorder");
    auto const latch = std::make_shared<Latch>();
    auto const called = std::make_shared<Latch>();
    stream->enqueue([latch] { EXPECT_TRUE(latch->wait()); });
    ASSERT_EQ(cudaEventRecord(theirs, native(stream)), cudaSuccess);
    EXPECT_FALSE(event->is_complete());
    device_->when_complete(event, [called](std::exception_ptr const&) { called->open(); });
    latch->open();
    EXPECT_TRUE(called->wait());
    event->wait();
  }
  EXPECT_EQ(cudaEventDestroy(theirs), cudaSuccess);
  EXPECT_EQ(code_of([] { static_cast<void>(wrap_cuda_event(0, nullptr)); }),
            ErrorCode::InvalidArgument);
}

TEST_F(CudaDevice, RefusesEventsAndStreamsOfAnotherBackend) {
  auto const host = make_host_device(0, {1_MiB});
  auto const cuda_stream = device_->create_stream("cuda");
  auto const host_stream = host->create_stream("host");
  auto const cuda_event = device_->create_event();
  auto const host_event = host->create_event();
  auto const ignore = [](std::exception_ptr const&) {};
  EXPECT_EQ(code_of([&] { cuda_stream->record(host_event); }), ErrorCode::InvalidArgument);
  EXPECT_EQ(code_of([&] { cuda_stream->wait(host_event); }), ErrorCode::InvalidArgument);
  EXPECT_EQ(code_of([&] { host_stream->record(cuda_event); }), ErrorCode::InvalidArgument);
  EXPECT_EQ(code_of([&] { device_->when_complete(host_event, ignore); }),
            ErrorCode::InvalidArgument);
  EXPECT_EQ(code_of([&] { host->when_complete(cuda_event, ignore); }), ErrorCode::InvalidArgument);
  auto const pool = device_->create_memory_pool(0, 0);
  EXPECT_EQ(code_of([&] { static_cast<void>(pool->allocate(512, host_stream)); }),
            ErrorCode::InvalidArgument);
}

TEST_F(CudaDevice, WorkThatWaitsForItselfIsRefused) {
  auto const stream = device_->create_stream("itself");
  auto const latch = std::make_shared<Latch>();
  auto const event = device_->create_event();
  auto by_event = ErrorCode::Internal;
  auto by_stream = ErrorCode::Internal;
  auto by_device = ErrorCode::Internal;
  stream->enqueue([&] {
    EXPECT_TRUE(latch->wait());
    by_event = code_of([&] { event->wait(); });
    by_stream = code_of([&] { stream->synchronize(); });
    by_device = code_of([&] { device_->synchronize(); });
  });
  stream->record(event);
  latch->open();
  stream->synchronize();
  EXPECT_EQ(by_event, ErrorCode::InvalidArgument);
  EXPECT_EQ(by_stream, ErrorCode::InvalidArgument);
  EXPECT_EQ(by_device, ErrorCode::InvalidArgument);
}

TEST_F(CudaDevice, CallbackSeesWhatTheGpuWrote) {
  auto const source = make_memory_source({device_});
  auto const pinned = source->allocate({memory::StorageKind::Pinned, 4096, 512, 0});
  auto* const value = reinterpret_cast<int*>(pinned.host_data());
  auto const stream = device_->create_stream("writer");
  // Shorter and longer than the waiter spins.
  for (unsigned const microseconds : {0U, 10U, 200U, 20000U}) {
    *value = 0;
    auto const called = std::make_shared<Latch>();
    std::atomic<int> seen{0};
    auto const event = device_->create_event();
    ASSERT_EQ(launch_store(native(stream), value, 7, microseconds), cudaSuccess);
    stream->record(event);
    device_->when_complete(event, [&, called](std::exception_ptr const&) {
      seen = *value;
      called->open();
    });
    EXPECT_TRUE(called->wait());
    EXPECT_EQ(seen, 7) << microseconds;
  }
}

TEST_F(CudaDevice, CallbackMeansThePointAtTheTimeOfTheCall) {
  auto const stream = device_->create_stream("twice");
  auto const first = std::make_shared<Latch>();
  auto const second = std::make_shared<Latch>();
  auto const called = std::make_shared<Latch>();
  auto const event = device_->create_event();
  stream->enqueue([first] { EXPECT_TRUE(first->wait()); });
  stream->record(event);
  device_->when_complete(event, [called](std::exception_ptr const&) { called->open(); });
  stream->enqueue([second] { EXPECT_TRUE(second->wait()); });
  stream->record(event);
  first->open();
  EXPECT_TRUE(called->wait());
  EXPECT_FALSE(event->is_complete());
  second->open();
  event->wait();
}

TEST_F(CudaDevice, CaptureTakesEventsAndRefusesWhatRunsOnTheHost) {
  auto const stream = device_->create_stream("captured");
  auto const side = device_->create_stream("side");
  auto const fork = device_->create_event();
  auto const join = device_->create_event();
  auto const pool = device_->create_memory_pool(0, 0);
  auto const counter = device_->allocate(4096, 512);
  auto* const value = reinterpret_cast<int*>(counter.address());
  auto before = pool->allocate(512, stream);
  EXPECT_FALSE(stream->is_capturing());
  ASSERT_EQ(cudaStreamBeginCapture(native(stream), cudaStreamCaptureModeGlobal), cudaSuccess);
  EXPECT_TRUE(stream->is_capturing());
  EXPECT_EQ(code_of([&] { stream->enqueue([] {}); }), ErrorCode::Unsupported);
  EXPECT_EQ(code_of([&] { stream->synchronize(); }), ErrorCode::Unsupported);
  EXPECT_EQ(code_of([&] { static_cast<void>(pool->allocate(512, stream)); }),
            ErrorCode::Unsupported);
  before = counter;  // the pool's region goes while its stream is captured
  stream->record(fork);
  side->wait(fork);
  ASSERT_EQ(launch_store(native(side), value, 3, 0), cudaSuccess);
  side->record(join);
  stream->wait(join);
  // Another thread's calls, and ours on other streams, are no offence to the capture.
  std::thread([&] {
    auto const other = device_->create_stream("other");
    auto const event = device_->create_event();
    other->record(event);
    event->wait();
    static_cast<void>(device_->allocate(4096, 512));
  }).join();
  cudaGraph_t graph = nullptr;
  ASSERT_EQ(cudaStreamEndCapture(native(stream), &graph), cudaSuccess);
  EXPECT_FALSE(stream->is_capturing());
  cudaGraphExec_t executable = nullptr;
  ASSERT_EQ(cudaGraphInstantiate(&executable, graph, 0), cudaSuccess);
  ASSERT_EQ(cudaGraphLaunch(executable, native(stream)), cudaSuccess);
  stream->synchronize();
  int found = 0;
  ASSERT_EQ(cudaMemcpy(&found, value, sizeof found, cudaMemcpyDeviceToHost), cudaSuccess);
  EXPECT_EQ(found, 3);
  EXPECT_EQ(cudaGraphExecDestroy(executable), cudaSuccess);
  EXPECT_EQ(cudaGraphDestroy(graph), cudaSuccess);
}

}  // namespace
}  // namespace kvbm::device::testing
