// SPDX-License-Identifier: Apache-2.0
#include <algorithm>
#include <cstring>
#include <filesystem>
#include <system_error>

#include "kvbm/core/error.hpp"
#include "plain_copies.hpp"
#include "process.hpp"

namespace kvbm::cli {
namespace {

class PlainHost final : public PlainCopies {
 public:
  void copy(void* dst, void const* src, std::uint64_t bytes, transfer::LinkDirection /*direction*/,
            unsigned /*lane*/) override {
    std::memcpy(dst, src, bytes);
  }
  void copy_each(CopyList const& list, transfer::LinkDirection /*direction*/) override {
    copy_all(list);
  }
  [[nodiscard]] bool has_batch() const override { return true; }
  void copy_batch(CopyList const& list) override { copy_all(list); }
  void prepare_kernel(CopyList const& list) override { prepared_ = list; }
  void copy_kernel(transfer::LinkDirection /*direction*/) override { copy_all(prepared_); }
  void synchronize(unsigned /*lane*/) override {}
  std::unique_ptr<GemmLoop> make_gemm(std::string const& /*library*/, int /*m*/, int /*n*/,
                                      int /*k*/) override {
    throw UnsupportedError("no cuBLAS: an emulated device has none");
  }

 private:
  static void copy_all(CopyList const& list) {
    for (std::size_t i = 0; i < list.src.size(); ++i) {
      std::memcpy(list.dst[i], list.src[i], list.bytes);
    }
  }
  CopyList prepared_;
};

/// Folders of Python's packages, as Python itself names them.
std::vector<std::filesystem::path> python_folders() {
  std::vector<std::filesystem::path> folders;
  if (!has_program("python3")) { return folders; }
  auto const listed =
      run_process({"python3", "-c", "import sys; print('\\n'.join(p for p in sys.path if p))"});
  std::size_t begin = 0;
  while (begin < listed.output.size()) {
    auto const end = std::min(listed.output.find('\n', begin), listed.output.size());
    folders.emplace_back(listed.output.substr(begin, end - begin));
    begin = end + 1;
  }
  return folders;
}

}  // namespace

std::unique_ptr<PlainCopies> make_plain_host() { return std::make_unique<PlainHost>(); }

std::vector<std::string> cublas_candidates(std::string const& given) {
  if (!given.empty()) { return {given}; }
  std::vector<std::string> candidates{"libcublas.so.13", "libcublas.so.12",
                                      "/usr/local/cuda/lib64/libcublas.so"};
  for (auto const& folder : python_folders()) {
    for (char const* const part :
         {"nvidia/cu13/lib/libcublas.so.13", "nvidia/cublas/lib/libcublas.so.13",
          "nvidia/cublas/lib/libcublas.so.12"}) {
      std::error_code ignored;
      if (std::filesystem::exists(folder / part, ignored)) {
        candidates.push_back((folder / part).string());
      }
    }
  }
  return candidates;
}

}  // namespace kvbm::cli
