// SPDX-License-Identifier: Apache-2.0
#if KVBM_HAVE_CURL

#include "object/request_job.hpp"

#include <cerrno>

#include "kvbm/core/error.hpp"

namespace kvbm::object {

namespace {

// libcurl copies bodies through buffers of these sizes, two for each request on the wire.
constexpr long kReceiveBuffer = 256L << 10;
constexpr long kSendBuffer = 256L << 10;

// What libcurl calls. Nothing may be thrown through it.

std::size_t on_send(char* to, std::size_t size, std::size_t count, void* self) noexcept {
  return static_cast<Job*>(self)->send(to, size * count);
}

int on_seek(void* self, curl_off_t offset, int origin) noexcept {
  if (origin != SEEK_SET) { return CURL_SEEKFUNC_CANTSEEK; }
  static_cast<Job*>(self)->rewind(static_cast<std::uint64_t>(offset));
  return CURL_SEEKFUNC_OK;
}

std::size_t on_body(char const* data, std::size_t size, std::size_t count, void* self) noexcept {
  auto& job = *static_cast<Job*>(self);
  job.last_activity = Clock::now();
  try {
    return job.response->take_body(data, size * count) ? size * count : 0;
  } catch (std::exception const&) { return 0; }
}

std::size_t on_header(char const* data, std::size_t size, std::size_t count, void* self) noexcept {
  auto& job = *static_cast<Job*>(self);
  job.last_activity = Clock::now();
  try {
    job.response->take_header({data, size * count});
    return size * count;
  } catch (std::exception const&) { return 0; }
}

int on_connected(void* self, char*, char*, int, int) noexcept {
  auto& job = *static_cast<Job*>(self);
  job.is_connected = true;
  job.last_activity = Clock::now();
  return CURL_PREREQFUNC_OK;
}

Headers make_headers(std::vector<std::string> const& lines) {
  Headers headers;
  for (auto const& line : lines) {
    curl_slist* const longer = curl_slist_append(headers.get(), line.c_str());
    KVBM_EXPECTS(longer != nullptr, OutOfMemory, "no memory for HTTP headers");
    static_cast<void>(headers.release());
    headers.reset(longer);
  }
  return headers;
}

void set_fixed_options(CURL* curl, ClientContext const& context) {
  S3Options const& options = context.options;
  curl_easy_setopt(curl, CURLOPT_PROTOCOLS_STR, "http,https");
  curl_easy_setopt(curl, CURLOPT_HTTP_VERSION, static_cast<long>(CURL_HTTP_VERSION_1_1));
  // A proxy that the environment names is for what is outside, not for a named endpoint.
  if (!context.endpoint.is_aws) { curl_easy_setopt(curl, CURLOPT_NOPROXY, "*"); }
  curl_easy_setopt(curl, CURLOPT_NOSIGNAL, 1L);
  curl_easy_setopt(curl, CURLOPT_PATH_AS_IS, 1L);
  curl_easy_setopt(curl, CURLOPT_BUFFERSIZE, kReceiveBuffer);
  curl_easy_setopt(curl, CURLOPT_UPLOAD_BUFFERSIZE, kSendBuffer);
  curl_easy_setopt(curl, CURLOPT_CONNECTTIMEOUT_MS,
                   static_cast<long>(options.connect_timeout.count()));
  if (!options.ca_file.empty()) { curl_easy_setopt(curl, CURLOPT_CAINFO, options.ca_file.c_str()); }
  curl_easy_setopt(curl, CURLOPT_WRITEFUNCTION, &on_body);
  curl_easy_setopt(curl, CURLOPT_HEADERFUNCTION, &on_header);
  curl_easy_setopt(curl, CURLOPT_PREREQFUNCTION, &on_connected);
}

}  // namespace

void prepare(Job& job, ClientContext& context) {
  Request const& request = *job.request;
  CURL* const curl = job.handle.get();
  SignedRequest const wire = context.sign(request);
  job.headers = make_headers(wire.headers);
  curl_easy_setopt(curl, CURLOPT_URL, wire.url.c_str());
  curl_easy_setopt(curl, CURLOPT_HTTPHEADER, job.headers.get());
  curl_easy_setopt(curl, CURLOPT_PRIVATE, &job);
  set_fixed_options(curl, context);
  curl_easy_setopt(curl, CURLOPT_ERRORBUFFER, job.details.data());
  curl_easy_setopt(curl, CURLOPT_WRITEDATA, &job);
  curl_easy_setopt(curl, CURLOPT_HEADERDATA, &job);
  curl_easy_setopt(curl, CURLOPT_PREREQDATA, &job);
  switch (request.method) {
    case Method::Get: curl_easy_setopt(curl, CURLOPT_HTTPGET, 1L); break;
    case Method::Head: curl_easy_setopt(curl, CURLOPT_NOBODY, 1L); break;
    case Method::Delete: curl_easy_setopt(curl, CURLOPT_CUSTOMREQUEST, "DELETE"); break;
    case Method::Put:
      curl_easy_setopt(curl, CURLOPT_UPLOAD, 1L);
      curl_easy_setopt(curl, CURLOPT_INFILESIZE_LARGE, static_cast<curl_off_t>(request.body_bytes));
      curl_easy_setopt(curl, CURLOPT_READFUNCTION, &on_send);
      curl_easy_setopt(curl, CURLOPT_READDATA, &job);
      curl_easy_setopt(curl, CURLOPT_SEEKFUNCTION, &on_seek);
      curl_easy_setopt(curl, CURLOPT_SEEKDATA, &job);
      break;
  }
}

S3Fault make_fault(S3ErrorKind kind, std::string reason, int native_code) {
  S3Fault fault;
  fault.kind = kind;
  fault.reason = std::move(reason);
  fault.native_code = native_code;
  return fault;
}

S3Fault fault_of_curl(Job const& job, CURLcode code) {
  std::string why = job.details.front() == '\0' ? curl_easy_strerror(code) : job.details.data();
  long os_errno = 0;
  curl_easy_getinfo(job.handle.get(), CURLINFO_OS_ERRNO, &os_errno);
  bool const is_in_body = job.response->status() / 100 == 2 && job.request->method == Method::Get;
  switch (code) {
    case CURLE_COULDNT_RESOLVE_HOST:
    case CURLE_COULDNT_RESOLVE_PROXY:
      return make_fault(S3ErrorKind::Unreachable, std::move(why), EHOSTUNREACH);
    case CURLE_COULDNT_CONNECT:
      return make_fault(S3ErrorKind::Unreachable, std::move(why),
                        os_errno == 0 ? ECONNREFUSED : static_cast<int>(os_errno));
    case CURLE_SSL_CONNECT_ERROR:
    case CURLE_PEER_FAILED_VERIFICATION:
    case CURLE_SSL_CERTPROBLEM:
    case CURLE_SSL_CACERT_BADFILE:
      return make_fault(S3ErrorKind::Unreachable, "TLS: " + why, EPROTO);
    case CURLE_OPERATION_TIMEDOUT:
      if (job.is_connected) { return make_fault(S3ErrorKind::Silent, std::move(why)); }
      return make_fault(S3ErrorKind::Unreachable, std::move(why), ETIMEDOUT);
    case CURLE_PARTIAL_FILE: return make_fault(S3ErrorKind::Truncated, std::move(why));
    case CURLE_GOT_NOTHING:
    case CURLE_SEND_ERROR:
    case CURLE_RECV_ERROR:
      return make_fault(is_in_body ? S3ErrorKind::Truncated : S3ErrorKind::Interrupted,
                        std::move(why));
    default: return make_fault(S3ErrorKind::Refused, std::move(why));
  }
}

}  // namespace kvbm::object

#endif
