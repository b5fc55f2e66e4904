// SPDX-License-Identifier: Apache-2.0
#include "kvbm/remote/notices.hpp"

#include "kvbm/core/error.hpp"
#include "remote/worker/notice_queue.hpp"

namespace kvbm::remote {

std::optional<WriteNotification> WriteNotices::next(std::chrono::nanoseconds timeout) {
  return queue_->next(timeout);
}

void WriteNotices::on_each(std::function<void(WriteNotification const&)> callback) {
  KVBM_EXPECTS(callback != nullptr, InvalidArgument, "on_each: the callback is empty");
  queue_->on_each(std::move(callback));
}

}  // namespace kvbm::remote
