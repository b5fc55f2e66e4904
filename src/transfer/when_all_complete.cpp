// SPDX-License-Identifier: Apache-2.0
#include "transfer/when_all_complete.hpp"

#include <memory>
#include <utility>

namespace kvbm::transfer {
namespace {

struct Waiting {
  TransferContext::Impl& context;
  std::vector<device::EventPtr> events;  ///< those that are left
  std::function<void(std::exception_ptr)> then;

  static void go_on(std::shared_ptr<Waiting> const& self, std::exception_ptr error) {
    while (error == nullptr && !self->events.empty()) {
      try {
        auto const event = self->events.back();
        if (!event->is_complete()) {
          // One after the other: the last to complete decides, in whatever order they do.
          self->context.device_of(event->backend())
              ->when_complete(event, [self](std::exception_ptr failed) {
                self->events.pop_back();
                go_on(self, std::move(failed));
              });
          return;
        }
        self->events.pop_back();
      } catch (...) { error = std::current_exception(); }
    }
    self->then(std::move(error));
    // Last of all: the context may be gone as soon as nothing is in flight.
    self->then = nullptr;
    self->context.end_work();
  }
};

}  // namespace

void when_all_complete(TransferContext::Impl& context, std::vector<device::EventPtr> events,
                       std::function<void(std::exception_ptr)> then) {
  auto const waiting =
      std::make_shared<Waiting>(Waiting{context, std::move(events), std::move(then)});
  context.begin_work();
  Waiting::go_on(waiting, nullptr);
}

}  // namespace kvbm::transfer
