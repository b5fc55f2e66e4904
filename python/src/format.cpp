// SPDX-License-Identifier: Apache-2.0
#include "common.hpp"

#include "kvbm/layout/dims.hpp"

#include <nanobind/operators.h>
#include <nanobind/stl/optional.h>
#include <nanobind/stl/string.h>
#include <nanobind/stl/vector.h>

#include <string>
#include <utility>

namespace kvbm::python {

namespace {

using layout::BlockDim;
using layout::BlockStrides;
using layout::Dim;
using layout::KvBlockLayout;
using layout::KvDimLayout;
using layout::LayoutConfig;

void bind_config(nb::module_& m) {
  nb::class_<LayoutConfig>(m, "LayoutConfig", nb::is_final(),
                           "The logical shape of a layout: num_blocks KV blocks, each the tensor "
                           "[num_layers, outer_dim, "
                           "page_size, num_heads, head_dim]. Immutable; only a valid one exists.")
      .def(
          "__init__",
          [](LayoutConfig* self, nb::handle num_blocks, nb::handle num_layers, nb::handle page_size,
             nb::handle inner_dim, nb::handle outer_dim, nb::handle alignment,
             nb::handle dtype_width_bytes, nb::handle num_heads) {
            new (self)
                LayoutConfig(LayoutConfig::builder()
                                 .num_blocks(to_u64(num_blocks, "num_blocks"))
                                 .num_layers(to_u64(num_layers, "num_layers"))
                                 .outer_dim(to_u64(outer_dim, "outer_dim"))
                                 .page_size(to_u64(page_size, "page_size"))
                                 .inner_dim(to_u64(inner_dim, "inner_dim"))
                                 .alignment(to_u64(alignment, "alignment"))
                                 .dtype_width_bytes(to_u64(dtype_width_bytes, "dtype_width_bytes"))
                                 .num_heads(to_optional_u64(num_heads, "num_heads"))
                                 .build());
          },
          nb::sig("def __init__(self, *, num_blocks: int, num_layers: int, page_size: int, "
                  "inner_dim: int, outer_dim: int = 2, alignment: int = 1, dtype_width_bytes: int "
                  "= 2, num_heads: int | None = None) -> None"),
          nb::kw_only(), nb::arg("num_blocks"), nb::arg("num_layers"), nb::arg("page_size"),
          nb::arg("inner_dim"), nb::arg("outer_dim") = 2, nb::arg("alignment") = 1,
          nb::arg("dtype_width_bytes") = 2, nb::arg("num_heads") = nb::none())
      .def_prop_ro("num_blocks", &LayoutConfig::num_blocks)
      .def_prop_ro("num_layers", &LayoutConfig::num_layers)
      .def_prop_ro("outer_dim", &LayoutConfig::outer_dim, "2 = K and V apart, 1 = fused or MLA.")
      .def_prop_ro("page_size", &LayoutConfig::page_size, "Tokens in a block.")
      .def_prop_ro("inner_dim", &LayoutConfig::inner_dim, "num_heads * head_dim.")
      .def_prop_ro("alignment", &LayoutConfig::alignment, "Bytes that block starts are aligned to.")
      .def_prop_ro("dtype_width_bytes", &LayoutConfig::dtype_width_bytes)
      .def_prop_ro("num_heads", &LayoutConfig::num_heads, "KV heads where known.")
      .def_prop_ro("head_dim", &LayoutConfig::head_dim, "inner_dim / num_heads.")
      .def_prop_ro("chunk_bytes", &LayoutConfig::chunk_bytes, "Bytes of one (layer, outer) chunk.")
      .def_prop_ro("block_bytes", &LayoutConfig::block_bytes,
                   "Bytes of one block's elements, without padding.")
      .def(
          "with_num_blocks",
          [](LayoutConfig const& self, nb::handle value) {
            return self.with_num_blocks(to_u64(value, "num_blocks"));
          },
          nb::sig("def with_num_blocks(self, num_blocks: int) -> LayoutConfig"),
          nb::arg("num_blocks"), "The same shape with another number of blocks.")
      .def(
          "with_alignment",
          [](LayoutConfig const& self, nb::handle value) {
            return self.with_alignment(to_u64(value, "alignment"));
          },
          nb::sig("def with_alignment(self, alignment: int) -> LayoutConfig"), nb::arg("alignment"),
          "The same shape with another alignment.")
      .def(nb::self == nb::self, nb::sig("def __eq__(self, other: object, /) -> bool"))
      .def(
          "__hash__",
          [](LayoutConfig const& self) {
            return nb::hash(nb::make_tuple(self.num_blocks(), self.num_layers(), self.outer_dim(),
                                           self.page_size(), self.inner_dim(), self.alignment(),
                                           self.dtype_width_bytes(), self.num_heads()));
          },
          nb::sig("def __hash__(self) -> int"))
      .def("__repr__", [](LayoutConfig const& self) {
        std::string text = "LayoutConfig(num_blocks=" + std::to_string(self.num_blocks()) +
                           ", num_layers=" + std::to_string(self.num_layers()) +
                           ", page_size=" + std::to_string(self.page_size()) +
                           ", inner_dim=" + std::to_string(self.inner_dim()) +
                           ", outer_dim=" + std::to_string(self.outer_dim()) +
                           ", alignment=" + std::to_string(self.alignment()) +
                           ", dtype_width_bytes=" + std::to_string(self.dtype_width_bytes());
        if (self.num_heads()) { text += ", num_heads=" + std::to_string(*self.num_heads()); }
        return text + ")";
      });
}

KvBlockLayout custom(std::vector<BlockDim> const& order) {
  KVBM_EXPECTS(order.size() == layout::kNumBlockDims, InvalidArgument,
               "order has " + std::to_string(order.size()) + " dimensions, must have 5");
  KvBlockLayout::Order dims{};
  std::copy(order.begin(), order.end(), dims.begin());
  return KvBlockLayout::Custom(dims);
}

KvBlockLayout strided(std::vector<std::int64_t> const& bytes, std::uint64_t footprint) {
  KVBM_EXPECTS(bytes.size() == layout::kNumBlockDims, InvalidArgument,
               "strides has " + std::to_string(bytes.size()) +
                   " entries, must have 5: layer, outer, token, head, head_dim");
  BlockStrides strides;
  std::copy(bytes.begin(), bytes.end(), strides.bytes.begin());
  strides.footprint = footprint;
  return KvBlockLayout::Strided(strides);
}

nb::object hash_of(KvBlockLayout const& self) {
  // Formats that compare equal have equal orders; a Custom and a named one differ in their text.
  nb::list key;
  if (auto const order = self.order()) {
    for (BlockDim const dim : *order) {
      key.append(static_cast<int>(dim));
    }
  } else {
    key.append(self.to_string());
  }
  return nb::int_(nb::hash(nb::tuple(key)));
}

void bind_kv_block_layout(nb::module_& m) {
  nb::enum_<BlockDim>(m, "BlockDim", "The five dimensions of one KV block.")
      .value("Layer", BlockDim::Layer)
      .value("Outer", BlockDim::Outer)
      .value("Token", BlockDim::Token)
      .value("Head", BlockDim::Head)
      .value("HeadDim", BlockDim::HeadDim);

  nb::class_<KvBlockLayout> format(
      m, "KvBlockLayout", nb::is_final(),
      "The order of a block's five dimensions in memory. Immutable, hashable.");
  nb::enum_<KvBlockLayout::Kind>(format, "Kind", "Which format it is.")
      .value("UniversalTP", KvBlockLayout::Kind::UniversalTP)
      .value("UniversalPP", KvBlockLayout::Kind::UniversalPP)
      .value("OperationalHND", KvBlockLayout::Kind::OperationalHND)
      .value("OperationalNHD", KvBlockLayout::Kind::OperationalNHD)
      .value("Custom", KvBlockLayout::Kind::Custom)
      .value("Strided", KvBlockLayout::Kind::Strided)
      .value("Unknown", KvBlockLayout::Kind::Unknown);
  format
      .def_prop_ro_static(
          "UniversalTP", [](nb::handle) { return KvBlockLayout::UniversalTP; },
          "[nh, nl, no, nt, hd]")
      .def_prop_ro_static(
          "UniversalPP", [](nb::handle) { return KvBlockLayout::UniversalPP; },
          "[nl, nh, no, nt, hd]")
      .def_prop_ro_static(
          "OperationalHND", [](nb::handle) { return KvBlockLayout::OperationalHND; },
          "[nl, no, nh, nt, hd]")
      .def_prop_ro_static(
          "OperationalNHD", [](nb::handle) { return KvBlockLayout::OperationalNHD; },
          "[nl, no, nt, nh, hd]")
      .def_prop_ro_static(
          "Unknown", [](nb::handle) { return KvBlockLayout::Unknown; },
          "Whole (layer, outer) chunks can be moved; what is inside them is not known.")
      .def_static("Custom", &custom, nb::arg("order"),
                  "Any permutation of the five dimensions, outermost first.")
      .def_static("Strided", &strided, nb::arg("strides"), nb::arg("footprint"),
                  "Explicit byte strides in the order layer, outer, token, head, head_dim, and the "
                  "bytes from a block's first byte to behind its last.")
      .def_static("parse", &KvBlockLayout::parse, nb::arg("text"), "Reads back what str() wrote.")
      .def_prop_ro("kind", &KvBlockLayout::kind)
      .def_prop_ro(
          "order",
          [](KvBlockLayout const& self) -> nb::object {
            auto const order = self.order();
            if (!order) { return nb::none(); }
            nb::list dims;
            for (BlockDim const dim : *order) {
              dims.append(nb::cast(dim));
            }
            return nb::tuple(dims);
          },
          nb::sig("def order(self) -> tuple[BlockDim, ...] | None"),
          "Outermost first; None for Unknown and Strided.")
      .def_prop_ro("is_operational", &KvBlockLayout::is_operational, "NHD or HND.")
      .def_prop_ro("is_universal", &KvBlockLayout::is_universal, "TP or PP.")
      .def_prop_ro("is_unknown", &KvBlockLayout::is_unknown)
      .def_prop_ro("needs_num_heads", &KvBlockLayout::needs_num_heads)
      .def(
          "requires_transform",
          [](KvBlockLayout const& self, KvBlockLayout const& other, LayoutConfig const* config) {
            return config == nullptr ? self.requires_transform(other)
                                     : self.requires_transform(other, *config);
          },
          nb::arg("other"), nb::arg("config").none() = nb::none(),
          "Whether bytes have to be rearranged to go from this format to `other`; with a config, "
          "dimensions of extent 1 do not count.")
      .def(
          "strides",
          [](KvBlockLayout const& self, LayoutConfig const& config) {
            BlockStrides const strides = self.strides(config);
            nb::list bytes;
            for (std::int64_t const stride : strides.bytes) {
              bytes.append(stride);
            }
            return nb::make_tuple(nb::tuple(bytes), strides.footprint);
          },
          nb::sig("def strides(self, config: LayoutConfig) -> tuple[tuple[int, ...], int]"),
          nb::arg("config"),
          "Byte strides in the order layer, outer, token, head, head_dim, and the footprint.")
      .def(
          "__eq__",
          [](KvBlockLayout const& self, nb::handle other) {
            KvBlockLayout const* format_of_other = nullptr;
            return nb::try_cast(other, format_of_other, false) && format_of_other != nullptr &&
                   self == *format_of_other;
          },
          nb::sig("def __eq__(self, other: object, /) -> bool"))
      .def("__hash__", &hash_of, nb::sig("def __hash__(self) -> int"))
      .def("__str__", &KvBlockLayout::to_string)
      .def("__repr__", [](KvBlockLayout const& self) {
        return "KvBlockLayout.parse('" + self.to_string() + "')";
      });
}

KvDimLayout dim_layout(nb::handle dims, std::uint64_t element_bytes) {
  std::vector<layout::TensorDim> list;
  for (nb::handle const item : nb::iter(dims)) {
    nb::tuple const entry(nb::borrow(item));
    KVBM_EXPECTS(entry.size() == 2 || entry.size() == 3, InvalidArgument,
                 "dims[" + std::to_string(list.size()) + "] has " + std::to_string(entry.size()) +
                     " items, must be (dim, extent[, stride_bytes])");
    list.push_back({nb::cast<Dim>(entry[0]), to_u64(entry[1], "extent"),
                    entry.size() == 3 ? to_u64(entry[2], "stride_bytes") : 0});
  }
  return {std::move(list), element_bytes};
}

void bind_kv_dim_layout(nb::module_& m) {
  nb::enum_<Dim>(m, "Dim", "Names of the dimensions of engine tensors.")
      .value("Block", Dim::Block)
      .value("Layer", Dim::Layer)
      .value("Outer", Dim::Outer)
      .value("Token", Dim::Token)
      .value("Head", Dim::Head)
      .value("HeadDim", Dim::HeadDim)
      .value("Payload", Dim::Payload, "HeadDim, or the whole row where there is no Head");
  nb::class_<KvDimLayout>(m, "KvDimLayout", nb::is_final(),
                          "How ONE engine tensor (the KV cache of one layer) orders the dimensions "
                          "Block, Outer, Token, "
                          "Head and Payload, outermost first.")
      .def(
          "__init__",
          [](KvDimLayout* self, nb::handle dims, nb::handle element_bytes) {
            new (self) KvDimLayout(dim_layout(dims, to_u64(element_bytes, "element_bytes")));
          },
          nb::sig("def __init__(self, dims: collections.abc.Iterable[tuple[Dim, int] | tuple[Dim, "
                  "int, int]], element_bytes: int) -> None"),
          nb::arg("dims"), nb::arg("element_bytes"),
          "dims: (dim, extent[, stride_bytes]), outermost first, Payload last.")
      .def_prop_ro("element_bytes", &KvDimLayout::element_bytes)
      .def_prop_ro("bytes", &KvDimLayout::bytes, "From the first element to behind the last.")
      .def("extent", &KvDimLayout::extent, nb::arg("dim"))
      .def("stride", &KvDimLayout::stride, nb::arg("dim"), "Bytes a step along `dim` moves.")
      .def("config", &KvDimLayout::config, nb::arg("num_layers"),
           "The config of `num_layers` such tensors.")
      .def(nb::self == nb::self, nb::sig("def __eq__(self, other: object, /) -> bool"))
      .def("__str__", &KvDimLayout::to_string);
}

}  // namespace

void bind_format(nb::module_& m) {
  bind_config(m);
  bind_kv_block_layout(m);
  bind_kv_dim_layout(m);
}

}  // namespace kvbm::python
