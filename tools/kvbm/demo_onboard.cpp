// SPDX-License-Identifier: Apache-2.0
//
// The second half of `kvbm demo`, in a process of its own that knows nothing but the file.

#include <algorithm>
#include <memory>

#include "command.hpp"
#include "demo_tiers.hpp"
#include "exit_code.hpp"
#include "kvbm/core/error.hpp"
#include "kvbm/layout/typed_view.hpp"
#include "shape.hpp"

namespace kvbm::cli {
namespace {

using layout::LayoutHandle;
using layout::PhysicalLayout;

/// Element by element, without the library's own copies or checksums.
template <typename T>
bool holds_heads(PhysicalLayout const& whole, PhysicalLayout const& shard, std::uint64_t first_head,
                 std::vector<BlockId> const& ids) {
  layout::TypedView<T> const all(whole);
  layout::TypedView<T> const part(shard);
  auto const& config = shard.config();
  for (BlockId const block : ids) {
    for (std::uint64_t layer = 0; layer < config.num_layers(); ++layer) {
      for (std::uint64_t outer = 0; outer < config.outer_dim(); ++outer) {
        for (std::uint64_t token = 0; token < config.page_size(); ++token) {
          for (std::uint64_t head = 0; head < *config.num_heads(); ++head) {
            T const* const expected = &all(block, layer, outer, token, first_head + head, 0);
            T const* const found = &part(block, layer, outer, token, head, 0);
            if (!std::equal(expected, expected + config.head_dim(), found)) { return false; }
          }
        }
      }
    }
  }
  return true;
}

bool shard_is_right(PhysicalLayout const& whole, PhysicalLayout const& shard,
                    std::uint64_t first_head, std::vector<BlockId> const& ids) {
  switch (whole.config().dtype_width_bytes()) {
    case 1: return holds_heads<std::uint8_t>(whole, shard, first_head, ids);
    case 2: return holds_heads<std::uint16_t>(whole, shard, first_head, ids);
    case 4: return holds_heads<std::uint32_t>(whole, shard, first_head, ids);
    default: return holds_heads<std::uint64_t>(whole, shard, first_head, ids);
  }
}

/// Every rank takes its own heads of every block out of G2 into its own device.
nlohmann::json onboard_ranks(DemoPlan const& plan, DemoTiers& tiers, LayoutHandle g1,
                             LayoutHandle g2, std::vector<BlockId> const& ids) {
  auto& manager = tiers.manager();
  std::uint64_t const heads = plan.workload.heads / plan.ranks;
  Workload shape = plan.workload;
  shape.heads = heads;
  bool equal = true;
  auto const whole = tiers.readable(g1, ids);
  for (std::uint64_t rank = 0; rank < plan.ranks; ++rank) {
    Side side = side_of_tier("g1");
    side.device = plan.gpu ? 0 : static_cast<DeviceId>(rank);
    auto const shard =
        manager.register_layout(make_layout(manager, make_config(shape, plan.num_blocks, 1), side));
    tiers.wipe(shard);
    auto const options = transfer::TransferOptions::builder()
                             .src_head_range({rank * heads, (rank + 1) * heads})
                             .dst_head_range({0, heads})
                             .build();
    manager.execute_transfer(g2, ids, shard, ids, options).wait();
    equal = equal && shard_is_right(whole, tiers.readable(shard, ids), rank * heads, ids);
  }
  return {
      {"ranks", plan.ranks}, {"heads_per_rank", heads}, {"blocks", ids.size()}, {"equal", equal}};
}

std::string message_of(std::exception_ptr const& error) {
  try {
    std::rethrow_exception(error);
  } catch (std::exception const& what) { return what.what(); }
}

std::string code_of(std::exception_ptr const& error) {
  try {
    std::rethrow_exception(error);
  } catch (Error const& what) { return std::string(to_string(what.code())); } catch (...) {
    return "Internal";
  }
}

}  // namespace

nlohmann::json run_onboard(DemoPlan const& plan) {
  DemoTiers tiers(plan);
  auto& manager = tiers.manager();
  auto const g3 =
      manager.register_layout(PhysicalLayout::open_disk(manager.memory_source(), plan.file));
  auto const g2 = tiers.add_g2();
  auto const g1 = tiers.add_g1();
  tiers.wipe(g1);
  tiers.wipe(g2);

  nlohmann::json result;
  result["failed"] = nlohmann::json::array();
  result["hops"] = nlohmann::json::array();
  auto arrived = tiers.ids();
  if (plan.corrupt) {
    auto const notification = manager.execute_transfer(g3, arrived, g2, arrived);
    try {
      notification.wait();
    } catch (Error const&) {  // what failed is listed block by block below
    }
    for (auto const& failed : notification.failed_blocks()) {
      BlockId const block = tiers.ids()[failed.position];
      result["failed"].push_back({{"block", block},
                                  {"code", code_of(failed.error)},
                                  {"message", message_of(failed.error)}});
      std::erase(arrived, block);
    }
  } else {
    result["hops"].push_back(tiers.measure("G3 -> G2", g3, g2, arrived, "read"));
  }
  if (!arrived.empty()) {
    result["hops"].push_back(tiers.measure("G2 -> G1", g2, g1, arrived));
    result["tp"] = onboard_ranks(plan, tiers, g1, g2, arrived);
  }
  result["arrived"] = arrived;
  result["checksums"] = nlohmann::json::array();
  for (auto const& checksum : manager.block_checksums(g1, arrived)) {
    result["checksums"].push_back(to_string(checksum));
  }
  return result;
}

void add_demo_onboard(Commands& commands) {
  auto const plan = std::make_shared<DemoPlan>();
  auto const shape = std::make_shared<ShapeFlags>();
  auto& verb = commands.add("demo-onboard", "second process of `kvbm demo`", [plan, shape] {
    plan->workload = shape->resolve();
    Output{true, false, {}}.result(run_onboard(*plan));
    return ExitOk;
  });
  verb.group("");  // hidden: `kvbm demo` starts it
  shape->add_to(verb, "smollm2-135m");
  verb.add_option("--file", plan->file, "")->required();
  verb.add_option("--blocks", plan->num_blocks, "")->required();
  verb.add_option("--ranks", plan->ranks, "")->required();
  verb.add_option("--rounds", plan->rounds, "")->required();
  verb.add_flag("--corrupt", plan->corrupt, "");
  verb.add_flag("--gpu", plan->gpu, "");
}

}  // namespace kvbm::cli
