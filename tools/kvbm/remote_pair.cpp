// SPDX-License-Identifier: Apache-2.0
#include "remote_pair.hpp"

#include <fmt/format.h>
#include <unistd.h>

#include <filesystem>

#include "kvbm/core/error.hpp"

namespace kvbm::cli {

using nlohmann::json;

WorkerProcess::Environment Transport::environment() const {
  // UCX prints its own messages to standard output by default.
  WorkerProcess::Environment environment{{"UCX_LOG_FILE", "stderr"}, {"UCX_LOG_LEVEL", "fatal"}};
  if (name != "default") {
    // Beside a GPU NIXL's UCX starts with this one only.
    bool const has_gpu = std::filesystem::exists("/dev/nvidiactl");
    environment["UCX_TLS"] = name + (has_gpu ? ",cuda_copy" : "");
  }
  return environment;
}

json run_shape(std::uint64_t run_bytes) {
  constexpr std::uint64_t kTokens = 16;
  constexpr std::uint64_t kWidth = 2;
  KVBM_EXPECTS(run_bytes > 0 && run_bytes % (kTokens * kWidth) == 0, InvalidArgument,
               fmt::format("--runs {}: must be a multiple of {}", run_bytes, kTokens * kWidth));
  return {1, 1, kTokens, 1, run_bytes / kTokens / kWidth, kWidth};
}

RemotePair::RemotePair(Transport const& transport, int timeout_s)
    : near("near", transport.environment()), far("far", transport.environment()) {
  auto const open = [timeout_s](WorkerProcess& process, char const* name, bool map) {
    process.call({{"do", "open"},
                  {"manager", name},
                  {"agent", fmt::format("kvbm-{}-{}", name, ::getpid())},
                  {"map", map},
                  {"timeout_s", timeout_s}});
  };
  open(near, "mapped", true);
  open(near, "wire", false);
  open(far, "there", true);
}

void RemotePair::add_layout(std::string const& key, json const& shape, std::uint64_t blocks) {
  json question{
      {"do", "layout"}, {"key", key}, {"shape", shape}, {"blocks", blocks}, {"tier", "pinned"}};
  for (char const* const name : {"mapped", "wire"}) {
    question["manager"] = name;
    near.call(question);
  }
  question["manager"] = "there";
  handles_[key] = far.call(question);
}

void RemotePair::meet() {
  auto const there = far.call({{"do", "export"}, {"manager", "there"}}).at("metadata");
  for (char const* const name : {"mapped", "wire"}) {
    near.call({{"do", "import"}, {"manager", name}, {"metadata", there}});
  }
}

void RemotePair::meet_plainly() {
  auto const there = far.call({{"do", "plain_open"}, {"manager", "there"}});
  addresses_ = there.at("addresses");
  near.call({{"do", "plain_open"}, {"manager", "wire"}});
  near.call({{"do", "plain_meet"}, {"metadata", there.at("metadata")}});
}

std::uint64_t RemotePair::plain_address(std::string const& key) const {
  return addresses_.at(key).get<std::uint64_t>();
}

}  // namespace kvbm::cli
