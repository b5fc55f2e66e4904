// SPDX-License-Identifier: Apache-2.0
#pragma once

#include <memory>
#include <string>
#include <utility>
#include <vector>

#include "kvbm/testing/faulty_server.hpp"

namespace kvbm::testing {

/// As much of S3 as kvbm uses, in memory, on loopback; with faults. One bucket is there from the
/// start. Knows nothing of signatures.
class ObjectServer : public FaultyServer {
 public:
  struct Object {
    std::string body;
    std::vector<std::pair<std::string, std::string>> metadata;  // names with x-amz-meta-
  };

  explicit ObjectServer(std::string bucket = "blocks", int port = 0);

  [[nodiscard]] std::vector<std::string> keys() const;
  [[nodiscard]] bool has(std::string const& key) const;
  [[nodiscard]] Object object(std::string const& key) const;
  void store(std::string const& key, Object object);

 private:
  class Store;
  ObjectServer(std::shared_ptr<Store> store, int port);
  std::shared_ptr<Store> store_;
};

/// A port of loopback on which nobody listens.
int closed_port();

}  // namespace kvbm::testing
