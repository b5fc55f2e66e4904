// SPDX-License-Identifier: Apache-2.0
#include "kvbm/memory/block_file.hpp"

#include <fmt/format.h>
#include <unistd.h>

#include <array>
#include <cerrno>
#include <cstdio>
#include <utility>

#include "kvbm/core/error.hpp"
#include "kvbm/memory/disk_io.hpp"
#include "memory/block_file_impl.hpp"

namespace kvbm::memory {

void remove_block_file(BlockFilePaths const& paths) noexcept {
  if (std::rename(paths.data.c_str(), paths.creating.c_str()) != 0) { return; }
  ::unlink(paths.manifest.c_str());
  ::unlink(paths.table.c_str());
  ::unlink(paths.creating.c_str());
}

BlockFile::Impl::~Impl() {
  if (!remove_on_close_) { return; }
  // A name that leads to somebody else's file by now is left alone.
  if (leads_to(paths_.data, data_.buffered)) { remove_block_file(paths_); }
}

std::uint64_t BlockFile::Impl::record_of(std::uint32_t group, std::uint64_t extent) const {
  KVBM_EXPECTS(
      group < manifest_.groups.size(), OutOfRange,
      fmt::format("{}: group {} of {}", paths_.data.string(), group, manifest_.groups.size()));
  KVBM_EXPECTS(extent < manifest_.groups[group].count, OutOfRange,
               fmt::format("{}: extent {} of {} in group {}", paths_.data.string(), extent,
                           manifest_.groups[group].count, group));
  return geometry_.first_record[group] + extent;
}

DiskRequest BlockFile::Impl::make_request(DiskRequest::Op op, ExtentIo const& io) const {
  ExtentGroup const& group = manifest_.groups[io.group];
  DiskRequest request;
  request.op = op;
  request.offset = group.file_offset + io.extent * group.extent_stride;
  request.memory = io.memory;
  // The bytes between an extent and the next multiple belong to nobody: strides are multiples.
  std::uint64_t const padded = (group.extent_bytes + kFileAlignment - 1) & ~(kFileAlignment - 1);
  bool const aligned = reinterpret_cast<std::uintptr_t>(io.memory) % kFileAlignment == 0;
  bool const direct = data_.direct && aligned && io.memory_bytes >= padded;
  request.fd = direct ? data_.direct.fd() : data_.buffered.fd();
  request.bytes = direct ? padded : group.extent_bytes;
  return request;
}

std::string BlockFile::Impl::name_of(std::uint32_t group, std::uint64_t extent) const {
  return fmt::format("{}: extent {} of group {}", paths_.data.string(), extent, group);
}

BlockFile::BlockFile(std::unique_ptr<Impl> impl) : impl_(std::move(impl)) {}
BlockFile::~BlockFile() = default;

std::filesystem::path const& BlockFile::path() const noexcept { return impl_->paths_.data; }
std::string const& BlockFile::metadata() const noexcept { return impl_->manifest_.metadata; }
std::vector<ExtentGroup> const& BlockFile::groups() const noexcept {
  return impl_->manifest_.groups;
}
OpenMode BlockFile::mode() const noexcept { return impl_->mode_; }
bool BlockFile::is_direct() const noexcept { return static_cast<bool>(impl_->data_.direct); }
std::string const& BlockFile::direct_reason() const noexcept { return impl_->data_.direct_reason; }
int BlockFile::direct_fd() const noexcept { return impl_->data_.direct.fd(); }
std::shared_ptr<DiskIo> const& BlockFile::io() const noexcept { return impl_->io_; }
std::string BlockFile::name() const { return impl_->paths_.data.string(); }
bool BlockFile::is_writable() const noexcept { return impl_->mode_ == OpenMode::ReadWrite; }
std::unique_ptr<ExtentQueue> BlockFile::make_queue() { return std::make_unique<Queue>(impl_->io_); }
void const* BlockFile::family() const noexcept { return impl_->io_.get(); }

std::optional<Checksum> BlockFile::checksum(std::uint32_t group, std::uint64_t extent) const {
  auto const entry = impl_->table_.find(impl_->record_of(group, extent));
  if (entry.state != ExtentState::Valid) { return std::nullopt; }
  return entry.checksum;
}

ExtentStatus BlockFile::status(std::uint32_t group, std::uint64_t extent) const {
  switch (impl_->table_.find(impl_->record_of(group, extent)).state) {
    case ExtentState::Empty: return ExtentStatus::Empty;
    case ExtentState::Writing: return ExtentStatus::Torn;
    case ExtentState::Valid: return ExtentStatus::Written;
    case ExtentState::Damaged: return ExtentStatus::Damaged;
  }
  return ExtentStatus::Unknown;
}

StoreSpace BlockFile::space() const {
  auto const counts = impl_->table_.count();
  StoreSpace space;
  space.extents_total = impl_->geometry_.num_extents;
  space.extents_written = counts.valid;
  space.extents_torn = counts.writing;
  space.extents_damaged = counts.damaged;
  constexpr std::uint64_t kStatBlock = 512;
  auto const data = impl_->data_.buffered.status(impl_->paths_.data);
  space.bytes_allocated =
      static_cast<std::uint64_t>(data.st_blocks) * kStatBlock + impl_->table_.allocated_bytes();
  FileSystemRoom const room = room_of(impl_->data_.buffered, impl_->paths_.data);
  space.file_system_free = room.free;
  space.file_system_total = room.total;
  return space;
}

void BlockFile::invalidate(std::uint32_t group, std::uint64_t extent) {
  KVBM_EXPECTS(impl_->mode_ == OpenMode::ReadWrite, InvalidArgument,
               fmt::format("{} was opened read-only", impl_->paths_.data.string()));
  int const error = impl_->table_.clear(impl_->record_of(group, extent));
  if (error != 0) { throw_io(impl_->paths_.table, "write", error); }
}

void BlockFile::sync() {
  // Data first: a record that promises data must not survive it.
  if (fdatasync(impl_->data_.buffered.fd()) != 0) {
    throw_io(impl_->paths_.data, "fdatasync", errno);
  }
  if (int const error = impl_->table_.sync(); error != 0) {
    throw_io(impl_->paths_.table, "fdatasync", error);
  }
}

}  // namespace kvbm::memory
