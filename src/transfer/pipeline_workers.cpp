// SPDX-License-Identifier: Apache-2.0
#include "transfer/pipeline_workers.hpp"

#include <pthread.h>

#include <algorithm>
#include <string>
#include <utility>

#include "kvbm/core/log.hpp"

namespace kvbm::transfer {
namespace {

/// Families of stores that a worker keeps queues for.
constexpr std::size_t kMaxFamilies = 4;

}  // namespace

PipelineResources::PipelineResources(std::shared_ptr<memory::MemorySource> source,
                                     std::uint64_t staging_bytes)
    : source_(std::move(source)), staging_bytes_(staging_bytes) {}

std::span<std::byte> PipelineResources::staging(std::uint64_t bytes) {
  if (staging_.empty() || staging_.front().bytes() < bytes) {
    // Queues may know the old memory to the kernel: they go first.
    families_.clear();
    exposed_.reset();
    staging_.clear();
    staging_.push_back(
        source_->allocate({memory::StorageKind::Pinned, std::max(bytes, staging_bytes_),
                           memory::kFileAlignment, -1}));
  }
  return {staging_.front().host_data(), staging_.front().bytes()};
}

PipelineResources::FamilyQueues& PipelineResources::queues_of(memory::BlockStore const& store) {
  auto const found = std::find_if(
      families_.begin(), families_.end(),
      [&store](FamilyQueues const& queues) { return queues.family == store.family(); });
  if (found != families_.end()) {
    std::rotate(found, found + 1, families_.end());
    return families_.back();
  }
  // A transfer uses two families at most; what was used longest ago has nothing under way.
  if (families_.size() == kMaxFamilies) { families_.erase(families_.begin()); }
  return families_.emplace_back(FamilyQueues{store.family(), {}, {}});
}

memory::ExtentQueue& PipelineResources::ensure(std::unique_ptr<memory::ExtentQueue>& queue,
                                               memory::BlockStore& store) {
  if (queue == nullptr) {
    queue = store.make_queue();
    if (!staging_.empty()) {
      queue->register_buffer({staging_.front().host_data(), staging_.front().bytes()});
    }
  }
  return *queue;
}

memory::ExtentQueue& PipelineResources::read_queue(std::size_t slot, memory::BlockStore& store) {
  return ensure(queues_of(store).read[slot], store);
}

memory::ExtentQueue& PipelineResources::write_queue(std::size_t slot, memory::BlockStore& store) {
  return ensure(queues_of(store).write[slot], store);
}

void PipelineResources::expose_staging(Peer& peer) {
  if (exposed_ == nullptr && !staging_.empty()) { exposed_ = peer.expose(staging_.front()); }
}

void PipelineResources::abandon_staging() noexcept {
  families_.clear();
  exposed_.reset();
  staging_.clear();
}

void PipelineResources::drain() {
  for (auto& queue : wire_queues_) {
    try {
      queue.finish();
    } catch (std::exception const&) {  // the failure that is under way already tells more
    }
  }
  for (auto& queues : families_) {
    for (auto* const direction : {&queues.read, &queues.write}) {
      for (auto& queue : *direction) {
        if (queue != nullptr) { static_cast<void>(queue->finish()); }
      }
    }
  }
}

PipelineWorkers::PipelineWorkers(std::string name, unsigned num_threads,
                                 std::shared_ptr<memory::MemorySource> source,
                                 std::uint64_t staging_bytes)
    : name_(std::move(name)),
      num_threads_(std::max(num_threads, 1U)),
      source_(std::move(source)),
      staging_bytes_(staging_bytes) {}

PipelineWorkers::~PipelineWorkers() {
  {
    std::lock_guard const lock(mutex_);
    stopping_ = true;
  }
  wake_.notify_all();
  for (auto& thread : threads_) {
    thread.join();
  }
}

void PipelineWorkers::post(int priority, Job job) {
  {
    std::lock_guard const lock(mutex_);
    queue_.push({priority, next_sequence_++, std::make_shared<Job>(std::move(job))});
    // While the destructor joins them, those that are there finish what their work still posts.
    if (!stopping_ && threads_.size() < num_threads_) {
      auto const index = static_cast<unsigned>(threads_.size());
      threads_.emplace_back([this, index] { run(index); });
    }
  }
  wake_.notify_one();
}

void PipelineWorkers::run(unsigned index) {
  pthread_setname_np(pthread_self(), (name_ + "-" + std::to_string(index)).c_str());
  PipelineResources resources(source_, staging_bytes_);
  std::unique_lock lock(mutex_);
  while (true) {
    wake_.wait(lock, [this] { return stopping_ || !queue_.empty(); });
    if (queue_.empty()) { return; }
    std::shared_ptr<Job> job = queue_.top().job;
    queue_.pop();
    lock.unlock();
    try {
      (*job)(resources);
    } catch (std::exception const& error) {
      log::write(log::Level::Error,
                 std::string("a pipeline job let an exception out: ") + error.what());
    }
    job.reset();
    lock.lock();
  }
}

}  // namespace kvbm::transfer
