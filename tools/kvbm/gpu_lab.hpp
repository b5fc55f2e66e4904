// SPDX-License-Identifier: Apache-2.0
#pragma once

#include <chrono>
#include <cstdint>
#include <memory>
#include <optional>
#include <string>
#include <vector>

#include "kvbm/manager/transfer_manager.hpp"
#include "measure.hpp"
#include "plain_copies.hpp"
#include "shape.hpp"

namespace kvbm::cli {

/// Where one side of a GPU benchmark's blocks lies: two areas in HBM, two in pinned memory.
enum class Area { Device0, Device1, Host0, Host1 };

/// A GPU (or an emulated device), a manager on it, memory that all cases share, so that a case
/// costs no allocation, and the plain copies beside it.
class GpuLab {
 public:
  /// @param area_bytes  of each of the two areas in pinned memory
  /// @param device_area_bytes  of each of the two in HBM, at least as much
  /// @throws UnsupportedError "no CUDA device: ..." unless `emulate`
  GpuLab(DeviceId id, std::uint64_t area_bytes, std::uint64_t device_area_bytes, bool emulate);

  [[nodiscard]] manager::TransferManager& manager() noexcept { return manager_; }
  [[nodiscard]] device::Device& device() const noexcept { return *device_; }
  [[nodiscard]] PlainCopies& plain() noexcept { return *plain_; }
  [[nodiscard]] bool emulated() const noexcept { return emulated_; }
  [[nodiscard]] std::uint64_t area_bytes() const noexcept { return area(Area::Host0).bytes(); }
  [[nodiscard]] std::uint64_t device_area_bytes() const noexcept {
    return area(Area::Device0).bytes();
  }
  /// "NVIDIA H200, driver 13.0, runtime 13.0, 0000:1b:00.0".
  [[nodiscard]] std::string describe() const;

  /// Blocks of this shape at the start of an area; storage of `side` is ignored.
  layout::LayoutHandle add(Area area, layout::LayoutConfig const& config, Side const& side);
  void remove(layout::LayoutHandle handle) { manager_.unregister_layout(handle); }
  /// Whether a layout of this shape fits into an area.
  [[nodiscard]] bool fits(layout::LayoutConfig const& config, Side const& side,
                          Area area = Area::Host0) const;
  [[nodiscard]] std::byte* address(Area area) const;

  /// Seconds of one contiguous copy of `bytes` in this direction, seen complete.
  double contiguous(transfer::LinkDirection direction, std::uint64_t bytes);
  /// The same in both directions at once, `bytes` each.
  double contiguous_both(std::uint64_t bytes);

 private:
  [[nodiscard]] memory::Region const& area(Area area) const noexcept {
    return areas_[static_cast<std::size_t>(area)];
  }
  bool emulated_;
  device::DevicePtr device_;
  manager::TransferManager manager_;
  std::vector<memory::Region> areas_;
  std::unique_ptr<PlainCopies> plain_;
};

/// CPU seconds that this process has used.
double cpu_seconds();

/// The pieces that a plan copies for these blocks, as addresses; at most `limit` of them.
CopyList list_pieces(transfer::CopyPlan const& plan, layout::PhysicalLayout const& src,
                     layout::PhysicalLayout const& dst, std::vector<BlockId> const& src_ids,
                     std::vector<BlockId> const& dst_ids, std::size_t limit);

/// The end of what a measurement may take.
class Deadline {
 public:
  explicit Deadline(double seconds)
      : end_(std::chrono::steady_clock::now() +
             std::chrono::duration_cast<std::chrono::steady_clock::duration>(
                 std::chrono::duration<double>(seconds))) {}
  [[nodiscard]] bool over() const { return std::chrono::steady_clock::now() >= end_; }
  [[nodiscard]] double left() const {
    return std::chrono::duration<double>(end_ - std::chrono::steady_clock::now()).count();
  }

 private:
  std::chrono::steady_clock::time_point end_;
};

}  // namespace kvbm::cli
