// SPDX-License-Identifier: Apache-2.0
#include "common.hpp"

#include "kvbm/layout/dims.hpp"
#include "kvbm/object/object_store.hpp"

#include <nanobind/stl/string.h>

#include <string>
#include <utility>
#include <variant>
#include <vector>

namespace kvbm::python {

namespace {

using layout::BlockDimension;
using layout::ExternalDeviceRegion;
using layout::ExternalRegion;
using layout::KvBlockLayout;
using layout::PhysicalLayout;
using layout::PhysicalLayoutBuilder;

using Source = std::shared_ptr<memory::MemorySource>;

// The type-state builder with its state in a value: a step that its type does not have is the
// caller's mistake, told when it is taken.
class Builder {
 public:
  explicit Builder(Source const& source) : state_(PhysicalLayout::builder(source)) {}

  // Takes a step, or says why it cannot be taken now.
  template <typename Step>
  [[nodiscard]] Builder step(char const* complaint, Step const& step) const {
    Builder next = *this;
    std::visit(
        [&](auto const& builder) {
          if constexpr (requires { step(builder); }) {
            next.state_ = step(builder);
          } else {
            throw_error(ErrorCode::InvalidArgument, complaint);
          }
        },
        state_);
    return next;
  }

  [[nodiscard]] PhysicalLayout build() const {
    return std::visit(
        [](auto const& builder) -> PhysicalLayout {
          if constexpr (requires { builder.build(); }) {
            return builder.build();
          } else {
            throw_error(ErrorCode::InvalidArgument, missing(builder));
          }
        },
        state_);
  }

  // Element widths of the given tensors, to be compared with the config's when both are known.
  std::vector<std::uint64_t> item_bytes;  // 0: raw memory
  std::optional<std::uint64_t> dtype_width_bytes;

  void check_item_bytes() const {
    if (!dtype_width_bytes) { return; }
    for (std::size_t i = 0; i < item_bytes.size(); ++i) {
      KVBM_EXPECTS(item_bytes[i] <= 1 || item_bytes[i] == *dtype_width_bytes, InvalidArgument,
                   "regions[" + std::to_string(i) + "] has elements of " +
                       std::to_string(item_bytes[i]) + " bytes, config.dtype_width_bytes is " +
                       std::to_string(*dtype_width_bytes) +
                       ": pass a uint8 view of it if the bytes are right all the same");
    }
  }

 private:
  template <bool HasConfig, bool HasKind, bool HasMemory>
  static std::string missing(PhysicalLayoutBuilder<HasConfig, HasKind, HasMemory> const&) {
    std::string text = "build() is too early, missing:";
    if constexpr (!HasConfig) { text += " config();"; }
    if constexpr (!HasKind) { text += " fully_contiguous() or layer_separate();"; }
    if constexpr (!HasMemory) { text += " allocate_...() or with_...regions();"; }
    text.pop_back();
    return text;
  }

  std::variant<PhysicalLayoutBuilder<false, false, false>,
               PhysicalLayoutBuilder<true, false, false>, PhysicalLayoutBuilder<false, true, false>,
               PhysicalLayoutBuilder<true, true, false>, PhysicalLayoutBuilder<false, false, true>,
               PhysicalLayoutBuilder<true, false, true>, PhysicalLayoutBuilder<false, true, true>,
               PhysicalLayoutBuilder<true, true, true>>
      state_;
};

using PyBuilder = Unlocked<Builder>;

constexpr char const* kConfigGiven = "config() was called already";
constexpr char const* kKindGiven =
    "the kind was chosen already: call one of fully_contiguous() and layer_separate(), once";
constexpr char const* kMemoryGiven =
    "the memory was chosen already: call one allocate_...() or with_...regions(), once";

PyBuilder config(PyBuilder const& self, layout::LayoutConfig const& config) {
  Builder next = (*self).step(
      kConfigGiven, [&](auto const& b) -> decltype(b.config(config)) { return b.config(config); });
  next.dtype_width_bytes = config.dtype_width_bytes();
  return next;
}

PyBuilder fully_contiguous(PyBuilder const& self, KvBlockLayout const* format) {
  if (format == nullptr) {
    return (*self).step(kKindGiven, [](auto const& b) -> decltype(b.fully_contiguous()) {
      return b.fully_contiguous();
    });
  }
  return (*self).step(kKindGiven, [&](auto const& b) -> decltype(b.fully_contiguous(*format)) {
    return b.fully_contiguous(*format);
  });
}

PyBuilder layer_separate(PyBuilder const& self, BlockDimension dimension,
                         KvBlockLayout const* format) {
  if (format == nullptr) {
    return (*self).step(kKindGiven, [&](auto const& b) -> decltype(b.layer_separate(dimension)) {
      return b.layer_separate(dimension);
    });
  }
  return (*self).step(kKindGiven,
                      [&](auto const& b) -> decltype(b.layer_separate(dimension, *format)) {
                        return b.layer_separate(dimension, *format);
                      });
}

PyBuilder layer_separate_tensor(PyBuilder const& self, layout::KvDimLayout const& tensor) {
  return (*self).step(kKindGiven, [&](auto const& b) -> decltype(b.layer_separate(tensor)) {
    return b.layer_separate(tensor);
  });
}

std::vector<Tensor> to_tensors(nb::handle regions) {
  std::vector<Tensor> tensors;
  if (nb::isinstance<nb::tuple>(regions) || !nb::hasattr(regions, "__iter__") ||
      nb::hasattr(regions, "__dlpack__")) {
    throw nb::type_error(
        "regions must be a list with one tensor (fully contiguous) or one a layer");
  }
  for (nb::handle const item : nb::iter(regions)) {
    tensors.push_back(to_tensor(item, "regions", tensors.size()));
  }
  return tensors;
}

Builder with_item_bytes(Builder builder, std::vector<Tensor> const& tensors) {
  for (Tensor const& tensor : tensors) {
    builder.item_bytes.push_back(tensor.raw ? 0 : tensor.item_bytes);
  }
  return builder;
}

PyBuilder with_external_regions(PyBuilder const& self, nb::handle list, memory::StorageKind kind) {
  std::vector<Tensor> const tensors = to_tensors(list);
  std::vector<ExternalRegion> regions;
  for (std::size_t i = 0; i < tensors.size(); ++i) {
    Tensor const& tensor = tensors[i];
    KVBM_EXPECTS(!tensor.device_id || *tensor.device_id < 0, InvalidArgument,
                 "regions[" + std::to_string(i) + "] is in memory of device " +
                     std::to_string(*tensor.device_id) +
                     ": use with_external_device_regions() for it");
    // NOLINTNEXTLINE(performance-no-int-to-ptr): addresses come from Python as integers
    regions.push_back(
        {reinterpret_cast<void*>(tensor.address), tensor.bytes, kind, tensor.keep_alive});
  }
  return with_item_bytes(
      (*self).step(kMemoryGiven,
                   [&](auto const& b) -> decltype(b.with_external_regions(regions)) {
                     return b.with_external_regions(regions);
                   }),
      tensors);
}

PyBuilder with_external_device_regions(PyBuilder const& self, nb::handle list, DeviceId device_id) {
  std::vector<Tensor> const tensors = to_tensors(list);
  std::vector<ExternalDeviceRegion> regions;
  for (std::size_t i = 0; i < tensors.size(); ++i) {
    Tensor const& tensor = tensors[i];
    KVBM_EXPECTS(!tensor.device_id || *tensor.device_id == device_id, InvalidArgument,
                 "regions[" + std::to_string(i) + "] says device " +
                     std::to_string(*tensor.device_id) + ", device_id is " +
                     std::to_string(device_id));
    // NOLINTNEXTLINE(performance-no-int-to-ptr): addresses come from Python as integers
    regions.push_back(
        {reinterpret_cast<void*>(tensor.address), tensor.bytes, device_id, tensor.keep_alive});
  }
  return with_item_bytes(
      (*self).step(kMemoryGiven,
                   [&](auto const& b) -> decltype(b.with_external_device_regions(regions)) {
                     return b.with_external_device_regions(regions);
                   }),
      tensors);
}

PyBuilder with_regions(PyBuilder const& self, nb::handle list) {
  std::vector<memory::Region> regions;
  for (nb::handle const item : nb::iter(list)) {
    regions.push_back(*nb::cast<PyRegion const&>(item));
  }
  return (*self).step(kMemoryGiven, [&](auto const& b) -> decltype(b.with_regions(regions)) {
    return b.with_regions(regions);
  });
}

PyBuilder allocate_disk(PyBuilder const& self, nb::handle path) {
  if (path.is_none()) {
    return (*self).step(kMemoryGiven, [](auto const& b) -> decltype(b.allocate_disk()) {
      return b.allocate_disk();
    });
  }
  auto const files = to_paths(path);
  return (*self).step(kMemoryGiven, [&](auto const& b) -> decltype(b.allocate_disk(files)) {
    return b.allocate_disk(files);
  });
}

PyBuilder allocate_object(PyBuilder const& self, std::string const& bucket,
                          std::string const& prefix, nb::kwargs const& given) {
  auto const options = to_object_options(bucket, prefix, given);
  return (*self).step(kMemoryGiven, [&](auto const& b) -> decltype(b.allocate_object(options)) {
    return b.allocate_object(options);
  });
}

PyLayout build(PyBuilder const& self) {
  Builder const& builder = *self;
  builder.check_item_bytes();
  GilRelease const unlocked;
  return builder.build();
}

PyBuilder make_builder(Source const& source) { return Builder(source); }

}  // namespace

nb::object make_layout_builder(std::shared_ptr<memory::MemorySource> const& source) {
  return nb::cast(make_builder(source));
}

void bind_layout_builder(nb::module_& m) {
  nb::class_<PyBuilder>(
      m, "PhysicalLayoutBuilder", nb::is_final(),
      "Collects config, kind and memory of a PhysicalLayout, each once, in any order. Every step "
      "returns a new builder. Nothing is allocated before build().")
      .def("config", &config, nb::arg("config"), "The logical shape.")
      .def("fully_contiguous", &fully_contiguous, nb::arg("format").none() = nb::none(),
           "One region. Default format: OperationalNHD if the config has num_heads, else Unknown.")
      .def("layer_separate", &layer_separate, nb::arg("block_dimension"),
           nb::arg("format").none() = nb::none(), "One region a layer. Default format as above.")
      .def("layer_separate", &layer_separate_tensor, nb::arg("tensor"),
           "One region a layer, each an engine's tensor in any order of its dimensions.")
      .def(
          "allocate_system",
          [](PyBuilder const& self) {
            return PyBuilder(
                (*self).step(kMemoryGiven, [](auto const& b) -> decltype(b.allocate_system()) {
                  return b.allocate_system();
                }));
          },
          "Owned pageable memory.")
      .def(
          "allocate_pinned",
          [](PyBuilder const& self, DeviceId near_device) {
            return PyBuilder((*self).step(
                kMemoryGiven, [&](auto const& b) -> decltype(b.allocate_pinned(near_device)) {
                  return b.allocate_pinned(near_device);
                }));
          },
          nb::arg("near_device") = -1, "Owned pinned memory, near a device (-1 = anywhere).")
      .def(
          "allocate_device",
          [](PyBuilder const& self, DeviceId id) {
            return PyBuilder(
                (*self).step(kMemoryGiven, [&](auto const& b) -> decltype(b.allocate_device(id)) {
                  return b.allocate_device(id);
                }));
          },
          nb::arg("id"), "Owned memory of a device.")
      .def("allocate_disk", &allocate_disk,
           nb::sig("def allocate_disk(self, path: str | os.PathLike[str] | "
                   "list[str | os.PathLike[str]] | tuple[str | os.PathLike[str], ...] | None = "
                   "None) -> PhysicalLayoutBuilder"),
           nb::arg("path") = nb::none(),
           "A preallocated file that must not exist yet; without a path a temporary one. Several "
           "paths, one a device, share the blocks in turn.")
      .def("allocate_object", &allocate_object,
           nb::sig(
               "def allocate_object(self, bucket: str, prefix: str = '', *, endpoint: str | "
               "None = None, region: str | None = None, credentials: Credentials | None = "
               "None, model: str | None = None, format: str | None = None, tp_size: int = 1, "
               "tp_rank: int = 0, blocks_per_object: int = 0, read_only: bool = False, "
               "transport: ObjectTransport = ..., nixl_library: str | os.PathLike[str] | None = "
               "None, path_style: bool | None = None, ca_file: str | os.PathLike[str] | None = "
               "None, sign_payloads: bool | None = None, connections: int = 32, threads: int = 0, "
               "connect_timeout: float = 3.0, stall_timeout: float = 5.0, deadline: float = "
               "30.0, max_retries: int = 5) -> PhysicalLayoutBuilder"),
           nb::arg("bucket"), nb::arg("prefix") = "", nb::arg("options"),
           "Blocks as objects of a bucket of S3, which must be there; blocks that it has already "
           "keep their contents. Fully contiguous layouts only. Not given: endpoint, region and "
           "ca_file are those of the environment (AWS_ENDPOINT_URL_S3, AWS_ENDPOINT_URL, "
           "AWS_REGION, AWS_DEFAULT_REGION, AWS_CA_BUNDLE), else AWS itself; credentials are "
           "Credentials.from_chain(); model and format are the fingerprint of the shape and the "
           "layout's format, so that blocks of another shape never meet these. Several blocks an "
           "object (up to 32; 0: chosen) where blocks are small. transport says who moves the "
           "objects, ObjectTransport.Curl unless given. Times in seconds: stall_timeout is "
           "how long an attempt may stand still, deadline how long a request may take with all "
           "its attempts. build() asks the endpoint once, without retries.")
      .def(
          "with_external_regions", &with_external_regions,
          nb::sig("def with_external_regions(self, regions: "
                  "collections.abc.Sequence[kvbm_cpp._types.TensorLike], "
                  "*, kind: StorageKind = ...) -> PhysicalLayoutBuilder"),
          nb::arg("regions"), nb::kw_only(), nb::arg("kind") = memory::StorageKind::System,
          "Host memory of the caller, without a copy: one tensor, or one a layer. The layout keeps "
          "the tensors alive.")
      .def(
          "with_external_device_regions", &with_external_device_regions,
          nb::sig("def with_external_device_regions(self, regions: "
                  "collections.abc.Sequence[kvbm_cpp._types.TensorLike], *, device_id: int = 0) -> "
                  "PhysicalLayoutBuilder"),
          nb::arg("regions"), nb::kw_only(), nb::arg("device_id") = 0,
          "Device memory of the engine, without a copy: one tensor, or one a layer. The layout "
          "keeps the tensors alive.")
      .def("with_regions", &with_regions,
           nb::sig("def with_regions(self, regions: collections.abc.Iterable[Region]) -> "
                   "PhysicalLayoutBuilder"),
           nb::arg("regions"), "Regions that exist already.")
      .def("build", &build, "Checks everything, allocates, and returns the layout.");
  nb::object const type = m.attr("PhysicalLayout");
  nb::setattr(type, "builder",
              nb::module_::import_("builtins")
                  .attr("staticmethod")(nb::cpp_function(
                      [] { return make_builder(memory::make_host_memory_source()); },
                      nb::name("builder"), nb::sig("def builder() -> PhysicalLayoutBuilder"),
                      "A builder on host memory and files; TransferManager.layout_builder() knows "
                      "the manager's devices too.")));
}

}  // namespace kvbm::python
