// SPDX-License-Identifier: Apache-2.0
#pragma once

#include <cstdint>
#include <memory>
#include <string>
#include <vector>

#include "kvbm/core/types.hpp"
#include "kvbm/transfer/strategy.hpp"

namespace kvbm::cli {

/// Pieces of one size to copy.
struct CopyList {
  std::vector<void const*> src;
  std::vector<void*> dst;
  std::uint64_t bytes = 0;  ///< of each piece
};

/// A loop of bf16 matrix multiplications, the model that runs beside the transfers.
class GemmLoop {
 public:
  GemmLoop() = default;
  GemmLoop(GemmLoop const&) = delete;
  GemmLoop& operator=(GemmLoop const&) = delete;
  virtual ~GemmLoop() = default;
  /// Enqueues `count` multiplications; may block while the queue is full.
  virtual void enqueue(unsigned count) = 0;
  /// Whether all that was enqueued has ended.
  [[nodiscard]] virtual bool done() const = 0;
  /// Seconds that the last enqueue's work took on the device. @pre done()
  [[nodiscard]] virtual double seconds() const = 0;
};

/// What one would write without a library: the comparisons of the GPU benchmarks. Everything is
/// enqueued on one of two lanes (streams) and ended by synchronize().
class PlainCopies {
 public:
  PlainCopies() = default;
  PlainCopies(PlainCopies const&) = delete;
  PlainCopies& operator=(PlainCopies const&) = delete;
  virtual ~PlainCopies() = default;

  /// One copy of contiguous bytes.
  virtual void copy(void* dst, void const* src, std::uint64_t bytes,
                    transfer::LinkDirection direction, unsigned lane) = 0;
  /// One call a piece.
  virtual void copy_each(CopyList const& list, transfer::LinkDirection direction) = 0;
  [[nodiscard]] virtual bool has_batch() const = 0;
  /// One call of the batch API. @throws Error(Device)
  virtual void copy_batch(CopyList const& list) = 0;
  /// Brings the tables of addresses to where the kernel reads them; outside of what is measured.
  virtual void prepare_kernel(CopyList const& list) = 0;
  /// A thread block a piece, vector loads and stores; of what was prepared.
  virtual void copy_kernel(transfer::LinkDirection direction) = 0;
  virtual void synchronize(unsigned lane) = 0;
  /// [m, k] x [k, n]. @param library  path of cuBLAS, empty: looked for
  /// @throws UnsupportedError with the reason
  virtual std::unique_ptr<GemmLoop> make_gemm(std::string const& library, int m, int n, int k) = 0;
};

/// @throws UnsupportedError in a build without CUDA
std::unique_ptr<PlainCopies> make_plain_cuda(DeviceId id);
/// The same calls over ordinary memory, for emulated devices: to test the benchmark, not to
/// measure.
std::unique_ptr<PlainCopies> make_plain_host();

/// Where cuBLAS may be, best first: `given` alone if not empty.
std::vector<std::string> cublas_candidates(std::string const& given);

}  // namespace kvbm::cli
