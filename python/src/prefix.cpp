// SPDX-License-Identifier: Apache-2.0
#include "manager.hpp"

#include "kvbm/prefix/block_key.hpp"
#include "kvbm/prefix/prefix_store.hpp"

#include <nanobind/operators.h>
#include <nanobind/stl/optional.h>
#include <nanobind/stl/string.h>
#include <nanobind/stl/string_view.h>
#include <nanobind/stl/vector.h>

#include <memory>
#include <mutex>
#include <string>
#include <utility>
#include <vector>

namespace kvbm::python {

namespace {

using prefix::BlockKey;
using prefix::OffloadResult;
using prefix::OnboardResult;
using prefix::PrefetchResult;
using prefix::PrefixMatch;
using prefix::PrefixStats;
using prefix::PrefixStore;
using prefix::TierStats;
using prefix::TokenId;
using prefix::WritePolicy;

using Keys = std::vector<BlockKey>;

// Token ids are read like block ids: both are 32 bits without a sign.
std::vector<TokenId> to_tokens(nb::handle tokens) { return BlockIds(tokens, "tokens").to_vector(); }

Keys to_keys(nb::handle keys) {
  Keys list;
  for (nb::handle const key : nb::iter(keys)) {
    list.push_back(nb::cast<BlockKey>(key));
  }
  return list;
}

// A store that can be closed while calls are under way in other threads: they hold it as well.
// Its end waits for transfers, so it never happens with the interpreter lock held.
class PyPrefixStore {
 public:
  explicit PyPrefixStore(std::shared_ptr<PrefixStore> store) : store_(std::move(store)) {}
  ~PyPrefixStore() { close(); }
  PyPrefixStore(PyPrefixStore const&) = delete;
  PyPrefixStore& operator=(PyPrefixStore const&) = delete;

  // Calls body(store) without the interpreter lock.
  template <typename Body>
  auto call(Body const& body) const {
    GilRelease const unlocked;
    std::shared_ptr<PrefixStore> store;
    {
      std::lock_guard const lock(mutex_);
      store = store_;
    }
    KVBM_EXPECTS(store != nullptr, ShuttingDown, "the PrefixStore was closed");
    return body(*store);
  }

  void close() {
    GilRelease const unlocked;
    std::shared_ptr<PrefixStore> last;
    std::lock_guard const lock(mutex_);
    last.swap(store_);
  }

 private:
  mutable std::mutex mutex_;
  std::shared_ptr<PrefixStore> store_;
};

using PyPin = Unlocked<std::shared_ptr<prefix::Pin>>;

template <typename Result>
void bind_ticket(nb::module_& m, char const* name, char const* result_name, char const* doc) {
  using Ticket = prefix::Ticket<Result>;
  std::string const wait_signature =
      std::string("def wait(self, timeout: float | None = None) -> ") + result_name;
  std::string const await_signature =
      std::string("def __await__(self) -> collections.abc.Generator[typing.Any, None, ") +
      result_name + "]";
  nb::class_<Ticket>(m, name, nb::is_final(), doc)
      .def("is_ready", &Ticket::is_ready, "Whether the work has ended.")
      .def_prop_ro(
          "notification", [](Ticket const& self) { return self.notification(); },
          "For then() and aggregate(); wait() does not block once it is ready.")
      .def(
          "wait",
          [](nb::object const& self, nb::object const& timeout) {
            auto const& ticket = nb::cast<Ticket const&>(self);
            // The notification's own wait looks at signals, and knows deadlines.
            nb::cast(ticket.notification()).attr("wait")(timeout);
            return ticket.wait();
          },
          nb::sig(wait_signature.c_str()), nb::arg("timeout") = nb::none(),
          "Blocks until the work has ended; kvbm_cpp.TimeoutError after `timeout` seconds, while "
          "it goes on. What went wrong is in the result.")
      .def(
          "__await__",
          [](nb::object const& self) {
            return nb::module_::import_("kvbm_cpp._asyncio").attr("iterate_ticket")(self);
          },
          nb::sig(await_signature.c_str()));
}

void bind_keys(nb::module_& m) {
  nb::class_<BlockKey>(m, "BlockKey", nb::is_final(),
                       "Names the content of one KV block: the model and every token up to the end "
                       "of the block's page. str() gives 32 hexadecimal digits. Hashable, ordered.")
      .def(
          "__init__",
          [](BlockKey* self, std::string const& text) {
            new (self) BlockKey(prefix::parse_block_key(text));
          },
          nb::arg("text"))
      .def_ro("value", &BlockKey::value, "The hash.")
      .def("__str__", [](BlockKey const& self) { return to_string(self); })
      .def("__repr__", [](BlockKey const& self) { return "BlockKey('" + to_string(self) + "')"; })
      .def(nb::self == nb::self, nb::sig("def __eq__(self, other: object, /) -> bool"))
      .def(nb::self < nb::self)
      .def(nb::self <= nb::self)
      .def(nb::self > nb::self)
      .def(nb::self >= nb::self)
      .def("__hash__",
           [](BlockKey const& self) { return static_cast<Py_hash_t>(self.value.low >> 1U); });
  m.def("model_fingerprint", &prefix::model_fingerprint, nb::arg("name"), nb::arg("dtype"),
        nb::arg("config"),
        "Hash of what decides the content of a model's blocks apart from the tokens: the name of "
        "model and weights (adapters included), the element type, and the shape of a block.");
  m.def("root_key", &prefix::root_key, nb::arg("fingerprint"), nb::arg("page_size"),
        "What the keys of a model's first blocks are chained to.");
  m.def(
      "chain_keys",
      [](BlockKey const& parent, nb::handle tokens, std::uint64_t page_size) {
        return prefix::chain_keys(parent, to_tokens(tokens), page_size);
      },
      nb::sig("def chain_keys(parent: BlockKey, tokens: kvbm_cpp._types.BlockIds, page_size: int) "
              "-> list[BlockKey]"),
      nb::arg("parent"), nb::arg("tokens"), nb::arg("page_size"),
      "Keys of the full pages of `tokens`, chained to `parent`: root_key(), or the last key before "
      "them.");
}

void bind_results(nb::module_& m) {
  nb::class_<PrefixMatch>(m, "PrefixMatch", nb::is_final(), "How much of a prefix is stored.")
      .def_ro("num_blocks", &PrefixMatch::num_blocks, "Stored from the first one on.")
      .def_ro("tiers", &PrefixMatch::tiers, "The fastest tier that has each of them.");
  nb::class_<OnboardResult>(m, "OnboardResult", nb::is_final(), "What onboard() brought.")
      .def_ro("num_blocks", &OnboardResult::num_blocks,
              "Arrived, from the first one on; what is behind is unspecified.")
      .def_ro("tiers", &OnboardResult::tiers, "Where each of them was found.");
  nb::class_<OffloadResult>(m, "OffloadResult", nb::is_final(),
                            "What became of offered blocks; the three add up to all of them.")
      .def_ro("written", &OffloadResult::written, "To the first tier.")
      .def_ro("already_stored", &OffloadResult::already_stored,
              "There before, by this call or another one.")
      .def_ro("failed", &OffloadResult::failed, "Not stored: no room, a failed write.");
  nb::class_<PrefetchResult>(m, "PrefetchResult", nb::is_final(), "What prefetch() brought.")
      .def_ro("num_blocks", &PrefetchResult::num_blocks, "In memory now, from the first one on.");
  nb::class_<prefix::FlushResult>(m, "FlushResult", nb::is_final(), "What flush() did.")
      .def_ro("written", &prefix::FlushResult::written, "Blocks that no surviving tier had before.")
      .def_ro("failed", &prefix::FlushResult::failed, "Blocks that no surviving tier has now.");
  bind_ticket<OnboardResult>(m, "OnboardTicket", "OnboardResult",
                             "An onboard under way. Awaitable in asyncio.");
  bind_ticket<OffloadResult>(m, "OffloadTicket", "OffloadResult",
                             "An offload under way. Awaitable in asyncio.");
  bind_ticket<PrefetchResult>(m, "PrefetchTicket", "PrefetchResult",
                              "A prefetch under way. Awaitable in asyncio.");
}

void bind_stats(nb::module_& m) {
  nb::class_<TierStats>(m, "TierStats", nb::is_final(), "What happened in one tier.")
      .def_ro("tier", &TierStats::tier)
      .def_ro("capacity_blocks", &TierStats::capacity_blocks, "Within the byte budget.")
      .def_ro("blocks", &TierStats::blocks, "Held now.")
      .def_ro("pinned_blocks", &TierStats::pinned_blocks, "Of them, that must stay.")
      .def_ro("hits", &TierStats::hits, "Blocks that onboard() found here.")
      .def_ro("written", &TierStats::written, "Blocks that arrived.")
      .def_ro("promoted", &TierStats::promoted, "Of them, from a slower tier.")
      .def_ro("bytes_read", &TierStats::bytes_read)
      .def_ro("bytes_written", &TierStats::bytes_written)
      .def_ro("evicted", &TierStats::evicted, "Left to make room.")
      .def_ro("lost", &TierStats::lost, "Of them, the last copy, with more tiers below.")
      .def_ro("refused", &TierStats::refused, "Could not come in: all in use or pinned.")
      .def_ro("read_errors", &TierStats::read_errors)
      .def_ro("corrupt", &TierStats::corrupt, "Blocks dropped: damaged, or gone.")
      .def_ro("write_errors", &TierStats::write_errors)
      .def_ro("recovered", &TierStats::recovered, "Found when the store was opened.")
      .def_ro("damaged_index", &TierStats::damaged_index,
              "Records and headers of the slot index that were refused.");
  nb::class_<PrefixStats>(m, "PrefixStats", nb::is_final(),
                          "What happened since a PrefixStore was made.")
      .def_ro("tiers", &PrefixStats::tiers, "Fastest first.")
      .def_ro("lookups", &PrefixStats::lookups, "Calls.")
      .def_ro("onboarded", &PrefixStats::onboarded, "Blocks that arrived at the engine.")
      .def_ro("missed", &PrefixStats::missed, "Blocks asked for that did not.")
      .def_ro("offloaded", &PrefixStats::offloaded, "Blocks taken from the engine.")
      .def_ro("already_stored", &PrefixStats::already_stored,
              "Blocks offered that were there, or on their way.")
      .def_ro("shared_reads", &PrefixStats::shared_reads,
              "Blocks that waited for somebody else's read.")
      .def_ro("queued_writes", &PrefixStats::queued_writes, "Blocks on their way down now.")
      .def_ro("background_errors", &PrefixStats::background_errors,
              "In keeping records of keys; the log names them.");
}

// (handle), (handle, budget) or (handle, budget, index); a handle alone as well.
prefix::TierOptions to_tier_options(nb::handle given) {
  prefix::TierOptions tier;
  if (nb::isinstance<layout::LayoutHandle>(given)) {
    tier.layout = nb::cast<layout::LayoutHandle>(given);
    return tier;
  }
  return nb::cast<prefix::TierOptions>(given);
}

void init_store(PyPrefixStore* self, PyManager const& manager, Checksum const& fingerprint,
                nb::handle tiers, WritePolicy write_policy, bool promote, nb::handle readers,
                nb::handle batch_blocks) {
  prefix::PrefixStoreOptions options;
  options.fingerprint = fingerprint;
  for (nb::handle const tier : nb::iter(tiers)) {
    options.tiers.push_back(to_tier_options(tier));
  }
  options.write_policy = write_policy;
  options.promote = promote;
  options.readers = to_unsigned(readers, "readers");
  options.batch_blocks = to_u64(batch_blocks, "batch_blocks");
  auto shared = manager.share();
  std::shared_ptr<PrefixStore> store;
  {
    GilRelease const unlocked;
    store = std::make_shared<PrefixStore>(std::move(shared), std::move(options));
  }
  new (self) PyPrefixStore(std::move(store));
}

void bind_store(nb::module_& m) {
  nb::class_<PyPrefixStore>(
      m, "PrefixStore", nb::is_final(),
      "Keeps KV blocks by content over several tiers, so that a prompt that begins like an earlier "
      "one need not be prefilled again. A tier is a registered layout that the store owns from now "
      "on; the engine's blocks are source and destination, in any layout and format. New blocks "
      "enter the first tier and go down by the write policy; each tier evicts what was used least "
      "recently. Tiers on disk with an index, and in object stores, keep their keys over restarts "
      "and crashes. All methods may be called from any thread. A context manager: at its end it "
      "finishes what was asked for; blocks that only memory has are gone then, call flush() first.")
      .def("__init__", &init_store,
           nb::sig("def __init__(self, manager: TransferManager, fingerprint: Checksum, tiers: "
                   "collections.abc.Iterable[PrefixTier | LayoutHandle], *, write_policy: "
                   "WritePolicy = ..., promote: bool = True, readers: int = 2, "
                   "batch_blocks: int = 64) -> None"),
           nb::arg("manager"), nb::arg("fingerprint"), nb::arg("tiers"), nb::kw_only(),
           nb::arg("write_policy") = WritePolicy::Through, nb::arg("promote") = true,
           nb::arg("readers") = 2, nb::arg("batch_blocks") = 64)
      .def("close", &PyPrefixStore::close, "Ends it. Harmless on a closed one.")
      .def(
          "__enter__", [](nb::object const& self) { return self; },
          nb::sig("def __enter__(self) -> PrefixStore"))
      .def(
          "__exit__", [](PyPrefixStore& self, nb::args const&) { self.close(); },
          nb::sig("def __exit__(self, *args: object) -> None"))
      .def_prop_ro("page_size",
                   [](PyPrefixStore const& self) {
                     return self.call([](PrefixStore& store) { return store.page_size(); });
                   })
      .def_prop_ro("root",
                   [](PyPrefixStore const& self) {
                     return self.call([](PrefixStore& store) { return store.root(); });
                   })
      .def(
          "keys",
          [](PyPrefixStore const& self, nb::handle tokens) {
            auto const list = to_tokens(tokens);
            return self.call([&](PrefixStore& store) { return store.keys(list); });
          },
          nb::sig("def keys(self, tokens: kvbm_cpp._types.BlockIds) -> list[BlockKey]"),
          nb::arg("tokens"), "Keys of the full pages of a prompt.")
      .def(
          "lookup",
          [](PyPrefixStore const& self, nb::handle keys) {
            auto const list = to_keys(keys);
            return self.call([&](PrefixStore& store) { return store.lookup(list); });
          },
          nb::sig("def lookup(self, keys: collections.abc.Iterable[BlockKey]) -> PrefixMatch"),
          nb::arg("keys"), "How many of the first keys are stored. Reads nothing.")
      .def(
          "__contains__",
          [](PyPrefixStore const& self, BlockKey const& key) {
            return self.call([&](PrefixStore& store) { return store.contains(key); });
          },
          nb::arg("key"))
      .def(
          "discover",
          [](PyPrefixStore const& self, nb::handle keys) {
            auto const list = to_keys(keys);
            return self.call([&](PrefixStore& store) { return store.discover(list); });
          },
          nb::sig("def discover(self, keys: collections.abc.Iterable[BlockKey]) -> int"),
          nb::arg("keys"),
          "Asks tiers that other processes write too for keys that this store does not know; "
          "returns how many were new.")
      .def(
          "onboard",
          [](PyPrefixStore const& self, nb::handle keys, layout::LayoutHandle dst,
             nb::handle dst_blocks) {
            auto const list = to_keys(keys);
            BlockIds const ids(dst_blocks, "dst_blocks");
            return self.call(
                [&](PrefixStore& store) { return store.onboard(list, dst, ids.span()); });
          },
          nb::sig("def onboard(self, keys: collections.abc.Iterable[BlockKey], dst: LayoutHandle, "
                  "dst_blocks: kvbm_cpp._types.BlockIds) -> OnboardTicket"),
          nb::arg("keys"), nb::arg("dst"), nb::arg("dst_blocks"),
          "Copies the longest stored prefix of `keys` to the engine's blocks, keys[i] into "
          "dst_blocks[i].")
      .def(
          "offload",
          [](PyPrefixStore const& self, nb::handle keys, layout::LayoutHandle src,
             nb::handle src_blocks) {
            auto const list = to_keys(keys);
            BlockIds const ids(src_blocks, "src_blocks");
            return self.call(
                [&](PrefixStore& store) { return store.offload(list, src, ids.span()); });
          },
          nb::sig("def offload(self, keys: collections.abc.Iterable[BlockKey], src: LayoutHandle, "
                  "src_blocks: kvbm_cpp._types.BlockIds) -> OffloadTicket"),
          nb::arg("keys"), nb::arg("src"), nb::arg("src_blocks"),
          "Stores the engine's blocks, src_blocks[i] under keys[i]. They must stay as they are "
          "until the ticket is ready.")
      .def(
          "prefetch",
          [](PyPrefixStore const& self, nb::handle keys) {
            auto const list = to_keys(keys);
            return self.call([&](PrefixStore& store) { return store.prefetch(list); });
          },
          nb::sig("def prefetch(self, keys: collections.abc.Iterable[BlockKey]) -> PrefetchTicket"),
          nb::arg("keys"), "Brings the longest stored prefix of `keys` into memory.")
      .def(
          "pin",
          [](PyPrefixStore const& self, nb::handle keys) {
            auto const list = to_keys(keys);
            return PyPin(self.call([&](PrefixStore& store) {
              return std::make_shared<prefix::Pin>(store.pin(list));
            }));
          },
          nb::sig("def pin(self, keys: collections.abc.Iterable[BlockKey]) -> PrefixPin"),
          nb::arg("keys"), "Keeps those of the keys that are stored until the pin goes.")
      .def(
          "erase",
          [](PyPrefixStore const& self, nb::handle keys) {
            auto const list = to_keys(keys);
            return self.call([&](PrefixStore& store) { return store.erase(list); });
          },
          nb::sig("def erase(self, keys: collections.abc.Iterable[BlockKey]) -> int"),
          nb::arg("keys"), "Forgets keys in all tiers; pinned ones stay. Returns how many.")
      .def(
          "flush",
          [](PyPrefixStore const& self) {
            return self.call([](PrefixStore& store) { return store.flush(); });
          },
          "Writes every block that no surviving tier has to the first surviving tier, and makes "
          "those tiers survive the loss of power. Waits.")
      .def("stats", [](PyPrefixStore const& self) {
        return self.call([](PrefixStore& store) { return store.stats(); });
      });
}

}  // namespace

void bind_prefix(nb::module_& m) {
  nb::enum_<WritePolicy>(m, "WritePolicy", "When blocks go to the tiers below the first.")
      .value("Through", WritePolicy::Through, "At once, in the background.")
      .value("Back", WritePolicy::Back, "When they are evicted, or by flush().");
  nb::class_<prefix::TierOptions>(m, "PrefixTier", nb::is_final(),
                                  "One tier of a PrefixStore: a layout that belongs to it.")
      .def(
          "__init__",
          [](prefix::TierOptions* self, layout::LayoutHandle layout, nb::handle budget_bytes,
             nb::handle index) {
            auto const budget = to_optional_u64(budget_bytes, "budget_bytes");
            new (self) prefix::TierOptions{layout, budget,
                                           index.is_none() ? std::string() : to_path(index)};
          },
          nb::sig("def __init__(self, layout: LayoutHandle, *, budget_bytes: int | None = None, "
                  "index: str | os.PathLike[str] | None = None) -> None"),
          nb::arg("layout"), nb::kw_only(), nb::arg("budget_bytes") = nb::none(),
          nb::arg("index") = nb::none(),
          "index: on disk, the file that remembers which key lies in which block; without, nothing "
          "of the tier survives the store.")
      .def_ro("layout", &prefix::TierOptions::layout)
      .def_ro("budget_bytes", &prefix::TierOptions::budget_bytes);
  bind_keys(m);
  bind_results(m);
  bind_stats(m);
  nb::class_<PyPin>(m, "PrefixPin", nb::is_final(),
                    "Keeps keys from being evicted or erased. A context manager.")
      .def_prop_ro(
          "keys", [](PyPin const& self) { return (**self).keys(); },
          "The keys that were stored when they were pinned.")
      .def(
          "release",
          [](PyPin& self) {
            GilRelease const unlocked;
            (**self).release();
          },
          "Lets go now. Harmless on an empty one.")
      .def(
          "__enter__", [](nb::object const& self) { return self; },
          nb::sig("def __enter__(self) -> PrefixPin"))
      .def(
          "__exit__",
          [](PyPin& self, nb::args const&) {
            GilRelease const unlocked;
            (**self).release();
          },
          nb::sig("def __exit__(self, *args: object) -> None"));
  bind_store(m);
}

}  // namespace kvbm::python
