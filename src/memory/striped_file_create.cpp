// SPDX-License-Identifier: Apache-2.0
#include <fcntl.h>
#include <fmt/format.h>
#include <unistd.h>

#include <algorithm>
#include <cerrno>
#include <utility>

#include "kvbm/core/error.hpp"
#include "kvbm/core/log.hpp"
#include "kvbm/memory/disk_io.hpp"
#include "memory/block_file_impl.hpp"
#include "memory/manifest_file.hpp"
#include "memory/striped_file_impl.hpp"

namespace kvbm::memory {
namespace {

using Paths = std::vector<std::filesystem::path>;

// What is stored must mean the same file in another process's working directory.
std::filesystem::path normal_path(std::filesystem::path const& path) {
  return std::filesystem::absolute(path).lexically_normal();
}

Paths checked_paths(Paths const& given) {
  KVBM_EXPECTS(
      given.size() >= 2 && given.size() <= kMaxParts, InvalidArgument,
      fmt::format("a striped file of {} paths: 2 to {} are possible", given.size(), kMaxParts));
  Paths paths;
  for (auto const& path : given) {
    KVBM_EXPECTS(!path.empty(), InvalidArgument, "a striped file with an empty path");
    paths.push_back(normal_path(path));
    KVBM_EXPECTS(std::count(paths.begin(), paths.end(), paths.back()) == 1, InvalidArgument,
                 fmt::format("{} is named twice in a striped file", path.string()));
  }
  return paths;
}

void write_all(FileHandle const& file, std::filesystem::path const& path, std::string const& text) {
  int error = ftruncate(file.fd(), 0) == 0 ? 0 : errno;
  if (error == 0) { error = file.write_at(std::as_bytes(std::span(text)), 0); }
  if (error == 0 && fsync(file.fd()) != 0) { error = errno; }
  if (error != 0) { throw_io(path, "write", error); }
}

// Parts that a creation which was cut short has completed: they say whose they are.
void remove_parts_of(std::filesystem::path const& creating, std::shared_ptr<DiskIo> const& io) {
  Manifest set;
  try {
    set = decode_stripes(read_manifest_text(creating), creating.string());
  } catch (CorruptError const&) { return; }  // killed before it was written, so before any part
  for (auto const& part : set.parts) {
    try {
      auto const file = BlockFile::open(part, OpenMode::ReadWrite, io);
      auto const own = decode_part(file->metadata());
      if (own && own->set == set.id) { remove_block_file(BlockFilePaths(part)); }
    } catch (Error const&) {
      continue;  // not there, not complete, or somebody else's: its own creation will say
    }
  }
}

// PATH.stripes under its name for the time of the creation, locked; leftovers are cleared away.
FileHandle begin_set(std::filesystem::path const& stripes, std::filesystem::path const& creating,
                     std::shared_ptr<DiskIo> const& io) {
  KVBM_EXPECTS(!is_taken(stripes), AlreadyExists,
               fmt::format("{}: exists already; open it, or remove it first", stripes.string()));
  bool const is_leftover = is_taken(creating);
  int error = 0;
  FileHandle file = FileHandle::try_open(
      creating, is_leftover ? O_RDWR | O_NOFOLLOW : O_CREAT | O_EXCL | O_RDWR, error);
  bool const lost = error == (is_leftover ? ENOENT : EEXIST);
  if (error != 0 && !lost) { throw_io(stripes, "create", error); }
  if (!lost) { lock_file(file, creating, /*exclusive=*/true); }
  KVBM_EXPECTS(
      !lost && leads_to(creating, file), AlreadyExists,
      fmt::format("{}: is being created by somebody else at this moment", stripes.string()));
  if (is_leftover) {
    log::write(log::Level::Info,
               fmt::format("{}: clears away what a creation that was cut short has left",
                           stripes.string()));
    remove_parts_of(creating, io);
  }
  return file;
}

// Parts that go with a creation that fails.
class Parts {
 public:
  Parts() = default;
  ~Parts() {
    for (auto& part : files_) {
      BlockFilePaths const paths(part->path());
      part.reset();
      remove_block_file(paths);
    }
  }
  Parts(Parts const&) = delete;
  Parts& operator=(Parts const&) = delete;
  void add(std::shared_ptr<BlockFile> file) { files_.push_back(std::move(file)); }
  std::vector<std::shared_ptr<BlockFile>> keep() noexcept { return std::exchange(files_, {}); }

 private:
  std::vector<std::shared_ptr<BlockFile>> files_;
};

std::shared_ptr<BlockFile> open_part(Manifest const& set, std::filesystem::path const& stripes,
                                     std::filesystem::path const& path, std::uint64_t index,
                                     OpenMode mode, std::shared_ptr<DiskIo> const& io) {
  std::uint64_t const count = set.parts.size();
  auto const who = fmt::format("part {} of {} of {}", index, count, stripes.string());
  std::shared_ptr<BlockFile> part;
  try {
    part = BlockFile::open(path, mode, io);
  } catch (Error const& error) {
    throw_error(error.code(), fmt::format("{}: {}", who, error.what()), error.native_code());
  }
  auto const own = decode_part(part->metadata());
  if (!own || own->set != set.id) {
    throw CorruptError(fmt::format("{}: {} is {}", who, path.string(),
                                   own ? "part of another set" : "no part of a set"));
  }
  if (*own != StripePart{set.id, index, count}) {
    throw CorruptError(
        fmt::format("{}: {} is part {} of {}", who, path.string(), own->index, own->count));
  }
  if (part->groups() != part_groups(set.groups, index, count)) {
    throw CorruptError(fmt::format("{}: {} has other extent groups", who, path.string()));
  }
  return part;
}

}  // namespace

std::shared_ptr<StripedFile> StripedFile::create(StripedFileSpec const& spec,
                                                 std::shared_ptr<DiskIo> const& io) {
  KVBM_EXPECTS(io != nullptr, InvalidArgument, "a striped file without an I/O engine");
  Paths const paths = checked_paths(spec.paths);
  static_cast<void>(check_groups(spec.groups));
  auto impl = std::make_unique<Impl>();
  impl->stripes = stripes_path(paths.front());
  impl->manifest = {random_number(), spec.groups, spec.metadata, {}};
  for (auto const& path : paths) {
    impl->manifest.parts.push_back(path.native());
  }
  std::string const text = encode_manifest(impl->manifest);

  auto const creating = with_suffix(impl->stripes, ".creating");
  FileHandle const lock = begin_set(impl->stripes, creating, io);
  FileRemover undo_set(creating);
  write_all(lock, creating, text);
  auto const sync_folder = [&] {
    int const error = sync_folder_of(impl->stripes);
    if (error != 0) { throw_io(impl->stripes, "fsync of its folder", error); }
  };
  sync_folder();  // before the parts: it tells whose they are
  Parts parts;
  for (std::uint64_t i = 0; i < paths.size(); ++i) {
    parts.add(BlockFile::create({paths[i], part_groups(spec.groups, i, paths.size()),
                                 encode_part({impl->manifest.id, i, paths.size()}), false},
                                io));
  }
  if (int const error = rename_new(creating, impl->stripes); error != 0) {
    throw_io(impl->stripes, "rename", error);
  }
  undo_set.keep();
  FileRemover undo_name(impl->stripes);
  sync_folder();
  impl->parts = parts.keep();
  std::shared_ptr<StripedFile> file(new StripedFile(std::move(impl)));  // private constructor
  undo_name.keep();
  return file;
}

std::shared_ptr<StripedFile> StripedFile::open(std::filesystem::path const& first, OpenMode mode,
                                               std::shared_ptr<DiskIo> const& io) {
  auto const stripes = stripes_path(normal_path(first));
  auto const set = decode_stripes(read_manifest_text(stripes), stripes.string());
  return open(Paths(set.parts.begin(), set.parts.end()), mode, io);
}

std::shared_ptr<StripedFile> StripedFile::open(std::vector<std::filesystem::path> const& paths,
                                               OpenMode mode, std::shared_ptr<DiskIo> const& io) {
  KVBM_EXPECTS(io != nullptr, InvalidArgument, "a striped file without an I/O engine");
  KVBM_EXPECTS(!paths.empty(), InvalidArgument, "a striped file without paths");
  auto impl = std::make_unique<Impl>();
  impl->stripes = stripes_path(normal_path(paths.front()));
  impl->manifest = decode_stripes(read_manifest_text(impl->stripes), impl->stripes.string());
  KVBM_EXPECTS(paths.size() == impl->manifest.parts.size(), InvalidArgument,
               fmt::format("{} has {} parts, {} paths were given", impl->stripes.string(),
                           impl->manifest.parts.size(), paths.size()));
  for (std::uint64_t i = 0; i < paths.size(); ++i) {
    impl->parts.push_back(open_part(impl->manifest, impl->stripes, paths[i], i, mode, io));
  }
  return std::shared_ptr<StripedFile>(new StripedFile(std::move(impl)));  // private constructor
}

std::shared_ptr<BlockStore> open_block_store(std::filesystem::path const& path, OpenMode mode,
                                             std::shared_ptr<DiskIo> io) {
  auto const stripes = stripes_path(path);
  if (is_taken(stripes)) { return StripedFile::open(path, mode, io); }
  if (is_taken(with_suffix(stripes, ".creating"))) {
    throw_error(ErrorCode::NotFound,
                fmt::format("{}: the creation of this striped set has not ended or was cut short; "
                            "create it again",
                            stripes.string()),
                ENOENT);
  }
  auto file = BlockFile::open(path, mode, std::move(io));
  if (auto const part = decode_part(file->metadata())) {
    KVBM_EXPECTS(false, InvalidArgument,
                 fmt::format("{} is part {} of {} of a striped set; open that by its first file",
                             path.string(), part->index, part->count));
  }
  return file;
}

}  // namespace kvbm::memory
