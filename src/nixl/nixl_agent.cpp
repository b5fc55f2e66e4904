// SPDX-License-Identifier: Apache-2.0
#include "nixl/nixl_agent.hpp"

#include <unistd.h>

#include <algorithm>
#include <cctype>
#include <cstdlib>
#include <cstring>
#include <mutex>
#include <string>
#include <string_view>
#include <utility>

#include <fmt/format.h>
#include <fmt/ranges.h>

#include "kvbm/core/error.hpp"
#include "kvbm/core/log.hpp"
#include "nixl/nixl_core.hpp"

namespace kvbm::nixl {

namespace {

std::string upper(std::string_view text) {
  std::string result(text);
  std::ranges::transform(result, result.begin(), [](unsigned char letter) {
    return static_cast<char>(std::toupper(letter));
  });
  return result;
}

// What experiments taught about a plugin that does not load or start.
std::string advice(std::string_view plugin) {
  if (plugin == "GDS" || plugin == "GDS_MT") {
    return "it needs libcufile and libcudart: pip install nvidia-cufile nvidia-cuda-runtime and "
           "their folder in LD_LIBRARY_PATH";
  }
  if (plugin == "OBJ") {
    return "it needs its parameter bucket, and nixl-cu13 1.5.1 a libcuobjclient.so.1 that no "
           "package brings (1.3.2 does without)";
  }
  if (plugin == "LIBFABRIC") { return "it needs libfabric.so.1"; }
  char const* const transports = std::getenv("UCX_TLS");
  if (plugin == "UCX" && transports != nullptr && access("/dev/nvidiactl", F_OK) == 0 &&
      std::string_view(transports).find("cuda") == std::string_view::npos) {
    return fmt::format("beside a GPU it needs cuda_copy in UCX_TLS, which is '{}'", transports);
  }
  return "NIXL_LOG_LEVEL=INFO prints why";
}

}  // namespace

void NixlAgent::Core::sweep() noexcept {
  std::erase_if(abandoned, [this](Abandoned& request) {
    if (functions().get_xfer_status(agent.get(), request.handle) == nixl_c::kInProgress) {
      return false;
    }
    release(request.handle);
    ended(request.peer);
    unneeded.push_back(std::move(request.keep));
    return true;
  });
}

NixlHandle<nixl_c::Options> NixlAgent::Core::options_for(std::string_view backend) const {
  if (backend.empty()) { return {}; }
  std::lock_guard const lock(mutex);
  auto const found = backends.find(upper(backend));
  KVBM_EXPECTS(found != backends.end(), NotFound,
               fmt::format("agent '{}' has no backend '{}'", name, backend));
  auto options = make_nixl_handle<nixl_c::Options>("create_opt_args", functions().destroy_opt_args,
                                                   functions().create_opt_args);
  nixl_c::Status const status =
      functions().opt_args_add_backend(options.get(), found->second.get());
  if (status != nixl_c::kSuccess) { throw_nixl("opt_args_add_backend", status); }
  return options;
}

std::vector<std::string> NixlAgent::Core::available_plugins() const {
  auto const list = make_nixl_handle<nixl_c::StringList>(
      "get_available_plugins", functions().destroy_string_list,
      [&](nixl_c::StringList* out) { return functions().get_available_plugins(agent.get(), out); });
  std::size_t count = 0;
  functions().string_list_size(list.get(), &count);
  std::vector<std::string> names;
  for (std::size_t i = 0; i < count; ++i) {
    char const* text = nullptr;
    if (functions().string_list_get(list.get(), i, &text) == nixl_c::kSuccess && text != nullptr) {
      names.emplace_back(text);
    }
  }
  std::ranges::sort(names);
  return names;
}

NixlAgent::NixlAgent(std::shared_ptr<NixlLibrary const> library, std::string name)
    : core_(std::make_shared<Core>()) {
  KVBM_EXPECTS(library != nullptr, InvalidArgument, "an agent needs a NixlLibrary");
  KVBM_EXPECTS(!name.empty(), InvalidArgument, "an agent needs a name that is not empty");
  core_->library = std::move(library);
  core_->name = std::move(name);
  nixl_c::Functions const& functions = core_->functions();
  nixl_c::AgentConfig const config;
  core_->agent = make_nixl_handle<nixl_c::Agent>(
      "create_configured_agent", functions.destroy_agent, [&](nixl_c::Agent* out) {
        return functions.create_configured_agent(core_->name.c_str(), &config, out);
      });
}

NixlAgent::~NixlAgent() = default;

std::string const& NixlAgent::name() const noexcept { return core_->name; }

std::vector<std::string> NixlAgent::backends() const {
  std::lock_guard const lock(core_->mutex);
  std::vector<std::string> names;
  for (auto const& [name, handle] : core_->backends) {
    names.push_back(name);
  }
  return names;
}

void NixlAgent::create_backend(std::string_view name,
                               std::map<std::string, std::string> const& parameters) {
  nixl_c::Functions const& functions = core_->functions();
  std::string const plugin = upper(name);
  std::vector<std::string> const available = core_->available_plugins();
  KVBM_EXPECTS(
      std::ranges::find(available, plugin) != available.end(), InvalidArgument,
      fmt::format("NIXL has no backend '{}'; there are {}", name, fmt::join(available, ", ")));
  {
    std::lock_guard const lock(core_->mutex);
    KVBM_EXPECTS(!core_->backends.contains(plugin), AlreadyExists,
                 fmt::format("agent '{}' has backend {} already", core_->name, plugin));
  }
  auto const refuse = [&](std::string_view reason) {
    throw UnsupportedError(
        fmt::format("NIXL's backend {} does not start here: {}", plugin, reason));
  };
  // libcufile reads this file in a loop that does not end where there is none.
  if (plugin.starts_with("GDS") && access("/proc/modules", R_OK) != 0) {
    refuse("libcufile would hang on this kernel, which has no /proc/modules");
  }
  auto const give_up = [&] {
    std::string const problem = core_->library->plugin_problem(plugin);
    std::string const known = advice(plugin);
    refuse(problem.empty() ? known : fmt::format("{}; {}", problem, known));
  };

  nixl_c::MemoryList memories = nullptr;
  nixl_c::Parameters defaults = nullptr;
  if (functions.get_plugin_params(core_->agent.get(), plugin.c_str(), &memories, &defaults) !=
      nixl_c::kSuccess) {
    give_up();
  }
  NixlHandle<nixl_c::MemoryList> const memory_list(memories, {functions.destroy_mem_list});
  NixlHandle<nixl_c::Parameters> const all(defaults, {functions.destroy_params});
  for (auto const& [key, value] : parameters) {
    nixl_c::Status const status = functions.params_add(all.get(), key.c_str(), value.c_str());
    if (status != nixl_c::kSuccess) { throw_nixl(fmt::format("parameter '{}'", key), status); }
  }
  nixl_c::Backend backend = nullptr;
  if (functions.create_backend(core_->agent.get(), plugin.c_str(), all.get(), &backend) !=
      nixl_c::kSuccess) {
    give_up();
  }
  NixlHandle<nixl_c::Backend> handle(backend, {functions.destroy_backend});
  std::lock_guard const lock(core_->mutex);
  core_->backends.emplace(plugin, std::move(handle));
}

// --- registrations ------------------------------------------------------------------------------

struct NixlAgent::Registration::State {
  std::shared_ptr<Core> core;
  NixlHandle<nixl_c::RegistrationList> list;
  NixlHandle<nixl_c::Options> options;
  bool registered = false;

  State(std::shared_ptr<Core> owner, NixlHandle<nixl_c::RegistrationList> what,
        NixlHandle<nixl_c::Options> how)
      : core(std::move(owner)), list(std::move(what)), options(std::move(how)) {}
  State(State const&) = delete;
  State& operator=(State const&) = delete;
  ~State() {
    if (!registered) { return; }
    nixl_c::Status const status =
        core->functions().deregister_mem(core->agent.get(), list.get(), options.get());
    if (status != nixl_c::kSuccess) {
      log::write(log::Level::Warning, "NIXL refused to deregister memory");
    }
  }
};

NixlAgent::Registration::Registration(std::unique_ptr<State> state) : state_(std::move(state)) {}
NixlAgent::Registration::Registration(Registration&&) noexcept = default;
NixlAgent::Registration& NixlAgent::Registration::operator=(Registration&&) noexcept = default;
NixlAgent::Registration::~Registration() = default;

NixlAgent::Registration NixlAgent::register_memory(Segment segment,
                                                   std::span<NixlRange const> ranges,
                                                   std::string_view metadata,
                                                   std::string_view backend) {
  check_ranges("registered", ranges);
  nixl_c::Functions const& functions = core_->functions();
  auto state = std::make_unique<Registration::State>(
      core_, make_registration_list(functions, segment, ranges, metadata),
      core_->options_for(backend));
  nixl_c::Status const status =
      functions.register_mem(core_->agent.get(), state->list.get(), state->options.get());
  if (status != nixl_c::kSuccess) {
    throw UnsupportedError(fmt::format(
        "NIXL agent '{}' (backends {}) does not register {} {} range(s), the first of {} bytes at "
        "{:#x} (status {})",
        core_->name, fmt::join(backends(), ", "), ranges.size(), to_string(segment),
        ranges[0].bytes, ranges[0].address, status));
  }
  state->registered = true;
  return Registration(std::move(state));
}

// --- other agents -------------------------------------------------------------------------------

std::vector<std::byte> NixlAgent::local_metadata() const {
  void* data = nullptr;
  std::size_t bytes = 0;
  nixl_c::Status const status = core_->functions().get_local_md(core_->agent.get(), &data, &bytes);
  std::unique_ptr<void, decltype(&std::free)> const owner(data, &std::free);
  if (status != nixl_c::kSuccess) {
    throw UnsupportedError(
        fmt::format("NIXL agent '{}' has no metadata for others (status {}): it needs a backend "
                    "that reaches them, such as UCX",
                    core_->name, status));
  }
  std::vector<std::byte> blob(bytes);
  if (bytes != 0) { std::memcpy(blob.data(), data, bytes); }
  return blob;
}

std::string NixlAgent::load_remote(std::span<std::byte const> metadata) {
  if (metadata.empty()) { throw CorruptError("the NIXL metadata of a remote agent is empty"); }
  char* text = nullptr;
  nixl_c::Status const status = core_->functions().load_remote_md(
      core_->agent.get(), metadata.data(), metadata.size(), &text);
  std::unique_ptr<char, decltype(&std::free)> const owner(text, &std::free);
  if (status != nixl_c::kSuccess || text == nullptr) {
    throw CorruptError(fmt::format(
        "{} bytes of NIXL metadata are refused by agent '{}' (status {}): they are damaged, from "
        "an agent that restarted under its name, this agent's own, or share no backend with {}",
        metadata.size(), core_->name, status, fmt::join(backends(), ", ")));
  }
  std::string name(text);
  std::lock_guard const lock(core_->mutex);
  core_->to_forget.erase(name);
  return name;
}

bool NixlAgent::knows(std::string const& agent) const noexcept { return core_->knows(agent); }

void NixlAgent::forget_remote(std::string const& agent) noexcept {
  std::lock_guard const lock(core_->mutex);
  core_->sweep();
  if (core_->in_flight.contains(agent)) {
    core_->to_forget.insert(agent);
  } else {
    core_->forget(agent);
  }
}

std::size_t NixlAgent::abandoned() const {
  std::lock_guard const lock(core_->mutex);
  return core_->abandoned.size();
}

std::size_t NixlAgent::sweep() {
  // What nobody needs any more ends without the lock: it may deregister memory, or send.
  std::vector<std::shared_ptr<void const>> unneeded;
  std::lock_guard const lock(core_->mutex);
  if (!core_->abandoned.empty()) { core_->sweep(); }
  unneeded.swap(core_->unneeded);
  return core_->abandoned.size();
}

void NixlAgent::send(std::string const& agent, std::span<std::byte const> message) {
  // NIXL wants an address even for nothing.
  static constexpr std::byte kNothing{};
  void const* const data = message.empty() ? &kNothing : message.data();
  nixl_c::Status const status = core_->functions().gen_notif(core_->agent.get(), agent.c_str(),
                                                             data, message.size(), nullptr);
  if (status == nixl_c::kSuccess) { return; }
  KVBM_EXPECTS(core_->knows(agent), NotFound,
               fmt::format("agent '{}' does not know agent '{}'", core_->name, agent));
  throw PeerError(fmt::format("agent '{}' cannot be sent {} bytes (status {}): disconnected", agent,
                              message.size(), status));
}

std::vector<NixlAgent::Message> NixlAgent::take_messages() {
  nixl_c::Functions const& functions = core_->functions();
  auto const map = make_nixl_handle<nixl_c::NotificationMap>(
      "create_notif_map", functions.destroy_notif_map, functions.create_notif_map);
  nixl_c::Status const status = functions.get_notifs(core_->agent.get(), map.get(), nullptr);
  if (status != nixl_c::kSuccess) { throw_nixl("get_notifs", status); }
  std::size_t agents = 0;
  functions.notif_map_size(map.get(), &agents);
  sweep();
  std::vector<Message> messages;
  for (std::size_t i = 0; i < agents; ++i) {
    char const* agent = nullptr;
    std::size_t count = 0;
    if (functions.notif_map_get_agent_at(map.get(), i, &agent) != nixl_c::kSuccess ||
        functions.notif_map_get_notifs_size(map.get(), agent, &count) != nixl_c::kSuccess) {
      continue;
    }
    for (std::size_t j = 0; j < count; ++j) {
      void const* data = nullptr;
      std::size_t bytes = 0;
      if (functions.notif_map_get_notif(map.get(), agent, j, &data, &bytes) != nixl_c::kSuccess) {
        continue;
      }
      auto const* const first = static_cast<std::byte const*>(data);
      messages.push_back({agent, std::vector<std::byte>(first, first + bytes)});
    }
  }
  return messages;
}

}  // namespace kvbm::nixl
