#include "bench/raw_nats.h"

#include <condition_variable>
#include <deque>
#include <functional>
#include <memory>
#include <mutex>
#include <numeric>
#include <random>
#include <thread>

#include <nats/nats.h>

#include "bench/wait.h"

namespace bench {
namespace {

using cluster::BootClock;

constexpr std::int64_t kTimeoutMs = 5'000;

void must(natsStatus status, const char* what) {
  if (status != NATS_OK)
    throw Failed{std::string("libnats: ") + what + ": " + natsStatus_GetText(status)};
}

template <typename T, void (*destroy)(T*)>
struct Destroy {
  void operator()(T* object) const { destroy(object); }
};
template <typename T, void (*destroy)(T*)>
using Owned = std::unique_ptr<T, Destroy<T, destroy>>;

using Connection = Owned<natsConnection, natsConnection_Destroy>;

Connection connect(const std::string& url) {
  natsOptions* made = nullptr;
  must(natsOptions_Create(&made), "options");
  const Owned<natsOptions, natsOptions_Destroy> options(made);
  must(natsOptions_SetURL(made, url.c_str()), "URL");
  must(natsOptions_SetSendAsap(made, true), "send at once");
  natsConnection* connection = nullptr;
  must(natsConnection_Connect(&connection, made), "connect");
  return Connection(connection);
}

void answer(natsConnection* connection, natsSubscription*, natsMsg* message, void*) {
  natsConnection_Publish(connection, natsMsg_GetReply(message), natsMsg_GetData(message),
                         natsMsg_GetDataLength(message));
  natsMsg_Destroy(message);
}

Distribution timed(int count, const std::function<void()>& once) {
  Distribution times;
  for (int i = 0; i < count / 10; ++i) once();  // to warm up
  for (int i = 0; i < count; ++i) {
    const auto begin = BootClock::now();
    once();
    times.add(BootClock::now() - begin);
  }
  return times;
}

Distribution measure_kv(jsCtx* js, int replicas, int count, const std::string& value) {
  kvConfig config;
  kvConfig_Init(&config);
  config.Bucket = "bench_raw";
  config.History = 1;
  config.Replicas = replicas;
  kvStore* made = nullptr;
  must(js_CreateKeyValue(&made, js, &config), "bucket");
  const Owned<kvStore, kvStore_Destroy> bucket(made);
  std::uint64_t revision = 0;
  const int size = static_cast<int>(value.size());
  must(kvStore_Put(&revision, made, "key", value.data(), size), "put");
  auto times = timed(count, [&] {
    must(kvStore_Update(&revision, made, "key", value.data(), size, revision), "update");
  });
  must(js_DeleteKeyValue(js, config.Bucket), "delete bucket");
  return times;
}

constexpr const char* kRawStream = "bench-raw";

void make_stream(jsCtx* js, int replicas) {
  const char* subject = kRawStream;
  jsStreamConfig config;
  jsStreamConfig_Init(&config);
  config.Name = kRawStream;
  config.Subjects = &subject;
  config.SubjectsLen = 1;
  config.Replicas = replicas;
  must(js_AddStream(nullptr, js, &config, nullptr, nullptr), "stream");
}

void delete_stream(jsCtx* js) {
  must(js_DeleteStream(js, kRawStream, nullptr, nullptr), "delete stream");
}

Distribution measure_publish(jsCtx* js, int replicas, int count, const std::string& data) {
  make_stream(js, replicas);
  auto times = timed(count, [&] {
    must(js_Publish(nullptr, js, kRawStream, data.data(), static_cast<int>(data.size()), nullptr,
                    nullptr),
         "publish");
  });
  delete_stream(js);
  return times;
}

using JetStream = Owned<jsCtx, jsCtx_Destroy>;

JetStream jetstream(natsConnection* connection, std::int64_t depth = 0) {
  jsOptions options;
  jsOptions_Init(&options);
  if (depth > 0) {
    options.PublishAsync.MaxPending = depth;
    options.PublishAsync.StallWait = kTimeoutMs;
  }
  jsCtx* made = nullptr;
  must(natsConnection_JetStream(&made, connection, &options), "JetStream");
  return JetStream(made);
}

}  // namespace

struct Echo::Core {
  Connection connection;
  natsSubscription* subscription = nullptr;
  std::mutex mutex{};  // over what follows
  std::condition_variable came{};
  std::deque<natsMsg*> requests{};
  bool over = false;
  std::vector<std::thread> workers{};

  void work() {
    std::unique_lock lock(mutex);
    while (true) {
      came.wait(lock, [this] { return over || !requests.empty(); });
      if (requests.empty()) return;
      natsMsg* request = requests.front();
      requests.pop_front();
      lock.unlock();
      answer(connection.get(), nullptr, request, nullptr);
      lock.lock();
    }
  }
  static void hand_over(natsConnection*, natsSubscription*, natsMsg* request, void* closure) {
    auto* core = static_cast<Core*>(closure);
    {
      const std::lock_guard lock(core->mutex);
      core->requests.push_back(request);
    }
    core->came.notify_one();
  }
};

Echo::Echo(const std::string& url, const std::string& subject, int workers)
    : core_(new Core{connect(url)}) {
  for (int i = 0; i < workers; ++i) core_->workers.emplace_back([core = core_] { core->work(); });
  must(natsConnection_Subscribe(&core_->subscription, core_->connection.get(), subject.c_str(),
                                workers > 0 ? Core::hand_over : answer, core_),
       "subscribe");
  must(natsConnection_Flush(core_->connection.get()), "flush");
}

Echo::~Echo() {
  // Destroying a subscription that a message is on its way to has crashed older libnats.
  natsSubscription_Drain(core_->subscription);
  natsSubscription_WaitForDrainCompletion(core_->subscription, kTimeoutMs);
  natsSubscription_Destroy(core_->subscription);
  {
    const std::lock_guard lock(core_->mutex);
    core_->over = true;
  }
  core_->came.notify_all();
  for (auto& worker : core_->workers) worker.join();
  delete core_;
}

struct RawClient::Core {
  Connection connection;
  JetStream js;
  Owned<kvStore, kvStore_Destroy> bucket{};
};

RawClient::RawClient(const std::string& url) : core_(new Core{connect(url), nullptr}) {
  core_->js = jetstream(core_->connection.get());
  kvConfig config;
  kvConfig_Init(&config);
  config.Bucket = "bench_raw";
  config.History = 1;
  kvStore* made = nullptr;
  must(js_CreateKeyValue(&made, core_->js.get(), &config), "bucket");
  core_->bucket.reset(made);
  make_stream(core_->js.get(), 1);
}

RawClient::~RawClient() { delete core_; }

void RawClient::request(const std::string& subject, const std::string& data) {
  natsMsg* reply = nullptr;
  must(natsConnection_Request(&reply, core_->connection.get(), subject.c_str(), data.data(),
                              static_cast<int>(data.size()), kTimeoutMs),
       "request");
  natsMsg_Destroy(reply);
}

std::uint64_t RawClient::put(const std::string& key, const std::string& data) {
  std::uint64_t revision = 0;
  must(kvStore_Put(&revision, core_->bucket.get(), key.c_str(), data.data(),
                   static_cast<int>(data.size())),
       "put");
  return revision;
}

std::uint64_t RawClient::update(const std::string& key, const std::string& data,
                                std::uint64_t revision) {
  must(kvStore_Update(&revision, core_->bucket.get(), key.c_str(), data.data(),
                      static_cast<int>(data.size()), revision),
       "update");
  return revision;
}

void RawClient::get(const std::string& key) {
  kvEntry* entry = nullptr;
  must(kvStore_Get(&entry, core_->bucket.get(), key.c_str()), "get");
  kvEntry_Destroy(entry);
}

void RawClient::publish(const std::string& data, const std::string& id) {
  jsPubOptions options;
  jsPubOptions_Init(&options);
  options.MsgId = id.c_str();
  must(js_Publish(nullptr, core_->js.get(), kRawStream, data.data(), static_cast<int>(data.size()),
                  &options, nullptr),
       "publish");
}

RawNats measure_raw_nats(const std::string& url, int replicas, int count) {
  const std::string data(kMessageBytes, 'x');
  RawNats found;
  const Connection connection = connect(url);
  {
    const Echo echo(url, "bench.raw.echo");
    found.request = timed(count, [&] {
      natsMsg* reply = nullptr;
      must(natsConnection_Request(&reply, connection.get(), "bench.raw.echo", data.data(),
                                  static_cast<int>(data.size()), kTimeoutMs),
           "request");
      natsMsg_Destroy(reply);
    });
  }
  const JetStream js = jetstream(connection.get());
  found.kv_update = measure_kv(js.get(), replicas, count, data);
  found.publish_ack = measure_publish(js.get(), replicas, count, data);
  return found;
}

Distribution raw_publish_ack(const std::string& url, int count, std::size_t bytes) {
  const Connection connection = connect(url);
  return measure_publish(jetstream(connection.get()).get(), 1, count, std::string(bytes, 'x'));
}

cluster::Duration raw_publish_async(const std::string& url, const std::vector<std::size_t>& sizes,
                                    std::int64_t depth) {
  const Connection connection = connect(url);
  const JetStream js = jetstream(connection.get(), depth);
  make_stream(js.get(), 1);
  // Each message has bytes of its own, as those that it stands for: one that is sent again and
  // again stays in the cores' caches.
  std::string data(std::accumulate(sizes.begin(), sizes.end(), std::size_t{0}), '\0');
  std::minstd_rand random;
  for (char& byte : data) byte = static_cast<char>(random());
  const char* next = data.data();
  const auto begin = BootClock::now();
  for (const std::size_t size : sizes) {
    must(js_PublishAsync(js.get(), kRawStream, next, static_cast<int>(size), nullptr), "publish");
    next += size;
  }
  jsPubOptions wait;
  jsPubOptions_Init(&wait);
  wait.MaxWait = kTimeoutMs * 12;
  must(js_PublishAsyncComplete(js.get(), &wait), "acknowledgements");
  const auto took = BootClock::now() - begin;
  delete_stream(js.get());
  return took;
}

}  // namespace bench
