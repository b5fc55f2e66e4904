// SPDX-License-Identifier: Apache-2.0
#pragma once

#include <condition_variable>
#include <cstdint>
#include <memory>
#include <mutex>
#include <set>
#include <utility>

#include "kvbm/manager/transfer_manager.hpp"
#include "manager/plan_cache.hpp"
#include "manager/registry.hpp"
#include "remote/worker/remote_worker.hpp"

namespace kvbm::manager {

class TransferManager::Impl {
 public:
  Impl(transfer::ContextOptions options, std::size_t plan_cache_capacity)
      : context_(std::make_shared<transfer::TransferContext>(std::move(options))),
        registry_(context_->event_system()->worker_id()),
        plans_(plan_cache_capacity) {
    door_->manager = this;
  }
  /// Waits for the transfers in flight, which may need answers of peers, then leaves them.
  ~Impl() {
    {
      std::lock_guard const lock(door_->mutex);
      door_->manager = nullptr;
    }
    plans_.clear();
    registry_.clear();
    context_.reset();
    remote_.reset();
  }
  Impl(Impl const&) = delete;
  Impl& operator=(Impl const&) = delete;

  /// Becomes a worker among others.
  void join(remote::RemoteOptions options);
  /// A layout whose memory this process reaches. @throws UnsupportedError another worker's
  [[nodiscard]] layout::PhysicalLayout reachable(layout::LayoutHandle handle) const;
  /// @throws UnsupportedError this manager has no NIXL backend
  [[nodiscard]] remote::RemoteWorker& remote() const;

  [[nodiscard]] ManagerStats statistics() const;

  /// How statistics_source() reaches the manager without keeping it alive.
  struct StatisticsDoor {
    std::mutex mutex;
    Impl const* manager = nullptr;
  };
  std::shared_ptr<StatisticsDoor> const door_ = std::make_shared<StatisticsDoor>();

  std::shared_ptr<transfer::TransferContext> context_;
  Registry registry_;
  PlanCache plans_;

 private:
  friend class TransferManager;

  /// A worker is imported or unimported by one thread at a time: others wait.
  class Turn {
   public:
    Turn(Impl& owner, std::uint64_t worker_id);
    Turn(Turn const&) = delete;
    Turn& operator=(Turn const&) = delete;
    ~Turn();

   private:
    Impl& owner_;
    std::uint64_t const worker_id_;
  };
  std::mutex turns_mutex_;
  std::condition_variable turn_ended_;
  std::set<std::uint64_t> turns_;  ///< workers

  std::unique_ptr<remote::RemoteWorker> remote_;  ///< null: alone
};

}  // namespace kvbm::manager
