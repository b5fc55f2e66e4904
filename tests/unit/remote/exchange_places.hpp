// SPDX-License-Identifier: Apache-2.0
#pragma once

#include <cstddef>
#include <memory>
#include <string>
#include <vector>

#include "kvbm/core/error.hpp"
#include "kvbm/core/types.hpp"
#include "kvbm/remote/exchange.hpp"
#include "kvbm/testing/temp_folder.hpp"

namespace kvbm::remote::test {

/// `bytes` bytes that differ for every seed and have zeros among them, the first one too.
inline std::vector<std::byte> make_blob(std::size_t bytes, std::uint64_t seed) {
  std::vector<std::byte> blob(bytes);
  std::uint64_t state = seed * 0x9E3779B97F4A7C15U + 1;
  for (std::size_t i = 1; i < bytes; ++i) {
    state ^= state << 13U;
    state ^= state >> 7U;
    state ^= state << 17U;
    blob[i] = i % 7 == 0 ? std::byte{0} : static_cast<std::byte>(state);
  }
  return blob;
}

inline std::string checksum_of(std::vector<std::byte> const& blob) {
  return to_string(checksum_bytes(blob.data(), blob.size()));
}

/// Where the exchanges of one test meet. Every owner() is one more worker there.
class InProcessPlace {
 public:
  static std::string why_skipped() { return {}; }
  std::shared_ptr<MetadataExchange> owner() {
    if (first_ == nullptr) { return first_ = make_in_process_exchange(); }
    return make_in_process_exchange(first_);
  }

 private:
  std::shared_ptr<MetadataExchange> first_;
};

class FolderPlace {
 public:
  static std::string why_skipped() { return {}; }
  std::shared_ptr<MetadataExchange> owner() { return make_folder_exchange(folder_ / "exchange"); }

 private:
  testing::TempFolder folder_;
};

inline constexpr char const* kTestToken = "a token for the tests";

class TcpPlace {
 public:
  /// A build without libcrypto has none, and says so.
  static std::string why_skipped() {
    try {
      TcpExchangeOptions options;
      options.token = kTestToken;
      make_tcp_exchange(options);
    } catch (UnsupportedError const& error) { return error.what(); }
    return {};
  }
  std::shared_ptr<TcpExchange> owner() {
    TcpExchangeOptions options;
    options.bind_address = "127.0.0.1";
    options.token = kTestToken;
    for (auto const& weak : owners_) {
      if (auto const other = weak.lock()) { options.peers.push_back(other->address()); }
    }
    auto exchange = make_tcp_exchange(options);
    for (auto const& weak : owners_) {
      if (auto const other = weak.lock()) { other->add_peer(exchange->address()); }
    }
    owners_.push_back(exchange);
    return exchange;
  }

 private:
  std::vector<std::weak_ptr<TcpExchange>> owners_;
};

}  // namespace kvbm::remote::test
