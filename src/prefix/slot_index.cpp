// SPDX-License-Identifier: Apache-2.0
#include "prefix/slot_index.hpp"

#include <fcntl.h>
#include <fmt/format.h>
#include <sys/file.h>
#include <unistd.h>

#include <array>
#include <bit>
#include <cerrno>
#include <cstddef>
#include <cstring>
#include <random>
#include <span>
#include <utility>

#include "kvbm/core/checked.hpp"
#include "kvbm/core/error.hpp"

namespace kvbm::prefix {
namespace {

static_assert(std::endian::native == std::endian::little, "the index is stored little-endian");

constexpr std::uint64_t kMagic = 0x58494D4256504B00U;  // 00 "KPVBMIX"
constexpr std::uint32_t kVersion = 1;
constexpr std::uint32_t kHeld = 1;  // state of a record; an empty one is all zeros

template <typename T>
std::span<std::byte const> bytes_of(T const& value) {
  return std::as_bytes(std::span(&value, 1));
}

}  // namespace

struct SlotIndex::Header {
  std::uint64_t magic = kMagic;
  std::uint32_t version = kVersion;
  std::uint32_t record_bytes = 0;
  std::uint64_t num_slots = 0;
  std::uint64_t id = 0;
  Checksum model;
  Checksum layout;
  std::array<std::uint64_t, 7> reserved{};
  std::uint64_t check = 0;

  [[nodiscard]] std::uint64_t own_check() const noexcept {
    return checksum_bytes(this, offsetof(Header, check)).low;
  }
};

struct SlotIndex::Record {
  BlockKey key;
  Checksum digest;
  std::uint64_t generation = 0;
  std::uint32_t state = 0;
  std::uint32_t reserved = 0;
  std::uint64_t reserved_too = 0;
  std::uint64_t check = 0;
};

SlotIndex::SlotIndex(std::filesystem::path path, Identity const& identity)
    : path_(std::move(path)), identity_(identity) {
  static_assert(sizeof(Header) == 128 && sizeof(Record) == 64);
  file_ = memory::FileHandle::open(path_, O_RDWR | O_CREAT);
  if (flock(file_.fd(), LOCK_EX | LOCK_NB) != 0) {
    KVBM_EXPECTS(errno != EWOULDBLOCK, Busy,
                 fmt::format("{}: another prefix store has this index open", path_.string()));
    memory::throw_io(path_, "flock", errno);
  }
  auto const size = static_cast<std::uint64_t>(file_.status(path_).st_size);
  Header header;
  std::uint64_t const wanted =
      checked_add(sizeof(Header), checked_mul(identity_.num_slots, sizeof(Record)));
  if (size == 0) {
    make_anew();
    return;
  }
  bool good = size >= sizeof(Header) &&
              file_.read_at(std::as_writable_bytes(std::span(&header, 1)), 0) == 0 &&
              header.magic == kMagic;
  if (good) {
    KVBM_EXPECTS(header.version == kVersion, VersionMismatch,
                 fmt::format("{}: version {} of the slot index, this library reads {}",
                             path_.string(), header.version, kVersion));
    good = header.check == header.own_check() && header.record_bytes == sizeof(Record);
  }
  if (good) {
    KVBM_EXPECTS(header.model == identity_.model, InvalidArgument,
                 fmt::format("{}: the index is of model {}, this store's is {}; name another file",
                             path_.string(), to_string(header.model), to_string(identity_.model)));
    KVBM_EXPECTS(
        header.layout == identity_.layout && header.num_slots == identity_.num_slots,
        InvalidArgument,
        fmt::format("{}: the index is of another layout ({} blocks, {}; this tier has {} blocks, "
                    "{}); name another file",
                    path_.string(), header.num_slots, to_string(header.layout), identity_.num_slots,
                    to_string(identity_.layout)));
    good = size == wanted;
  }
  if (good) {
    id_ = header.id;
  } else {
    num_damaged_ = 1;
    make_anew();
  }
}

// The header comes last: killed in between, the file has a damaged one and is made once more.
void SlotIndex::make_anew() {
  if (ftruncate(file_.fd(), 0) != 0) { memory::throw_io(path_, "ftruncate", errno); }
  std::uint64_t const bytes =
      checked_add(sizeof(Header), checked_mul(identity_.num_slots, sizeof(Record)));
  if (int const error = file_.preallocate(bytes); error != 0) {
    memory::throw_io(path_, fmt::format("preallocate {} bytes", bytes), error);
  }
  std::random_device random;
  id_ = std::uint64_t{random()} << 32U | random();
  Header header;
  header.record_bytes = sizeof(Record);
  header.num_slots = identity_.num_slots;
  header.id = id_;
  header.model = identity_.model;
  header.layout = identity_.layout;
  header.check = header.own_check();
  if (int const error = file_.write_at(bytes_of(header), 0); error != 0) {
    memory::throw_io(path_, "write", error);
  }
  sync();
  if (int const error = memory::sync_folder_of(path_); error != 0) {
    memory::throw_io(path_, "fsync of its folder", error);
  }
}

std::uint64_t SlotIndex::check_of(Record const& record, std::uint64_t slot) const noexcept {
  std::array<std::uint64_t, 9> words{};
  std::memcpy(words.data(), &record, offsetof(Record, check));
  words[7] = slot;
  words[8] = id_;
  return checksum_bytes(words.data(), sizeof words).low;
}

SlotIndex::Loaded SlotIndex::load() {
  Loaded loaded{{}, num_damaged_};
  std::vector<Record> records(identity_.num_slots);
  int const error = file_.read_at(std::as_writable_bytes(std::span(records)), sizeof(Header));
  if (error != 0) { memory::throw_io(path_, "read", error); }
  Record const empty;
  for (std::uint64_t slot = 0; slot < records.size(); ++slot) {
    Record const& record = records[slot];
    if (std::memcmp(&record, &empty, sizeof record) == 0) { continue; }
    if (record.state != kHeld || record.check != check_of(record, slot)) {
      ++loaded.num_damaged;
      continue;
    }
    loaded.entries.push_back({slot, record.key, record.digest, record.generation});
  }
  return loaded;
}

void SlotIndex::write(std::uint64_t slot, Record const& record) {
  int const error = file_.write_at(bytes_of(record), sizeof(Header) + slot * sizeof(Record));
  if (error != 0) { memory::throw_io(path_, fmt::format("write record {}", slot), error); }
}

void SlotIndex::put(std::uint64_t slot, BlockKey const& key, Checksum const& digest,
                    std::uint64_t generation) {
  Record record{key, digest, generation, kHeld, 0, 0, 0};
  record.check = check_of(record, slot);
  write(slot, record);
}

void SlotIndex::clear(std::uint64_t slot) { write(slot, {}); }

void SlotIndex::sync() {
  if (fdatasync(file_.fd()) != 0) { memory::throw_io(path_, "fdatasync", errno); }
}

}  // namespace kvbm::prefix
