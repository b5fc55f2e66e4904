// SPDX-License-Identifier: Apache-2.0
#pragma once

#include <exception>
#include <functional>
#include <vector>

#include "kvbm/device/stream.hpp"
#include "transfer/context_impl.hpp"

namespace kvbm::transfer {

/// Calls `then` once all events are complete, with the first device error if there was one; at once
/// and in the caller's thread where they are complete already. No thread and no stream waits in
/// between, and the context's destructor waits until `then` has run.
/// @pre  the context has a device of every event's backend
/// @param then  must not block or throw
void when_all_complete(TransferContext::Impl& context, std::vector<device::EventPtr> events,
                       std::function<void(std::exception_ptr)> then);

}  // namespace kvbm::transfer
