// SPDX-License-Identifier: Apache-2.0
//
// kvbm bench object: blocks between memory and an object store, over libcurl and over NIXL, beside
// boto3's parallel put and get on the same server, and with several blocks to an object.
#include <fmt/format.h>
#include <spawn.h>
#include <sys/wait.h>
#include <unistd.h>

#include <algorithm>
#include <array>
#include <csignal>
#include <cstdlib>
#include <filesystem>
#include <memory>
#include <thread>

#include "command.hpp"
#include "exit_code.hpp"
#include "kvbm/core/error.hpp"
#include "kvbm/object/environment.hpp"
#include "kvbm/object/object_store.hpp"
#include "machine.hpp"
#include "measure.hpp"
#include "process.hpp"
#include "report.hpp"

extern char** environ;

namespace kvbm::cli {
namespace {

struct Flags {
  std::string endpoint;
  std::string bucket = "kvbm-bench";
  std::string moto;
  std::string python;
  std::vector<std::uint64_t> block_bytes{65536, 1048576, 4194304};
  std::vector<std::size_t> connections{8, 32};
  std::vector<std::uint32_t> shared{1, 4, 16};
  std::vector<std::string> ways{"curl"};
  std::uint64_t shared_bytes = 65536;
  std::uint64_t mib = 32;
  std::size_t repeat = 3;
  Output output;
};

std::string find_moto() {
  if (char const* const named = std::getenv("KVBM_MOTO_SERVER")) { return named; }
  if (std::filesystem::exists("build/venv/bin/moto_server")) {
    return "build/venv/bin/moto_server";
  }
  return find_program("moto_server");
}

/// moto on loopback, for as long as this lives.
class Moto {
 public:
  Moto(std::string const& program, std::string const& port)
      : endpoint_("http://127.0.0.1:" + port) {
    std::string const command = "exec setpriv --pdeathsig KILL '" + program + "' -H 127.0.0.1 -p " +
                                port + " > /dev/null 2>&1";
    std::array<std::string, 3> words{"/bin/sh", "-c", command};
    std::array<char*, 4> arguments{words[0].data(), words[1].data(), words[2].data(), nullptr};
    int const error = posix_spawn(&pid_, arguments[0], nullptr, nullptr, arguments.data(), environ);
    KVBM_EXPECTS(error == 0, Io, "cannot start " + program + ": " + describe_errno(error));
  }
  ~Moto() {
    ::kill(pid_, SIGKILL);
    ::waitpid(pid_, nullptr, 0);
  }
  Moto(Moto const&) = delete;
  Moto& operator=(Moto const&) = delete;
  [[nodiscard]] std::string const& endpoint() const { return endpoint_; }

 private:
  std::string endpoint_;
  pid_t pid_ = -1;
};

object::S3Options options_of(Flags const& flags, std::size_t connections) {
  auto options = object::options_from_environment(flags.bucket);
  options.endpoint = flags.endpoint;
  options.connections = connections;
  return options;
}

/// Makes the bucket; a server that was just started gets half a minute.
void make_bucket(Flags const& flags, bool is_starting) {
  object::S3Client client(options_of(flags, 1));
  constexpr int kAttempts = 60;
  for (int attempt = 1;; ++attempt) {
    try {
      client.create_bucket();
      return;
    } catch (Error const& error) {
      auto const* const failure = object::s3_failure(error);
      bool const may_come =
          failure != nullptr && failure->kind() == object::S3ErrorKind::Unreachable;
      if (!is_starting || !may_come || attempt == kAttempts) { throw; }
      std::this_thread::sleep_for(std::chrono::milliseconds(500));
    }
  }
}

struct Rates {
  double put = 0;
  double get = 0;
  std::uint64_t requests = 0;  ///< of one put and one get of all blocks; over libcurl
  std::string reason;          ///< why the store moved them as it did
};

struct Case {
  std::uint64_t block_bytes = 0;
  std::uint64_t num_blocks = 0;
  std::size_t connections = 0;
  std::uint32_t blocks_per_object = 1;
  std::string way = "curl";
};

object::ObjectTransport transport_of(std::string const& way) {
  if (way == "nixl") { return object::ObjectTransport::Nixl; }
  return way == "auto" ? object::ObjectTransport::Auto : object::ObjectTransport::Curl;
}

/// The best of some rounds, through the queue that transfers use, checksums and all.
Rates measure(Flags const& flags, Case const& what) {
  object::ObjectStoreOptions options;
  options.s3 = options_of(flags, what.connections);
  options.scheme.model = fmt::format("bench-{}-{}", what.block_bytes, what.num_blocks);
  options.scheme.format = "bytes";
  options.blocks_per_object = what.blocks_per_object;
  options.scheme.prefix = fmt::format("k{}", what.blocks_per_object);
  options.transport = transport_of(what.way);
  memory::ExtentGroup const geometry{0, what.block_bytes, what.block_bytes, what.num_blocks};
  auto const store = object::ObjectBlockStore::open(options, geometry, "");
  std::vector<std::byte> memory(what.block_bytes * what.num_blocks);
  for (std::size_t i = 0; i < memory.size(); ++i) {
    memory[i] = static_cast<std::byte>((i * 167) >> 3U);
  }
  std::vector<memory::ExtentIo> extents;
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
  auto const before = store->client()->stats().requests;
  for (std::size_t round = 0; round < flags.repeat; ++round) {
    put.add(seconds([&] {
      queue->start_write(store, extents);
      finish();
    }));
    get.add(seconds([&] {
      queue->start_read(store, extents);
      finish();
    }));
  }
  auto const bytes = static_cast<double>(memory.size());
  return {bytes / put.best(), bytes / get.best(),
          (store->client()->stats().requests - before) / flags.repeat, store->backend_reason()};
}

constexpr char const* kBoto = R"(
import json, sys, time
from concurrent.futures import ThreadPoolExecutor
import boto3
from botocore.config import Config
endpoint, bucket, size, count, threads, repeat = sys.argv[1:3] + [int(x) for x in sys.argv[3:]]
client = boto3.client("s3", endpoint_url=endpoint or None,
                      config=Config(max_pool_connections=threads, s3={"addressing_style": "path"}))
body = bytes(range(256)) * (size // 256 + 1)
body = body[:size]
def put(i): client.put_object(Bucket=bucket, Key=f"boto3/{i}", Body=body)
def get(i): return len(client.get_object(Bucket=bucket, Key=f"boto3/{i}")["Body"].read())
best = [1e9, 1e9]
with ThreadPoolExecutor(threads) as pool:
    for _ in range(repeat):
        for way, what in enumerate((put, get)):
            start = time.perf_counter()
            list(pool.map(what, range(count)))
            best[way] = min(best[way], time.perf_counter() - start)
print(json.dumps({"put": size * count / best[0], "get": size * count / best[1]}))
)";

std::optional<Rates> measure_boto(Flags const& flags, Case const& what) {
  if (flags.python.empty()) { return std::nullopt; }
  auto const result =
      run_process({flags.python, "-c", kBoto, flags.endpoint, flags.bucket,
                   std::to_string(what.block_bytes), std::to_string(what.num_blocks),
                   std::to_string(what.connections), std::to_string(flags.repeat)});
  auto const json = nlohmann::json::parse(result.output, nullptr, false);
  KVBM_EXPECTS(result.exit_code == 0 && json.is_object(), Io,
               flags.python + " with boto3 failed: exit code " + std::to_string(result.exit_code));
  return Rates{json.at("put").get<double>(), json.at("get").get<double>(), 0, {}};
}

Case make_case(Flags const& flags, std::uint64_t block_bytes, std::size_t connections,
               std::uint32_t blocks_per_object, std::string way) {
  KVBM_EXPECTS(block_bytes > 0, InvalidArgument, "--block-bytes 0: a block has bytes");
  auto const fitting = std::max<std::uint64_t>(1, (flags.mib << 20U) / block_bytes);
  // More than this costs time and tells nothing.
  return {block_bytes, std::min<std::uint64_t>(fitting, 512), connections, blocks_per_object,
          std::move(way)};
}

Table rates_table(Flags const& flags) {
  Table table("object", "Blocks as objects, GB/s (best of the rounds)",
              {{"block_bytes", "block"},
               {"num_blocks", "blocks"},
               {"connections", "connections"},
               {"way", "way", false},
               {"put", "put"},
               {"get", "get"},
               {"boto3_put", "boto3 put"},
               {"boto3_get", "boto3 get"},
               {"put_ratio", "put / boto3"},
               {"get_ratio", "get / boto3"}});
  for (auto const bytes : flags.block_bytes) {
    for (auto const connections : flags.connections) {
      auto const boto = measure_boto(flags, make_case(flags, bytes, connections, 1, {}));
      for (auto const& way : flags.ways) {
        auto const what = make_case(flags, bytes, connections, 1, way);
        auto const ours = measure(flags, what);
        table.add({bytes_cell(bytes), count_cell(what.num_blocks), count_cell(connections), way,
                   rate_cell(ours.put), rate_cell(ours.get),
                   boto ? rate_cell(boto->put) : none_cell(),
                   boto ? rate_cell(boto->get) : none_cell(),
                   boto ? times_cell(ours.put / boto->put) : none_cell(),
                   boto ? times_cell(ours.get / boto->get) : none_cell()});
        if (way == "auto") { table.note(format_bytes(bytes) + ": " + ours.reason); }
      }
    }
  }
  if (flags.python.empty()) {
    table.note("boto3 is left out: name a Python that has it with --python");
  }
  return table;
}

Table sharing_table(Flags const& flags) {
  Table table(
      "blocks_per_object",
      fmt::format("Blocks of {} that share objects, GB/s", format_bytes(flags.shared_bytes)),
      {{"blocks_per_object", "blocks an object"},
       {"object_bytes", "object"},
       {"way", "way", false},
       {"requests", "requests"},
       {"put", "put"},
       {"get", "get"}});
  for (auto const shared : flags.shared) {
    for (auto const& way : flags.ways) {
      auto const what = make_case(flags, flags.shared_bytes, flags.connections.back(), shared, way);
      auto const rates = measure(flags, what);
      table.add({count_cell(shared), bytes_cell(shared * flags.shared_bytes), way,
                 count_cell(rates.requests), rate_cell(rates.put), rate_cell(rates.get)});
    }
  }
  if (std::ranges::any_of(flags.ways, [](auto const& way) { return way != "curl"; })) {
    table.note("requests: those over libcurl, to which NIXL adds one a put and one a get");
  }
  return table;
}

int run(Flags flags) {
  KVBM_EXPECTS(!flags.connections.empty(), InvalidArgument, "--connections: at least one");
  KVBM_EXPECTS(!flags.ways.empty(), InvalidArgument, "--ways: at least one");
  std::unique_ptr<Moto> moto;
  std::string server = flags.endpoint;
  if (flags.endpoint.empty()) {
    std::string const program = flags.moto.empty() ? find_moto() : flags.moto;
    KVBM_EXPECTS(!program.empty(), NotFound,
                 "no --endpoint, and no moto_server to start: pip install -r "
                 "python/requirements-object.txt, or name it with --moto");
    // Keys that mean nothing, to a server that asks for none.
    ::setenv("AWS_ACCESS_KEY_ID", "bench", 0);
    ::setenv("AWS_SECRET_ACCESS_KEY", "bench", 0);
    moto = std::make_unique<Moto>(program, std::to_string(20000 + ::getpid() % 20000));
    flags.endpoint = moto->endpoint();
    server = "moto on loopback";
  }
  make_bucket(flags, moto != nullptr);
  auto const machine =
      fmt::format("{}, {} usable CPUs, {}; {}", cpu_model(), usable_cpus(), kernel_name(), server);
  flags.output.text(machine + "\n");
  nlohmann::json result{{"machine", machine}};
  for (auto const& make : {rates_table, sharing_table}) {
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
      "object", "blocks to and from an object store, beside boto3, and several to an object",
      [flags] { return run(*flags); }, &bench);
  verb.add_option("--endpoint", flags->endpoint,
                  "http[s]://HOST[:PORT]; credentials as AWS's tools find them (default: starts "
                  "moto_server)");
  verb.add_option("--bucket", flags->bucket, "made where it is missing; objects stay in it")
      ->capture_default_str();
  verb.add_option("--moto", flags->moto,
                  "moto_server (default: KVBM_MOTO_SERVER, build/venv, PATH)");
  verb.add_option("--python", flags->python, "a Python with boto3, to compare with");
  verb.add_option("--ways", flags->ways,
                  "who moves the objects: curl, nixl, auto (whichever is faster); several allowed")
      ->delimiter(',')
      ->check(CLI::IsMember({"curl", "nixl", "auto"}))
      ->capture_default_str();
  verb.add_option("--block-bytes", flags->block_bytes, "several allowed")
      ->delimiter(',')
      ->capture_default_str();
  verb.add_option("--connections", flags->connections, "requests in flight; several allowed")
      ->delimiter(',')
      ->capture_default_str();
  verb.add_option("--blocks-per-object", flags->shared, "several allowed")
      ->delimiter(',')
      ->capture_default_str();
  verb.add_option("--shared-bytes", flags->shared_bytes, "a block of those that share objects")
      ->check(CLI::PositiveNumber)
      ->capture_default_str();
  verb.add_option("--mib", flags->mib, "all blocks of a round, 512 blocks at most")
      ->check(CLI::PositiveNumber)
      ->capture_default_str();
  verb.add_option("--repeat", flags->repeat, "rounds; the best one counts")
      ->check(CLI::PositiveNumber)
      ->capture_default_str();
  flags->output.add_to(verb, true);
}

}  // namespace kvbm::cli
