// SPDX-License-Identifier: Apache-2.0
#pragma once

#include <atomic>
#include <map>
#include <memory>
#include <mutex>
#include <string>
#include <vector>

#include "object/client_context.hpp"
#include "object/request_loop.hpp"

namespace kvbm::object {

class NixlObjects;

class S3Client::Impl {
 public:
  explicit Impl(S3Options options);

  static Impl& of(S3Client& client) noexcept { return *client.impl_; }
  static std::shared_ptr<Impl> shared(S3Client& client) noexcept { return client.impl_; }

  /// A request with the client's limits. @throws Error(InvalidArgument) a bad key
  [[nodiscard]] std::unique_ptr<Request> make_request(Method method, std::string key) const;
  void submit(std::unique_ptr<Request> request);
  void stop();

  struct Answer {
    S3Outcome outcome;
    std::string text;
  };
  /// Waits for the end. @throws what went wrong
  Answer perform(std::unique_ptr<Request> request);

  /// Not in a loop of retries: an endpoint that is not there shows at once.
  static void ask_once(Request& request, S3Options const& options);

  [[nodiscard]] ClientContext& context() noexcept { return *context_; }

  /// NIXL on this client's bucket, one for all stores of the client.
  /// @throws UnsupportedError
  std::shared_ptr<NixlObjects> nixl(std::string const& library);

 private:
  std::shared_ptr<ClientContext> context_;
  std::mutex nixl_mutex_;
  std::map<std::string, std::weak_ptr<NixlObjects>> nixl_;  // by library; guarded by nixl_mutex_
  std::vector<std::unique_ptr<RequestLoop>> loops_;
  std::atomic<std::size_t> next_loop_{0};
};

}  // namespace kvbm::object
