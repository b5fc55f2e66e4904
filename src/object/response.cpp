// SPDX-License-Identifier: Apache-2.0
#include "object/response.hpp"

#include <fmt/format.h>

#include <algorithm>
#include <cstring>

#include "object/text.hpp"

namespace kvbm::object {

namespace {

constexpr std::size_t kMostErrorBytes = 64 << 10;
constexpr std::size_t kMostMetadata = 64;
constexpr std::string_view kMetadataPrefix = "x-amz-meta-";

/// "bytes 5-9/100".
struct ContentRange {
  std::uint64_t first = 0;
  std::uint64_t last = 0;
  std::uint64_t total = 0;
};

std::optional<ContentRange> parse_range(std::string_view text) {
  constexpr std::string_view kUnit = "bytes ";
  auto const dash = text.find('-');
  auto const slash = text.find('/');
  if (text.substr(0, kUnit.size()) != kUnit || dash == std::string_view::npos ||
      slash == std::string_view::npos || slash < dash) {
    return std::nullopt;
  }
  auto const first = parse_number(text.substr(kUnit.size(), dash - kUnit.size()));
  auto const last = parse_number(text.substr(dash + 1, slash - dash - 1));
  auto const total = parse_number(text.substr(slash + 1));
  if (!first || !last || !total) { return std::nullopt; }
  return ContentRange{*first, *last, *total};
}

}  // namespace

void Response::fail(S3ErrorKind kind, std::string reason) {
  S3Fault fault;
  fault.kind = kind;
  fault.http_status = status_;
  fault.reason = std::move(reason);
  fault_ = std::move(fault);
}

void Response::take_header(std::string_view line) {
  if (line.substr(0, 5) == "HTTP/") {
    // Also after a "100 Continue".
    auto const space = line.find(' ');
    auto const code =
        space == std::string_view::npos ? std::nullopt : parse_number(line.substr(space + 1, 3));
    status_ = code ? static_cast<int>(*code) : 0;
    content_length_.reset();
    content_range_.clear();
    object_ = {};
    return;
  }
  auto const colon = line.find(':');
  if (colon == std::string_view::npos) { return; }
  std::string const name = to_lower(trim(line.substr(0, colon)));
  std::string_view const value = trim(line.substr(colon + 1));
  if (name == "content-length") {
    content_length_ = parse_number(value);
  } else if (name == "content-range") {
    content_range_ = std::string(value);
  } else if (name == "x-amz-bucket-region") {
    region_ = printable(value, 64);
  } else if (name.substr(0, kMetadataPrefix.size()) == kMetadataPrefix &&
             object_.metadata.size() < kMostMetadata) {
    object_.metadata.emplace_back(name.substr(kMetadataPrefix.size()), std::string(value));
  }
}

void Response::check_head() {
  if (is_head_checked_) { return; }
  is_head_checked_ = true;
  if (!is_success() || request_.method == Method::Put || request_.method == Method::Delete) {
    return;
  }
  object_.bytes = content_length_.value_or(0);
  if (request_.is_text || request_.method == Method::Head) { return; }
  if (!request_.has_range()) {
    if (content_length_ && *content_length_ != request_.into_bytes) {
      fail(S3ErrorKind::WrongSize, fmt::format("the object has {} bytes, {} were expected",
                                               *content_length_, request_.into_bytes));
    }
    return;
  }
  auto const range = parse_range(content_range_);
  if (status_ != 206 || !range) {
    fail(S3ErrorKind::Refused,
         fmt::format("status {} and Content-Range '{}': the server does not serve ranges", status_,
                     printable(content_range_, 80)));
    return;
  }
  object_.bytes = range->total;
  bool const is_wanted = range->first == request_.offset && range->last >= range->first &&
                         range->last - range->first + 1 == request_.into_bytes;
  if (!is_wanted || (request_.object_bytes && range->total != *request_.object_bytes)) {
    fail(S3ErrorKind::WrongSize,
         fmt::format("bytes {}-{} of {} came, {} bytes from {} were asked for{}", range->first,
                     range->last, range->total, request_.into_bytes, request_.offset,
                     request_.object_bytes ? fmt::format(" of {}", *request_.object_bytes) : ""));
  }
}

bool Response::take_body(char const* data, std::size_t bytes) {
  check_head();
  if (fault_) { return false; }
  if (!is_success()) {
    text_.append(data, std::min(bytes, kMostErrorBytes - std::min(kMostErrorBytes, text_.size())));
    return true;
  }
  received_ += bytes;
  if (request_.method == Method::Get && request_.is_text) {
    if (received_ > request_.max_text_bytes) {
      fail(S3ErrorKind::WrongSize,
           fmt::format("the answer is longer than {} bytes", request_.max_text_bytes));
      return false;
    }
    text_.append(data, bytes);
    return true;
  }
  if (!request_.copy_source.empty()) {
    text_.append(data, std::min(bytes, kMostErrorBytes - std::min(kMostErrorBytes, text_.size())));
  }
  return request_.method != Method::Get || scatter(data, bytes);
}

bool Response::scatter(char const* data, std::size_t bytes) {
  while (bytes > 0) {
    if (piece_ == request_.into.size()) {
      fail(S3ErrorKind::WrongSize,
           fmt::format("more than the {} bytes asked for came", request_.into_bytes));
      return false;
    }
    S3Piece const& piece = request_.into[piece_];
    std::uint64_t const part = std::min<std::uint64_t>(bytes, piece.bytes - piece_done_);
    if (piece.data != nullptr) { std::memcpy(piece.data + piece_done_, data, part); }
    data += part;
    bytes -= part;
    piece_done_ += part;
    if (piece_done_ == piece.bytes) {
      ++piece_;
      piece_done_ = 0;
    }
  }
  return true;
}

void Response::finish() {
  check_head();
  if (fault_) { return; }
  if (!is_success()) {
    fault_ = fault_of_answer(status_, text_, request_.key.empty());
    if (!region_.empty() && (status_ == 301 || status_ == 307 || status_ == 400)) {
      fault_->reason += "; the bucket is in region " + region_;
    }
    return;
  }
  // A copy may fail after the head of the answer went out with 200.
  if (!request_.copy_source.empty() && xml_text(text_, "Error")) {
    fault_ = fault_of_answer(500, text_, false);
    return;
  }
  if (request_.method == Method::Get && !request_.is_text && received_ != request_.into_bytes) {
    fail(S3ErrorKind::WrongSize,
         fmt::format("{} bytes came, {} were expected", received_, request_.into_bytes));
  }
}

}  // namespace kvbm::object
