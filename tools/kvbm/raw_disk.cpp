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

memory::DiskEngine parse_engine(std::string const& text) {
  if (text == "auto") { return memory::DiskEngine::Auto; }
  if (text == "io_uring") { return memory::DiskEngine::IoUring; }
  if (text == "threads") { return memory::DiskEngine::Threads; }
  throw Error(ErrorCode::InvalidArgument,
              fmt::format("--engine {}: say auto, io_uring or threads", text));
}

RawDisk::RawDisk(std::shared_ptr<memory::DiskIo> io, memory::MemorySource& source,
                 std::vector<std::filesystem::path> const& folders, std::uint64_t piece_bytes,
                 std::uint64_t pieces)
    : io_(std::move(io)),
      piece_bytes_(checked_align_up(piece_bytes, kFileAlignment)),
      pieces_(pieces),
      memory_(ring(source, piece_bytes_, pieces)),
      queue_(io_->make_queue()) {
  queue_->register_buffer({memory_.host_data(), memory_.bytes()});
  try {
    for (auto const& folder : folders) {
      open(folder, (pieces + folders.size() - 1) / folders.size());
    }
  } catch (...) {
    close();
    throw;
  }
}

RawDisk::~RawDisk() {
  queue_.reset();
  close();
}

void RawDisk::open(std::filesystem::path const& folder, std::uint64_t pieces) {
  File file{folder / fmt::format("kvbm-raw-{}-{}", ::getpid(), files_.size()), {}};
  int const flags = O_RDWR | O_CREAT | O_TRUNC | O_CLOEXEC;
  if (io_->options().allow_direct) {
    file.fd.reset(::open(file.path.c_str(), flags | O_DIRECT, 0600));
  }
  if (!file.fd) {
    direct_ = false;
    reason_ = io_->options().allow_direct ? "open with O_DIRECT: " + describe_errno(errno)
                                          : std::string("not asked for");
    file.fd.reset(::open(file.path.c_str(), flags, 0600));
  }
  KVBM_EXPECTS(file.fd, Io,
               fmt::format("cannot create {}: {}; name a writable folder with --path",
                           file.path.string(), describe_errno(errno)));
  files_.push_back(std::move(file));
  std::uint64_t const room = pieces * piece_bytes_;
  KVBM_EXPECTS(::posix_fallocate(files_.back().fd.get(), 0, static_cast<off_t>(room)) != ENOSPC, Io,
               fmt::format("no room for {} bytes in {}: free some or name another with --path",
                           room, folder.string()));
}

void RawDisk::close() noexcept {
  for (auto const& file : files_) {
    ::unlink(file.path.c_str());
  }
  files_.clear();
}

double RawDisk::read() {
  if (!written_) { write(); }  // what was only preallocated is not read from the disk at all
  return move(DiskRequest::Op::Read);
}

double RawDisk::move(DiskRequest::Op op) {
  std::vector<DiskRequest> requests;
  requests.reserve(pieces_);
  for (std::uint64_t i = 0; i < pieces_; ++i) {
    requests.push_back({op, files_[i % files_.size()].fd.get(), i / files_.size() * piece_bytes_,
                        memory_.host_data() + (i * piece_bytes_) % memory_.bytes(), piece_bytes_});
  }
  std::vector<int> errors;
  double const elapsed = seconds([&] {
    queue_->start(requests);
    errors = queue_->finish();
  });
  for (int const error : errors) {
    KVBM_EXPECTS(error == 0, Io,
                 fmt::format("{}: {}", files_.front().path.string(), describe_errno(error)));
  }
  written_ = written_ || op == DiskRequest::Op::Write;
  return elapsed;
}

}  // namespace kvbm::cli
