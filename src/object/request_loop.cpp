// SPDX-License-Identifier: Apache-2.0
#include "object/request_loop.hpp"

#include "kvbm/core/error.hpp"
#include "object/http_get.hpp"

#if KVBM_HAVE_CURL

#include <fmt/format.h>
#include <pthread.h>

#include <algorithm>
#include <deque>
#include <mutex>
#include <random>
#include <thread>

#include "object/request_job.hpp"

namespace kvbm::object {

namespace {

// CURL and CURLM are the same type.
struct MultiCleanup {
  void operator()(CURLM* handle) const { curl_multi_cleanup(handle); }
};

}  // namespace

// All members but those under mutex_ belong to the thread.
class RequestLoop::Impl {
 public:
  Impl(std::shared_ptr<ClientContext> context, std::size_t connections)
      : context_(std::move(context)),
        connections_(connections),
        multi_(curl_multi_init()),
        random_(std::random_device{}()) {
    KVBM_EXPECTS(multi_ != nullptr, OutOfMemory, "libcurl gives no handle");
    auto const most = static_cast<long>(connections);
    curl_multi_setopt(multi_.get(), CURLMOPT_MAXCONNECTS, most);
    curl_multi_setopt(multi_.get(), CURLMOPT_MAX_TOTAL_CONNECTIONS, most);
    thread_ = std::thread([this] { run(); });
  }

  ~Impl() { stop(); }
  Impl(Impl const&) = delete;
  Impl& operator=(Impl const&) = delete;

  void submit(std::unique_ptr<Request> request) {
    auto job = std::make_unique<Job>(std::move(request));
    std::unique_lock lock(mutex_);
    if (is_stopping_) {
      lock.unlock();
      fail(*job, make_fault(S3ErrorKind::Cancelled, "the client was destroyed"));
      return;
    }
    submitted_.push_back(std::move(job));
    // The thread takes all there is: who finds something before has woken it.
    bool const is_first = submitted_.size() == 1;
    lock.unlock();
    if (is_first) { curl_multi_wakeup(multi_.get()); }
  }

  void stop() {
    {
      std::lock_guard const lock(mutex_);
      is_stopping_ = true;
    }
    curl_multi_wakeup(multi_.get());
    std::lock_guard const lock(join_mutex_);
    if (thread_.joinable()) { thread_.join(); }
  }

 private:
  using JobPtr = std::unique_ptr<Job>;

  void run() noexcept {
    pthread_setname_np(pthread_self(), "kvbm-s3");
    while (take_submitted()) {
      start_waiting();
      int running = 0;
      curl_multi_perform(multi_.get(), &running);
      take_finished();
      give_up_late();
      if (!waiting_.empty() && active_.size() < connections_) { continue; }
      curl_multi_poll(multi_.get(), nullptr, 0, poll_timeout_ms(), nullptr);
    }
    cancel_all();
  }

  bool take_submitted() {
    std::lock_guard const lock(mutex_);
    if (is_stopping_) { return false; }
    for (auto& job : submitted_) {
      waiting_.push_back(std::move(job));
    }
    submitted_.clear();
    return true;
  }

  void start_waiting() {
    auto const now = Clock::now();
    for (std::size_t i = 0; i < delayed_.size();) {
      if (delayed_[i]->next_start > now) {
        ++i;
        continue;
      }
      waiting_.push_front(std::move(delayed_[i]));
      delayed_.erase(delayed_.begin() + static_cast<std::ptrdiff_t>(i));
    }
    while (!waiting_.empty() && active_.size() < connections_) {
      JobPtr job = std::move(waiting_.front());
      waiting_.pop_front();
      try {
        start(*job);
        active_.push_back(std::move(job));
      } catch (std::exception const& error) {
        job->handle.reset();
        fail(*job, make_fault(S3ErrorKind::Refused, error.what()));
      }
    }
  }

  void start(Job& job) {
    Request const& request = *job.request;
    job.begin_attempt();
    if (job.attempts == 1) { job.deadline = job.last_activity + request.deadline; }
    if (!idle_.empty()) {
      job.handle = std::move(idle_.back());
      idle_.pop_back();
    } else {
      job.handle.reset(curl_easy_init());
      KVBM_EXPECTS(job.handle != nullptr, OutOfMemory, "libcurl gives no handle");
    }
    prepare(job, *context_);
    auto const code = curl_multi_add_handle(multi_.get(), job.handle.get());
    KVBM_EXPECTS(code == CURLM_OK, Internal, curl_multi_strerror(code));
    ++context_->counters.requests;
    if (job.attempts > 1) { ++context_->counters.retries; }
  }

  void take_finished() {
    int left = 0;
    while (CURLMsg const* const message = curl_multi_info_read(multi_.get(), &left)) {
      if (message->msg != CURLMSG_DONE) { continue; }
      CURLcode const code = message->data.result;
      Job* raw = nullptr;
      curl_easy_getinfo(message->easy_handle, CURLINFO_PRIVATE, &raw);
      JobPtr job = take_active(raw);
      std::optional<S3Fault> fault;
      try {
        if (code == CURLE_OK) { job->response->finish(); }
        fault = job->response->fault();
        if (!fault && code != CURLE_OK) { fault = fault_of_curl(*job, code); }
      } catch (std::exception const& error) {
        fault = make_fault(S3ErrorKind::Refused, error.what());
      }
      end_attempt(std::move(job), std::move(fault));
    }
  }

  JobPtr take_active(Job const* wanted) {
    auto const found = std::find_if(active_.begin(), active_.end(),
                                    [wanted](JobPtr const& job) { return job.get() == wanted; });
    JobPtr job = std::move(*found);
    *found = std::move(active_.back());
    active_.pop_back();
    return job;
  }

  void give_up_late() {
    auto const now = Clock::now();
    auto const stall = context_->options.stall_timeout;
    for (std::size_t i = 0; i < active_.size();) {
      if (now < limit_of(*active_[i])) {
        ++i;
        continue;
      }
      JobPtr job = take_active(active_[i].get());
      std::string reason;
      if (now >= job->deadline) {
        reason = fmt::format("the deadline of {} ms passed", job->request->deadline.count());
      } else if (job->response->status() == 0) {
        reason = fmt::format("the server accepted the connection and gave no answer within {} ms",
                             stall.count());
      } else {
        reason = fmt::format("nothing moved for {} ms", stall.count());
      }
      end_attempt(std::move(job), make_fault(S3ErrorKind::Silent, std::move(reason)));
    }
  }

  [[nodiscard]] Clock::time_point limit_of(Job const& job) const {
    // While it connects, libcurl watches the clock.
    if (!job.is_connected) { return job.deadline; }
    return std::min(job.deadline, job.last_activity + context_->options.stall_timeout);
  }

  void end_attempt(JobPtr job, std::optional<S3Fault> fault) {
    long connects = 0;
    curl_easy_getinfo(job->handle.get(), CURLINFO_NUM_CONNECTS, &connects);
    context_->counters.connections += static_cast<std::uint64_t>(std::max(0L, connects));
    curl_multi_remove_handle(multi_.get(), job->handle.get());
    curl_easy_reset(job->handle.get());
    idle_.push_back(std::move(job->handle));
    job->headers.reset();
    if (!fault) {
      succeed(*job);
      return;
    }
    if (fault->http_status == 0) { fault->http_status = job->response->status(); }
    ++context_->counters.attempt_errors[static_cast<std::size_t>(fault->kind)];
    if (!may_retry(*job, *fault)) {
      fail(*job, std::move(*fault));
      return;
    }
    job->next_start = Clock::now() + backoff(job->attempts);
    if (job->next_start >= job->deadline) {
      fault->reason += fmt::format("; the deadline of {} ms leaves no time for another attempt",
                                   job->request->deadline.count());
      fail(*job, std::move(*fault));
      return;
    }
    delayed_.push_back(std::move(job));
  }

  [[nodiscard]] static bool may_retry(Job const& job, S3Fault const& fault) {
    bool const is_connection =
        fault.kind == S3ErrorKind::Unreachable || fault.kind == S3ErrorKind::Silent;
    return is_transient(fault) && job.attempts <= job.request->max_retries &&
           (job.request->retries_connection || !is_connection);
  }

  // Exponential, with full jitter: clients that failed together do not come back together.
  Clock::duration backoff(std::uint32_t attempts) {
    S3Options const& options = context_->options;
    constexpr std::uint32_t kMostDoublings = 20;
    auto const most = std::min<std::chrono::milliseconds>(
        options.backoff_cap, options.backoff_base * (1L << std::min(attempts - 1, kMostDoublings)));
    std::uniform_int_distribution<std::int64_t> pick(
        0, std::chrono::duration_cast<std::chrono::microseconds>(most).count());
    return std::chrono::microseconds(pick(random_));
  }

  void succeed(Job& job) noexcept {
    ++context_->counters.succeeded;
    context_->counters.bytes_sent += job.request->body_bytes;
    context_->counters.bytes_received += job.response->received();
    S3Outcome outcome{nullptr, job.response->take_object(), job.attempts};
    job.request->sink->done(job.request->index, std::move(outcome), job.response->take_text());
  }

  void fail(Job& job, S3Fault fault) noexcept {
    ++context_->counters.failed;
    S3Outcome outcome;
    outcome.attempts = job.attempts;
    try {
      outcome.error = make_s3_error(
          fault,
          fmt::format("{}: {}{}", context_->describe(*job.request), fault.reason,
                      job.attempts > 1 ? fmt::format(" (after {} attempts)", job.attempts) : ""),
          job.attempts);
    } catch (...) { outcome.error = std::current_exception(); }
    job.request->sink->done(job.request->index, std::move(outcome), {});
  }

  [[nodiscard]] int poll_timeout_ms() const {
    constexpr auto kLongest = std::chrono::milliseconds(60'000);
    auto const now = Clock::now();
    Clock::time_point next = now + kLongest;
    for (auto const& job : active_) {
      next = std::min(next, limit_of(*job));
    }
    for (auto const& job : delayed_) {
      next = std::min(next, job->next_start);
    }
    auto const left = std::chrono::ceil<std::chrono::milliseconds>(next - now).count();
    return static_cast<int>(std::max<std::int64_t>(0, left));
  }

  void cancel_all() noexcept {
    for (auto& job : active_) {
      curl_multi_remove_handle(multi_.get(), job->handle.get());
      job->handle.reset();
    }
    std::lock_guard const lock(mutex_);
    for (auto* const jobs : {&active_, &delayed_}) {
      for (auto& job : *jobs) {
        fail(*job, make_fault(S3ErrorKind::Cancelled, "the client was destroyed"));
      }
      jobs->clear();
    }
    for (auto* const jobs : {&waiting_, &submitted_}) {
      for (auto& job : *jobs) {
        fail(*job, make_fault(S3ErrorKind::Cancelled, "the client was destroyed"));
      }
      jobs->clear();
    }
  }

  std::shared_ptr<ClientContext> context_;
  std::size_t connections_;
  std::unique_ptr<CURLM, MultiCleanup> multi_;
  std::vector<Handle> idle_;
  std::deque<JobPtr> waiting_;
  std::vector<JobPtr> active_;
  std::vector<JobPtr> delayed_;
  std::mt19937_64 random_;

  std::mutex mutex_;
  std::deque<JobPtr> submitted_;  // guarded by mutex_
  bool is_stopping_ = false;      // guarded by mutex_
  std::mutex join_mutex_;         // no other is taken under it
  std::thread thread_;
};

RequestLoop::RequestLoop(std::shared_ptr<ClientContext> context, std::size_t connections) {
  start_curl();
  impl_ = std::make_unique<Impl>(std::move(context), connections);
}
RequestLoop::~RequestLoop() = default;
void RequestLoop::submit(std::unique_ptr<Request> request) { impl_->submit(std::move(request)); }
void RequestLoop::stop() { impl_->stop(); }

}  // namespace kvbm::object

#else

namespace kvbm::object {

class RequestLoop::Impl {};

RequestLoop::RequestLoop(std::shared_ptr<ClientContext>, std::size_t) { start_curl(); }
RequestLoop::~RequestLoop() = default;
void RequestLoop::submit(std::unique_ptr<Request>) {}
void RequestLoop::stop() {}

}  // namespace kvbm::object

#endif
