// SPDX-License-Identifier: Apache-2.0
//
// Latency, submission, and the permute kernels by name.

#include <fmt/format.h>

#include <algorithm>
#include <array>
#include <utility>

#include "gpu_sections.hpp"
#include "kvbm/core/error.hpp"
#include "kvbm/kernels/kernels.h"

namespace kvbm::cli {
namespace {

using transfer::LinkDirection;

Side kind_side(char const* kind) {
  Side side;
  set_kind(side, kind);
  return side;
}

Side universal_side() {
  Side side;
  side.format = layout::KvBlockLayout::UniversalTP;
  return side;
}

/// Two layouts that are forgotten with the object.
class Pair {
 public:
  Pair(GpuLab& lab, layout::LayoutConfig const& config, LinkDirection direction, Side const& near,
       Side const& far)
      : lab_(lab) {
    if (direction == LinkDirection::HostToDevice) {
      src = lab.add(Area::Host0, config, far);
      dst = lab.add(Area::Device0, config, near);
    } else {
      src = lab.add(Area::Device1, config, near);
      dst = lab.add(Area::Host1, config, far);
    }
  }
  ~Pair() {
    lab_.remove(src);
    lab_.remove(dst);
  }
  Pair(Pair const&) = delete;
  Pair& operator=(Pair const&) = delete;

  layout::LayoutHandle src;
  layout::LayoutHandle dst;

 private:
  GpuLab& lab_;
};

void expect_ok(kvbm_status status, char const* what) {
  KVBM_EXPECTS(status == KVBM_STATUS_OK, Device,
               fmt::format("{}: {}: {}", what, kvbm_status_string(status),
                           kvbm_cuda_error_string(kvbm_cuda_last_error())));
}

/// The tables of addresses that the permute kernels read.
class PermuteTables {
 public:
  PermuteTables(GpuLab& lab, std::size_t blocks, std::size_t chunks, std::uint64_t block_bytes)
      : blocks_(blocks), memory_([&] {
          memory::AllocationRequest request;
          request.kind = memory::StorageKind::Pinned;
          request.bytes = (blocks + blocks * chunks) * sizeof(void*);
          request.device_id = lab.device().id();
          return lab.manager().memory_source()->allocate(request);
        }()) {
    auto const order = make_ids(IdOrder::Random, blocks, blocks, 3);
    std::uint64_t const chunk_bytes = block_bytes / chunks;
    for (std::size_t i = 0; i < blocks; ++i) {
      table()[i] = lab.address(Area::Device1) + order[i] * block_bytes;
      for (std::size_t c = 0; c < chunks; ++c) {
        table()[blocks + i * chunks + c] =
            lab.address(Area::Device0) + (c * blocks + order[i]) * chunk_bytes;
      }
    }
  }
  [[nodiscard]] void** table() const { return reinterpret_cast<void**>(memory_.host_data()); }
  [[nodiscard]] void** chunks() const { return table() + blocks_; }

 private:
  std::size_t blocks_;
  memory::Region memory_;
};

}  // namespace

Table gpu_latency(GpuSections const& sections, Deadline const& deadline) {
  auto& lab = sections.lab;
  Table table("gpu_latency",
              "One block, from the call to seen complete, in turns with cudaMemcpyAsync + "
              "cudaStreamSynchronize of as many contiguous bytes",
              {{"what", "what", false},
               {"direction", "direction", false},
               {"call", "call", false},
               {"p50_seconds", "p50"},
               {"p99_seconds", "p99"},
               {"cpu_seconds", "CPU"},
               {"plain_p50_seconds", "plain p50"},
               {"plain_p99_seconds", "p99"},
               {"ratio", "p50 / p50"},
               {"strategy", "chosen", false}});
  struct Row {
    char const* what;
    Workload shape;
    bool universal;
    std::size_t repeat;
  };
  std::size_t const many = sections.quick ? 400 : 1500;
  std::array<Row, 3> const rows{
      {{"32 KiB", {"32 KiB", 1, 1, 16, 8, 128, 2}, false, many},
       {"5 MiB (llama3-70b-tp1)", find_workload("llama3-70b-tp1"), false, many / 5},
       {"5 MiB, to and from UniversalTP", find_workload("llama3-70b-tp1"), true, many / 5}}};
  constexpr std::uint64_t kBlocks = 32;
  for (auto const& row : rows) {
    auto const config = make_config(row.shape, kBlocks, 1);
    if (!lab.fits(config, kind_side("ls2"))) {
      table.note(fmt::format("{} left out: --area-mib is too small", row.what));
      continue;
    }
    for (auto const direction : {LinkDirection::DeviceToHost, LinkDirection::HostToDevice}) {
      if (deadline.over()) { return table; }
      Pair const pair(lab, config, direction, kind_side("ls2"),
                      row.universal ? universal_side() : kind_side("fc"));
      auto const prepared = lab.manager().prepare_transfer(pair.src, pair.dst);
      BlockId const first[] = {0};
      auto const strategy =
          std::string(transfer::to_string(prepared.explain(first, first).decision.strategy));
      for (bool const fresh : {false, true}) {
        Rounds rounds;
        Samples cpu;
        for (std::size_t i = 0; i < row.repeat + 50; ++i) {
          BlockId const from[] = {static_cast<BlockId>(i % kBlocks)};
          BlockId const to[] = {static_cast<BlockId>((i * 7 + 3) % kBlocks)};
          double const plain = lab.contiguous(direction, config.block_bytes());
          double const before = cpu_seconds();
          double const elapsed = seconds([&] {
            (fresh ? lab.manager().execute_transfer(pair.src, from, pair.dst, to)
                   : prepared.submit(from, to))
                .wait();
          });
          double const used = cpu_seconds() - before;
          if (i < 50) { continue; }
          rounds.limit.add(plain);
          rounds.candidate.add(elapsed);
          cpu.add(used);
        }
        table.add({row.what, std::string(transfer::to_string(direction)),
                   fresh ? "execute_transfer" : "prepared", time_cell(rounds.candidate.median()),
                   time_cell(rounds.candidate.percentile(0.99)), time_cell(cpu.median()),
                   time_cell(rounds.limit.median()), time_cell(rounds.limit.percentile(0.99)),
                   times_cell(rounds.candidate.median() / rounds.limit.median()), strategy});
        sections.say(fmt::format(
            "latency {} {} {}: p50 {} p99 {} plain {}", row.what, transfer::to_string(direction),
            fresh ? "fresh" : "prepared", format_time(rounds.candidate.median()),
            format_time(rounds.candidate.percentile(0.99)), format_time(rounds.limit.median())));
      }
    }
  }
  table.note("goal: 1.3x for one block of 32 KiB");
  return table;
}

Table gpu_submit(GpuSections const& sections, Deadline const& deadline) {
  auto& lab = sections.lab;
  Table table("gpu_submit",
              "Submitting (until the call returns), random blocks of smollm2-135m, layer separate "
              "on the GPU, fully contiguous in pinned memory",
              {{"direction", "direction", false},
               {"blocks", "blocks"},
               {"runs", "runs"},
               {"strategy", "chosen", false},
               {"prepared_seconds", "prepared"},
               {"prepared_stream_seconds", "prepared, own stream"},
               {"fresh_seconds", "fresh, own stream"},
               {"goal_seconds", "goal, fresh"},
               {"cached_seconds", "execute_transfer"},
               {"batch_seconds", "BatchAsync, same runs"}});
  auto const shape = find_workload("smollm2-135m");
  std::size_t const repeat = sections.quick ? 9 : 31;
  for (auto const direction : {LinkDirection::DeviceToHost, LinkDirection::HostToDevice}) {
    for (std::uint64_t const blocks : {1U, 16U, 256U, 4096U}) {
      auto const config = make_config(shape, std::max<std::uint64_t>(blocks, 64), 1);
      if (deadline.over() || !lab.fits(config, kind_side("ls2"))) { break; }
      Pair const pair(lab, config, direction, kind_side("ls2"), kind_side("fc"));
      auto const from = make_ids(IdOrder::Random, blocks, config.num_blocks(), 1);
      auto const to = make_ids(IdOrder::Random, blocks, config.num_blocks(), 2);
      auto const stream = lab.device().create_stream("bench");
      auto const on_stream = transfer::TransferOptions::builder().cuda_stream(stream).build();
      auto& manager = lab.manager();
      auto const pooled = manager.prepare_transfer(pair.src, pair.dst);
      auto const prepared = manager.prepare_transfer(pair.src, pair.dst, on_stream);
      auto const measure = [&](auto&& submit, auto&& finish) {
        Samples samples;
        for (std::size_t i = 0; i < repeat + 2; ++i) {
          double const elapsed = seconds(submit);
          finish();
          if (i >= 2) { samples.add(elapsed); }
        }
        return samples.median();
      };
      transfer::TransferCompleteNotification notification;
      auto const wait = [&] { notification.wait(); };
      auto const synchronize = [&] { stream->synchronize(); };
      double const pool = measure([&] { notification = pooled.submit(from, to); }, wait);
      double const cached = measure(
          [&] { notification = manager.execute_transfer(pair.src, from, pair.dst, to); }, wait);
      double const own = measure([&] { notification = prepared.submit(from, to); }, synchronize);
      double const fresh = measure(
          [&] { manager.execute_transfer(pair.src, from, pair.dst, to, on_stream); }, synchronize);
      auto const runs = prepared.plan().runs_per_block() * blocks;
      constexpr std::uint64_t kMaxBatch = 65536;
      Cell batch = none_cell();
      if (runs <= kMaxBatch && lab.plain().has_batch()) {
        auto const list = list_pieces(prepared.plan(), manager.layout(pair.src),
                                      manager.layout(pair.dst), from, to, kMaxBatch);
        batch = time_cell(
            measure([&] { lab.plain().copy_batch(list); }, [&] { lab.plain().synchronize(0); }));
      }
      double const goal = 30e-6 + 20e-9 * static_cast<double>(runs);
      table.add({std::string(transfer::to_string(direction)), count_cell(blocks), count_cell(runs),
                 std::string(transfer::to_string(pooled.explain(from, to).decision.strategy)),
                 time_cell(pool), time_cell(own), time_cell(fresh), time_cell(goal),
                 time_cell(cached), batch});
      sections.say(fmt::format("submit {} {} blocks: prepared {} own {} fresh {}",
                               transfer::to_string(direction), blocks, format_time(pool),
                               format_time(own), format_time(fresh)));
    }
  }
  table.note(
      "fresh: a stream of the caller's keeps the plan out of the cache; goal: prepared 10 us, "
      "fresh 30 us + 20 ns a run for 256 blocks");
  return table;
}

Table gpu_permute(GpuSections const& sections, Deadline const& deadline) {
  auto& lab = sections.lab;
  Table table(
      "gpu_permute",
      "universal_from_block and block_from_universal in HBM (32 layers, K and V, 16 tokens, "
      "8 heads of 128), scattered chunks; GB/s of bytes moved",
      {{"dtype", "dtype", false},
       {"order", "order", false},
       {"direction", "to", false},
       {"bytes", "bytes"},
       {"bytes_per_second", "GB/s"},
       {"limit", "contiguous D2D"},
       {"share", "share"}});
  if (lab.emulated()) {
    table.note("skipped: an emulated device has no kernels");
    return table;
  }
  constexpr std::size_t kLayers = 32;
  constexpr std::size_t kOuter = 2;
  constexpr std::size_t kTokens = 16;
  constexpr std::size_t kHeads = 8;
  constexpr std::size_t kHeadDim = 128;
  constexpr std::array<std::pair<kvbm_dtype, char const*>, 5> kTypes{{{KVBM_DTYPE_BF16, "bf16"},
                                                                      {KVBM_DTYPE_U8, "u8"},
                                                                      {KVBM_DTYPE_F32, "f32"},
                                                                      {KVBM_DTYPE_F64, "f64"},
                                                                      {KVBM_DTYPE_F16, "f16"}}};
  constexpr std::size_t kWidth[] = {2, 2, 4, 8, 1};  // by enumerator
  expect_ok(kvbm_cuda_make_current(lab.device().id(), nullptr), "make_current");
  auto const stream = lab.device().create_stream("permute");
  for (auto const& [dtype, name] : kTypes) {
    std::uint64_t const block_bytes =
        kLayers * kOuter * kTokens * kHeads * kHeadDim * kWidth[static_cast<std::size_t>(dtype)];
    auto const blocks = static_cast<std::size_t>(std::max<std::uint64_t>(
        1, std::min(lab.device_area_bytes(), 4 * sections.bytes) / block_bytes));
    PermuteTables const tables(lab, blocks, kLayers * kOuter, block_bytes);
    for (auto const order : {KVBM_BLOCK_NHD, KVBM_BLOCK_HND}) {
      for (bool const to_universal : {true, false}) {
        if (deadline.over()) { return table; }
        auto const run = [&] {
          return seconds([&] {
            expect_ok(to_universal
                          ? kvbm_cuda_universal_from_block(
                                tables.table(), tables.chunks(), blocks, kHeads, kLayers, kOuter,
                                kTokens, kHeadDim, dtype, order, stream->native_handle())
                          : kvbm_cuda_block_from_universal(
                                tables.table(), tables.chunks(), blocks, kHeads, kLayers, kOuter,
                                kTokens, kHeadDim, dtype, order, stream->native_handle()),
                      "permute");
            stream->synchronize();
          });
        };
        run();
        auto const bytes = block_bytes * blocks;
        auto const rounds = in_turns(sections.quick ? 3 : 9, 1, run, [&] {
          return lab.contiguous(LinkDirection::DeviceToDevice, bytes);
        });
        table.add({name, order == KVBM_BLOCK_NHD ? "NHD" : "HND",
                   to_universal ? "universal" : "block", bytes_cell(bytes),
                   rate_cell(static_cast<double>(bytes) / rounds.candidate.median()),
                   rate_cell(static_cast<double>(bytes) / rounds.limit.median()),
                   share_cell(rounds.share())});
        sections.say(fmt::format("permute {} {} {}: {:.0f} GB/s", name,
                                 order == KVBM_BLOCK_NHD ? "NHD" : "HND",
                                 to_universal ? "to universal" : "to block",
                                 static_cast<double>(bytes) / rounds.candidate.median() / 1e9));
      }
    }
  }
  return table;
}

}  // namespace kvbm::cli
