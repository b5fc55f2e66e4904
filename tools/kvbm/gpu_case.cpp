// SPDX-License-Identifier: Apache-2.0
#include "gpu_case.hpp"

#include <fmt/format.h>

#include <algorithm>
#include <functional>
#include <memory>

#include "kvbm/core/error.hpp"

namespace kvbm::cli {
namespace {

using transfer::LinkDirection;
using transfer::Spare;
using transfer::Strategy;

/// A way that the chooser thinks this many times slower than the best is not worth its time.
constexpr double kHopeless = 8;
constexpr std::size_t kMaxLoopPieces = 4096;
constexpr std::size_t kMaxBatchPieces = 16384;
constexpr std::size_t kMaxKernelPieces = std::size_t{1} << 20U;

Side near_side(GpuCase const& what) {
  Side side;
  set_kind(side, what.gpu_kind);
  return side;
}

Side far_side(GpuCase const& what) {
  Side side;
  if (what.far == FarSide::Universal) { side.format = layout::KvBlockLayout::UniversalTP; }
  if (what.far == FarSide::Scattered) {
    set_kind(side, what.gpu_kind == "fc" ? "ls2" : what.gpu_kind);
  }
  return side;
}

/// The smallest of the areas that a route takes.
Area room_of(GpuRoute route) { return route == GpuRoute::D2D ? Area::Device0 : Area::Host0; }

/// One direction of a case: two layouts and the blocks to move.
struct Leg {
  LinkDirection direction;
  layout::LayoutHandle src;
  layout::LayoutHandle dst;
  std::vector<BlockId> src_ids;
  std::vector<BlockId> dst_ids;
  std::vector<BlockId> sample_src;
  std::vector<BlockId> sample_dst;
  std::vector<Checksum> expected;
};

class Legs {
 public:
  Legs(GpuLab& lab, GpuCase const& what, GpuCaseOptions const& options) : lab_(lab) {
    auto config = make_config(what.shape, 2 * what.blocks, 1);
    auto const room = room_of(what.route);
    bool const wide =
        lab.fits(config, near_side(what), room) && lab.fits(config, far_side(what), room);
    if (!wide) { config = make_config(what.shape, what.blocks, 1); }
    auto const add = [&](LinkDirection direction, Area from, Side const& src, Area to,
                         Side const& dst) {
      Leg leg{direction, lab.add(from, config, src), lab.add(to, config, dst), {}, {}, {}, {}, {}};
      auto const seed = static_cast<std::uint32_t>(10 * legs_.size());
      leg.src_ids = make_ids(what.ids, what.blocks, config.num_blocks(), seed + 1);
      leg.dst_ids = make_ids(what.ids, what.blocks, config.num_blocks(), seed + 2);
      auto const step = std::max<std::size_t>(1, what.blocks / options.verified_blocks);
      for (std::size_t i = 0; i < leg.src_ids.size(); i += step) {
        leg.sample_src.push_back(leg.src_ids[i]);
        leg.sample_dst.push_back(leg.dst_ids[i]);
      }
      leg.expected = lab.manager().block_checksums(leg.src, leg.sample_src);
      legs_.push_back(std::move(leg));
    };
    auto const near = near_side(what);
    auto const far = far_side(what);
    if (what.route == GpuRoute::D2D) {
      add(LinkDirection::DeviceToDevice, Area::Device0, near, Area::Device1, far);
      return;
    }
    if (what.route != GpuRoute::D2H) {
      add(LinkDirection::HostToDevice, Area::Host0, far, Area::Device0, near);
    }
    if (what.route != GpuRoute::H2D) {
      add(LinkDirection::DeviceToHost, Area::Device1, near, Area::Host1, far);
    }
  }
  ~Legs() {
    for (auto const& leg : legs_) {
      lab_.remove(leg.src);
      lab_.remove(leg.dst);
    }
  }
  Legs(Legs const&) = delete;
  Legs& operator=(Legs const&) = delete;

  [[nodiscard]] std::vector<Leg> const& all() const noexcept { return legs_; }

 private:
  GpuLab& lab_;
  std::vector<Leg> legs_;
};

/// A kvbm way: what to submit for every leg, and how.
class KvbmWay {
 public:
  KvbmWay(GpuLab& lab, Legs const& legs, std::optional<Strategy> strategy, Spare spare)
      : lab_(lab), legs_(legs) {
    auto builder = transfer::TransferOptions::builder();
    builder.spare(spare);
    if (strategy) { builder.strategy(*strategy); }
    options_ = builder.build();
    for (auto const& leg : legs.all()) {
      prepared_.push_back(lab.manager().prepare_transfer(leg.src, leg.dst, options_));
    }
  }

  [[nodiscard]] double estimate() const {
    double most = 0;
    for (std::size_t i = 0; i < prepared_.size(); ++i) {
      auto const& leg = legs_.all()[i];
      most =
          std::max(most, prepared_[i].explain(leg.src_ids, leg.dst_ids).decision.estimated_seconds);
    }
    return most;
  }
  [[nodiscard]] std::string strategy() const {
    std::string names;
    for (std::size_t i = 0; i < prepared_.size(); ++i) {
      auto const& leg = legs_.all()[i];
      auto const name = std::string(
          transfer::to_string(prepared_[i].explain(leg.src_ids, leg.dst_ids).decision.strategy));
      if (names != name) { names += (names.empty() ? "" : "+") + name; }
    }
    return names;
  }
  [[nodiscard]] transfer::PreparedTransfer const& prepared(std::size_t i) const {
    return prepared_[i];
  }

  /// @param fresh  by execute_transfer  @return seconds of the submitting calls
  double run(bool fresh) {
    transfer::TransferCompleteNotification notifications[2];
    double const submit = seconds([&] {
      for (std::size_t i = 0; i < prepared_.size(); ++i) {
        auto const& leg = legs_.all()[i];
        notifications[i] = fresh ? lab_.manager().execute_transfer(leg.src, leg.src_ids, leg.dst,
                                                                   leg.dst_ids, options_)
                                 : prepared_[i].submit(leg.src_ids, leg.dst_ids);
      }
    });
    for (auto const& notification : notifications) {
      notification.wait();
    }
    return submit;
  }

  /// Wipes a sample of the destination, runs, compares. @return seconds of the run
  double verify(GpuCase const& what, std::string const& name) {
    for (auto const& leg : legs_.all()) {
      lab_.manager().fill_blocks(leg.dst, leg.sample_dst,
                                 {transfer::FillPattern::Kind::Constant, 0xEE});
    }
    double const elapsed = seconds([&] { run(false); });
    for (auto const& leg : legs_.all()) {
      KVBM_EXPECTS(lab_.manager().block_checksums(leg.dst, leg.sample_dst) == leg.expected, Corrupt,
                   fmt::format("{}, {}: bytes differ after the transfer", what.name(), name));
    }
    return elapsed;
  }

 private:
  GpuLab& lab_;
  Legs const& legs_;
  transfer::TransferOptions options_;
  std::vector<transfer::PreparedTransfer> prepared_;
};

/// A row being measured: the result and what one round does.
struct Runner {
  GpuWay way;
  std::function<void(std::size_t round, GpuWay& way)> round;
  double spent = 0;
};

void add_kvbm(GpuLab& lab, Legs const& legs, GpuCase const& what, std::vector<Runner>& runners,
              std::vector<std::unique_ptr<KvbmWay>>& keep, double best_estimate,
              std::optional<Strategy> strategy, Spare spare) {
  GpuWay way;
  way.name = "kvbm";
  way.automatic = !strategy;
  way.spare_sms = spare == Spare::SpareSms;
  way.strategy = strategy ? std::string(transfer::to_string(*strategy)) : "";
  try {
    keep.push_back(std::make_unique<KvbmWay>(lab, legs, strategy, spare));
  } catch (Error const& refused) {
    if (refused.code() != ErrorCode::Unsupported) { throw; }
    return;  // a strategy that cannot do this at all is no candidate
  }
  auto* const kvbm = keep.back().get();
  way.strategy = kvbm->strategy();
  double const estimate = kvbm->estimate();
  if (strategy && estimate > kHopeless * best_estimate) {
    way.skipped = fmt::format("estimated {:.0f} times the best", estimate / best_estimate);
    runners.push_back({std::move(way), {}, 0});
    return;
  }
  double const first =
      kvbm->verify(what, way.strategy + (way.spare_sms ? ", SpareSms" : ", Fastest"));
  way.verified = true;
  Runner runner{std::move(way), {}, first};
  runner.round = [kvbm](std::size_t round, GpuWay& row) {
    bool const fresh = round % 2 == 1;
    double const cpu = cpu_seconds();
    double submit = 0;
    row.wall.add(seconds([&] { submit = kvbm->run(fresh); }));
    row.cpu.add(cpu_seconds() - cpu);
    (fresh ? row.submit_fresh : row.submit_prepared).add(submit);
  };
  runners.push_back(std::move(runner));
}

void add_baseline(std::vector<Runner>& runners, PlainCopies& plain, char const* name,
                  std::uint64_t bytes, std::function<void()> submit) {
  GpuWay way;
  way.name = name;
  way.bytes = bytes;
  Runner runner{std::move(way), {}, 0};
  runner.round = [&plain, submit = std::move(submit)](std::size_t, GpuWay& row) {
    double const cpu = cpu_seconds();
    double first = 0;
    row.wall.add(seconds([&] {
      first = seconds(submit);
      plain.synchronize(0);
    }));
    row.cpu.add(cpu_seconds() - cpu);
    row.submit_prepared.add(first);
  };
  runners.push_back(std::move(runner));
}

/// The same bytes by calls of the runtime; of very many pieces a part.
void add_baselines(GpuLab& lab, Leg const& leg, transfer::CopyPlan const& plan,
                   std::vector<Runner>& runners) {
  auto const& src = lab.manager().layout(leg.src);
  auto const& dst = lab.manager().layout(leg.dst);
  auto const direction = leg.direction;
  auto& plain = lab.plain();
  auto const pieces = [&](std::size_t limit) {
    return std::make_shared<CopyList>(list_pieces(plan, src, dst, leg.src_ids, leg.dst_ids, limit));
  };
  auto const size = [](CopyList const& list) { return list.bytes * list.src.size(); };
  auto const few = pieces(kMaxLoopPieces);
  add_baseline(runners, plain, "cudaMemcpyAsync each", size(*few),
               [few, direction, &plain] { plain.copy_each(*few, direction); });
  if (plain.has_batch()) {
    auto const more = pieces(kMaxBatchPieces);
    add_baseline(runners, plain, "cudaMemcpyBatchAsync", size(*more),
                 [more, &plain] { plain.copy_batch(*more); });
  }
  if (plan.shape.run_bytes % 16 == 0) {
    auto const all = pieces(kMaxKernelPieces);
    plain.prepare_kernel(*all);
    add_baseline(runners, plain, "CTA-per-chunk kernel", size(*all),
                 [direction, &plain] { plain.copy_kernel(direction); });
  }
}

double contiguous(GpuLab& lab, GpuRoute route, std::uint64_t bytes) {
  switch (route) {
    case GpuRoute::H2D: return lab.contiguous(LinkDirection::HostToDevice, bytes);
    case GpuRoute::D2H: return lab.contiguous(LinkDirection::DeviceToHost, bytes);
    case GpuRoute::D2D: return lab.contiguous(LinkDirection::DeviceToDevice, bytes);
    case GpuRoute::Both: break;
  }
  return lab.contiguous_both(bytes / 2);
}

}  // namespace

bool fits(GpuLab const& lab, GpuCase const& what) {
  auto const config = make_config(what.shape, what.blocks, 1);
  auto const room = room_of(what.route);
  return lab.fits(config, near_side(what), room) && lab.fits(config, far_side(what), room);
}

std::uint64_t blocks_for(GpuLab const& lab, Workload const& shape, GpuRoute route,
                         std::uint64_t bytes) {
  auto const block = make_config(shape, 1, 1).block_bytes();
  auto const most =
      route == GpuRoute::D2D ? lab.device_area_bytes() / 2 : std::min(bytes, lab.area_bytes() / 2);
  return std::max<std::uint64_t>(1, most / block);
}

GpuResult run_gpu_case(GpuLab& lab, GpuCase const& what, GpuCaseOptions const& options) {
  Legs const legs(lab, what, options);
  GpuResult result;
  result.what = what;
  auto const block = make_config(what.shape, what.blocks, 1).block_bytes();
  result.bytes = block * what.blocks * legs.all().size();

  std::vector<Runner> runners;
  std::vector<std::unique_ptr<KvbmWay>> keep;
  double best = 0;
  {
    KvbmWay const automatic(lab, legs, std::nullopt, Spare::Fastest);
    best = automatic.estimate();
    result.run_bytes = automatic.prepared(0).plan().shape.run_bytes;
  }
  auto const add = [&](std::optional<Strategy> strategy, Spare spare) {
    add_kvbm(lab, legs, what, runners, keep, best, strategy, spare);
  };
  add(std::nullopt, Spare::Fastest);
  if (options.candidates) {
    add(std::nullopt, Spare::SpareSms);
    add(Strategy::DmaCopy, Spare::Fastest);
    for (auto const strategy : {Strategy::SmCopy, Strategy::StagedDma}) {
      add(strategy, Spare::Fastest);
      add(strategy, Spare::SpareSms);
    }
  }
  for (auto& runner : runners) {
    runner.way.bytes = result.bytes;
  }
  if (what.baselines && what.route != GpuRoute::Both) {
    add_baselines(lab, legs.all().front(), keep.front()->prepared(0).plan(), runners);
  }

  contiguous(lab, what.route, result.bytes);
  double limit_spent = 0;
  for (std::size_t round = 0; round < options.repeat; ++round) {
    if (round == 0 || limit_spent < options.way_seconds) {
      result.limit.add(contiguous(lab, what.route, result.bytes));
      limit_spent += result.limit[result.limit.size() - 1];
    }
    for (auto& runner : runners) {
      if (!runner.round || (round > 0 && runner.spent > options.way_seconds)) { continue; }
      runner.round(round, runner.way);
      runner.spent += runner.way.wall[runner.way.wall.size() - 1];
    }
  }
  for (auto& runner : runners) {
    result.ways.push_back(std::move(runner.way));
  }
  return result;
}

}  // namespace kvbm::cli
