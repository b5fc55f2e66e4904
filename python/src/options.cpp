// SPDX-License-Identifier: Apache-2.0
#include "common.hpp"

#include <nanobind/operators.h>
#include <nanobind/stl/optional.h>
#include <nanobind/stl/string.h>
#include <nanobind/stl/vector.h>

#include <stop_token>
#include <utility>

namespace kvbm::python {

namespace {

using layout::KvBlockLayout;
using transfer::BounceBuffer;
using transfer::NativeVsNixlPolicy;
using transfer::Spare;
using transfer::TransferCapabilities;
using transfer::TransferOptions;
using transfer::TransferPreferences;

void bind_stop_source(nb::module_& m) {
  nb::class_<std::stop_source>(m, "StopSource", nb::is_final(),
                               "Cancels the transfers whose TransferOptions name it.")
      .def(nb::init<>())
      .def(
          "request_stop",
          [](std::stop_source& self) {
            GilRelease const unlocked;
            return self.request_stop();
          },
          "Whether this call was the first one.")
      .def("stop_requested", &std::stop_source::stop_requested);
}

void bind_bounce_buffer(nb::module_& m) {
  nb::class_<BounceBuffer>(
      m, "BounceBuffer", nb::is_final(),
      "Blocks of a registered layout to stage through where there is no direct path.")
      .def_static(
          "from_handle",
          [](layout::LayoutHandle handle, nb::handle block_ids) {
            BlockIds const ids(block_ids, "block_ids");
            return BounceBuffer::from_handle(handle, ids.to_vector());
          },
          nb::sig("def from_handle(handle: LayoutHandle, block_ids: kvbm_cpp._types.BlockIds) -> "
                  "BounceBuffer"),
          nb::arg("handle"), nb::arg("block_ids"))
      .def_ro("handle", &BounceBuffer::handle)
      .def_prop_ro("block_ids", [](BounceBuffer const& self) { return self.block_ids; });
}

struct OptionArguments {
  nb::object layer_range, head_range, src_head_range, dst_head_range;
  nb::object wait_for, record_on, timeout, nixl_write_notification, max_sms, cuda_stream, strategy;
};

void add_ranges(TransferOptions::Builder& builder, OptionArguments const& given) {
  if (!given.layer_range.is_none()) {
    builder.layer_range(to_range(given.layer_range, "layer_range"));
  }
  if (!given.head_range.is_none()) {
    KVBM_EXPECTS(given.src_head_range.is_none() && given.dst_head_range.is_none(), InvalidArgument,
                 "head_range means both sides: give either it or src_head_range, dst_head_range");
    builder.head_range(to_range(given.head_range, "head_range"));
  }
  if (!given.src_head_range.is_none()) {
    builder.src_head_range(to_range(given.src_head_range, "src_head_range"));
  }
  if (!given.dst_head_range.is_none()) {
    builder.dst_head_range(to_range(given.dst_head_range, "dst_head_range"));
  }
}

void add_synchronisation(TransferOptions::Builder& builder, OptionArguments const& given) {
  if (!given.wait_for.is_none()) {
    std::size_t index = 0;
    for (nb::handle const event : nb::iter(given.wait_for)) {
      builder.wait_for(to_event(event, "wait_for[" + std::to_string(index++) + "]"));
    }
  }
  if (!given.record_on.is_none()) {
    std::size_t index = 0;
    for (nb::handle const stream : nb::iter(given.record_on)) {
      builder.record_on(to_stream(stream, "record_on[" + std::to_string(index++) + "]"));
    }
  }
  if (!given.timeout.is_none()) {
    builder.timeout(to_duration(nb::cast<double>(given.timeout), "timeout"));
  }
}

transfer::Strategy to_strategy(nb::handle value) {
  return nb::isinstance<nb::str>(value)
             ? transfer::strategy_from_string(nb::cast<std::string>(value))
             : nb::cast<transfer::Strategy>(value);
}

void add_limits(TransferOptions::Builder& builder, OptionArguments const& given) {
  if (auto const value =
          to_optional_u64(given.nixl_write_notification, "nixl_write_notification")) {
    builder.nixl_write_notification(*value);
  }
  if (!given.max_sms.is_none()) { builder.max_sms(to_unsigned(given.max_sms, "max_sms")); }
  if (!given.strategy.is_none()) { builder.strategy(to_strategy(given.strategy)); }
}

void init_options(PyOptions* self, nb::object layer_range, nb::object head_range,
                  nb::object src_head_range, nb::object dst_head_range,
                  KvBlockLayout const* src_kv_layout, KvBlockLayout const* dst_kv_layout,
                  BounceBuffer const* bounce_buffer, nb::object nixl_write_notification,
                  nb::object cuda_stream, nb::object wait_for, nb::object record_on,
                  nb::object timeout, std::stop_source const* cancellation, int priority,
                  nb::object max_sms, Spare spare, nb::object strategy) {
  OptionArguments const given{std::move(layer_range),    std::move(head_range),
                              std::move(src_head_range), std::move(dst_head_range),
                              std::move(wait_for),       std::move(record_on),
                              std::move(timeout),        std::move(nixl_write_notification),
                              std::move(max_sms),        std::move(cuda_stream),
                              std::move(strategy)};
  auto builder = TransferOptions::builder();
  add_ranges(builder, given);
  add_synchronisation(builder, given);
  add_limits(builder, given);
  if (src_kv_layout != nullptr) { builder.src_kv_layout(*src_kv_layout); }
  if (dst_kv_layout != nullptr) { builder.dst_kv_layout(*dst_kv_layout); }
  if (bounce_buffer != nullptr) { builder.bounce_buffer(*bounce_buffer); }
  if (!given.cuda_stream.is_none()) {
    builder.cuda_stream(to_stream(given.cuda_stream, "cuda_stream"));
  }
  if (cancellation != nullptr) { builder.cancellation(cancellation->get_token()); }
  builder.priority(priority).spare(spare);
  new (self) PyOptions(builder.build());
}

void bind_transfer_options(nb::module_& m) {
  nb::class_<PyOptions>(m, "TransferOptions", nb::is_final(),
                        "How one transfer is done. Every option works with every strategy, or the "
                        "call is refused with the reason.")
      .def("__init__", &init_options,
           nb::sig("def __init__(self, *, layer_range: kvbm_cpp._types.Range | None = None, "
                   "head_range: kvbm_cpp._types.Range | "
                   "None = None, src_head_range: kvbm_cpp._types.Range | None = None, "
                   "dst_head_range: kvbm_cpp._types.Range | None "
                   "= None, src_kv_layout: KvBlockLayout | None = None, dst_kv_layout: "
                   "KvBlockLayout | None = None, bounce_buffer: BounceBuffer | None = None, "
                   "nixl_write_notification: int | None = None, cuda_stream: "
                   "kvbm_cpp._types.StreamLike | None = None, wait_for: "
                   "collections.abc.Iterable[kvbm_cpp._types.EventLike] | None = None, record_on: "
                   "collections.abc.Iterable[kvbm_cpp._types.StreamLike] | None = None, timeout: "
                   "float | None = None, cancellation: StopSource | None = None, priority: int = "
                   "0, max_sms: int | None = None, spare: Spare = ..., strategy: Strategy | str | "
                   "None = None) -> None"),
           nb::kw_only(), nb::arg("layer_range") = nb::none(), nb::arg("head_range") = nb::none(),
           nb::arg("src_head_range") = nb::none(), nb::arg("dst_head_range") = nb::none(),
           nb::arg("src_kv_layout").none() = nb::none(),
           nb::arg("dst_kv_layout").none() = nb::none(),
           nb::arg("bounce_buffer").none() = nb::none(),
           nb::arg("nixl_write_notification") = nb::none(), nb::arg("cuda_stream") = nb::none(),
           nb::arg("wait_for") = nb::none(), nb::arg("record_on") = nb::none(),
           nb::arg("timeout") = nb::none(), nb::arg("cancellation").none() = nb::none(),
           nb::arg("priority") = 0, nb::arg("max_sms") = nb::none(),
           nb::arg("spare") = Spare::Fastest, nb::arg("strategy") = nb::none(),
           "head_range is src_head_range and dst_head_range in one; timeout is in seconds from "
           "submission; with cuda_stream all work goes onto that stream and the notification is "
           "ready at once. Streams and events may be kvbm's or those of torch, cupy and cuda.core, "
           "or CUDA handles as ints; they are kept alive as long as a transfer needs them. An "
           "event means the point that it marked when the transfer was submitted.")
      .def_prop_ro(
          "layer_range", [](PyOptions const& self) { return from_range(self->layer_range); },
          nb::sig("def layer_range(self) -> range | None"))
      .def_prop_ro(
          "src_head_range", [](PyOptions const& self) { return from_range(self->src_head_range); },
          nb::sig("def src_head_range(self) -> range | None"))
      .def_prop_ro(
          "dst_head_range", [](PyOptions const& self) { return from_range(self->dst_head_range); },
          nb::sig("def dst_head_range(self) -> range | None"))
      .def_prop_ro("src_kv_layout", [](PyOptions const& self) { return self->src_kv_layout; })
      .def_prop_ro("dst_kv_layout", [](PyOptions const& self) { return self->dst_kv_layout; })
      .def_prop_ro(
          "timeout",
          [](PyOptions const& self) -> std::optional<double> {
            if (!self->timeout) { return std::nullopt; }
            return std::chrono::duration<double>(*self->timeout).count();
          },
          "Seconds.")
      .def_prop_ro("priority", [](PyOptions const& self) { return self->priority; })
      .def_prop_ro("max_sms", [](PyOptions const& self) { return self->max_sms; })
      .def_prop_ro("spare", [](PyOptions const& self) { return self->spare; })
      .def_prop_ro("strategy", [](PyOptions const& self) { return self->strategy; });
}

void bind_capabilities(nb::module_& m) {
  nb::class_<TransferCapabilities>(m, "TransferCapabilities", nb::is_final(),
                                   "What this process may use; all off by default.")
      .def(
          "__init__",
          [](TransferCapabilities* self, bool allow_gds, bool allow_gpu_rdma) {
            new (self) TransferCapabilities{allow_gds, allow_gpu_rdma};
          },
          nb::kw_only(), nb::arg("allow_gds") = false, nb::arg("allow_gpu_rdma") = false)
      .def_ro("allow_gds", &TransferCapabilities::allow_gds)
      .def_ro("allow_gpu_rdma", &TransferCapabilities::allow_gpu_rdma)
      .def("with_gds_if_supported", &TransferCapabilities::with_gds_if_supported,
           nb::call_guard<GilRelease>(), "A copy with it on if this machine has it.")
      .def("with_gpu_rdma_if_supported", &TransferCapabilities::with_gpu_rdma_if_supported,
           nb::call_guard<GilRelease>(), "A copy with it on if this machine has it.")
      .def(nb::self == nb::self, nb::sig("def __eq__(self, other: object, /) -> bool"));
  nb::class_<TransferPreferences>(m, "TransferPreferences", nb::is_final(),
                                  "Preferences among paths that all work.")
      .def(
          "__init__",
          [](TransferPreferences* self, NativeVsNixlPolicy policy) {
            new (self) TransferPreferences{policy};
          },
          nb::kw_only(), nb::arg("native_vs_nixl") = NativeVsNixlPolicy::Automatic)
      .def_ro("native_vs_nixl", &TransferPreferences::native_vs_nixl)
      .def(nb::self == nb::self, nb::sig("def __eq__(self, other: object, /) -> bool"));
}

}  // namespace

void bind_options(nb::module_& m) {
  nb::enum_<Spare>(m, "Spare", "What a transfer should leave to others.")
      .value("Fastest", Spare::Fastest, "whatever is quickest")
      .value("SpareSms", Spare::SpareSms,
             "leave the GPU's multiprocessors and its memory to the model")
      .value("SpareCpu", Spare::SpareCpu, "host copies run in one thread");
  nb::enum_<NativeVsNixlPolicy>(m, "NativeVsNixlPolicy", "Which of two working paths to take.")
      .value("PreferNative", NativeVsNixlPolicy::PreferNative)
      .value("PreferNixl", NativeVsNixlPolicy::PreferNixl)
      .value("Automatic", NativeVsNixlPolicy::Automatic);
  bind_stop_source(m);
  bind_bounce_buffer(m);
  bind_transfer_options(m);
  bind_capabilities(m);
}

}  // namespace kvbm::python
