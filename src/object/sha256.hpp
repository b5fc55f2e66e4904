// SPDX-License-Identifier: Apache-2.0
#pragma once

#include <array>
#include <cstddef>
#include <span>
#include <string>
#include <string_view>

namespace kvbm::object {

using Sha256 = std::array<unsigned char, 32>;

/// @throws UnsupportedError in a build without libcrypto
void check_has_crypto();

/// SHA-256 of the pieces in a row.
Sha256 sha256(std::span<std::span<std::byte const> const> pieces);
Sha256 sha256(std::string_view text);
Sha256 hmac_sha256(std::span<unsigned char const> key, std::string_view text);

/// Lower-case hexadecimal digits.
std::string to_hex(std::span<unsigned char const> bytes);

}  // namespace kvbm::object
