// SPDX-License-Identifier: Apache-2.0
#include "kvbm/object/s3_client.hpp"

#include <condition_variable>
#include <mutex>

#include "object/nixl_objects.hpp"
#include "object/s3_client_impl.hpp"
#include "object/s3_errors.hpp"
#include "object/sha256.hpp"
#include "object/text.hpp"

namespace kvbm::object {

namespace {

constexpr char const* kUnsignedPayload = "UNSIGNED-PAYLOAD";
// SHA-256 of nothing.
constexpr char const* kEmptyHash =
    "e3b0c44298fc1c149afbf4c8996fb92427ae41e4649b934ca495991b7852b855";

class Waiter final : public RequestSink {
 public:
  void done(std::size_t, S3Outcome&& outcome, std::string&& text) noexcept override {
    std::lock_guard const lock(mutex_);
    answer_.outcome = std::move(outcome);
    answer_.text = std::move(text);
    is_done_ = true;
    // Under the lock: afterwards this may be gone.
    changed_.notify_all();
  }
  S3Client::Impl::Answer wait() {
    std::unique_lock lock(mutex_);
    changed_.wait(lock, [this] { return is_done_; });
    return std::move(answer_);
  }

 private:
  std::mutex mutex_;
  std::condition_variable changed_;
  bool is_done_ = false;           // guarded by mutex_
  S3Client::Impl::Answer answer_;  // guarded by mutex_
};

}  // namespace

std::optional<std::string_view> S3Object::find(std::string_view name) const noexcept {
  for (auto const& [each, value] : metadata) {
    if (each == name) { return value; }
  }
  return std::nullopt;
}

S3Client::Impl::Impl(S3Options options)
    : context_(std::make_shared<ClientContext>(std::move(options))) {
  std::size_t const threads = context_->options.threads;
  std::size_t const connections = context_->options.connections;
  for (std::size_t i = 0; i < threads; ++i) {
    loops_.push_back(std::make_unique<RequestLoop>(
        context_, connections / threads + (i < connections % threads ? 1 : 0)));
  }
}

std::unique_ptr<Request> S3Client::Impl::make_request(Method method, std::string key) const {
  if (!key.empty()) { check_key(key); }
  auto request = std::make_unique<Request>();
  request->method = method;
  request->key = std::move(key);
  request->payload_hash = kEmptyHash;
  request->max_retries = context_->options.max_retries;
  request->deadline = context_->options.deadline;
  return request;
}

void S3Client::Impl::submit(std::unique_ptr<Request> request) {
  if (request->method == Method::Put) {
    // Here rather than on the client's thread, which has the bytes of all requests to move.
    request->payload_hash =
        context_->signs_payloads() ? to_hex(sha256(request->body)) : kUnsignedPayload;
  }
  loops_[next_loop_++ % loops_.size()]->submit(std::move(request));
}

void S3Client::Impl::stop() {
  for (auto const& loop : loops_) {
    loop->stop();
  }
}

S3Client::Impl::Answer S3Client::Impl::perform(std::unique_ptr<Request> request) {
  Waiter waiter;
  request->sink = &waiter;
  submit(std::move(request));
  Answer answer = waiter.wait();
  if (answer.outcome.error != nullptr) { std::rethrow_exception(answer.outcome.error); }
  return answer;
}

std::shared_ptr<NixlObjects> S3Client::Impl::nixl(std::string const& library) {
  std::lock_guard const lock(nixl_mutex_);
  auto& known = nixl_[library];
  auto nixl = known.lock();
  if (nixl == nullptr) {
    nixl = std::make_shared<NixlObjects>(context_, library);
    known = nixl;
  }
  return nixl;
}

void S3Client::Impl::ask_once(Request& request, S3Options const& options) {
  request.retries_connection = false;
  request.deadline = std::min(options.deadline, options.connect_timeout + options.stall_timeout);
}

S3Client::S3Client(S3Options options) : impl_(std::make_shared<Impl>(std::move(options))) {}
S3Client::~S3Client() { impl_->stop(); }

S3Options const& S3Client::options() const noexcept { return impl_->context().options; }
std::string const& S3Client::url() const noexcept { return impl_->context().url; }
S3Stats S3Client::stats() const { return impl_->context().counters.read(); }

void S3Client::put(std::string const& key, std::span<std::byte const> body, S3Metadata metadata) {
  check_key(key);
  check_metadata(metadata);
  auto request = impl_->make_request(Method::Put, key);
  request->body = {body};
  request->body_bytes = body.size();
  request->metadata = std::move(metadata);
  impl_->perform(std::move(request));
}

S3Object S3Client::get_range(std::string const& key, std::uint64_t offset,
                             std::span<std::byte> into) {
  check_key(key);
  KVBM_EXPECTS(!into.empty(), InvalidArgument,
               "a range of no bytes of '" + printable(key, 80) + "'");
  auto request = impl_->make_request(Method::Get, key);
  request->offset = offset;
  request->into = {{into.data(), into.size()}};
  request->into_bytes = into.size();
  return impl_->perform(std::move(request)).outcome.object;
}

S3Object S3Client::get(std::string const& key, std::span<std::byte> into) {
  check_key(key);
  auto request = impl_->make_request(Method::Get, key);
  request->into = {{into.data(), into.size()}};
  request->into_bytes = into.size();
  request->object_bytes = into.size();
  return impl_->perform(std::move(request)).outcome.object;
}

std::string S3Client::get_all(std::string const& key, std::uint64_t max_bytes, S3Object* object) {
  check_key(key);
  auto request = impl_->make_request(Method::Get, key);
  request->is_text = true;
  request->max_text_bytes = max_bytes;
  auto answer = impl_->perform(std::move(request));
  if (object != nullptr) { *object = std::move(answer.outcome.object); }
  return std::move(answer.text);
}

std::optional<S3Object> S3Client::head(std::string const& key) {
  check_key(key);
  try {
    return impl_->perform(impl_->make_request(Method::Head, key)).outcome.object;
  } catch (Error const& error) {
    auto const* const failure = s3_failure(error);
    if (failure != nullptr && failure->kind() == S3ErrorKind::NoSuchKey) { return std::nullopt; }
    throw;
  }
}

void S3Client::delete_object(std::string const& key) {
  check_key(key);
  try {
    impl_->perform(impl_->make_request(Method::Delete, key));
  } catch (Error const& error) {
    auto const* const failure = s3_failure(error);
    if (failure == nullptr || failure->kind() != S3ErrorKind::NoSuchKey) { throw; }
  }
}

void S3Client::list(std::string const& prefix, std::function<bool(S3Listed const&)> const& each) {
  // A page has at most 1000 keys of 1 KiB, three times that where they are encoded.
  constexpr std::uint64_t kMostPage = 16 << 20;
  std::string token;
  do {
    auto request = impl_->make_request(Method::Get, {});
    request->query = {{"list-type", "2"}, {"encoding-type", "url"}, {"prefix", prefix}};
    if (!token.empty()) { request->query.emplace_back("continuation-token", token); }
    request->is_text = true;
    request->max_text_bytes = kMostPage;
    std::string const page = impl_->perform(std::move(request)).text;
    if (!xml_text(page, "IsTruncated")) {
      throw CorruptError(url() + ": the answer to a list is not one");
    }
    for (auto const entry : xml_elements(page, "Contents")) {
      auto const key = xml_text(entry, "Key");
      auto const bytes = parse_number(xml_text(entry, "Size").value_or(""));
      if (!key || !bytes) {
        throw CorruptError(url() + ": an entry of a list without key or size");
      }
      if (!each({percent_decode(*key), *bytes})) { return; }
    }
    token = xml_text(page, "IsTruncated") == "true"
                ? xml_text(page, "NextContinuationToken").value_or("")
                : "";
  } while (!token.empty());
}

void S3Client::probe() {
  auto request = impl_->make_request(Method::Get, {});
  request->query = {{"list-type", "2"}, {"max-keys", "1"}};
  request->is_text = true;
  request->max_text_bytes = 1 << 20;
  Impl::ask_once(*request, options());
  impl_->perform(std::move(request));
}

void S3Client::create_bucket() {
  auto request = impl_->make_request(Method::Put, {});
  // The first region must not be named.
  std::string const where = options().region == "us-east-1"
                                ? ""
                                : "<CreateBucketConfiguration><LocationConstraint>" +
                                      options().region +
                                      "</LocationConstraint></CreateBucketConfiguration>";
  request->body = {std::as_bytes(std::span(where))};
  request->body_bytes = where.size();
  try {
    impl_->perform(std::move(request));
  } catch (Error const& error) {
    if (std::string_view(error.what()).find("BucketAlreadyOwnedByYou") == std::string_view::npos) {
      throw;
    }
  }
}

}  // namespace kvbm::object
