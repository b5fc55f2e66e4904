// SPDX-License-Identifier: Apache-2.0
#include "remote/exchange_file.hpp"

#include <fcntl.h>
#include <fmt/format.h>
#include <sys/stat.h>
#include <nlohmann/json.hpp>

#include <array>
#include <cerrno>
#include <cstring>
#include <string_view>

#include "kvbm/core/error.hpp"
#include "kvbm/core/types.hpp"
#include "kvbm/core/unique_fd.hpp"
#include "kvbm/remote/exchange.hpp"

namespace kvbm::remote {
namespace {

using Json = nlohmann::json;

constexpr std::string_view kMagic = "KVBMEXCH";
constexpr std::uint32_t kVersion = 1;
constexpr std::size_t kMaxOwnerBytes = 4096;

/// Little-endian integers one behind the other.
class Writer {
 public:
  explicit Writer(std::vector<std::byte>& out) : out_(out) {}
  void bytes(void const* data, std::size_t count) {
    auto const* const begin = static_cast<std::byte const*>(data);
    out_.insert(out_.end(), begin, begin + count);
  }
  template <class Integer>
  void integer(Integer value) {
    for (std::size_t i = 0; i < sizeof value; ++i) {
      out_.push_back(static_cast<std::byte>(value >> (8 * i)));
    }
  }
  void checksum(Checksum value) {
    integer(value.low);
    integer(value.high);
  }

 private:
  std::vector<std::byte>& out_;
};

/// The caller has checked that there are enough bytes.
class Reader {
 public:
  explicit Reader(std::span<std::byte const> bytes) : bytes_(bytes) {}
  template <class Integer>
  Integer integer() {
    Integer value = 0;
    for (std::size_t i = 0; i < sizeof value; ++i) {
      value |= static_cast<Integer>(static_cast<Integer>(bytes_[i]) << (8 * i));
    }
    bytes_ = bytes_.subspan(sizeof value);
    return value;
  }
  Checksum checksum() {
    auto const low = integer<std::uint64_t>();
    return {low, integer<std::uint64_t>()};
  }

 private:
  std::span<std::byte const> bytes_;
};

// magic, version, bytes of the owner, bytes and checksum of the metadata; the owner and the
// checksum of everything before it follow.
constexpr std::size_t kFixedBytes = 8 + 4 + 4 + 8 + 16;
constexpr std::size_t kChecksumBytes = 16;

std::string encode_owner(FileOwner const& owner) {
  return Json{{"host", owner.process.host},       {"machine_id", owner.process.machine_id},
              {"boot_id", owner.process.boot_id}, {"pid_namespace", owner.process.pid_namespace},
              {"pid", owner.process.pid},         {"start_time", owner.process.start_time},
              {"exchange_id", owner.exchange_id}}
      .dump(-1, ' ', true, Json::error_handler_t::replace);
}

FileOwner decode_owner(std::string_view text) {
  Json const json = Json::parse(text);
  FileOwner owner;
  json.at("host").get_to(owner.process.host);
  json.at("machine_id").get_to(owner.process.machine_id);
  json.at("boot_id").get_to(owner.process.boot_id);
  json.at("pid_namespace").get_to(owner.process.pid_namespace);
  json.at("pid").get_to(owner.process.pid);
  json.at("start_time").get_to(owner.process.start_time);
  json.at("exchange_id").get_to(owner.exchange_id);
  return owner;
}

[[noreturn]] void throw_io(std::filesystem::path const& path, std::string_view what, int error) {
  throw_error(ErrorCode::Io, fmt::format("{}: {}: {}", path.string(), what, describe_errno(error)),
              error);
}

void write_all(UniqueFd const& file, std::span<std::byte const> bytes,
               std::filesystem::path const& path) {
  while (!bytes.empty()) {
    ssize_t const moved = ::write(file.get(), bytes.data(), bytes.size());
    if (moved < 0 && errno == EINTR) { continue; }
    if (moved < 0) { throw_io(path, "write", errno); }
    bytes = bytes.subspan(static_cast<std::size_t>(moved));
  }
}

/// @return how many bytes there were, at most bytes.size()
std::size_t read_up_to(UniqueFd const& file, std::span<std::byte> bytes, std::size_t offset,
                       std::filesystem::path const& path) {
  std::size_t done = 0;
  while (done < bytes.size()) {
    ssize_t const moved = ::pread(file.get(), bytes.data() + done, bytes.size() - done,
                                  static_cast<off_t>(offset + done));
    if (moved < 0 && errno == EINTR) { continue; }
    if (moved < 0) { throw_io(path, "read", errno); }
    if (moved == 0) { break; }
    done += static_cast<std::size_t>(moved);
  }
  return done;
}

ExchangeFile::Result read_file(std::filesystem::path const& path, bool with_metadata) {
  using Damaged = ExchangeFile::Damaged;
  // What somebody else put there may be a link or a pipe: follow nothing, wait for nothing.
  UniqueFd const file(::open(path.c_str(), O_RDONLY | O_NOFOLLOW | O_NONBLOCK | O_CLOEXEC));
  if (!file) {
    if (errno == ENOENT || errno == ESTALE) { return ExchangeFile::Absent{}; }
    if (errno == ELOOP || errno == ENXIO) { return Damaged{"it is not a regular file"}; }
    throw_io(path, "open", errno);
  }
  struct stat status{};
  if (fstat(file.get(), &status) != 0) {
    if (errno == ESTALE) { return ExchangeFile::Absent{}; }
    throw_io(path, "fstat", errno);
  }
  if (!S_ISREG(status.st_mode)) { return Damaged{"it is not a regular file"}; }
  auto const file_bytes = static_cast<std::size_t>(status.st_size);

  std::vector<std::byte> head(kFixedBytes + kMaxOwnerBytes + kChecksumBytes);
  head.resize(read_up_to(file, head, 0, path));
  if (head.size() < kFixedBytes) {
    return Damaged{fmt::format("it ends after {} bytes, within its head", head.size())};
  }
  if (std::memcmp(head.data(), kMagic.data(), kMagic.size()) != 0) {
    return Damaged{"it does not begin like published metadata"};
  }
  Reader reader(std::span<std::byte const>(head).subspan(kMagic.size()));
  auto const version = reader.integer<std::uint32_t>();
  if (version != kVersion) { return ExchangeFile::OtherVersion{version}; }
  std::size_t const owner_bytes = reader.integer<std::uint32_t>();
  auto const metadata_bytes = reader.integer<std::uint64_t>();
  Checksum const metadata_checksum = reader.checksum();
  if (owner_bytes > kMaxOwnerBytes || metadata_bytes > kMaxMetadataBytes) {
    return Damaged{fmt::format("its head claims {} bytes of owner and {} of metadata", owner_bytes,
                               metadata_bytes)};
  }
  std::size_t const head_bytes = kFixedBytes + owner_bytes + kChecksumBytes;
  if (file_bytes != head_bytes + metadata_bytes || head.size() < head_bytes) {
    return Damaged{fmt::format("it has {} bytes, and its head says {}", file_bytes,
                               head_bytes + metadata_bytes)};
  }
  Reader trailer(std::span<std::byte const>(head).subspan(kFixedBytes + owner_bytes));
  if (checksum_bytes(head.data(), kFixedBytes + owner_bytes) != trailer.checksum()) {
    return Damaged{"the checksum of its head does not match"};
  }

  ExchangeFile::Found found;
  try {
    found.owner =
        decode_owner({reinterpret_cast<char const*>(head.data()) + kFixedBytes, owner_bytes});
  } catch (Json::exception const& error) {
    return Damaged{fmt::format("its owner cannot be read: {}", error.what())};
  }
  if (!with_metadata) { return found; }
  found.metadata.resize(metadata_bytes);
  if (read_up_to(file, found.metadata, head_bytes, path) != metadata_bytes) {
    return Damaged{"it became shorter while it was read"};
  }
  if (checksum_bytes(found.metadata.data(), metadata_bytes) != metadata_checksum) {
    return Damaged{"the checksum of its metadata does not match"};
  }
  return found;
}

}  // namespace

void ExchangeFile::write(std::filesystem::path const& path, FileOwner const& owner,
                         std::span<std::byte const> metadata) {
  std::string const who = encode_owner(owner);
  KVBM_EXPECTS(who.size() <= kMaxOwnerBytes, Internal,
               fmt::format("the owner of a published file takes {} bytes", who.size()));
  std::vector<std::byte> head;
  Writer writer(head);
  writer.bytes(kMagic.data(), kMagic.size());
  writer.integer(kVersion);
  writer.integer(static_cast<std::uint32_t>(who.size()));
  writer.integer(static_cast<std::uint64_t>(metadata.size()));
  writer.checksum(checksum_bytes(metadata.data(), metadata.size()));
  writer.bytes(who.data(), who.size());
  writer.checksum(checksum_bytes(head.data(), head.size()));

  constexpr mode_t kOwnerOnly = 0600;
  UniqueFd const file(::open(path.c_str(), O_WRONLY | O_CREAT | O_EXCL | O_CLOEXEC, kOwnerOnly));
  if (!file) { throw_io(path, "create", errno); }
  write_all(file, head, path);
  write_all(file, metadata, path);
  if (fsync(file.get()) != 0) { throw_io(path, "fsync", errno); }
}

ExchangeFile::Result ExchangeFile::read(std::filesystem::path const& path) {
  return read_file(path, true);
}

ExchangeFile::Result ExchangeFile::read_owner(std::filesystem::path const& path) {
  return read_file(path, false);
}

}  // namespace kvbm::remote
