// SPDX-License-Identifier: Apache-2.0
#pragma once

#include <cstdint>
#include <memory>
#include <string>

#include "kvbm/object/object_store.hpp"
#include "object/nixl_objects.hpp"

namespace kvbm::object {

/// What a store moves its objects with.
struct ChosenTransport {
  std::shared_ptr<NixlObjects> nixl;  ///< null: libcurl
  std::string reason;
};

/// Why NIXL cannot be used; empty: it can, or is not wanted. Sends and starts nothing.
/// @throws UnsupportedError  it cannot and is wanted (ObjectTransport::Nixl)
std::string check_transport(ObjectStoreOptions const& options);

/// For a store whose endpoint has answered.
/// @param problem       of check_transport()
/// @param object_bytes  of the objects of the store
/// @throws UnsupportedError  ObjectTransport::Nixl does not start
ChosenTransport choose_transport(S3Client& client, ObjectStoreOptions const& options,
                                 std::string const& problem, std::uint64_t object_bytes);

}  // namespace kvbm::object
