// SPDX-License-Identifier: Apache-2.0
#include <fmt/format.h>

#include <unistd.h>

#include <algorithm>
#include <atomic>
#include <chrono>
#include <condition_variable>
#include <cstring>
#include <deque>
#include <random>

#include "kvbm/core/checked.hpp"
#include "kvbm/core/error.hpp"
#include "object/nixl_objects.hpp"
#include "object/s3_client_impl.hpp"
#include "object/s3_errors.hpp"

namespace kvbm::object {

namespace {

using Clock = std::chrono::steady_clock;
using std::chrono::microseconds;
using std::chrono::milliseconds;

// Staging of objects that are under way in a batch; one object always may be.
constexpr std::uint64_t kMostStaging = std::uint64_t{256} << 20;
// NIXL tells nobody when something ends: it is asked, more and more rarely while nothing does.
constexpr microseconds kShortestPause{20};
constexpr microseconds kLongestPause{1000};

/// What a request of libcurl is for.
enum class Purpose : std::size_t { Head, Copy, Plain, Remove };
constexpr std::size_t kNumPurposes = 4;

enum class Stage {
  Waiting,
  Moving,   ///< NIXL moves the body; of a read, libcurl asks for the metadata
  Copying,  ///< the object that was written gets its key and metadata
  Plain,    ///< libcurl does it all
  Done,
};

struct Item {
  nixl::Direction direction = nixl::Direction::Read;
  std::string key;
  std::uint64_t offset = 0;
  std::uint64_t bytes = 0;
  std::vector<std::span<std::byte const>> body;  // of a write
  S3Metadata metadata;
  std::string temporary;
  std::vector<S3Piece> into;  // of a read
  std::uint64_t object_bytes = 0;

  Stage stage = Stage::Waiting;
  Clock::time_point deadline;
  std::unique_ptr<NixlFlight> flight;
  bool has_landed = false;
  bool is_plain = false;         // libcurl did it all
  bool is_head_asked = false;    // of a read
  std::optional<S3Object> head;  // of a read
  std::string failure;           // of NIXL
  S3Outcome outcome;
};

std::string temporary_name() {
  // The time tells when what is left of a process that died may go.
  static std::string const process = fmt::format("{:08x}", std::random_device{}());
  static std::atomic<std::uint64_t> count{0};
  auto const now = std::chrono::system_clock::now().time_since_epoch();
  return fmt::format("{}-{}-{}-{}", std::chrono::duration_cast<std::chrono::seconds>(now).count(),
                     process, ::getpid(), ++count);
}

class NixlBatch final : public ObjectBatch, private RequestSink {
 public:
  NixlBatch(std::shared_ptr<S3Client::Impl> client, std::shared_ptr<NixlObjects> nixl)
      : client_(std::move(client)), nixl_(std::move(nixl)) {}
  NixlBatch(NixlBatch const&) = delete;
  NixlBatch& operator=(NixlBatch const&) = delete;

  ~NixlBatch() override {
    if (!items_.empty()) { static_cast<void>(wait()); }
  }

  void put(std::string key, std::vector<std::span<std::byte const>> pieces, S3Metadata metadata,
           std::string const& temporary_prefix) override {
    check_key(key);
    check_metadata(metadata);
    Item item;
    item.direction = nixl::Direction::Write;
    item.key = std::move(key);
    item.temporary = temporary_prefix + temporary_name();
    check_key(item.temporary);
    for (auto const piece : pieces) {
      item.bytes = checked_add(item.bytes, piece.size());
    }
    item.body = std::move(pieces);
    item.metadata = std::move(metadata);
    add(std::move(item));
  }

  void get(std::string key, std::uint64_t offset, std::vector<S3Piece> pieces,
           std::uint64_t object_bytes) override {
    check_key(key);
    Item item;
    item.key = std::move(key);
    item.offset = offset;
    for (auto const& piece : pieces) {
      item.bytes = checked_add(item.bytes, piece.bytes);
    }
    static_cast<void>(checked_add(offset, item.bytes));
    item.into = std::move(pieces);
    item.object_bytes = object_bytes;
    add(std::move(item));
  }

  [[nodiscard]] std::size_t size() const noexcept override { return items_.size(); }

  S3Outcome const& wait_for(std::size_t index) override {
    KVBM_EXPECTS(index < items_.size(), OutOfRange, "a request that is not in the batch");
    drive([&] { return items_[index].stage == Stage::Done; });
    return items_[index].outcome;
  }

  bool read_again(std::size_t index) override {
    KVBM_EXPECTS(index < items_.size() && items_[index].stage == Stage::Done, OutOfRange,
                 "a request that has not ended");
    Item& item = items_[index];
    if (item.direction == nixl::Direction::Write || item.is_plain) { return false; }
    --num_done_;
    item.deadline = Clock::now() + client_->context().options.deadline;
    guard(index, [&] { ask_plainly(index); });
    return true;
  }

  std::vector<S3Outcome> wait() override {
    drive([this] { return num_done_ == items_.size() && num_asked_ == 0; });
    std::vector<S3Outcome> outcomes;
    outcomes.reserve(items_.size());
    for (auto& item : items_) {
      outcomes.push_back(std::move(item.outcome));
    }
    items_.clear();
    num_done_ = 0;
    next_ = 0;
    return outcomes;
  }

 private:
  struct Answer {
    std::size_t index;
    S3Outcome outcome;
  };

  void add(Item item) {
    items_.push_back(std::move(item));
    step();
  }

  // --- libcurl's side

  void done(std::size_t index, S3Outcome&& outcome, std::string&&) noexcept override {
    std::lock_guard const lock(mutex_);
    answers_.push_back({index, std::move(outcome)});
    // Under the lock: afterwards this may be gone.
    changed_.notify_all();
  }

  /// @return whether there was time for it
  bool ask(Purpose purpose, std::size_t index, std::unique_ptr<Request> request) {
    auto const left =
        std::chrono::duration_cast<milliseconds>(items_[index].deadline - Clock::now());
    if (left.count() <= 0) { return false; }
    request->deadline = left;
    request->sink = this;
    request->index = index * kNumPurposes + static_cast<std::size_t>(purpose);
    client_->submit(std::move(request));
    ++num_asked_;
    return true;
  }

  void ask_plainly(std::size_t index) {
    Item& item = items_[index];
    bool const is_put = item.direction == nixl::Direction::Write;
    auto request = client_->make_request(is_put ? Method::Put : Method::Get, item.key);
    if (is_put) {
      request->body = item.body;
      request->body_bytes = item.bytes;
      request->metadata = item.metadata;
    } else {
      request->offset = item.offset;
      request->into = item.into;
      request->into_bytes = item.bytes;
      request->object_bytes = item.object_bytes;
    }
    item.stage = Stage::Plain;
    item.is_plain = true;
    if (!ask(Purpose::Plain, index, std::move(request))) { fail_late(item); }
  }

  void remove_temporary(std::size_t index) {
    auto request = client_->make_request(Method::Delete, items_[index].temporary);
    // Where no time is left, the next store that is opened removes it.
    ask(Purpose::Remove, index, std::move(request));
  }

  void take_answers() {
    std::vector<Answer> answers;
    {
      std::lock_guard const lock(mutex_);
      answers.swap(answers_);
    }
    for (auto& answer : answers) {
      --num_asked_;
      std::size_t const index = answer.index / kNumPurposes;
      guard(index, [&] {
        switch (static_cast<Purpose>(answer.index % kNumPurposes)) {
          case Purpose::Head: take_head(index, answer.outcome); break;
          case Purpose::Copy: take_copy(index, answer.outcome); break;
          case Purpose::Plain:
            if (items_[index].stage == Stage::Plain) {
              finish(items_[index], std::move(answer.outcome));
            }
            break;
          case Purpose::Remove: break;
        }
      });
    }
  }

  void take_head(std::size_t index, S3Outcome& outcome) {
    Item& item = items_[index];
    if (item.stage != Stage::Moving) { return; }
    if (outcome.error == nullptr) {
      item.head = std::move(outcome.object);
      if (item.failure.empty()) {
        finish_read(item);
      } else {
        give_to_libcurl(index);
      }
    } else {
      item.flight.reset();
      fail_or_ask(index, std::move(outcome));
    }
  }

  void take_copy(std::size_t index, S3Outcome& outcome) {
    Item& item = items_[index];
    if (outcome.error == nullptr) {
      finish(item, std::move(outcome));
    } else {
      nixl_->note_failure(item.key, "what it wrote cannot be copied");
      fail_or_ask(index, std::move(outcome));
    }
    remove_temporary(index);
  }

  /// An endpoint that answered can be asked for the cause, or the whole; others were tried enough.
  void fail_or_ask(std::size_t index, S3Outcome outcome) {
    if (http_status_of(outcome.error) != 0) {
      ask_plainly(index);
    } else {
      finish(items_[index], std::move(outcome));
    }
  }

  static int http_status_of(std::exception_ptr const& error) {
    try {
      std::rethrow_exception(error);
    } catch (S3Failure const& failure) { return failure.http_status(); } catch (...) {
      return 0;
    }
  }

  // --- NIXL's side

  void start(std::size_t index) {
    Item& item = items_[index];
    item.stage = Stage::Moving;
    item.deadline = Clock::now() + client_->context().options.deadline;
    bool const is_put = item.direction == nixl::Direction::Write;
    if (!is_put) {
      auto request = client_->make_request(Method::Head, item.key);
      item.is_head_asked = ask(Purpose::Head, index, std::move(request));
    }
    try {
      item.flight = nixl_->prepare(item.direction, is_put ? item.temporary : item.key, item.offset,
                                   item.bytes);
      if (is_put) { gather(item); }
      item.flight->post();
    } catch (Error const& error) { take_failure(index, error); }
  }

  void look_at(std::size_t index) {
    Item& item = items_[index];
    try {
      if (!item.has_landed && item.flight->is_done()) {
        item.has_landed = true;
        if (item.direction == nixl::Direction::Read) {
          finish_read(item);
        } else {
          copy(index);
        }
      }
    } catch (Error const& error) { take_failure(index, error); }
    if (item.stage == Stage::Moving && Clock::now() >= item.deadline) {
      item.flight.reset();
      fail_late(item);
    }
  }

  void take_failure(std::size_t index, Error const& error) {
    Item& item = items_[index];
    item.flight.reset();
    item.failure = error.what();
    // A read of what is not there fails too: the HEAD that is under way tells.
    if (item.is_head_asked && !item.head) { return; }
    give_to_libcurl(index);
  }

  void give_to_libcurl(std::size_t index) {
    Item const& item = items_[index];
    nixl_->note_failure(item.key, item.failure);
    if (item.direction == nixl::Direction::Write) { remove_temporary(index); }
    ask_plainly(index);
  }

  void copy(std::size_t index) {
    Item& item = items_[index];
    item.flight.reset();
    auto request = client_->make_request(Method::Put, item.key);
    request->copy_source = item.temporary;
    request->metadata = item.metadata;
    item.stage = Stage::Copying;
    if (!ask(Purpose::Copy, index, std::move(request))) { fail_late(item); }
  }

  static void gather(Item& item) {
    std::byte* to = item.flight->memory().data();
    for (auto const piece : item.body) {
      std::memcpy(to, piece.data(), piece.size());
      to += piece.size();
    }
  }

  /// Once both the bytes and the metadata are there.
  void finish_read(Item& item) {
    if (!item.has_landed || !item.head) { return; }
    S3Outcome outcome;
    outcome.attempts = 1;
    if (item.head->bytes == item.object_bytes) {
      std::byte const* from = item.flight->memory().data();
      for (auto const& piece : item.into) {
        if (piece.data != nullptr) { std::memcpy(piece.data, from, piece.bytes); }
        from += piece.bytes;
      }
      outcome.object = std::move(*item.head);
    } else {
      outcome.error = error_of(item, S3ErrorKind::WrongSize,
                               fmt::format("the object has {} bytes, {} were expected",
                                           item.head->bytes, item.object_bytes));
    }
    item.flight.reset();
    finish(item, std::move(outcome));
  }

  void fail_late(Item& item) {
    S3Outcome outcome;
    outcome.attempts = 1;
    outcome.error = error_of(item, S3ErrorKind::Silent,
                             fmt::format("NIXL did not end it within the deadline of {} ms",
                                         client_->context().options.deadline.count()));
    finish(item, std::move(outcome));
  }

  [[nodiscard]] std::exception_ptr error_of(Item const& item, S3ErrorKind kind,
                                            std::string const& reason) const {
    bool const is_put = item.direction == nixl::Direction::Write;
    auto const request = client_->make_request(is_put ? Method::Put : Method::Get, item.key);
    S3Fault fault;
    fault.kind = kind;
    return make_s3_error(fault, client_->context().describe(*request) + ": " + reason, 1);
  }

  void finish(Item& item, S3Outcome outcome) noexcept {
    if (item.stage == Stage::Done) { return; }
    item.outcome = std::move(outcome);
    item.stage = Stage::Done;
    ++num_done_;
  }

  // --- all of it

  /// What goes wrong with one object is its own outcome.
  template <typename Call>
  void guard(std::size_t index, Call&& call) noexcept {
    try {
      call();
    } catch (...) {
      items_[index].flight.reset();
      S3Outcome outcome;
      outcome.error = std::current_exception();
      finish(items_[index], std::move(outcome));
    }
  }

  void step() {
    take_answers();
    std::erase_if(moving_, [this](std::size_t index) {
      if (items_[index].stage == Stage::Moving && items_[index].flight != nullptr) {
        guard(index, [&] { look_at(index); });
      }
      bool const has_left = items_[index].flight == nullptr;
      if (has_left) { staged_bytes_ -= items_[index].bytes; }
      return has_left;
    });
    while (next_ < items_.size() && moving_.size() < nixl_->at_once() &&
           (moving_.empty() || staged_bytes_ + items_[next_].bytes <= kMostStaging)) {
      std::size_t const index = next_++;
      moving_.push_back(index);
      staged_bytes_ += items_[index].bytes;
      guard(index, [&] { start(index); });
    }
  }

  template <typename IsReached>
  void drive(IsReached const& is_reached) {
    auto pause = kShortestPause;
    for (;;) {
      std::size_t const before = num_done_ + next_;
      step();
      if (is_reached()) { return; }
      pause = num_done_ + next_ == before ? std::min(2 * pause, kLongestPause) : kShortestPause;
      std::unique_lock lock(mutex_);
      auto const has_answer = [this] { return !answers_.empty(); };
      if (moving_.empty()) {
        changed_.wait(lock, has_answer);
      } else {
        changed_.wait_for(lock, pause, has_answer);
      }
    }
  }

  std::shared_ptr<S3Client::Impl> client_;
  std::shared_ptr<NixlObjects> nixl_;
  std::deque<Item> items_;
  std::size_t next_ = 0;             // the first that was not started
  std::vector<std::size_t> moving_;  // those with a flight
  std::uint64_t staged_bytes_ = 0;
  std::size_t num_done_ = 0;
  std::size_t num_asked_ = 0;  // requests of libcurl under way

  std::mutex mutex_;
  std::condition_variable changed_;
  std::vector<Answer> answers_;  // guarded by mutex_
};

}  // namespace

std::unique_ptr<ObjectBatch> make_nixl_batch(S3Client& client, std::shared_ptr<NixlObjects> nixl) {
  return std::make_unique<NixlBatch>(S3Client::Impl::shared(client), std::move(nixl));
}

}  // namespace kvbm::object
