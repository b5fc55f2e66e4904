// SPDX-License-Identifier: Apache-2.0
#include "plain_nixl.hpp"

#include <dlfcn.h>
#include <fmt/format.h>

#include <cstdlib>
#include <thread>
#include <utility>

#include "kvbm/core/error.hpp"

namespace kvbm::cli {
namespace {

constexpr int kDram = 0;
constexpr int kInProgress = 1;

/// As NIXL 1.5 reads it. Its own default delay, 0, keeps a processor busy all the time, which on a
/// small machine slows the very transfers that are measured.
struct AgentConfig {
  bool progress_thread = true;
  bool listen_thread = false;
  int listen_port = 0;
  int thread_sync = 2;
  unsigned num_workers = 1;
  std::uint64_t progress_delay_us = 100;
  std::uint64_t listen_delay_us = 100000;
  bool capture_telemetry = false;
  std::uint64_t reserved[8] = {};
};

/// The functions of NIXL's C interface that a benchmark needs; handles are pointers to nothing we
/// know.
struct Functions {
  int (*create_configured_agent)(char const*, AgentConfig const*, void**) = nullptr;
  int (*destroy_agent)(void*) = nullptr;
  int (*get_plugin_params)(void*, char const*, void**, void**) = nullptr;
  int (*destroy_mem_list)(void*) = nullptr;
  int (*destroy_params)(void*) = nullptr;
  int (*create_backend)(void*, char const*, void*, void**) = nullptr;
  int (*destroy_backend)(void*) = nullptr;
  int (*create_reg_dlist)(int, void**, bool) = nullptr;
  int (*reg_dlist_add_desc)(void*, std::uintptr_t, std::size_t, std::uint64_t, void const*,
                            std::size_t) = nullptr;
  int (*destroy_reg_dlist)(void*) = nullptr;
  int (*register_mem)(void*, void*, void*) = nullptr;
  int (*deregister_mem)(void*, void*, void*) = nullptr;
  int (*get_local_md)(void*, void**, std::size_t*) = nullptr;
  int (*load_remote_md)(void*, void const*, std::size_t, char**) = nullptr;
  int (*create_xfer_dlist)(int, void**, bool) = nullptr;
  int (*xfer_dlist_add_desc)(void*, std::uintptr_t, std::size_t, std::uint64_t) = nullptr;
  int (*destroy_xfer_dlist)(void*) = nullptr;
  int (*create_xfer_req)(void*, int, void*, void*, char const*, void**, void*) = nullptr;
  int (*post_xfer_req)(void*, void*, void*) = nullptr;
  int (*get_xfer_status)(void*, void*) = nullptr;
  int (*release_xfer_req)(void*, void*) = nullptr;
  int (*destroy_xfer_req)(void*) = nullptr;
  int (*create_opt_args)(void**) = nullptr;
  int (*destroy_opt_args)(void*) = nullptr;
};

template <typename Function>
void resolve(void* library, char const* name, Function*& function) {
  function = reinterpret_cast<Function*>(::dlsym(library, name));
  KVBM_EXPECTS(function != nullptr, Unsupported, fmt::format("NIXL has no {}", name));
}

Functions load(std::filesystem::path const& path) {
  // Errors come back as such; NIXL's log would only repeat them.
  ::setenv("NIXL_LOG_LEVEL", "FATAL", 0);
  void* const library = ::dlopen(path.c_str(), RTLD_NOW | RTLD_LOCAL | RTLD_NODELETE);
  if (library == nullptr) {
    throw UnsupportedError(fmt::format("{} cannot be loaded: {}", path.string(), ::dlerror()));
  }
  Functions f;
  auto const find = [library](char const* name, auto*& function) {
    resolve(library, (std::string("nixl_capi_") + name).c_str(), function);
  };
  find("create_configured_agent", f.create_configured_agent);
  find("destroy_agent", f.destroy_agent);
  find("get_plugin_params", f.get_plugin_params);
  find("destroy_mem_list", f.destroy_mem_list);
  find("destroy_params", f.destroy_params);
  find("create_backend", f.create_backend);
  find("destroy_backend", f.destroy_backend);
  find("create_reg_dlist", f.create_reg_dlist);
  find("reg_dlist_add_desc", f.reg_dlist_add_desc);
  find("destroy_reg_dlist", f.destroy_reg_dlist);
  find("register_mem", f.register_mem);
  find("deregister_mem", f.deregister_mem);
  find("get_local_md", f.get_local_md);
  find("load_remote_md", f.load_remote_md);
  find("create_xfer_dlist", f.create_xfer_dlist);
  find("xfer_dlist_add_desc", f.xfer_dlist_add_desc);
  find("destroy_xfer_dlist", f.destroy_xfer_dlist);
  find("create_xfer_req", f.create_xfer_req);
  find("post_xfer_req", f.post_xfer_req);
  find("get_xfer_status", f.get_xfer_status);
  find("release_xfer_req", f.release_xfer_req);
  find("destroy_xfer_req", f.destroy_xfer_req);
  find("create_opt_args", f.create_opt_args);
  find("destroy_opt_args", f.destroy_opt_args);
  return f;
}

/// A handle and the call that ends it.
class Handle {
 public:
  explicit Handle(int (*destroy)(void*)) : destroy_(destroy) {}
  Handle(Handle const&) = delete;
  Handle& operator=(Handle const&) = delete;
  ~Handle() {
    if (handle_ != nullptr) { destroy_(handle_); }
  }
  [[nodiscard]] void** out() noexcept { return &handle_; }
  [[nodiscard]] void* get() const noexcept { return handle_; }

 private:
  int (*destroy_)(void*);
  void* handle_ = nullptr;
};

void expect(int status, char const* what) {
  if (status < 0) { throw PeerError(fmt::format("plain NIXL: {} gave {}", what, status)); }
}

}  // namespace

std::vector<Piece> merge_adjacent(std::vector<Piece> const& pieces) {
  std::vector<Piece> merged;
  for (auto const& piece : pieces) {
    if (!merged.empty() && merged.back().local + merged.back().bytes == piece.local &&
        merged.back().remote + merged.back().bytes == piece.remote) {
      merged.back().bytes += piece.bytes;
    } else {
      merged.push_back(piece);
    }
  }
  return merged;
}

class PlainNixl::Impl {
 public:
  Impl(std::filesystem::path const& library, std::string const& name, std::string const& plugin)
      : f(load(library)),
        agent(f.destroy_agent),
        backend(f.destroy_backend),
        options(f.destroy_opt_args) {
    AgentConfig const config;
    expect(f.create_configured_agent(name.c_str(), &config, agent.out()), "create_agent");
    Handle memories(f.destroy_mem_list);
    Handle parameters(f.destroy_params);
    bool const starts =
        f.get_plugin_params(agent.get(), plugin.c_str(), memories.out(), parameters.out()) == 0 &&
        f.create_backend(agent.get(), plugin.c_str(), parameters.get(), backend.out()) == 0;
    if (!starts) { throw UnsupportedError(fmt::format("NIXL's {} does not start", plugin)); }
    expect(f.create_opt_args(options.out()), "create_opt_args");
  }

  Functions f;
  Handle agent;
  Handle backend;
  Handle options;
};

PlainNixl::PlainNixl(std::filesystem::path const& library, std::string const& name,
                     std::string const& backend)
    : impl_(std::make_unique<Impl>(library, name, backend)) {}

PlainNixl::~PlainNixl() = default;

void PlainNixl::add(std::uintptr_t address, std::uint64_t bytes) {
  auto& f = impl_->f;
  Handle list(f.destroy_reg_dlist);
  expect(f.create_reg_dlist(kDram, list.out(), false), "create_reg_dlist");
  expect(f.reg_dlist_add_desc(list.get(), address, bytes, 0, nullptr, 0), "reg_dlist_add_desc");
  expect(f.register_mem(impl_->agent.get(), list.get(), impl_->options.get()), "register_mem");
}

std::vector<std::uint8_t> PlainNixl::metadata() const {
  void* data = nullptr;
  std::size_t bytes = 0;
  expect(impl_->f.get_local_md(impl_->agent.get(), &data, &bytes), "get_local_md");
  std::unique_ptr<void, decltype(&std::free)> const owner(data, &std::free);
  auto const* const first = static_cast<std::uint8_t const*>(data);
  return {first, first + bytes};
}

std::string PlainNixl::meet(std::span<std::uint8_t const> metadata) {
  char* name = nullptr;
  expect(impl_->f.load_remote_md(impl_->agent.get(), metadata.data(), metadata.size(), &name),
         "load_remote_md");
  std::unique_ptr<char, decltype(&std::free)> const owner(name, &std::free);
  return name;
}

void PlainNixl::move(bool reads, std::span<Piece const> pieces, std::string const& peer) {
  auto& f = impl_->f;
  Handle here(f.destroy_xfer_dlist);
  Handle there(f.destroy_xfer_dlist);
  Handle request(f.destroy_xfer_req);
  expect(f.create_xfer_dlist(kDram, here.out(), false), "create_xfer_dlist");
  expect(f.create_xfer_dlist(kDram, there.out(), false), "create_xfer_dlist");
  for (auto const& piece : pieces) {
    expect(f.xfer_dlist_add_desc(here.get(), piece.local, piece.bytes, 0), "xfer_dlist_add_desc");
    expect(f.xfer_dlist_add_desc(there.get(), piece.remote, piece.bytes, 0), "xfer_dlist_add_desc");
  }
  expect(f.create_xfer_req(impl_->agent.get(), reads ? 0 : 1, here.get(), there.get(), peer.c_str(),
                           request.out(), impl_->options.get()),
         "create_xfer_req");
  int status = f.post_xfer_req(impl_->agent.get(), request.get(), impl_->options.get());
  for (unsigned polls = 0; status == kInProgress; ++polls) {
    if (polls > 1000) { std::this_thread::yield(); }
    status = f.get_xfer_status(impl_->agent.get(), request.get());
  }
  f.release_xfer_req(impl_->agent.get(), request.get());
  expect(status, "the transfer");
}

}  // namespace kvbm::cli
