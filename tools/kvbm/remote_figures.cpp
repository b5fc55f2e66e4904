// SPDX-License-Identifier: Apache-2.0
//
// The figures of `kvbm bench remote` beside the sweep: latency, faults, imports, UCX itself.
#include <fmt/format.h>
#include <unistd.h>

#include <algorithm>
#include <chrono>
#include <cstdlib>
#include <filesystem>
#include <sstream>
#include <thread>

#include "kvbm/core/error.hpp"
#include "process.hpp"
#include "remote_pair.hpp"
#include "worker_tasks.hpp"

namespace kvbm::cli {

using nlohmann::json;

namespace {

constexpr std::uint64_t operator""_KiB(unsigned long long value) { return value << 10U; }

json one(BlockId id) { return json::array({id}); }

/// Nanoseconds of a and b as the seconds between them.
double between(json const& from, json const& to) {
  return static_cast<double>(to.get<std::int64_t>() - from.get<std::int64_t>()) * 1e-9;
}

}  // namespace

Table bench_latency(RemoteOptions const& options) {
  Table table("latency",
              fmt::format("One block, written: until the sender knows and until the receiver is "
                          "notified, {} times",
                          options.rounds),
              {{"transport", "transport", false},
               {"way", "way", false},
               {"bytes", "block"},
               {"pause", "after", false},
               {"sender_p50", "sender p50"},
               {"sender_p99", "p99"},
               {"receiver_p50", "receiver p50"},
               {"receiver_p99", "p99"}});
  for (auto const& transport : options.transports) {
    RemotePair pair(transport);
    std::vector<std::uint64_t> const sizes{4_KiB, 32_KiB, 2048_KiB};
    for (auto const bytes : sizes) {
      pair.add_layout(fmt::format("{}", bytes), run_shape(bytes), 64);
    }
    pair.meet();
    pair.far.call({{"do", "listen"}, {"manager", "there"}});
    for (char const* const way : {"mapped", "wire"}) {
      if (way == std::string("mapped") && transport.name != "default") { continue; }
      for (auto const bytes : sizes) {
        for (int const pause : {0, 3000}) {
          auto const key = fmt::format("{}", bytes);
          json question{{"do", "series"},         {"manager", way},    {"src", {{"key", key}}},
                        {"dst", pair.there(key)}, {"src_ids", one(3)}, {"dst_ids", one(5)},
                        {"rounds", 20},           {"pause_us", pause}};
          pair.near.call(question);  // connections
          question["rounds"] = options.rounds;
          auto const alone = pair.near.call(question);
          question["notify"] = true;
          auto const told = pair.near.call(question);
          auto const heard =
              pair.far.call({{"do", "heard"}, {"manager", "there"}, {"count", options.rounds}});
          Samples sender;
          Samples receiver;
          for (std::size_t i = 0; i < options.rounds; ++i) {
            sender.add(between(alone.at("submitted").at(i), alone.at("done").at(i)));
          }
          for (auto const& notice : heard.at("heard")) {
            auto const value = notice.at(0).get<std::size_t>();
            receiver.add(between(told.at("submitted").at(value), notice.at(1)));
          }
          table.add({transport.name, way, bytes_cell(bytes), pause == 0 ? "another" : "3 ms idle",
                     time_cell(sender.median()), time_cell(sender.percentile(0.99)),
                     time_cell(receiver.median()), time_cell(receiver.percentile(0.99))});
        }
      }
    }
  }
  return table;
}

Table bench_faults(RemoteOptions const& options) {
  Table table("faults", "A peer is killed (kill -9): how long until that is noticed",
              {{"transport", "transport", false},
               {"way", "way", false},
               {"when", "killed", false},
               {"seconds", "noticed after"},
               {"code", "as", false},
               {"message", "message", false}});
  constexpr std::uint64_t kBlocks = 4096;
  for (auto const& transport : options.transports) {
    for (char const* const way : {"mapped", "wire"}) {
      if (way == std::string("mapped") && transport.name != "default") { continue; }
      for (bool const during : {true, false}) {
        RemotePair pair(transport, 10);
        pair.add_layout("blocks", run_shape(64_KiB), kBlocks);
        pair.meet();
        auto const ids = make_ids_json(IdOrder::Random, kBlocks, kBlocks, 7);
        json question{{"do", "until_failure"},       {"manager", way}, {"src", {{"key", "blocks"}}},
                      {"dst", pair.there("blocks")}, {"src_ids", ids}, {"dst_ids", ids}};
        if (!during) {
          question["rounds"] = 1;
          pair.near.call(question);
          pair.far.kill();
          std::this_thread::sleep_for(std::chrono::milliseconds(50));
        }
        pair.near.ask(question);
        auto killed = now_ns();
        if (during) {
          std::this_thread::sleep_for(std::chrono::milliseconds(300));
          killed = now_ns();
          pair.far.kill();
        }
        auto const answer = pair.near.answer();
        if (answer.at("failed").is_null()) {
          table.add({transport.name, way, during ? "during transfers" : "before one", none_cell(),
                     "nothing", "the transfer went through"});
          continue;
        }
        auto const since = during ? json(killed) : answer.at("began");
        table.add({transport.name, way, during ? "during transfers" : "before one",
                   time_cell(between(since, answer.at("failed"))),
                   answer.at("code").get<std::string>(), answer.at("message").get<std::string>()});
      }
    }
  }
  table.note("before one: from the start of the next transfer to its failure");
  return table;
}

Table bench_import(RemoteOptions const& options) {
  constexpr int kPeers = 4;
  Table table(
      "import",
      fmt::format("Importing peers of {} blocks each, mean of {}", options.max_blocks, kPeers),
      {{"way", "way", false},
       {"blocks", "blocks"},
       {"metadata", "metadata"},
       {"seconds", "import"},
       {"memory", "memory a peer"},
       {"used", "after a transfer of every block"}});
  auto const transport = Transport{"default"};
  for (bool const map : {true, false}) {
    WorkerProcess near("near", transport.environment());
    WorkerProcess far("far", transport.environment());
    auto const agent = [](int number) { return fmt::format("kvbm-{}-{}", number, ::getpid()); };
    near.call({{"do", "open"}, {"manager", "here"}, {"agent", agent(-1)}, {"map", map}});
    json const shape{1, 1, 16, 1, 1, 1};
    json const layout{{"do", "layout"},   {"key", "k"},
                      {"shape", shape},   {"blocks", options.max_blocks},
                      {"tier", "system"}, {"manager", "here"}};
    near.call(layout);
    std::vector<json> metadata;
    std::vector<json> handles;
    for (int number = 0; number < kPeers; ++number) {
      auto const name = fmt::format("peer{}", number);
      far.call({{"do", "open"}, {"manager", name}, {"agent", agent(number)}});
      auto theirs = layout;
      theirs["manager"] = name;
      handles.push_back(far.call(theirs));
      metadata.push_back(far.call({{"do", "export"}, {"manager", name}}).at("metadata"));
    }
    auto const rss = [&near] { return near.call({{"do", "memory"}}).at("rss").get<double>(); };
    auto const import = [&](int number) {
      return near
          .call({{"do", "import"},
                 {"manager", "here"},
                 {"metadata", metadata[static_cast<std::size_t>(number)]}})
          .at("seconds")
          .get<double>();
    };
    auto const use = [&](int number) {
      auto const ids =
          make_ids_json(IdOrder::Contiguous, options.max_blocks, options.max_blocks, 1);
      near.call({{"do", "move"},
                 {"manager", "here"},
                 {"src", {{"key", "k"}}},
                 {"src_ids", ids},
                 {"dst", handles[static_cast<std::size_t>(number)]},
                 {"dst_ids", ids}});
    };
    // The first one brings what all share.
    double elapsed = import(0);
    use(0);
    double const before = rss();
    for (int number = 1; number < kPeers; ++number) {
      elapsed += import(number);
    }
    double const after = rss();
    for (int number = 1; number < kPeers; ++number) {
      use(number);
    }
    double const used = rss();
    auto const mean = [](double total) {
      return bytes_cell(static_cast<std::uint64_t>(std::max(0.0, total / (kPeers - 1))));
    };
    table.add({map ? "mapped" : "wire", count_cell(options.max_blocks),
               bytes_cell(metadata.front().get_binary().size()), time_cell(elapsed / kPeers),
               mean(after - before), mean(used - before)});
  }
  table.note("memory: growth of the resident set; mapped, a transfer adds the peer's own pages");
  return table;
}

Table bench_perftest(RemoteOptions const& options) {
  Table table("ucx", fmt::format("{} between two processes", options.perftest),
              {{"transport", "transport", false},
               {"test", "test", false},
               {"bytes", "bytes"},
               {"bytes_per_second", "GB/s"},
               {"latency", "a message"}});
  int port = 20000 + static_cast<int>(::getpid() % 20000);
  for (auto const& transport : options.transports) {
    for (char const* const test : {"ucp_get", "ucp_put_bw"}) {
      for (auto const bytes : options.runs) {
        ++port;
        std::string const tls =
            transport.name == "default" ? "" : fmt::format("export UCX_TLS={}; ", transport.name);
        // The wheel libucx-cu13 keeps its libraries in the folder beside.
        auto const libraries =
            std::filesystem::path(options.perftest).parent_path().parent_path() / "lib";
        auto const count = std::clamp<std::uint64_t>((std::uint64_t{1} << 30U) / bytes, 200, 20000);
        // The server ends with its one client.
        auto const result = run_process(
            {"/bin/sh", "-c",
             fmt::format("export UCX_LOG_LEVEL=fatal LD_LIBRARY_PATH='{6}':$LD_LIBRARY_PATH; {0}"
                         "timeout 60 '{1}' -p {2} >/dev/null 2>&1 & "
                         "sleep 0.4; timeout 60 '{1}' 127.0.0.1 -p {2} -t {3} -s {4} -n {5} -f "
                         "2>/dev/null | tail -1; wait",
                         tls, options.perftest, port, test, bytes, count, libraries.string())});
        std::istringstream words(result.output);
        std::vector<double> numbers;
        for (std::string word; words >> word;) {
          char* end = nullptr;
          double const value = std::strtod(word.c_str(), &end);
          if (end != word.c_str() && *end == '\0') { numbers.push_back(value); }
        }
        // iterations, three latencies in us, two rates in MiB/s, two rates in messages a second
        if (numbers.size() < 6) {
          table.add({transport.name, test, bytes_cell(bytes), none_cell(), none_cell()});
          continue;
        }
        table.add({transport.name, test, bytes_cell(bytes), rate_cell(numbers[5] * 1048576.0),
                   time_cell(numbers[3] * 1e-6)});
      }
    }
  }
  table.note("one buffer again and again, hot in the caches: compare with long runs");
  return table;
}

}  // namespace kvbm::cli
