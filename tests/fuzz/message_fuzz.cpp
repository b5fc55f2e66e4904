// SPDX-License-Identifier: Apache-2.0
//
// The decoder of messages between workers against arbitrary bytes: it refuses with one of two
// codes, or the bytes are exactly those that the message it returns is written as. Also linked into
// a unit test that runs the corpus.
#include <algorithm>
#include <cstddef>
#include <cstdint>
#include <cstdlib>
#include <span>
#include <variant>
#include <vector>

#include "kvbm/core/error.hpp"
#include "remote/sealed.hpp"
#include "remote/worker/contact.hpp"
#include "remote/worker/message.hpp"

namespace {

using namespace kvbm;
using remote::Message;

void require(bool condition) {
  if (!condition) { std::abort(); }
}

/// The one thing that is read without being understood: an error code of a later version.
bool may_be_unknown(Message const& message) {
  auto const* const reply = std::get_if<remote::Reply>(&message.body);
  return reply != nullptr && reply->error == ErrorCode::Internal;
}

/// A worker counts it once, whatever its numbers are.
void count(Message const& message) {
  remote::Contact contact(nullptr, 1, message.worker_id, {"fuzz", {}}, std::nullopt);
  bool const is_numbered = !std::holds_alternative<remote::Taken>(message.body);
  bool const is_new = contact.take(message);
  require(!is_numbered || !is_new || !contact.take(message));
}

void check(std::span<std::byte const> bytes) {
  try {
    auto const message = Message::from_bytes(bytes);
    require(Message::is_ours(bytes));
    auto const again = message.to_bytes();
    require(may_be_unknown(message) ||
            std::equal(again.begin(), again.end(), bytes.begin(), bytes.end()));
    require(Message::from_bytes(again) == message);
    count(message);
  } catch (Error const& error) {
    require(error.code() == ErrorCode::Corrupt || error.code() == ErrorCode::VersionMismatch);
  }
}

/// The bytes with length and checksum put right, which no mutation would find.
std::vector<std::byte> sealed(std::span<std::byte const> data) {
  constexpr std::size_t kLengthAt = 12;
  std::vector<std::byte> blob(data.begin(), data.end());
  auto const body = blob.size() - remote::detail::kEnvelopeHeaderBytes;
  for (std::size_t i = 0; i < 8; ++i) {
    blob[kLengthAt + i] = static_cast<std::byte>(std::uint64_t{body} >> (8 * i));
  }
  remote::detail::append_checksum(blob);
  return blob;
}

}  // namespace

// Both as it is, and as what stands before the checksum of a message.
extern "C" int LLVMFuzzerTestOneInput(std::uint8_t const* data, std::size_t size) {
  auto const bytes = std::as_bytes(std::span(data, size));
  check(bytes);
  if (size >= remote::detail::kEnvelopeHeaderBytes) { check(sealed(bytes)); }
  return 0;
}
