// SPDX-License-Identifier: Apache-2.0
//
// What `kvbm doctor` has a worker process try: things that may hang, and what another process may
// do with our memory.
#include <sys/uio.h>
#include <unistd.h>

#include <cerrno>
#include <exception>

#include "kvbm/core/error.hpp"
#include "kvbm/memory/shared_memory.hpp"
#include "worker_tasks.hpp"

namespace kvbm::cli {

using nlohmann::json;

json WorkerTasks::try_backend(json const& question) {
  static_cast<void>(manager::TransferManager::builder()
                        .nixl_backend(question.at("backend").get<std::string>())
                        .landing_bytes(0)
                        .build());
  return json::object();
}

json WorkerTasks::peek(json const& question) {
  auto const number = [&question](char const* key) {
    return question.at(key).get<std::uint64_t>();
  };
  memory::ProcessName owner;
  owner.boot_id = question.at("boot_id").get<std::array<std::uint64_t, 2>>();
  owner.pid_namespace = number("pid_namespace");
  owner.pid = question.at("pid").get<std::int64_t>();
  owner.start_time = number("start_time");
  memory::SharedMemoryName name;
  name.fd = number("fd");
  name.device = number("device");
  name.inode = number("inode");
  name.offset = number("offset");
  name.file_bytes = number("file_bytes");
  auto const expected = static_cast<std::byte>(number("value"));
  json answer{{"map", ""}, {"cma", ""}};
  try {
    auto const region =
        memory::map_shared(owner, name, name.file_bytes, memory::StorageKind::Pinned, -1);
    if (region.host_data()[0] != expected) { answer["map"] = "mapped something else"; }
  } catch (Error const& error) { answer["map"] = error.what(); }
  std::byte found{};
  iovec const here{&found, 1};
  iovec const there{reinterpret_cast<void*>(question.at("address").get<std::uintptr_t>()), 1};
  if (::process_vm_readv(static_cast<pid_t>(owner.pid), &here, 1, &there, 1, 0) != 1) {
    answer["cma"] = "process_vm_readv: " + describe_errno(errno);
  } else if (found != expected) {
    answer["cma"] = "process_vm_readv read something else";
  }
  return answer;
}

}  // namespace kvbm::cli
