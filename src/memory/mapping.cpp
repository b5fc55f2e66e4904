// SPDX-License-Identifier: Apache-2.0
#include "memory/mapping.hpp"

#include <sys/mman.h>
#include <unistd.h>

#include <cerrno>

#include "kvbm/core/checked.hpp"

namespace kvbm::memory {

std::uint64_t page_bytes() {
  static auto const bytes = static_cast<std::uint64_t>(sysconf(_SC_PAGESIZE));
  return bytes;
}

Mapping& Mapping::operator=(Mapping&& other) noexcept {
  if (this != &other) {
    unmap();
    data_ = std::exchange(other.data_, nullptr);
    bytes_ = std::exchange(other.bytes_, 0);
  }
  return *this;
}

void Mapping::unmap() noexcept {
  if (data_ != nullptr) { munmap(std::exchange(data_, nullptr), std::exchange(bytes_, 0)); }
}

Mapping Mapping::try_make(std::uint64_t bytes, std::uint64_t alignment, std::uint64_t remainder,
                          int& error) {
  std::uint64_t const slack = alignment > page_bytes() ? alignment : 0;
  std::uint64_t const mapped = checked_add(bytes, slack);
  Mapping mapping;
  void* const base =
      mmap(nullptr, mapped, PROT_READ | PROT_WRITE, MAP_PRIVATE | MAP_ANONYMOUS, -1, 0);
  error = base == MAP_FAILED ? errno : 0;
  if (error != 0) { return mapping; }
  auto* const first = static_cast<std::byte*>(base);
  auto const address = reinterpret_cast<std::uintptr_t>(base);
  std::uint64_t const skip =
      slack == 0 ? 0 : (alignment + remainder - address % alignment) % alignment;
  mapping.data_ = first + skip;
  mapping.bytes_ = bytes;
  if (skip > 0) { munmap(first, skip); }
  if (slack > skip) { munmap(mapping.data_ + bytes, slack - skip); }
  return mapping;
}

int Mapping::replace(FileHandle const& file, std::uint64_t offset) noexcept {
  if (mmap(data_, bytes_, PROT_READ | PROT_WRITE, MAP_SHARED | MAP_FIXED, file.fd(),
           static_cast<off_t>(offset)) == data_) {
    return 0;
  }
  int const error = errno;
  // The kernel may have unmapped the range before it failed, and given it to another thread since:
  // better to lose addresses than to unmap somebody else's memory.
  data_ = nullptr;
  bytes_ = 0;
  return error;
}

void Mapping::advise_huge_pages() const noexcept {
  if (bytes_ >= kHugePageBytes) { madvise(data_, bytes_, MADV_HUGEPAGE); }
}

}  // namespace kvbm::memory
