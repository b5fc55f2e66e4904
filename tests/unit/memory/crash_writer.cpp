// SPDX-License-Identifier: Apache-2.0
//
// Rewrites the extents of a block file in batches, generation after generation, until it is killed.
// Reports on stdout: B before a batch is started, S once its writes are under way, D when it is
// done.
//
// usage: crash_writer PATH IoUring|Threads 0|1 EXTENTS_PER_BATCH
#include <unistd.h>

#include <cstdint>
#include <cstdio>
#include <string>
#include <vector>

#include "kvbm/memory/block_file.hpp"
#include "kvbm/memory/disk_io.hpp"
#include "unit/memory/extent_pattern.hpp"

namespace {

using namespace kvbm::memory;

void report(char what) {
  if (write(STDOUT_FILENO, &what, 1) != 1) { _exit(3); }
}

int run(char** argv) {
  DiskIoOptions options;
  options.engine = std::string(argv[2]) == to_string(DiskEngine::IoUring) ? DiskEngine::IoUring
                                                                          : DiskEngine::Threads;
  options.allow_direct = std::string(argv[3]) == "1";
  auto const io = make_disk_io(options);
  auto const file = BlockFile::open(argv[1], OpenMode::ReadWrite, io);
  auto const group = file->groups().front();
  std::uint64_t const batch = std::stoul(argv[4]);
  test::AlignedBuffer const buffer(batch * group.extent_stride);
  BlockFile::Queue queue(io);
  std::vector<ExtentIo> extents(batch);
  for (std::uint64_t generation = 1;; ++generation) {
    for (std::uint64_t first = 0; first < group.count; first += batch) {
      for (std::uint64_t i = 0; i < batch; ++i) {
        auto* const memory = buffer.data() + i * group.extent_stride;
        test::fill_pattern({memory, group.extent_bytes}, first + i, generation);
        extents[i] = {0, first + i, memory, group.extent_stride};
      }
      report('B');
      queue.start_write(file, extents);
      report('S');
      for (auto const& error : queue.finish()) {
        if (error != nullptr) { std::rethrow_exception(error); }
      }
      report('D');
    }
  }
}

}  // namespace

int main(int argc, char** argv) {
  if (argc != 5) { return 2; }
  try {
    return run(argv);
  } catch (std::exception const& error) {
    std::fprintf(stderr, "crash_writer: %s\n", error.what());
    return 1;
  }
}
