// SPDX-License-Identifier: Apache-2.0
#pragma once

#include <cstdint>
#include <cstdio>
#include <memory>
#include <string>
#include <vector>

#include "measure.hpp"
#include "object_server.hpp"
#include "process.hpp"

namespace kvbm::cli {

/// Other people's S3 clients in Python, which put and get objects of one size as many at a time as
/// there are connections: boto3 with threads, boto3 with threads in a process for each CPU, and
/// AWS's client in C (awscrt) where it is installed.
class ObjectPeer {
 public:
  /// @param python  one that has boto3  @throws Error(Io) it has not, or cannot be run
  ObjectPeer(std::string const& python, ObjectServer const& server, std::uint64_t object_bytes,
             std::uint64_t num_objects, std::size_t connections);
  ~ObjectPeer();
  ObjectPeer(ObjectPeer const&) = delete;
  ObjectPeer& operator=(ObjectPeer const&) = delete;

  /// Puts and gets all objects once in every way. @throws Error(Io)
  void round();

  /// The quickest way and its best time.
  struct Best {
    std::string name;
    double seconds = 0;
  };
  [[nodiscard]] Best best_put() const { return best(0); }
  [[nodiscard]] Best best_get() const { return best(1); }
  /// "boto3 threads", ...
  [[nodiscard]] std::vector<std::string> const& ways() const noexcept { return ways_; }

 private:
  std::string ask(std::string const& line);
  [[nodiscard]] Best best(std::size_t what) const;
  std::string python_;
  struct Close {
    void operator()(std::FILE* file) const noexcept { std::fclose(file); }
  };
  ChildProcess process_;
  std::unique_ptr<std::FILE, Close> to_;
  std::unique_ptr<std::FILE, Close> from_;
  std::vector<std::string> ways_;
  std::vector<Samples> times_[2];  ///< put, get; a way each
};

}  // namespace kvbm::cli
