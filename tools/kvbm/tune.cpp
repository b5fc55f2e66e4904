// SPDX-License-Identifier: Apache-2.0
//
// kvbm tune: measures what choosing among strategies needs to know of this machine, through the
// library's own strategies, and stores it for all managers.

#include <fmt/format.h>

#include <algorithm>
#include <cmath>
#include <memory>

#include "command.hpp"
#include "exit_code.hpp"
#include "gpu_lab.hpp"
#include "kvbm/core/error.hpp"
#include "kvbm/transfer/cost_store.hpp"
#include "report.hpp"

namespace kvbm::cli {
namespace {

using transfer::LinkDirection;
using transfer::Strategy;

/// Of each area in HBM, which is quick: only large copies there tell its rate.
constexpr std::uint64_t kHbmBytes = std::uint64_t{1} << 30U;

struct TuneOptions {
  DeviceId device = 0;
  bool emulate = false;
  bool show = false;
  bool dry_run = false;
  std::uint64_t area_mib = 256;
  double seconds_a_point = 0.02;
  Output output;
};

double median_of(std::size_t least, double budget, auto&& run) {
  Samples samples;
  double spent = 0;
  run();
  while (samples.size() < least || (spent < budget && samples.size() < 200)) {
    double const elapsed = run();
    samples.add(elapsed);
    spent += elapsed;
    if (spent > 10 * budget) { break; }
  }
  return samples.median();
}

/// Times forced strategies on runs of one length.
class Tuner {
 public:
  Tuner(GpuLab& lab, double budget) : lab_(lab), budget_(budget) {}

  /// Seconds of moving `bytes` in runs of `run_bytes` at random places, and the bytes moved.
  /// @param max_sms  0: the strategy's own choice
  std::pair<double, std::uint64_t> measure(LinkDirection direction, Strategy strategy,
                                           std::uint64_t run_bytes, std::uint64_t bytes,
                                           unsigned max_sms = 0) {
    // Short runs come from a permutation within large blocks, as in practice: submitting many small
    // blocks would be measured instead. Long runs are blocks.
    bool const inner = run_bytes <= kLongestInner && bytes > run_bytes;
    constexpr std::uint64_t kHeads = 8;
    constexpr std::uint64_t kTokens = 16;
    std::uint64_t const layers =
        inner ? std::max<std::uint64_t>(
                    1, std::min(bytes, kBlockBytes) / (run_bytes * kHeads * kTokens))
              : 1;
    std::uint64_t const block_bytes = inner ? run_bytes * kHeads * kTokens * layers : run_bytes;
    bool const hbm = direction == LinkDirection::DeviceToDevice;
    std::uint64_t const room = (hbm ? lab_.device_area_bytes() : lab_.area_bytes()) / block_bytes;
    std::uint64_t const count = std::clamp<std::uint64_t>(bytes / block_bytes, 1, room);
    Workload const shape{"tune",        layers,          1, inner ? kTokens : 1, inner ? kHeads : 1,
                         run_bytes / 2, std::uint64_t{2}};
    auto const config = make_config(shape, std::min<std::uint64_t>(room, 2 * count), 1);
    Side plain;
    Side permuted;
    if (inner) { permuted.format = layout::KvBlockLayout::OperationalHND; }
    auto const [from, to] = areas(direction);
    auto const src = lab_.add(from, config, plain);
    auto const dst = lab_.add(to, config, permuted);
    auto builder = transfer::TransferOptions::builder();
    builder.strategy(strategy);
    if (max_sms != 0) { builder.max_sms(max_sms); }
    auto const src_ids = make_ids(IdOrder::Random, count, config.num_blocks(), 1);
    auto const dst_ids = make_ids(IdOrder::Random, count, config.num_blocks(), 2);
    double elapsed = 0;
    {
      auto const prepared = lab_.manager().prepare_transfer(src, dst, builder.build());
      elapsed = median_of(
          3, budget_, [&] { return seconds([&] { prepared.submit(src_ids, dst_ids).wait(); }); });
    }
    lab_.remove(src);
    lab_.remove(dst);
    return {elapsed, count * block_bytes};
  }

  transfer::PathCosts path(LinkDirection direction, Strategy strategy,
                           std::vector<std::uint64_t> const& lengths, unsigned max_sms = 0) {
    transfer::PathCosts costs;
    costs.latency = std::max(1e-6, measure(direction, strategy, 4096, 4096, max_sms).first);
    bool const hbm = direction == LinkDirection::DeviceToDevice;
    for (auto const length : lengths) {
      // So many bytes that the fixed part does not count; of copies by DMA so few that it ends.
      std::uint64_t const most =
          strategy == Strategy::DmaCopy ? length * kMaxDma : ~std::uint64_t{0};
      std::uint64_t const bytes = std::min(most, hbm ? lab_.device_area_bytes() / 2 : kLinkBytes);
      auto const [elapsed, moved] =
          measure(direction, strategy, length, std::max(bytes, length), max_sms);
      double const net = std::max(elapsed - costs.latency, elapsed * 0.1);
      costs.rates.push_back({length, static_cast<double>(moved) / net});
    }
    return costs;
  }

 private:
  static constexpr std::uint64_t kLongestInner = std::uint64_t{64} << 10U;
  static constexpr std::uint64_t kBlockBytes = std::uint64_t{1} << 20U;
  static constexpr std::uint64_t kMaxDma = 4096;
  static constexpr std::uint64_t kLinkBytes = std::uint64_t{64} << 20U;

  static std::pair<Area, Area> areas(LinkDirection direction) {
    switch (direction) {
      case LinkDirection::HostToDevice: return {Area::Host0, Area::Device0};
      case LinkDirection::DeviceToHost: return {Area::Device0, Area::Host1};
      case LinkDirection::DeviceToDevice: break;
    }
    return {Area::Device0, Area::Device1};
  }

  GpuLab& lab_;
  double budget_;
};

std::vector<std::uint64_t> lengths_up_to(std::vector<std::uint64_t> lengths, std::uint64_t most) {
  std::erase_if(lengths, [most](std::uint64_t length) { return length > most; });
  return lengths;
}

transfer::GpuCosts measure_gpu(GpuLab& lab, TuneOptions const& options) {
  constexpr std::uint64_t kKiB = 1024;
  auto const most = lab.area_bytes() / 4;
  // Copy engines change their pace between 16 and 32 KiB, so there are more points there.
  auto const dma = lengths_up_to(
      {256, kKiB, 2 * kKiB, 4 * kKiB, 8 * kKiB, 16 * kKiB, 24 * kKiB, 28 * kKiB, 32 * kKiB,
       40 * kKiB, 64 * kKiB, 128 * kKiB, 512 * kKiB, 2048 * kKiB, 16384 * kKiB},
      most);
  auto const kernel = lengths_up_to(
      {16, 32, 64, 128, 256, 512, kKiB, 2 * kKiB, 8 * kKiB, 32 * kKiB, 128 * kKiB, 2048 * kKiB},
      most);
  Tuner tuner(lab, options.seconds_a_point);
  transfer::GpuCosts costs;
  auto const gather_ctas = transfer::choose_max_ctas(
      Strategy::StagedDma, LinkDirection::DeviceToHost, transfer::Spare::Fastest, std::nullopt);
  auto gather = tuner.path(LinkDirection::DeviceToDevice, Strategy::SmCopy, kernel,
                           lab.emulated() ? 0 : gather_ctas);
  for (auto const direction :
       {LinkDirection::DeviceToHost, LinkDirection::HostToDevice, LinkDirection::DeviceToDevice}) {
    auto& link = costs[direction];
    link.dma = tuner.path(direction, Strategy::DmaCopy, dma);
    link.sm = tuner.path(direction, Strategy::SmCopy, kernel);
    link.gather = gather;
    if (direction != LinkDirection::DeviceToDevice) {
      // The kernel's share of a small staged transfer, as the estimate adds the two up.
      double const staged = tuner.measure(direction, Strategy::StagedDma, 4096, 4096).first;
      link.gather.latency = std::max(1e-6, staged - link.dma.latency);
    }
    options.output.text(fmt::format("measured {}", transfer::to_string(direction)));
  }
  return costs;
}

/// Copies between two System layouts: long runs, short runs, single elements.
void measure_host(manager::TransferManager& manager, transfer::CostModel& costs, double budget) {
  constexpr std::uint64_t kBytes = std::uint64_t{64} << 20U;
  auto const rate = [&](Workload const& shape, layout::KvBlockLayout const& format) {
    auto const block = make_config(shape, 1, 1).block_bytes();
    auto const config = make_config(shape, kBytes / block, 1);
    auto side = side_of_tier("system");
    auto const src = manager.register_layout(make_layout(manager, config, side));
    side.format = format;
    auto const dst = manager.register_layout(make_layout(manager, config, side));
    auto const ids = make_ids(IdOrder::Random, config.num_blocks(), config.num_blocks(), 1);
    double const elapsed = median_of(3, budget, [&] {
      return seconds([&] { manager.execute_transfer(src, ids, dst, ids).wait(); });
    });
    manager.unregister_layout(src);
    manager.unregister_layout(dst);
    return static_cast<double>(kBytes) / elapsed;
  };
  costs.host_copy_rate = rate({"long", 8, 2, 16, 8, 128, 2}, layout::KvBlockLayout::OperationalNHD);
  costs.host_permute_rate =
      rate({"short", 8, 2, 16, 8, 128, 2}, layout::KvBlockLayout::OperationalHND);
  costs.host_element_rate = rate({"element", 8, 2, 16, 8, 128, 2},
                                 layout::KvBlockLayout::parse("Custom[nl,no,nh,hd,nt]"));
}

Table gpu_table(transfer::GpuCosts const& costs) {
  Table table("gpu", "GPU: rates by run length",
              {{"direction", "direction", false},
               {"path", "path", false},
               {"latency_seconds", "latency"},
               {"run_bytes", "run"},
               {"bytes_per_second", "GB/s"}});
  for (auto const direction :
       {LinkDirection::HostToDevice, LinkDirection::DeviceToHost, LinkDirection::DeviceToDevice}) {
    auto const& link = costs[direction];
    for (auto const& [name, path] :
         {std::pair<char const*, transfer::PathCosts const*>{"dma", &link.dma},
          {"sm", &link.sm},
          {"gather", &link.gather}}) {
      for (auto const& point : path->rates) {
        table.add({std::string(transfer::to_string(direction)), name, time_cell(path->latency),
                   bytes_cell(point.run_bytes), rate_cell(point.bytes_per_second)});
      }
    }
  }
  return table;
}

Table host_table(transfer::CostModel const& costs) {
  Table table("host", "Host", {{"what", "what", false}, {"bytes_per_second", "GB/s"}});
  table.add({"copy, long runs", rate_cell(costs.host_copy_rate)});
  table.add({"permute, runs of 64 to 512 bytes", rate_cell(costs.host_permute_rate)});
  table.add({"permute, shorter runs", rate_cell(costs.host_element_rate)});
  return table;
}

void print(TuneOptions const& options, transfer::CostModel const& costs, bool with_gpu,
           nlohmann::json json) {
  auto const host = host_table(costs);
  options.output.table(host);
  json["host"] = host.to_json();
  if (with_gpu) {
    auto const gpu = gpu_table(costs.gpu);
    options.output.table(gpu);
    json["gpu"] = gpu.to_json();
  }
  options.output.result(json);
}

int show(TuneOptions const& options, device::DeviceProperties const& properties,
         std::string const& why, bool with_gpu) {
  auto const path = transfer::cost_model_path(properties);
  auto const stored = transfer::load_cost_model(properties);
  if (!why.empty()) { options.output.text("no CUDA device: " + why); }
  options.output.text(stored ? fmt::format("measured costs in {}", path.string())
                             : fmt::format("nothing measured yet ({}): the defaults",
                                           path.empty() ? "no cache folder" : path.string()));
  print(options, stored.value_or(transfer::CostModel{}), with_gpu || stored.has_value(),
        {{"path", path.string()}, {"measured", stored.has_value()}, {"no_gpu", why}});
  return ExitOk;
}

int run(TuneOptions const& options) {
  auto const why = options.emulate ? std::string{} : device::cuda_unavailable_reason();
  bool const with_gpu = why.empty();
  device::DeviceProperties properties;
  if (with_gpu && !options.emulate) {
    properties = device::make_cuda_device(options.device)->properties();
  }
  if (options.show) { return show(options, properties, why, with_gpu); }

  transfer::CostModel costs;
  if (with_gpu) {
    auto const area = options.area_mib << 20U;
    GpuLab lab(options.device, area, options.emulate ? area : std::max(area, kHbmBytes),
               options.emulate);
    options.output.text(lab.describe());
    costs.gpu = measure_gpu(lab, options);
    measure_host(lab.manager(), costs, options.seconds_a_point);
  } else {
    options.output.text("no CUDA device: " + why + "; the host alone is measured");
    auto manager = manager::TransferManager::builder().build();
    measure_host(manager, costs, options.seconds_a_point);
  }
  nlohmann::json json{{"no_gpu", why}, {"measured", true}};
  if (options.dry_run || options.emulate) {
    json["path"] = nullptr;
    options.output.text("not stored");
  } else {
    auto const path = transfer::save_cost_model(properties, costs);
    json["path"] = path.string();
    options.output.text(fmt::format("stored in {}", path.string()));
  }
  print(options, costs, with_gpu, std::move(json));
  return ExitOk;
}

}  // namespace

void add_tune(Commands& commands) {
  auto const options = std::make_shared<TuneOptions>();
  auto& verb = commands.add("tune", "measure what choosing a strategy needs, and store it",
                            [options] { return run(*options); });
  verb.add_option("--device", options->device, "CUDA device")->capture_default_str();
  verb.add_flag("--show", options->show, "print what is stored, measure nothing");
  verb.add_flag("--dry-run", options->dry_run, "measure and print, store nothing");
  verb.add_flag("--emulate", options->emulate,
                "on an emulated device, to try it; stores nothing, its figures mean nothing");
  verb.add_option("--area-mib", options->area_mib, "MiB of each of the four areas that are used")
      ->check(CLI::Range(16, 65536))
      ->capture_default_str();
  verb.add_option("--seconds", options->seconds_a_point, "seconds a point")
      ->check(CLI::PositiveNumber)
      ->capture_default_str();
  options->output.add_to(verb);
}

}  // namespace kvbm::cli
