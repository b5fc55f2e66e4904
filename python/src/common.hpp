// SPDX-License-Identifier: Apache-2.0
#pragma once

#include "gil.hpp"

#include "kvbm/kvbm.hpp"

#include <nanobind/nanobind.h>
#include <nanobind/ndarray.h>

#include <chrono>
#include <cstdint>
#include <exception>
#include <memory>
#include <optional>
#include <span>
#include <string>
#include <vector>

namespace kvbm::object {
struct ObjectStoreOptions;
}  // namespace kvbm::object

/// What the files of the extension module share.
namespace kvbm::python {

using PyDevice = Unlocked<device::DevicePtr>;
using PyEvent = Unlocked<device::EventPtr>;
using PyStream = Unlocked<device::StreamPtr>;
using PyRegion = Unlocked<memory::Region>;
using PyLayout = Unlocked<layout::PhysicalLayout>;
using PyKvBlocks = Unlocked<transfer::KvBlocks>;
using PyOptions = Unlocked<transfer::TransferOptions>;
using PyPrepared = Unlocked<transfer::PreparedTransfer>;
using PyEventSystem = Unlocked<std::shared_ptr<transfer::EventSystem>>;

/// @name One function a source file: adds its classes to the module.
/// @{
void bind_errors(nb::module_& m);
void bind_values(nb::module_& m);
void bind_format(nb::module_& m);
void bind_device(nb::module_& m);
void bind_stream(nb::module_& m);
void bind_tensor(nb::module_& m);
void bind_layout(nb::module_& m);
void bind_layout_builder(nb::module_& m);
void bind_object(nb::module_& m);
void bind_scrub(nb::module_& m);
void bind_notification(nb::module_& m);
void bind_options(nb::module_& m);
void bind_transfer(nb::module_& m);
void bind_costs(nb::module_& m);
void bind_remote(nb::module_& m);
void bind_notices(nb::module_& m);
void bind_exchange(nb::module_& m);
void bind_metrics(nb::module_& m);
void bind_manager(nb::module_& m);
void bind_prefix(nb::module_& m);
/// @}

/// Write notifications as WriteNotices in Python.
nb::object make_notices(remote::WriteNotices notices);

/// A tier, or its name. @throws Error(InvalidArgument), TypeError
remote::LogicalLayoutHandle to_tier(nb::handle value);

/// How long a call waits before signals (Ctrl-C) are looked at.
inline constexpr std::chrono::nanoseconds kSignalInterval = std::chrono::milliseconds(100);

/// The instance of kvbm_cpp.Error (or a subclass) for a failure; None for null.
nb::object to_exception(std::exception_ptr const& error);

/// What S3 said to `cause`, where it came from an S3 client and is of the exception's code: its
/// kind, http_status and attempts.
void add_s3_failure(nb::handle exception, std::exception_ptr const& cause);

/// `text` as a str; bytes that are not UTF-8 (file names) become U+FFFD.
nb::str to_str(std::string_view text);

/// A Python integer in [0, 2^64). @throws TypeError no integer; Error(InvalidArgument) naming
/// `name`
std::uint64_t to_u64(nb::handle value, char const* name);
/// Like to_u64; nullopt for None.
std::optional<std::uint64_t> to_optional_u64(nb::handle value, char const* name);

/// Likewise in [0, 2^32).
unsigned to_unsigned(nb::handle value, char const* name);

/// A range of step 1, or a pair (begin, end). Whether it is empty or reversed is the library's to
/// say.
/// @throws TypeError, Error(InvalidArgument) naming `name`
IndexRange to_range(nb::handle value, char const* name);
/// range(begin, end), or None.
nb::object from_range(std::optional<IndexRange> const& range);

/// Seconds as a duration, infinite ones as the largest. @throws Error(InvalidArgument) not a number
std::chrono::nanoseconds to_duration(double seconds, char const* name);

/// Any path-like object. @throws TypeError
std::string to_path(nb::handle path);

/// A path, or a list or tuple of them.
std::vector<std::filesystem::path> to_paths(nb::handle paths);

/// Block ids as Python gives them: a one-dimensional integer array (uint32 without a copy), or any
/// iterable of integers. Made and destroyed with the interpreter lock held.
class BlockIds {
 public:
  /// @throws TypeError no integers; Error(OutOfRange) naming the id, its position and `name`
  BlockIds(nb::handle ids, char const* name);
  [[nodiscard]] std::span<BlockId const> span() const noexcept { return view_; }
  [[nodiscard]] std::vector<BlockId> to_vector() const { return {view_.begin(), view_.end()}; }

 private:
  using Borrowed = nb::ndarray<std::uint32_t const, nb::ndim<1>, nb::c_contig, nb::device::cpu>;
  Borrowed borrowed_;
  std::vector<BlockId> owned_;
  std::span<BlockId const> view_;
};

/// What is known of a tensor of the caller, or of a raw address.
struct Tensor {
  std::uintptr_t address = 0;
  std::uint64_t bytes = 0;  ///< from the first element to behind the last
  std::uint64_t item_bytes = 1;
  bool raw = false;  ///< given as (address, bytes): no element width known
  bool writable = true;
  bool on_device = false;             ///< in memory of a device, whether or not it is known which
  std::optional<DeviceId> device_id;  ///< of a device tensor, where the caller's library says
  std::string dtype;                  ///< "bfloat16"; empty for raw memory
  std::vector<std::uint64_t> shape;   ///< elements
  std::vector<std::int64_t> strides;  ///< bytes, one an axis
  std::shared_ptr<void const> keep_alive;
};

/// Reads what a tensor is without copying it: numpy arrays, torch tensors of any dtype, DLPack and
/// buffer objects, objects with __cuda_array_interface__, Region, or
/// (address, bytes[, device_id[, owner]]).
/// @param where  for messages  @throws TypeError nothing of the above
Tensor inspect_tensor(nb::handle object, std::string const& where);

/// The same for a layout's memory.
/// @param name  of the list, @param index its position: for messages
/// @throws TypeError nothing of the above; Error(InvalidArgument) read-only, not C-contiguous,
/// empty
Tensor to_tensor(nb::handle object, char const* name, std::size_t index);

/// A Stream, or a CUDA stream of another library: an object with cuda_stream (torch), with
/// __cuda_stream__ (cuda.core), with ptr (cupy), or a cudaStream_t as an int, of device 0. The
/// stream returned keeps that object alive.
/// @param where  for messages
/// @throws TypeError nothing of the above; UnsupportedError no CUDA; Error(InvalidArgument) a
///         stream of another device
device::StreamPtr to_stream(nb::handle object, std::string const& where);

/// An Event, or a CUDA event likewise: with cuda_event (torch), ptr (cupy), handle (cuda.core), or
/// a cudaEvent_t as an int, of device 0.
/// @throws as to_stream; Error(InvalidArgument) one that was never recorded, where that shows
device::EventPtr to_event(nb::handle object, std::string const& where);

/// Host-accessible memory of a region as a numpy array that keeps it alive.
/// @throws UnsupportedError memory that the CPU cannot reach; Error(InvalidArgument) more bytes
/// than
///         the region has
nb::object to_numpy(memory::Region const& region, nb::handle shape, nb::handle dtype);

/// Options of a bucket: those given, else what the environment says.
/// @param options  a dict of allocate_object's keywords; None counts as not given
/// @throws TypeError naming the keyword
object::ObjectStoreOptions to_object_options(std::string const& bucket, std::string const& prefix,
                                             nb::handle options);

/// An ObjectStore; None for what is no object store.
nb::object make_object_store(std::shared_ptr<memory::BlockStore> const& store);

/// A PhysicalLayoutBuilder on this source.
nb::object make_layout_builder(std::shared_ptr<memory::MemorySource> const& source);

}  // namespace kvbm::python
