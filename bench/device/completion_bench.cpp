// SPDX-License-Identifier: Apache-2.0
//
// How soon the CPU knows that a copy has ended, and what the waiting costs it:
// Device::when_complete beside a host function in the stream, a blocking cudaEventSynchronize and a
// loop of queries.
//
// The end of the copy is when a thread that does nothing else sees a word change in pinned memory,
// which the GPU writes right after the copy; so the figures are later than that by the method's own
// delay, less about a microsecond. CPU time is that of the process without this thread, from the
// end of the submission until the completion is known.
#include <cuda.h>
#include <cudaTypedefs.h>
#include <cuda_runtime_api.h>
#include <pthread.h>
#include <time.h>

#include <algorithm>
#include <atomic>
#include <chrono>
#include <cstdint>
#include <cstdio>
#include <cstdlib>
#include <functional>
#include <memory>
#include <string>
#include <thread>
#include <utility>
#include <vector>

#include "kvbm/core/error.hpp"
#include "kvbm/device/device.hpp"

namespace {

using namespace kvbm;
using Clock = std::chrono::steady_clock;

constexpr std::uint64_t kLargest = std::uint64_t{256} << 20U;

void check(cudaError_t status) {
  if (status != cudaSuccess) {
    throw_error(ErrorCode::Device, cudaGetErrorString(status), static_cast<int>(status));
  }
}

void check(CUresult status) {
  if (status != CUDA_SUCCESS) {
    throw_error(ErrorCode::Device, "a driver call failed", static_cast<int>(status));
  }
}

double seconds_of(clockid_t clock) {
  timespec now{};
  clock_gettime(clock, &now);
  return static_cast<double>(now.tv_sec) + 1e-9 * static_cast<double>(now.tv_nsec);
}

// Sees the GPU's word change as early as a CPU can.
class Reference {
 public:
  Reference() {
    void* page = nullptr;
    check(cudaHostAlloc(&page, 4096, cudaHostAllocMapped));
    word_ = static_cast<std::uint64_t*>(page);
    *word_ = 0;
    thread_ = std::thread([this] { run(); });
    pthread_getcpuclockid(thread_.native_handle(), &clock_);
  }
  ~Reference() {
    stop_ = true;
    thread_.join();
    cudaFreeHost(word_);
  }
  Reference(Reference const&) = delete;
  Reference& operator=(Reference const&) = delete;

  [[nodiscard]] std::uint64_t* word() const { return word_; }
  [[nodiscard]] Clock::time_point wait(std::uint64_t value) const {
    while (seen_.load(std::memory_order_acquire) < value) {
      std::this_thread::yield();
    }
    return time_;
  }
  [[nodiscard]] double cpu_seconds() const { return seconds_of(clock_); }

 private:
  void run() {
    std::uint64_t last = 0;
    while (!stop_) {
      auto const now = std::atomic_ref(*word_).load(std::memory_order_acquire);
      if (now == last) { continue; }
      time_ = Clock::now();
      last = now;
      seen_.store(now, std::memory_order_release);
    }
  }

  std::uint64_t* word_ = nullptr;
  std::atomic<bool> stop_{false};
  std::atomic<std::uint64_t> seen_{0};
  Clock::time_point time_;
  std::thread thread_;
  clockid_t clock_ = 0;
};

struct Signal {
  std::atomic<bool> done{false};
  Clock::time_point time;
  void set() {
    time = Clock::now();
    done.store(true, std::memory_order_release);
    done.notify_one();
  }
  void wait() const { done.wait(false, std::memory_order_acquire); }
};

struct Bench {
  device::DevicePtr device = device::make_cuda_device(0);
  device::StreamPtr stream = device->create_stream("bench");
  cudaStream_t native = static_cast<cudaStream_t>(stream->native_handle());
  memory::Region host = device::make_memory_source({device})->allocate(
      {memory::StorageKind::Pinned, kLargest, 4096, 0});
  memory::Region gpu = device->allocate(kLargest, 4096);
  PFN_cuStreamWriteValue64_v11070 write_value = nullptr;
};

// Called when everything is submitted: returns when it is known to have ended, and when that was.
using WaitFor = std::function<Clock::time_point(Bench&)>;
struct Method {
  char const* name;
  // Submits what it needs after the copy.
  std::function<WaitFor(Bench&)> submit;
};

double at(std::vector<double>& sorted, double quantile) {
  std::sort(sorted.begin(), sorted.end());
  return sorted[static_cast<std::size_t>(quantile * static_cast<double>(sorted.size() - 1))];
}

void measure(Bench& bench, Reference& reference, std::uint64_t& count, Method const& method,
             std::uint64_t bytes, int rounds) {
  std::vector<double> delays;
  double cpu = 0;
  double copy = 0;
  for (int i = -5; i < rounds; ++i) {
    auto const begin = Clock::now();
    check(cudaMemcpyAsync(reinterpret_cast<void*>(bench.gpu.address()), bench.host.host_data(),
                          bytes, cudaMemcpyHostToDevice, bench.native));
    auto const wait = method.submit(bench);
    ++count;
    check(
        bench.write_value(bench.native, reinterpret_cast<CUdeviceptr>(reference.word()), count, 0));
    double const cpu_begin = seconds_of(CLOCK_PROCESS_CPUTIME_ID) - reference.cpu_seconds();
    auto const known = wait(bench);
    double const cpu_end = seconds_of(CLOCK_PROCESS_CPUTIME_ID) - reference.cpu_seconds();
    auto const end = reference.wait(count);
    if (i < 0) { continue; }
    delays.push_back(std::chrono::duration<double, std::micro>(known - end).count());
    cpu += (cpu_end - cpu_begin) * 1e6;
    copy += std::chrono::duration<double, std::micro>(end - begin).count();
  }
  std::printf("%-22s %9.0f KiB  copy %8.1f us | delay p50 %7.1f  p99 %7.1f us | CPU %7.1f us\n",
              method.name, static_cast<double>(bytes) / 1024, copy / rounds, at(delays, 0.5),
              at(delays, 0.99), cpu / rounds);
}

WaitFor submit_when_complete(Bench& bench) {
  auto const event = bench.device->create_event();
  bench.stream->record(event);
  auto const signal = std::make_shared<Signal>();
  bench.device->when_complete(event, [signal](std::exception_ptr const&) { signal->set(); });
  return [signal](Bench&) {
    signal->wait();
    return signal->time;
  };
}

WaitFor submit_host_function(Bench& bench) {
  auto signal = std::make_shared<Signal>();
  check(cudaLaunchHostFunc(
      bench.native, [](void* data) { static_cast<Signal*>(data)->set(); }, signal.get()));
  return [signal](Bench&) {
    signal->wait();
    return signal->time;
  };
}

std::shared_ptr<CUevent_st> make_event(unsigned flags) {
  cudaEvent_t event = nullptr;
  check(cudaEventCreateWithFlags(&event, flags | cudaEventDisableTiming));
  return {event, [](cudaEvent_t mine) { cudaEventDestroy(mine); }};
}

WaitFor submit_blocking(Bench& bench) {
  auto const event = make_event(cudaEventBlockingSync);
  check(cudaEventRecord(event.get(), bench.native));
  return [event](Bench&) {
    check(cudaEventSynchronize(event.get()));
    return Clock::now();
  };
}

WaitFor submit_spinning(Bench& bench) {
  auto const event = make_event(0);
  check(cudaEventRecord(event.get(), bench.native));
  return [event](Bench&) {
    while (cudaEventQuery(event.get()) == cudaErrorNotReady) {}
    return Clock::now();
  };
}

void measure_idle(Bench& bench) {
  // The thread is there, and nothing is pending.
  submit_when_complete(bench)(bench);
  double const begin = seconds_of(CLOCK_PROCESS_CPUTIME_ID);
  std::this_thread::sleep_for(std::chrono::milliseconds(500));
  std::printf("nothing pending for 500 ms: CPU %.1f us\n",
              (seconds_of(CLOCK_PROCESS_CPUTIME_ID) - begin) * 1e6);
}

void run() {
  Bench bench;
  void* function = nullptr;
  check(cudaGetDriverEntryPointByVersion("cuStreamWriteValue64", &function, 11070,
                                         cudaEnableDefault, nullptr));
  bench.write_value = reinterpret_cast<PFN_cuStreamWriteValue64_v11070>(function);
  std::printf("%s, driver %d, runtime %d\n", bench.device->name().c_str(),
              bench.device->properties().driver_version,
              bench.device->properties().runtime_version);
  measure_idle(bench);
  Reference reference;
  std::uint64_t count = 0;
  std::vector<Method> const methods = {{"when_complete", submit_when_complete},
                                       {"cudaLaunchHostFunc", submit_host_function},
                                       {"blocking synchronize", submit_blocking},
                                       {"spinning query", submit_spinning}};
  for (auto const& [bytes, rounds] :
       {std::pair{std::uint64_t{32} << 10U, 2000}, std::pair{std::uint64_t{2} << 20U, 1000},
        std::pair{kLargest, 60}}) {
    for (auto const& method : methods) {
      measure(bench, reference, count, method, bytes, rounds);
    }
  }
}

}  // namespace

int main() {
  std::string const reason = device::cuda_unavailable_reason();
  if (!reason.empty()) {
    std::printf("skipped: no CUDA device: %s\n", reason.c_str());
    return EXIT_SUCCESS;
  }
  try {
    run();
  } catch (Error const& error) {
    std::fprintf(stderr, "completion_bench: %s\n", error.what());
    return EXIT_FAILURE;
  }
  return EXIT_SUCCESS;
}
