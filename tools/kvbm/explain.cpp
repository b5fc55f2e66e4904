// SPDX-License-Identifier: Apache-2.0
//
// kvbm explain: what a transfer between two layouts would do, and why.

#include <fmt/format.h>
#include <unistd.h>

#include <memory>

#include "command.hpp"
#include "exit_code.hpp"
#include "kvbm/core/error.hpp"
#include "measure.hpp"
#include "object_server.hpp"
#include "report.hpp"
#include "shape.hpp"

namespace kvbm::cli {
namespace {

struct ExplainOptions {
  ShapeFlags shape;
  SideFlags src;
  SideFlags dst;
  std::uint64_t blocks = 64;
  std::string layers;
  std::string src_heads;
  std::string dst_heads;
  std::string src_read_as;
  std::string dst_read_as;
  bool bounce = false;
  bool spare_cpu = false;
  bool spare_sms = false;
  bool gpu = false;
  DeviceId device = 0;
  std::string ids = "contiguous";
  std::string strategy;
  std::string path;
  std::string bucket;
  Output output;
};

/// "2:5" is [2, 5).
IndexRange parse_range(std::string const& flag, std::string const& text) {
  IndexRange range;
  char* end = nullptr;
  range.begin = std::strtoull(text.c_str(), &end, 10);
  bool const colon = end != text.c_str() && *end == ':';
  char const* const second = colon ? end + 1 : end;
  if (colon) { range.end = std::strtoull(second, &end, 10); }
  KVBM_EXPECTS(colon && end != second && *end == '\0' && text.find('-') == std::string::npos,
               InvalidArgument,
               fmt::format("{} {}: say BEGIN:END, two numbers, END not included", flag, text));
  return range;
}

transfer::TransferOptions make_options(ExplainOptions const& flags,
                                       manager::TransferManager& manager,
                                       layout::LayoutConfig const& config) {
  auto builder = transfer::TransferOptions::builder();
  if (!flags.layers.empty()) { builder.layer_range(parse_range("--layer-range", flags.layers)); }
  if (!flags.src_heads.empty()) {
    builder.src_head_range(parse_range("--src-head-range", flags.src_heads));
  }
  if (!flags.dst_heads.empty()) {
    builder.dst_head_range(parse_range("--dst-head-range", flags.dst_heads));
  }
  if (!flags.src_read_as.empty()) {
    builder.src_kv_layout(layout::KvBlockLayout::parse(flags.src_read_as));
  }
  if (!flags.dst_read_as.empty()) {
    builder.dst_kv_layout(layout::KvBlockLayout::parse(flags.dst_read_as));
  }
  if (flags.spare_cpu) { builder.spare(transfer::Spare::SpareCpu); }
  if (flags.spare_sms) { builder.spare(transfer::Spare::SpareSms); }
  if (!flags.strategy.empty()) { builder.strategy(transfer::strategy_from_string(flags.strategy)); }
  if (flags.bounce) {
    auto const handle = manager.register_layout(
        make_layout(manager, config.with_num_blocks(2), side_of_tier("g2")));
    builder.bounce_buffer(transfer::BounceBuffer::from_handle(handle, {0, 1}));
  }
  return builder.build();
}

nlohmann::json to_json(transfer::TransferExplanation const& explanation) {
  nlohmann::json candidates = nlohmann::json::array();
  for (auto const& candidate : explanation.decision.candidates) {
    nlohmann::json estimate;
    if (candidate.estimated_seconds) { estimate = *candidate.estimated_seconds; }
    candidates.push_back({{"strategy", std::string(transfer::to_string(candidate.strategy))},
                          {"estimated_seconds", estimate},
                          {"reason", candidate.reason}});
  }
  auto const& plan = explanation.plan;
  return {{"num_blocks", explanation.num_blocks},
          {"total_bytes", explanation.total_bytes},
          {"strategy", std::string(transfer::to_string(explanation.decision.strategy))},
          {"estimated_seconds", explanation.decision.estimated_seconds},
          {"reason", explanation.decision.reason},
          {"hops", explanation.hops},
          {"candidates", candidates},
          {"notes", explanation.decision.notes},
          {"plan",
           {{"text", plan.to_string()},
            {"num_segments", plan.num_segments()},
            {"run_bytes", plan.shape.run_bytes},
            {"runs_per_block", plan.runs_per_block()},
            {"bytes_per_block", plan.bytes_per_block}}}};
}

/// What a GPU would do where there is none: the choice is taken again as if the emulated device
/// were one, with the costs of an H200.
/// @param explain_forced  explains the same transfer with a strategy forced
template <typename ExplainForced>
void imagine_gpu(transfer::TransferExplanation& explanation, ExplainForced&& explain_forced) {
  if (!explanation.choice.device) {
    explanation.decision.notes.emplace_back("no side is device memory: a GPU changes nothing");
    return;
  }
  explanation.choice.device->emulated = false;
  explanation.decision = transfer::choose(explanation.choice);
  explanation.hops = explain_forced(explanation.decision.strategy).hops;
  explanation.decision.notes.emplace_back(
      "imagined: no CUDA device here, costs of an H200 on PCIe 5.0 x16");
}

int run(ExplainOptions const& flags) {
  auto const config = make_config(flags.shape.resolve(), flags.blocks, 1);
  auto const bytes = config.block_bytes() * flags.blocks;
  bool const real = flags.gpu && device::cuda_unavailable_reason().empty();
  auto builder = manager::TransferManager::builder();
  if (real) {
    builder.cuda_device_id(flags.device);
  } else {
    builder.host_device(1, 2 * bytes + (std::uint64_t{1} << 30U));
  }
  auto manager = builder.build();
  TempFolder const folder(flags.path);
  auto const add = [&](SideFlags const& given, char const* name) {
    auto side = given.resolve();
    side.bucket = flags.bucket;
    side.prefix = fmt::format("kvbm-explain-{}-{}", ::getpid(), name);
    return manager.register_layout(make_layout(manager, config, side, folder.path() / name));
  };
  auto const src = add(flags.src, "src");
  auto const dst = add(flags.dst, "dst");
  auto const order = parse_id_order(flags.ids);
  auto const src_ids = make_ids(order, flags.blocks, flags.blocks, 1);
  auto const dst_ids = make_ids(order, flags.blocks, flags.blocks, 2);
  auto options = make_options(flags, manager, config);
  auto explanation = manager.explain_transfer(src, src_ids, dst, dst_ids, options);
  if (flags.gpu && !real) {
    imagine_gpu(explanation, [&](transfer::Strategy strategy) {
      options.strategy = strategy;
      return manager.explain_transfer(src, src_ids, dst, dst_ids, options);
    });
  }
  remove_manifest(manager.layout(src));
  remove_manifest(manager.layout(dst));
  flags.output.text(fmt::format("from {}\nto   {}\n{}", manager.layout(src).to_string(),
                                manager.layout(dst).to_string(), explanation.to_string()));
  auto json = to_json(explanation);
  json["gpu"] = real ? "real" : flags.gpu ? "imagined" : "none";
  json["src"] = manager.layout(src).to_string();
  json["dst"] = manager.layout(dst).to_string();
  flags.output.result(json);
  return ExitOk;
}

}  // namespace

void add_explain(Commands& commands) {
  auto const flags = std::make_shared<ExplainOptions>();
  auto& verb = commands.add("explain", "what a transfer between two layouts would do, and why",
                            [flags] { return run(*flags); });
  flags->shape.add_to(verb, "llama3-8b");
  verb.add_option("--blocks", flags->blocks, "blocks of both layouts, all moved")
      ->capture_default_str();
  flags->src.add_to(verb, "src", "g1");
  flags->dst.add_to(verb, "dst", "g2");
  verb.add_option("--layer-range", flags->layers, "BEGIN:END, layers to move");
  verb.add_option("--src-head-range", flags->src_heads, "BEGIN:END, heads of the source to move");
  verb.add_option("--dst-head-range", flags->dst_heads,
                  "BEGIN:END, heads of the destination to move to");
  verb.add_option("--src-read-as", flags->src_read_as, "format override of the source");
  verb.add_option("--dst-read-as", flags->dst_read_as, "format override of the destination");
  verb.add_flag("--bounce", flags->bounce, "offer a bounce buffer of two pinned blocks");
  verb.add_flag("--spare-cpu", flags->spare_cpu, "leave the CPU to others");
  verb.add_flag("--spare-sms", flags->spare_sms, "leave the GPU's multiprocessors to the model")
      ->excludes("--spare-cpu");
  verb.add_option("--strategy", flags->strategy, "only this strategy");
  verb.add_option("--ids", flags->ids, "order of block ids: random, runs, contiguous")
      ->capture_default_str();
  verb.add_flag("--gpu", flags->gpu,
                "with the GPU; where there is none, as an H200 would be expected to do it");
  verb.add_option("--device", flags->device, "CUDA device of --gpu")->capture_default_str();
  verb.add_option("--path", flags->path, "folder for disk layouts, which are removed afterwards");
  verb.add_option("--bucket", flags->bucket,
                  "of g4, on the server of AWS_ENDPOINT_URL, else AWS itself; nothing stays in it");
  flags->output.add_to(verb);
}

}  // namespace kvbm::cli
