// SPDX-License-Identifier: Apache-2.0
#include "fio.hpp"

#include <fmt/format.h>
#include <nlohmann/json.hpp>

#include <algorithm>

#include "kvbm/core/error.hpp"
#include "process.hpp"

namespace kvbm::cli {

namespace {

/// fio separates files by colons.
std::string join(std::vector<std::filesystem::path> const& files) {
  std::string text;
  for (auto const& file : files) {
    if (!text.empty()) { text += ':'; }
    for (char const c : file.string()) {
      if (c == ':') { text += '\\'; }
      text += c;
    }
  }
  return text;
}

}  // namespace

bool has_fio() { return has_program("fio"); }

std::vector<std::string> fio_command(FioJob const& job) {
  bool const uring = job.engine == memory::DiskEngine::IoUring;
  // Threads share each file: each takes a part of its own, in whole blocks.
  std::uint64_t const files = std::max<std::size_t>(1, job.files.size());
  std::uint64_t const blocks = std::max<std::uint64_t>(1, job.blocks / files);
  std::uint64_t const jobs = uring ? 1 : std::clamp<std::uint64_t>(job.threads, 1, blocks);
  std::uint64_t const part = std::max<std::uint64_t>(1, blocks / jobs) * job.block_bytes;
  std::vector<std::string> command{"fio",
                                   "--name=kvbm",
                                   "--filename=" + join(job.files),
                                   fmt::format("--rw={}", job.write ? "write" : "read"),
                                   fmt::format("--ioengine={}", uring ? "io_uring" : "psync"),
                                   fmt::format("--iodepth={}", uring ? job.depth : 1),
                                   fmt::format("--numjobs={}", jobs),
                                   fmt::format("--direct={}", job.direct ? 1 : 0),
                                   fmt::format("--bs={}", job.block_bytes),
                                   fmt::format("--size={}", part * files),
                                   fmt::format("--offset_increment={}", part),
                                   "--thread",
                                   "--group_reporting",
                                   "--fallocate=posix",
                                   "--overwrite=1",
                                   "--output-format=json"};
  // kvbm registers its buffers too; without, fio would take its page faults while it measures.
  if (uring && job.fixed_buffers) { command.emplace_back("--fixedbufs=1"); }
  return command;
}

double run_fio(FioJob const& job) {
  auto result = run_process(fio_command(job));
  if (result.exit_code != 0 && job.fixed_buffers) {  // the limit of locked memory may be too low
    FioJob pageable = job;
    pageable.fixed_buffers = false;
    result = run_process(fio_command(pageable));
  }
  KVBM_EXPECTS(
      result.exit_code == 0, Io,
      fmt::format("fio ended with exit code {}; leave it out with --no-fio", result.exit_code));
  try {
    auto const begin = result.output.find('{');  // warnings may stand before the document
    auto const json =
        nlohmann::json::parse(result.output.substr(begin == std::string::npos ? 0 : begin));
    return json.at("jobs").at(0).at(job.write ? "write" : "read").at("bw_bytes").get<double>();
  } catch (nlohmann::json::exception const& error) {
    throw Error(ErrorCode::Io, fmt::format("cannot read what fio printed ({}); leave it out with "
                                           "--no-fio",
                                           error.what()));
  }
}

}  // namespace kvbm::cli
