// SPDX-License-Identifier: Apache-2.0
#pragma once

#include <cuda_runtime_api.h>

#include <chrono>

namespace kvbm::device {

/// How a thread of ours waits for a GPU: it polls without pause at first, then sleeps for an eighth
/// of the time that has passed, between 5 and 50 us. So what is short is seen at once, what is long
/// within tens of microseconds, and a long copy costs a few percent of a core.
inline constexpr auto kSpinTime = std::chrono::microseconds(50);

/// How long to sleep before the next poll when `elapsed` has passed; 0 while it should spin.
[[nodiscard]] std::chrono::nanoseconds pause_after(std::chrono::nanoseconds elapsed) noexcept;

/// A few cycles, to spin politely.
void relax_cpu() noexcept;

/// Makes short sleeps of the calling thread short: by default the kernel adds up to 50 us.
class PreciseSleep {
 public:
  PreciseSleep() noexcept;
  ~PreciseSleep();
  PreciseSleep(PreciseSleep const&) = delete;
  PreciseSleep& operator=(PreciseSleep const&) = delete;

 private:
  int former_slack_;
};

/// Waits in that manner until `event` is complete.
/// @return success, or the error in which the device ended
[[nodiscard]] cudaError_t wait_for_event(cudaEvent_t event) noexcept;

}  // namespace kvbm::device
