// SPDX-License-Identifier: Apache-2.0
#include "remote/tcp_auth.hpp"

#include "kvbm/core/error.hpp"

#if KVBM_HAVE_CRYPTO
#include <openssl/crypto.h>
#include <openssl/evp.h>
#include <openssl/params.h>
#endif

#include <string.h>
#include <sys/random.h>

#include <cerrno>
#include <memory>

namespace kvbm::remote {

Nonce make_nonce() {
  Nonce nonce{};
  std::size_t done = 0;
  while (done < nonce.size()) {
    ssize_t const got = getrandom(nonce.data() + done, nonce.size() - done, 0);
    KVBM_EXPECTS(got >= 0 || errno == EINTR, Io, "getrandom: " + describe_errno(errno));
    if (got > 0) { done += static_cast<std::size_t>(got); }
  }
  return nonce;
}

void wipe(std::string& secret) noexcept { explicit_bzero(secret.data(), secret.size()); }

SecretKey::SecretKey(std::string_view secret) : secret_(secret) {}
SecretKey::SecretKey(Mac const& derived)
    : secret_(reinterpret_cast<char const*>(derived.data()), derived.size()) {}
SecretKey::~SecretKey() { wipe(secret_); }

#if KVBM_HAVE_CRYPTO

namespace {

struct Free {
  void operator()(EVP_MAC* mac) const { EVP_MAC_free(mac); }
  void operator()(EVP_MAC_CTX* context) const { EVP_MAC_CTX_free(context); }
};

}  // namespace

void check_has_crypto() {}

bool is_same_mac(std::span<std::byte const> a, std::span<std::byte const> b) noexcept {
  return a.size() == b.size() && CRYPTO_memcmp(a.data(), b.data(), a.size()) == 0;
}

Mac SecretKey::mac(std::initializer_list<std::span<std::byte const>> pieces) const {
  std::unique_ptr<EVP_MAC, Free> const algorithm(EVP_MAC_fetch(nullptr, "HMAC", nullptr));
  std::unique_ptr<EVP_MAC_CTX, Free> const context(EVP_MAC_CTX_new(algorithm.get()));
  std::string digest = "SHA256";
  std::array<OSSL_PARAM, 2> const parameters = {
      OSSL_PARAM_construct_utf8_string("digest", digest.data(), 0), OSSL_PARAM_construct_end()};
  bool works = context != nullptr &&
               EVP_MAC_init(context.get(), reinterpret_cast<unsigned char const*>(secret_.data()),
                            secret_.size(), parameters.data()) == 1;
  for (auto const piece : pieces) {
    works =
        works && EVP_MAC_update(context.get(), reinterpret_cast<unsigned char const*>(piece.data()),
                                piece.size()) == 1;
  }
  Mac result{};
  std::size_t bytes = 0;
  works = works && EVP_MAC_final(context.get(), reinterpret_cast<unsigned char*>(result.data()),
                                 &bytes, result.size()) == 1;
  KVBM_EXPECTS(works && bytes == result.size(), Internal, "libcrypto computes no HMAC-SHA256");
  return result;
}

#else

void check_has_crypto() {
  throw UnsupportedError(
      "this kvbm was built without libcrypto, which the exchange over TCP needs for its token; "
      "build it with libssl-dev, or exchange metadata over a folder");
}

bool is_same_mac(std::span<std::byte const>, std::span<std::byte const>) noexcept { return false; }

Mac SecretKey::mac(std::initializer_list<std::span<std::byte const>>) const {
  check_has_crypto();
  return {};
}

#endif

}  // namespace kvbm::remote
