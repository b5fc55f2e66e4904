// SPDX-License-Identifier: Apache-2.0
#include "remote/worker/remote_worker.hpp"

#include <fmt/format.h>

#include <algorithm>
#include <utility>

#include "kvbm/core/error.hpp"
#include "kvbm/core/log.hpp"
#include "remote/worker/remote_worker_impl.hpp"

namespace kvbm::remote {
namespace {

using layout::LayoutHandle;
using layout::PhysicalLayout;
using memory::StorageKind;

constexpr unsigned kServingThreads = 2;
/// Landing memory is lent in pieces of this granularity.
constexpr std::uint64_t kLandingPageBytes = std::uint64_t{64} << 10U;

std::optional<memory::ProcessName> this_process() {
  try {
    return memory::ProcessName::current();
  } catch (Error const& error) {
    log::write(log::Level::Info,
               fmt::format("peers cannot map this worker's memory: {}", error.what()));
    return std::nullopt;
  }
}

/// The described layout over regions that are mapped here.
PhysicalLayout build_mapped(layout::LayoutDescriptor const& descriptor,
                            std::vector<memory::Region> regions,
                            std::shared_ptr<memory::MemorySource> source) {
  auto const builder = PhysicalLayout::builder(std::move(source))
                           .config(descriptor.config)
                           .with_regions(std::move(regions));
  if (descriptor.tensor) { return builder.layer_separate(*descriptor.tensor).build(); }
  if (descriptor.kind == layout::LayoutKind::FullyContiguous) {
    return builder.fully_contiguous(descriptor.format).build();
  }
  return builder.layer_separate(descriptor.dimension, descriptor.format).build();
}

}  // namespace

RemoteWorker::Impl::Impl(std::shared_ptr<transfer::TransferContext> const& context,
                         RemoteOptions options, RemoteHooks hooks)
    : context_(context),
      source_(context->memory_source()),
      options_(std::move(options)),
      hooks_(std::move(hooks)),
      worker_id_(context->event_system()->worker_id()),
      process_(this_process()) {
  nixl::NixlSearch search;
  search.library = options_.nixl_library;
  agent_ = std::make_shared<nixl::NixlAgent>(
      nixl::NixlLibrary::load(search),
      options_.agent_name.empty() ? fmt::format("kvbm-{:016x}", worker_id_) : options_.agent_name);
  for (auto const& [name, parameters] : options_.backends) {
    agent_->create_backend(name, parameters);
  }
  exposed_ =
      std::make_shared<ExposedMemory>(agent_, context->options().capabilities.allow_gpu_rdma);
  if (options_.landing_bytes > 0) {
    landing_.emplace(
        source_->allocate({StorageKind::Pinned, options_.landing_bytes, kLandingPageBytes, -1}),
        kLandingPageBytes);
    landing_registration_ = exposed_->expose({&landing_->region(), 1});
  }
  servers_ = std::make_unique<transfer::PipelineWorkers>("kvbm-serve", kServingThreads, source_, 0);
  thread_ = std::thread([this] { run(); });
}

RemoteWorker::Impl::~Impl() {
  std::vector<std::shared_ptr<Contact>> contacts;
  {
    std::lock_guard const lock(mutex_);
    leaving_ = true;
    for (auto const& [id, contact] : contacts_) {
      contacts.push_back(contact);
    }
  }
  for (auto const& contact : contacts) {
    try {
      contact->send(Farewell{true});
    } catch (std::exception const&) {  // it is gone already
    }
  }
  {
    std::lock_guard const lock(stop_mutex_);
    stopping_ = true;
  }
  stop_changed_.notify_all();
  thread_.join();
  calls_->close();
  board_.close();
  servers_.reset();
}

void RemoteWorker::Impl::add_layout(LayoutHandle handle, PhysicalLayout const& layout) {
  auto registration = exposed_->expose(layout.regions());
  std::lock_guard const lock(mutex_);
  exposures_[handle] = {std::move(registration), false};
}

std::vector<std::shared_ptr<Contact>> RemoteWorker::Impl::importers() const {
  std::lock_guard const lock(mutex_);
  std::vector<std::shared_ptr<Contact>> result;
  for (std::uint64_t const id : importers_) {
    if (auto const found = contacts_.find(id); found != contacts_.end()) {
      result.push_back(found->second);
    }
  }
  return result;
}

/// While it lives, no worker that is met begins to use the layout: it would not be asked.
class RemoteWorker::Impl::Retiring {
 public:
  Retiring(Impl& owner, LayoutHandle handle) : owner_(owner), handle_(handle) { count(1U); }
  Retiring(Retiring const&) = delete;
  Retiring& operator=(Retiring const&) = delete;
  ~Retiring() { count(~0U); }
  [[nodiscard]] bool is_exposed() const noexcept { return is_exposed_; }
  [[nodiscard]] bool is_exported() const noexcept { return is_exported_; }

 private:
  void count(unsigned change) {
    std::lock_guard const lock(owner_.mutex_);
    auto const found = owner_.exposures_.find(handle_);
    if (found == owner_.exposures_.end()) { return; }
    found->second.retiring += change;
    is_exposed_ = true;
    is_exported_ = found->second.exported;
  }

  Impl& owner_;
  LayoutHandle const handle_;
  bool is_exposed_ = false;
  bool is_exported_ = false;
};

void RemoteWorker::Impl::remove_layout(LayoutHandle handle) {
  Retiring const retiring(*this, handle);
  if (!retiring.is_exposed()) { return; }
  if (retiring.is_exported()) {
    struct Asked {
      std::shared_ptr<Contact> contact;
      std::unique_ptr<Calls::Call> call;
    };
    std::vector<Asked> asked;
    for (auto const& contact : importers()) {
      auto call = std::make_unique<Calls::Call>(*calls_, contact, Calls::Until::Farewell);
      try {
        contact->send(Revoke{call->id(), handle.layout_id()});
        asked.push_back({contact, std::move(call)});
      } catch (PeerError const&) {
        // Only a worker that is known to have ended cannot write any more.
        try {
          contact->expect_alive();
          asked.push_back({contact, nullptr});
        } catch (PeerError const&) {}
      }
    }
    auto const deadline = std::chrono::steady_clock::now() + options_.timeout;
    std::string silent;
    for (auto const& [contact, call] : asked) {
      bool confirmed = false;
      try {
        confirmed = call != nullptr && call->wait_until(deadline).has_value();
      } catch (PeerError const&) { confirmed = true; }  // it has ended
      if (!confirmed) { silent += (silent.empty() ? "" : ", ") + contact->name(); }
    }
    KVBM_EXPECTS(silent.empty(), Busy,
                 fmt::format("{} stays registered: {} did not confirm to have stopped using it "
                             "within {} ms; try again when it answers or has ended",
                             to_string(handle), silent,
                             std::chrono::duration<double, std::milli>(options_.timeout).count()));
  }
  std::shared_ptr<void const> registration;  // ends behind the lock
  std::lock_guard const lock(mutex_);
  if (auto const found = exposures_.find(handle); found != exposures_.end()) {
    registration = std::move(found->second.registration);
    exposures_.erase(found);
  }
}

WorkerAddress RemoteWorker::Impl::address() const {
  return {agent_->name(), agent_->local_metadata()};
}

SerializedLayout RemoteWorker::Impl::export_layouts(
    std::vector<std::pair<LayoutHandle, PhysicalLayout>> const& layouts) {
  SerializedLayout metadata;
  metadata.worker_id = worker_id_;
  metadata.process = process_;
  for (auto const& [handle, layout] : layouts) {
    if (!memory::is_memory(layout.storage_kind())) {
      throw UnsupportedError(fmt::format(
          "{} is {} storage, which no other worker can reach: leave it out, and copy its blocks to "
          "memory when a peer wants them",
          to_string(handle), memory::to_string(layout.storage_kind())));
    }
    auto descriptor = describe_layout(handle, layout);
    if (process_) {
      bool any = false;
      for (auto const& region : layout.regions()) {
        descriptor.shared.push_back(source_->share(region));
        any = any || descriptor.shared.back().has_value();
      }
      if (!any) { descriptor.shared.clear(); }
    }
    metadata.layouts.push_back(std::move(descriptor));
    std::lock_guard const lock(mutex_);
    if (auto const found = exposures_.find(handle); found != exposures_.end()) {
      found->second.exported = true;
    }
  }
  if (landing_) {
    metadata.landing = LandingZone{landing_->region().address(), landing_->region().bytes()};
  }
  metadata.address = address();
  return metadata;
}

std::optional<std::vector<memory::Region>> RemoteWorker::Impl::map_regions(
    SerializedLayout const& metadata, LogicalLayoutDescriptor const& layout,
    std::string& why_not) const {
  if (!options_.map_memory) {
    why_not = "memory of peers is not mapped: asked for";
    return std::nullopt;
  }
  if (!process_ || !metadata.process || !memory::is_same_machine(*metadata.process)) {
    why_not = "the worker runs on another machine, or in another PID namespace";
    return std::nullopt;
  }
  if (layout.shared.empty()) {
    why_not = "the worker does not share this memory";
    return std::nullopt;
  }
  std::vector<memory::Region> regions;
  for (std::size_t i = 0; i < layout.layout.regions.size(); ++i) {
    auto const& region = layout.layout.regions[i];
    if (!layout.shared[i]) {
      why_not = fmt::format("the worker does not share region {}", i);
      return std::nullopt;
    }
    try {
      regions.push_back(
          source_->open_shared(*metadata.process, *layout.shared[i], region.bytes, region.kind));
    } catch (Error const& error) {
      why_not = error.what();
      return std::nullopt;
    }
  }
  return regions;
}

ImportedLayout RemoteWorker::Impl::import_layout(
    SerializedLayout const& metadata, LogicalLayoutDescriptor const& layout,
    std::shared_ptr<transfer::Peer> const& peer) const {
  std::string why_not;
  if (auto regions = map_regions(metadata, layout, why_not)) {
    return {layout.handle,
            layout.tier,
            {build_mapped(layout.layout, std::move(*regions), source_),
             nullptr,
             peer,
             layout.handle,
             true,
             {}},
            "mapped: the worker's memory is shared on this machine"};
  }
  auto physical = remote_layout(layout, source_);
  transfer::WireMemory const memory{layout.is_gpu, physical.device_id()};
  return {layout.handle,
          layout.tier,
          {std::move(physical), nullptr, peer, layout.handle, false, memory},
          "NIXL: " + why_not};
}

/// Notes what a worker takes back while it is imported.
class RemoteWorker::Impl::Importing {
 public:
  Importing(Impl& owner, std::uint64_t worker_id) : owner_(owner), worker_id_(worker_id) {
    std::lock_guard const lock(owner_.importing_mutex_);
    KVBM_EXPECTS(owner_.importing_.try_emplace(worker_id).second, AlreadyExists,
                 fmt::format("worker {} is being imported by another thread", worker_id));
  }
  Importing(Importing const&) = delete;
  Importing& operator=(Importing const&) = delete;
  ~Importing() {
    std::lock_guard const lock(owner_.importing_mutex_);
    owner_.importing_.erase(worker_id_);
  }

 private:
  Impl& owner_;
  std::uint64_t const worker_id_;
};

std::shared_ptr<Contact> RemoteWorker::Impl::meet(SerializedLayout const& metadata) {
  std::shared_ptr<Contact> pretender;
  std::shared_ptr<Contact> contact;
  {
    std::lock_guard const lock(mutex_);
    KVBM_EXPECTS(!peers_.contains(metadata.worker_id), AlreadyExists,
                 fmt::format("worker {} was imported already; unimport it first, to take newer "
                             "metadata",
                             metadata.worker_id));
    for (auto const& [id, known] : contacts_) {
      if (id == metadata.worker_id || known->agent_name() != metadata.address.agent_name) {
        continue;
      }
      KVBM_EXPECTS(!peers_.contains(id), AlreadyExists,
                   fmt::format("worker {} has the agent name {} too; if worker {} was started "
                               "again, unimport it first",
                               id, known->agent_name(), id));
    }
    auto const found = contacts_.find(metadata.worker_id);
    if (found != contacts_.end() && found->second->agent_name() == metadata.address.agent_name) {
      return found->second;
    }
    if (found != contacts_.end()) {
      pretender = found->second;
      importers_.erase(metadata.worker_id);
    }
    contact = make_contact(metadata.worker_id, metadata.address, metadata.process);
    contacts_[metadata.worker_id] = contact;  // from here on its answers find it
  }
  if (pretender != nullptr) {
    // What the application says of a worker counts more than what a stranger said of itself.
    pretender->mark_gone(
        fmt::format("worker {} is agent {}", metadata.worker_id, metadata.address.agent_name));
    reclaim_landing(metadata.worker_id);
  }
  return contact;
}

void RemoteWorker::Impl::import_worker(
    SerializedLayout const& metadata,
    std::function<void(std::vector<ImportedLayout>)> const& publish) {
  KVBM_EXPECTS(metadata.worker_id != worker_id_, InvalidArgument,
               fmt::format("worker {}: this is the metadata of this worker itself", worker_id_));
  KVBM_EXPECTS(metadata.address.agent_name != agent_->name(), InvalidArgument,
               fmt::format("worker {} names its agent {} as this worker's is named: every worker "
                           "needs its own agent name",
                           metadata.worker_id, agent_->name()));
  Importing const importing(*this, metadata.worker_id);
  auto const contact = meet(metadata);
  bool is_introduced = false;
  try {
    contact->expect_alive();
    contact->learn(metadata.address);
    is_introduced = true;
    introduce(contact, metadata);
    auto const peer =
        std::make_shared<NixlPeer>(agent_, contact, exposed_, calls_, metadata.landing);
    std::vector<ImportedLayout> layouts;
    layouts.reserve(metadata.layouts.size());
    for (auto const& layout : metadata.layouts) {
      layouts.push_back(import_layout(metadata, layout, peer));
    }
    std::lock_guard const importing_lock(importing_mutex_);
    auto const& revoked = importing_.at(metadata.worker_id);
    std::erase_if(layouts,
                  [&](auto const& one) { return revoked.contains(one.handle.layout_id()); });
    {
      std::lock_guard const lock(mutex_);
      peers_.emplace(metadata.worker_id, peer);
    }
    publish(std::move(layouts));
  } catch (...) {
    if (is_introduced) {
      try {
        contact->send(Farewell{false});  // it may wait for this worker already, or later
      } catch (std::exception const&) {  // it is gone
      }
    }
    std::lock_guard const lock(mutex_);
    peers_.erase(metadata.worker_id);
    if (!importers_.contains(metadata.worker_id)) { contacts_.erase(metadata.worker_id); }
    throw;
  }
}

void RemoteWorker::Impl::introduce(std::shared_ptr<Contact> const& contact,
                                   SerializedLayout const& metadata) {
  Calls::Call call(*calls_, contact);
  Hello hello{call.id(), metadata.worker_id, {}, address(), process_};
  for (auto const& layout : metadata.layouts) {
    hello.layout_ids.push_back(layout.handle.layout_id());
  }
  contact->send(std::move(hello));
  auto const answer = call.wait_until(std::chrono::steady_clock::now() + options_.timeout);
  if (!answer) {
    throw TimeoutError(fmt::format(
        "{} did not answer within {} ms: it is stopped, unreachable, or its metadata is stale",
        contact->name(), std::chrono::duration<double, std::milli>(options_.timeout).count()));
  }
  if (answer->error) {
    throw_error(*answer->error, fmt::format("{}: {}", contact->name(), answer->text));
  }
}

void RemoteWorker::Impl::forget_worker(std::uint64_t worker_id) {
  std::shared_ptr<Contact> contact;
  {
    std::lock_guard const lock(mutex_);
    if (peers_.erase(worker_id) == 0) { return; }
    auto const found = contacts_.find(worker_id);
    if (found == contacts_.end()) { return; }
    // The contact stays until the worker has ended: it may still ask, and NIXL keeps a connection
    // open until then in any case, so that meeting it again has to take the same one.
    contact = found->second;
  }
  try {
    contact->send(Farewell{false});
  } catch (std::exception const&) {
    std::lock_guard const lock(mutex_);
    try {
      contact->expect_alive();
    } catch (PeerError const&) {
      importers_.erase(worker_id);
      contacts_.erase(worker_id);
    }
  }
}

RemoteStats RemoteWorker::Impl::stats() const {
  RemoteStats stats;
  stats.notifications = num_notifications_;
  stats.undelivered = num_undelivered_;
  stats.foreign_messages = num_foreign_;
  stats.duplicate_messages = num_duplicates_;
  stats.images = num_images_;
  if (landing_) {
    stats.landing_bytes_lent =
        (landing_->num_pages() - landing_->num_free_pages()) * landing_->page_bytes();
  }
  std::lock_guard const lock(mutex_);
  stats.workers = peers_.size();
  stats.importers = importers_.size();
  return stats;
}

std::vector<std::uint64_t> RemoteWorker::Impl::workers() const {
  std::lock_guard const lock(mutex_);
  std::vector<std::uint64_t> result;
  result.reserve(peers_.size());
  for (auto const& [id, peer] : peers_) {
    result.push_back(id);
  }
  return result;
}

RemoteWorker::RemoteWorker(std::shared_ptr<transfer::TransferContext> const& context,
                           RemoteOptions options, RemoteHooks hooks)
    : impl_(std::make_unique<Impl>(context, std::move(options), std::move(hooks))) {}
RemoteWorker::~RemoteWorker() = default;

void RemoteWorker::add_layout(LayoutHandle handle, PhysicalLayout const& layout) {
  impl_->add_layout(handle, layout);
}
void RemoteWorker::remove_layout(LayoutHandle handle) { impl_->remove_layout(handle); }
SerializedLayout RemoteWorker::export_layouts(
    std::vector<std::pair<LayoutHandle, PhysicalLayout>> const& layouts) {
  return impl_->export_layouts(layouts);
}
WorkerAddress RemoteWorker::address() const { return impl_->address(); }
void RemoteWorker::import_worker(SerializedLayout const& metadata,
                                 std::function<void(std::vector<ImportedLayout>)> const& publish) {
  impl_->import_worker(metadata, publish);
}
void RemoteWorker::forget_worker(std::uint64_t worker_id) { impl_->forget_worker(worker_id); }
WriteNotices RemoteWorker::subscribe() { return impl_->subscribe(); }
RemoteStats RemoteWorker::stats() const { return impl_->stats(); }
std::vector<std::uint64_t> RemoteWorker::workers() const { return impl_->workers(); }

}  // namespace kvbm::remote
