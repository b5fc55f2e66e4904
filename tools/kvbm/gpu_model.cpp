// SPDX-License-Identifier: Apache-2.0
//
// What transfers cost the model that runs beside them.

#include <fmt/format.h>

#include <algorithm>
#include <atomic>
#include <exception>
#include <memory>
#include <optional>
#include <thread>

#include "gpu_sections.hpp"
#include "kvbm/core/error.hpp"

namespace kvbm::cli {
namespace {

using transfer::LinkDirection;
using transfer::Spare;
using transfer::Strategy;

/// Something that moves `bytes` and returns when they have arrived.
struct Load {
  std::string name;
  std::string strategy;
  std::uint64_t bytes = 0;
  std::function<void()> move;    ///< empty: nothing runs beside
  std::function<void()> finish;  ///< waits for what is still under way; may be empty
};

struct Beside {
  double gemm_seconds = 0;
  double moved_per_second = 0;
};

/// Runs the loop of multiplications while the load moves again and again.
Beside run_beside(GemmLoop& gemm, unsigned count, Load const& load) {
  std::atomic<bool> enqueued{false};
  std::exception_ptr failed;
  std::uint64_t moved = 0;
  if (load.move) { load.move(); }
  // Enqueueing blocks while the queue is full, so it has a thread of its own.
  std::thread model([&] {
    try {
      gemm.enqueue(count);
    } catch (...) { failed = std::current_exception(); }
    enqueued.store(true);
  });
  double elapsed = 0;
  try {
    elapsed = seconds([&] {
      while (!enqueued.load() || (failed == nullptr && !gemm.done())) {
        if (load.move) {
          load.move();
          moved += load.bytes;
        } else {
          std::this_thread::yield();
        }
      }
    });
  } catch (...) {
    model.join();
    if (load.finish) { load.finish(); }
    throw;
  }
  model.join();
  if (load.finish) { load.finish(); }
  if (failed != nullptr) { std::rethrow_exception(failed); }
  return {gemm.seconds(), static_cast<double>(moved) / elapsed};
}

/// Layouts of one workload, kept while its loads run.
class Setting {
 public:
  Setting(GpuLab& lab, std::string const& workload, std::uint64_t bytes) : lab_(lab) {
    auto const shape = find_workload(workload);
    blocks_ = blocks_for(lab, shape, GpuRoute::H2D, bytes);
    auto const config = make_config(shape, blocks_, 1);
    Side near;
    set_kind(near, "ls2");
    Side far;
    far.format = layout::KvBlockLayout::UniversalTP;
    bytes_ = config.block_bytes() * blocks_;
    run_bytes_ = config.chunk_bytes();
    handles_ = {lab.add(Area::Device0, config, near), lab.add(Area::Device1, config, near),
                lab.add(Area::Host0, config, near), lab.add(Area::Host1, config, near)};
    src_ids_ = make_ids(IdOrder::Random, blocks_, blocks_, 1);
    dst_ids_ = make_ids(IdOrder::Random, blocks_, blocks_, 2);
  }
  ~Setting() {
    for (auto const handle : handles_) {
      lab_.remove(handle);
    }
  }
  Setting(Setting const&) = delete;
  Setting& operator=(Setting const&) = delete;

  [[nodiscard]] std::uint64_t bytes() const noexcept { return bytes_; }
  [[nodiscard]] std::uint64_t run_bytes() const noexcept { return run_bytes_; }

  /// Two transfers in flight, so that the link never waits for the next submission.
  [[nodiscard]] std::optional<Load> load(LinkDirection direction, std::optional<Strategy> strategy,
                                         Spare spare) {
    auto builder = transfer::TransferOptions::builder();
    builder.spare(spare);
    if (strategy) { builder.strategy(*strategy); }
    bool const up = direction == LinkDirection::HostToDevice;
    auto const from = handles_[up ? 2 : 1];
    auto const to = handles_[up ? 0 : 3];
    try {
      auto prepared = lab_.manager().prepare_transfer(from, to, builder.build());
      auto const name =
          std::string(transfer::to_string(prepared.explain(src_ids_, dst_ids_).decision.strategy));
      auto const pending = std::make_shared<transfer::TransferCompleteNotification>();
      return Load{fmt::format("kvbm {}{}", strategy ? "" : "automatic, ",
                              spare == Spare::SpareSms ? "SpareSms" : "Fastest"),
                  name, bytes_,
                  [this, prepared, pending] {
                    auto const next = prepared.submit(src_ids_, dst_ids_);
                    pending->wait();
                    *pending = next;
                  },
                  [pending] { pending->wait(); }};
    } catch (Error const& refused) {
      if (refused.code() != ErrorCode::Unsupported) { throw; }
      return std::nullopt;
    }
  }

 private:
  GpuLab& lab_;
  std::uint64_t blocks_ = 0;
  std::uint64_t bytes_ = 0;
  std::uint64_t run_bytes_ = 0;
  std::vector<layout::LayoutHandle> handles_;
  std::vector<BlockId> src_ids_;
  std::vector<BlockId> dst_ids_;
};

struct Shape {
  char const* name;
  int m;
  int n;
  int k;
};

/// So many multiplications that the loop takes about `target` seconds.
unsigned calibrate(GemmLoop& gemm, double target) {
  constexpr unsigned kTrial = 8;
  gemm.enqueue(kTrial);
  double const each = gemm.seconds() / kTrial;
  return static_cast<unsigned>(std::clamp(target / each, 4.0, 5000.0));
}

}  // namespace

Table gpu_model(GpuSections const& sections, Deadline const& deadline) {
  auto& lab = sections.lab;
  Table table("model",
              "bf16 GEMM loop beside transfers back to back (random blocks, both sides layer "
              "separate); slowdown: loop time / loop time alone, median of the rounds",
              {{"gemm", "GEMM", false},
               {"workload", "workload", false},
               {"direction", "direction", false},
               {"way", "way", false},
               {"strategy", "strategy", false},
               {"bytes_per_second", "GB/s beside"},
               {"share", "of the link"},
               {"slowdown", "slowdown"},
               {"worst", "worst"},
               {"beside_dma", "against DMA"}});
  constexpr Shape kShapes[] = {{"256x8192x8192", 8192, 256, 8192},
                               {"8192x8192x8192", 8192, 8192, 8192}};
  std::size_t const rounds = sections.quick ? 2 : 3;
  double const target = sections.quick ? 0.03 : 0.05;
  for (auto const& shape : kShapes) {
    std::unique_ptr<GemmLoop> gemm;
    try {
      gemm = lab.plain().make_gemm(sections.cublas, shape.m, shape.n, shape.k);
    } catch (UnsupportedError const& reason) {
      table.note(std::string("skipped: ") + reason.what());
      return table;
    }
    unsigned const count = calibrate(*gemm, target);
    for (char const* const workload : {"llama3-70b-tp8", "llama3-8b"}) {
      Setting setting(lab, workload, std::min<std::uint64_t>(sections.bytes, 128U << 20U));
      for (auto const direction : {LinkDirection::DeviceToHost, LinkDirection::HostToDevice}) {
        if (deadline.over()) {
          table.note("stopped at the time limit");
          return table;
        }
        double const link =
            static_cast<double>(setting.bytes()) / lab.contiguous(direction, setting.bytes());
        std::vector<Load> loads{
            {"contiguous cudaMemcpyAsync",
             "",
             setting.bytes(),
             [&lab, direction, bytes = setting.bytes()] { lab.contiguous(direction, bytes); },
             {}}};
        auto const add = [&](std::optional<Strategy> strategy, Spare spare) {
          if (auto load = setting.load(direction, strategy, spare)) {
            loads.push_back(std::move(*load));
          }
        };
        add(std::nullopt, Spare::Fastest);
        add(std::nullopt, Spare::SpareSms);
        for (auto const strategy : {Strategy::StagedDma, Strategy::SmCopy}) {
          add(strategy, Spare::Fastest);
          add(strategy, Spare::SpareSms);
        }
        if (setting.run_bytes() >= (std::uint64_t{32} << 10U)) {
          add(Strategy::DmaCopy, Spare::Fastest);
        }
        double beside_dma = 0;
        for (auto const& load : loads) {
          Samples slowdown;
          Samples rate;
          for (std::size_t round = 0; round < rounds; ++round) {
            double const alone = run_beside(*gemm, count, {}).gemm_seconds;
            auto const beside = run_beside(*gemm, count, load);
            slowdown.add(beside.gemm_seconds / alone);
            rate.add(beside.moved_per_second);
          }
          if (beside_dma == 0) { beside_dma = slowdown.median(); }
          table.add({shape.name, workload, std::string(transfer::to_string(direction)), load.name,
                     load.strategy.empty() ? "copy engine" : load.strategy,
                     rate_cell(rate.median()), share_cell(rate.median() / link),
                     Cell(fmt::format("{:.3f}", slowdown.median()), slowdown.median()),
                     Cell(fmt::format("{:.3f}", slowdown.percentile(1)), slowdown.percentile(1)),
                     Cell(fmt::format("{:.3f}", slowdown.median() / beside_dma),
                          slowdown.median() / beside_dma)});
          sections.say(fmt::format("GEMM {} {} {} {} {}: {:.1f} GB/s, slowdown {:.3f}", shape.name,
                                   workload, transfer::to_string(direction), load.name,
                                   load.strategy, rate.median() / 1e9, slowdown.median()));
        }
      }
    }
  }
  table.note(
      "goal: at most 1.03 with SpareSms at 90% of the link, at most 1.10 by default, both "
      "against the loop beside a contiguous DMA");
  return table;
}

}  // namespace kvbm::cli
