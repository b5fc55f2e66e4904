// SPDX-License-Identifier: Apache-2.0
#include "common.hpp"

#include "kvbm/remote/exchange.hpp"

#include <nanobind/stl/string.h>
#include <nanobind/stl/vector.h>

#include <algorithm>
#include <cstddef>
#include <limits>
#include <string>
#include <utility>

namespace kvbm::python {

namespace {

using remote::MetadataExchange;
using remote::TcpExchange;
using Clock = std::chrono::steady_clock;

// Its end may talk to peers or to etcd.
using PyExchange = Unlocked<std::shared_ptr<MetadataExchange>>;

struct PyTcpExchange : PyExchange {
  explicit PyTcpExchange(std::shared_ptr<TcpExchange> exchange)
      : PyExchange(exchange), tcp(exchange.get()) {}
  TcpExchange* tcp;
};

// The exchange that a call uses, which may go on while the object is dropped.
std::shared_ptr<MetadataExchange> used(PyExchange const& self) { return *self; }

std::chrono::milliseconds to_milliseconds(double seconds, char const* name) {
  return std::chrono::ceil<std::chrono::milliseconds>(to_duration(seconds, name));
}

nb::bytes fetch(PyExchange const& self, std::string const& name, double timeout) {
  constexpr auto kSlice = std::chrono::ceil<std::chrono::milliseconds>(kSignalInterval);
  auto const limit = to_milliseconds(timeout, "timeout");
  auto const exchange = used(self);
  Clock::time_point const begin = Clock::now();
  for (;;) {
    auto const left =
        limit - std::chrono::duration_cast<std::chrono::milliseconds>(Clock::now() - begin);
    bool const last = left <= kSlice;
    try {
      std::vector<std::byte> bytes;
      {
        GilRelease const unlocked;
        bytes = exchange->fetch(name, last ? left : kSlice);
      }
      return nb::bytes(reinterpret_cast<char const*>(bytes.data()), bytes.size());
    } catch (TimeoutError const& error) {
      if (last) {
        if (left == limit) { throw; }
        throw TimeoutError(std::string(error.what()) + " (looked for it for " +
                           std::to_string(limit.count()) + " ms in all)");
      }
    }
    if (PyErr_CheckSignals() != 0) { throw nb::python_error(); }
  }
}

void bind_methods(nb::class_<PyExchange>& bound) {
  bound
      .def(
          "publish",
          [](PyExchange const& self, std::string const& name, nb::bytes const& metadata) {
            std::span const bytes(reinterpret_cast<std::byte const*>(metadata.c_str()),
                                  metadata.size());
            auto const exchange = used(self);
            GilRelease const unlocked;
            exchange->publish(name, bytes);
          },
          nb::arg("name"), nb::arg("metadata"),
          "Makes `metadata` visible under `name`, at once and whole; replaces what this exchange "
          "published under it before. AlreadyExistsError when another live owner has the name.")
      .def(
          "withdraw",
          [](PyExchange const& self, std::string const& name) {
            auto const exchange = used(self);
            GilRelease const unlocked;
            exchange->withdraw(name);
          },
          nb::arg("name"), "Takes back what this exchange published under `name`.")
      .def("fetch", &fetch, nb::arg("name"), nb::arg("timeout") = 0.0,
           "What is published under `name`, by anybody; waits until there is something, at most "
           "`timeout` seconds: TimeoutError then.")
      .def(
          "list",
          [](PyExchange const& self) {
            auto const exchange = used(self);
            GilRelease const unlocked;
            return exchange->list();
          },
          nb::sig("def list(self) -> builtins.list[str]"),
          "Every name that could be fetched now, sorted.");
}

void bind_local(nb::class_<PyExchange>& bound) {
  bound
      .def_static(
          "in_process",
          [](PyExchange const* other) {
            return PyExchange(other == nullptr ? remote::make_in_process_exchange()
                                               : remote::make_in_process_exchange(**other));
          },
          nb::arg("other").none() = nb::none(),
          "For workers in one process: what is published is seen through the same object, and "
          "through those that were made beside it.")
      .def_static(
          "folder",
          [](nb::handle path) {
            std::string const folder = to_path(path);
            GilRelease const unlocked;
            return PyExchange(remote::make_folder_exchange(folder));
          },
          nb::sig("def folder(path: str | os.PathLike[str]) -> MetadataExchange"), nb::arg("path"),
          "Over files in a folder, which may be on a network file system. Those of dead processes "
          "of this machine count as absent.");
}

void bind_tcp(nb::module_& m, nb::class_<PyExchange>& bound) {
  nb::class_<PyTcpExchange, PyExchange>(m, "TcpExchange", nb::is_final(),
                                        "A MetadataExchange over TCP.")
      .def_prop_ro(
          "address", [](PyTcpExchange const& self) { return self.tcp->address(); },
          "\"address:port\" that this exchange serves on; empty when it serves nothing.")
      .def(
          "add_peer",
          [](PyTcpExchange const& self, std::string const& peer) {
            auto const exchange = used(self);
            GilRelease const unlocked;
            self.tcp->add_peer(peer);
          },
          nb::arg("peer"), "Asks one more peer, \"host:port\", from now on.");
  bound.def_static(
      "tcp",
      [](std::string bind_address, nb::handle port, std::string token,
         std::vector<std::string> peers, nb::handle max_connections, double io_timeout) {
        remote::TcpExchangeOptions options;
        options.bind_address = std::move(bind_address);
        std::uint64_t const number = to_u64(port, "port");
        KVBM_EXPECTS(number <= std::numeric_limits<std::uint16_t>::max(), InvalidArgument,
                     "port is " + std::to_string(number) + ", must be below 65536");
        options.port = static_cast<std::uint16_t>(number);
        options.token = std::move(token);
        options.peers = std::move(peers);
        options.max_connections = to_u64(max_connections, "max_connections");
        options.io_timeout = to_milliseconds(io_timeout, "io_timeout");
        GilRelease const unlocked;
        return PyTcpExchange(remote::make_tcp_exchange(std::move(options)));
      },
      nb::sig("def tcp(*, token: str, bind_address: str = \"\", port: int = 0, peers: "
              "collections.abc.Sequence[str] = ..., max_connections: int = 64, io_timeout: float = "
              "5.0) -> TcpExchange"),
      nb::kw_only(), nb::arg("bind_address") = "", nb::arg("port") = 0, nb::arg("token"),
      nb::arg("peers") = std::vector<std::string>(), nb::arg("max_connections") = 64,
      nb::arg("io_timeout") = 5.0,
      "Without anything between: each worker serves what it published itself on bind_address (a "
      "numeric one; empty: serves nothing) and asks `peers`. `token` is a secret of at least 16 "
      "bytes that all workers share; it never travels. Metadata is not encrypted.");
}

void bind_etcd(nb::class_<PyExchange>& bound) {
  bound.def_static(
      "etcd",
      [](std::vector<std::string> endpoints, std::string prefix, double lease_ttl,
         double request_timeout, double name_timeout, nb::handle ca_file,
         nb::handle certificate_file, nb::handle key_file) {
        remote::EtcdExchangeOptions options;
        options.endpoints = std::move(endpoints);
        options.prefix = std::move(prefix);
        options.lease_ttl =
            std::chrono::ceil<std::chrono::seconds>(to_duration(lease_ttl, "lease_ttl"));
        options.request_timeout = to_milliseconds(request_timeout, "request_timeout");
        options.name_timeout = to_milliseconds(name_timeout, "name_timeout");
        if (!ca_file.is_none()) { options.ca_file = to_path(ca_file); }
        if (!certificate_file.is_none()) { options.certificate_file = to_path(certificate_file); }
        if (!key_file.is_none()) { options.key_file = to_path(key_file); }
        GilRelease const unlocked;
        return PyExchange(remote::make_etcd_exchange(std::move(options)));
      },
      nb::sig("def etcd(endpoints: collections.abc.Sequence[str], *, prefix: str = "
              "\"/kvbm/exchange/\", lease_ttl: float = 10.0, request_timeout: float = 5.0, "
              "name_timeout: float = 0.0, ca_file: str | os.PathLike[str] | None = None, "
              "certificate_file: str | os.PathLike[str] | None = None, key_file: str | "
              "os.PathLike[str] | None = None) -> MetadataExchange"),
      nb::arg("endpoints"), nb::kw_only(), nb::arg("prefix") = "/kvbm/exchange/",
      nb::arg("lease_ttl") = 10.0, nb::arg("request_timeout") = 5.0, nb::arg("name_timeout") = 0.0,
      nb::arg("ca_file") = nb::none(), nb::arg("certificate_file") = nb::none(),
      nb::arg("key_file") = nb::none(),
      "Over etcd 3.4 or newer (\"http://host:port\"). Entries hang on a lease, so that those of a "
      "dead worker disappear after lease_ttl seconds; name_timeout is how long publish() waits for "
      "a name that somebody else has.");
}

}  // namespace

void bind_exchange(nb::module_& m) {
  nb::class_<PyExchange> bound(
      m, "MetadataExchange",
      "How serialized metadata gets from a worker to its peers. One owner of names: when it ends, "
      "everything it published is gone. All methods may be called from any thread.");
  bind_methods(bound);
  bind_local(bound);
  bind_tcp(m, bound);
  bind_etcd(bound);
}

}  // namespace kvbm::python
