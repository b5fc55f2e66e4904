// SPDX-License-Identifier: Apache-2.0
//
// Tables of `kvbm bench prefix`.
#include "prefix_tables.hpp"

#include <fmt/format.h>
#include <unistd.h>

#include <algorithm>
#include <memory>
#include <numeric>
#include <optional>
#include <random>
#include <span>

#include "kvbm/core/checked.hpp"
#include "kvbm/core/error.hpp"
#include "kvbm/manager/transfer_manager.hpp"
#include "kvbm/object/object_store.hpp"
#include "kvbm/prefix/prefix_store.hpp"
#include "measure.hpp"
#include "shape.hpp"

namespace kvbm::cli {
namespace {

using prefix::BlockKey;
using prefix::PrefixStore;
using prefix::PrefixStoreOptions;
using prefix::WritePolicy;
using Manager = std::shared_ptr<manager::TransferManager>;

/// Prompts that are asked for in turn. The tier of memory above a slower one has room for two, so
/// that the next one is never there.
constexpr std::uint64_t kPrompts = 4;

Manager make_manager(PrefixPlan const& plan, std::uint64_t blocks) {
  auto const bytes = checked_mul(make_config(plan.shape.shape, 1, 1).block_bytes(), blocks);
  auto builder = manager::TransferManager::builder();
  if (plan.gpu) {
    builder.cuda_device_id(0);
  } else {
    builder.host_device(1,
                        checked_add(checked_mul(bytes, std::uint64_t{2}), std::uint64_t{1} << 30U));
  }
  return std::make_shared<manager::TransferManager>(builder.build());
}

std::vector<BlockId> iota(std::uint64_t first, std::uint64_t count) {
  std::vector<BlockId> ids(count);
  std::iota(ids.begin(), ids.end(), static_cast<BlockId>(first));
  return ids;
}

std::vector<prefix::TokenId> make_prompt(std::uint64_t tokens, std::uint32_t seed) {
  std::mt19937 random(seed);
  std::vector<prefix::TokenId> prompt(tokens);
  for (auto& token : prompt) {
    token = static_cast<prefix::TokenId>(random() % 100000U);
  }
  return prompt;
}

/// The engine's own blocks, and the tiers of one store, which go with the object.
class PrefixBed {
 public:
  PrefixBed(PrefixPlan const& plan, std::uint64_t engine_blocks, std::uint64_t all_blocks)
      : plan_(plan),
        manager_(make_manager(plan, engine_blocks + all_blocks)),
        folder_(plan.folder),
        engine_(manager_->register_layout(make_layout(
            *manager_, make_config(plan.shape.shape, engine_blocks, 1), side_of_tier("g1")))) {
    manager_->fill_blocks(engine_, iota(0, engine_blocks),
                          {transfer::FillPattern::Kind::Hashed, 5});
  }
  ~PrefixBed() {
    store_.reset();
    if (objects_) { remove_manifest(*objects_); }
  }
  PrefixBed(PrefixBed const&) = delete;
  PrefixBed& operator=(PrefixBed const&) = delete;

  layout::LayoutHandle add_tier(std::string const& tier, std::uint64_t blocks) {
    auto const config =
        make_config(plan_.shape.shape, blocks, tier == "g1" ? 1 : memory::kFileAlignment);
    auto const file = folder_.path() / "g3";
    auto const layout = tier == "g4" ? make_objects(config)
                                     : make_layout(*manager_, config, side_of_tier(tier), file);
    auto const handle = manager_->register_layout(layout);
    options_.tiers.push_back(
        {handle, {}, tier == "g3" ? folder_.path() / "g3.kv" : std::filesystem::path{}});
    return handle;
  }

  PrefixStore& open(WritePolicy policy) {
    options_.fingerprint =
        prefix::model_fingerprint("bench", "bytes", make_config(plan_.shape.shape, 1, 1));
    options_.write_policy = policy;
    store_.emplace(manager_, options_);
    return *store_;
  }
  [[nodiscard]] manager::TransferManager& manager() const { return *manager_; }
  [[nodiscard]] layout::LayoutHandle engine() const { return engine_; }
  [[nodiscard]] std::filesystem::path const& folder() const { return folder_.path(); }

 private:
  layout::PhysicalLayout make_objects(layout::LayoutConfig const& config) {
    object::ObjectStoreOptions options;
    options.s3 = plan_.server->options();
    options.scheme.prefix = fmt::format("bench-prefix-{}-{}", ::getpid(), config.num_blocks());
    objects_ = manager_->layout_builder()
                   .config(config)
                   .fully_contiguous(layout::KvBlockLayout::UniversalTP)
                   .allocate_object(options)
                   .build();
    return *objects_;
  }

  PrefixPlan const& plan_;
  Manager manager_;
  TempFolder folder_;
  layout::LayoutHandle engine_;
  PrefixStoreOptions options_;
  std::optional<layout::PhysicalLayout> objects_;
  std::optional<PrefixStore> store_;
};

void add_hit(Table& table, PrefixPlan const& plan, std::string const& tier, std::uint64_t count) {
  bool const is_slow = tier == "g3" || tier == "g4";
  PrefixBed bed(plan, count, (kPrompts + 2) * count);
  if (is_slow) { bed.add_tier("g2", 2 * count); }
  auto const layout = bed.add_tier(tier, kPrompts * count);
  auto& store = bed.open(WritePolicy::Through);
  auto const ids = iota(0, count);
  std::vector<std::vector<BlockKey>> prompts;
  for (std::uint32_t i = 0; i < kPrompts; ++i) {
    prompts.push_back(store.keys(make_prompt(count * store.page_size(), i)));
    auto const stored = store.offload(prompts.back(), bed.engine(), ids).wait();
    KVBM_EXPECTS(stored.failed == 0, Io,
                 fmt::format("{} of {} blocks were not stored in {}", stored.failed, count, tier));
    // Makes room above: what is on its way down cannot leave.
    if (is_slow) { store.flush(); }
  }
  auto& manager = bed.manager();
  auto const wanted = store.stats().tiers.back().tier;
  Rounds rounds;
  std::uint64_t elsewhere = 0;
  std::uint64_t missed = 0;
  double spent = 0;
  for (std::size_t i = 0; i < plan.repeat && (i < kPrompts || spent < plan.time_limit); ++i) {
    auto const prompt = i % kPrompts;
    prefix::OnboardResult found;
    rounds.candidate.add(
        seconds([&] { found = store.onboard(prompts[prompt], bed.engine(), ids).wait(); }));
    missed += count - found.num_blocks;
    elsewhere += static_cast<std::uint64_t>(std::count_if(
        found.tiers.begin(), found.tiers.end(), [&](auto const hit) { return hit != wanted; }));
    auto const from = iota(prompt * count, count);
    rounds.limit.add(
        seconds([&] { manager.execute_transfer(layout, from, bed.engine(), ids).wait(); }));
    spent += rounds.candidate[i] + rounds.limit[i];
  }
  KVBM_EXPECTS(missed == 0, Corrupt,
               fmt::format("{} blocks of {} were not found again", missed, tier));
  for (auto const& prompt : prompts) {
    store.erase(prompt);
  }
  auto const bytes = static_cast<double>(make_config(plan.shape.shape, 1, 1).block_bytes() * count);
  std::string name = tier;
  name.front() = 'G';
  table.add({plan.shape.name, name, count_cell(count), time_cell(rounds.candidate.median()),
             time_cell(rounds.candidate.percentile(0.99)),
             rate_cell(bytes / rounds.candidate.median()), time_cell(rounds.limit.median()),
             times_cell(rounds.candidate.median() / rounds.limit.median()),
             count_cell(rounds.candidate.size()), count_cell(elsewhere)});
}

/// Seconds of one call, by the median of some rounds of many calls.
template <typename Body>
double call_seconds(Body&& body) {
  constexpr std::size_t kRounds = 9;
  constexpr std::size_t kCalls = 50;
  Samples samples;
  for (std::size_t i = 0; i < kRounds; ++i) {
    samples.add(seconds([&body] {
      for (std::size_t call = 0; call < kCalls; ++call) {
        body();
      }
    }));
  }
  return samples.median() / kCalls;
}

struct OffloadCase {
  WritePolicy policy = WritePolicy::Through;
  bool fits = true;  ///< whether the first tier has room for all
};

void add_offload(Table& table, PrefixPlan const& plan, OffloadCase const& what) {
  constexpr std::uint64_t kCall = 16;
  auto const block_bytes = make_config(plan.shape.shape, 1, 1).block_bytes();
  std::uint64_t const calls = std::max<std::uint64_t>(4, plan.offload_bytes / block_bytes / kCall);
  std::uint64_t const blocks = calls * kCall;
  PrefixBed bed(plan, kCall, blocks * 2);
  bed.add_tier("g2", what.fits ? blocks : blocks / 4);
  bed.add_tier("g3", blocks);
  auto& store = bed.open(what.policy);
  auto const ids = iota(0, kCall);
  auto const keys = store.keys(make_prompt(blocks * store.page_size(), 1));
  Samples tickets;
  double in_store = 0;
  std::uint64_t failed = 0;
  for (std::uint64_t call = 0; call < calls; ++call) {
    auto const part = std::span(keys).subspan(call * kCall, kCall);
    double const elapsed =
        seconds([&] { failed += store.offload(part, bed.engine(), ids).wait().failed; });
    tickets.add(elapsed);
    in_store += elapsed;
  }
  double const flush = seconds([&] { store.flush(); });
  auto const stats = store.stats();
  double const again =
      seconds([&] { store.offload(std::span(keys).last(kCall), bed.engine(), ids).wait(); });
  // The same bytes without a store: the engine's blocks to another file, then synced as flush does.
  auto& manager = bed.manager();
  auto const other = manager.register_layout(
      make_layout(manager, make_config(plan.shape.shape, blocks, memory::kFileAlignment),
                  side_of_tier("g3"), bed.folder() / "other"));
  double const plain = seconds([&] {
    for (std::uint64_t call = 0; call < calls; ++call) {
      manager.execute_transfer(bed.engine(), ids, other, iota(call * kCall, kCall)).wait();
    }
    manager.sync(other);
  });
  auto const bytes = static_cast<double>(blocks * block_bytes);
  table.add({plan.shape.name, what.policy == WritePolicy::Through ? "through" : "back",
             what.fits ? "all" : "a quarter", count_cell(blocks), time_cell(tickets.median()),
             time_cell(tickets.percentile(0.99)), rate_cell(bytes / in_store), time_cell(flush),
             rate_cell(bytes / (in_store + flush)), rate_cell(bytes / plain), time_cell(again),
             count_cell(stats.tiers[1].written), count_cell(failed)});
}

}  // namespace

Table prefix_hits(PrefixPlan const& plan) {
  Table table("hits",
              fmt::format("Onboarding blocks that lie in one tier, into an engine's blocks on {}",
                          plan.gpu ? "CUDA device 0" : "an emulated device"),
              {{"workload", "workload", false},
               {"tier", "found in", false},
               {"blocks", "blocks"},
               {"p50_seconds", "p50"},
               {"p99_seconds", "p99"},
               {"bytes_per_second", "GB/s"},
               {"transfer_p50_seconds", "transfer alone"},
               {"ratio", "p50 / transfer"},
               {"rounds", "rounds"},
               {"elsewhere", "elsewhere"}});
  for (auto const& tier : plan.tiers) {
    if (tier == "g4" && plan.server == nullptr) { continue; }
    for (auto const count : plan.counts) {
      plan.step(fmt::format("{} {} blocks", tier, count));
      add_hit(table, plan, tier, count);
    }
  }
  table.note(
      "G3 and G4 have G2 above them, which takes what is read; elsewhere: blocks that were "
      "found there instead");
  table.note(
      "transfer alone: the same blocks from that tier to the engine, in turns, without keys");
  return table;
}

Table prefix_lookups(PrefixPlan const& plan) {
  constexpr std::uint64_t kKeys = 1024;
  PrefixPlan small = plan;
  small.shape = disk_shape("4096");
  PrefixBed bed(small, kKeys, kKeys);
  bed.add_tier("g2", kKeys);
  auto& store = bed.open(WritePolicy::Through);
  auto const prompt = make_prompt(kKeys * store.page_size(), 1);
  auto const keys = store.keys(prompt);
  store.offload(keys, bed.engine(), iota(0, kKeys)).wait();
  Table table(
      "lookups",
      fmt::format("Keys of {} tokens each, of {} that are stored", store.page_size(), kKeys),
      {{"keys", "keys"},
       {"keys_seconds", "keys()"},
       {"keys_seconds_each", "a key"},
       {"lookup_seconds", "lookup()"},
       {"lookup_seconds_each", "a key"},
       {"miss_seconds", "lookup() of none"}});
  auto const unknown = store.keys(make_prompt(kKeys * store.page_size(), 2));
  for (std::uint64_t const count :
       {std::uint64_t{1}, std::uint64_t{16}, std::uint64_t{64}, kKeys}) {
    plan.step(fmt::format("{} keys", count));
    auto const tokens = std::span(prompt).first(count * store.page_size());
    auto const asked = std::span(keys).first(count);
    double const making = call_seconds([&] { static_cast<void>(store.keys(tokens)); });
    double const looking = call_seconds([&] { static_cast<void>(store.lookup(asked)); });
    double const missing =
        call_seconds([&] { static_cast<void>(store.lookup(std::span(unknown).first(count))); });
    auto const n = static_cast<double>(count);
    table.add({count_cell(count), time_cell(making), time_cell(making / n), time_cell(looking),
               time_cell(looking / n), time_cell(missing)});
  }
  return table;
}

Table prefix_offloads(PrefixPlan const& plan) {
  Table table("offloads", "Storing new blocks in G2 and G3, 16 a call",
              {{"workload", "workload", false},
               {"policy", "write", false},
               {"room", "G2 has room for", false},
               {"blocks", "blocks"},
               {"p50_seconds", "ticket p50"},
               {"p99_seconds", "p99"},
               {"bytes_per_second", "GB/s at the tickets"},
               {"flush_seconds", "flush"},
               {"durable_bytes_per_second", "GB/s with flush"},
               {"transfer_bytes_per_second", "transfer alone GB/s"},
               {"again_seconds", "stored already"},
               {"written", "to G3"},
               {"failed", "failed"}});
  for (auto const& what :
       {OffloadCase{WritePolicy::Through, true}, OffloadCase{WritePolicy::Back, true},
        OffloadCase{WritePolicy::Through, false}, OffloadCase{WritePolicy::Back, false}}) {
    plan.step("offload");
    add_offload(table, plan, what);
  }
  table.note(
      "transfer alone: the same bytes from the engine to another file by calls of 16 blocks, "
      "and a sync");
  return table;
}

}  // namespace kvbm::cli
