// The same operations by libnats alone and through src/nats.
#include "bench/figures.h"
#include "bench/raw_nats.h"
#include "nats/embedded_server.h"
#include "nats/key_value.h"

namespace bench {
namespace {

using cluster::BootClock;
using namespace std::chrono_literals;
namespace nats = cluster::nats;

template <typename T>
Distribution timed(Waiting& waiting, int count,
                   const std::function<void(cluster::Callback<T>)>& once,
                   const std::function<void(const T&)>& then = {}) {
  Distribution times;
  for (int i = 0; i < count + count / 10; ++i) {
    const auto begin = BootClock::now();
    const auto answer = nats::await<T>(waiting.loop(), 10s, once);
    if (!answer) throw Failed{answer.error().what()};
    if (i >= count / 10) times.add(BootClock::now() - begin);  // those before warm up
    if (then) then(answer.value());
    waiting.check();
  }
  return times;
}

RawNats measure_layer(Waiting& waiting, const std::string& url, int count) {
  const std::string data(kMessageBytes, 'x');
  RawNats found;
  nats::Connection connection(waiting.loop(), {.nats = {.servers = {url}}, .name = "bench"});
  waiting.wait_for("a connection to NATS", 10s,
                   [&] { return connection.state() == nats::ConnectionState::connected; });
  {
    const Echo echo(url, "bench.layer.echo");
    found.request = timed<nats::Message>(waiting, count, [&](auto done) {
      connection.request({.subject = "bench.layer.echo", .data = data}, 5s, done);
    });
  }
  nats::JetStream jetstream(connection);
  nats::KeyValue bucket(jetstream, "bench_layer");
  const auto made = nats::await<bool>(waiting.loop(), 10s, [&](auto done) {
    bucket.ensure({.bucket = "bench_layer"},
                  [done](cluster::Failure failure) { failure ? done(*failure) : done(true); });
  });
  if (!made) throw Failed{made.error().what()};
  std::uint64_t revision = 0;
  found.kv_update = timed<std::uint64_t>(
      waiting, count, [&](auto done) { bucket.update("key", data, revision, done); },
      [&](const std::uint64_t& stored) { revision = stored; });
  const auto stream = nats::await<nats::StreamState>(waiting.loop(), 10s, [&](auto done) {
    jetstream.create_stream({.name = "bench-layer", .subjects = {"bench-layer"}}, done);
  });
  if (!stream) throw Failed{stream.error().what()};
  found.publish_ack = timed<nats::PubAck>(waiting, count, [&](auto done) {
    jetstream.publish({.subject = "bench-layer", .data = data}, {}, done);
  });
  return found;
}

}  // namespace

void nats_layer(Surroundings& around) {
  const auto servers =
      cluster::nats::start_local_servers(1, around.folder + "/nats", around.sync_always);
  const std::string url = servers.front()->url();
  const RawNats raw = measure_raw_nats(url, 1, around.amounts.raw_operations);
  const RawNats ours = measure_layer(around.waiting, url, around.amounts.raw_operations);
  const auto pair = [&](const std::string& what, const Distribution& by_libnats,
                        const Distribution& by_us) {
    around.report.line(what + ", libnats: " + by_libnats.text());
    around.report.line(what + ", src/nats: " + by_us.text());
    around.report.verdict(what,
                          "median " + ms_text(by_us.median()) + " (libnats alone " +
                              ms_text(by_libnats.median()) + ")",
                          "", std::nullopt);
  };
  pair("NATS request and reply, 128 B", raw.request, ours.request);
  pair("key-value update, 128 B", raw.kv_update, ours.kv_update);
  pair("publish with acknowledgement, 128 B", raw.publish_ack, ours.publish_ack);
}

}  // namespace bench
