// SPDX-License-Identifier: Apache-2.0
#include "kvbm/transfer/prepared_transfer.hpp"

#include <fmt/format.h>

#include <algorithm>
#include <tuple>
#include <utility>

#include "kvbm/core/error.hpp"
#include "kvbm/memory/block_file.hpp"
#include "kvbm/transfer/validate.hpp"
#include "transfer/executors.hpp"
#include "transfer/file_geometry.hpp"
#include "transfer/prepared_state.hpp"
#include "transfer/trace_range.hpp"
#include "transfer/transfer_counters.hpp"

namespace kvbm::transfer {
namespace {

using memory::StorageKind;

std::string place(layout::PhysicalLayout const& layout, Peer const* peer = nullptr) {
  std::string text = peer != nullptr ? peer->name() + "'s " : std::string{};
  text += memory::to_string(layout.storage_kind());
  if (layout.storage_kind() == StorageKind::Device) {
    text += fmt::format(" {}", layout.device_id());
  }
  return fmt::format("{} {} {}", text, layout::to_string(layout.kind()),
                     layout.format().to_string());
}

/// Options that a manager without these devices cannot honour are refused before anything moves.
void check_backends(TransferContext::Impl const& context, TransferOptions const& options) {
  auto const check = [&context](device::Backend backend, char const* what) {
    KVBM_EXPECTS(context.device_of(backend) != nullptr, Unsupported,
                 fmt::format("{} is of the {} backend, but this manager has no such device", what,
                             device::to_string(backend)));
  };
  if (options.cuda_stream) { check(options.cuda_stream->backend(), "cuda_stream"); }
  for (auto const& stream : options.record_on) {
    check(stream->backend(), "a stream of record_on");
  }
  for (auto const& event : options.wait_for) {
    check(event->backend(), "an event of wait_for");
  }
}

/// @throws Error(NotFound) device memory of a device that the manager does not have
void check_devices(TransferContext::Impl const& context, ValidatedPair const& pair,
                   Endpoint const& src, Endpoint const& dst) {
  auto const check = [&context](layout::PhysicalLayout const& layout, Endpoint const& endpoint) {
    if (layout.storage_kind() == StorageKind::Device && !endpoint.is_remote()) {
      static_cast<void>(context.device(layout.device_id()));
    }
  };
  check(pair.src, src);
  check(pair.dst, dst);
}

/// GPUDirect Storage between the sides; empty where it is not allowed or has no part. Registers the
/// file where it may be chosen: cuFile does not take every file, and then another way is taken.
std::optional<StorageChoice> make_storage_choice(TransferContext& context,
                                                 PreparedTransfer::State& state) {
  auto const& pair = state.pair;
  bool const reads = pair.src.storage_kind() == StorageKind::Disk;
  auto const& file_side = reads ? pair.src : pair.dst;
  auto const& memory_side = reads ? pair.dst : pair.src;
  if (!context.options().capabilities.allow_gds || state.remote ||
      file_side.storage_kind() != StorageKind::Disk ||
      memory_side.storage_kind() != StorageKind::Device) {
    return std::nullopt;
  }
  auto const& info = context.impl().direct_storage().info();
  auto const* const file =
      dynamic_cast<memory::BlockFile const*>(file_side.regions().front().store().get());
  auto const backend = context.impl().device(memory_side.device_id())->backend();
  StorageChoice choice{info.mode, info.reason.c_str(), file != nullptr && file->is_direct(),
                       backend == device::Backend::Host};
  bool const is_wanted = state.options.strategy == Strategy::DirectStorage;
  bool const may_be_chosen =
      info.mode == device::DirectStorageMode::Direct && !choice.emulated && !state.options.strategy;
  if (choice.is_plain_file && info.mode != device::DirectStorageMode::Refused &&
      (is_wanted || may_be_chosen)) {
    try {
      state.storage_file = context.impl().device_storage(memory_side.device_id()).open(*file);
    } catch (Error const& error) {
      state.storage_problem = error.what();
      choice.problem = state.storage_problem.c_str();
    }
  }
  return choice;
}

ChoiceInput make_choice(TransferContext& context, PreparedTransfer::State& state) {
  ChoiceInput input;
  input.src_kind = state.pair.src.storage_kind();
  input.dst_kind = state.pair.dst.storage_kind();
  input.bytes_per_block = state.plan.bytes_per_block;
  input.run_bytes = state.plan.shape.run_bytes;
  input.extents_match = extents_match(state.pair) && aligned_for_direct_io(state.pair);
  input.caller_stream = state.options.cuda_stream != nullptr;
  input.bounce_given = state.bounce.has_value();
  input.wanted = state.options.strategy;
  input.capabilities = context.options().capabilities;
  input.preferences = context.options().preferences;
  input.spare = state.options.spare;
  input.costs = &context.options().costs;
  input.storage = make_storage_choice(context, state);
  return input;
}

/// A limit of multiprocessors means something only where a GPU takes part.
void check_max_sms(TransferContext& context, PreparedTransfer::State const& state) {
  auto const on_gpu = [&context](layout::PhysicalLayout const& layout, bool is_remote) {
    return !is_remote && layout.storage_kind() == StorageKind::Device &&
           context.device(layout.device_id())->backend() == device::Backend::Cuda;
  };
  bool const reads = state.remote && state.remote->direction == WireDirection::Read;
  bool const writes = state.remote && !reads;
  if (state.options.max_sms && !on_gpu(state.pair.src, reads) && !on_gpu(state.pair.dst, writes)) {
    throw UnsupportedError(
        fmt::format("max_sms {} limits a GPU's multiprocessors, but no CUDA device takes part",
                    *state.options.max_sms));
  }
}

void check_blocks(PreparedTransfer::State const& state, std::span<BlockId const> src_blocks,
                  std::span<BlockId const> dst_blocks) {
  validate_blocks(state.pair, src_blocks, dst_blocks);
  if (state.bounce) {
    validate_bounce_apart(state.pair, src_blocks, dst_blocks, state.bounce->endpoint.layout,
                          state.bounce->block_ids);
  }
}

std::vector<std::string> describe_hops(PreparedTransfer::State const& state, Strategy strategy) {
  std::string const src = place(state.pair.src, state.src_peer.get());
  std::string const dst = place(state.pair.dst, state.dst_peer.get());
  if (strategy == Strategy::StagedDma) {
    bool const to_host = state.device_copy->direction() == LinkDirection::DeviceToHost;
    std::string const ring = fmt::format("ring of device {}", state.device_copy->device_id());
    return {fmt::format("{} -> {} ({})", src, ring, to_host ? "kernel" : "DMA"),
            fmt::format("{} -> {} ({})", ring, dst, to_host ? "DMA" : "kernel")};
  }
  if (strategy == Strategy::PinnedStaging) {
    return {src + " -> pinned staging", "pinned staging -> " + dst};
  }
  if (strategy == Strategy::PackedRemote) {
    return {src + " -> image in staging memory", "image -> image over the wire",
            "image in staging memory -> " + dst};
  }
  if (strategy == Strategy::StagedRemote) {
    std::string const staging = state.bounce
                                    ? "bounce buffer " + place(state.bounce->endpoint.layout)
                                    : std::string("pinned staging in the peer's order");
    return {src + " -> " + staging, staging + " -> " + dst};
  }
  if (strategy != Strategy::StagedFile) { return {src + " -> " + dst}; }
  std::vector<std::string> hops;
  std::string from = src;
  auto const hop = [&hops, &from](std::string const& to) {
    hops.push_back(from + " -> " + to);
    from = to;
  };
  bool const reads = memory::is_store(state.pair.src.storage_kind());
  bool const writes = memory::is_store(state.pair.dst.storage_kind());
  std::string const bounce = state.bounce ? fmt::format("bounce buffer {} ({} blocks)",
                                                        place(state.bounce->endpoint.layout),
                                                        state.bounce->block_ids.size())
                                          : std::string{};
  if (state.bounce && bounce_serves_as_staging(state.pair, state.bounce->endpoint.layout)) {
    hop(bounce);
  } else {
    if (reads) { hop("pinned staging in the source's format"); }
    if (state.bounce) { hop(bounce); }
    if (writes && !(reads && extents_match(state.pair) && !state.bounce)) {
      hop("pinned staging in the destination's format");
    }
  }
  hop(dst);
  return hops;
}

TransferCompleteNotification execute(TransferContext::Impl& context, SharedState const& state,
                                     std::span<BlockId const> src_blocks,
                                     std::span<BlockId const> dst_blocks, SharedRecord record,
                                     Strategy strategy) {
  switch (strategy) {
    case Strategy::HostCopy:
      return execute_host_copy(context, state, src_blocks, dst_blocks, std::move(record));
    case Strategy::StreamCopy:
      return execute_stream_copy(context, state, src_blocks, dst_blocks, std::move(record));
    case Strategy::DmaCopy:
    case Strategy::SmCopy:
    case Strategy::StagedDma:
      return execute_device_copy(context, state, src_blocks, dst_blocks, std::move(record),
                                 strategy);
    case Strategy::PinnedStaging:
    case Strategy::DirectFile:
    case Strategy::StagedFile:
    case Strategy::DirectStorage:
    case Strategy::DirectRemote:
    case Strategy::StagedRemote:
    case Strategy::PackedRemote: break;
  }
  return execute_pipeline(context, state, src_blocks, dst_blocks, std::move(record), strategy);
}

/// Runs what ends a transfer before it returns.
template <typename Call>
TransferCompleteNotification ending(TransferRecord& record, Call const& call) {
  try {
    auto notification = call();
    record.complete();
    return notification;
  } catch (...) {
    record.fail(std::current_exception());
    throw;
  }
}

}  // namespace

void notify_peer(PreparedTransfer::State const& state) {
  if (state.options.nixl_write_notification) {
    state.dst_peer->notify(*state.options.nixl_write_notification);
  }
}

bool PreparedTransfer::State::must_wait() const {
  return std::any_of(options.wait_for.begin(), options.wait_for.end(),
                     [](auto const& event) { return !event->is_complete(); });
}

ChoiceInput PreparedTransfer::State::choice_for(std::span<BlockId const> src_blocks,
                                                std::span<BlockId const> dst_blocks) const {
  ChoiceInput input = choice;
  input.num_blocks = src_blocks.size();
  if (remote) { input.remote = remote->choice_for(src_blocks, dst_blocks); }
  if (device_copy) { input.device = device_copy->choice(src_blocks, dst_blocks).device; }
  if (options.cuda_stream != nullptr) {
    input.capturing = options.cuda_stream->is_capturing();  // and then no event may be asked
  } else {
    input.must_wait = must_wait();
  }
  return input;
}

PreparedTransfer PreparedTransfer::prepare(std::shared_ptr<TransferContext> const& context,
                                           Endpoint const& src, Endpoint const& dst,
                                           std::optional<ResolvedBounce> bounce,
                                           TransferOptions const& options) {
  check_backends(context->impl(), options);
  bool const is_remote = src.is_remote() || dst.is_remote();
  auto pair = validate_pair(src.layout, dst.layout, options,
                            {dst.peer != nullptr, !src.is_remote(), !dst.is_remote()});
  check_devices(context->impl(), pair, src, dst);
  if (bounce) {
    KVBM_EXPECTS(!bounce->endpoint.is_remote(), InvalidArgument,
                 fmt::format("bounce_buffer is {}'s: name blocks of this worker",
                             bounce->endpoint.peer->name()));
    validate_bounce(bounce->endpoint.layout, bounce->block_ids);
    validate_bounce_fits(pair, bounce->endpoint.layout);
  }
  auto state = std::make_shared<State>(State{context,
                                             std::move(pair),
                                             src.use,
                                             dst.use,
                                             std::move(bounce),
                                             options,
                                             {},
                                             {},
                                             {},
                                             {},
                                             src.peer,
                                             dst.peer,
                                             {},
                                             {},
                                             {},
                                             {}});
  state->description =
      place(state->pair.src, src.peer.get()) + " -> " + place(state->pair.dst, dst.peer.get());
  state->plan = lower(state->pair.src, state->pair.dst, state->pair.selection);
  auto const& [src_layout, dst_layout] = std::tie(state->pair.src, state->pair.dst);
  if (is_remote) {
    state->remote.emplace(
        make_remote_side(state->pair, state->plan, src, dst,
                         state->bounce ? &state->bounce->endpoint.layout : nullptr));
    if (!state->options.timeout) { state->options.timeout = context->options().remote_timeout; }
  } else {
    if (is_host_reachable(src_layout) && is_host_reachable(dst_layout)) {
      state->copy.emplace(state->plan, src_layout, dst_layout);
    }
    if (DeviceCopy::applies(src_layout, dst_layout)) {
      state->device_copy.emplace(context->impl(), state->plan, src_layout, dst_layout);
    }
  }
  check_max_sms(*context, *state);
  state->choice = make_choice(*context, *state);
  BlockId const any_block = 0;
  // Refuses now what can never be done.
  static_cast<void>(choose_strategy(state->choice_for({&any_block, 1}, {&any_block, 1})));
  return PreparedTransfer(std::move(state));
}

TransferCompleteNotification PreparedTransfer::submit(std::span<BlockId const> src_blocks,
                                                      std::span<BlockId const> dst_blocks) const {
  auto const context = state_->context.lock();
  KVBM_EXPECTS(context != nullptr, ShuttingDown,
               "the manager of this prepared transfer was destroyed");
  check_blocks(*state_, src_blocks, dst_blocks);
  auto const& pair = state_->pair;
  if (pair.src_is_here) { context->impl().quarantine_->expect_free(pair.src, src_blocks); }
  if (pair.dst_is_here) { context->impl().quarantine_->expect_free(pair.dst, dst_blocks); }
  for (auto const& peer : {state_->src_peer, state_->dst_peer}) {
    if (peer != nullptr) { peer->expect_alive(); }
  }
  Route const route = state_->route();
  auto& counters = context->impl().counters_;
  if (src_blocks.empty()) {
    TransferRecord record(counters, route, 0, 0);
    return ending(record, [this] {
      notify_peer(*state_);
      return TransferCompleteNotification::completed();
    });
  }
  Strategy const strategy = choose_strategy(state_->choice_for(src_blocks, dst_blocks));
  TraceRange const range("submit", strategy, *state_);
  std::uint64_t const block_bytes = state_->plan.bytes_per_block;
  if (state_->ends_in_call(strategy)) {
    TransferRecord record(counters, route, block_bytes, src_blocks.size());
    return ending(record, [&] {
      return execute(context->impl(), state_, src_blocks, dst_blocks, nullptr, strategy);
    });
  }
  auto const record =
      std::make_shared<TransferRecord>(counters, route, block_bytes, src_blocks.size());
  try {
    return execute(context->impl(), state_, src_blocks, dst_blocks, record, strategy);
  } catch (...) {
    // What was begun and goes on nevertheless has the record as well, and ends it itself.
    if (record.use_count() == 1) { record->fail(std::current_exception()); }
    throw;
  }
}

TransferExplanation PreparedTransfer::explain(std::span<BlockId const> src_blocks,
                                              std::span<BlockId const> dst_blocks) const {
  check_blocks(*state_, src_blocks, dst_blocks);
  TransferExplanation explanation;
  explanation.plan = state_->plan;
  explanation.num_blocks = src_blocks.size();
  explanation.total_bytes = state_->plan.bytes_per_block * src_blocks.size();
  explanation.choice = state_->choice_for(src_blocks, dst_blocks);
  explanation.decision = choose(explanation.choice);
  explanation.choice.costs = nullptr;                // they belong to the context
  if (auto& storage = explanation.choice.storage) {  // likewise
    storage->reason = storage->problem = "";
  }
  explanation.hops = describe_hops(*state_, explanation.decision.strategy);
  return explanation;
}

CopyPlan const& PreparedTransfer::plan() const noexcept { return state_->plan; }

std::string TransferExplanation::to_string() const {
  std::string text = fmt::format("{} blocks, {} bytes: {} (about {:.3g} ms): {}\n", num_blocks,
                                 total_bytes, transfer::to_string(decision.strategy),
                                 decision.estimated_seconds * 1e3, decision.reason);
  text += fmt::format("plan: {}\n", plan.to_string());
  for (std::size_t i = 0; i < hops.size(); ++i) {
    text += fmt::format("hop {}: {}\n", i + 1, hops[i]);
  }
  for (auto const& candidate : decision.candidates) {
    text += fmt::format("  {:<13} {:>12}  {}\n", transfer::to_string(candidate.strategy),
                        candidate.estimated_seconds
                            ? fmt::format("{:.3g} ms", *candidate.estimated_seconds * 1e3)
                            : std::string("refused"),
                        candidate.reason);
  }
  for (auto const& note : decision.notes) {
    text += fmt::format("note: {}\n", note);
  }
  return text;
}

}  // namespace kvbm::transfer
