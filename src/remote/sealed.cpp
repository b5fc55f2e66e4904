// SPDX-License-Identifier: Apache-2.0
#include "remote/sealed.hpp"

#include <fmt/format.h>

#include <algorithm>
#include <optional>
#include <string>

#include "kvbm/core/error.hpp"
#include "kvbm/core/types.hpp"

namespace kvbm::remote::detail {
namespace {

using nlohmann::json;

/// Deeper than anything we write.
constexpr std::size_t kMaxDepth = 8;
/// Values in one blob. Each takes up to about a hundred bytes once read, so that a blob of empty
/// ones cannot take more than about 200 MiB.
constexpr std::uint64_t kMaxValues = std::uint64_t{1} << 21U;

void append_little(std::vector<std::byte>& out, std::uint64_t value, std::size_t bytes) {
  for (std::size_t i = 0; i < bytes; ++i) {
    out.push_back(static_cast<std::byte>(value >> (8 * i)));
  }
}

std::uint64_t read_little(std::span<std::byte const> bytes) {
  std::uint64_t value = 0;
  for (std::size_t i = 0; i < bytes.size(); ++i) {
    value |= std::to_integer<std::uint64_t>(bytes[i]) << (8 * i);
  }
  return value;
}

std::string_view as_text(std::span<std::byte const> bytes) {
  return {reinterpret_cast<char const*>(bytes.data()), bytes.size()};
}

/// Walks CBOR without making anything of it. The library that makes values of it afterwards calls
/// itself once a level, also for strings in pieces, and so must only see what this has passed.
class CborWalk {
 public:
  CborWalk(char const* what, std::span<std::byte const> bytes) : what_(what), bytes_(bytes) {}

  void run() {
    step();
    while (depth_ > 0) {
      auto& level = levels_[depth_ - 1];
      if (level.left == 0) {
        --depth_;
        continue;
      }
      --level.left;
      if (level.is_map) { key(level); }
      step();
    }
    if (at_ != bytes_.size()) {
      refuse(fmt::format("{} bytes behind the value", bytes_.size() - at_));
    }
  }

 private:
  enum Major : unsigned { Unsigned = 0, Bytes = 2, Text = 3, Array = 4, Map = 5, Simple = 7 };
  struct Head {
    unsigned major = 0;
    std::uint64_t argument = 0;
  };
  struct Level {
    bool is_map = false;
    std::uint64_t left = 0;                    ///< entries
    std::optional<std::string_view> last_key;  ///< keys stand in order, each once
  };

  [[noreturn]] void refuse(std::string const& why) const {
    throw CorruptError(fmt::format("{}: CBOR at byte {}: {}", what_, at_, why));
  }

  std::span<std::byte const> take(std::uint64_t count) {
    if (count > bytes_.size() - at_) {
      refuse(fmt::format("{} bytes are announced, {} are left", count, bytes_.size() - at_));
    }
    auto const taken = bytes_.subspan(at_, static_cast<std::size_t>(count));
    at_ += taken.size();
    return taken;
  }

  Head head() {
    auto const first = std::to_integer<unsigned>(take(1).front());
    Head result{first >> 5U, first & 0x1FU};
    if (result.major == Simple) {
      if (result.argument < 20 || result.argument > 22) {
        refuse(fmt::format("simple value or fraction {:#04x} is not used here", first));
      }
      return result;
    }
    if (result.argument < 24) { return result; }
    if (result.argument > 27) { refuse(fmt::format("{:#04x} has no definite length", first)); }
    auto const width = std::size_t{1} << (result.argument - 24);
    result.argument = 0;
    for (auto const byte : take(width)) {
      result.argument = result.argument << 8U | std::to_integer<std::uint64_t>(byte);
    }
    auto const least = width == 1 ? 24 : std::uint64_t{1} << (4 * width);
    if (result.argument < least) {
      refuse(fmt::format("{} is written in {} bytes, which are too many", result.argument, width));
    }
    return result;
  }

  void key(Level& level) {
    auto const found = head();
    if (found.major != Text) { refuse("a field's name is not text"); }
    auto const name = as_text(take(found.argument));
    if (level.last_key && name <= *level.last_key) {
      refuse(name == *level.last_key ? "a field is given twice" : "fields are not in order");
    }
    level.last_key = name;
  }

  void step() {
    if (++values_ > kMaxValues) { refuse(fmt::format("more than {} values", kMaxValues)); }
    auto const found = head();
    switch (found.major) {
      case Unsigned:
      case Simple: return;
      case Bytes:
      case Text: take(found.argument); return;
      case Array:
      case Map: break;
      default: refuse(fmt::format("values of type {} are not used here", found.major));
    }
    // Each entry takes a byte at least: what announces more than there are is refused here.
    if (found.argument > bytes_.size() - at_) {
      refuse(fmt::format("{} entries are announced, {} bytes are left", found.argument,
                         bytes_.size() - at_));
    }
    if (depth_ == kMaxDepth) { refuse(fmt::format("nested deeper than {}", kMaxDepth)); }
    levels_[depth_++] = {found.major == Map, found.argument, std::nullopt};
  }

  char const* what_;
  std::span<std::byte const> bytes_;
  std::size_t at_ = 0;
  std::uint64_t values_ = 0;
  std::size_t depth_ = 0;
  std::array<Level, kMaxDepth> levels_{};
};

}  // namespace

void check_cbor(char const* what, std::span<std::byte const> bytes) { CborWalk(what, bytes).run(); }

void append_checksum(std::vector<std::byte>& bytes) {
  auto const checksum = checksum_bytes(bytes.data(), bytes.size());
  append_little(bytes, checksum.low, 8);
  append_little(bytes, checksum.high, 8);
}

std::vector<std::byte> seal(Envelope const& envelope, json const& value) {
  auto const cbor = json::to_cbor(value);
  auto const total = kEnvelopeHeaderBytes + cbor.size() + kEnvelopeChecksumBytes;
  KVBM_EXPECTS(total <= envelope.max_bytes, InvalidArgument,
               fmt::format("{}: {} bytes, at most {} are allowed; export fewer layouts",
                           envelope.what, total, envelope.max_bytes));
  std::vector<std::byte> bytes;
  bytes.reserve(total);
  auto const magic = std::as_bytes(std::span(envelope.magic));
  bytes.insert(bytes.end(), magic.begin(), magic.end());
  append_little(bytes, envelope.version, 4);
  append_little(bytes, cbor.size(), 8);
  auto const body = std::as_bytes(std::span(cbor));
  bytes.insert(bytes.end(), body.begin(), body.end());
  append_checksum(bytes);
  return bytes;
}

json unseal(Envelope const& envelope, std::span<std::byte const> bytes) {
  auto const refuse = [&](std::string const& why) {
    throw CorruptError(fmt::format("{}: {}", envelope.what, why));
  };
  if (bytes.size() > envelope.max_bytes) {
    refuse(fmt::format("{} bytes, at most {} are read", bytes.size(), envelope.max_bytes));
  }
  constexpr auto kFrame = kEnvelopeHeaderBytes + kEnvelopeChecksumBytes;
  if (bytes.size() < kFrame) {
    refuse(fmt::format("{} bytes are too few, magic, version, length and checksum alone have {}",
                       bytes.size(), kFrame));
  }
  if (as_text(bytes.first(8)) != envelope.magic) {
    refuse(fmt::format("magic: it does not start with {}", envelope.magic));
  }
  // Before the checksum, which another version may compute otherwise.
  auto const version = read_little(bytes.subspan(8, 4));
  KVBM_EXPECTS(version == envelope.version, VersionMismatch,
               fmt::format("Unsupported version {} of {}, this library reads version {}", version,
                           envelope.what, envelope.version));
  auto const length = read_little(bytes.subspan(12, 8));
  if (length != bytes.size() - kFrame) {
    refuse(
        fmt::format("length: {} bytes are announced, {} are there", length, bytes.size() - kFrame));
  }
  auto const covered = bytes.first(bytes.size() - kEnvelopeChecksumBytes);
  auto const stored = bytes.last(kEnvelopeChecksumBytes);
  Checksum const told{read_little(stored.first(8)), read_little(stored.last(8))};
  auto const computed = checksum_bytes(covered.data(), covered.size());
  if (told != computed) {
    refuse(fmt::format("checksum: {} is stored, the bytes have {}", to_string(told),
                       to_string(computed)));
  }
  auto const cbor = covered.subspan(kEnvelopeHeaderBytes);
  check_cbor(envelope.what, cbor);
  auto const text = as_text(cbor);
  auto value = json::from_cbor(text.begin(), text.end(), true, false);
  if (!value.is_object()) { refuse("the CBOR value is not a map"); }
  return value;
}

}  // namespace kvbm::remote::detail
