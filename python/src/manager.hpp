// SPDX-License-Identifier: Apache-2.0
#pragma once

#include "common.hpp"
#include "kvbm/metrics/exporter.hpp"

#include <memory>
#include <mutex>
#include <string>
#include <utility>

/// What the files that bind TransferManager share.
namespace kvbm::python {

/// A manager that can be closed while calls are under way in other threads: they hold it as well.
class PyManager {
 public:
  explicit PyManager(manager::TransferManager manager)
      : manager_(std::make_shared<manager::TransferManager>(std::move(manager))) {}
  ~PyManager() { close(); }
  PyManager(PyManager const&) = delete;
  PyManager& operator=(PyManager const&) = delete;

  /// The manager for one call, made and destroyed with the interpreter lock held: where close()
  /// came meanwhile, its end waits for threads that may need the lock.
  class Held {
   public:
    explicit Held(std::shared_ptr<manager::TransferManager> manager)
        : manager_(std::move(manager)) {}
    ~Held() {
      if (manager_.use_count() > 1) { return; }
      GilRelease const unlocked;
      manager_.reset();
    }
    Held(Held const&) = delete;
    Held& operator=(Held const&) = delete;
    manager::TransferManager* operator->() const noexcept { return manager_.get(); }

   private:
    std::shared_ptr<manager::TransferManager> manager_;
  };

  /// @throws Error(ShuttingDown) it was closed
  [[nodiscard]] Held get() const {
    std::lock_guard const lock(mutex_);
    KVBM_EXPECTS(manager_ != nullptr, ShuttingDown, "the TransferManager was closed");
    return Held(manager_);
  }

  /// For what keeps the manager beyond a call; to be let go without the interpreter lock.
  /// @throws Error(ShuttingDown) it was closed
  [[nodiscard]] std::shared_ptr<manager::TransferManager> share() const {
    std::lock_guard const lock(mutex_);
    KVBM_EXPECTS(manager_ != nullptr, ShuttingDown, "the TransferManager was closed");
    return manager_;
  }

  [[nodiscard]] bool is_closed() const {
    std::lock_guard const lock(mutex_);
    return manager_ == nullptr;
  }

  void close() {
    GilRelease const unlocked;
    std::shared_ptr<manager::TransferManager> last;
    std::unique_ptr<metrics::Exporter> exporter;
    {
      std::lock_guard const lock(mutex_);
      last.swap(manager_);
      exporter.swap(exporter_);
    }
  }

  /// Serves what the manager counts until it is closed. @return the port
  std::uint16_t serve_metrics(std::string const& address) {
    auto const manager = get();
    GilRelease const unlocked;
    auto exporter = std::make_unique<metrics::Exporter>();
    exporter->add(*manager.operator->());
    std::lock_guard const lock(mutex_);
    KVBM_EXPECTS(exporter_ == nullptr, AlreadyExists,
                 "this TransferManager serves its metrics already");
    auto const port = exporter->listen(address);
    exporter_ = std::move(exporter);
    return port;
  }

 private:
  mutable std::mutex mutex_;
  std::shared_ptr<manager::TransferManager> manager_;
  std::unique_ptr<metrics::Exporter> exporter_;  ///< null: serves nothing
};

using Manager = nb::class_<PyManager>;

/// @name One function a source file: adds its methods to the class.
/// @{
void bind_manager_lifecycle(Manager& bound);
void bind_manager_workers(Manager& bound);
void bind_manager_metrics(Manager& bound);
/// @}

}  // namespace kvbm::python
