// SPDX-License-Identifier: Apache-2.0
#include "nixl_facts.hpp"

#include <fmt/format.h>
#include <unistd.h>

#include <algorithm>
#include <chrono>
#include <filesystem>
#include <utility>

#include "kvbm/core/error.hpp"
#include "kvbm/memory/memory_source.hpp"
#include "kvbm/remote/nixl_library.hpp"
#include "remote_pair.hpp"
#include "worker_process.hpp"

namespace kvbm::cli {
namespace {

std::vector<std::string> rdma_devices() {
  std::vector<std::string> names;
  std::error_code error;
  std::filesystem::directory_iterator entry("/sys/class/infiniband", error);
  for (; !error && entry != std::filesystem::directory_iterator(); entry.increment(error)) {
    names.push_back(entry->path().filename().string());
  }
  std::sort(names.begin(), names.end());
  return names;
}

}  // namespace

NixlFacts find_nixl_facts() {
  NixlFacts facts;
  facts.rdma = rdma_devices();
  try {
    auto info = remote::find_nixl();
    facts.path = info.path.string();
    facts.version = std::move(info.version);
    facts.plugins = std::move(info.plugins);
  } catch (Error const& error) { facts.why_not = error.what(); }
  return facts;
}

std::string why_backend_fails(std::string const& backend, int timeout_seconds) {
  try {
    WorkerProcess child("trying " + backend, Transport{"default"}.environment());
    child.ask({{"do", "try_backend"}, {"backend", backend}});
    try {
      static_cast<void>(child.answer(std::chrono::seconds(timeout_seconds)));
    } catch (TimeoutError const&) {
      child.kill();
      return fmt::format("it does not answer within {} s", timeout_seconds);
    }
    return {};
  } catch (Error const& error) { return error.what(); }
}

NeighbourFacts probe_neighbour() {
  NeighbourFacts facts;
  try {
    memory::HostMemoryOptions options;
    options.shareable = true;
    auto const source = memory::make_host_memory_source(options);
    memory::AllocationRequest request;
    request.kind = memory::StorageKind::Pinned;
    request.bytes = std::uint64_t{1} << 16U;
    auto const region = source->allocate(request);
    region.host_data()[0] = std::byte{42};
    auto const self = memory::ProcessName::current();
    auto const name = source->share(region);
    if (!name) { throw UnsupportedError("the kernel gives no memory that can be shared"); }
    WorkerProcess child("probing memory", WorkerProcess::Environment{});
    auto const answer = child.call({{"do", "peek"},
                                    {"boot_id", {self.boot_id[0], self.boot_id[1]}},
                                    {"pid_namespace", self.pid_namespace},
                                    {"pid", self.pid},
                                    {"start_time", self.start_time},
                                    {"fd", name->fd},
                                    {"device", name->device},
                                    {"inode", name->inode},
                                    {"offset", name->offset},
                                    {"file_bytes", name->file_bytes},
                                    {"address", region.address()},
                                    {"value", 42}});
    facts.why_no_map = answer.at("map").get<std::string>();
    facts.why_no_cma = answer.at("cma").get<std::string>();
  } catch (Error const& error) {
    facts.why_no_map = error.what();
    facts.why_no_cma = error.what();
  }
  return facts;
}

}  // namespace kvbm::cli
