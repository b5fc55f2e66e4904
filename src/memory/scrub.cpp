// SPDX-License-Identifier: Apache-2.0
#include "kvbm/memory/scrub.hpp"

#include <fmt/format.h>

#include <algorithm>
#include <condition_variable>
#include <mutex>
#include <optional>
#include <thread>
#include <utility>
#include <vector>

#include "kvbm/core/checked.hpp"
#include "kvbm/core/error.hpp"
#include "kvbm/core/log.hpp"
#include "memory/mapping.hpp"

namespace kvbm::memory {
namespace {

using Clock = std::chrono::steady_clock;

// Reads of one extent that fails before it is called damaged.
constexpr int kReadsUntilDamaged = 3;

std::optional<ErrorCode> code_of(std::exception_ptr const& error) {
  if (error == nullptr) { return std::nullopt; }
  try {
    std::rethrow_exception(error);
  } catch (Error const& failure) { return failure.code(); } catch (...) {
    return ErrorCode::Internal;
  }
}

std::string text_of(std::exception_ptr const& error) {
  try {
    std::rethrow_exception(error);
  } catch (std::exception const& failure) { return failure.what(); } catch (...) {
    return "something that is no exception";
  }
}

std::uint64_t slot_bytes(ExtentGroup const& group) {
  return checked_align_up(group.extent_bytes, kFileAlignment);
}

Mapping make_buffer(BlockStore const& store, ScrubOptions const& options) {
  std::uint64_t bytes = options.batch_bytes;
  if (options.bytes_per_second > 0) { bytes = std::min(bytes, options.bytes_per_second / 4); }
  for (auto const& group : store.groups()) {
    bytes = std::max(bytes, slot_bytes(group));
  }
  int error = 0;
  std::uint64_t const page = page_bytes();
  auto buffer = Mapping::try_make(checked_align_up(bytes, page), page, 0, error);
  if (error != 0) {
    throw_error(ErrorCode::OutOfMemory,
                fmt::format("{}: {} bytes of memory to scrub it with: {}", store.name(), bytes,
                            describe_errno(error)),
                error);
  }
  return buffer;
}

// One extent that was read, and what the store said of it before.
struct Check {
  std::uint32_t group = 0;
  std::uint64_t extent = 0;
  std::optional<Checksum> before;
  std::exception_ptr error;
};

}  // namespace

// Lock `mutex_` is a leaf: neither the store nor the report is called under it.
class Scrubber::Impl {
 public:
  Impl(std::shared_ptr<BlockStore> store, ScrubOptions const& options, Report report)
      : store_(std::move(store)),
        options_(options),
        report_(std::move(report)),
        buffer_(make_buffer(*store_, options)),
        queue_(store_->make_queue()) {
    queue_->register_buffer({buffer_.data(), buffer_.bytes()});
    thread_ = std::jthread([this](std::stop_token const& stop) { run(stop); });
  }

  void pause(bool paused) {
    {
      std::lock_guard const lock(mutex_);
      paused_ = paused;
    }
    changed_.notify_all();
  }

  void stop() {
    thread_.request_stop();
    std::lock_guard const lock(join_mutex_);
    if (thread_.joinable()) { thread_.join(); }
  }

  void start_pass() {
    {
      std::lock_guard const lock(mutex_);
      pass_wanted_ = true;
    }
    changed_.notify_all();
  }

  bool wait_for_passes(std::uint64_t passes) const {
    std::unique_lock lock(mutex_);
    auto const reached = [&] { return counters_.passes + counters_.failed_passes >= passes; };
    changed_.wait(lock, [&] { return reached() || ended_; });
    return reached();
  }

  bool wait_for_passes(std::uint64_t passes, std::chrono::nanoseconds timeout) const {
    std::unique_lock lock(mutex_);
    auto const reached = [&] { return counters_.passes + counters_.failed_passes >= passes; };
    changed_.wait_for(lock, timeout, [&] { return reached() || ended_; });
    return reached();
  }

  [[nodiscard]] ScrubCounters counters() const {
    std::lock_guard const lock(mutex_);
    return counters_;
  }

  [[nodiscard]] bool is_running() const {
    std::lock_guard const lock(mutex_);
    return !ended_;
  }

 private:
  void run(std::stop_token const& stop) {
    while (!stop.stop_requested()) {
      bool const complete = run_pass(stop);
      if (stop.stop_requested()) { break; }
      std::unique_lock lock(mutex_);
      ++(complete ? counters_.passes : counters_.failed_passes);
      changed_.notify_all();
      if (options_.max_passes > 0 &&
          counters_.passes + counters_.failed_passes >= options_.max_passes) {
        break;
      }
      changed_.wait_for(lock, stop, options_.between_passes, [this] { return pass_wanted_; });
      pass_wanted_ = false;
    }
    {
      std::lock_guard const lock(mutex_);
      ended_ = true;
    }
    changed_.notify_all();
  }

  // @return whether it went through to the end
  bool run_pass(std::stop_token const& stop) {
    try {
      walk(stop);
      return true;
    } catch (...) {
      log::write(log::Level::Warning, fmt::format("{}: scrubbing was cut short: {}", store_->name(),
                                                  text_of(std::current_exception())));
      return false;
    }
  }

  void walk(std::stop_token const& stop) {
    next_start_ = Clock::now();
    checks_.clear();
    std::uint64_t bytes = 0;
    auto const& groups = store_->groups();
    for (std::uint32_t g = 0; g < groups.size(); ++g) {
      for (std::uint64_t e = 0; e < groups[g].count; ++e) {
        ExtentStatus const status = store_->status(g, e);
        if (status == ExtentStatus::Empty || status == ExtentStatus::Torn) {
          if (e % kExtentsPerLook == 0 && stop.stop_requested()) { return; }
          continue;
        }
        if (bytes + slot_bytes(groups[g]) > buffer_.bytes()) {
          if (!check_batch(stop, bytes)) { return; }
          bytes = 0;
        }
        checks_.push_back({g, e, std::nullopt, nullptr});
        bytes += slot_bytes(groups[g]);
      }
    }
    if (!checks_.empty()) { static_cast<void>(check_batch(stop, bytes)); }
  }

  // @return false: asked to stop
  bool check_batch(std::stop_token const& stop, std::uint64_t bytes) {
    if (!wait_for_turn(stop, bytes)) { return false; }
    read(checks_);
    std::uint64_t checked = 0;
    std::uint64_t checked_bytes = 0;
    for (auto& check : checks_) {
      auto const code = code_of(check.error);
      if (code == ErrorCode::NotFound) { continue; }
      ++checked;
      checked_bytes += store_->groups()[check.group].extent_bytes;
      if (code) { judge(check); }
    }
    checks_.clear();
    std::lock_guard const lock(mutex_);
    counters_.extents_checked += checked;
    counters_.bytes_checked += checked_bytes;
    return true;
  }

  // The rate limit and pause().
  bool wait_for_turn(std::stop_token const& stop, std::uint64_t bytes) {
    std::unique_lock lock(mutex_);
    changed_.wait_until(lock, stop, next_start_, [] { return false; });
    if (!changed_.wait(lock, stop, [this] { return !paused_; })) { return false; }
    if (stop.stop_requested()) { return false; }
    if (options_.bytes_per_second > 0) {
      auto const cost = std::chrono::duration<double>(
          static_cast<double>(bytes) / static_cast<double>(options_.bytes_per_second));
      next_start_ =
          std::max(next_start_, Clock::now()) + std::chrono::duration_cast<Clock::duration>(cost);
    }
    return true;
  }

  void read(std::vector<Check>& checks) {
    reads_.clear();
    std::uint64_t at = 0;
    for (auto& check : checks) {
      std::uint64_t const slot = slot_bytes(store_->groups()[check.group]);
      check.before = store_->checksum(check.group, check.extent);
      reads_.push_back({check.group, check.extent, buffer_.data() + at, slot});
      at += slot;
    }
    queue_->start_read(store_, reads_);
    auto errors = queue_->finish();
    for (std::size_t i = 0; i < checks.size(); ++i) {
      checks[i].error = std::move(errors[i]);
    }
  }

  // A writer marks an extent before it touches the bytes, so what failed under an unchanged
  // checksum is damaged - unless it was written with the same content meanwhile: read again.
  void judge(Check const& first) {
    retry_ = {first};
    for (int reads = 1;; ++reads) {
      Check const& check = retry_.front();
      auto const code = code_of(check.error);
      if (!code) { return; }
      // A store that cannot be reached says nothing about its extents: the pass ends.
      bool const is_verdict =
          code == ErrorCode::Corrupt || code == ErrorCode::Io || code == ErrorCode::NotFound;
      if (!is_verdict) { std::rethrow_exception(check.error); }
      bool const changed = store_->checksum(check.group, check.extent) != check.before ||
                           code == ErrorCode::NotFound;
      if (changed) {
        std::lock_guard const lock(mutex_);
        ++counters_.overwritten;
        return;
      }
      if (reads == kReadsUntilDamaged) { break; }
      read(retry_);
    }
    tell(retry_.front());
  }

  void tell(Check const& check) {
    DamagedExtent damage{store_->name(), check.group, check.extent, check.error, false};
    if (options_.invalidate_damaged && code_of(check.error) == ErrorCode::Corrupt) {
      store_->invalidate(check.group, check.extent);
      damage.invalidated = true;
    }
    {
      std::lock_guard const lock(mutex_);
      ++counters_.damaged;
    }
    log::write(log::Level::Warning, "scrubber: " + text_of(check.error));
    if (!report_) { return; }
    try {
      report_(damage);
    } catch (...) {
      log::write(log::Level::Error, fmt::format("{}: the scrubber's report threw: {}", damage.store,
                                                text_of(std::current_exception())));
    }
  }

  static constexpr std::uint64_t kExtentsPerLook = 1024;

  std::shared_ptr<BlockStore> store_;
  ScrubOptions options_;
  Report report_;
  // Of the thread alone.
  Mapping buffer_;
  std::unique_ptr<ExtentQueue> queue_;
  std::vector<Check> checks_;
  std::vector<Check> retry_;
  std::vector<ExtentIo> reads_;
  Clock::time_point next_start_;

  mutable std::mutex mutex_;
  mutable std::condition_variable_any changed_;
  ScrubCounters counters_;
  bool paused_ = false;
  bool pass_wanted_ = false;
  bool ended_ = false;
  std::mutex join_mutex_;  // taken alone
  std::jthread thread_;    // last: stopped and joined before the rest goes
};

Scrubber::Scrubber(std::shared_ptr<BlockStore> store, ScrubOptions const& options, Report report) {
  KVBM_EXPECTS(store != nullptr, InvalidArgument, "a scrubber without a store");
  KVBM_EXPECTS(!options.invalidate_damaged || store->is_writable(), InvalidArgument,
               fmt::format("{}: opened read-only, invalidate_damaged needs a writable store",
                           store->name()));
  impl_ = std::make_unique<Impl>(std::move(store), options, std::move(report));
}

Scrubber::~Scrubber() = default;
void Scrubber::pause() { impl_->pause(true); }
void Scrubber::resume() { impl_->pause(false); }
void Scrubber::stop() { impl_->stop(); }
void Scrubber::start_pass() { impl_->start_pass(); }
bool Scrubber::wait_for_passes(std::uint64_t passes) const {
  return impl_->wait_for_passes(passes);
}
bool Scrubber::wait_for_passes(std::uint64_t passes, std::chrono::nanoseconds timeout) const {
  return impl_->wait_for_passes(passes, timeout);
}
ScrubCounters Scrubber::counters() const { return impl_->counters(); }
bool Scrubber::is_running() const { return impl_->is_running(); }

}  // namespace kvbm::memory
