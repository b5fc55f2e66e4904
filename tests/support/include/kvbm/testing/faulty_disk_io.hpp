// SPDX-License-Identifier: Apache-2.0
#pragma once

#include <atomic>
#include <cstdint>
#include <functional>
#include <memory>
#include <optional>
#include <string>

#include "kvbm/memory/disk_io.hpp"

namespace kvbm::testing {

/// What goes wrong with one request.
struct DiskFault {
  int error = 0;  ///< the errno it ends with; 0: the disk claims success
  /// So many of its first bytes are really moved: a short or torn transfer. A multiple of 4096
  /// where the file is opened with O_DIRECT.
  std::uint64_t moved_bytes = 0;
};

/// A DiskIo that hands requests to another one, except those that are made to fail.
class FaultyDiskIo final : public memory::DiskIo {
 public:
  /// Called for each request, with its number since construction (from 0) over all queues;
  /// nullopt lets it pass. Called by the threads that start requests.
  using Decide =
      std::function<std::optional<DiskFault>(memory::DiskRequest const&, std::uint64_t number)>;

  FaultyDiskIo(std::shared_ptr<memory::DiskIo> inner, Decide decide);

  [[nodiscard]] std::unique_ptr<memory::DiskQueue> make_queue() override;
  [[nodiscard]] memory::DiskEngine engine() const noexcept override { return inner_->engine(); }
  [[nodiscard]] std::string reason() const override { return inner_->reason(); }
  [[nodiscard]] memory::DiskIoOptions const& options() const noexcept override {
    return inner_->options();
  }
  /// Requests seen so far.
  [[nodiscard]] std::uint64_t num_requests() const noexcept { return shared_->count; }

 private:
  friend class FaultyDiskQueue;
  struct Shared {
    Decide decide;
    std::atomic<std::uint64_t> count{0};
  };
  std::shared_ptr<memory::DiskIo> inner_;
  std::shared_ptr<Shared> shared_;
};

}  // namespace kvbm::testing
