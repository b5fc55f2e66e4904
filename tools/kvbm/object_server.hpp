// SPDX-License-Identifier: Apache-2.0
#pragma once

#include <CLI/CLI.hpp>

#include <cstdint>
#include <memory>
#include <string>

#include "kvbm/layout/physical_layout.hpp"
#include "kvbm/object/s3_client.hpp"
#include "process.hpp"

namespace kvbm::cli {

/// Where moto_server (PyPI: moto) is: KVBM_MOTO_SERVER, build/venv from here upwards, PATH; empty
/// where it is not.
std::string find_moto();

/// moto's S3 on a free port of loopback, for as long as this lives, and never longer than this
/// process.
class Moto {
 public:
  /// Waits until it answers. @param program  empty: find_moto()
  /// @throws Error(NotFound) no such program; Error(Io) it ended; TimeoutError it does not answer
  explicit Moto(std::string program);
  [[nodiscard]] std::string const& endpoint() const noexcept { return endpoint_; }

 private:
  void start(std::string const& program);
  [[nodiscard]] bool wait_for_answer();
  std::string endpoint_;
  std::uint16_t port_ = 0;
  ChildProcess process_;
};

/// --endpoint, --bucket and --moto: an S3 server that is there already, or one that is started.
struct ObjectServerFlags {
  std::string endpoint;
  std::string bucket = "kvbm-bench";
  std::string moto;
  bool is_unsigned = false;

  void add_to(CLI::App& app);
};

/// Takes the manifest of an object layout away, the last thing that is left of one that was only
/// tried; harmless for other layouts.
void remove_manifest(layout::PhysicalLayout const& layout) noexcept;

/// The server that a benchmark uses, with a bucket.
class ObjectServer {
 public:
  /// Starts moto where no endpoint is given. Its own keys mean nothing and go into this process's
  /// environment, for children as well. @throws as Moto, and what making the bucket throws
  explicit ObjectServer(ObjectServerFlags const& flags);

  /// How the bucket is reached.
  [[nodiscard]] object::S3Options options(std::size_t connections = 32) const;
  [[nodiscard]] std::string const& endpoint() const noexcept { return endpoint_; }
  [[nodiscard]] std::string const& bucket() const noexcept { return bucket_; }
  /// "moto on loopback" or the endpoint.
  [[nodiscard]] std::string const& name() const noexcept { return name_; }

 private:
  std::unique_ptr<Moto> moto_;
  std::string endpoint_;
  std::string bucket_;
  bool is_unsigned_;
  std::string name_;
};

}  // namespace kvbm::cli
