// SPDX-License-Identifier: Apache-2.0
#include "kvbm/testing/completion_contract.hpp"

#include "kvbm/core/error.hpp"
#include "kvbm/transfer/event_system.hpp"

#include <array>
#include <memory>
#include <vector>

namespace kvbm::testing {
namespace {

using transfer::Completion;
using transfer::EventHandle;
using transfer::EventSystem;
using transfer::TransferCompleteNotification;

void poison(Completion& completion) {
  completion.poison(std::make_exception_ptr(Error(ErrorCode::Io, "contract failure")));
}

class EventSource {
 public:
  TransferCompleteNotification pending() {
    completion_ = system_->create_event("contract");
    return completion_.notification();
  }
  void succeed() { completion_.trigger(); }
  void fail() { poison(completion_); }

 private:
  std::shared_ptr<EventSystem> system_ = EventSystem::create();
  Completion completion_;
};

class AggregateSource {
 public:
  TransferCompleteNotification pending() {
    for (auto& part : parts_) {
      part = system_->create_event("part");
    }
    return TransferCompleteNotification::aggregate({parts_[0].notification(),
                                                    TransferCompleteNotification::completed(),
                                                    parts_[1].notification()});
  }
  void succeed() {
    parts_[1].trigger();
    parts_[0].trigger();
  }
  void fail() {
    poison(parts_[1]);
    parts_[0].trigger();
  }

 private:
  std::shared_ptr<EventSystem> system_ = EventSystem::create();
  std::array<Completion, 2> parts_;
};

class MergeSource {
 public:
  TransferCompleteNotification pending() {
    std::vector<EventHandle> handles;
    for (auto& part : parts_) {
      part = system_->create_event("part");
      handles.push_back(part.handle());
    }
    return system_->merge(handles);
  }
  void succeed() {
    for (auto& part : parts_) {
      part.trigger();
    }
  }
  void fail() {
    poison(parts_[0]);
    poison(parts_[2]);
    parts_[1].trigger();
  }

 private:
  std::shared_ptr<EventSystem> system_ = EventSystem::create();
  std::array<Completion, 3> parts_;
};

using EventSources = ::testing::Types<EventSource, AggregateSource, MergeSource>;
INSTANTIATE_TYPED_TEST_SUITE_P(EventSystem, CompletionContract, EventSources);

}  // namespace
}  // namespace kvbm::testing
