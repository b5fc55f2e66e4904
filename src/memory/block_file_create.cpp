// SPDX-License-Identifier: Apache-2.0
#include <fcntl.h>
#include <fmt/format.h>
#include <unistd.h>

#include <cerrno>
#include <cstdlib>
#include <utility>

#include "kvbm/core/error.hpp"
#include "kvbm/core/log.hpp"
#include "kvbm/memory/disk_io.hpp"
#include "memory/block_file_impl.hpp"
#include "memory/manifest_file.hpp"

namespace kvbm::memory {
namespace {

int try_direct_read(FileHandle const& file) {
  struct Free {
    void operator()(void* memory) const { std::free(memory); }
  };
  std::unique_ptr<void, Free> const page(std::aligned_alloc(kFileAlignment, kFileAlignment));
  if (page == nullptr) { return ENOMEM; }
  return file.read_at({static_cast<std::byte*>(page.get()), kFileAlignment}, 0);
}

// The lock is on the direct descriptor where there is one: direct writes that are under way when
// their process is killed keep that descriptor, and so the lock, until they have reached the disk.
// (Those through the page cache end with the process.)
void open_direct_and_lock(DataFile& data, std::filesystem::path const& path, OpenMode mode,
                          bool allow_direct) {
  data.direct_reason = "not asked for";
  if (allow_direct) {
    int error = 0;
    int const access = mode == OpenMode::ReadWrite ? O_RDWR : O_RDONLY;
    data.direct = FileHandle::try_open(path, access | O_DIRECT, error);
    data.direct_reason =
        error == 0 ? "O_DIRECT" : fmt::format("open with O_DIRECT: {}", describe_errno(error));
  }
  lock_file(data.direct ? data.direct : data.buffered, path, mode == OpenMode::ReadWrite);
}

// A file system may take O_DIRECT at open() and refuse it at the first read.
void confirm_direct(DataFile& data, std::filesystem::path const& path, OpenMode mode) {
  if (!data.direct) { return; }
  int const error = try_direct_read(data.direct);
  if (error == 0) { return; }
  data.direct.close();
  data.direct_reason = fmt::format("read with O_DIRECT: {}", describe_errno(error));
  lock_file(data.buffered, path, mode == OpenMode::ReadWrite);
}

void refuse_existing(BlockFilePaths const& paths) {
  if (is_taken(paths.data) && !is_taken(paths.manifest)) {
    throw_error(ErrorCode::AlreadyExists,
                fmt::format("{}: exists already without a manifest: not a block file; remove it or "
                            "choose another path",
                            paths.data.string()),
                EEXIST);
  }
  for (auto const* path : {&paths.data, &paths.table, &paths.manifest}) {
    KVBM_EXPECTS(!is_taken(*path), AlreadyExists,
                 fmt::format("{}: exists already; open it, or remove it first", path->string()));
  }
}

[[noreturn]] void throw_created_elsewhere(BlockFilePaths const& paths) {
  throw_error(ErrorCode::AlreadyExists,
              fmt::format("{}: is being created by somebody else at this moment; open it when that "
                          "is done",
                          paths.data.string()),
              EEXIST);
}

// The data file under its name for the time of its creation, empty and locked. That name is ours:
// what stands under it, not locked, was left by a creation that was cut short, and so were the
// siblings, for no creation starts where there are some. PATH itself is never cleared away.
DataFile begin_data_file(BlockFilePaths const& paths, bool allow_direct) {
  bool const is_leftover = is_taken(paths.creating) && !is_taken(paths.data);
  if (!is_leftover) { refuse_existing(paths); }
  int error = 0;
  DataFile data;
  data.buffered = FileHandle::try_open(
      paths.creating, is_leftover ? O_RDWR | O_NOFOLLOW : O_CREAT | O_EXCL | O_RDWR, error);
  if (error == (is_leftover ? ENOENT : EEXIST)) { throw_created_elsewhere(paths); }
  if (error != 0) { throw_io(paths.data, "create", error); }
  open_direct_and_lock(data, paths.creating, OpenMode::ReadWrite, allow_direct);
  // Who had it locked before has given it its final name by now, or is gone.
  if (!leads_to(paths.creating, data.buffered)) { throw_created_elsewhere(paths); }
  if (is_leftover) {
    log::write(log::Level::Info,
               fmt::format("{}: clears away what a creation that was cut short has left",
                           paths.data.string()));
    ::unlink(paths.manifest.c_str());
    ::unlink(with_suffix(paths.manifest, ".creating").c_str());
    ::unlink(paths.table.c_str());
    if (ftruncate(data.buffered.fd(), 0) != 0) { throw_io(paths.creating, "truncate", errno); }
  }
  return data;
}

// Says what is missing before a file system is filled to the brim, for the others that use it.
void preallocate(DataFile const& data, std::filesystem::path const& path, std::uint64_t bytes) {
  FileSystemRoom const room = room_of(data.buffered, path);
  int error = room.total > 0 && room.free < bytes ? ENOSPC : 0;
  if (error == 0) { error = data.buffered.preallocate(bytes); }
  if (error == ENOSPC) {
    throw_io(path,
             fmt::format("preallocate {} bytes, its file system has {} of {} bytes free", bytes,
                         room.free, room.total),
             error);
  }
  if (error != 0) { throw_io(path, fmt::format("preallocate {} bytes", bytes), error); }
}

void require_io(std::shared_ptr<DiskIo> const& io) {
  KVBM_EXPECTS(io != nullptr, InvalidArgument, "a block file without an I/O engine");
}

}  // namespace

std::shared_ptr<BlockFile> BlockFile::create(BlockFileSpec const& spec,
                                             std::shared_ptr<DiskIo> io) {
  require_io(io);
  FileGeometry const geometry = check_groups(spec.groups);
  Manifest manifest{random_number(), spec.groups, spec.metadata};
  std::string const text = encode_manifest(manifest);
  BlockFilePaths paths(spec.path);
  DataFile data = begin_data_file(paths, io->options().allow_direct);
  FileRemover undo_data(paths.creating);
  preallocate(data, paths.data, geometry.data_bytes);
  confirm_direct(data, paths.creating, OpenMode::ReadWrite);

  FileHandle table_file = FileHandle::open(paths.table, O_CREAT | O_EXCL | O_RDWR);
  FileRemover undo_table(paths.table);
  ExtentTable table =
      ExtentTable::create(std::move(table_file), paths.table, manifest.id, geometry.num_extents);
  // A temporary file need not survive power loss.
  bool const durable = !spec.remove_on_close;
  if (durable) {
    if (fsync(data.buffered.fd()) != 0) { throw_io(paths.data, "fsync", errno); }
    if (int const failed = table.sync(); failed != 0) { throw_io(paths.table, "fsync", failed); }
  }

  write_manifest(paths.manifest, text, durable);
  FileRemover undo_manifest(paths.manifest);
  auto const sync_folder = [&] {
    int const failed = durable ? sync_folder_of(paths.data) : 0;
    if (failed != 0) { throw_io(paths.data, "fsync of its folder", failed); }
  };
  sync_folder();
  // Last: where PATH is, all of it is.
  int const error = rename_new(paths.creating, paths.data);
  if (error == EEXIST) { refuse_existing(paths); }
  if (error != 0) { throw_io(paths.data, "rename", error); }
  undo_data.keep();
  FileRemover undo_name(paths.data);
  sync_folder();
  auto impl = std::make_unique<Impl>(std::move(paths), OpenMode::ReadWrite, std::move(manifest),
                                     std::move(data), std::move(table), std::move(io),
                                     spec.remove_on_close);
  std::shared_ptr<BlockFile> file(new BlockFile(std::move(impl)));  // private constructor
  undo_manifest.keep();
  undo_table.keep();
  undo_name.keep();
  return file;
}

std::shared_ptr<BlockFile> BlockFile::open(std::filesystem::path const& path, OpenMode mode,
                                           std::shared_ptr<DiskIo> io) {
  require_io(io);
  BlockFilePaths paths(path);
  int const access = mode == OpenMode::ReadWrite ? O_RDWR : O_RDONLY;
  DataFile data;
  // Not blocking: a pipe of that name must not stop us.
  int missing = 0;
  data.buffered = FileHandle::try_open(paths.data, access | O_NONBLOCK, missing);
  if (missing == ENOENT && is_taken(paths.creating)) {
    throw_error(ErrorCode::NotFound,
                fmt::format("{}: its creation has not ended or was cut short ({}); create it again",
                            paths.data.string(), paths.creating.string()),
                missing);
  }
  if (!data.buffered) { data.buffered = FileHandle::open(paths.data, access | O_NONBLOCK); }
  struct stat const status = data.buffered.status(paths.data);
  KVBM_EXPECTS(S_ISREG(status.st_mode), InvalidArgument,
               fmt::format("{}: not a regular file", paths.data.string()));
  open_direct_and_lock(data, paths.data, mode, io->options().allow_direct);

  Manifest manifest = decode_manifest(read_manifest_text(paths.manifest), paths.manifest.string());
  FileGeometry const geometry = check_groups(manifest.groups);
  // Under the lock: a creator may just have extended it.
  auto const bytes = static_cast<std::uint64_t>(data.buffered.status(paths.data).st_size);
  if (bytes < geometry.data_bytes) {
    throw CorruptError(fmt::format("{}: truncated: {} bytes, its manifest promises {}",
                                   paths.data.string(), bytes, geometry.data_bytes));
  }
  confirm_direct(data, paths.data, mode);

  int error = 0;
  FileHandle table_file = FileHandle::try_open(paths.table, access, error);
  if (error == ENOENT) {
    throw CorruptError(fmt::format("{}: missing: nothing in {} can be verified",
                                   paths.table.string(), paths.data.string()));
  }
  if (error != 0) { throw_io(paths.table, "open", error); }
  ExtentTable table =
      ExtentTable::load(std::move(table_file), paths.table, manifest.id, geometry.num_extents);

  auto impl = std::make_unique<Impl>(std::move(paths), mode, std::move(manifest), std::move(data),
                                     std::move(table), std::move(io), false);
  return std::shared_ptr<BlockFile>(new BlockFile(std::move(impl)));  // private constructor
}

}  // namespace kvbm::memory
