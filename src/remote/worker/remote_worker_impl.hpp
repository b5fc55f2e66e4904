// SPDX-License-Identifier: Apache-2.0
#pragma once

#include <atomic>
#include <condition_variable>
#include <cstdint>
#include <map>
#include <memory>
#include <mutex>
#include <set>
#include <thread>
#include <utility>

#include "kvbm/memory/arena.hpp"
#include "nixl/nixl_agent.hpp"
#include "remote/worker/calls.hpp"
#include "remote/worker/contact.hpp"
#include "remote/worker/exposed_memory.hpp"
#include "remote/worker/nixl_peer.hpp"
#include "remote/worker/notice_queue.hpp"
#include "remote/worker/remote_worker.hpp"
#include "transfer/pipeline_workers.hpp"

namespace kvbm::remote {

class RemoteWorker::Impl {
 public:
  Impl(std::shared_ptr<transfer::TransferContext> const& context, RemoteOptions options,
       RemoteHooks hooks);
  ~Impl();
  Impl(Impl const&) = delete;
  Impl& operator=(Impl const&) = delete;

  void add_layout(layout::LayoutHandle handle, layout::PhysicalLayout const& layout);
  void remove_layout(layout::LayoutHandle handle);
  SerializedLayout export_layouts(
      std::vector<std::pair<layout::LayoutHandle, layout::PhysicalLayout>> const& layouts);
  [[nodiscard]] WorkerAddress address() const;
  void import_worker(SerializedLayout const& metadata,
                     std::function<void(std::vector<ImportedLayout>)> const& publish);
  void forget_worker(std::uint64_t worker_id);
  WriteNotices subscribe() { return board_.subscribe(); }
  [[nodiscard]] RemoteStats stats() const;
  [[nodiscard]] std::vector<std::uint64_t> workers() const;

 private:
  using Lease = std::shared_ptr<memory::Arena::Lease>;
  class Importing;
  class Retiring;

  // The thread that takes messages, and what it does with them.
  void run();
  /// @return whether there was any
  bool take_messages();
  /// Sends again what workers have not taken.
  void tend_contacts();
  void take(nixl::NixlAgent::Message const& message);
  void handle(std::shared_ptr<Contact> const& contact, Hello const& hello);
  void handle(std::shared_ptr<Contact> const& contact, Farewell const& farewell);
  void handle(std::shared_ptr<Contact> const& contact, WriteNotice const& notice);
  void handle(std::shared_ptr<Contact> const& contact, Revoke const& revoke);
  void handle(std::shared_ptr<Contact> const& contact, BorrowLanding const& borrow);
  void handle(std::shared_ptr<Contact> const& contact, ReturnLanding const& given_back);
  void handle(std::shared_ptr<Contact> const& contact, CopyImage const& copy);
  void handle(std::shared_ptr<Contact> const& contact, Reply const& reply);
  void handle(std::shared_ptr<Contact> const& contact, Taken const& taken);
  /// Answers a request; a worker that cannot be told is left alone. @return whether it was told
  static bool reply(Contact& contact, Reply const& reply) noexcept;
  /// Copies blocks to or from an image, on a thread that serves peers.
  void copy_image(CopyImage const& copy, memory::Region const& landing);

  /// The contact of a message's sender; makes or replaces it for a Hello. Null: a stranger.
  std::shared_ptr<Contact> contact_of(nixl::NixlAgent::Message const& raw, Message const& message);
  /// A worker that is met for the first time; whoever had its agent name before has ended.
  /// @pre  mutex_ is held
  std::shared_ptr<Contact> make_contact(std::uint64_t worker_id, WorkerAddress const& address,
                                        std::optional<memory::ProcessName> const& process);
  [[nodiscard]] std::vector<std::shared_ptr<Contact>> importers() const;
  /// Takes back what was lent to workers that have ended, or to this one.
  void reclaim_landing(std::optional<std::uint64_t> worker_id);

  /// The contact of a worker that is to be imported.
  std::shared_ptr<Contact> meet(SerializedLayout const& metadata);
  /// Tells a worker that its layouts are to be used here, and hears whether they still may be.
  void introduce(std::shared_ptr<Contact> const& contact, SerializedLayout const& metadata);
  /// The regions of a peer's layout, mapped here, or why not.
  std::optional<std::vector<memory::Region>> map_regions(SerializedLayout const& metadata,
                                                         LogicalLayoutDescriptor const& layout,
                                                         std::string& why_not) const;
  ImportedLayout import_layout(SerializedLayout const& metadata,
                               LogicalLayoutDescriptor const& layout,
                               std::shared_ptr<transfer::Peer> const& peer) const;

  std::weak_ptr<transfer::TransferContext> const context_;
  std::shared_ptr<memory::MemorySource> const source_;
  RemoteOptions const options_;
  RemoteHooks const hooks_;
  std::uint64_t const worker_id_;
  std::optional<memory::ProcessName> process_;
  std::shared_ptr<nixl::NixlAgent> agent_;
  std::shared_ptr<ExposedMemory> exposed_;
  std::shared_ptr<Calls> calls_ = std::make_shared<Calls>();
  NoticeBoard board_;

  mutable std::mutex mutex_;
  struct Exposure {
    std::shared_ptr<void const> registration;
    bool exported = false;
    unsigned retiring = 0;  ///< calls that take it back from the peers right now
  };
  std::map<layout::LayoutHandle, Exposure> exposures_;
  std::map<std::uint64_t, std::shared_ptr<Contact>> contacts_;      ///< by worker id
  std::map<std::uint64_t, std::shared_ptr<transfer::Peer>> peers_;  ///< imported, by worker id
  std::vector<std::weak_ptr<Contact>> all_contacts_;  ///< also such as only transfers hold
  std::set<std::uint64_t> importers_;                 ///< that said hello
  bool leaving_ = false;                              ///< meets nobody any more

  /// Layouts that workers took back while they were being imported. Locked before mutex_ and held
  /// while layouts are published.
  std::mutex importing_mutex_;
  std::map<std::uint64_t, std::set<std::uint16_t>> importing_;

  std::optional<memory::Arena> landing_;
  std::shared_ptr<void const> landing_registration_;
  std::mutex lent_mutex_;
  std::map<std::pair<std::uint64_t, std::uint64_t>, Lease> lent_;  ///< by worker and address

  std::atomic<std::uint64_t> num_notifications_{0};
  std::atomic<std::uint64_t> num_undelivered_{0};
  std::atomic<std::uint64_t> num_foreign_{0};
  std::atomic<std::uint64_t> num_duplicates_{0};
  std::atomic<std::uint64_t> num_images_{0};

  std::unique_ptr<transfer::PipelineWorkers> servers_;  ///< copy images for peers
  std::mutex stop_mutex_;
  std::condition_variable stop_changed_;
  bool stopping_ = false;
  std::thread thread_;
};

}  // namespace kvbm::remote
