// SPDX-License-Identifier: Apache-2.0
#pragma once

#include <memory>
#include <utility>

#include "kvbm/manager/transfer_manager.hpp"
#include "manager/plan_cache.hpp"
#include "manager/registry.hpp"

namespace kvbm::manager {

class TransferManager::Impl {
 public:
  Impl(transfer::ContextOptions options, std::size_t plan_cache_capacity)
      : context_(std::make_shared<transfer::TransferContext>(std::move(options))),
        registry_(context_->event_system()->worker_id()),
        plans_(plan_cache_capacity) {}

  std::shared_ptr<transfer::TransferContext> context_;
  Registry registry_;
  PlanCache plans_;
};

}  // namespace kvbm::manager
