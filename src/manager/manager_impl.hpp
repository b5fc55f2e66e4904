// SPDX-License-Identifier: Apache-2.0
#pragma once

#include <memory>
#include <utility>

#include "kvbm/manager/transfer_manager.hpp"
#include "manager/registry.hpp"

namespace kvbm::manager {

class TransferManager::Impl {
 public:
  explicit Impl(transfer::ContextOptions options)
      : context_(std::make_shared<transfer::TransferContext>(std::move(options))),
        registry_(context_->event_system()->worker_id()) {}

  std::shared_ptr<transfer::TransferContext> context_;
  Registry registry_;
};

}  // namespace kvbm::manager
