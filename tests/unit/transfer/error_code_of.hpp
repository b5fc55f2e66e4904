// SPDX-License-Identifier: Apache-2.0
#pragma once

#include <gtest/gtest.h>

#include <string>
#include <utility>

#include "kvbm/core/error.hpp"

namespace kvbm::transfer {

/// Code, and on request the message, of the error that a call throws.
template <typename Call>
ErrorCode code_of(Call&& call, std::string* message = nullptr) {
  try {
    std::forward<Call>(call)();
  } catch (Error const& error) {
    if (message != nullptr) { *message = error.what(); }
    return error.code();
  }
  ADD_FAILURE() << "nothing was thrown";
  return ErrorCode::Internal;
}

}  // namespace kvbm::transfer
