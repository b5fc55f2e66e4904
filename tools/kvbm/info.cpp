// SPDX-License-Identifier: Apache-2.0
//
// kvbm info: what this build and this machine are, and what the memory and the disk allow.

#include <fmt/format.h>

#include <memory>

#include "command.hpp"
#include "exit_code.hpp"
#include "gpu_facts.hpp"
#include "kvbm/core/version.hpp"
#include "kvbm/device/direct_storage.hpp"
#include "kvbm/kernels/kernels.h"
#include "kvbm/kvbm.hpp"
#include "kvbm/memory/numa.hpp"
#include "kvbm/transfer/cost_store.hpp"
#include "limits.hpp"
#include "machine.hpp"
#include "measure.hpp"
#include "nixl_facts.hpp"
#include "object_facts.hpp"
#include "raw_disk.hpp"
#include "report.hpp"
#include "shape.hpp"

namespace kvbm::cli {
namespace {

struct InfoOptions {
  std::string path;
  bool measure = false;
  Output output;
};

/// Lines for people and the same facts for programs.
class Facts {
 public:
  void add(std::string const& key, std::string const& name, std::string const& text,
           nlohmann::json value) {
    table_.add({name, text});
    json_[key] = std::move(value);
  }
  void add(std::string const& key, std::string const& name, std::string const& text) {
    add(key, name, text, text);
  }
  /// For programs only.
  void note(std::string const& key, nlohmann::json value) { json_[key] = std::move(value); }
  [[nodiscard]] Table const& table() const { return table_; }
  [[nodiscard]] nlohmann::json const& json() const { return json_; }

 private:
  Table table_{"info", "", {{"what", "", false}, {"found", "", false}}};
  nlohmann::json json_ = nlohmann::json::object();
};

void add_build(Facts& facts) {
  facts.add("version", "version", version());
  facts.add("build", "build",
            fmt::format("{}, {}, CUDA {}, io_uring {}", KVBM_CLI_BUILD, KVBM_CLI_COMPILER,
                        KVBM_CLI_WITH_CUDA ? "on" : "off", KVBM_CLI_WITH_URING ? "on" : "off"));
}

void add_machine(Facts& facts, kernels::CopyEngine const& engine) {
  facts.add("kernel", "kernel", kernel_name());
  auto const quota = cgroup_cpus();
  facts.add("cpus", "CPUs",
            fmt::format("{}; {} online, {} usable{}", cpu_model(), online_cpus(), usable_cpus(),
                        quota ? fmt::format(", control group allows {:.1f}", *quota) : ""),
            {{"model", cpu_model()},
             {"online", online_cpus()},
             {"usable", usable_cpus()},
             {"avx2", has_avx2()}});
  facts.add("copy_threads", "copy threads",
            fmt::format("{}, on {} NUMA node(s), {}", engine.num_threads(), engine.num_numa_nodes(),
                        has_avx2() ? "AVX2" : "no AVX2"),
            engine.num_threads());
  facts.add("memory", "memory",
            fmt::format("{}, {} available", format_bytes(total_memory()),
                        format_bytes(available_memory())),
            {{"total_bytes", total_memory()}, {"available_bytes", available_memory()}});
  auto const distances = numa_distances();
  std::string text = fmt::format("{} node(s)", memory::num_numa_nodes());
  for (std::size_t i = 0; i < distances.size(); ++i) {
    text += fmt::format("{} {}: {}", i == 0 ? "; distances" : ",", i, distances[i]);
  }
  facts.add("numa", "NUMA", text, {{"nodes", memory::num_numa_nodes()}, {"distances", distances}});
}

/// Every CUDA device, its link, what is known of its costs.
void add_cuda(Facts& facts) {
  nlohmann::json list = nlohmann::json::array();
  for (auto const& gpu : cuda_devices()) {
    auto const properties = gpu->properties();
    auto const link = read_pci_link(properties.pci_address);
    auto const costs = transfer::cost_model_path(properties);
    bool const tuned = transfer::load_cost_model(properties).has_value();
    auto const now = to_string(link.speed, link.width);
    auto const most = to_string(link.max_speed, link.max_width);
    facts.add(fmt::format("cuda_{}", gpu->id()), fmt::format("CUDA device {}", gpu->id()),
              fmt::format("{}, {}, {} multiprocessors, {}, NUMA node {}, {} (at most {}), {}",
                          gpu->name(), format_bytes(gpu->total_bytes()),
                          properties.num_multiprocessors, properties.pci_address, gpu->numa_node(),
                          now, most, tuned ? "tuned" : "not tuned: default costs"));
    list.push_back({{"id", gpu->id()},
                    {"name", gpu->name()},
                    {"uuid", properties.uuid},
                    {"pci_address", properties.pci_address},
                    {"total_bytes", gpu->total_bytes()},
                    {"used_bytes", gpu->used_bytes()},
                    {"multiprocessors", properties.num_multiprocessors},
                    {"compute_capability", properties.compute_capability},
                    {"numa_node", gpu->numa_node()},
                    {"link", now},
                    {"max_link", most},
                    {"tuned", tuned},
                    {"costs", costs.string()}});
    if (gpu->id() == 0) {
      facts.add("cuda_versions", "CUDA versions",
                fmt::format("driver {}, runtime {}, cudaMemcpyBatchAsync {}",
                            cuda_version_text(properties.driver_version),
                            cuda_version_text(properties.runtime_version),
                            kvbm_cuda_has_memcpy_batch() != 0 ? "present" : "missing"),
                {{"driver", properties.driver_version},
                 {"runtime", properties.runtime_version},
                 {"batch_api", kvbm_cuda_has_memcpy_batch() != 0}});
    }
  }
  facts.note("cuda_devices", std::move(list));
}

void add_devices(Facts& facts, transfer::TransferContext& context) {
  nlohmann::json devices = nlohmann::json::array();
  std::string names;
  for (auto const& device : context.devices()) {
    names += (names.empty() ? "" : ", ") + device->name();
    devices.push_back({{"name", device->name()},
                       {"backend", std::string(device::to_string(device->backend()))},
                       {"id", device->id()},
                       {"total_bytes", device->total_bytes()}});
  }
  facts.add("devices", "devices", names, devices);
  auto const why = device::cuda_unavailable_reason();
  facts.add("cuda", "CUDA", why.empty() ? "available" : "not available: " + why,
            {{"available", why.empty()}, {"reason", why}});
  if (why.empty()) { add_cuda(facts); }
  nlohmann::json gpus = nlohmann::json::array();
  std::string text;
  for (auto const& gpu : memory::find_pci_gpus()) {
    text +=
        fmt::format("{}{} (NUMA node {})", text.empty() ? "" : ", ", gpu.address, gpu.numa_node);
    gpus.push_back({{"address", gpu.address}, {"numa_node", gpu.numa_node}});
  }
  facts.add("gpus", "GPUs on the PCI bus", text.empty() ? "none" : text, gpus);
}

void add_disk(Facts& facts, memory::DiskIo const& io, std::filesystem::path const& folder) {
  facts.add("disk_engine", "disk engine",
            fmt::format("{} ({})", memory::to_string(io.engine()), io.reason()),
            {{"engine", std::string(memory::to_string(io.engine()))},
             {"reason", io.reason()},
             {"queue_depth", io.options().queue_depth}});
  auto const probe = probe_folder(folder);
  facts.add("path", "path",
            fmt::format("{}: {}", folder.string(),
                        probe.writable ? fmt::format("{}, {} free, {}", probe.file_system,
                                                     format_bytes(probe.free_bytes),
                                                     probe.direct ? "O_DIRECT"
                                                                  : "no O_DIRECT: " + probe.reason)
                                       : "not writable: " + probe.reason),
            {{"path", folder.string()},
             {"writable", probe.writable},
             {"file_system", probe.file_system},
             {"free_bytes", probe.free_bytes},
             {"direct", probe.direct},
             {"reason", probe.reason}});
}

void add_remote(Facts& facts) {
  auto const nixl = find_nixl_facts();
  std::string const ucx =
      nixl.why_not.empty() ? why_backend_fails("UCX") : std::string("there is no NIXL");
  std::string plugins;
  for (auto const& plugin : nixl.plugins) {
    plugins += (plugins.empty() ? "" : ", ") + plugin;
  }
  facts.add("nixl", "NIXL",
            nixl.why_not.empty()
                ? fmt::format("{} ({}), plugins {}; UCX {}",
                              nixl.version.empty() ? "of unknown version" : nixl.version, nixl.path,
                              plugins, ucx.empty() ? "starts" : "does not start: " + ucx)
                : nixl.why_not,
            {{"found", nixl.why_not.empty()},
             {"reason", nixl.why_not},
             {"path", nixl.path},
             {"version", nixl.version},
             {"plugins", nixl.plugins},
             {"ucx", ucx.empty()},
             {"ucx_reason", ucx}});
  facts.note("rdma_devices", nixl.rdma);
}

void add_objects(Facts& facts) {
  auto const objects = find_object_facts({});
  std::string text = objects.client.empty() ? "not in this build" : objects.client;
  if (!objects.client.empty()) {
    text += fmt::format(
        "; endpoint {}{}; credentials {}",
        objects.endpoint.empty() ? "AWS's own" : objects.endpoint,
        !objects.was_asked                ? ""
        : objects.why_unreachable.empty() ? ", answers"
                                          : ", does not answer",
        objects.credentials_source.empty() ? "none" : "from " + objects.credentials_source);
  }
  facts.add("objects", "object store", text,
            {{"client", objects.client},
             {"endpoint", objects.endpoint},
             {"asked", objects.was_asked},
             {"reason", objects.why_unreachable},
             {"credentials_source", objects.credentials_source},
             {"credentials_reason", objects.why_no_credentials}});
}

void add_direct_storage(Facts& facts) {
  auto const& info = device::direct_storage()->info();
  facts.add("direct_storage", "GPUDirect Storage",
            fmt::format("{}: {}", device::to_string(info.mode), info.reason),
            {{"mode", std::string(device::to_string(info.mode))},
             {"reason", info.reason},
             {"library", info.library.string()},
             {"version", info.version}});
}

nlohmann::json measure_limits(InfoOptions const& options, manager::TransferManager& manager,
                              std::filesystem::path const& folder) {
  constexpr std::size_t kRepeat = 5;
  constexpr std::uint64_t kBytes = std::uint64_t{128} << 20U;
  constexpr std::uint64_t kPieceBytes = std::uint64_t{1} << 20U;
  Table table("limits", "Limits, measured now (median of 5)",
              {{"what", "what", false}, {"bytes_per_second", "GB/s"}});
  auto const add = [&table](char const* what, std::uint64_t bytes, auto&& body) {
    Samples samples;
    for (std::size_t i = 0; i < kRepeat; ++i) {
      samples.add(body());
    }
    table.add({what, rate_cell(static_cast<double>(bytes) / samples.median())});
  };
  {
    MemoryLimits limits(manager.context().copy_engine(), *manager.memory_source(), kBytes);
    limits.stream_copy();
    add("memcpy, all copy threads", limits.bytes(), [&] { return limits.memcpy_copy(); });
    add("STREAM-style copy, all copy threads", limits.bytes(),
        [&] { return limits.stream_copy(); });
    add("plain read, all copy threads", limits.bytes(), [&] { return limits.plain_read(); });
  }
  RawDisk raw(manager.memory_source()->disk_io(), *manager.memory_source(), {folder}, kPieceBytes,
              kBytes / kPieceBytes);
  char const* const write = raw.is_direct() ? "disk write, O_DIRECT" : "disk write, page cache";
  char const* const read = raw.is_direct() ? "disk read, O_DIRECT" : "disk read, page cache";
  add(write, raw.bytes(), [&] { return raw.write(); });
  add(read, raw.bytes(), [&] { return raw.read(); });
  options.output.table(table);
  return table.to_json();
}

int run(InfoOptions const& options) {
  auto manager = manager::TransferManager::builder().build();
  std::filesystem::path const folder = options.path.empty() ? std::filesystem::temp_directory_path()
                                                            : std::filesystem::path(options.path);
  Facts facts;
  add_build(facts);
  add_machine(facts, manager.context().copy_engine());
  add_devices(facts, manager.context());
  add_remote(facts);
  add_disk(facts, *manager.memory_source()->disk_io(), folder);
  add_direct_storage(facts);
  add_objects(facts);
  options.output.table(facts.table());
  auto json = facts.json();
  if (options.measure) { json["limits"] = measure_limits(options, manager, folder); }
  options.output.result(json);
  return ExitOk;
}

}  // namespace

void add_info(Commands& commands) {
  auto const options = std::make_shared<InfoOptions>();
  auto& verb = commands.add("info", "this build, this machine, and what it allows",
                            [options] { return run(*options); });
  verb.add_option("--path", options->path,
                  "folder for files (default: the folder for temporary files)");
  verb.add_flag("--measure", options->measure, "measure memory and disk, about two seconds");
  options->output.add_to(verb);
}

}  // namespace kvbm::cli
