// SPDX-License-Identifier: Apache-2.0
#pragma once

#include <curl/curl.h>

#include <algorithm>
#include <array>
#include <chrono>
#include <memory>
#include <string>
#include <utility>
#include <vector>

#include "object/client_context.hpp"
#include "object/request.hpp"
#include "object/response.hpp"

namespace kvbm::object {

using Clock = std::chrono::steady_clock;

struct CurlCleanup {
  void operator()(CURL* handle) const { curl_easy_cleanup(handle); }
  void operator()(curl_slist* list) const { curl_slist_free_all(list); }
};
using Handle = std::unique_ptr<CURL, CurlCleanup>;
using Headers = std::unique_ptr<curl_slist, CurlCleanup>;

/// A request and the attempt that is under way.
struct Job {
  explicit Job(std::unique_ptr<Request> given)
      : request(std::move(given)), response(std::make_unique<Response>(*request)) {}

  std::unique_ptr<Request> request;
  std::uint32_t attempts = 0;
  Clock::time_point deadline{};  // of all attempts
  Clock::time_point next_start{};

  Handle handle;
  Headers headers;
  std::array<char, CURL_ERROR_SIZE> details{};
  std::unique_ptr<Response> response;
  bool is_connected = false;
  Clock::time_point last_activity{};
  std::size_t piece = 0;  // of the body, next to be sent
  std::uint64_t piece_done = 0;

  void begin_attempt() {
    ++attempts;
    response = std::make_unique<Response>(*request);
    details.front() = '\0';
    is_connected = false;
    last_activity = Clock::now();
    rewind(0);
  }

  void rewind(std::uint64_t offset) noexcept {
    piece = 0;
    piece_done = offset;
    auto const& body = request->body;
    while (piece < body.size() && piece_done >= body[piece].size()) {
      piece_done -= body[piece].size();
      ++piece;
    }
  }

  std::size_t send(char* to, std::size_t room) noexcept {
    last_activity = Clock::now();
    std::size_t sent = 0;
    auto const& body = request->body;
    while (sent < room && piece < body.size()) {
      std::size_t const part = std::min(room - sent, body[piece].size() - piece_done);
      std::copy_n(reinterpret_cast<char const*>(body[piece].data()) + piece_done, part, to + sent);
      sent += part;
      piece_done += part;
      if (piece_done == body[piece].size()) {
        ++piece;
        piece_done = 0;
      }
    }
    return sent;
  }
};

/// Sets all options of the job's handle for its next attempt.
void prepare(Job& job, ClientContext& context);

S3Fault make_fault(S3ErrorKind kind, std::string reason, int native_code = 0);

/// What an attempt that libcurl gave up means.
S3Fault fault_of_curl(Job const& job, CURLcode code);

}  // namespace kvbm::object
