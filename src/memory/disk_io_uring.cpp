// SPDX-License-Identifier: Apache-2.0
#include <fmt/format.h>

#include <algorithm>
#include <cerrno>
#include <utility>

#include "kvbm/core/error.hpp"
#include "kvbm/core/log.hpp"
#include "memory/disk_engines.hpp"

#if KVBM_HAVE_URING
#include <liburing.h>
#include <sys/uio.h>
#endif

namespace kvbm::memory {

#if KVBM_HAVE_URING

namespace {

class Ring {
 public:
  // Throws nothing: error() tells.
  explicit Ring(unsigned depth) noexcept
      : error_(-io_uring_queue_init(depth, &ring_, IORING_SETUP_CLAMP)) {}
  ~Ring() {
    if (error_ == 0) { io_uring_queue_exit(&ring_); }
  }
  Ring(Ring const&) = delete;
  Ring& operator=(Ring const&) = delete;

  [[nodiscard]] int error() const noexcept { return error_; }
  [[nodiscard]] io_uring* get() noexcept { return &ring_; }

 private:
  io_uring ring_{};
  int error_;
};

// Memory the kernel has pinned for this ring, in pieces of at most 1 GiB, its limit for one.
class RegisteredBuffers {
 public:
  void set(std::span<std::byte> buffer) {
    wanted_ = buffer;
    pending_ = true;
  }

  // Only while nothing is under way: older kernels wait for that inside the call.
  void apply(io_uring* ring) {
    if (!std::exchange(pending_, false)) { return; }
    if (!pieces_.empty()) {
      io_uring_unregister_buffers(ring);
      pieces_.clear();
    }
    active_ = wanted_;
    for (std::size_t at = 0; at < active_.size(); at += kPieceBytes) {
      pieces_.push_back({active_.data() + at, std::min(kPieceBytes, active_.size() - at)});
    }
    if (pieces_.empty()) { return; }
    int const result =
        io_uring_register_buffers(ring, pieces_.data(), static_cast<unsigned>(pieces_.size()));
    if (result < 0) {
      log::write(log::Level::Debug,
                 fmt::format("io_uring goes on without registered buffers: {} bytes: {}",
                             active_.size(), describe_errno(-result)));
      pieces_.clear();
    }
  }

  // Index of the piece that holds the range, or -1.
  [[nodiscard]] int find(std::byte const* memory, std::uint64_t bytes) const {
    auto const* const begin = active_.data();
    if (pieces_.empty() || memory < begin || memory >= begin + active_.size()) { return -1; }
    std::size_t const piece = static_cast<std::size_t>(memory - begin) / kPieceBytes;
    auto const* const end =
        static_cast<std::byte const*>(pieces_[piece].iov_base) + pieces_[piece].iov_len;
    return bytes <= static_cast<std::uint64_t>(end - memory) ? static_cast<int>(piece) : -1;
  }

 private:
  static constexpr std::size_t kPieceBytes = std::size_t{1} << 30;
  std::span<std::byte> wanted_;
  std::span<std::byte> active_;  // what pieces_ are about: the kernel may not know wanted_ yet
  bool pending_ = false;
  std::vector<iovec> pieces_;
};

class UringQueue final : public DiskQueue {
 public:
  explicit UringQueue(unsigned depth) : ring_(depth), chunks_(depth), free_(depth) {
    if (ring_.error() != 0) {
      throw_error(ErrorCode::Io,
                  fmt::format("io_uring_queue_init({}): {}", depth, describe_errno(ring_.error())),
                  ring_.error());
    }
    for (unsigned i = 0; i < depth; ++i) {
      free_[i] = depth - 1 - i;
    }
  }

  ~UringQueue() override {
    // The kernel must not write into memory that its owner takes back.
    try {
      wait_for_all();
    } catch (...) {
      log::write(log::Level::Error, "io_uring failed while requests were under way");
    }
  }
  UringQueue(UringQueue const&) = delete;
  UringQueue& operator=(UringQueue const&) = delete;

  void start(std::span<DiskRequest const> requests) override {
    for (auto const& request : requests) {
      std::uint64_t const chunks = (request.bytes + kDiskChunkBytes - 1) / kDiskChunkBytes;
      requests_.push_back({request, chunks, 0});
      if (chunks == 0) { end_request(requests_.size() - 1); }
    }
    reap();
    fill();
    submit(0);
  }

  std::size_t wait_some(std::vector<DiskCompletion>& done) override {
    reap();
    while (ended_.empty() && num_ended_ < requests_.size()) {
      turn();
    }
    // The device gets its next work before the caller looks at what it has done.
    fill();
    submit(0);
    for (std::size_t const index : ended_) {
      done.push_back({index, requests_[index].error});
    }
    std::size_t const count = ended_.size();
    ended_.clear();
    return count;
  }

  std::vector<int> finish() override {
    wait_for_all();
    std::vector<int> errors(requests_.size());
    std::transform(requests_.begin(), requests_.end(), errors.begin(),
                   [](Request const& request) { return request.error; });
    requests_.clear();
    ended_.clear();
    num_ended_ = 0;
    next_request_ = 0;
    next_offset_ = 0;
    return errors;
  }

  void register_buffer(std::span<std::byte> buffer) override { buffers_.set(buffer); }

 private:
  struct Request {
    DiskRequest request;
    std::uint64_t chunks_left = 0;
    int error = 0;
  };
  // What one submission queue entry is about.
  struct Chunk {
    std::size_t request = 0;
    DiskRequest part;  // what is left of it
    bool continued = false;
  };

  void end_request(std::size_t index) {
    ended_.push_back(index);
    ++num_ended_;
  }

  void wait_for_all() {
    while (num_ended_ < requests_.size()) {
      turn();
    }
  }

  // Gives the kernel what fits, waits for at least one completion, books all there are.
  void turn() {
    fill();
    submit(1);
    reap();
  }

  void fill() {
    if (free_.size() == chunks_.size() && retries_.empty()) { buffers_.apply(ring_.get()); }
    while (!retries_.empty()) {
      if (!push(retries_.back())) { return; }
      retries_.pop_back();
    }
    while (next_request_ < requests_.size() && !free_.empty()) {
      DiskRequest const& whole = requests_[next_request_].request;
      if (next_offset_ >= whole.bytes) {
        ++next_request_;
        next_offset_ = 0;
        continue;
      }
      unsigned const slot = free_.back();
      Chunk& chunk = chunks_[slot];
      chunk = {next_request_, whole, false};
      chunk.part.offset += next_offset_;
      chunk.part.memory += next_offset_;
      chunk.part.bytes = std::min(kDiskChunkBytes, whole.bytes - next_offset_);
      if (!push(slot)) { return; }
      free_.pop_back();
      next_offset_ += chunk.part.bytes;
    }
  }

  bool push(unsigned slot) {
    io_uring_sqe* const entry = io_uring_get_sqe(ring_.get());
    if (entry == nullptr) { return false; }
    DiskRequest const& part = chunks_[slot].part;
    auto const bytes = static_cast<unsigned>(part.bytes);
    int const buffer = buffers_.find(part.memory, part.bytes);
    if (part.op == DiskRequest::Op::Read) {
      if (buffer >= 0) {
        io_uring_prep_read_fixed(entry, part.fd, part.memory, bytes, part.offset, buffer);
      } else {
        io_uring_prep_read(entry, part.fd, part.memory, bytes, part.offset);
      }
    } else if (buffer >= 0) {
      io_uring_prep_write_fixed(entry, part.fd, part.memory, bytes, part.offset, buffer);
    } else {
      io_uring_prep_write(entry, part.fd, part.memory, bytes, part.offset);
    }
    io_uring_sqe_set_data64(entry, slot);
    return true;
  }

  void submit(unsigned wait_for) {
    for (;;) {
      int const result = io_uring_submit_and_wait(ring_.get(), wait_for);
      if (result >= 0 || result == -EINTR) { return; }
      // Short of memory or of room for completions: those under way make some when they end.
      if (result == -EAGAIN || result == -EBUSY) {
        if (io_uring_cq_ready(ring_.get()) > 0) { return; }
        continue;
      }
      throw_error(ErrorCode::Io, fmt::format("io_uring_enter: {}", describe_errno(-result)),
                  -result);
    }
  }

  void reap() {
    io_uring_cqe* completion = nullptr;
    while (io_uring_peek_cqe(ring_.get(), &completion) == 0 && completion != nullptr) {
      auto const slot = static_cast<unsigned>(io_uring_cqe_get_data64(completion));
      int const result = completion->res;
      io_uring_cqe_seen(ring_.get(), completion);
      book(slot, result);
    }
  }

  void book(unsigned slot, int result) {
    Chunk& chunk = chunks_[slot];
    DiskRequest& part = chunk.part;
    bool const reading = part.op == DiskRequest::Op::Read;
    int error = 0;
    if (result == -EINTR || result == -EAGAIN || result == -ECANCELED) {
      // ECANCELED: the thread that submitted it has ended; nothing of ours cancels.
      retries_.push_back(slot);
      return;
    }
    if (result < 0) {
      // Direct I/O cannot go on from the odd position at which a file ends.
      error = result == -EINVAL && chunk.continued && reading ? ENODATA : -result;
    } else if (result == 0) {
      error = reading ? ENODATA : EIO;
    } else if (static_cast<std::uint64_t>(result) < part.bytes) {
      auto const moved = static_cast<std::uint64_t>(result);
      part.offset += moved;
      part.memory += moved;
      part.bytes -= moved;
      chunk.continued = true;
      retries_.push_back(slot);
      return;
    }
    Request& request = requests_[chunk.request];
    if (request.error == 0) { request.error = error; }
    free_.push_back(slot);
    if (--request.chunks_left == 0) { end_request(chunk.request); }
  }

  Ring ring_;
  RegisteredBuffers buffers_;
  std::vector<Request> requests_;
  std::vector<std::size_t> ended_;  // not yet named by wait_some()
  std::size_t num_ended_ = 0;
  std::size_t next_request_ = 0;   // the first with bytes that are not in a chunk yet ...
  std::uint64_t next_offset_ = 0;  // ... from here on
  std::vector<Chunk> chunks_;      // one a slot of the ring
  std::vector<unsigned> free_;
  std::vector<unsigned> retries_;
};

class UringDiskIo final : public DiskIo {
 public:
  UringDiskIo(DiskIoOptions const& options, std::string reason)
      : options_(options), reason_(std::move(reason)) {}

  [[nodiscard]] std::unique_ptr<DiskQueue> make_queue() override {
    return std::make_unique<UringQueue>(options_.queue_depth);
  }
  [[nodiscard]] DiskEngine engine() const noexcept override { return DiskEngine::IoUring; }
  [[nodiscard]] std::string reason() const override { return reason_; }
  [[nodiscard]] DiskIoOptions const& options() const noexcept override { return options_; }

 private:
  DiskIoOptions options_;
  std::string reason_;
};

}  // namespace

UringProbe probe_uring() {
  Ring ring(2);
  if (ring.error() != 0) { return {false, "io_uring_queue_init: " + describe_errno(ring.error())}; }
  io_uring_probe* const known = io_uring_get_probe_ring(ring.get());
  if (known == nullptr) { return {false, "io_uring: the kernel does not list its operations"}; }
  bool const complete = io_uring_opcode_supported(known, IORING_OP_READ) != 0 &&
                        io_uring_opcode_supported(known, IORING_OP_WRITE) != 0 &&
                        io_uring_opcode_supported(known, IORING_OP_READ_FIXED) != 0 &&
                        io_uring_opcode_supported(known, IORING_OP_WRITE_FIXED) != 0;
  io_uring_free_probe(known);
  if (!complete) { return {false, "io_uring: the kernel lacks read and write (needs Linux 5.6)"}; }
  io_uring_sqe* const entry = io_uring_get_sqe(ring.get());
  if (entry == nullptr) { return {false, "io_uring: no submission entry"}; }
  io_uring_prep_nop(entry);
  int const submitted = io_uring_submit_and_wait(ring.get(), 1);
  if (submitted < 0) { return {false, "io_uring_enter: " + describe_errno(-submitted)}; }
  return {true, "io_uring works here"};
}

std::shared_ptr<DiskIo> make_uring_disk_io(DiskIoOptions const& options, std::string reason) {
  return std::make_shared<UringDiskIo>(options, std::move(reason));
}

#else

UringProbe probe_uring() { return {false, "kvbm was built without liburing"}; }

std::shared_ptr<DiskIo> make_uring_disk_io(DiskIoOptions const& /*options*/,
                                           std::string /*reason*/) {
  throw UnsupportedError("kvbm was built without liburing");
}

#endif

}  // namespace kvbm::memory
