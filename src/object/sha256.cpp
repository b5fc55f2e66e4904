// SPDX-License-Identifier: Apache-2.0
#include "object/sha256.hpp"

#include "kvbm/core/error.hpp"

#if KVBM_HAVE_CRYPTO
#include <openssl/evp.h>
#include <openssl/hmac.h>
#endif

#include <memory>

namespace kvbm::object {

std::string to_hex(std::span<unsigned char const> bytes) {
  constexpr std::string_view kDigits = "0123456789abcdef";
  std::string text;
  text.reserve(2 * bytes.size());
  for (unsigned const byte : bytes) {
    text += kDigits[byte >> 4U];
    text += kDigits[byte & 15U];
  }
  return text;
}

Sha256 sha256(std::string_view text) {
  std::span const piece(reinterpret_cast<std::byte const*>(text.data()), text.size());
  return sha256(std::span(&piece, 1));
}

#if KVBM_HAVE_CRYPTO

void check_has_crypto() {}

Sha256 sha256(std::span<std::span<std::byte const> const> pieces) {
  struct Free {
    void operator()(EVP_MD_CTX* context) const { EVP_MD_CTX_free(context); }
  };
  std::unique_ptr<EVP_MD_CTX, Free> const context(EVP_MD_CTX_new());
  bool works = context != nullptr && EVP_DigestInit_ex(context.get(), EVP_sha256(), nullptr) == 1;
  for (auto const piece : pieces) {
    works = works && EVP_DigestUpdate(context.get(), piece.data(), piece.size()) == 1;
  }
  Sha256 digest{};
  unsigned bytes = 0;
  works = works && EVP_DigestFinal_ex(context.get(), digest.data(), &bytes) == 1;
  KVBM_EXPECTS(works && bytes == digest.size(), Internal, "libcrypto computes no SHA-256");
  return digest;
}

Sha256 hmac_sha256(std::span<unsigned char const> key, std::string_view text) {
  Sha256 mac{};
  unsigned bytes = 0;
  bool const works = HMAC(EVP_sha256(), key.data(), static_cast<int>(key.size()),
                          reinterpret_cast<unsigned char const*>(text.data()), text.size(),
                          mac.data(), &bytes) != nullptr;
  KVBM_EXPECTS(works && bytes == mac.size(), Internal, "libcrypto computes no HMAC-SHA256");
  return mac;
}

#else

void check_has_crypto() {
  throw UnsupportedError(
      "this kvbm was built without libcrypto, with which requests to an object store are signed; "
      "build it with libssl-dev");
}

Sha256 sha256(std::span<std::span<std::byte const> const>) {
  check_has_crypto();
  return {};
}

Sha256 hmac_sha256(std::span<unsigned char const>, std::string_view) {
  check_has_crypto();
  return {};
}

#endif

}  // namespace kvbm::object
