// SPDX-License-Identifier: Apache-2.0
#include "kvbm/transfer/options.hpp"

#include <fmt/format.h>

#include <utility>

#include "kvbm/core/error.hpp"
#include "kvbm/device/direct_storage.hpp"

namespace kvbm::transfer {

using Builder = TransferOptions::Builder;

Builder TransferOptions::builder() { return {}; }

Builder& Builder::layer_range(IndexRange range) {
  options_.layer_range = range;
  return *this;
}

Builder& Builder::layer_range(std::uint64_t begin, std::uint64_t end) {
  return layer_range(IndexRange{begin, end});
}

Builder& Builder::head_range(IndexRange range) {
  return src_head_range(range).dst_head_range(range);
}

Builder& Builder::src_head_range(IndexRange range) {
  options_.src_head_range = range;
  return *this;
}

Builder& Builder::dst_head_range(IndexRange range) {
  options_.dst_head_range = range;
  return *this;
}

Builder& Builder::src_kv_layout(layout::KvBlockLayout const& format) {
  options_.src_kv_layout = format;
  return *this;
}

Builder& Builder::dst_kv_layout(layout::KvBlockLayout const& format) {
  options_.dst_kv_layout = format;
  return *this;
}

Builder& Builder::bounce_buffer(BounceBuffer bounce) {
  options_.bounce_buffer = std::move(bounce);
  return *this;
}

Builder& Builder::nixl_write_notification(std::uint64_t value) {
  options_.nixl_write_notification = value;
  return *this;
}

Builder& Builder::cuda_stream(device::StreamPtr stream) {
  KVBM_EXPECTS(stream != nullptr, InvalidArgument, "cuda_stream is null; leave it out instead");
  options_.cuda_stream = std::move(stream);
  return *this;
}

Builder& Builder::wait_for(device::EventPtr event) {
  KVBM_EXPECTS(event != nullptr, InvalidArgument, "wait_for got a null event");
  options_.wait_for.push_back(std::move(event));
  return *this;
}

Builder& Builder::record_on(device::StreamPtr stream) {
  KVBM_EXPECTS(stream != nullptr, InvalidArgument, "record_on got a null stream");
  options_.record_on.push_back(std::move(stream));
  return *this;
}

Builder& Builder::timeout(std::chrono::nanoseconds timeout) {
  options_.timeout = timeout;
  return *this;
}

Builder& Builder::cancellation(std::stop_token token) {
  options_.cancellation = std::move(token);
  return *this;
}

Builder& Builder::priority(int priority) {
  options_.priority = priority;
  return *this;
}

Builder& Builder::max_sms(unsigned max_sms) {
  options_.max_sms = max_sms;
  return *this;
}

Builder& Builder::spare(Spare spare) {
  options_.spare = spare;
  return *this;
}

Builder& Builder::strategy(Strategy strategy) {
  options_.strategy = strategy;
  return *this;
}

TransferOptions Builder::build() const {
  KVBM_EXPECTS(!options_.timeout || options_.timeout->count() > 0, InvalidArgument,
               fmt::format("timeout {} ns is not positive; leave it out to wait for ever",
                           options_.timeout->count()));
  KVBM_EXPECTS(options_.max_sms != 0U, InvalidArgument,
               "max_sms 0 leaves nothing to copy with; give at least 1");
  return options_;
}

TransferCapabilities TransferCapabilities::with_gds_if_supported() const {
  TransferCapabilities found = *this;
  found.allow_gds = device::direct_storage()->info().mode == device::DirectStorageMode::Direct;
  return found;
}

TransferCapabilities TransferCapabilities::with_gpu_rdma_if_supported() const {
  return *this;  // no NIXL in this build: the capability stays as it is
}

}  // namespace kvbm::transfer
