// SPDX-License-Identifier: Apache-2.0
//
// What a worker does with the messages of others. One thread takes them; whatever takes long goes
// on elsewhere, so that answers keep coming.
#include <fmt/format.h>
#include <pthread.h>

#include <algorithm>
#include <chrono>
#include <utility>

#include "kvbm/core/error.hpp"
#include "kvbm/core/log.hpp"
#include "kvbm/transfer/copy_plan.hpp"
#include "kvbm/transfer/validate.hpp"
#include "remote/worker/remote_worker_impl.hpp"
#include "transfer/context_impl.hpp"
#include "transfer/local_copy.hpp"

namespace kvbm::remote {
namespace {

using layout::PhysicalLayout;

// NIXL has nothing to sleep on, so messages are polled for: at once while an answer is waited for
// and for a while after a message, because the next batch of images follows; then ever less often.
constexpr std::chrono::milliseconds kEager{10};
constexpr std::chrono::microseconds kShortestPause{20};
constexpr std::chrono::microseconds kLongestPause{2000};
constexpr std::chrono::milliseconds kTendEvery{10};

ErrorCode code_of(std::exception const& error) {
  auto const* const known = dynamic_cast<Error const*>(&error);
  return known != nullptr ? known->code() : ErrorCode::Internal;
}

}  // namespace

void RemoteWorker::Impl::run() {
  pthread_setname_np(pthread_self(), "kvbm-messages");
  auto pause = kShortestPause;
  auto tended = std::chrono::steady_clock::now();
  auto eager_until = tended;
  std::unique_lock lock(stop_mutex_);
  while (!stopping_) {
    lock.unlock();
    if (auto const now = std::chrono::steady_clock::now(); now - tended > kTendEvery) {
      tended = now;
      tend_contacts();
    }
    bool const some = take_messages();
    auto const now = std::chrono::steady_clock::now();
    if (some) { eager_until = now + kEager; }
    pause = now < eager_until || calls_->any_waiting() ? kShortestPause
                                                       : std::min(pause * 2, kLongestPause);
    lock.lock();
    stop_changed_.wait_for(lock, pause, [this] { return stopping_; });
  }
}

void RemoteWorker::Impl::tend_contacts() {
  std::vector<std::shared_ptr<Contact>> contacts;
  {
    std::lock_guard const lock(mutex_);
    for (auto const& [id, contact] : contacts_) {
      contacts.push_back(contact);
    }
  }
  for (auto const& contact : contacts) {
    contact->tend();
  }
}

bool RemoteWorker::Impl::take_messages() {
  try {
    auto const messages = agent_->take_messages();
    for (auto const& message : messages) {
      take(message);
    }
    return !messages.empty();
  } catch (std::exception const& error) {
    log::write(log::Level::Error, fmt::format("taking messages of workers: {}", error.what()));
    return false;
  }
}

void RemoteWorker::Impl::take(nixl::NixlAgent::Message const& message) {
  if (!Message::is_ours(message.bytes)) {
    ++num_foreign_;
    return;
  }
  try {
    Message const ours = Message::from_bytes(message.bytes);
    auto const contact = contact_of(message, ours);
    if (contact == nullptr) {
      ++num_foreign_;
      return;
    }
    if (!contact->take(ours)) {
      ++num_duplicates_;
      return;
    }
    std::visit([&](auto const& body) { handle(contact, body); }, ours.body);
    if (contact->owes_count()) { contact->send(Taken{}); }
  } catch (std::exception const& error) {
    ++num_foreign_;
    log::write(log::Level::Warning,
               fmt::format("a message from agent {} was ignored: {}", message.agent, error.what()));
  }
}

std::shared_ptr<Contact> RemoteWorker::Impl::contact_of(nixl::NixlAgent::Message const& raw,
                                                        Message const& message) {
  if (message.worker_id == worker_id_) { return nullptr; }
  auto const* const hello = std::get_if<Hello>(&message.body);
  std::lock_guard const lock(mutex_);
  auto const found = contacts_.find(message.worker_id);
  if (found != contacts_.end()) {
    // Whoever says to be a known worker has to be its agent.
    return found->second->agent_name() == raw.agent ? found->second : nullptr;
  }
  if (hello == nullptr || hello->address.agent_name != raw.agent || raw.agent == agent_->name()) {
    return nullptr;
  }
  auto contact = make_contact(message.worker_id, hello->address, hello->process);
  contacts_.emplace(message.worker_id, contact);
  return contact;
}

std::shared_ptr<Contact> RemoteWorker::Impl::make_contact(
    std::uint64_t worker_id, WorkerAddress const& address,
    std::optional<memory::ProcessName> const& process) {
  // A contact that ends later would take the connection of its successor with it.
  std::erase_if(all_contacts_, [](auto const& weak) { return weak.expired(); });
  for (auto const& weak : all_contacts_) {
    auto const before = weak.lock();
    if (before == nullptr || before->agent_name() != address.agent_name) { continue; }
    before->mark_gone(fmt::format("worker {} has taken its name", worker_id));
    before->disconnect();
  }
  auto contact = std::make_shared<Contact>(agent_, worker_id_, worker_id, address, process);
  // Who has ended and is imported no more is forgotten now, so that restarts leave nothing behind.
  std::erase_if(contacts_, [this](auto const& entry) {
    if (peers_.contains(entry.first)) { return false; }
    try {
      entry.second->expect_alive();
      return false;
    } catch (PeerError const&) {
      importers_.erase(entry.first);
      return true;
    }
  });
  all_contacts_.push_back(contact);
  return contact;
}

void RemoteWorker::Impl::handle(std::shared_ptr<Contact> const& contact, Hello const& hello) {
  Reply answer{hello.request, {}, {}, 0, 0};
  {
    // From here on it is asked before a layout goes; what went before, it must not use.
    std::lock_guard const lock(mutex_);
    if (hello.receiver != worker_id_) {
      answer.error = ErrorCode::PeerLost;
      answer.text = fmt::format("stale metadata: this agent is worker {} now", worker_id_);
    }
    if (leaving_ && !answer.error) {
      answer.error = ErrorCode::PeerLost;
      answer.text = "this worker is shutting down";
    }
    for (std::uint16_t const id : hello.layout_ids) {
      auto const found = exposures_.find({worker_id_, id});
      if (!answer.error && (found == exposures_.end() || found->second.retiring > 0)) {
        answer.error = ErrorCode::NotFound;
        answer.text = fmt::format("stale metadata: layout {} was unregistered meanwhile", id);
      }
    }
    if (!answer.error) {
      importers_.insert(contact->worker_id());
    } else if (!peers_.contains(contact->worker_id()) &&
               !importers_.contains(contact->worker_id())) {
      contacts_.erase(contact->worker_id());
    }
  }
  reply(*contact, answer);
}

void RemoteWorker::Impl::handle(std::shared_ptr<Contact> const& /*contact*/,
                                Taken const& /*taken*/) {}

void RemoteWorker::Impl::handle(std::shared_ptr<Contact> const& contact, Farewell const& farewell) {
  if (farewell.shuts_down) { contact->mark_gone("it was shut down"); }
  calls_->give_up(contact->worker_id());
  reclaim_landing(contact->worker_id());
  std::lock_guard const lock(mutex_);
  importers_.erase(contact->worker_id());
  if (farewell.shuts_down && !peers_.contains(contact->worker_id())) {
    contacts_.erase(contact->worker_id());
  }
}

void RemoteWorker::Impl::handle(std::shared_ptr<Contact> const& contact,
                                WriteNotice const& notice) {
  ++num_notifications_;
  if (board_.push({contact->worker_id(), notice.value})) { ++num_undelivered_; }
}

void RemoteWorker::Impl::handle(std::shared_ptr<Contact> const& contact, Revoke const& revoke) {
  {
    std::lock_guard const lock(importing_mutex_);
    if (auto const found = importing_.find(contact->worker_id()); found != importing_.end()) {
      found->second.insert(revoke.layout_id);
    }
  }
  hooks_.retire_layout(
      {contact->worker_id(), revoke.layout_id},
      [contact, request = revoke.request] { reply(*contact, {request, {}, {}, 0, 0}); });
}

void RemoteWorker::Impl::handle(std::shared_ptr<Contact> const& contact,
                                BorrowLanding const& borrow) {
  Reply answer{borrow.request, {}, {}, 0, 0};
  if (!landing_ || borrow.bytes == 0 || borrow.bytes > landing_->region().bytes()) {
    answer.error = ErrorCode::InvalidArgument;
    answer.text = fmt::format("{} bytes of landing memory asked for, {} are there", borrow.bytes,
                              landing_ ? landing_->region().bytes() : 0);
  } else {
    auto lease = landing_->try_allocate(borrow.bytes);
    if (!lease) {
      reclaim_landing({});
      lease = landing_->try_allocate(borrow.bytes);
    }
    if (lease) {
      answer.address = lease->region().address();
      answer.bytes = lease->region().bytes();
      std::lock_guard const lock(lent_mutex_);
      lent_.emplace(std::pair(contact->worker_id(), answer.address),
                    std::make_shared<memory::Arena::Lease>(std::move(*lease)));
    } else {
      answer.error = ErrorCode::Busy;
      answer.text = "all landing memory is lent";
    }
  }
  if (!reply(*contact, answer) && !answer.error) {
    std::lock_guard const lock(lent_mutex_);
    lent_.erase({contact->worker_id(), answer.address});
  }
}

void RemoteWorker::Impl::handle(std::shared_ptr<Contact> const& contact,
                                ReturnLanding const& given_back) {
  std::lock_guard const lock(lent_mutex_);
  lent_.erase({contact->worker_id(), given_back.address});
}

void RemoteWorker::Impl::handle(std::shared_ptr<Contact> const& contact, CopyImage const& copy) {
  Lease lease;
  {
    std::lock_guard const lock(lent_mutex_);
    auto const found = lent_.find({contact->worker_id(), copy.landing_address});
    if (found != lent_.end()) { lease = found->second; }
  }
  if (lease == nullptr || lease->region().bytes() != copy.landing_bytes) {
    reply(*contact, {copy.request, ErrorCode::InvalidArgument,
                     fmt::format("{} bytes of landing memory at {:#x} were not lent to you",
                                 copy.landing_bytes, copy.landing_address),
                     0, 0});
    return;
  }
  servers_->post(0, [this, contact, copy, lease](transfer::PipelineResources& /*resources*/) {
    Reply answer{copy.request, {}, {}, 0, 0};
    try {
      copy_image(copy, lease->region());
      ++num_images_;
    } catch (std::exception const& error) {
      answer.error = code_of(error);
      answer.text = error.what();
    }
    reply(*contact, answer);
  });
}

void RemoteWorker::Impl::handle(std::shared_ptr<Contact> const& contact, Reply const& reply) {
  bool const is_lent = !reply.error && reply.bytes > 0;
  if (!calls_->answer(contact->worker_id(), reply) && is_lent) {
    contact->send(ReturnLanding{reply.address});  // who asked for it waits no longer
  }
}

bool RemoteWorker::Impl::reply(Contact& contact, Reply const& reply) noexcept {
  try {
    contact.send(reply);
    return true;
  } catch (std::exception const& error) {
    log::write(log::Level::Info, fmt::format("a reply was not sent: {}", error.what()));
    return false;
  }
}

void RemoteWorker::Impl::copy_image(CopyImage const& copy, memory::Region const& landing) {
  auto const context = context_.lock();
  KVBM_EXPECTS(context != nullptr, ShuttingDown, "this worker is shutting down");
  auto const used = hooks_.use_layout({worker_id_, copy.layout_id});
  PhysicalLayout const& blocks = used.layout;
  auto const& config = blocks.config();
  KVBM_EXPECTS(memory::is_memory(blocks.storage_kind()), Unsupported,
               "images are made of blocks in memory only");
  auto const block =
      layout::make_geometry(config.with_num_blocks(1), layout::LayoutKind::FullyContiguous,
                            layout::BlockDimension::First, copy.image_format);
  std::uint64_t const num_slots = landing.bytes() / block.block_stride;
  KVBM_EXPECTS(num_slots > 0, OutOfRange, "the landing memory is smaller than a block");
  auto const image = PhysicalLayout::builder(blocks.source())
                         .config(config.with_num_blocks(num_slots))
                         .fully_contiguous(copy.image_format)
                         .with_regions({landing})
                         .build();
  // All of this came over the wire: the same checks as for a transfer of this worker's own.
  auto options = transfer::TransferOptions::builder().layer_range(copy.layers).build();
  if (!blocks.format().is_unknown()) {
    options.src_head_range = copy.heads;
    options.dst_head_range = copy.heads;
  } else {
    KVBM_EXPECTS(copy.heads == (IndexRange{0, 1}), InvalidArgument,
                 "a head range of blocks whose heads nobody knows");
  }
  PhysicalLayout const& src = copy.fill ? blocks : image;
  PhysicalLayout const& dst = copy.fill ? image : blocks;
  auto const& src_ids = copy.fill ? copy.block_ids : copy.slots;
  auto const& dst_ids = copy.fill ? copy.slots : copy.block_ids;
  auto const pair = transfer::validate_pair(src, dst, options);
  transfer::validate_blocks(pair, src_ids, dst_ids);
  transfer::LocalCopy(context->impl(), transfer::lower(pair.src, pair.dst, pair.selection),
                      pair.src, pair.dst)
      .run(context->impl(), src_ids, dst_ids, options);
}

void RemoteWorker::Impl::reclaim_landing(std::optional<std::uint64_t> worker_id) {
  std::set<std::uint64_t> ended;
  if (worker_id) {
    ended.insert(*worker_id);
  } else {
    std::lock_guard const lock(mutex_);
    for (auto const& [id, contact] : contacts_) {
      try {
        contact->expect_alive();
      } catch (PeerError const&) { ended.insert(id); }
    }
  }
  std::lock_guard const lock(lent_mutex_);
  std::erase_if(lent_, [&ended](auto const& entry) { return ended.contains(entry.first.first); });
}

}  // namespace kvbm::remote
