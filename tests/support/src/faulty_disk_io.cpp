// SPDX-License-Identifier: Apache-2.0
#include "kvbm/testing/faulty_disk_io.hpp"

#include <utility>
#include <vector>

namespace kvbm::testing {

using memory::DiskCompletion;
using memory::DiskQueue;
using memory::DiskRequest;

class FaultyDiskQueue final : public DiskQueue {
 public:
  FaultyDiskQueue(std::unique_ptr<DiskQueue> inner, std::shared_ptr<FaultyDiskIo::Shared> shared)
      : shared_(std::move(shared)), inner_(std::move(inner)) {}

  void start(std::span<DiskRequest const> requests) override {
    for (auto request : requests) {
      auto const fault = shared_->decide(request, shared_->count++);
      faults_.push_back(fault);
      if (fault) { request.bytes = fault->moved_bytes; }
      // One by one and always, so that both queues count alike.
      inner_->start({&request, 1});
    }
  }

  std::size_t wait_some(std::vector<DiskCompletion>& done) override {
    std::size_t const before = done.size();
    std::size_t const count = inner_->wait_some(done);
    for (std::size_t i = before; i < done.size(); ++i) {
      if (auto const& fault = faults_[done[i].request]) { done[i].error = fault->error; }
    }
    return count;
  }

  std::vector<int> finish() override {
    std::vector<int> errors = inner_->finish();
    for (std::size_t i = 0; i < errors.size(); ++i) {
      if (faults_[i]) { errors[i] = faults_[i]->error; }
    }
    faults_.clear();
    return errors;
  }

  void register_buffer(std::span<std::byte> buffer) override { inner_->register_buffer(buffer); }

 private:
  std::shared_ptr<FaultyDiskIo::Shared> shared_;
  std::vector<std::optional<DiskFault>> faults_;
  std::unique_ptr<DiskQueue> inner_;
};

FaultyDiskIo::FaultyDiskIo(std::shared_ptr<memory::DiskIo> inner, Decide decide)
    : inner_(std::move(inner)), shared_(std::make_shared<Shared>()) {
  shared_->decide = std::move(decide);
}

std::unique_ptr<DiskQueue> FaultyDiskIo::make_queue() {
  return std::make_unique<FaultyDiskQueue>(inner_->make_queue(), shared_);
}

}  // namespace kvbm::testing
