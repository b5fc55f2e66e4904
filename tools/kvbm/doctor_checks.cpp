// SPDX-License-Identifier: Apache-2.0
#include "doctor_checks.hpp"

#include <fmt/format.h>

#include <algorithm>
#include <cstring>

#include "gpu_facts.hpp"
#include "kvbm/device/device.hpp"
#include "kvbm/device/direct_storage.hpp"
#include "kvbm/kernels/kernels.h"
#include "kvbm/memory/disk_io.hpp"
#include "kvbm/memory/huge_pages.hpp"
#include "kvbm/memory/memory_source.hpp"
#include "kvbm/memory/numa.hpp"
#include "kvbm/transfer/cost_store.hpp"
#include "machine.hpp"
#include "nixl_facts.hpp"
#include "object_facts.hpp"
#include "report.hpp"

namespace kvbm::cli {
namespace {

Check check_cpus() {
  unsigned const usable = usable_cpus();
  auto const quota = cgroup_cpus();
  Check check{"cpus",
              "CPUs",
              Health::Ok,
              fmt::format("{} online, {} usable by this process", online_cpus(), usable),
              {}};
  if (quota && *quota < usable) {
    check.health = Health::Warn;
    check.found += fmt::format(", control group allows the time of {:.1f}", *quota);
    check.advice = fmt::format(
        "give TransferManager::Builder::copy_threads({}) or raise the control group's cpu.max",
        std::max(1, static_cast<int>(*quota)));
  } else if (usable < online_cpus()) {
    check.health = Health::Warn;
    check.advice =
        "copies use the usable CPUs only; widen the affinity (taskset, cpuset) if not meant";
  }
  return check;
}

Check check_avx2() {
  if (has_avx2()) { return {"avx2", "vector units", Health::Ok, "AVX2", {}}; }
  return {
      "avx2", "vector units", Health::Warn, "no AVX2",
      "permutations run in narrower code; on a virtual machine pass the host's CPU model through"};
}

Check check_memlock() {
  auto const limit = memlock_limit();
  constexpr std::uint64_t kTry = std::uint64_t{64} << 20U;
  auto const source = memory::make_host_memory_source();
  memory::AllocationRequest request;
  request.kind = memory::StorageKind::Pinned;
  request.bytes = kTry;
  auto const region = source->allocate(request);
  auto const stats = source->pinned_stats();
  Check check{"memlock",
              "pinned memory",
              Health::Ok,
              fmt::format("limit {}, {} of {} locked in a trial",
                          limit ? format_bytes(*limit) : std::string("unlimited"),
                          format_bytes(stats.locked_bytes), format_bytes(stats.bytes)),
              {}};
  if (stats.locked_bytes < stats.bytes) {
    check.health = Health::Warn;
    check.advice =
        "pinned memory may be swapped out: raise it (ulimit -l unlimited, LimitMEMLOCK=infinity in "
        "a "
        "systemd unit, --ulimit memlock=-1 for containers)";
  }
  return check;
}

Check check_huge_pages() {
  auto const mode = memory::read_transparent_huge_pages();
  auto const reserved = memory::read_huge_page_info();
  Check check{"huge_pages",
              "huge pages",
              Health::Ok,
              fmt::format("transparent: {}", mode ? memory::to_string(*mode) : "unknown"),
              {}};
  if (reserved && reserved->total > 0) {
    check.found += fmt::format(", {} of {} reserved pages of {} free", reserved->free,
                               reserved->total, format_bytes(reserved->page_bytes));
  }
  if (!mode || *mode == memory::TransparentHugePages::Never) {
    check.health = Health::Warn;
    check.advice =
        "copies of scattered blocks miss the TLB: echo madvise > "
        "/sys/kernel/mm/transparent_hugepage/enabled";
  }
  return check;
}

Check check_memory() {
  Check check{"memory",
              "memory",
              Health::Ok,
              fmt::format("{}, {} available", format_bytes(total_memory()),
                          format_bytes(available_memory())),
              {}};
  if (available_memory() < (std::uint64_t{1} << 30U)) {
    check.health = Health::Warn;
    check.advice = "less than 1 GiB is available: end other programs or keep G2 small";
  }
  return check;
}

Check check_numa() {
  int const nodes = memory::num_numa_nodes();
  auto const distances = numa_distances();
  Check check{"numa", "NUMA", Health::Ok, fmt::format("{} node(s)", nodes), {}};
  for (std::size_t i = 0; i < distances.size() && nodes > 1; ++i) {
    check.found += fmt::format("; {}: {}", i, distances[i]);
  }
  if (nodes > 1 && static_cast<std::size_t>(nodes) < distances.size()) {
    check.health = Health::Warn;
    check.advice = "some nodes are closed to this process: widen cpuset.mems if not meant";
  }
  return check;
}

Check check_io_uring() {
  auto const io = memory::make_disk_io();
  Check check{"io_uring",
              "disk engine",
              Health::Ok,
              fmt::format("{} ({})", memory::to_string(io->engine()), io->reason()),
              {}};
  if (io->engine() != memory::DiskEngine::IoUring) {
    check.health = Health::Warn;
    auto const setting = trim(read_text("/proc/sys/kernel/io_uring_disabled").value_or(""));
    check.advice =
        setting == "1" || setting == "2"
            ? "threads do the I/O instead: sysctl kernel.io_uring_disabled=0"
            : "threads do the I/O instead: allow io_uring_setup in the seccomp profile, or build "
              "with liburing-dev installed";
  }
  return check;
}

std::vector<Check> check_folder(std::filesystem::path const& folder, std::uint64_t needed_bytes) {
  auto const probe = probe_folder(folder);
  if (!probe.writable) {
    return {{"path", "disk tier", Health::Fail, folder.string() + ": " + probe.reason,
             "name an existing, writable folder with --path"}};
  }
  Check direct{"direct",
               "O_DIRECT",
               Health::Ok,
               fmt::format("{} ({})", folder.string(), probe.file_system),
               {}};
  if (!probe.direct) {
    direct.health = Health::Warn;
    direct.found += ": " + probe.reason;
    direct.advice = "the page cache is used instead: put G3 on ext4 or xfs on a local disk";
  }
  Check room{"free_space", "free space", Health::Ok, format_bytes(probe.free_bytes), {}};
  if (probe.free_bytes < needed_bytes) {
    room.health = Health::Fail;
    room.advice = fmt::format("G3 needs {} (--needed-gib): free some or name another --path",
                              format_bytes(needed_bytes));
  } else if (probe.file_system == "tmpfs") {
    room.health = Health::Warn;
    room.found += " of memory (tmpfs)";
    room.advice = "files there take memory and do not survive a restart: name a disk with --path";
  }
  return {direct, room};
}

Check check_link(device::Device const& gpu, device::DeviceProperties const& properties,
                 std::string const& suffix) {
  auto const link = read_pci_link(properties.pci_address);
  Check check{"pcie" + suffix,
              fmt::format("PCIe of GPU {}", gpu.id()),
              Health::Ok,
              fmt::format("{}, at most {}", to_string(link.speed, link.width),
                          to_string(link.max_speed, link.max_width)),
              {}};
  if (!link.speed || !link.width) {
    check.health = Health::Info;
    check.advice = "the kernel does not say (virtual machine): `kvbm tune` measures what it gives";
  } else if (link.max_width && *link.width < *link.max_width) {
    check.health = Health::Warn;
    check.advice = "fewer lanes than the card has: reseat it or use a wider slot";
  } else if (link.max_speed && *link.speed < *link.max_speed) {
    // An idle GPU clocks its link down, so this alone is no fault.
    check.health = Health::Info;
    check.advice = "slower than it could be; links of idle GPUs sleep, look again under load";
  }
  return check;
}

Check check_gpu_numa(device::Device const& gpu, std::string const& suffix) {
  int const node = gpu.numa_node();
  Check check{"gpu_numa" + suffix,
              fmt::format("NUMA node of GPU {}", gpu.id()),
              Health::Ok,
              node < 0 ? std::string("unknown") : fmt::format("{}", node),
              {}};
  if (node < 0 && memory::num_numa_nodes() > 1) {
    check.health = Health::Warn;
    check.advice = "pinned memory cannot be placed near it: pass the topology through to the guest";
    return check;
  }
  auto const distances = numa_distances();
  if (node >= 0 && static_cast<std::size_t>(node) < distances.size() && distances.size() > 1) {
    check.found += fmt::format(", distances {}", distances[static_cast<std::size_t>(node)]);
  }
  return check;
}

void check_cuda_devices(std::vector<Check>& checks) {
  auto const gpus = cuda_devices();
  if (gpus.empty()) { return; }
  auto const first = gpus.front()->properties();
  bool const batch = kvbm_cuda_has_memcpy_batch() != 0;
  checks.push_back({"cuda_versions",
                    "CUDA versions",
                    Health::Ok,
                    fmt::format("driver {}, runtime {}", cuda_version_text(first.driver_version),
                                cuda_version_text(first.runtime_version)),
                    {}});
  checks.push_back(
      {"batch_api", "cudaMemcpyBatchAsync", batch ? Health::Ok : Health::Warn,
       batch ? "present" : "missing: copies are submitted one by one",
       batch ? std::string{} : std::string("install a driver for CUDA 12.9 or newer")});
  for (auto const& gpu : gpus) {
    auto const suffix = gpus.size() == 1 ? std::string{} : fmt::format("_{}", gpu->id());
    auto const properties = gpu->properties();
    checks.push_back(check_link(*gpu, properties, suffix));
    checks.push_back(check_gpu_numa(*gpu, suffix));
    bool const tuned = transfer::load_cost_model(properties).has_value();
    checks.push_back({"tuned" + suffix, fmt::format("costs of GPU {}", gpu->id()),
                      tuned ? Health::Ok : Health::Info,
                      tuned ? "measured" : "default ones of an H200",
                      tuned ? std::string{}
                            : std::string("run `kvbm tune`: strategies are then chosen by what "
                                          "this machine does")});
  }
  if (gpus.size() < 2) { return; }
  std::string without;
  for (auto const& a : gpus) {
    for (auto const& b : gpus) {
      if (a->id() != b->id() && !a->can_address(b->id())) {
        without += fmt::format("{}{} to {}", without.empty() ? "" : ", ", a->id(), b->id());
      }
    }
  }
  checks.push_back({"peer_access", "peer access", without.empty() ? Health::Ok : Health::Info,
                    without.empty() ? "between all GPUs" : "none from " + without,
                    without.empty() ? std::string{}
                                    : std::string("copies between these GPUs go through the copy "
                                                  "engines, without kernels")});
}

Check check_direct_storage() {
  auto const& info = device::direct_storage()->info();
  bool const direct = info.mode == device::DirectStorageMode::Direct;
  Check check{"gds",
              "GPUDirect Storage",
              direct ? Health::Ok : Health::Info,
              fmt::format("{}{}: {}", device::to_string(info.mode),
                          info.library.empty() ? "" : ", " + info.library.string(), info.reason),
              {}};
  if (!direct) {
    check.advice =
        "nothing to do: files and GPU memory exchange blocks through pinned memory; with libcufile "
        "and the module nvidia_fs they would go straight";
  }
  return check;
}

std::vector<Check> check_gpu() {
  auto const gpus = memory::find_pci_gpus();
  bool const nvidia = std::any_of(gpus.begin(), gpus.end(), [](auto const& gpu) {
    auto const vendor = read_text("/sys/bus/pci/devices/" + gpu.address + "/vendor");
    return vendor && trim(*vendor) == "0x10de";
  });
  std::vector<Check> checks;
  auto const why = device::cuda_unavailable_reason();
  Check cuda{"cuda", "CUDA", Health::Ok, why.empty() ? "available" : why, {}};
  if (!why.empty()) {
    cuda.health = nvidia ? Health::Warn : Health::Info;
    cuda.advice = nvidia ? "an NVIDIA GPU is there: install its driver and a build with CUDA"
                         : "nothing to do: no NVIDIA GPU here, the host device stands in";
  }
  checks.push_back(cuda);
  if (why.empty()) { check_cuda_devices(checks); }
  if (nvidia || has_module("nvidia")) {
    bool const driver = has_module("nvidia");
    checks.push_back({"driver", "NVIDIA driver", driver ? Health::Ok : Health::Warn,
                      driver ? trim(read_text("/sys/module/nvidia/version").value_or("loaded"))
                             : std::string("module nvidia is not loaded"),
                      driver ? std::string{} : std::string("install and load the NVIDIA driver")});
  }
  checks.push_back(check_direct_storage());
  return checks;
}

std::string join(std::vector<std::string> const& texts) {
  std::string joined;
  for (auto const& text : texts) {
    joined += (joined.empty() ? "" : ", ") + text;
  }
  return joined;
}

/// What decides how blocks get to other processes and machines.
std::vector<Check> check_remote() {
  std::vector<Check> checks;
  auto const facts = find_nixl_facts();
  if (!facts.why_not.empty()) {
    checks.push_back({"nixl", "NIXL", Health::Info, "not here",
                      "blocks stay within one process: " + facts.why_not});
  } else {
    checks.push_back(
        {"nixl",
         "NIXL",
         Health::Ok,
         fmt::format("{}, plugins {}",
                     facts.version.empty() ? facts.path : facts.version + ", " + facts.path,
                     join(facts.plugins)),
         {}});
    auto const why = why_backend_fails("UCX");
    checks.push_back({"nixl_ucx", "NIXL's UCX", why.empty() ? Health::Ok : Health::Warn,
                      why.empty() ? "starts" : why,
                      why.empty() ? std::string{}
                                  : std::string("other workers cannot be reached: see to that; if "
                                                "it is no setting of UCX's, pip install --no-deps "
                                                "nixl-cu13 again into the environment of this "
                                                "program, or name it with KVBM_NIXL_LIBRARY")});
  }
  checks.push_back({"rdma", "RDMA devices", facts.rdma.empty() ? Health::Info : Health::Ok,
                    facts.rdma.empty() ? "none" : join(facts.rdma),
                    facts.rdma.empty()
                        ? std::string("nothing to do: other machines are reached by TCP, and GPU "
                                      "memory through host memory (leave allow_gpu_rdma off)")
                        : std::string{}});
  auto const neighbour = probe_neighbour();
  checks.push_back(
      {"map_peers", "memory of neighbours",
       neighbour.why_no_map.empty() ? Health::Ok : Health::Warn,
       neighbour.why_no_map.empty() ? "can be mapped by workers of this user here"
                                    : neighbour.why_no_map,
       neighbour.why_no_map.empty()
           ? std::string{}
           : std::string("workers of one machine go over the wire: let them share the PID "
                         "namespace (--pid=host or container:ID), the user and /proc")});
  auto const scope = trim(read_text("/proc/sys/kernel/yama/ptrace_scope").value_or("absent"));
  checks.push_back(
      {"cma", "copies between processes", neighbour.why_no_cma.empty() ? Health::Ok : Health::Warn,
       fmt::format("{}, ptrace_scope {}",
                   neighbour.why_no_cma.empty() ? "CMA works" : neighbour.why_no_cma, scope),
       neighbour.why_no_cma.empty()
           ? std::string{}
           : std::string("UCX falls back to TCP between workers of this machine: sysctl "
                         "kernel.yama.ptrace_scope=0, or --cap-add SYS_PTRACE for containers")});
  return checks;
}

/// What decides whether blocks can go to an object store.
std::vector<Check> check_objects(std::string const& bucket) {
  auto const facts = find_object_facts(bucket);
  if (facts.client.empty()) {
    return {{"object_client", "object tier", bucket.empty() ? Health::Info : Health::Fail,
             "not in this build", "for G4 build with libcurl4-openssl-dev and libssl-dev"}};
  }
  std::vector<Check> checks{{"object_client", "object tier", Health::Ok, facts.client, {}}};
  bool const found = !facts.credentials_source.empty();
  checks.push_back({"object_credentials", "S3 credentials", found ? Health::Ok : Health::Info,
                    found ? "from " + facts.credentials_source : std::string("none"),
                    found ? std::string{}
                          : std::string("for G4 set AWS_ACCESS_KEY_ID and AWS_SECRET_ACCESS_KEY, "
                                        "or write a profile with `aws configure`")});
  Check endpoint{"object_endpoint", "S3 endpoint", Health::Ok, facts.endpoint, {}};
  if (facts.endpoint.empty()) { endpoint.found = "AWS's own: AWS_ENDPOINT_URL names no other"; }
  if (!facts.was_asked) {
    endpoint.health = Health::Info;
    endpoint.advice = "it was not asked: name a --bucket, or a server in AWS_ENDPOINT_URL";
  } else if (!facts.why_unreachable.empty()) {
    endpoint.health = Health::Warn;
    endpoint.found += " does not answer: " + facts.why_unreachable;
    endpoint.advice = "start the server, or correct AWS_ENDPOINT_URL";
  } else {
    endpoint.found += ", answers";
  }
  checks.push_back(endpoint);
  if (!bucket.empty()) {
    bool const usable = facts.why_no_bucket.empty();
    checks.push_back({"object_bucket", "bucket " + bucket, usable ? Health::Ok : Health::Fail,
                      usable ? "can be read" : facts.why_no_bucket,
                      usable ? std::string{}
                             : std::string("make the bucket, or name another one with --bucket and "
                                           "credentials that may read it")});
  }
  return checks;
}

}  // namespace

char const* to_string(Health health) noexcept {
  switch (health) {
    case Health::Ok: return "ok";
    case Health::Info: return "info";
    case Health::Warn: return "warn";
    case Health::Fail: return "fail";
  }
  return "unknown";
}

std::vector<Check> run_checks(std::filesystem::path const& folder, std::uint64_t needed_bytes,
                              std::string const& bucket) {
  std::vector<Check> checks{check_cpus(),       check_avx2(), check_memory(),  check_memlock(),
                            check_huge_pages(), check_numa(), check_io_uring()};
  for (auto& check : check_folder(folder, needed_bytes)) {
    checks.push_back(std::move(check));
  }
  for (auto& check : check_gpu()) {
    checks.push_back(std::move(check));
  }
  for (auto& check : check_remote()) {
    checks.push_back(std::move(check));
  }
  for (auto& check : check_objects(bucket)) {
    checks.push_back(std::move(check));
  }
  return checks;
}

}  // namespace kvbm::cli
