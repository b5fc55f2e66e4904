// SPDX-License-Identifier: Apache-2.0
#include "raw_disk.hpp"

#include <fcntl.h>
#include <fmt/format.h>
#include <unistd.h>

#include <algorithm>
#include <cerrno>
#include <cstring>
#include <random>

#include "kvbm/core/checked.hpp"
#include "kvbm/core/error.hpp"
#include "kvbm/memory/block_file.hpp"
#include "measure.hpp"

namespace kvbm::cli {
namespace {

using memory::DiskRequest;
using memory::kFileAlignment;

constexpr std::uint64_t kMemoryBytes = std::uint64_t{64} << 20U;

memory::Region ring(memory::MemorySource& source, std::uint64_t piece_bytes, std::uint64_t pieces) {
  memory::AllocationRequest request;
  request.kind = memory::StorageKind::Pinned;
  request.alignment = kFileAlignment;
  request.bytes =
      piece_bytes * std::min(pieces, std::max<std::uint64_t>(1, kMemoryBytes / piece_bytes));
  auto region = source.allocate(request);
  // Storage may compress or share what repeats, so the bytes are as random as real blocks.
  std::mt19937_64 random(1);
  for (std::uint64_t i = 0; i < region.bytes(); i += sizeof(std::uint64_t)) {
    std::uint64_t const word = random();
    std::memcpy(region.host_data() + i, &word, sizeof word);
  }
  return region;
}

}  // namespace

RawDisk::RawDisk(std::shared_ptr<memory::DiskIo> io, memory::MemorySource& source,
                 std::filesystem::path const& folder, std::uint64_t piece_bytes,
                 std::uint64_t pieces)
    : io_(std::move(io)),
      path_(folder / fmt::format("kvbm-raw-{}", ::getpid())),
      piece_bytes_(checked_align_up(piece_bytes, kFileAlignment)),
      pieces_(pieces),
      memory_(ring(source, piece_bytes_, pieces)),
      queue_(io_->make_queue()) {
  int const flags = O_RDWR | O_CREAT | O_TRUNC | O_CLOEXEC;
  if (io_->options().allow_direct) { fd_ = ::open(path_.c_str(), flags | O_DIRECT, 0600); }
  direct_ = fd_ >= 0;
  if (!direct_) {
    reason_ = io_->options().allow_direct ? "open with O_DIRECT: " + describe_errno(errno)
                                          : std::string("not asked for");
    fd_ = ::open(path_.c_str(), flags, 0600);
  }
  KVBM_EXPECTS(fd_ >= 0, Io,
               fmt::format("cannot create {}: {}; name a writable folder with --path",
                           path_.string(), describe_errno(errno)));
  queue_->register_buffer({memory_.host_data(), memory_.bytes()});
  if (::posix_fallocate(fd_, 0, static_cast<off_t>(bytes())) == ENOSPC) {
    ::close(fd_);
    ::unlink(path_.c_str());
    throw Error(ErrorCode::Io,
                fmt::format("no room for {} bytes in {}: free some or name another with --path",
                            bytes(), folder.string()),
                ENOSPC);
  }
}

RawDisk::~RawDisk() {
  queue_.reset();
  ::close(fd_);
  ::unlink(path_.c_str());
}

double RawDisk::read() {
  if (!written_) { write(); }  // what was only preallocated is not read from the disk at all
  return move(DiskRequest::Op::Read);
}

double RawDisk::move(DiskRequest::Op op) {
  std::vector<DiskRequest> requests;
  requests.reserve(pieces_);
  for (std::uint64_t i = 0; i < pieces_; ++i) {
    requests.push_back({op, fd_, i * piece_bytes_,
                        memory_.host_data() + (i * piece_bytes_) % memory_.bytes(), piece_bytes_});
  }
  std::vector<int> errors;
  double const elapsed = seconds([&] {
    queue_->start(requests);
    errors = queue_->finish();
  });
  for (int const error : errors) {
    KVBM_EXPECTS(error == 0, Io, fmt::format("{}: {}", path_.string(), describe_errno(error)));
  }
  written_ = written_ || op == DiskRequest::Op::Write;
  return elapsed;
}

}  // namespace kvbm::cli
