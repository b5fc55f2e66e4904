// SPDX-License-Identifier: Apache-2.0
//
// What GPUDirect Storage does on this machine: whether cuFile starts and how, what plain reads and
// writes of a file from and to a GPU's memory reach, and the library's two strategies beside each
// other. Prints Markdown.
//
//   kvbm_bench_storage [FOLDER [MIB [ROUNDS]]]

#include <cuda_runtime_api.h>
#include <fcntl.h>
#include <sys/vfs.h>
#include <unistd.h>

#include <algorithm>
#include <array>
#include <atomic>
#include <chrono>
#include <cstdint>
#include <cstdio>
#include <cstdlib>
#include <exception>
#include <filesystem>
#include <memory>
#include <numeric>
#include <stdexcept>
#include <string>
#include <thread>
#include <vector>

#include "kvbm/device/direct_storage.hpp"
#include "kvbm/kvbm.hpp"

namespace {

using namespace kvbm;
namespace fs = std::filesystem;
using Clock = std::chrono::steady_clock;

double seconds_since(Clock::time_point begin) {
  return std::chrono::duration<double>(Clock::now() - begin).count();
}

void check(cudaError_t error, char const* what) {
  if (error != cudaSuccess) {
    throw std::runtime_error(std::string(what) + ": " + cudaGetErrorString(error));
  }
}

struct Options {
  fs::path folder = fs::temp_directory_path();
  std::uint64_t bytes = std::uint64_t{512} << 20U;
  int rounds = 3;
};

/// GPU memory, and the bytes that should be in it.
struct Memory {
  std::byte* device = nullptr;
  std::vector<std::uint64_t> words;

  explicit Memory(std::uint64_t bytes) : words(bytes / 8) {
    for (std::uint64_t i = 0; i < words.size(); ++i) {
      words[i] = (i + 1) * 0x9E3779B97F4A7C15U;
    }
    void* memory = nullptr;
    check(cudaMalloc(&memory, bytes), "cudaMalloc");
    device = static_cast<std::byte*>(memory);
    fill();
  }
  ~Memory() { static_cast<void>(cudaFree(device)); }
  Memory(Memory const&) = delete;
  Memory& operator=(Memory const&) = delete;

  [[nodiscard]] std::uint64_t bytes() const { return words.size() * 8; }
  void fill() const {
    check(cudaMemcpy(device, words.data(), bytes(), cudaMemcpyHostToDevice), "cudaMemcpy");
  }
  void clear() const {
    check(cudaMemset(device, 0, bytes()), "cudaMemset");
    check(cudaDeviceSynchronize(), "cudaDeviceSynchronize");
  }
  [[nodiscard]] bool is_right() const {
    std::vector<std::uint64_t> found(words.size());
    check(cudaMemcpy(found.data(), device, bytes(), cudaMemcpyDeviceToHost), "cudaMemcpy");
    return found == words;
  }
};

/// Calls `move(offset)` for every piece, by several threads. @return GB/s
template <typename Move>
double rate(std::uint64_t bytes, std::uint64_t piece, unsigned num_threads, Move const& move) {
  std::atomic<std::uint64_t> next{0};
  std::atomic<bool> failed{false};
  std::exception_ptr error;
  auto const begin = Clock::now();
  {
    std::vector<std::jthread> threads;
    for (unsigned i = 0; i < num_threads; ++i) {
      threads.emplace_back([&] {
        try {
          check(cudaSetDevice(0), "cudaSetDevice");
          for (std::uint64_t at = next.fetch_add(piece); at < bytes && !failed;
               at = next.fetch_add(piece)) {
            move(at);
          }
        } catch (...) {
          if (!failed.exchange(true)) { error = std::current_exception(); }
        }
      });
    }
  }
  double const seconds = seconds_since(begin);
  if (error != nullptr) { std::rethrow_exception(error); }
  return static_cast<double>(bytes) / seconds / 1e9;
}

void raw_row(Options const& options, Memory const& memory, device::StorageFile const& file,
             std::uint64_t piece, unsigned num_threads, char const* buffers) {
  double write = 0;
  double read = 0;
  bool right = true;
  for (int round = 0; round < options.rounds; ++round) {
    memory.fill();
    write = std::max(write, rate(memory.bytes(), piece, num_threads, [&](std::uint64_t at) {
                       file.write(at, memory.device + at, piece);
                     }));
    memory.clear();
    read = std::max(read, rate(memory.bytes(), piece, num_threads, [&](std::uint64_t at) {
                      file.read(at, memory.device + at, piece);
                    }));
    right = right && memory.is_right();
  }
  std::printf("| cuFile, %s | %llu KiB | %u | %.2f | %.2f | %s |\n", buffers,
              static_cast<unsigned long long>(piece >> 10U), num_threads, write, read,
              right ? "equal" : "DIFFERENT");
}

/// The two hops by hand: O_DIRECT into pinned memory, and a copy, in the same thread.
void two_hop_row(Options const& options, Memory const& memory, int fd, std::uint64_t piece,
                 unsigned num_threads) {
  struct Pinned {
    void* bytes = nullptr;
    explicit Pinned(std::uint64_t size) { check(cudaMallocHost(&bytes, size), "cudaMallocHost"); }
    ~Pinned() { static_cast<void>(cudaFreeHost(bytes)); }
    Pinned(Pinned const&) = delete;
    Pinned& operator=(Pinned const&) = delete;
  };
  std::vector<std::unique_ptr<Pinned>> pinned(num_threads);
  for (auto& one : pinned) {
    one = std::make_unique<Pinned>(piece);
  }
  std::atomic<unsigned> next{0};
  auto const mine = [&]() -> void* {
    thread_local void* bytes = nullptr;
    thread_local std::thread::id owner;
    if (owner != std::this_thread::get_id()) {
      owner = std::this_thread::get_id();
      bytes = pinned[next++ % num_threads]->bytes;
    }
    return bytes;
  };
  auto const expect = [piece](ssize_t moved) {
    if (moved != static_cast<ssize_t>(piece)) { throw std::runtime_error("a short transfer"); }
  };
  double write = 0;
  double read = 0;
  bool right = true;
  for (int round = 0; round < options.rounds; ++round) {
    memory.fill();
    write = std::max(write, rate(memory.bytes(), piece, num_threads, [&](std::uint64_t at) {
                       check(cudaMemcpy(mine(), memory.device + at, piece, cudaMemcpyDeviceToHost),
                             "cudaMemcpy");
                       expect(pwrite(fd, mine(), piece, static_cast<off_t>(at)));
                     }));
    memory.clear();
    read = std::max(read, rate(memory.bytes(), piece, num_threads, [&](std::uint64_t at) {
                      expect(pread(fd, mine(), piece, static_cast<off_t>(at)));
                      check(cudaMemcpy(memory.device + at, mine(), piece, cudaMemcpyHostToDevice),
                            "cudaMemcpy");
                    }));
    right = right && memory.is_right();
  }
  std::printf("| O_DIRECT and cudaMemcpy | %llu KiB | %u | %.2f | %.2f | %s |\n",
              static_cast<unsigned long long>(piece >> 10U), num_threads, write, read,
              right ? "equal" : "DIFFERENT");
}

void raw(Options const& options, device::DirectStorage& storage) {
  fs::path const path = options.folder / "kvbm_bench_storage.raw";
  int const fd = ::open(path.c_str(), O_RDWR | O_CREAT | O_TRUNC | O_DIRECT | O_CLOEXEC, 0600);
  if (fd < 0) { throw std::runtime_error("cannot open " + path.string() + " with O_DIRECT"); }
  fs::remove(path);
  if (posix_fallocate(fd, 0, static_cast<off_t>(options.bytes)) != 0) {
    throw std::runtime_error("cannot preallocate " + path.string());
  }
  Memory const memory(options.bytes);
  std::printf(
      "\n| way | piece | threads | write GB/s | read GB/s | bytes |\n|---|---|---|---|---|---|\n");
  constexpr std::array<std::uint64_t, 2> kPieces{64U << 10U, 1U << 20U};
  constexpr std::array<unsigned, 2> kThreads{1, 16};
  for (auto const piece : kPieces) {
    for (auto const num_threads : kThreads) {
      two_hop_row(options, memory, fd, piece, num_threads);
    }
  }
  if (storage.info().mode != device::DirectStorageMode::Refused) {
    try {
      auto const file = storage.register_file(fd, path.string());
      for (bool const registered : {false, true}) {
        std::shared_ptr<void const> buffer;
        if (registered) { buffer = storage.register_buffer(memory.device, memory.bytes()); }
        for (auto const piece : kPieces) {
          for (auto const num_threads : kThreads) {
            raw_row(options, memory, *file, piece, num_threads,
                    registered ? "registered" : "not registered");
          }
        }
      }
    } catch (std::exception const& error) { std::printf("\ncuFile: %s\n\n", error.what()); }
  }
  ::close(fd);
}

void library_rows(Options const& options, TransferManager& manager, std::uint64_t block_bytes) {
  std::uint64_t const num_blocks = options.bytes / block_bytes;
  auto const config = LayoutConfig::builder()
                          .num_blocks(num_blocks)
                          .num_layers(4)
                          .page_size(16)
                          .inner_dim(block_bytes / 4 / 2 / 16 / 2)
                          .num_heads(8)
                          .dtype_width_bytes(2)
                          .alignment(4096)
                          .build();
  auto const device = manager.register_layout(
      manager.layout_builder().config(config).fully_contiguous().allocate_device(0).build());
  auto const file =
      manager.register_layout(manager.layout_builder()
                                  .config(config)
                                  .fully_contiguous()
                                  .allocate_disk(options.folder / "kvbm_bench_storage.kvbm")
                                  .build());
  std::vector<BlockId> ids(num_blocks);
  std::iota(ids.begin(), ids.end(), BlockId{0});
  transfer::FillPattern pattern;
  pattern.kind = transfer::FillPattern::Kind::Hashed;
  manager.fill_blocks(device, ids, pattern);
  auto const expected = manager.block_checksums(device, ids);
  for (auto const strategy : {transfer::Strategy::StagedFile, transfer::Strategy::DirectStorage}) {
    auto const how = TransferOptions::builder().strategy(strategy).build();
    double write = 0;
    double read = 0;
    bool right = true;
    auto const moved = static_cast<double>(num_blocks * block_bytes) / 1e9;
    try {
      for (int round = 0; round < options.rounds; ++round) {
        auto begin = Clock::now();
        manager.execute_transfer(device, ids, file, ids, how).wait();
        write = std::max(write, moved / seconds_since(begin));
        manager.fill_blocks(device, ids, {});
        begin = Clock::now();
        manager.execute_transfer(file, ids, device, ids, how).wait();
        read = std::max(read, moved / seconds_since(begin));
        right = right && manager.block_checksums(device, ids) == expected;
      }
      std::printf("| %s | %llu KiB | %.2f | %.2f | %s |\n",
                  std::string(transfer::to_string(strategy)).c_str(),
                  static_cast<unsigned long long>(block_bytes >> 10U), write, read,
                  right ? "equal" : "DIFFERENT");
    } catch (std::exception const& error) {
      std::printf("| %s | %llu KiB | | | %s |\n",
                  std::string(transfer::to_string(strategy)).c_str(),
                  static_cast<unsigned long long>(block_bytes >> 10U), error.what());
    }
  }
  std::vector<BlockId> const one{0};
  std::fputs(manager.explain_transfer(file, one, device, one).to_string().c_str(), stderr);
  manager.unregister_layout(file);
  manager.unregister_layout(device);
  for (char const* const suffix : {"", ".blocks", ".manifest"}) {
    fs::remove(options.folder / (std::string("kvbm_bench_storage.kvbm") + suffix));
  }
}

void library(Options const& options) {
  transfer::TransferCapabilities capabilities;
  capabilities.allow_gds = true;
  auto manager = TransferManager::builder().cuda_device_id(0).capabilities(capabilities).build();
  std::printf("\n| strategy | block | write GB/s | read GB/s | bytes |\n|---|---|---|---|---|\n");
  for (std::uint64_t const block : {64U << 10U, 1U << 20U, 4U << 20U}) {
    library_rows(options, manager, block);
  }
}

int run(Options const& options) {
  struct statfs system{};
  static_cast<void>(statfs(options.folder.c_str(), &system));
  auto const begin = Clock::now();
  auto const& storage = device::direct_storage();
  auto const& info = storage->info();
  std::printf("- %s: %s\n- library %s, version %d, start %.2f s, probe %.2f s\n",
              std::string(device::to_string(info.mode)).c_str(), info.reason.c_str(),
              info.library.c_str(), info.version, info.open_seconds, seconds_since(begin));
  std::printf("- with_gds_if_supported: %s\n",
              transfer::TransferCapabilities{}.with_gds_if_supported().allow_gds ? "yes" : "no");
  std::printf("- %s, file system 0x%lx, %llu MiB, best of %d\n", options.folder.c_str(),
              static_cast<unsigned long>(system.f_type),
              static_cast<unsigned long long>(options.bytes >> 20U), options.rounds);
  std::fflush(stdout);
  raw(options, *storage);
  std::fflush(stdout);
  library(options);
  return 0;
}

}  // namespace

int main(int argc, char** argv) {
  try {
    Options options;
    if (argc > 1) { options.folder = argv[1]; }
    if (argc > 2) { options.bytes = std::stoull(argv[2]) << 20U; }
    if (argc > 3) { options.rounds = std::stoi(argv[3]); }
    return run(options);
  } catch (std::exception const& error) {
    std::fprintf(stderr, "kvbm_bench_storage: %s\n", error.what());
    return 1;
  }
}
