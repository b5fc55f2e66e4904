// SPDX-License-Identifier: Apache-2.0
#include "device/cuda/adaptive_wait.hpp"

#include <sys/prctl.h>

#include <algorithm>
#include <thread>

#include "device/cuda/cuda_error.hpp"

namespace kvbm::device {
namespace {

constexpr std::chrono::nanoseconds kMinPause = std::chrono::microseconds(5);
constexpr std::chrono::nanoseconds kMaxPause = std::chrono::microseconds(50);

// cudaEventQuery, without a trace of "not ready" in the thread's last error.
cudaError_t query(cudaEvent_t event) noexcept {
  cudaError_t const status = cudaEventQuery(event);
  if (status != cudaSuccess) { forget_last_cuda_error(); }
  return status;
}

}  // namespace

std::chrono::nanoseconds pause_after(std::chrono::nanoseconds elapsed) noexcept {
  if (elapsed < kSpinTime) { return std::chrono::nanoseconds(0); }
  return std::clamp(elapsed / 8, kMinPause, kMaxPause);
}

void relax_cpu() noexcept {
#if defined(__x86_64__) || defined(__i386__)
  __builtin_ia32_pause();
#endif
}

PreciseSleep::PreciseSleep() noexcept : former_slack_(prctl(PR_GET_TIMERSLACK, 0, 0, 0, 0)) {
  prctl(PR_SET_TIMERSLACK, 1, 0, 0, 0);
}

PreciseSleep::~PreciseSleep() {
  if (former_slack_ > 0) { prctl(PR_SET_TIMERSLACK, former_slack_, 0, 0, 0); }
}

cudaError_t wait_for_event(cudaEvent_t event) noexcept {
  using Clock = std::chrono::steady_clock;
  auto const begin = Clock::now();
  do {
    cudaError_t const status = query(event);
    if (status != cudaErrorNotReady) { return status; }
    relax_cpu();
  } while (Clock::now() - begin < kSpinTime);
  PreciseSleep const precise;
  for (;;) {
    std::this_thread::sleep_for(pause_after(Clock::now() - begin));
    cudaError_t const status = query(event);
    if (status != cudaErrorNotReady) { return status; }
  }
}

}  // namespace kvbm::device
