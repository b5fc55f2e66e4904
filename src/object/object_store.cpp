// SPDX-License-Identifier: Apache-2.0
#include "kvbm/object/object_store.hpp"

#include <fmt/format.h>

#include <algorithm>
#include <cstring>

#include "kvbm/core/checked.hpp"
#include "kvbm/core/error.hpp"
#include "object/choose_transport.hpp"
#include "object/object_manifest.hpp"
#include "object/object_merge.hpp"
#include "object/object_queue.hpp"
#include "object/object_store_impl.hpp"
#include "object/s3_client_impl.hpp"
#include "object/s3_errors.hpp"

namespace kvbm::object {

namespace {

constexpr std::uint64_t kMostManifestBytes = 16 << 20;

void verify(Checksum found, BlockRecord const& record, std::string const& key) {
  auto const& expected = record.checksums.front();
  if (!expected || found != *expected) {
    throw CorruptError(fmt::format("{} has checksum {}, its metadata {}", key, to_string(found),
                                   expected ? to_string(*expected) : "none"));
  }
}

void rethrow(S3Outcome const& outcome) {
  if (outcome.error != nullptr) { std::rethrow_exception(outcome.error); }
}

}  // namespace

std::uint32_t default_blocks_per_object(std::uint64_t extent_bytes) noexcept {
  constexpr std::uint64_t kObjectBytes = std::uint64_t{256} << 10U;
  constexpr std::uint64_t kMostSharing = std::uint64_t{64} << 10U;
  if (extent_bytes == 0 || extent_bytes > kMostSharing) { return 1; }
  return static_cast<std::uint32_t>(
      std::min<std::uint64_t>(kObjectBytes / extent_bytes, kMaxBlocksPerObject));
}

ObjectBlockStore::Impl::Impl(std::shared_ptr<S3Client> client, ObjectStoreOptions const& options,
                             memory::ExtentGroup geometry)
    : client_(std::move(client)),
      scheme_(options.scheme),
      is_read_only_(options.read_only),
      groups_{geometry},
      takes_any_sharing_(options.blocks_per_object == 0),
      blocks_per_object_(options.blocks_per_object != 0
                             ? options.blocks_per_object
                             : default_blocks_per_object(geometry.extent_bytes)) {
  KVBM_EXPECTS(client_ != nullptr, InvalidArgument, "an object store without a client");
  scheme_.check();
  KVBM_EXPECTS(geometry.extent_bytes >= 1 && geometry.count >= 1, InvalidArgument,
               fmt::format("an object store of {} blocks of {} bytes", geometry.count,
                           geometry.extent_bytes));
  KVBM_EXPECTS(blocks_per_object_ >= 1 && blocks_per_object_ <= kMaxBlocksPerObject,
               InvalidArgument,
               fmt::format("blocks_per_object is {}, it can be 1 to {}", blocks_per_object_,
                           kMaxBlocksPerObject));
  // S3 takes up to 5 GiB in one PUT.
  constexpr std::uint64_t kMostObjectBytes = std::uint64_t{5} << 30;
  std::uint64_t const bytes = checked_mul(geometry.extent_bytes, blocks_per_object_);
  KVBM_EXPECTS(bytes <= kMostObjectBytes, InvalidArgument,
               fmt::format("objects of {} blocks of {} bytes: S3 takes {} in one request",
                           blocks_per_object_, geometry.extent_bytes, kMostObjectBytes));
  name_ = client_->url() + "/" + scheme_.root();
  name_.pop_back();
}

void ObjectBlockStore::Impl::open(std::string metadata, ObjectStoreOptions const& options) {
  std::string const problem = check_transport(options);
  open_manifest(std::move(metadata));
  auto chosen = choose_transport(*client_, options, problem, extent_bytes() * blocks_per_object_);
  nixl_ = std::move(chosen.nixl);
  backend_reason_ = std::move(chosen.reason);
}

void ObjectBlockStore::Impl::open_manifest(std::string metadata) {
  ObjectManifest wanted{extent_bytes(), groups_[0].count, blocks_per_object_, std::move(metadata)};
  std::string const key = scheme_.manifest_key();
  auto request = client_impl().make_request(Method::Get, key);
  request->is_text = true;
  request->max_text_bytes = kMostManifestBytes;
  S3Client::Impl::ask_once(*request, client_->options());
  S3Client::Impl::Answer answer;
  try {
    answer = client_impl().perform(std::move(request));
  } catch (...) {
    auto const error = std::current_exception();
    if (kind_of(error) != S3ErrorKind::NoSuchKey || is_read_only_) {
      std::rethrow_exception(with_context(error, "object store " + name_));
    }
    std::string const body = wanted.to_body();
    client_->put(key, std::as_bytes(std::span(body)), ObjectManifest::metadata_of(body));
    metadata_ = std::move(wanted.metadata);
    return;
  }
  ObjectManifest found;
  try {
    found = ObjectManifest::parse(answer.text, answer.outcome.object);
  } catch (Error const&) {
    std::rethrow_exception(
        with_context(std::current_exception(), client_->url() + "/" + key + " is damaged"));
  }
  if (takes_any_sharing_) {
    if (found.blocks_per_object < 1 || found.blocks_per_object > kMaxBlocksPerObject) {
      throw CorruptError(fmt::format("{}/{} is damaged: {} blocks to an object", client_->url(),
                                     key, found.blocks_per_object));
    }
    blocks_per_object_ = wanted.blocks_per_object = found.blocks_per_object;
  }
  // Another number of blocks is no other store: what is shared are whole objects, see place_of().
  bool const fits = found.extent_bytes == wanted.extent_bytes &&
                    found.blocks_per_object == wanted.blocks_per_object;
  KVBM_EXPECTS(
      fits, InvalidArgument,
      fmt::format("object store {} has blocks of {} bytes, {} to an object; asked for were "
                  "{} bytes, {} to an object: give another prefix or model",
                  name_, found.extent_bytes, found.blocks_per_object, wanted.extent_bytes,
                  wanted.blocks_per_object));
  metadata_ = std::move(found.metadata);
}

S3Client::Impl& ObjectBlockStore::Impl::client_impl() const { return S3Client::Impl::of(*client_); }

std::unique_ptr<ObjectBatch> ObjectBlockStore::Impl::make_batch() const {
  return nixl_ == nullptr ? make_curl_batch(*client_) : make_nixl_batch(*client_, nixl_);
}

void ObjectBlockStore::Impl::check_block(std::uint64_t block) const {
  KVBM_EXPECTS(block < groups_[0].count, OutOfRange,
               fmt::format("block {} of {} in {}", block, groups_[0].count, name_));
}

void ObjectBlockStore::Impl::check_extent(std::uint32_t group, std::uint64_t extent) const {
  KVBM_EXPECTS(group == 0, OutOfRange, fmt::format("group {} of 1 in {}", group, name_));
  check_block(extent);
}

void ObjectBlockStore::Impl::check_writable() const {
  KVBM_EXPECTS(!is_read_only_, InvalidArgument, name_ + " was opened read-only");
}

void ObjectBlockStore::Impl::check_size(std::string_view content_key, std::size_t bytes) const {
  KVBM_EXPECTS(bytes == extent_bytes(), InvalidArgument,
               fmt::format("{} bytes for block {}, a block has {}", bytes,
                           scheme_.content_key(content_key), extent_bytes()));
}

Place ObjectBlockStore::Impl::place_of(std::uint64_t block) const {
  {
    std::shared_lock const lock(names_mutex_);
    auto const found = content_keys_.find(block);
    if (found != content_keys_.end()) { return {scheme_.content_key(found->second), block, 1, 0}; }
  }
  std::uint64_t const first = block / blocks_per_object_ * blocks_per_object_;
  // The last blocks, which would not fill an object, do not share one: so all that are shared have
  // the same size, whoever opens the store with however many blocks.
  if (groups_[0].count - first < blocks_per_object_) {
    return {scheme_.index_key(block, 1), block, 1, 0};
  }
  return {scheme_.index_key(first, blocks_per_object_), first, blocks_per_object_,
          static_cast<std::uint32_t>(block - first)};
}

std::string ObjectBlockStore::Impl::describe(std::uint64_t block) const {
  return fmt::format("{}, group 0, block {}", name_, block);
}

// --- the store

std::shared_ptr<ObjectBlockStore> ObjectBlockStore::open(ObjectStoreOptions const& options,
                                                         memory::ExtentGroup geometry,
                                                         std::string metadata) {
  options.scheme.check();
  auto client = std::make_shared<S3Client>(options.s3);
  return open(std::move(client), options, geometry, std::move(metadata));
}

std::shared_ptr<ObjectBlockStore> ObjectBlockStore::open(std::shared_ptr<S3Client> client,
                                                         ObjectStoreOptions const& options,
                                                         memory::ExtentGroup geometry,
                                                         std::string metadata) {
  auto impl = std::make_unique<Impl>(std::move(client), options, geometry);
  impl->open(std::move(metadata), options);
  // make_shared needs a constructor that is public.
  struct Store final : ObjectBlockStore {
    explicit Store(std::unique_ptr<Impl> given) : ObjectBlockStore(std::move(given)) {}
  };
  return std::make_shared<Store>(std::move(impl));
}

ObjectBlockStore::ObjectBlockStore(std::unique_ptr<Impl> impl) : impl_(std::move(impl)) {}
ObjectBlockStore::~ObjectBlockStore() = default;

memory::StorageKind ObjectBlockStore::kind() const noexcept { return memory::StorageKind::Object; }
std::string ObjectBlockStore::name() const { return impl_->name_; }
std::vector<memory::ExtentGroup> const& ObjectBlockStore::groups() const noexcept {
  return impl_->groups_;
}
bool ObjectBlockStore::is_writable() const noexcept { return !impl_->is_read_only_; }

std::optional<Checksum> ObjectBlockStore::checksum(std::uint32_t group,
                                                   std::uint64_t extent) const {
  impl_->check_extent(group, extent);
  return std::nullopt;
}

void ObjectBlockStore::invalidate(std::uint32_t group, std::uint64_t extent) {
  impl_->check_extent(group, extent);
  impl_->check_writable();
  Place const place = impl_->place_of(extent);
  try {
    if (place.num_blocks == 1) {
      impl_->client_->delete_object(place.object_key);
      return;
    }
    ObjectMerge merge{impl_.get(), place, {{place.slot, nullptr, std::nullopt}}, nullptr};
    apply_merges(*impl_->client_, std::span(&merge, 1));
    if (merge.error != nullptr) { std::rethrow_exception(merge.error); }
  } catch (Error const&) {
    std::rethrow_exception(with_context(std::current_exception(), impl_->describe(extent)));
  }
}

void ObjectBlockStore::sync() {}

std::unique_ptr<memory::ExtentQueue> ObjectBlockStore::make_queue() {
  return std::make_unique<ObjectQueue>(*impl_);
}

void const* ObjectBlockStore::family() const noexcept { return impl_->family(); }

void ObjectBlockStore::bind(std::uint64_t block, std::string_view content_key) {
  impl_->check_block(block);
  static_cast<void>(impl_->scheme_.content_key(content_key));
  std::unique_lock const lock(impl_->names_mutex_);
  impl_->content_keys_[block] = std::string(content_key);
}

void ObjectBlockStore::unbind(std::uint64_t block) {
  impl_->check_block(block);
  std::unique_lock const lock(impl_->names_mutex_);
  impl_->content_keys_.erase(block);
}

std::optional<std::string> ObjectBlockStore::key_of(std::uint64_t block) const {
  impl_->check_block(block);
  std::shared_lock const lock(impl_->names_mutex_);
  auto const found = impl_->content_keys_.find(block);
  if (found == impl_->content_keys_.end()) { return std::nullopt; }
  return found->second;
}

std::string ObjectBlockStore::object_key_of(std::uint64_t block) const {
  impl_->check_block(block);
  return impl_->place_of(block).object_key;
}

bool ObjectBlockStore::exists(std::string_view content_key) {
  return impl_->client_->head(impl_->scheme_.content_key(content_key)).has_value();
}

std::vector<bool> ObjectBlockStore::exist(std::span<std::string const> content_keys) {
  S3Batch batch(*impl_->client_);
  for (auto const& key : content_keys) {
    batch.head(impl_->scheme_.content_key(key));
  }
  std::vector<bool> found;
  for (auto const& outcome : batch.wait()) {
    bool const is_missing = kind_of(outcome.error) == S3ErrorKind::NoSuchKey;
    if (outcome.error != nullptr && !is_missing) { std::rethrow_exception(outcome.error); }
    found.push_back(!is_missing);
  }
  return found;
}

void ObjectBlockStore::put(std::string_view content_key, std::span<std::byte const> bytes) {
  impl_->check_writable();
  impl_->check_size(content_key, bytes.size());
  auto const record = impl_->record_of(checksum_bytes(bytes.data(), bytes.size()));
  auto const batch = impl_->make_batch();
  batch->put(impl_->scheme_.content_key(content_key), {bytes}, record.to_metadata(),
             impl_->scheme_.temporary_prefix());
  rethrow(batch->wait_for(0));
}

void ObjectBlockStore::get(std::string_view content_key, std::span<std::byte> bytes) {
  impl_->check_size(content_key, bytes.size());
  std::string const key = impl_->scheme_.content_key(content_key);
  auto const batch = impl_->make_batch();
  auto const finish = [&] {
    S3Outcome const& outcome = batch->wait_for(0);
    rethrow(outcome);
    try {
      auto const record = BlockRecord::parse(outcome.object, bytes.size(), 1);
      verify(checksum_bytes(bytes.data(), bytes.size()), record, "the object");
    } catch (Error const&) {
      std::rethrow_exception(
          with_context(std::current_exception(), impl_->client_->url() + "/" + key));
    }
  };
  try {
    batch->get(key, 0, {{bytes.data(), bytes.size()}}, bytes.size());
    try {
      finish();
    } catch (CorruptError const&) {
      if (!batch->read_again(0)) { throw; }
      finish();
    }
  } catch (...) {
    std::memset(bytes.data(), 0, bytes.size());
    throw;
  }
}

void ObjectBlockStore::remove(std::string_view content_key) {
  impl_->check_writable();
  impl_->client_->delete_object(impl_->scheme_.content_key(content_key));
}

void ObjectBlockStore::list(
    std::function<bool(std::string const& content_key, std::uint64_t bytes)> const& each) {
  impl_->client_->list(impl_->scheme_.content_prefix(), [&](S3Listed const& listed) {
    auto const key = impl_->scheme_.parse_content_key(listed.key);
    // Others put what they like into a bucket.
    return !key || each(*key, listed.bytes);
  });
}

std::uint32_t ObjectBlockStore::blocks_per_object() const noexcept {
  return impl_->blocks_per_object_;
}
ObjectKeyScheme const& ObjectBlockStore::scheme() const noexcept { return impl_->scheme_; }
std::string const& ObjectBlockStore::metadata() const noexcept { return impl_->metadata_; }
std::shared_ptr<S3Client> const& ObjectBlockStore::client() const noexcept {
  return impl_->client_;
}
ObjectTransport ObjectBlockStore::transport() const noexcept {
  return impl_->nixl_ == nullptr ? ObjectTransport::Curl : ObjectTransport::Nixl;
}
std::string const& ObjectBlockStore::backend_reason() const noexcept {
  return impl_->backend_reason_;
}

}  // namespace kvbm::object
