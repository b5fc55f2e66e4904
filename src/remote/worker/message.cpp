// SPDX-License-Identifier: Apache-2.0
#include "remote/worker/message.hpp"

#include <fmt/format.h>

#include <array>
#include <cstring>
#include <functional>
#include <limits>
#include <set>
#include <string>
#include <string_view>
#include <type_traits>
#include <utility>

#include <nlohmann/json.hpp>

#include "remote/sealed.hpp"

namespace kvbm::remote {
namespace {

using layout::KvBlockLayout;
using nlohmann::json;

constexpr std::string_view kMagic = "KVBMNOTE";
constexpr detail::Envelope kEnvelope{"worker message", kMagic, Message::kVersion,
                                     Message::kMaxBytes};

// The places in these lists are what goes over the wire: append only.
constexpr std::array kErrorCodes = {ErrorCode::InvalidArgument,
                                    ErrorCode::OutOfRange,
                                    ErrorCode::Overflow,
                                    ErrorCode::Unsupported,
                                    ErrorCode::NotFound,
                                    ErrorCode::AlreadyExists,
                                    ErrorCode::Busy,
                                    ErrorCode::Corrupt,
                                    ErrorCode::VersionMismatch,
                                    ErrorCode::OutOfMemory,
                                    ErrorCode::Io,
                                    ErrorCode::Device,
                                    ErrorCode::Timeout,
                                    ErrorCode::Cancelled,
                                    ErrorCode::ShuttingDown,
                                    ErrorCode::Internal,
                                    ErrorCode::PeerLost};

std::array<KvBlockLayout, 5> const& image_formats() {
  static std::array<KvBlockLayout, 5> const formats = {
      KvBlockLayout::Unknown, KvBlockLayout::OperationalNHD, KvBlockLayout::OperationalHND,
      KvBlockLayout::UniversalTP, KvBlockLayout::UniversalPP};
  return formats;
}

template <typename List, typename Value>
std::uint64_t place_of(List const& list, Value const& value, char const* what) {
  for (std::size_t i = 0; i < list.size(); ++i) {
    if (list[i] == value) { return i; }
  }
  throw_error(ErrorCode::InvalidArgument, fmt::format("a message cannot carry this {}", what));
}

[[noreturn]] void refuse(char const* field, std::string_view why) {
  throw CorruptError(fmt::format("worker message: {} {}", field, why));
}

/// The fields of a message, each to be read once: what nobody reads is refused.
class Fields {
 public:
  explicit Fields(json const& value) : value_(value) {}

  json const& get(char const* name) {
    json const* const found = find(name);
    if (found == nullptr) { refuse(name, "is missing"); }
    return *found;
  }
  /// Null: the message does not have it.
  json const* find(char const* name) {
    auto const found = value_.find(name);
    if (found == value_.end()) { return nullptr; }
    read_.insert(found.key());
    return &*found;
  }
  void expect_all_read() const {
    for (auto const& [name, unused] : value_.items()) {
      if (!read_.contains(name)) {
        refuse("content", "has a field that such a message does not have");
      }
    }
  }

 private:
  json const& value_;
  std::set<std::string, std::less<>> read_;
};

template <typename Number = std::uint64_t>
Number number(Fields& value, char const* name) {
  json const& found = value.get(name);
  if (!found.is_number_unsigned()) { refuse(name, "is not a number"); }
  auto const given = found.get<std::uint64_t>();
  if (given > std::numeric_limits<Number>::max()) {
    refuse(name, fmt::format("{} is too large", given));
  }
  return static_cast<Number>(given);
}

bool flag(Fields& value, char const* name) {
  json const& found = value.get(name);
  if (!found.is_boolean()) { refuse(name, "is not true or false"); }
  return found.get<bool>();
}

std::string text(Fields& value, char const* name) {
  json const& found = value.get(name);
  if (!found.is_string()) { refuse(name, "is not a text"); }
  return found.get<std::string>();
}

std::vector<BlockId> ids(Fields& value, char const* name) {
  json const& found = value.get(name);
  if (!found.is_array()) { refuse(name, "is not a list"); }
  std::vector<BlockId> result;
  result.reserve(found.size());
  for (json const& id : found) {
    if (!id.is_number_unsigned() || id.get<std::uint64_t>() > std::numeric_limits<BlockId>::max()) {
      refuse(name, "holds something that is no block id");
    }
    result.push_back(static_cast<BlockId>(id.get<std::uint64_t>()));
  }
  return result;
}

IndexRange range(Fields& value, char const* name) {
  json const& found = value.get(name);
  if (!found.is_array() || found.size() != 2 || !found[0].is_number_unsigned() ||
      !found[1].is_number_unsigned()) {
    refuse(name, "is not a range");
  }
  return {found[0].get<std::uint64_t>(), found[1].get<std::uint64_t>()};
}

json to_value(Hello const& hello) {
  auto const address = hello.address.to_bytes();
  json value{{"type", "hello"},
             {"request", hello.request},
             {"receiver", hello.receiver},
             {"layouts", hello.layout_ids}};
  json::binary_t bytes;
  for (std::byte const byte : address) {
    bytes.push_back(static_cast<std::uint8_t>(byte));
  }
  value["address"] = std::move(bytes);
  if (hello.process) {
    auto const& process = *hello.process;
    value["process"] = {process.boot_id[0], process.boot_id[1], process.pid_namespace,
                        static_cast<std::uint64_t>(process.pid), process.start_time};
  }
  return value;
}

Hello hello_from(Fields& value) {
  Hello hello;
  hello.request = number(value, "request");
  hello.receiver = number(value, "receiver");
  for (BlockId const id : ids(value, "layouts")) {
    if (id > std::numeric_limits<std::uint16_t>::max()) { refuse("layouts", "holds no layout id"); }
    hello.layout_ids.push_back(static_cast<std::uint16_t>(id));
  }
  json const& address = value.get("address");
  if (!address.is_binary()) { refuse("address", "is not a byte string"); }
  hello.address = WorkerAddress::from_bytes(std::as_bytes(std::span(address.get_binary())));
  if (auto const* const found = value.find("process")) {
    if (!found->is_array() || found->size() != 5) { refuse("process", "is not five numbers"); }
    std::array<std::uint64_t, 5> numbers{};
    for (std::size_t i = 0; i < numbers.size(); ++i) {
      if (!(*found)[i].is_number_unsigned()) { refuse("process", "is not five numbers"); }
      numbers[i] = (*found)[i].get<std::uint64_t>();
    }
    if (numbers[3] > static_cast<std::uint64_t>(std::numeric_limits<std::int32_t>::max())) {
      refuse("process", "has no possible pid");
    }
    hello.process = memory::ProcessName{
        {numbers[0], numbers[1]}, numbers[2], static_cast<std::int64_t>(numbers[3]), numbers[4]};
  }
  return hello;
}

json to_value(Taken const& /*taken*/) { return {{"type", "taken"}}; }
json to_value(Farewell const& farewell) {
  return {{"type", "farewell"}, {"shuts_down", farewell.shuts_down}};
}
json to_value(WriteNotice const& notice) { return {{"type", "notice"}, {"value", notice.value}}; }
json to_value(Revoke const& revoke) {
  return {{"type", "revoke"}, {"request", revoke.request}, {"layout", revoke.layout_id}};
}
json to_value(BorrowLanding const& borrow) {
  return {{"type", "borrow"}, {"request", borrow.request}, {"bytes", borrow.bytes}};
}
json to_value(ReturnLanding const& given_back) {
  return {{"type", "return"}, {"address", given_back.address}};
}

json to_value(CopyImage const& copy) {
  return {{"type", "image"},
          {"request", copy.request},
          {"fill", copy.fill},
          {"layout", copy.layout_id},
          {"blocks", copy.block_ids},
          {"slots", copy.slots},
          {"layers", {copy.layers.begin, copy.layers.end}},
          {"heads", {copy.heads.begin, copy.heads.end}},
          {"format", place_of(image_formats(), copy.image_format, "image format")},
          {"address", copy.landing_address},
          {"bytes", copy.landing_bytes}};
}

CopyImage image_from(Fields& value) {
  CopyImage copy;
  copy.request = number(value, "request");
  copy.fill = flag(value, "fill");
  copy.layout_id = number<std::uint16_t>(value, "layout");
  copy.block_ids = ids(value, "blocks");
  copy.slots = ids(value, "slots");
  copy.layers = range(value, "layers");
  copy.heads = range(value, "heads");
  auto const format = number(value, "format");
  if (format >= image_formats().size()) { refuse("format", "is none of an image's"); }
  copy.image_format = image_formats()[format];
  copy.landing_address = number(value, "address");
  copy.landing_bytes = number(value, "bytes");
  return copy;
}

json to_value(Reply const& reply) {
  json value{{"type", "reply"},
             {"request", reply.request},
             {"address", reply.address},
             {"bytes", reply.bytes}};
  if (reply.error) {
    value["error"] = place_of(kErrorCodes, *reply.error, "error code");
    value["text"] = reply.text.substr(0, Reply::kMaxTextBytes);
  }
  return value;
}

Reply reply_from(Fields& value) {
  Reply reply;
  reply.request = number(value, "request");
  reply.address = number(value, "address");
  reply.bytes = number(value, "bytes");
  if (value.find("error") != nullptr) {
    auto const code = number(value, "error");
    // A code that this version does not know is still a failure.
    reply.error = code < kErrorCodes.size() ? kErrorCodes[code] : ErrorCode::Internal;
    reply.text = text(value, "text");
    if (reply.text.size() > Reply::kMaxTextBytes) { refuse("text", "is too long"); }
  }
  return reply;
}

MessageBody body_from(Fields& value) {
  std::string const type = text(value, "type");
  if (type == "hello") { return hello_from(value); }
  if (type == "farewell") { return Farewell{flag(value, "shuts_down")}; }
  if (type == "notice") { return WriteNotice{number(value, "value")}; }
  if (type == "revoke") {
    return Revoke{number(value, "request"), number<std::uint16_t>(value, "layout")};
  }
  if (type == "borrow") { return BorrowLanding{number(value, "request"), number(value, "bytes")}; }
  if (type == "return") { return ReturnLanding{number(value, "address")}; }
  if (type == "image") { return image_from(value); }
  if (type == "reply") { return reply_from(value); }
  if (type == "taken") { return Taken{}; }
  refuse("type", "is unknown");
}

}  // namespace

std::vector<std::byte> Message::to_bytes() const {
  json value = std::visit([](auto const& given) { return to_value(given); }, body);
  value["from"] = worker_id;
  value["session"] = session;
  value["sequence"] = sequence;
  value["taken"] = taken;
  return detail::seal(kEnvelope, value);
}

bool Message::is_ours(std::span<std::byte const> bytes) noexcept {
  return bytes.size() >= kMagic.size() &&
         std::memcmp(bytes.data(), kMagic.data(), kMagic.size()) == 0;
}

Message Message::from_bytes(std::span<std::byte const> bytes) {
  json const value = detail::unseal(kEnvelope, bytes);
  Fields fields(value);
  Message message;
  message.worker_id = number(fields, "from");
  message.session = number(fields, "session");
  message.sequence = number(fields, "sequence");
  message.taken = number(fields, "taken");
  message.body = body_from(fields);
  fields.expect_all_read();
  return message;
}

}  // namespace kvbm::remote
