// SPDX-License-Identifier: Apache-2.0
//
// One case of `kvbm bench remote`: the same blocks moved in every way, in turns, so that whatever
// else the machine does hits all of them alike.
#include <fmt/format.h>
#include <sys/mman.h>

#include <algorithm>
#include <cstring>
#include <random>
#include <thread>

#include "kvbm/core/error.hpp"
#include "worker_tasks.hpp"

namespace kvbm::cli {

using nlohmann::json;

namespace {

/// The limit: the C library's memcpy of the same runs between two memories of this process, which
/// are allocated like those that the transfers use.
class PlainCopy {
 public:
  PlainCopy(layout::PhysicalLayout const& layout, memory::MemorySource& source, bool reads,
            std::span<BlockId const> src_ids, std::span<BlockId const> dst_ids) {
    auto const& region = layout.regions().front();
    memory::AllocationRequest request;
    request.kind = layout.storage_kind();
    request.bytes = region.bytes();
    other_ = source.allocate(request);
    std::memset(other_->host_data(), 1, other_->bytes());  // touches every page
    auto const stride = layout.config().block_bytes();
    auto* const src = reads ? other_->host_data() : region.host_data();
    auto* const dst = reads ? region.host_data() : other_->host_data();
    for (std::size_t i = 0; i < src_ids.size(); ++i) {
      runs_.push_back({src + src_ids[i] * stride, dst + dst_ids[i] * stride, stride});
    }
    merge();
  }

  void run(unsigned num_threads) const {
    auto const part = [this, num_threads](std::size_t index) {
      // Equal bytes for each; a long run is cut.
      std::uint64_t const begin = total_ * index / num_threads;
      std::uint64_t const end = total_ * (index + 1) / num_threads;
      std::uint64_t at = 0;
      for (auto const& run : runs_) {
        std::uint64_t const from = std::max(begin, at);
        std::uint64_t const to = std::min(end, at + run.bytes);
        if (from < to) { std::memcpy(run.dst + (from - at), run.src + (from - at), to - from); }
        at += run.bytes;
        if (at >= end) { break; }
      }
    };
    std::vector<std::thread> others;
    for (unsigned i = 1; i < num_threads; ++i) {
      others.emplace_back(part, i);
    }
    part(0);
    for (auto& other : others) {
      other.join();
    }
  }

 private:
  struct Run {
    std::byte const* src;
    std::byte* dst;
    std::uint64_t bytes;
  };
  void merge() {
    std::vector<Run> merged;
    for (auto const& run : runs_) {
      total_ += run.bytes;
      if (!merged.empty() && merged.back().src + merged.back().bytes == run.src &&
          merged.back().dst + merged.back().bytes == run.dst) {
        merged.back().bytes += run.bytes;
      } else {
        merged.push_back(run);
      }
    }
    runs_ = std::move(merged);
  }

  std::optional<memory::Region> other_;
  std::vector<Run> runs_;
  std::uint64_t total_ = 0;
};

}  // namespace

// {reads, near: key, far: {manager name: handle}, near_ids, far_ids, ways, repeat, budget, plain:
// address at the peer} -> {ways: {way: [seconds]}, strategy: of the automatic choice, pieces}
json WorkerTasks::compare(json const& question) {
  bool const reads = question.at("reads").get<bool>();
  auto const key = question.at("near").get<std::string>();
  auto const near_ids = ids_of(question.at("near_ids"));
  auto const far_ids = ids_of(question.at("far_ids"));
  auto const& src_ids = reads ? far_ids : near_ids;
  auto const& dst_ids = reads ? near_ids : far_ids;
  auto ways = question.at("ways").get<std::vector<std::string>>();

  auto& wire = *members_.at("wire");
  auto const near = wire.manager.layout(wire.layouts.at(key));
  PlainCopy const copy(near, *wire.manager.memory_source(), reads, src_ids, dst_ids);

  std::vector<Piece> pieces;
  pieces.reserve(near_ids.size());
  auto const stride = near.config().block_bytes();
  auto const base = question.value("plain", std::uintptr_t{0});
  for (std::size_t i = 0; i < near_ids.size(); ++i) {
    pieces.push_back({near.regions().front().address() + near_ids[i] * stride,
                      base + far_ids[i] * stride, stride});
  }
  pieces = merge_adjacent(pieces);

  std::string automatic;
  auto const transfer = [&](std::string const& manager, std::string const& strategy) {
    auto& by = *members_.at(manager);
    auto const here = by.layouts.at(key);
    auto const there = handle_of(by, question.at("far"));
    auto const options =
        options_of(strategy.empty() ? json::object() : json{{"strategy", strategy}});
    auto const src = reads ? there : here;
    auto const dst = reads ? here : there;
    if (manager == "wire" && strategy.empty() && automatic.empty()) {
      auto const chosen = by.manager.explain_transfer(src, src_ids, dst, dst_ids, options);
      automatic = std::string(to_string(chosen.decision.strategy));
    }
    return seconds(
        [&] { by.manager.execute_transfer(src, src_ids, dst, dst_ids, options).wait(); });
  };
  auto const once = [&](std::string const& way) -> double {
    if (way == "memcpy") {
      return seconds([&] { copy.run(1); });
    }
    if (way == "memcpy2") {
      return seconds([&] { copy.run(2); });
    }
    if (way == "nixl") {
      return seconds([&] { plain_->move(reads, pieces, plain_peer_); });
    }
    if (way == "mapped") { return transfer("mapped", ""); }
    if (way == "auto") { return transfer("wire", ""); }
    if (way == "direct") { return transfer("wire", "DirectRemote"); }
    if (way == "staged") { return transfer("wire", "StagedRemote"); }
    if (way == "packed") { return transfer("wire", "PackedRemote"); }
    throw Error(ErrorCode::InvalidArgument, "no way " + way);
  };

  json samples = json::object();
  for (auto const& way : ways) {
    samples[way] = json::array();
    static_cast<void>(once(way));  // connections, first touch
  }
  auto const repeat = question.at("repeat").get<std::size_t>();
  auto const budget = question.at("budget").get<double>();
  double spent = 0;
  // What ran before leaves more or less of the blocks in the caches: none always follows the same.
  std::mt19937 order(1);
  for (std::size_t round = 0; round < repeat && (round == 0 || spent < budget); ++round) {
    std::shuffle(ways.begin(), ways.end(), order);
    for (auto const& way : ways) {
      double const elapsed = once(way);
      samples[way].push_back(elapsed);
      spent += elapsed;
    }
  }
  return {{"ways", samples}, {"strategy", automatic}, {"pieces", pieces.size()}};
}

}  // namespace kvbm::cli
