// SPDX-License-Identifier: Apache-2.0
//
// The program that the test kills at each of its system calls.
//
// usage: crash_steps_writer offload PATH IoUring|Threads 0|1 FD GENERATION
//        crash_steps_writer create PATH IoUring|Threads 0|1 FD PARTS
//
// FD: a CrashPage. "offload" overwrites the batches of crash_page.hpp in the store at PATH and
// ends; "create" makes one of PARTS files.
#include <sys/mman.h>

#include <cstdio>
#include <exception>
#include <new>
#include <string>
#include <vector>

#include "kvbm/memory/disk_io.hpp"
#include "kvbm/memory/striped_file.hpp"
#include "unit/memory/crash_page.hpp"
#include "unit/memory/extent_pattern.hpp"

namespace {

using namespace kvbm::memory;

void offload(std::string const& path, std::shared_ptr<DiskIo> const& io, test::CrashPage& page,
             std::uint64_t generation) {
  auto const store = open_block_store(path, OpenMode::ReadWrite, io);
  constexpr std::size_t kBatch = test::kCrashBatches[0].size();
  test::AlignedBuffer const buffer(kBatch * test::kCrashExtentStride);
  auto const queue = store->make_queue();
  queue->register_buffer(buffer.span());
  page.counting = 1;
  for (auto const& batch : test::kCrashBatches) {
    std::vector<ExtentIo> extents;
    for (std::size_t i = 0; i < batch.size(); ++i) {
      auto* const memory = buffer.data() + i * test::kCrashExtentStride;
      test::fill_pattern({memory, test::kCrashExtentBytes}, batch[i], generation);
      extents.push_back({0, batch[i], memory, test::kCrashExtentStride});
    }
    ++page.begun;
    queue->start_write(store, extents);
    for (auto const& error : queue->finish()) {
      if (error != nullptr) { std::rethrow_exception(error); }
    }
    ++page.done;
  }
  store->sync();
}

void create(std::string const& path, std::shared_ptr<DiskIo> const& io, test::CrashPage& page,
            std::size_t parts) {
  auto const paths = test::crash_paths(path, parts);
  page.counting = 1;
  if (parts == 1) {
    static_cast<void>(BlockFile::create({path, test::crash_groups(), "killed", false}, io));
  } else {
    static_cast<void>(StripedFile::create({paths, test::crash_groups(), "killed"}, io));
  }
  page.done = 1;
}

int run(char** argv) {
  void* const shared = mmap(nullptr, test::kCrashPageBytes, PROT_READ | PROT_WRITE, MAP_SHARED,
                            std::stoi(argv[5]), 0);
  if (shared == MAP_FAILED) { return 3; }
  auto& page = *static_cast<test::CrashPage*>(shared);
  DiskIoOptions options;
  options.engine = std::string(argv[3]) == to_string(DiskEngine::IoUring) ? DiskEngine::IoUring
                                                                          : DiskEngine::Threads;
  options.allow_direct = std::string(argv[4]) == "1";
  options.queue_depth = 8;
  options.num_threads = 3;
  auto const io = make_disk_io(options);
  if (std::string(argv[1]) == "create") {
    create(argv[2], io, page, std::stoull(argv[6]));
  } else {
    offload(argv[2], io, page, std::stoull(argv[6]));
  }
  return 0;
}

}  // namespace

int main(int argc, char** argv) {
  if (argc != 7) { return 2; }
  try {
    return run(argv);
  } catch (std::exception const& error) {
    std::fprintf(stderr, "crash_steps_writer: %s\n", error.what());
    return 1;
  }
}
