// SPDX-License-Identifier: Apache-2.0
#include "object/object_merge.hpp"

#include <algorithm>
#include <functional>

#include "object/s3_errors.hpp"

namespace kvbm::object {

namespace {

// Objects that are in memory at a time.
constexpr std::size_t kWave = 32;

struct Image {
  std::vector<std::byte> bytes;                     // blocks that stay as they are
  std::vector<ObjectMerge::Change const*> changes;  // by slot; null: none
  BlockRecord record;
};

std::vector<std::unique_lock<std::mutex>> lock_all(std::span<ObjectMerge> merges) {
  std::vector<std::mutex*> mutexes;
  for (auto const& merge : merges) {
    mutexes.push_back(&merge.store->merge_lock(merge.place.first_block));
  }
  std::sort(mutexes.begin(), mutexes.end(), std::less<>());
  mutexes.erase(std::unique(mutexes.begin(), mutexes.end()), mutexes.end());
  std::vector<std::unique_lock<std::mutex>> locks;
  locks.reserve(mutexes.size());
  for (auto* const mutex : mutexes) {
    locks.emplace_back(*mutex);
  }
  return locks;
}

Image make_image(ObjectMerge const& merge) {
  Image image;
  image.changes.resize(merge.place.num_blocks);
  for (auto const& change : merge.changes) {
    image.changes[change.slot] = &change;
  }
  image.bytes.resize(merge.place.num_blocks * merge.store->extent_bytes());
  return image;
}

void start_read(S3Batch& batch, ObjectMerge const& merge, Image& image) {
  std::uint64_t const bytes = merge.store->extent_bytes();
  std::vector<S3Piece> pieces;
  for (std::size_t slot = 0; slot < image.changes.size(); ++slot) {
    bool const stays = image.changes[slot] == nullptr;
    pieces.push_back({stays ? image.bytes.data() + slot * bytes : nullptr, bytes});
  }
  batch.get(merge.place.object_key, 0, std::move(pieces), image.bytes.size());
}

/// A block that stays keeps its checksum, so that one that is damaged is still found to be.
void take_record(ObjectMerge const& merge, S3Outcome const& outcome, Image& image) {
  if (kind_of(outcome.error) == S3ErrorKind::NoSuchKey) {
    image.record = {merge.store->extent_bytes(), {}};
    image.record.checksums.resize(merge.place.num_blocks);
  } else {
    if (outcome.error != nullptr) { std::rethrow_exception(outcome.error); }
    image.record =
        BlockRecord::parse(outcome.object, merge.store->extent_bytes(), merge.place.num_blocks);
  }
  for (std::size_t slot = 0; slot < image.changes.size(); ++slot) {
    if (auto const* const change = image.changes[slot]) {
      image.record.checksums[slot] = change->checksum;
    }
  }
}

void start_write(S3Batch& batch, ObjectMerge const& merge, Image const& image) {
  auto const& checksums = image.record.checksums;
  if (std::none_of(checksums.begin(), checksums.end(), [](auto const& each) { return each; })) {
    batch.delete_object(merge.place.object_key);
    return;
  }
  std::uint64_t const bytes = merge.store->extent_bytes();
  std::vector<std::span<std::byte const>> pieces;
  for (std::size_t slot = 0; slot < image.changes.size(); ++slot) {
    auto const* const change = image.changes[slot];
    bool const is_new = change != nullptr && change->data != nullptr;
    pieces.emplace_back(is_new ? change->data : image.bytes.data() + slot * bytes, bytes);
  }
  batch.put(merge.place.object_key, std::move(pieces), image.record.to_metadata());
}

void apply_wave(S3Client& client, std::span<ObjectMerge> merges) {
  auto const locks = lock_all(merges);
  std::vector<Image> images;
  S3Batch batch(client);
  for (auto const& merge : merges) {
    images.push_back(make_image(merge));
    start_read(batch, merge, images.back());
  }
  auto const reads = batch.wait();
  std::vector<ObjectMerge*> written;
  for (std::size_t i = 0; i < merges.size(); ++i) {
    try {
      take_record(merges[i], reads[i], images[i]);
      start_write(batch, merges[i], images[i]);
      written.push_back(&merges[i]);
    } catch (...) { merges[i].error = std::current_exception(); }
  }
  auto const writes = batch.wait();
  for (std::size_t i = 0; i < written.size(); ++i) {
    if (kind_of(writes[i].error) != S3ErrorKind::NoSuchKey) { written[i]->error = writes[i].error; }
  }
}

}  // namespace

void apply_merges(S3Client& client, std::span<ObjectMerge> merges) {
  while (!merges.empty()) {
    auto const wave = merges.first(std::min(merges.size(), kWave));
    try {
      apply_wave(client, wave);
    } catch (...) {
      for (auto& merge : wave) {
        merge.error = std::current_exception();
      }
    }
    merges = merges.subspan(wave.size());
  }
}

}  // namespace kvbm::object
