// SPDX-License-Identifier: Apache-2.0
#include "remote/worker/exposed_memory.hpp"

#include <algorithm>
#include <mutex>
#include <utility>

namespace kvbm::remote {

/// Registrations of one call, and their places in the table.
class ExposedMemory::Entry {
 public:
  Entry(std::shared_ptr<ExposedMemory> owner, std::vector<memory::Region> regions)
      : owner_(std::move(owner)), regions_(std::move(regions)) {
    for (bool const gpu : {false, true}) {
      std::vector<nixl::NixlRange> ranges;
      for (auto const& region : regions_) {
        if ((region.host_data() == nullptr) != gpu) { continue; }
        ranges.push_back({region.address(), region.bytes(),
                          gpu ? static_cast<std::uint64_t>(region.device_id()) : 0});
      }
      if (ranges.empty()) { continue; }
      registrations_.push_back(
          owner_->agent_->register_memory(gpu ? nixl::Segment::Vram : nixl::Segment::Dram, ranges));
    }
    std::unique_lock const lock(owner_->mutex_);
    for (auto const& region : regions_) {
      owner_->ranges_.emplace(region.address(), region.bytes());
    }
  }
  Entry(Entry const&) = delete;
  Entry& operator=(Entry const&) = delete;
  ~Entry() {
    std::unique_lock const lock(owner_->mutex_);
    for (auto const& region : regions_) {
      auto const [begin, end] = owner_->ranges_.equal_range(region.address());
      auto const found = std::find_if(
          begin, end, [&region](auto const& range) { return range.second == region.bytes(); });
      if (found != end) { owner_->ranges_.erase(found); }
    }
  }

 private:
  std::shared_ptr<ExposedMemory> owner_;
  std::vector<memory::Region> regions_;  ///< their memory lives until it is deregistered
  std::vector<nixl::NixlAgent::Registration> registrations_;
};

std::shared_ptr<void const> ExposedMemory::expose(std::span<memory::Region const> regions) {
  std::vector<memory::Region> reachable;
  for (auto const& region : regions) {
    if (!memory::is_memory(region.kind()) || (region.host_data() == nullptr && !gpu_)) { continue; }
    reachable.push_back(region);
  }
  if (reachable.empty()) { return nullptr; }
  return std::make_shared<Entry>(shared_from_this(), std::move(reachable));
}

bool ExposedMemory::reaches(memory::Region const& region) const {
  std::shared_lock const lock(mutex_);
  // The table is as long as there are layer regions: a scan backwards ends at the first hit.
  for (auto at = ranges_.upper_bound(region.address()); at != ranges_.begin();) {
    --at;
    if (region.address() - at->first <= at->second &&
        region.bytes() <= at->second - (region.address() - at->first)) {
      return true;
    }
  }
  return false;
}

}  // namespace kvbm::remote
