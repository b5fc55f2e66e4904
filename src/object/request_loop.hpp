// SPDX-License-Identifier: Apache-2.0
#pragma once

#include <cstddef>
#include <memory>

#include "object/client_context.hpp"
#include "object/request.hpp"

namespace kvbm::object {

/// One thread that has many requests in flight. Thread-safe.
class RequestLoop {
 public:
  /// @param connections  most requests on the wire at a time
  RequestLoop(std::shared_ptr<ClientContext> context, std::size_t connections);
  /// Ends what is under way with S3ErrorKind::Cancelled.
  ~RequestLoop();
  RequestLoop(RequestLoop const&) = delete;
  RequestLoop& operator=(RequestLoop const&) = delete;

  /// The request's sink hears of its end exactly once.
  void submit(std::unique_ptr<Request> request);
  /// As the destructor; whatever is submitted later ends at once.
  void stop();

 private:
  class Impl;
  std::unique_ptr<Impl> impl_;
};

}  // namespace kvbm::object
