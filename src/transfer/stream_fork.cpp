// SPDX-License-Identifier: Apache-2.0
#include "transfer/stream_fork.hpp"

#include <fmt/format.h>

#include <exception>
#include <utility>

#include "kvbm/core/log.hpp"

namespace kvbm::transfer {

StreamFork::StreamFork(device::Device& device, device::StreamPtr trunk,
                       std::vector<device::StreamPtr> branches)
    : device_(device), trunk_(std::move(trunk)), branches_(std::move(branches)) {
  auto const begin = mark(trunk_);
  for (auto const& branch : branches_) {
    branch->wait(begin);
  }
}

StreamFork::~StreamFork() {
  for (auto const& branch : branches_) {
    try {
      trunk_->wait(mark(branch));
    } catch (std::exception const& e) {
      log::write(log::Level::Error, fmt::format("joining two streams failed: {}", e.what()));
    }
  }
}

device::EventPtr StreamFork::mark(device::StreamPtr const& stream) const {
  if (branches_.empty()) { return nullptr; }
  auto event = device_.create_event();
  stream->record(event);
  return event;
}

void StreamFork::order(device::StreamPtr const& first, device::StreamPtr const& second) const {
  if (first != second) { second->wait(mark(first)); }
}

}  // namespace kvbm::transfer
