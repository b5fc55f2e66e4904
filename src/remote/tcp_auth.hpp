// SPDX-License-Identifier: Apache-2.0
#pragma once

#include <array>
#include <cstddef>
#include <initializer_list>
#include <span>
#include <string>
#include <string_view>

namespace kvbm::remote {

using Mac = std::array<std::byte, 32>;
using Nonce = std::array<std::byte, 32>;

/// @throws UnsupportedError in a build without libcrypto
void check_has_crypto();

Nonce make_nonce();

/// Whether both are equal, in a time that does not tell where they differ.
[[nodiscard]] bool is_same_mac(std::span<std::byte const> a, std::span<std::byte const> b) noexcept;

/// A key for HMAC-SHA256, wiped at the end.
class SecretKey {
 public:
  explicit SecretKey(std::string_view secret);
  explicit SecretKey(Mac const& derived);
  ~SecretKey();
  SecretKey(SecretKey&&) noexcept = default;
  SecretKey& operator=(SecretKey&&) = delete;
  SecretKey(SecretKey const&) = delete;
  SecretKey& operator=(SecretKey const&) = delete;

  /// Of the pieces in a row. @throws Error(Internal) when libcrypto fails
  [[nodiscard]] Mac mac(std::initializer_list<std::span<std::byte const>> pieces) const;

 private:
  std::string secret_;
};

/// Overwrites it, also where a compiler would see no use in that.
void wipe(std::string& secret) noexcept;

}  // namespace kvbm::remote
