// SPDX-License-Identifier: Apache-2.0
#pragma once

#include <nlohmann/json.hpp>

#include <cstddef>
#include <cstdint>
#include <limits>
#include <span>
#include <string>
#include <utility>
#include <vector>

#include "remote/sealed.hpp"
#include "remote/worker/message.hpp"

/// Messages between workers that the tests write and read: those of the golden files.
namespace kvbm::remote::testing {

inline std::vector<std::byte> address_bytes(std::size_t count) {
  std::vector<std::byte> bytes(count);
  for (std::size_t i = 0; i < count; ++i) {
    bytes[i] = static_cast<std::byte>(i + 1);
  }
  return bytes;
}

/// One message of every type and of every shape that a type has, by name.
inline std::vector<std::pair<std::string, Message>> honest_messages() {
  constexpr std::uint64_t kWorker = 0xfedcba9876543210;
  constexpr std::uint64_t kSession = 0x0123456789abcdef;
  std::uint64_t sequence = 0;
  auto const message = [&](MessageBody body) {
    ++sequence;
    return Message{kWorker, kSession, sequence, 3 * sequence, std::move(body)};
  };
  Hello hello{7, 99, {0, 3, 65535}, {"decode-0", address_bytes(40)}, std::nullopt};
  Hello near = hello;
  near.layout_ids.clear();
  near.process = memory::ProcessName{{0x0123456789abcdef, 2}, 4026531836, 4711, 99887766};
  CopyImage const image{8,
                        true,
                        3,
                        {0, 7, 4294967295},
                        {2, 1, 0},
                        {1, 3},
                        {0, 1},
                        layout::KvBlockLayout::UniversalTP,
                        0x7e0000000000,
                        65536};
  CopyImage none = image;
  none.fill = false;
  none.block_ids.clear();
  none.slots.clear();
  none.image_format = layout::KvBlockLayout::Unknown;
  return {
      {"hello", message(hello)},
      {"hello_near", message(near)},
      {"farewell", message(Farewell{false})},
      {"farewell_for_good", message(Farewell{true})},
      {"notice", message(WriteNotice{std::numeric_limits<std::uint64_t>::max()})},
      {"revoke", message(Revoke{9, 65535})},
      {"borrow", message(BorrowLanding{10, 1U << 20U})},
      {"return", message(ReturnLanding{0x7e0000010000})},
      {"image", message(image)},
      {"image_of_nothing", message(none)},
      {"reply", message(Reply{11, {}, {}, 0x7e0000000000, 65536})},
      {"reply_error", message(Reply{12, ErrorCode::Busy, "all landing memory is lent", 0, 0})},
      {"taken", message(Taken{})},
  };
}

/// An envelope with the right length and checksum around any body.
inline std::vector<std::byte> wrap_message(std::span<std::byte const> body,
                                           std::uint32_t version = Message::kVersion) {
  std::vector<std::byte> blob;
  for (char const letter : {'K', 'V', 'B', 'M', 'N', 'O', 'T', 'E'}) {
    blob.push_back(static_cast<std::byte>(letter));
  }
  for (unsigned i = 0; i < 4; ++i) {
    blob.push_back(static_cast<std::byte>(version >> (8 * i)));
  }
  for (unsigned i = 0; i < 8; ++i) {
    blob.push_back(static_cast<std::byte>(std::uint64_t{body.size()} >> (8 * i)));
  }
  blob.insert(blob.end(), body.begin(), body.end());
  detail::append_checksum(blob);
  return blob;
}

inline std::vector<std::byte> wrap_message(nlohmann::json const& value) {
  auto const cbor = nlohmann::json::to_cbor(value);
  return wrap_message(std::as_bytes(std::span(cbor)));
}

/// What stands between header and checksum.
inline std::span<std::byte const> message_body(std::span<std::byte const> blob) {
  return blob.subspan(detail::kEnvelopeHeaderBytes,
                      blob.size() - detail::kEnvelopeHeaderBytes - detail::kEnvelopeChecksumBytes);
}

inline nlohmann::json message_value(std::span<std::byte const> blob) {
  auto const body = message_body(blob);
  auto const* const first = reinterpret_cast<std::uint8_t const*>(body.data());
  return nlohmann::json::from_cbor(first, first + body.size());
}

}  // namespace kvbm::remote::testing
