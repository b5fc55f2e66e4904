// SPDX-License-Identifier: Apache-2.0
#pragma once

#include <cstddef>
#include <cstdint>

/// What kvbm uses of NIXL's C interface, declared anew: NIXL has no headers in its packages.
/// Facts that the signatures do not say are in docs at their callers; experiments with 1.5.1.
namespace kvbm::nixl::nixl_c {

/// Negative: an error; most collapse to kBackend, the reason is only in NIXL's log.
using Status = int;
inline constexpr Status kSuccess = 0;
inline constexpr Status kInProgress = 1;
inline constexpr Status kInvalidParameter = -1;
inline constexpr Status kBackendFailed = -2;
inline constexpr Status kNotFound = -6;

using Memory = int;
inline constexpr Memory kDram = 0;
inline constexpr Memory kVram = 1;
inline constexpr Memory kObject = 3;
inline constexpr Memory kFile = 4;

using Operation = int;
inline constexpr Operation kRead = 0;
inline constexpr Operation kWrite = 1;

using ThreadSync = int;
/// A readers-writer lock inside the agent: posts, status queries and sends run beside each other.
inline constexpr ThreadSync kThreadSyncReadersWriter = 2;

/// Handed over by address; NIXL 1.5.1 reads up to capture_telemetry.
struct AgentConfig {
  bool progress_thread = true;
  bool listen_thread = false;
  int listen_port = 0;
  ThreadSync thread_sync = kThreadSyncReadersWriter;
  unsigned num_workers = 1;  ///< ignored: a parameter of the UCX backend
  /// Of NIXL's progress thread; 0 keeps a processor busy in every worker, also in one that idles.
  std::uint64_t progress_delay_us = 100;
  std::uint64_t listen_delay_us = 100000;
  bool capture_telemetry = false;
  std::uint64_t reserved[8] = {};  ///< a later version may read on
};
static_assert(offsetof(AgentConfig, listen_port) == 4);
static_assert(offsetof(AgentConfig, thread_sync) == 8);
static_assert(offsetof(AgentConfig, progress_delay_us) == 16);
static_assert(offsetof(AgentConfig, capture_telemetry) == 32);

struct AgentObject;
struct BackendObject;
struct NotificationMapObject;
struct MemoryListObject;
struct OptionsObject;
struct ParametersObject;
struct ParameterIteratorObject;
struct RegistrationListObject;
struct RequestObject;
struct StringListObject;
struct TransferListObject;

using Agent = AgentObject*;
using Backend = BackendObject*;
using MemoryList = MemoryListObject*;
using NotificationMap = NotificationMapObject*;
using Options = OptionsObject*;
using Parameters = ParametersObject*;
using RegistrationList = RegistrationListObject*;
using Request = RequestObject*;
using StringList = StringListObject*;
using TransferList = TransferListObject*;

// Every function is called nixl_capi_<name> in the library and returns a Status.
#define KVBM_NIXL_FUNCTIONS(X)                                                                  \
  X(create_configured_agent, char const* name, AgentConfig const* config, Agent* out)           \
  X(destroy_agent, Agent agent)                                                                 \
  X(get_available_plugins, Agent agent, StringList* out)                                        \
  X(string_list_size, StringList list, std::size_t* out)                                        \
  X(string_list_get, StringList list, std::size_t index, char const** out)                      \
  X(destroy_string_list, StringList list)                                                       \
  X(get_plugin_params, Agent agent, char const* plugin, MemoryList* memories, Parameters* out)  \
  X(destroy_mem_list, MemoryList list)                                                          \
  X(params_add, Parameters parameters, char const* key, char const* value)                      \
  X(destroy_params, Parameters parameters)                                                      \
  X(create_backend, Agent agent, char const* plugin, Parameters parameters, Backend* out)       \
  X(destroy_backend, Backend backend)                                                           \
  X(create_opt_args, Options* out)                                                              \
  X(opt_args_add_backend, Options options, Backend backend)                                     \
  X(destroy_opt_args, Options options)                                                          \
  X(create_reg_dlist, Memory memory, RegistrationList* out, bool sorted)                        \
  X(reg_dlist_add_desc, RegistrationList list, std::uintptr_t address, std::size_t bytes,       \
    std::uint64_t device_id, void const* metadata, std::size_t metadata_bytes)                  \
  X(destroy_reg_dlist, RegistrationList list)                                                   \
  X(register_mem, Agent agent, RegistrationList list, Options options)                          \
  X(deregister_mem, Agent agent, RegistrationList list, Options options)                        \
  X(get_local_md, Agent agent, void** data, std::size_t* bytes)                                 \
  X(load_remote_md, Agent agent, void const* data, std::size_t bytes, char** agent_name)        \
  X(invalidate_remote_md, Agent agent, char const* remote_agent)                                \
  X(check_remote_md, Agent agent, char const* remote_agent, TransferList list)                  \
  X(create_xfer_dlist, Memory memory, TransferList* out, bool sorted)                           \
  X(xfer_dlist_add_desc, TransferList list, std::uintptr_t address, std::size_t bytes,          \
    std::uint64_t device_id)                                                                    \
  X(destroy_xfer_dlist, TransferList list)                                                      \
  X(create_xfer_req, Agent agent, Operation operation, TransferList local, TransferList remote, \
    char const* remote_agent, Request* out, Options options)                                    \
  X(post_xfer_req, Agent agent, Request request, Options options)                               \
  X(get_xfer_status, Agent agent, Request request)                                              \
  X(release_xfer_req, Agent agent, Request request)                                             \
  X(destroy_xfer_req, Request request)                                                          \
  X(gen_notif, Agent agent, char const* remote_agent, void const* data, std::size_t bytes,      \
    Options options)                                                                            \
  X(create_notif_map, NotificationMap* out)                                                     \
  X(get_notifs, Agent agent, NotificationMap map, Options options)                              \
  X(notif_map_size, NotificationMap map, std::size_t* out)                                      \
  X(notif_map_get_agent_at, NotificationMap map, std::size_t index, char const** out)           \
  X(notif_map_get_notifs_size, NotificationMap map, char const* agent, std::size_t* out)        \
  X(notif_map_get_notif, NotificationMap map, char const* agent, std::size_t index,             \
    void const** data, std::size_t* bytes)                                                      \
  X(destroy_notif_map, NotificationMap map)

/// The functions of one loaded library; never null once NixlLibrary holds them.
struct Functions {
#define KVBM_NIXL_MEMBER(name, ...) Status (*name)(__VA_ARGS__) = nullptr;
  KVBM_NIXL_FUNCTIONS(KVBM_NIXL_MEMBER)
#undef KVBM_NIXL_MEMBER
};

}  // namespace kvbm::nixl::nixl_c
