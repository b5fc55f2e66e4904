// SPDX-License-Identifier: Apache-2.0
//
// Host copies and permutes against a STREAM-style copy and the C library's memcpy with the same
// threads. Candidate and baselines alternate inside every iteration, so that whatever else the
// machine does hits them alike; each takes its best repetition. Counters:
//   GB/s         bytes copied (not read plus written) by the candidate
//   stream_GB/s  the STREAM-style copy, of_stream = GB/s / stream_GB/s
//   libc_GB/s    memcpy, of_libc = GB/s / libc_GB/s

#include <benchmark/benchmark.h>
#if defined(__x86_64__)
#include <emmintrin.h>
#endif

#include <algorithm>
#include <chrono>
#include <cstdlib>
#include <cstring>
#include <functional>
#include <limits>
#include <string>

#include "kvbm/kernels/copy_engine.hpp"
#include "workloads.hpp"

namespace {

using namespace kvbm::bench;
using kvbm::kernels::CopyEngine;

constexpr std::uint64_t kTotalBytes = 256ULL << 20U;
constexpr std::uint64_t kSliceBytes = 1ULL << 20U;

CopyEngine& engine() {
  static CopyEngine instance;
  return instance;
}

double seconds(std::function<void()> const& body) {
  auto const start = std::chrono::steady_clock::now();
  body();
  return std::chrono::duration<double>(std::chrono::steady_clock::now() - start).count();
}

void in_slices(BlockSet const& blocks, void (*copy)(std::byte*, std::byte const*, std::uint64_t)) {
  std::uint64_t const bytes = blocks.bytes();
  engine().parallel_for((bytes + kSliceBytes - 1) / kSliceBytes, 4, [&](std::size_t slice) {
    std::uint64_t const begin = slice * kSliceBytes;
    copy(blocks.dst() + begin, blocks.src() + begin, std::min(kSliceBytes, bytes - begin));
  });
}

// The baseline: loads in order, stores around the caches, nothing else. Slices are aligned to
// lines.
#if defined(__x86_64__)
void stream_slice(std::byte* dst, std::byte const* src, std::uint64_t bytes) {
  std::uint64_t const whole = bytes / sizeof(__m128i) * sizeof(__m128i);
  for (std::uint64_t i = 0; i < whole; i += sizeof(__m128i)) {
    _mm_stream_si128(reinterpret_cast<__m128i*>(dst + i),
                     _mm_loadu_si128(reinterpret_cast<__m128i const*>(src + i)));
  }
  std::memcpy(dst + whole, src + whole, bytes - whole);
  _mm_sfence();
}
#else
void stream_slice(std::byte* dst, std::byte const* src, std::uint64_t bytes) {
  std::memcpy(dst, src, bytes);
}
#endif

void libc_slice(std::byte* dst, std::byte const* src, std::uint64_t bytes) {
  std::memcpy(dst, src, bytes);
}

void measure(benchmark::State& state, Workload const& workload, kvbm_copy_template const& shape) {
  BlockSet const blocks(workload.block_bytes(), kTotalBytes);
  auto const boxes = blocks.boxes();
  double candidate = std::numeric_limits<double>::max();
  double stream = candidate;
  double libc = candidate;
  for ([[maybe_unused]] auto _ : state) {
    stream = std::min(stream, seconds([&] { in_slices(blocks, stream_slice); }));
    double const elapsed = seconds([&] { engine().copy(shape, boxes); });
    candidate = std::min(candidate, elapsed);
    libc = std::min(libc, seconds([&] { in_slices(blocks, libc_slice); }));
    state.SetIterationTime(elapsed);
  }
  auto const rate = [&](double time) { return static_cast<double>(blocks.bytes()) / time / 1e9; };
  state.counters["GB/s"] = rate(candidate);
  state.counters["stream_GB/s"] = rate(stream);
  state.counters["libc_GB/s"] = rate(libc);
  state.counters["of_stream"] = stream / candidate;
  state.counters["of_libc"] = libc / candidate;
}

void add(std::string const& what, Workload const& workload, kvbm_copy_template const& shape) {
  std::string const name = what + "/" + workload.name +
                           "/block_bytes:" + std::to_string(workload.block_bytes()) +
                           "/threads:" + std::to_string(engine().num_threads());
  benchmark::RegisterBenchmark(
      name.c_str(),
      [&workload, shape](benchmark::State& state) { measure(state, workload, shape); })
      ->UseManualTime()
      ->Iterations(8)
      ->Unit(benchmark::kMillisecond);
}

void add_all() {
  for (Workload const& workload : workloads()) {
    add("memcpy", workload, permute_template(workload, kNhd, kNhd));
    add("nhd_to_universal_tp", workload, permute_template(workload, kNhd, kUniversalTp));
    add("universal_tp_to_nhd", workload, permute_template(workload, kUniversalTp, kNhd));
    add("nhd_to_hnd", workload, permute_template(workload, kNhd, kHnd));
  }
  static constexpr Workload kElements[] = {{"width_bytes:1", {32, 2, 16, 8, 128}, 1},
                                           {"width_bytes:2", {32, 2, 16, 8, 128}, 2},
                                           {"width_bytes:4", {32, 2, 16, 8, 128}, 4},
                                           {"width_bytes:8", {32, 2, 16, 8, 128}, 8}};
  for (Workload const& workload : kElements) {
    add("nhd_to_dim_outside", workload, permute_template(workload, kNhd, kDimOutside));
    add("dim_outside_to_nhd", workload, permute_template(workload, kDimOutside, kNhd));
    add("nhd_to_head_inside", workload, permute_template(workload, kNhd, kHeadInside));
  }
}

}  // namespace

int main(int argc, char** argv) {
  add_all();
  benchmark::Initialize(&argc, argv);
  if (benchmark::ReportUnrecognizedArguments(argc, argv)) return EXIT_FAILURE;
  benchmark::RunSpecifiedBenchmarks();
  benchmark::Shutdown();
  return EXIT_SUCCESS;
}
