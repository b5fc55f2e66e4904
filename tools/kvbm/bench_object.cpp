// SPDX-License-Identifier: Apache-2.0
//
// kvbm bench object: blocks between memory and an object store, over libcurl and over NIXL, beside
// other clients' parallel put and get on the same server, and with several blocks to an object.
#include <fmt/format.h>

#include <algorithm>
#include <functional>
#include <memory>
#include <optional>
#include <utility>

#include "command.hpp"
#include "exit_code.hpp"
#include "kvbm/core/error.hpp"
#include "kvbm/object/object_store.hpp"
#include "machine.hpp"
#include "measure.hpp"
#include "object_peer.hpp"
#include "object_server.hpp"
#include "object_sharing.hpp"
#include "report.hpp"

namespace kvbm::cli {
namespace {

struct Flags {
  ObjectServerFlags server;
  std::string python;
  std::vector<std::string> ways{"curl"};
  std::vector<std::uint64_t> block_bytes{65536, 1048576, 4194304};
  std::vector<std::size_t> connections{8, 32};
  std::vector<std::uint32_t> shared{1, 4, 16};
  std::vector<std::uint64_t> shared_bytes{16384, 65536};
  std::uint64_t mib = 32;
  std::size_t repeat = 3;
  Output output;
  std::shared_ptr<ObjectServer const> running;
};

object::S3Options options_of(Flags const& flags, std::size_t connections) {
  return flags.running->options(connections);
}

struct Rates {
  double put = 0;
  double get = 0;
  std::string reason;  ///< why the store moved them as it did
};

struct Case {
  std::uint64_t block_bytes = 0;
  std::uint64_t num_blocks = 0;
  std::size_t connections = 0;
  std::string way;
};

object::ObjectTransport transport_of(std::string const& way) {
  if (way == "nixl") { return object::ObjectTransport::Nixl; }
  return way == "auto" ? object::ObjectTransport::Auto : object::ObjectTransport::Curl;
}

/// The best of some rounds, through the queue that transfers use, checksums and all.
/// @param in_turn  called after each round
Rates measure(Flags const& flags, Case const& what, std::function<void()> const& in_turn) {
  object::ObjectStoreOptions options;
  options.s3 = options_of(flags, what.connections);
  options.scheme.model = fmt::format("bench-{}-{}", what.block_bytes, what.num_blocks);
  options.scheme.format = "bytes";
  options.blocks_per_object = 1;
  options.transport = transport_of(what.way);
  memory::ExtentGroup const geometry{0, what.block_bytes, what.block_bytes, what.num_blocks};
  auto const store = object::ObjectBlockStore::open(options, geometry, "");
  std::vector<std::byte> memory(what.block_bytes * what.num_blocks);
  for (std::size_t i = 0; i < memory.size(); ++i) {
    memory[i] = static_cast<std::byte>((i * 167) >> 3U);
  }
  std::vector<memory::ExtentIo> extents;
  extents.reserve(what.num_blocks);
  for (std::uint64_t i = 0; i < what.num_blocks; ++i) {
    extents.push_back({0, i, memory.data() + i * what.block_bytes, what.block_bytes});
  }
  auto const queue = store->make_queue();
  auto const finish = [&queue] {
    for (auto const& error : queue->finish()) {
      if (error != nullptr) { std::rethrow_exception(error); }
    }
  };
  Samples put;
  Samples get;
  for (std::size_t round = 0; round < flags.repeat; ++round) {
    put.add(seconds([&] {
      queue->start_write(store, extents);
      finish();
    }));
    get.add(seconds([&] {
      queue->start_read(store, extents);
      finish();
    }));
    in_turn();
  }
  auto const bytes = static_cast<double>(memory.size());
  return {bytes / put.best(), bytes / get.best(), store->backend_reason()};
}

Case make_case(Flags const& flags, std::uint64_t block_bytes, std::size_t connections,
               std::string const& way) {
  KVBM_EXPECTS(block_bytes > 0, InvalidArgument, "--block-bytes 0: a block has bytes");
  auto const fitting = std::max<std::uint64_t>(1, (flags.mib << 20U) / block_bytes);
  // More than this costs time and tells nothing.
  return {block_bytes, std::min<std::uint64_t>(fitting, 512), connections, way};
}

void add_rates(Table& table, Flags const& flags, Case const& what) {
  std::optional<ObjectPeer> peer;
  if (!flags.python.empty()) {
    peer.emplace(flags.python, *flags.running, what.block_bytes, what.num_blocks, what.connections);
  }
  auto const ours = measure(flags, what, [&peer] {
    if (peer) { peer->round(); }
  });
  auto const all_bytes = static_cast<double>(what.block_bytes * what.num_blocks);
  auto const rate = [&](ObjectPeer::Best const& best) { return all_bytes / best.seconds; };
  std::vector<Cell> cells{bytes_cell(what.block_bytes), count_cell(what.num_blocks),
                          count_cell(what.connections), what.way,
                          rate_cell(ours.put),          rate_cell(ours.get)};
  if (peer) {
    auto const put = peer->best_put();
    auto const get = peer->best_get();
    cells.insert(cells.end(), {rate_cell(rate(put)), put.name, rate_cell(rate(get)), get.name,
                               share_cell(ours.put / rate(put)), share_cell(ours.get / rate(get))});
  } else {
    cells.resize(cells.size() + 6, none_cell());
  }
  cells.emplace_back("90%");
  table.add(std::move(cells));
  if (what.way == "auto") { table.note(format_bytes(what.block_bytes) + ": " + ours.reason); }
}

Table rates_table(Flags const& flags) {
  Table table("object", "Blocks as objects, GB/s (best of the rounds)",
              {{"block_bytes", "block"},
               {"num_blocks", "blocks"},
               {"connections", "connections"},
               {"way", "way", false},
               {"put", "put"},
               {"get", "get"},
               {"peer_put", "best other put"},
               {"peer_put_way", "by", false},
               {"peer_get", "best other get"},
               {"peer_get_way", "by", false},
               {"put_share", "put of it"},
               {"get_share", "get of it"},
               {"goal", "goal"}});
  for (auto const bytes : flags.block_bytes) {
    for (auto const connections : flags.connections) {
      for (auto const& way : flags.ways) {
        add_rates(table, flags, make_case(flags, bytes, connections, way));
      }
    }
  }
  if (flags.python.empty()) {
    table.note("other clients are left out: name a Python that has boto3 with --python");
  }
  return table;
}

Table shared_table(Flags const& flags) {
  return sharing_table(
      {flags.shared_bytes, flags.shared, flags.connections.back(), flags.mib << 20U, flags.repeat},
      *flags.running);
}

int run(Flags flags) {
  KVBM_EXPECTS(!flags.connections.empty(), InvalidArgument, "--connections: at least one");
  KVBM_EXPECTS(!flags.ways.empty(), InvalidArgument, "--ways: at least one");
  for (auto const connections : flags.connections) {
    KVBM_EXPECTS(connections >= 1 && connections <= 1024, InvalidArgument,
                 fmt::format("--connections {}: say 1 to 1024", connections));
  }
  flags.running = std::make_shared<ObjectServer const>(flags.server);
  auto const machine = fmt::format("{}, {} usable CPUs, {}; {}", cpu_model(), usable_cpus(),
                                   kernel_name(), flags.running->name());
  flags.output.text(machine + "\n");
  nlohmann::json result{{"machine", machine}};
  for (auto const& make : {rates_table, shared_table}) {
    Table const table = make(flags);
    flags.output.table(table);
    result[table.key()] = table.to_json();
  }
  flags.output.result(result);
  return ExitOk;
}

}  // namespace

void add_object_bench(Commands& commands, CLI::App& bench) {
  auto const flags = std::make_shared<Flags>();
  auto& verb = commands.add(
      "object",
      "blocks to and from an object store, beside other S3 clients, and several to an object",
      [flags] { return run(*flags); }, &bench);
  flags->server.add_to(verb);
  verb.add_option("--ways", flags->ways,
                  "who moves the objects: curl, nixl, auto (whichever is faster); several allowed")
      ->delimiter(',')
      ->check(CLI::IsMember({"curl", "nixl", "auto"}))
      ->capture_default_str();
  verb.add_option("--python", flags->python, "a Python with boto3 (and awscrt), to compare with");
  verb.add_option("--block-bytes", flags->block_bytes, "several allowed")
      ->delimiter(',')
      ->capture_default_str();
  verb.add_option("--connections", flags->connections, "requests in flight; several allowed")
      ->delimiter(',')
      ->capture_default_str();
  verb.add_option("--blocks-per-object", flags->shared, "several allowed")
      ->delimiter(',')
      ->capture_default_str();
  verb.add_option("--shared-bytes", flags->shared_bytes,
                  "a block of those that share objects; several allowed")
      ->delimiter(',')
      ->capture_default_str();
  verb.add_option("--mib", flags->mib, "all blocks of a round, 512 blocks at most")
      ->check(CLI::PositiveNumber)
      ->capture_default_str();
  verb.add_option("--repeat", flags->repeat, "rounds; the best one counts")
      ->check(CLI::PositiveNumber)
      ->capture_default_str();
  flags->output.add_save_to(verb);
  flags->output.add_to(verb, true);
}

}  // namespace kvbm::cli
