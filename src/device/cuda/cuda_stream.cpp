// SPDX-License-Identifier: Apache-2.0
#include "device/cuda/cuda_stream.hpp"

#include <fmt/format.h>

#include <algorithm>
#include <utility>

#include "kvbm/core/error.hpp"
#include "kvbm/core/log.hpp"
#include "kvbm/device/device.hpp"

namespace kvbm::device {
namespace {

CudaEvent& as_cuda_event(EventPtr const& event, std::string const& stream, char const* action) {
  KVBM_EXPECTS(event != nullptr, InvalidArgument,
               fmt::format("stream '{}': {} of a null event", stream, action));
  auto* const cuda_event = dynamic_cast<CudaEvent*>(event.get());
  KVBM_EXPECTS(cuda_event != nullptr, InvalidArgument,
               fmt::format("stream '{}': {} of an event of another backend; use one that a CUDA "
                           "device created",
                           stream, action));
  return *cuda_event;
}

// Highest priority: kernels of ours are small and get their few multiprocessors as soon as thread
// blocks of the model end, and the driver keeps streams of different priority on different hardware
// queues, so ours do not wait behind a default stream's launches nor they behind ours.
cudaStream_t create_stream(CudaContext const& context) {
  CudaScope const scope(context);
  int lowest = 0;
  int highest = 0;
  context.check("cudaDeviceGetStreamPriorityRange",
                cudaDeviceGetStreamPriorityRange(&lowest, &highest));
  cudaStream_t stream = nullptr;
  context.check("cudaStreamCreate",
                cudaStreamCreateWithPriority(&stream, cudaStreamNonBlocking, highest));
  return stream;
}

// Lets the GPU go on, also if the work threw.
class Release {
 public:
  Release(TicketSlot slot, std::uint64_t ticket) noexcept : slot_(slot), ticket_(ticket) {}
  ~Release() { slot_.store(ticket_); }
  Release(Release const&) = delete;
  Release& operator=(Release const&) = delete;

 private:
  TicketSlot slot_;
  std::uint64_t ticket_;
};

}  // namespace

CudaStreamState::CudaStreamState(std::shared_ptr<CudaContext> context,
                                 std::shared_ptr<StreamState> worker,
                                 std::optional<cudaStream_t> foreign)
    : context_(std::move(context)),
      worker_(std::move(worker)),
      number_(context_->next_stream_number()),
      owned_(!foreign.has_value()),
      handle_(foreign.has_value() ? *foreign : create_stream(*context_)) {}

CudaStreamState::~CudaStreamState() {
  if (slot_) { context_->give_back(*slot_); }
  if (!owned_) { return; }
  CudaScope const scope(*context_);
  // Returns at once; the driver lets go of the stream when its work has ended.
  if (cudaStreamDestroy(handle_) != cudaSuccess) { forget_last_cuda_error(); }
}

void CudaStreamState::expect_not_capturing(char const* action) const {
  if (is_capturing()) {
    throw UnsupportedError(
        fmt::format("stream '{}' is being captured into a CUDA graph: {}", name(), action));
  }
}

CudaPoint CudaStreamState::next_point() {
  return CudaPoint{nullptr, worker_->num_enqueued() == 0 ? Point{} : worker_->end(), number_,
                   ++position_};
}

std::shared_ptr<CudaEventHandle const> CudaStreamState::mark_for_host_work() {
  try {
    if (!slot_) {
      slot_ = context_->take_ticket_slot();
      last_ticket_ = slot_->load();
    }
    auto const handle = std::make_shared<CudaEventHandle>(context_);
    context_->check("cudaEventRecord", cudaEventRecord(handle->get(), handle_));
    return handle;
  } catch (Error const& error) {
    if (!is_context_lost(static_cast<cudaError_t>(error.native_code()))) { throw; }
    log::write(log::Level::Error, fmt::format("stream '{}': work runs although its GPU failed: {}",
                                              name(), error.what()));
    return nullptr;
  }
}

void CudaStreamState::enqueue(std::function<void()> work) {
  expect_not_capturing(
      "work for a thread of the host would run once, not at every launch; enqueue "
      "it before or after the capture");
  std::lock_guard const lock(mutex_);
  CudaScope const scope(*context_);
  auto const before = mark_for_host_work();
  if (before == nullptr) {
    worker_->enqueue(std::move(work));
    return;
  }
  std::uint64_t const ticket = ++last_ticket_;
  worker_->enqueue([self = shared_from_this(), before, ticket, work = std::move(work)]() mutable {
    // The device's error is not lost: synchronize() and the events report it.
    static_cast<void>(before->wait());
    Release const release(*self->slot_, ticket);
    auto const mine = std::move(work);  // gone before the GPU goes on
    mine();
  });
  cudaError_t const status = as_runtime_error(
      cuda_driver().stream_wait_value64(handle_, slot_->device, ticket, CU_STREAM_WAIT_VALUE_GEQ));
  // The work runs in any case. What follows it on the GPU would not wait for it: the caller has to
  // know, unless nothing follows any more.
  if (!is_context_lost(status)) { context_->check("cuStreamWaitValue64", status); }
}

void CudaStreamState::record(CudaEvent& event) {
  std::lock_guard const lock(mutex_);
  event.record(context_, handle_, next_point());
}

void CudaStreamState::wait(CudaPoint const& point) {
  std::lock_guard const lock(mutex_);
  CudaScope const scope(*context_);
  context_->check("cudaStreamWaitEvent", cudaStreamWaitEvent(handle_, point.event->get(), 0));
}

CudaPoint CudaStreamState::end() {
  expect_not_capturing("nothing runs that could be waited for; end the capture first");
  auto const handle = std::make_shared<CudaEventHandle>(context_);
  std::lock_guard const lock(mutex_);
  CudaScope const scope(*context_);
  context_->check("cudaEventRecord", cudaEventRecord(handle->get(), handle_));
  CudaPoint point = next_point();
  point.event = handle;
  return point;
}

void CudaStreamState::wait_for(CudaPoint const& end) const {
  if (end.host_work.stream != nullptr) {
    // Refused on the stream's own thread; and after an error of the device, host work still runs.
    end.host_work.stream->wait_for(end.host_work.ticket);
  }
  context_->check("cudaStreamSynchronize", end.event->wait());
}

bool CudaStreamState::is_idle() const {
  if (!worker_->is_idle()) { return false; }
  CudaScope const scope(*context_);
  cudaError_t const status = cudaStreamQuery(handle_);
  if (status == cudaErrorNotReady) {
    forget_last_cuda_error();
    return false;
  }
  context_->check("cudaStreamQuery", status);
  return true;
}

bool CudaStreamState::is_capturing() const {
  CudaScope const scope(*context_);
  auto capture = cudaStreamCaptureStatusNone;
  cudaError_t const status = cudaStreamIsCapturing(handle_, &capture);
  if (status != cudaSuccess) {
    // Of the legacy default stream while another stream is captured: it is not the one.
    forget_last_cuda_error();
    return false;
  }
  return capture != cudaStreamCaptureStatusNone;
}

void CudaStreamState::drain() noexcept {
  try {
    wait_for(end());
  } catch (std::exception const& error) {
    log::write(log::Level::Error, fmt::format("stream '{}' ends: {}", name(), error.what()));
  }
}

void CudaStreamRegistry::add(std::shared_ptr<CudaStreamState> const& stream) {
  std::lock_guard const lock(mutex_);
  std::erase_if(streams_, [](auto const& weak) { return weak.expired(); });
  streams_.push_back(stream);
}

void CudaStreamRegistry::synchronize() {
  std::vector<std::shared_ptr<CudaStreamState>> live;
  {
    std::lock_guard const lock(mutex_);
    for (auto const& weak : streams_) {
      if (auto stream = weak.lock()) { live.push_back(std::move(stream)); }
    }
  }
  std::vector<CudaPoint> ends;
  ends.reserve(live.size());
  for (auto const& stream : live) {
    ends.push_back(stream->end());
  }
  for (std::size_t i = 0; i < live.size(); ++i) {
    live[i]->wait_for(ends[i]);
  }
}

CudaStream::CudaStream(std::shared_ptr<CudaStreamState> state,
                       std::shared_ptr<CudaStreamRegistry> registry)
    : state_(std::move(state)), registry_(std::move(registry)) {}

CudaStream::~CudaStream() {
  bool const own = state_->worker()->on_own_thread();
  // A stream of somebody else goes on: what was enqueued through this object is the host work.
  if (state_->is_owned() && !own) { state_->drain(); }
  registry_->threads().retire(state_->worker());
}

void CudaStream::enqueue(std::function<void()> work) {
  KVBM_EXPECTS(work != nullptr, InvalidArgument,
               fmt::format("stream '{}': enqueue of an empty function", name()));
  state_->enqueue(std::move(work));
}

void CudaStream::record(EventPtr const& event) {
  state_->record(as_cuda_event(event, name(), "record"));
}

void CudaStream::wait(EventPtr const& event) {
  state_->wait(as_cuda_event(event, name(), "wait").point());
}

void CudaStream::synchronize() { state_->wait_for(state_->end()); }

StreamPtr make_cuda_stream(std::shared_ptr<CudaContext> context, std::string name,
                           std::shared_ptr<CudaStreamRegistry> registry) {
  auto worker = registry->threads().make_stream(std::move(name));
  auto state =
      std::make_shared<CudaStreamState>(std::move(context), std::move(worker), std::nullopt);
  registry->add(state);
  return std::make_shared<CudaStream>(std::move(state), std::move(registry));
}

StreamPtr wrap_cuda_stream(DeviceId id, void* native_handle) {
  auto context = open_cuda_context(id);
  auto const stream = static_cast<cudaStream_t>(native_handle);
  if (stream != nullptr) {
    CudaScope const scope(*context);
    int found = id;
    auto capture = cudaStreamCaptureStatusNone;
    // Asking a stream that is being captured for its device ends the capture; an older driver
    // cannot tell at all.
    if (cudaStreamIsCapturing(stream, &capture) != cudaSuccess ||
        (capture == cudaStreamCaptureStatusNone &&
         cudaStreamGetDevice(stream, &found) != cudaSuccess)) {
      forget_last_cuda_error();
    }
    KVBM_EXPECTS(found == id, InvalidArgument,
                 fmt::format("the stream belongs to CUDA device {}, not to device {}", found, id));
  }
  auto registry = std::make_shared<CudaStreamRegistry>();
  auto worker = registry->threads().make_stream(
      stream == nullptr ? "default stream" : fmt::format("stream {}", native_handle));
  // It goes with this one stream: nobody is left to join a thread that outlives that.
  registry->threads().close();
  auto state = std::make_shared<CudaStreamState>(std::move(context), std::move(worker), stream);
  return std::make_shared<CudaStream>(std::move(state), std::move(registry));
}

}  // namespace kvbm::device
