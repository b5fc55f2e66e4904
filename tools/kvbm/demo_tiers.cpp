// SPDX-License-Identifier: Apache-2.0
#include "demo_tiers.hpp"

#include <algorithm>
#include <numeric>
#include <optional>

#include "kvbm/core/checked.hpp"
#include "limits.hpp"
#include "measure.hpp"
#include "plain_copies.hpp"
#include "raw_disk.hpp"
#include "shape.hpp"

namespace kvbm::cli {
namespace {

constexpr double kHopBudgetSeconds = 5;
constexpr std::uint64_t kAtLeastLimitBytes = std::uint64_t{32} << 20U;

manager::TransferManager make_manager(DemoPlan const& plan) {
  if (plan.gpu) { return manager::TransferManager::builder().cuda_device_id(0).build(); }
  auto const bytes = make_config(plan.workload, plan.num_blocks, 1).block_bytes() * plan.num_blocks;
  // Every rank's share and the whole fit on each device, with room for its memory pool.
  return manager::TransferManager::builder()
      .host_device(static_cast<unsigned>(std::max<std::uint64_t>(plan.ranks, 1)),
                   checked_add(checked_mul(bytes, std::uint64_t{2}), std::uint64_t{1} << 30U))
      .build();
}

}  // namespace

void to_json(nlohmann::json& json, Hop const& hop) {
  json = {{"hop", hop.name},        {"blocks", hop.blocks},        {"bytes", hop.bytes},
          {"seconds", hop.seconds}, {"share_of_limit", hop.share}, {"limit", hop.limit}};
}

void from_json(nlohmann::json const& json, Hop& hop) {
  json.at("hop").get_to(hop.name);
  json.at("blocks").get_to(hop.blocks);
  json.at("bytes").get_to(hop.bytes);
  json.at("seconds").get_to(hop.seconds);
  json.at("share_of_limit").get_to(hop.share);
  json.at("limit").get_to(hop.limit);
}

DemoTiers::DemoTiers(DemoPlan const& plan)
    : plan_(plan), manager_(make_manager(plan)), ids_(plan.num_blocks) {
  std::iota(ids_.begin(), ids_.end(), BlockId{0});
}

layout::LayoutHandle DemoTiers::add_g1() {
  return manager_.register_layout(
      make_layout(manager_, make_config(plan_.workload, plan_.num_blocks, 1), side_of_tier("g1")));
}

layout::LayoutHandle DemoTiers::add_g2() {
  return manager_.register_layout(
      make_layout(manager_, make_config(plan_.workload, plan_.num_blocks, memory::kFileAlignment),
                  side_of_tier("g2")));
}

layout::PhysicalLayout DemoTiers::readable(layout::LayoutHandle handle,
                                           std::vector<BlockId> const& ids) {
  auto layout = manager_.layout(handle);
  if (layout.regions().front().host_data() != nullptr) { return layout; }
  Side side;
  side.kind = layout.kind();
  side.dimension = layout.block_dimension();
  side.format = layout.format();
  auto const copy = manager_.register_layout(make_layout(manager_, layout.config(), side));
  manager_.execute_transfer(handle, ids, copy, ids).wait();
  return manager_.layout(copy);
}

void DemoTiers::wipe(layout::LayoutHandle handle) {
  manager_.fill_blocks(handle, ids_, {transfer::FillPattern::Kind::Constant, 0xEE});
}

Hop DemoTiers::measure(std::string const& name, layout::LayoutHandle src, layout::LayoutHandle dst,
                       std::vector<BlockId> const& ids, std::string const& disk) {
  auto const config = manager_.layout(src).config();
  Hop hop{name, ids.size(), config.block_bytes() * ids.size(), 0, 0, {}};
  auto const move = [&] {
    return seconds([&] { manager_.execute_transfer(src, ids, dst, ids).wait(); });
  };
  // Rates are compared, not times, because the limits move whole slices.
  auto const scaled = [&hop](double elapsed, std::uint64_t bytes) {
    return elapsed * static_cast<double>(hop.bytes) / static_cast<double>(bytes);
  };
  auto const finish = [&](Rounds const& rounds) {
    hop.seconds = rounds.candidate.median();
    hop.share = rounds.share();
    return hop;
  };
  bool const to_host = manager_.layout(src).storage_kind() == memory::StorageKind::Device;
  if (disk.empty() && plan_.gpu) {
    auto const plain = make_plain_cuda(0);
    auto const region = [this, &hop](memory::StorageKind kind) {
      memory::AllocationRequest request;
      request.kind = kind;
      request.bytes = std::max(hop.bytes, kAtLeastLimitBytes);
      request.device_id = 0;
      return manager_.memory_source()->allocate(request);
    };
    auto const pinned = region(memory::StorageKind::Pinned);
    auto const device = region(memory::StorageKind::Device);
    auto const& from = to_host ? device : pinned;
    auto const& to = to_host ? pinned : device;
    hop.limit = "contiguous cudaMemcpyAsync";
    return finish(in_turns(plan_.rounds, kHopBudgetSeconds, move, [&] {
      return scaled(seconds([&] {
                      plain->copy(reinterpret_cast<void*>(to.address()),
                                  reinterpret_cast<void const*>(from.address()), from.bytes(),
                                  to_host ? transfer::LinkDirection::DeviceToHost
                                          : transfer::LinkDirection::HostToDevice,
                                  0);
                      plain->synchronize(0);
                    }),
                    from.bytes());
    }));
  }
  if (disk.empty()) {
    MemoryLimits limits(manager_.context().copy_engine(), *manager_.memory_source(),
                        std::max(hop.bytes, kAtLeastLimitBytes));
    hop.limit = "STREAM copy, same threads";
    return finish(in_turns(plan_.rounds, kHopBudgetSeconds, move,
                           [&] { return scaled(limits.stream_copy(), limits.bytes()); }));
  }
  RawDisk raw(manager_.memory_source()->disk_io(), *manager_.memory_source(),
              std::vector{plan_.file.parent_path()}, config.block_bytes(), ids.size());
  hop.limit = raw.is_direct() ? "raw O_DIRECT " + disk + ", same engine"
                              : "raw page-cached " + disk + ", same engine";
  return finish(in_turns(plan_.rounds, kHopBudgetSeconds, move, [&] {
    return scaled(disk == "write" ? raw.write() : raw.read(), raw.bytes());
  }));
}

}  // namespace kvbm::cli
