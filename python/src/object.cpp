// SPDX-License-Identifier: Apache-2.0
//
// Object stores: who signs requests, how a bucket is reached, blocks by their content key.
#include "common.hpp"

#include "kvbm/object/environment.hpp"
#include "kvbm/object/object_store.hpp"

#include <nanobind/stl/optional.h>
#include <nanobind/stl/string.h>
#include <nanobind/stl/vector.h>

#include <array>
#include <limits>
#include <string>
#include <utility>
#include <vector>

namespace kvbm::python {

namespace {

using object::Credentials;
using object::ObjectBlockStore;
using object::ObjectStoreOptions;
using object::S3Stats;

using PyObjectStore = Unlocked<std::shared_ptr<ObjectBlockStore>>;

std::chrono::milliseconds to_milliseconds(nb::handle value, char const* name) {
  return std::chrono::ceil<std::chrono::milliseconds>(to_duration(nb::cast<double>(value), name));
}

// What allocate_object takes by name. Values are those of Python, never None.
struct Option {
  char const* name;
  void (*set)(ObjectStoreOptions& options, nb::handle value);
};
constexpr std::array kOptions{
    Option{"endpoint", [](auto& to, auto value) { to.s3.endpoint = nb::cast<std::string>(value); }},
    Option{"region", [](auto& to, auto value) { to.s3.region = nb::cast<std::string>(value); }},
    Option{"credentials",
           [](auto& to, auto value) { to.s3.credentials = nb::cast<Credentials>(value); }},
    Option{"model", [](auto& to, auto value) { to.scheme.model = nb::cast<std::string>(value); }},
    Option{"format", [](auto& to, auto value) { to.scheme.format = nb::cast<std::string>(value); }},
    Option{"tp_size",
           [](auto& to, auto value) { to.scheme.tp_size = to_unsigned(value, "tp_size"); }},
    Option{"tp_rank",
           [](auto& to, auto value) { to.scheme.tp_rank = to_unsigned(value, "tp_rank"); }},
    Option{"blocks_per_object",
           [](auto& to, auto value) {
             to.blocks_per_object = to_unsigned(value, "blocks_per_object");
           }},
    Option{"read_only", [](auto& to, auto value) { to.read_only = nb::cast<bool>(value); }},
    Option{"transport",
           [](auto& to, auto value) { to.transport = nb::cast<object::ObjectTransport>(value); }},
    Option{"nixl_library", [](auto& to, auto value) { to.nixl_library = to_path(value); }},
    Option{"path_style", [](auto& to, auto value) { to.s3.path_style = nb::cast<bool>(value); }},
    Option{"ca_file", [](auto& to, auto value) { to.s3.ca_file = to_path(value); }},
    Option{"sign_payloads",
           [](auto& to, auto value) {
             to.s3.payload_signing = nb::cast<bool>(value) ? object::PayloadSigning::Signed
                                                           : object::PayloadSigning::Unsigned;
           }},
    Option{"connections",
           [](auto& to, auto value) { to.s3.connections = to_u64(value, "connections"); }},
    Option{"threads", [](auto& to, auto value) { to.s3.threads = to_u64(value, "threads"); }},
    Option{"connect_timeout",
           [](auto& to, auto value) {
             to.s3.connect_timeout = to_milliseconds(value, "connect_timeout");
           }},
    Option{"stall_timeout",
           [](auto& to, auto value) {
             to.s3.stall_timeout = to_milliseconds(value, "stall_timeout");
           }},
    Option{"deadline",
           [](auto& to, auto value) { to.s3.deadline = to_milliseconds(value, "deadline"); }},
    Option{"max_retries",
           [](auto& to, auto value) { to.s3.max_retries = to_unsigned(value, "max_retries"); }},
};

void set_option(ObjectStoreOptions& options, std::string const& name, nb::handle value) {
  for (Option const& option : kOptions) {
    if (name != option.name) { continue; }
    if (value.is_none()) { return; }
    try {
      option.set(options, value);
    } catch (nb::cast_error const&) {
      throw nb::type_error((name + " is a " + nb::type_name(value.type()).c_str()).c_str());
    }
    return;
  }
  throw nb::type_error(("allocate_object() takes no '" + name + "'").c_str());
}

// Bytes of a caller, as they are, until this goes.
class Buffer {
 public:
  Buffer(nb::handle object, char const* name, bool writable) {
    if (PyObject_GetBuffer(object.ptr(), &view_, writable ? PyBUF_WRITABLE : PyBUF_SIMPLE) == 0) {
      return;
    }
    PyErr_Clear();
    throw nb::type_error((std::string(name) + " is a " + nb::type_name(object.type()).c_str() +
                          (writable ? ": needs a writable, C-contiguous buffer (bytearray, "
                                      "memoryview, numpy array)"
                                    : ": needs a C-contiguous buffer (bytes, bytearray, "
                                      "memoryview, numpy array)"))
                             .c_str());
  }
  ~Buffer() { PyBuffer_Release(&view_); }
  Buffer(Buffer const&) = delete;
  Buffer& operator=(Buffer const&) = delete;

  [[nodiscard]] std::span<std::byte> bytes() const noexcept {
    return {static_cast<std::byte*>(view_.buf), static_cast<std::size_t>(view_.len)};
  }

 private:
  Py_buffer view_{};
};

nb::object get(PyObjectStore const& self, std::string const& key) {
  std::uint64_t const size = (*self)->groups().front().extent_bytes;
  nb::object const made =
      nb::steal(PyBytes_FromStringAndSize(nullptr, static_cast<Py_ssize_t>(size)));
  if (!made.is_valid()) { throw nb::python_error(); }
  std::span const bytes(reinterpret_cast<std::byte*>(PyBytes_AS_STRING(made.ptr())), size);
  GilRelease const unlocked;
  (*self)->get(key, bytes);
  return made;
}

std::vector<std::pair<std::string, std::uint64_t>> list_keys(PyObjectStore const& self,
                                                             std::uint64_t limit) {
  std::vector<std::pair<std::string, std::uint64_t>> found;
  GilRelease const unlocked;
  if (limit == 0) { return found; }
  (*self)->list([&](std::string const& key, std::uint64_t bytes) {
    found.emplace_back(key, bytes);
    return found.size() < limit;
  });
  return found;
}

void bind_credentials(nb::module_& m) {
  nb::class_<Credentials>(m, "Credentials", nb::is_final(),
                          "Who signs requests to an object store. Neither repr() nor any message "
                          "shows the secret or the token.")
      .def(
          "__init__",
          [](Credentials* self, std::string id, std::string secret, std::string token) {
            new (self) Credentials{std::move(id), std::move(secret), std::move(token), "the caller",
                                   std::nullopt};
          },
          nb::arg("access_key_id"), nb::arg("secret_access_key"), nb::arg("session_token") = "")
      .def_static("from_chain", &Credentials::from_chain, nb::call_guard<GilRelease>(),
                  "What AWS's own tools look at: the environment, the profiles of ~/.aws, the "
                  "endpoint of a container, the instance's metadata service. NotFoundError names "
                  "everything that was looked at.")
      .def_ro("access_key_id", &Credentials::access_key_id)
      .def_ro("source", &Credentials::source, "Where they came from.")
      .def("__repr__",
           [](Credentials const& self) { return "Credentials(" + to_string(self) + ")"; });
}

void bind_s3_stats(nb::module_& m) {
  nb::class_<S3Stats>(m, "S3Stats", nb::is_final(), "What an S3 client counts since it was made.")
      .def_ro("requests", &S3Stats::requests, "Attempts sent.")
      .def_ro("retries", &S3Stats::retries, "Of these, all but the first of each request.")
      .def_ro("succeeded", &S3Stats::succeeded, "Requests that ended well.")
      .def_ro("failed", &S3Stats::failed, "Requests that ended with an error.")
      .def_ro("bytes_sent", &S3Stats::bytes_sent, "Bodies of successful requests.")
      .def_ro("bytes_received", &S3Stats::bytes_received)
      .def_ro("connections", &S3Stats::connections, "Opened.")
      .def_prop_ro(
          "attempt_errors",
          [](S3Stats const& self) {
            nb::dict errors;
            for (std::size_t i = 0; i < object::kNumS3ErrorKinds; ++i) {
              auto const kind = to_str(to_string(static_cast<object::S3ErrorKind>(i)));
              if (self.attempt_errors[i] > 0) { errors[kind] = self.attempt_errors[i]; }
            }
            return errors;
          },
          nb::sig("def attempt_errors(self) -> dict[str, int]"),
          "Attempts that failed, by kind, also those that a retry made good.");
}

template <typename Class>
void bind_content(Class& bound) {
  bound
      .def(
          "put",
          [](PyObjectStore const& self, std::string const& key, nb::handle data) {
            Buffer const buffer(data, "data", false);
            GilRelease const unlocked;
            (*self)->put(key, buffer.bytes());
          },
          nb::sig("def put(self, content_key: str, data: typing_extensions.Buffer) -> None"),
          nb::arg("content_key"), nb::arg("data"), "Stores the bytes of one block.")
      .def("get", &get, nb::sig("def get(self, content_key: str) -> bytes"), nb::arg("content_key"),
           "Reads one block and verifies it. NotFoundError, CorruptError.")
      .def(
          "get_into",
          [](PyObjectStore const& self, std::string const& key, nb::handle into) {
            Buffer const buffer(into, "buffer", true);
            GilRelease const unlocked;
            (*self)->get(key, buffer.bytes());
          },
          nb::sig("def get_into(self, content_key: str, buffer: typing_extensions.Buffer) -> None"),
          nb::arg("content_key"), nb::arg("buffer"),
          "The same into memory of the caller, which is zeroed where it fails.")
      .def(
          "exists",
          [](PyObjectStore const& self, std::string const& key) {
            GilRelease const unlocked;
            return (*self)->exists(key);
          },
          nb::arg("content_key"))
      .def(
          "exist",
          [](PyObjectStore const& self, nb::handle keys) {
            std::vector<std::string> names;
            for (nb::handle const key : nb::iter(keys)) {
              names.push_back(nb::cast<std::string>(key));
            }
            GilRelease const unlocked;
            return (*self)->exist(names);
          },
          nb::sig("def exist(self, content_keys: collections.abc.Iterable[str]) -> "
                  "list[bool]"),
          nb::arg("content_keys"), "For many keys at once, in their order.")
      .def(
          "remove",
          [](PyObjectStore const& self, std::string const& key) {
            GilRelease const unlocked;
            (*self)->remove(key);
          },
          nb::arg("content_key"), "A key that is not there is no error.")
      .def(
          "list",
          [](PyObjectStore const& self, nb::handle limit) {
            auto const most = to_optional_u64(limit, "limit");
            nb::list keys;
            for (auto const& [key, bytes] :
                 list_keys(self, most.value_or(std::numeric_limits<std::uint64_t>::max()))) {
              keys.append(nb::make_tuple(to_str(key), bytes));
            }
            return keys;
          },
          nb::sig("def list(self, *, limit: int | None = None) -> "
                  "list[tuple[str, int]]"),
          nb::kw_only(), nb::arg("limit") = nb::none(),
          "Content keys in ascending order of their objects, each with its bytes.");
}

template <typename Class>
void bind_names(Class& bound) {
  bound
      .def(
          "bind",
          [](PyObjectStore const& self, nb::handle block, std::string const& key) {
            (*self)->bind(to_u64(block, "block"), key);
          },
          nb::sig("def bind(self, block: int, content_key: str) -> None"), nb::arg("block"),
          nb::arg("content_key"),
          "From now on this block of the layout is the object of that key. Transfers that were "
          "started keep the former one.")
      .def(
          "unbind",
          [](PyObjectStore const& self, nb::handle block) {
            (*self)->unbind(to_u64(block, "block"));
          },
          nb::sig("def unbind(self, block: int) -> None"), nb::arg("block"),
          "Back to the block's index.")
      .def(
          "key_of",
          [](PyObjectStore const& self, nb::handle block) {
            return (*self)->key_of(to_u64(block, "block"));
          },
          nb::sig("def key_of(self, block: int) -> str | None"), nb::arg("block"),
          "Its content key; None: it goes by its index.")
      .def(
          "object_key_of",
          [](PyObjectStore const& self, nb::handle block) {
            return (*self)->object_key_of(to_u64(block, "block"));
          },
          nb::sig("def object_key_of(self, block: int) -> str"), nb::arg("block"),
          "The key of the object in which the block lies.");
}

}  // namespace

object::ObjectStoreOptions to_object_options(std::string const& bucket, std::string const& prefix,
                                             nb::handle options) {
  ObjectStoreOptions result;
  result.s3 = object::options_from_environment(bucket);
  result.scheme.prefix = prefix;
  nb::dict const given = nb::borrow<nb::dict>(options);
  for (auto const [name, value] : given) {
    set_option(result, nb::cast<std::string>(name), value);
  }
  return result;
}

nb::object make_object_store(std::shared_ptr<memory::BlockStore> const& store) {
  auto objects = std::dynamic_pointer_cast<ObjectBlockStore>(store);
  return objects == nullptr ? nb::none() : nb::cast(PyObjectStore(std::move(objects)));
}

void add_s3_failure(nb::handle exception, std::exception_ptr const& cause) {
  if (cause == nullptr) { return; }
  try {
    std::rethrow_exception(cause);
  } catch (Error const& error) {
    auto const* const failure = object::s3_failure(error);
    // Of a transfer whose blocks failed in several ways, the summary may be about another one.
    if (failure == nullptr || !exception.attr("code").equal(nb::cast(error.code()))) { return; }
    exception.attr("kind") = to_str(to_string(failure->kind()));
    exception.attr("http_status") = failure->http_status();
    exception.attr("attempts") = failure->attempts();
  } catch (...) { return; }  // nothing of S3's
}

void bind_object(nb::module_& m) {
  bind_credentials(m);
  bind_s3_stats(m);
  nb::enum_<object::ObjectTransport>(m, "ObjectTransport", "Who moves the bodies of objects.")
      .value("Curl", object::ObjectTransport::Curl, "libcurl.")
      .value("Nixl", object::ObjectTransport::Nixl,
             "NIXL's OBJ plugin, with libcurl for metadata and for what it cannot do.")
      .value("Auto", object::ObjectTransport::Auto,
             "Curl where that plugin does not load, else whichever is measured to be faster when "
             "the store is opened; ObjectStore.backend_reason says why.");
  nb::class_<PyObjectStore> bound(
      m, "ObjectStore", nb::is_final(),
      "The objects behind a layout that allocate_object() made: blocks by content key, beside and "
      "instead of those by index. Bytes are those of exactly one block, in the layout's format. "
      "Methods may be called from any thread and release the interpreter lock.");
  bind_content(bound);
  bind_names(bound);
  bound
      .def(
          "stats", [](PyObjectStore const& self) { return (*self)->client()->stats(); },
          "What its S3 client has counted.")
      .def_prop_ro(
          "url", [](PyObjectStore const& self) { return to_str((*self)->name()); },
          nb::sig("def url(self) -> str"), "Of all its objects. Never holds credentials.")
      .def_prop_ro(
          "block_bytes",
          [](PyObjectStore const& self) { return (*self)->groups().front().extent_bytes; },
          "What put() takes and get() gives.")
      .def_prop_ro("blocks_per_object",
                   [](PyObjectStore const& self) { return (*self)->blocks_per_object(); })
      .def_prop_ro("read_only", [](PyObjectStore const& self) { return !(*self)->is_writable(); })
      .def_prop_ro(
          "backend_reason", [](PyObjectStore const& self) { return (*self)->backend_reason(); },
          "Which way objects are moved, and why it was taken.")
      .def("__repr__",
           [](PyObjectStore const& self) { return "ObjectStore('" + (*self)->name() + "')"; });
}

}  // namespace kvbm::python
