// SPDX-License-Identifier: Apache-2.0
#include "transfer/trace_range.hpp"

#include <nvtx3/nvToolsExt.h>

#include <exception>
#include <string>

namespace kvbm::transfer {
namespace {

/// Null where no tool is attached; that is settled by the first call of NVTX in the process.
nvtxDomainHandle_t domain() noexcept {
  static nvtxDomainHandle_t const handle = nvtxDomainCreateA("kvbm");
  return handle;
}

}  // namespace

TraceRange::TraceRange(char const* what, Strategy strategy,
                       PreparedTransfer::State const& state) noexcept {
  if (domain() == nullptr) { return; }
  try {
    Route const route = state.route();
    std::string name = std::string(what) + " ";
    name += to_string(strategy);
    name += " " + to_string(route);
    if (route.reach != Reach::Local) { name.append(" ").append(to_string(route.reach)); }
    nvtxEventAttributes_t attributes{};
    attributes.version = NVTX_VERSION;
    attributes.size = NVTX_EVENT_ATTRIB_STRUCT_SIZE;
    attributes.messageType = NVTX_MESSAGE_TYPE_ASCII;
    attributes.message.ascii = name.c_str();
    attributes.payloadType = NVTX_PAYLOAD_TYPE_UNSIGNED_INT64;
    attributes.payload.ullValue = state.plan.bytes_per_block;
    nvtxDomainRangePushEx(domain(), &attributes);
    is_open_ = true;
  } catch (std::exception const&) {  // out of memory: this range is missing
  }
}

TraceRange::~TraceRange() {
  if (is_open_) { nvtxDomainRangePop(domain()); }
}

}  // namespace kvbm::transfer
