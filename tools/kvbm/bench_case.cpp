// SPDX-License-Identifier: Apache-2.0
#include "bench_case.hpp"

#include <algorithm>
#include <memory>
#include <optional>

#include "kvbm/core/checked.hpp"
#include "limits.hpp"
#include "raw_disk.hpp"

namespace kvbm::cli {
namespace {

using memory::StorageKind;

constexpr std::uint64_t kMinLimitBytes = std::uint64_t{16} << 20U;
constexpr std::uint64_t kMaxLimitBytes = std::uint64_t{256} << 20U;

/// What the transfer is compared with; each call returns the seconds the same bytes would take.
class Limit {
 public:
  Limit(manager::TransferManager& manager, BenchCase const& bench, std::uint64_t block_bytes,
        std::filesystem::path const& folder)
      : bytes_(block_bytes * bench.num_blocks) {
    auto& source = *manager.memory_source();
    bool const reads = bench.src.storage == StorageKind::Disk;
    if (reads || bench.dst.storage == StorageKind::Disk) {
      disk_.emplace(source.disk_io(), source, std::vector{folder}, block_bytes, bench.num_blocks);
      reads_ = reads;
    } else {
      memory_.emplace(manager.context().copy_engine(), source,
                      std::clamp(bytes_, kMinLimitBytes, kMaxLimitBytes));
      memory_->stream_copy();
    }
  }

  double operator()() {
    double const elapsed =
        disk_ ? (reads_ ? disk_->read() : disk_->write()) : memory_->stream_copy();
    auto const moved = disk_ ? disk_->bytes() : memory_->bytes();
    return elapsed * static_cast<double>(bytes_) / static_cast<double>(moved);
  }

  [[nodiscard]] std::string name() const {
    if (!disk_) { return "STREAM copy"; }
    return std::string(disk_->is_direct() ? "raw O_DIRECT " : "raw page-cached ") +
           (reads_ ? "read" : "write");
  }

 private:
  std::uint64_t bytes_;
  bool reads_ = false;
  std::optional<RawDisk> disk_;
  std::optional<MemoryLimits> memory_;
};

/// Pinned and system sides keep blocks apart as files do, so that direct I/O needs no copy.
layout::PhysicalLayout make_side(manager::TransferManager& manager, BenchCase const& bench,
                                 Side const& side, bool with_disk,
                                 std::filesystem::path const& file) {
  std::uint64_t const alignment =
      with_disk && side.storage != StorageKind::Device ? memory::kFileAlignment : 1;
  return make_layout(manager, make_config(bench.shape, bench.num_blocks, alignment), side, file);
}

}  // namespace

std::string describe(Side const& side) {
  std::string text = "fc ";
  if (side.kind == layout::LayoutKind::LayerSeparate) {
    text = side.dimension == layout::BlockDimension::First ? "ls " : "ls2 ";
  }
  auto format = side.format.to_string();
  if (format.rfind("Operational", 0) == 0) { format.erase(0, 11); }
  return text + format;
}

BenchResult run_case(manager::TransferManager& manager, BenchCase const& bench,
                     std::filesystem::path const& folder) {
  bool const with_disk =
      bench.src.storage == StorageKind::Disk || bench.dst.storage == StorageKind::Disk;
  TempFolder const files(with_disk ? folder : std::filesystem::path{});
  auto const src_layout =
      make_side(manager, bench, bench.src, with_disk, files.path() / "src.kvbm");
  auto const dst_layout =
      make_side(manager, bench, bench.dst, with_disk, files.path() / "dst.kvbm");
  auto const src = manager.register_layout(src_layout);
  auto const dst = manager.register_layout(dst_layout);
  auto const block_bytes = src_layout.config().block_bytes();
  auto const src_ids = make_ids(bench.ids, bench.num_blocks, bench.num_blocks, 1);
  auto const dst_ids = make_ids(bench.ids, bench.num_blocks, bench.num_blocks, 2);
  manager.fill_blocks(src, src_ids, {transfer::FillPattern::Kind::Hashed, 7});
  auto const prepared = manager.prepare_transfer(src, dst);

  BenchResult result;
  result.bytes = block_bytes * bench.num_blocks;
  result.strategy =
      std::string(transfer::to_string(prepared.explain(src_ids, dst_ids).decision.strategy));
  {
    Limit limit(manager, bench, block_bytes, with_disk ? files.path() : folder);
    result.limit = limit.name();
    prepared.submit(src_ids, dst_ids).wait();  // touches every page of the destination
    Samples submit;
    auto const move = [&] {
      return seconds([&] {
        transfer::TransferCompleteNotification notification;
        submit.add(seconds([&] { notification = prepared.submit(src_ids, dst_ids); }));
        notification.wait();
      });
    };
    auto const rounds = in_turns(bench.repeat, bench.budget_seconds, move, limit);
    result.p50 = rounds.candidate.median();
    result.p99 = rounds.candidate.percentile(0.99);
    result.share = rounds.share();
    result.rounds = rounds.candidate.size();
    result.submit = submit.median();
  }
  manager.unregister_layout(src);
  manager.unregister_layout(dst);
  return result;
}

}  // namespace kvbm::cli
