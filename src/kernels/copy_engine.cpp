// SPDX-License-Identifier: Apache-2.0
#include "kvbm/kernels/copy_engine.hpp"

#include <algorithm>
#include <exception>
#include <mutex>
#include <string>

#include "kernels/box_copier.hpp"
#include "kernels/box_plan.hpp"
#include "kernels/worker_pool.hpp"
#include "kvbm/core/error.hpp"

namespace kvbm::kernels {
namespace {

/// A parallel_for under way: its body and the first exception.
struct BodyCall {
  std::function<void(std::size_t)> const& body;
  std::size_t count;
  std::size_t grain;
  std::mutex mutex;
  std::exception_ptr first_error;

  static void run_chunk(void* context, std::uint64_t chunk) noexcept {
    auto& call = *static_cast<BodyCall*>(context);
    std::size_t const begin = static_cast<std::size_t>(chunk) * call.grain;
    std::size_t const end = begin + std::min(call.grain, call.count - begin);
    for (std::size_t i = begin; i < end; ++i) {
      try {
        call.body(i);
      } catch (...) {
        std::lock_guard const lock(call.mutex);
        if (!call.first_error) call.first_error = std::current_exception();
      }
    }
  }
};

}  // namespace

class CopyEngine::Impl {
 public:
  explicit Impl(CopyEngineOptions const& options)
      : pool(options.num_threads, options.bind_to_numa_nodes),
        non_temporal_threshold_bytes(options.non_temporal_threshold_bytes != 0
                                         ? options.non_temporal_threshold_bytes
                                         : default_non_temporal_threshold()) {}

  WorkerPool pool;
  std::uint64_t non_temporal_threshold_bytes;
};

CopyEngine::CopyEngine(CopyEngineOptions options) : impl_(std::make_unique<Impl>(options)) {}

CopyEngine::~CopyEngine() = default;

void CopyEngine::copy(kvbm_copy_template const& shape, kvbm_copy_boxes const& boxes, int priority) {
  if (char const* const fault = find_fault(shape, boxes)) [[unlikely]] {
    throw_error(ErrorCode::InvalidArgument, std::string("copy: ") + fault);
  }
  copy_boxes(impl_->pool, shape, boxes, impl_->non_temporal_threshold_bytes, priority);
}

void CopyEngine::parallel_for(std::size_t count, std::size_t grain,
                              std::function<void(std::size_t)> const& body, int priority) {
  KVBM_EXPECTS(body || count == 0, InvalidArgument, "parallel_for: body is empty");
  if (count == 0) return;
  BodyCall call{body, count, std::max<std::size_t>(grain, 1), {}, {}};
  impl_->pool.run((count - 1) / call.grain + 1, BodyCall::run_chunk, &call, priority);
  if (call.first_error) std::rethrow_exception(call.first_error);
}

unsigned CopyEngine::num_threads() const noexcept { return impl_->pool.num_threads(); }

unsigned CopyEngine::num_numa_nodes() const noexcept { return impl_->pool.num_numa_nodes(); }

}  // namespace kvbm::kernels
