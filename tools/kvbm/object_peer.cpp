// SPDX-License-Identifier: Apache-2.0
#include "object_peer.hpp"

#include <nlohmann/json.hpp>

#include "kvbm/core/error.hpp"
#include "machine.hpp"

namespace kvbm::cli {
namespace {

// Reads "put WAY" or "get WAY" and answers with the seconds that all objects took.
constexpr char const* kScript = R"(
import json, multiprocessing, os, sys, time
from concurrent.futures import ThreadPoolExecutor
import boto3
from botocore.config import Config

endpoint, bucket = sys.argv[1:3]
size, count, connections, processes = map(int, sys.argv[3:])
body = (bytes(range(256)) * (size // 256 + 1))[:size]

class Threads:
    def __init__(self, threads):
        self.pool = ThreadPoolExecutor(threads)
        self.client = boto3.client("s3", endpoint_url=endpoint, region_name="us-east-1",
            config=Config(max_pool_connections=threads, s3={"addressing_style": "path"},
                          request_checksum_calculation="when_required",
                          response_checksum_validation="when_required"))
    def put(self, i):
        self.client.put_object(Bucket=bucket, Key=f"boto3/{i}", Body=body)
    def get(self, i):
        got = self.client.get_object(Bucket=bucket, Key=f"boto3/{i}")["Body"].read()
        assert len(got) == size
    def run(self, what, indices):
        list(self.pool.map(getattr(self, what), indices))

def serve(pipe, threads, parent):
    client = Threads(threads)
    while True:
        while not pipe.poll(1):
            if os.getppid() != parent: os._exit(0)
        what, indices = pipe.recv()
        client.run(what, indices)
        pipe.send(True)

class Processes:
    def __init__(self):
        context = multiprocessing.get_context("fork")
        self.pipes, self.processes = [], []
        for _ in range(processes):
            here, there = context.Pipe()
            process = context.Process(target=serve, daemon=True,
                args=(there, max(1, connections // processes), os.getpid()))
            process.start()
            self.processes.append(process)
            self.pipes.append(here)
    def run(self, what, indices):
        for i, pipe in enumerate(self.pipes):
            pipe.send((what, indices[i::len(self.pipes)]))
        for pipe in self.pipes:
            pipe.recv()

class Crt:
    def __init__(self):
        from urllib.parse import urlparse
        from awscrt import auth, http, io, s3
        self.http, self.s3, uri = http, s3, urlparse(endpoint)
        self.host, secure = uri.netloc, uri.scheme == "https"
        group = io.EventLoopGroup(processes)
        bootstrap = io.ClientBootstrap(group, io.DefaultHostResolver(group))
        chain = auth.AwsCredentialsProvider.new_default_chain(bootstrap)
        self.client = s3.S3Client(bootstrap=bootstrap, region="us-east-1",
            signing_config=s3.create_default_s3_signing_config(region="us-east-1",
                                                               credential_provider=chain),
            tls_mode=s3.S3RequestTlsMode.ENABLED if secure else s3.S3RequestTlsMode.DISABLED,
            part_size=max(size, 8 << 20), multipart_upload_threshold=max(size + 1, 64 << 20))
    def start(self, what, i):
        import io
        headers = [("Host", self.host)]
        stream = None
        if what == "put":
            headers += [("Content-Length", str(size)), ("Content-Type", "binary/octet-stream")]
            stream = io.BytesIO(body)
        request = self.http.HttpRequest("PUT" if what == "put" else "GET",
            f"/{bucket}/boto3/{i}", self.http.HttpHeaders(headers), stream)
        kind = self.s3.S3RequestType.PUT_OBJECT if what == "put" else \
            self.s3.S3RequestType.GET_OBJECT
        parts = []
        def take(chunk, offset, **more): parts.append(len(chunk))
        return self.client.make_request(request=request, type=kind, on_body=take), parts
    def run(self, what, indices):
        for first in range(0, len(indices), connections):
            running = [self.start(what, i) for i in indices[first:first + connections]]
            for request, parts in running:
                request.finished_future.result(60)
                assert what == "put" or sum(parts) == size

ways = {"boto3 processes": Processes(), "boto3 threads": Threads(connections)}
indices = list(range(count))
try:
    crt = Crt()
    crt.run("put", indices[:2]); crt.run("get", indices[:2])
    ways["awscrt"] = crt
except Exception as error:
    print("awscrt is left out:", error, file=sys.stderr)
for way in ways.values():
    way.run("put", indices[:2 * connections])
print(json.dumps(list(ways)), flush=True)
for line in sys.stdin:
    what, way = line.strip().split(" ", 1)
    start = time.perf_counter()
    ways[way].run(what, indices)
    print(time.perf_counter() - start, flush=True)
for process in ways["boto3 processes"].processes:
    process.kill()
os._exit(0)
)";

}  // namespace

ObjectPeer::ObjectPeer(std::string const& python, ObjectServer const& server,
                       std::uint64_t object_bytes, std::uint64_t num_objects,
                       std::size_t connections)
    : python_(python) {
  auto in = make_pipe();
  auto out = make_pipe();
  process_ = ChildProcess(
      {python, "-c", kScript, server.endpoint(), server.bucket(), std::to_string(object_bytes),
       std::to_string(num_objects), std::to_string(connections), std::to_string(usable_cpus())},
      {in.from.get(), out.to.get(), -1});
  to_.reset(::fdopen(in.to.release(), "w"));
  from_.reset(::fdopen(out.from.release(), "r"));
  in.from.reset();
  out.to.reset();
  auto const names = nlohmann::json::parse(ask({}), nullptr, false);
  KVBM_EXPECTS(names.is_array(), Io, python + " does not start boto3: see what it said");
  names.get_to(ways_);
  times_[0].resize(ways_.size());
  times_[1].resize(ways_.size());
}

ObjectPeer::~ObjectPeer() {
  to_.reset();  // it ends with its input
  from_.reset();
  process_.wait();
}

std::string ObjectPeer::ask(std::string const& line) {
  if (!line.empty()) {
    std::fputs((line + "\n").c_str(), to_.get());
    std::fflush(to_.get());
  }
  std::string answer;
  for (int c = std::fgetc(from_.get()); c != EOF && c != '\n'; c = std::fgetc(from_.get())) {
    answer += static_cast<char>(c);
  }
  return answer;
}

void ObjectPeer::round() {
  for (std::size_t way = 0; way < ways_.size(); ++way) {
    for (std::size_t what = 0; what < 2; ++what) {
      auto const answer =
          nlohmann::json::parse(ask((what == 0 ? "put " : "get ") + ways_[way]), nullptr, false);
      KVBM_EXPECTS(answer.is_number(), Io, python_ + " ended: see what it said");
      times_[what][way].add(answer.get<double>());
    }
  }
}

ObjectPeer::Best ObjectPeer::best(std::size_t what) const {
  Best found;
  for (std::size_t way = 0; way < ways_.size(); ++way) {
    double const mine = times_[what][way].best();
    if (found.name.empty() || mine < found.seconds) { found = {ways_[way], mine}; }
  }
  return found;
}

}  // namespace kvbm::cli
