// SPDX-License-Identifier: Apache-2.0
#include "kvbm/testing/object_server.hpp"

#include <algorithm>
#include <map>
#include <mutex>
#include <string>
#include <utility>

#include "http_text.hpp"

namespace kvbm::testing {

class ObjectServer::Store final : public HttpService {
 public:
  explicit Store(std::string bucket) : bucket_(std::move(bucket)) {}

  HttpAnswer answer(HttpRequest const& request, std::string body, bool ignores_range) override {
    std::string const front = "/" + bucket_;
    bool const is_ours = request.path.substr(0, front.size()) == front &&
                         (request.path.size() == front.size() || request.path[front.size()] == '/');
    if (!is_ours) { return s3_error(404, "NoSuchBucket"); }
    std::string const key =
        request.path.size() > front.size() + 1 ? request.path.substr(front.size() + 1) : "";
    std::lock_guard const lock(mutex_);
    if (key.empty()) { return request.method == "GET" ? list(request) : HttpAnswer{}; }
    if (request.method == "PUT") {
      auto object = std::make_shared<Object>();
      object->body = std::move(body);
      std::string const source = decode(request.header("x-amz-copy-source"));
      if (!source.empty()) {
        auto const found = objects_.find(source.substr(std::min(source.size(), front.size() + 1)));
        if (found == objects_.end()) { return s3_error(404); }
        object->body = found->second->body;
      }
      for (auto const& [name, value] : request.headers) {
        if (name.substr(0, 11) == "x-amz-meta-") { object->metadata.emplace_back(name, value); }
      }
      objects_[key] = std::move(object);
      HttpAnswer stored;
      stored.headers.push_back(kTag);
      return stored;
    }
    if (request.method == "DELETE") {
      objects_.erase(key);
      HttpAnswer none;
      none.status = 204;
      return none;
    }
    auto const found = objects_.find(key);
    if (found == objects_.end()) { return s3_error(404); }
    HttpAnswer answer;
    // Shares the object's ownership, points to its body.
    answer.whole = {found->second, &found->second->body};
    answer.headers = found->second->metadata;
    answer.headers.push_back(kTag);
    answer.bytes = found->second->body.size();
    std::string const range = request.header("range");
    if (range.empty() || ignores_range) { return answer; }
    auto const dash = range.find('-');
    std::size_t const first = std::stoull(range.substr(6, dash - 6));
    std::size_t const last = std::min<std::size_t>(std::stoull(range.substr(dash + 1)),
                                                   answer.bytes == 0 ? 0 : answer.bytes - 1);
    if (first >= answer.bytes) { return s3_error(416); }
    answer.status = 206;
    answer.headers.emplace_back("Content-Range", "bytes " + std::to_string(first) + "-" +
                                                     std::to_string(last) + "/" +
                                                     std::to_string(answer.bytes));
    answer.first = first;
    answer.bytes = last - first + 1;
    return answer;
  }

  mutable std::mutex mutex_;
  std::map<std::string, std::shared_ptr<Object const>> objects_;

 private:
  // AWS's client in C refuses answers without.
  static inline std::pair<std::string, std::string> const kTag{
      "ETag", "\"00000000000000000000000000000000\""};

  // Pages of three, so that a few objects make several.
  [[nodiscard]] HttpAnswer list(HttpRequest const& request) const {
    constexpr std::size_t kPage = 3;
    std::string const prefix = query_value(request.query, "prefix");
    std::string const token = query_value(request.query, "continuation-token");
    std::string text;
    std::string last;
    std::size_t count = 0;
    bool is_truncated = false;
    for (auto const& [key, object] : objects_) {
      if (key.substr(0, prefix.size()) != prefix || key <= token) { continue; }
      if (count == kPage) {
        is_truncated = true;
        break;
      }
      text += "<Contents><Key>" + encode(key) + "</Key><Size>" +
              std::to_string(object->body.size()) + "</Size></Contents>";
      last = key;
      ++count;
    }
    text = "<ListBucketResult><IsTruncated>" + std::string(is_truncated ? "true" : "false") +
           "</IsTruncated>" + text;
    if (is_truncated) { text += "<NextContinuationToken>" + last + "</NextContinuationToken>"; }
    HttpAnswer answer;
    answer.set_text(text + "</ListBucketResult>");
    return answer;
  }

  std::string bucket_;
};

ObjectServer::ObjectServer(std::string bucket, int port)
    : ObjectServer(std::make_shared<Store>(std::move(bucket)), port) {}
ObjectServer::ObjectServer(std::shared_ptr<Store> store, int port)
    : FaultyServer(store, port), store_(std::move(store)) {}

std::vector<std::string> ObjectServer::keys() const {
  std::lock_guard const lock(store_->mutex_);
  std::vector<std::string> keys;
  for (auto const& [key, object] : store_->objects_) {
    keys.push_back(key);
  }
  return keys;
}
bool ObjectServer::has(std::string const& key) const {
  std::lock_guard const lock(store_->mutex_);
  return store_->objects_.count(key) != 0;
}
ObjectServer::Object ObjectServer::object(std::string const& key) const {
  std::lock_guard const lock(store_->mutex_);
  return *store_->objects_.at(key);
}
void ObjectServer::store(std::string const& key, Object object) {
  std::lock_guard const lock(store_->mutex_);
  store_->objects_[key] = std::make_shared<Object const>(std::move(object));
}

}  // namespace kvbm::testing
