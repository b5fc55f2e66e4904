// SPDX-License-Identifier: Apache-2.0
//
// The hidden verb remote-worker: a process that is one end, or both, of what `kvbm bench remote`
// and `kvbm demo --workers 2` measure and show.
#include "worker_tasks.hpp"

#include <fmt/format.h>
#include <unistd.h>

#include <chrono>
#include <condition_variable>
#include <thread>
#include <utility>

#include "command.hpp"
#include "exit_code.hpp"
#include "kvbm/core/error.hpp"
#include "kvbm/remote/nixl_library.hpp"
#include "machine.hpp"
#include "shape.hpp"
#include "worker_process.hpp"

namespace kvbm::cli {

using nlohmann::json;

std::int64_t now_ns() {
  return std::chrono::duration_cast<std::chrono::nanoseconds>(
             std::chrono::steady_clock::now().time_since_epoch())
      .count();
}

std::vector<BlockId> ids_of(json const& given) {
  if (given.is_array()) { return given.get<std::vector<BlockId>>(); }
  return make_ids(static_cast<IdOrder>(given.at("order").get<int>()),
                  given.at("count").get<std::uint64_t>(), given.at("extent").get<std::uint64_t>(),
                  given.at("seed").get<std::uint32_t>());
}

json make_ids_json(IdOrder order, std::uint64_t count, std::uint64_t extent, std::uint32_t seed) {
  return {{"order", static_cast<int>(order)}, {"count", count}, {"extent", extent}, {"seed", seed}};
}

transfer::TransferOptions options_of(json const& given) {
  auto builder = transfer::TransferOptions::builder();
  if (given.contains("strategy")) {
    builder.strategy(transfer::strategy_from_string(given.at("strategy").get<std::string>()));
  }
  if (given.contains("notify")) {
    builder.nixl_write_notification(given.at("notify").get<std::uint64_t>());
  }
  if (given.contains("timeout_s")) {
    builder.timeout(std::chrono::duration_cast<std::chrono::nanoseconds>(
        std::chrono::duration<double>(given.at("timeout_s").get<double>())));
  }
  return builder.build();
}

namespace {

json bytes_json(std::span<std::byte const> bytes) {
  auto const* const first = reinterpret_cast<std::uint8_t const*>(bytes.data());
  return json::binary(std::vector<std::uint8_t>(first, first + bytes.size()));
}

std::vector<std::byte> bytes_of(json const& given) {
  auto const& bytes = given.get_binary();
  auto const* const first = reinterpret_cast<std::byte const*>(bytes.data());
  return {first, first + bytes.size()};
}

std::uint64_t resident_bytes() {
  auto const text = read_text("/proc/self/statm").value_or("0 0");
  return std::stoull(text.substr(text.find(' '))) *
         static_cast<std::uint64_t>(::sysconf(_SC_PAGESIZE));
}

}  // namespace

std::map<std::string, WorkerTasks::Task> const& WorkerTasks::tasks() {
  static std::map<std::string, Task> const kTasks = {
      {"open", &WorkerTasks::open},
      {"close", &WorkerTasks::close},
      {"layout", &WorkerTasks::layout},
      {"fill", &WorkerTasks::fill},
      {"checksums", &WorkerTasks::checksums},
      {"export", &WorkerTasks::export_metadata},
      {"import", &WorkerTasks::import_metadata},
      {"reach", &WorkerTasks::reach},
      {"move", &WorkerTasks::move},
      {"series", &WorkerTasks::series},
      {"onboard", &WorkerTasks::onboard},
      {"until_failure", &WorkerTasks::until_failure},
      {"listen", &WorkerTasks::listen},
      {"heard", &WorkerTasks::heard},
      {"memory", &WorkerTasks::memory},
      {"plain_open", &WorkerTasks::plain_open},
      {"plain_meet", &WorkerTasks::plain_meet},
      {"try_backend", &WorkerTasks::try_backend},
      {"peek", &WorkerTasks::peek},
      {"compare", &WorkerTasks::compare},
  };
  return kTasks;
}

json WorkerTasks::run(json const& question) {
  auto const name = question.at("do").get<std::string>();
  auto const found = tasks().find(name);
  KVBM_EXPECTS(found != tasks().end(), InvalidArgument, "no task " + name);
  return (this->*found->second)(question);
}

Member& WorkerTasks::member(json const& question) {
  auto const name = question.at("manager").get<std::string>();
  auto const found = members_.find(name);
  KVBM_EXPECTS(found != members_.end(), NotFound, "no manager " + name);
  return *found->second;
}

layout::LayoutHandle WorkerTasks::handle_of(Member& member, json const& side) {
  if (side.contains("key")) { return member.layouts.at(side.at("key").get<std::string>()); }
  if (side.contains("tier")) {
    return member.manager.resolve(side.at("worker").get<std::uint64_t>(),
                                  remote::tier_from_string(side.at("tier").get<std::string>()));
  }
  return {side.at("handle").at(0).get<std::uint64_t>(),
          side.at("handle").at(1).get<std::uint16_t>()};
}

json WorkerTasks::open(json const& question) {
  auto builder = manager::TransferManager::builder();
  builder.nixl_backend("UCX")
      .agent_name(question.at("agent").get<std::string>())
      .map_peer_memory(question.value("map", true))
      .landing_bytes(question.value("landing_mib", std::uint64_t{64}) << 20U)
      .remote_timeout(std::chrono::seconds(question.value("timeout_s", 30)));
  if (question.value("gpu", false)) {
    builder.cuda_device_id(0);
  } else {
    builder.host_device(1, question.value("device_bytes", std::uint64_t{1} << 30U));
  }
  auto made = std::make_unique<Member>(builder.build());
  auto const worker = made->manager.worker_id();
  members_[question.at("manager").get<std::string>()] = std::move(made);
  return {{"worker", worker}};
}

json WorkerTasks::close(json const& question) {
  members_.erase(question.at("manager").get<std::string>());
  return json::object();
}

json WorkerTasks::layout(json const& question) {
  auto& into = member(question);
  auto const shape = question.at("shape").get<std::vector<std::uint64_t>>();
  Workload const workload{"",          shape.at(0), shape.at(1), shape.at(2),
                          shape.at(3), shape.at(4), shape.at(5)};
  auto const config = make_config(workload, question.at("blocks").get<std::uint64_t>(), 1);
  auto const handle = into.manager.register_layout(
      make_layout(into.manager, config, side_of_tier(question.at("tier").get<std::string>())));
  into.layouts[question.at("key").get<std::string>()] = handle;
  return {{"handle", {handle.worker_id(), handle.layout_id()}}};
}

json WorkerTasks::fill(json const& question) {
  auto& into = member(question);
  bool const is_wipe = !question.contains("seed");
  into.manager.fill_blocks(
      into.layouts.at(question.at("key").get<std::string>()), ids_of(question.at("ids")),
      {is_wipe ? transfer::FillPattern::Kind::Constant : transfer::FillPattern::Kind::Hashed,
       is_wipe ? 0xEE : question.at("seed").get<std::uint64_t>()});
  return json::object();
}

json WorkerTasks::checksums(json const& question) {
  auto& of = member(question);
  auto const sums = of.manager.block_checksums(of.layouts.at(question.at("key").get<std::string>()),
                                               ids_of(question.at("ids")));
  if (question.value("fold", false)) {
    return {{"fold", to_string(checksum_bytes(sums.data(), sums.size() * sizeof(Checksum)))}};
  }
  json list = json::array();
  for (auto const& sum : sums) {
    list.push_back(to_string(sum));
  }
  return {{"checksums", std::move(list)}};
}

json WorkerTasks::export_metadata(json const& question) {
  return {{"metadata", bytes_json(member(question).manager.export_metadata().to_bytes())}};
}

json WorkerTasks::import_metadata(json const& question) {
  auto& into = member(question);
  auto const metadata = bytes_of(question.at("metadata"));
  std::uint64_t worker = 0;
  double const elapsed = seconds([&] { worker = into.manager.import_metadata(metadata); });
  return {{"worker", worker}, {"seconds", elapsed}};
}

json WorkerTasks::reach(json const& question) {
  auto& from = member(question);
  return {{"how", from.manager.how_reached(handle_of(from, question.at("of")))}};
}

json WorkerTasks::move(json const& question) {
  auto& by = member(question);
  auto const src = handle_of(by, question.at("src"));
  auto const dst = handle_of(by, question.at("dst"));
  auto const src_ids = ids_of(question.at("src_ids"));
  auto const dst_ids = ids_of(question.at("dst_ids"));
  auto const options = options_of(question.value("options", json::object()));
  json samples = json::array();
  for (std::uint64_t round = 0; round < question.value("rounds", std::uint64_t{1}); ++round) {
    samples.push_back(
        seconds([&] { by.manager.execute_transfer(src, src_ids, dst, dst_ids, options).wait(); }));
  }
  auto const explanation = by.manager.explain_transfer(src, src_ids, dst, dst_ids, options);
  return {{"seconds", samples},
          {"bytes", by.manager.layout(src).config().block_bytes() * src_ids.size()},
          {"strategy", std::string(to_string(explanation.decision.strategy))}};
}

json WorkerTasks::series(json const& question) {
  auto& by = member(question);
  auto const src = handle_of(by, question.at("src"));
  auto const dst = handle_of(by, question.at("dst"));
  auto const src_ids = ids_of(question.at("src_ids"));
  auto const dst_ids = ids_of(question.at("dst_ids"));
  auto given = question.value("options", json::object());
  std::chrono::microseconds const pause(question.value("pause_us", 0));
  json submitted = json::array();
  json done = json::array();
  for (std::uint64_t round = 0; round < question.at("rounds").get<std::uint64_t>(); ++round) {
    if (question.value("notify", false)) { given["notify"] = round; }
    auto const options = options_of(given);
    if (pause.count() > 0) { std::this_thread::sleep_for(pause); }
    submitted.push_back(now_ns());
    by.manager.execute_transfer(src, src_ids, dst, dst_ids, options).wait();
    done.push_back(now_ns());
  }
  return {{"submitted", submitted}, {"done", done}};
}

json WorkerTasks::onboard(json const& question) {
  auto& by = member(question);
  auto notices = by.manager.subscribe_write_notifications();
  auto const src = handle_of(by, question.at("src"));
  auto const dst = handle_of(by, question.at("dst"));
  auto const ids = ids_of(question.at("ids"));
  auto const notice = notices.next(std::chrono::seconds(question.at("timeout_s").get<int>()));
  auto const notified = now_ns();
  if (!notice) { throw TimeoutError("no write notification came"); }
  auto const all = std::span(ids);
  by.manager.execute_transfer(src, all.first(1), dst, all.first(1)).wait();
  auto const first = now_ns();
  if (ids.size() > 1) {
    by.manager.execute_transfer(src, all.subspan(1), dst, all.subspan(1)).wait();
  }
  return {{"value", notice->value},
          {"from", notice->worker_id},
          {"notified", notified},
          {"first", first},
          {"all", now_ns()}};
}

json WorkerTasks::until_failure(json const& question) {
  auto& by = member(question);
  auto const src_ids = ids_of(question.at("src_ids"));
  auto const dst_ids = ids_of(question.at("dst_ids"));
  auto const options = options_of(question.value("options", json::object()));
  std::uint64_t done = 0;
  std::int64_t began = 0;
  try {
    auto const src = handle_of(by, question.at("src"));
    auto const dst = handle_of(by, question.at("dst"));
    for (auto const limit = question.value("rounds", std::uint64_t{1} << 40U); done < limit;
         ++done) {
      began = now_ns();
      by.manager.execute_transfer(src, src_ids, dst, dst_ids, options).wait();
    }
    return {{"failed", nullptr}, {"done", done}};
  } catch (Error const& error) {
    return {{"failed", now_ns()},
            {"began", began},
            {"code", std::string(to_string(error.code()))},
            {"message", error.what()},
            {"done", done}};
  }
}

json WorkerTasks::listen(json const& question) {
  auto& by = member(question);
  by.notices = by.manager.subscribe_write_notifications();
  by.notices->on_each([&by](remote::WriteNotification const& notice) {
    auto const when = now_ns();
    std::lock_guard const lock(by.mutex);
    by.heard.emplace_back(notice.value, when);
  });
  return json::object();
}

json WorkerTasks::heard(json const& question) {
  auto& by = member(question);
  auto const count = question.at("count").get<std::size_t>();
  auto const deadline =
      std::chrono::steady_clock::now() + std::chrono::seconds(question.value("timeout_s", 30));
  json list = json::array();
  while (true) {
    {
      std::lock_guard const lock(by.mutex);
      if (by.heard.size() >= count) {
        for (auto const& [value, when] : by.heard) {
          list.push_back({value, when});
        }
        by.heard.clear();
        return {{"heard", list}};
      }
    }
    if (std::chrono::steady_clock::now() >= deadline) {
      throw TimeoutError(fmt::format("{} write notifications did not come", count));
    }
    std::this_thread::sleep_for(std::chrono::microseconds(200));
  }
}

json WorkerTasks::memory(json const& /*question*/) { return {{"rss", resident_bytes()}}; }

json WorkerTasks::plain_open(json const& question) {
  auto& of = member(question);
  plain_ =
      std::make_unique<PlainNixl>(remote::find_nixl().path, fmt::format("plain-{}", ::getpid()));
  json addresses = json::object();
  for (auto const& [key, handle] : of.layouts) {
    auto const layout = of.manager.layout(handle);
    auto const& region = layout.regions().front();
    plain_->add(region.address(), region.bytes());
    addresses[key] = region.address();
  }
  return {{"metadata", json::binary(plain_->metadata())}, {"addresses", addresses}};
}

json WorkerTasks::plain_meet(json const& question) {
  plain_peer_ = plain_->meet(question.at("metadata").get_binary());
  return json::object();
}

void add_remote_worker(Commands& commands) {
  auto const parent = std::make_shared<int>(0);
  auto& verb = commands.add("remote-worker", "a worker of `kvbm bench remote`", [parent] {
    Channel const channel = join_parent();
    if (::getppid() != *parent) { return ExitOk; }  // it ended before we could say that we follow
    WorkerTasks tasks;
    while (true) {
      json question;
      try {
        question = channel.receive(std::chrono::milliseconds(-1));
      } catch (PeerError const&) { return ExitOk; }
      if (question.at("do") == "end") { return ExitOk; }
      json answer;
      try {
        answer = tasks.run(question);
      } catch (Error const& error) {
        answer = {{"error", std::string(to_string(error.code()))}, {"message", error.what()}};
      } catch (std::exception const& error) {
        answer = {{"error", "Internal"}, {"message", error.what()}};
      }
      channel.send(answer);
    }
  });
  verb.group("");  // hidden: other verbs start it
  verb.add_option("--parent", *parent, "")->required();
}

}  // namespace kvbm::cli
