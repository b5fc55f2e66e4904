// SPDX-License-Identifier: Apache-2.0
#pragma once

#include <nlohmann/json.hpp>

#include "kvbm/remote/metadata.hpp"

/// Metadata as JSON values. Reading treats them as hostile; see SerializedLayout::from_bytes.
namespace kvbm::remote::detail {

/// @param for_people  texts and objects in place of byte strings, and no NIXL blob
nlohmann::json to_value(WorkerAddress const& address, bool for_people);
nlohmann::json to_value(SerializedLayout const& metadata, bool for_people);

/// @throws Error(Corrupt, VersionMismatch) naming the field
WorkerAddress address_from(nlohmann::json const& value);
SerializedLayout metadata_from(nlohmann::json const& value);

/// Refuses an agent's name that is empty, too long or not printable ASCII. @throws CorruptError
void check_agent_name(std::string const& name);

}  // namespace kvbm::remote::detail
