// Object stores against real servers, also while these die; from the loop and from threads.
#include "nats/object_store.h"

#include <atomic>
#include <future>
#include <map>

#include <nlohmann/json.hpp>

#include "integration/nats_fixture.h"
#include "long_waits.h"
#include "nats/object_bridge.h"
#include "outage.h"

namespace cluster::nats {
namespace {

using std::chrono::milliseconds;
using std::chrono::seconds;
using testing::connect;
using testing::freeze;
using testing::kSoon;
using testing::must;
using testing::NatsServers;
using testing::thaw;

// Bytes that differ from place to place, so that a chunk in the wrong place shows.
std::string bytes_of(std::size_t size, std::uint64_t seed = 1) {
  std::string bytes(size, '\0');
  std::uint64_t x = seed * 0x9e3779b97f4a7c15ULL | 1;
  for (auto& b : bytes) {
    x ^= x << 13;
    x ^= x >> 7;
    x ^= x << 17;
    b = static_cast<char>(x);
  }
  return bytes;
}

class ObjectStoreTest : public ::testing::Test {
 protected:
  explicit ObjectStoreTest(int count = 1)
      : servers(count),
        c(loop, servers.options()),
        // A lone server that stands still answers late; of three, another one may.
        js(c, count == 1 ? kSoon : seconds(5)),
        replicas(count) {}
  void SetUp() override {
    ASSERT_TRUE(connect(c));
    ASSERT_NO_FATAL_FAILURE(make_bucket());
  }
  // A cluster's servers may be in an election: it is asked for again.
  void make_bucket() {
    Failure why;
    ASSERT_TRUE(loop.run_until(
        [&] {
          why.reset();
          try {
            must(loop, [&](auto done) { store->ensure({.replicas = replicas}, done); });
          } catch (const Error& error) {
            why = error;
          }
          return !why;
        },
        seconds(90)))
        << why->what();
  }

  // Until `done`, as long as `progress` changes: how long it takes in all is no matter here.
  bool go_on_until(const std::function<bool()>& done, const std::function<std::size_t()>& progress,
                   Duration limit) {
    for (;;) {
      const auto before = progress();
      if (loop.run_until([&] { return done() || progress() != before; }, limit)) {
        if (done()) return true;
      } else {
        return false;
      }
    }
  }

  // A put under way: gives chunks of `content` as fast as they are taken.
  struct Put {
    std::string content;
    std::size_t chunk_size = 0;
    std::size_t at = 0;
    std::unique_ptr<ObjectWriter> writer{};
    std::optional<Result<ObjectInfo>> result{};

    void give(std::size_t up_to) {
      while (!result && at < std::min(up_to, content.size()) && writer->ready()) {
        auto part = content.substr(at, chunk_size);
        at += part.size();
        writer->write(std::move(part));
      }
    }
    // All of it, or `up_to`, is with the writer.
    bool given(std::size_t up_to = std::string::npos) {
      give(up_to);
      return result || at >= std::min(up_to, content.size());
    }
    void finish() {
      writer->finish([this](Result<ObjectInfo> r) { result = std::move(r); });
    }
  };
  std::unique_ptr<Put> begin_put(NewObject object, std::string content) {
    auto put = std::make_unique<Put>();
    put->content = std::move(content);
    put->chunk_size = object.chunk_size;
    ObjectStore::WriterEvents events;
    events.failed = [p = put.get()](const Error& error) { p->result = error; };
    put->writer = store->put(std::move(object), std::move(events));
    return put;
  }
  Result<ObjectInfo> complete(Put& put, Duration limit = kSoon) {
    if (!go_on_until([&] { return put.given(); }, [&] { return put.at; }, limit))
      return Error(Errc::timeout, "not all was taken");
    if (!put.result) put.finish();
    if (!loop.run_until([&] { return put.result.has_value(); }, limit))
      return Error(Errc::timeout, "no answer");
    return *put.result;
  }
  Result<ObjectInfo> put(NewObject object, std::string content) {
    return complete(*begin_put(std::move(object), std::move(content)));
  }
  ObjectInfo must_put(const std::string& name, const std::string& content,
                      std::uint32_t chunk_size = kDefaultChunkSize) {
    return put({.name = name, .chunk_size = chunk_size}, content).value();
  }

  struct Get {
    std::unique_ptr<ObjectReader> reader{};
    std::optional<ObjectInfo> info{};
    std::optional<Failure> ended{};
    std::string content{};

    void take() {
      while (auto chunk = reader->take()) content += *chunk;
    }
  };
  std::unique_ptr<Get> begin_get(const std::string& name) {
    auto get = std::make_unique<Get>();
    ObjectStore::ReaderEvents events;
    events.begun = [g = get.get()](const ObjectInfo& info) { g->info = info; };
    events.ended = [g = get.get()](Failure failure) { g->ended.emplace(std::move(failure)); };
    get->reader = store->get(name, std::move(events));
    return get;
  }
  // Until it has ended and all is taken.
  bool complete(Get& get, Duration limit = kSoon) {
    const bool ended = go_on_until(
        [&] {
          get.take();
          return get.ended.has_value();
        },
        [&] { return get.content.size(); }, limit);
    get.take();
    return ended;
  }
  Result<std::string> get(const std::string& name) {
    auto g = begin_get(name);
    if (!complete(*g)) return Error(Errc::timeout, "the get has not ended");
    if (*g->ended) return **g->ended;
    return std::move(g->content);
  }
  Result<ObjectInfo> info(const std::string& name) {
    return await<ObjectInfo>(loop, kSoon, [&](auto done) { store->info(name, done); });
  }
  std::vector<std::string> names() {
    std::vector<std::string> all;
    auto list = await<std::vector<ObjectInfo>>(loop, kSoon, [&](auto done) { store->list(done); });
    for (const auto& object : list.value()) all.push_back(object.name);
    return all;
  }
  std::uint64_t messages() {
    return await<StreamState>(loop, kSoon, [&](auto done) { js.stream("OBJ_b", done); })
        .value()
        .messages;
  }
  bool has_messages(std::uint64_t count) {
    const auto state =
        await<StreamState>(loop, kSoon, [&](auto done) { js.stream("OBJ_b", done); });
    return state && state.value().messages == count;
  }
  bool messages_become(std::uint64_t count) {
    return loop.run_until([&] { return has_messages(count); }, kSoon);
  }
  void publish(JetStream& to, const std::string& subject, const std::string& data,
               std::vector<Header> headers = {}) {
    Message m;
    m.subject = subject;
    m.data = data;
    m.headers = std::move(headers);
    auto ack = await<PubAck>(to.connection().loop(), kSoon,
                             [&](auto done) { to.publish(std::move(m), {}, done); });
    ASSERT_TRUE(ack) << ack.error().what();
  }
  // As somebody else might who can write to the stream.
  void overwrite_metadata(const std::string& name,
                          const std::function<void(nlohmann::json&)>& change) {
    auto subject = object_meta_subject("b", name);
    auto now = await<StoredMessage>(loop, kSoon,
                                    [&](auto done) { js.last_message("OBJ_b", subject, done); });
    auto json = nlohmann::json::parse(now.value().data);
    change(json);
    publish(js, subject, json.dump(), {{"Nats-Rollup", "sub"}});
  }
  // What is said of an object that is not as it should be.
  std::string fault_of(const std::string& name) {
    auto got = get(name);
    if (got) return "no fault";
    EXPECT_EQ(got.error().errc(), Errc::corrupt) << got.error().what();
    return got.error().what();
  }

  NatsServers servers;
  Loop loop;
  Connection c;
  JetStream js;
  int replicas;
  std::unique_ptr<ObjectStore> store = std::make_unique<ObjectStore>(js, "b");
};

#define EXPECT_SAYS(text, part) EXPECT_NE(std::string(text).find(part), std::string::npos) << (text)

TEST_F(ObjectStoreTest, ObjectsOfAnySizeComeBackWhole) {
  const std::size_t chunk = kDefaultChunkSize;
  for (std::size_t size : {std::size_t{0}, std::size_t{1}, chunk - 1, chunk, 3 * chunk,
                           3 * chunk + 1, std::size_t{50'000'000}}) {
    auto content = bytes_of(size);
    auto made = must_put("o", content);
    EXPECT_EQ(made.size, size);
    EXPECT_EQ(made.chunks, (size + chunk - 1) / chunk);
    auto there = info("o");
    ASSERT_TRUE(there) << there.error().what();
    EXPECT_EQ(there.value().digest, made.digest);
    EXPECT_EQ(there.value().nuid, made.nuid);
    EXPECT_NEAR(static_cast<double>(there.value().mtime_ns), static_cast<double>(made.mtime_ns),
                60e9);
    auto got = get("o");
    ASSERT_TRUE(got) << size << ": " << got.error().what();
    EXPECT_TRUE(got.value() == content) << size;
  }
  EXPECT_EQ(must_put("e", "").digest, "SHA-256=47DEQpj8HBSa-_TImW-5JCeuQeRkm5NMpJWZG3hSuFU=");
}

TEST_F(ObjectStoreTest, HeadersAndDescriptionComeBack) {
  NewObject object{.name = "o",
                   .description = "what it is, für Menschen",
                   .headers = {{"A", "1"}, {"B", "x y"}, {"B", "z"}},
                   .chunk_size = 1000};
  ASSERT_TRUE(put(object, bytes_of(2500)));
  auto there = info("o").value();
  EXPECT_EQ(there.headers, object.headers);
  EXPECT_EQ(there.description, object.description);
  EXPECT_EQ(there.chunk_size, 1000u);
  EXPECT_EQ(there.chunks, 3u);
}

TEST_F(ObjectStoreTest, NamesAreAnyText) {
  std::vector<std::string> all = {"ltx/9/0000-0001.ltx", "with blanks *.>", "grüße/東京", "\n",
                                  std::string(kLongestObjectName, 'x')};
  for (const auto& name : all) {
    must_put(name, name);
    EXPECT_EQ(get(name).value(), name);
  }
  std::sort(all.begin(), all.end());
  EXPECT_EQ(names(), all);
  for (const std::string& bad :
       {std::string(), std::string(kLongestObjectName + 1, 'x'), std::string("\xff\xfe")}) {
    EXPECT_THROW(static_cast<void>(store->put({.name = bad}, {})), Error);
    EXPECT_THROW(static_cast<void>(store->get(bad, {})), Error);
  }
  EXPECT_THROW(ObjectStore(js, "a.b"), Error);
}

TEST_F(ObjectStoreTest, AReplacedObjectFreesItsChunks) {
  must_put("o", bytes_of(10'000), 1000);
  EXPECT_EQ(messages(), 11u);
  must_put("o", bytes_of(3000, 2), 1000);
  EXPECT_EQ(messages(), 4u);
  EXPECT_TRUE(get("o").value() == bytes_of(3000, 2));
  must_put("o", "");
  EXPECT_EQ(messages(), 1u);
  EXPECT_EQ(get("o").value(), "");
}

TEST_F(ObjectStoreTest, AnObjectIsTheOldOneUntilTheNewOneIsWhole) {
  must_put("o", "old");
  auto put = begin_put({.name = "o", .chunk_size = 100}, bytes_of(1000));
  ASSERT_TRUE(loop.run_until([&] { return put->given(); }, kSoon));
  EXPECT_EQ(get("o").value(), "old");
  ASSERT_TRUE(complete(*put));
  EXPECT_TRUE(get("o").value() == put->content);
}

TEST_F(ObjectStoreTest, TwoPutsOfOneNameLeaveOneObject) {
  auto first = begin_put({.name = "o", .chunk_size = 100}, bytes_of(1000, 1));
  auto second = begin_put({.name = "o", .chunk_size = 100}, bytes_of(2000, 2));
  ASSERT_TRUE(loop.run_until(
      [&] {
        bool one = first->given();
        return second->given() && one;
      },
      kSoon));
  first->finish();
  second->finish();
  ASSERT_TRUE(loop.run_until([&] { return first->result && second->result; }, kSoon));
  ASSERT_TRUE(*first->result) << first->result->error().what();
  ASSERT_TRUE(*second->result) << second->result->error().what();
  auto got = get("o");
  ASSERT_TRUE(got) << got.error().what();
  EXPECT_TRUE(got.value() == first->content || got.value() == second->content);
  EXPECT_EQ(messages(), got.value().size() / 100 + 1);
}

TEST_F(ObjectStoreTest, RemovedObjectsAreGone) {
  must_put("o", bytes_of(5000), 1000);
  must_put("p", "kept");
  must(loop, [&](auto done) { store->remove("o", done); });
  EXPECT_EQ(info("o").error().errc(), Errc::not_found);
  EXPECT_EQ(get("o").error().errc(), Errc::not_found);
  EXPECT_EQ(names(), std::vector<std::string>{"p"});
  EXPECT_EQ(messages(), 3u) << "the marker, p and its chunk";
  must(loop, [&](auto done) { store->remove("o", done); });
  try {
    must(loop, [&](auto done) { store->remove("never", done); });
    FAIL();
  } catch (const Error& error) {
    EXPECT_EQ(error.errc(), Errc::not_found);
  }
  must_put("o", "again");
  EXPECT_EQ(get("o").value(), "again");
  EXPECT_EQ(names(), (std::vector<std::string>{"o", "p"}));
}

TEST_F(ObjectStoreTest, AnEmptyBucketHasNoObjects) {
  EXPECT_EQ(names(), std::vector<std::string>{});
  must(loop, [&](auto done) { store->ensure({.description = "other"}, done); });  // left alone
}

TEST_F(ObjectStoreTest, AMissingBucketIsSaid) {
  store = std::make_unique<ObjectStore>(js, "none");
  EXPECT_EQ(put({.name = "o"}, "content").error().errc(), Errc::not_found);
  EXPECT_EQ(put({.name = "o"}, "").error().errc(), Errc::not_found);
  EXPECT_EQ(get("o").error().errc(), Errc::not_found);
  EXPECT_SAYS(info("o").error().what(), "bucket");
  auto list = await<std::vector<ObjectInfo>>(loop, kSoon, [&](auto d) { store->list(d); });
  EXPECT_EQ(list.error().errc(), Errc::not_found);
}

TEST_F(ObjectStoreTest, WhatHasChangedIsCorrupt) {
  const auto content = bytes_of(5000);
  auto fresh = [&] { return must_put("o", content, 1000); };
  fresh();
  overwrite_metadata("o", [](auto& json) {
    json["digest"] = "SHA-256=47DEQpj8HBSa-_TImW-5JCeuQeRkm5NMpJWZG3hSuFU=";
  });
  EXPECT_SAYS(fault_of("o"), "digest");
  fresh();
  overwrite_metadata("o", [](auto& json) { json.erase("digest"); });
  EXPECT_SAYS(fault_of("o"), "its metadata says nothing");
  fresh();
  overwrite_metadata("o", [](auto& json) { json["size"] = 5001; });
  EXPECT_SAYS(fault_of("o"), "5000 bytes, its metadata says 5001");
  fresh();
  overwrite_metadata("o", [](auto& json) { json["size"] = 4500; });
  EXPECT_SAYS(fault_of("o"), "with chunk 4 it has 5000 bytes, its metadata says 4500");
  fresh();
  overwrite_metadata("o", [](auto& json) { json["chunks"] = 6; });
  EXPECT_SAYS(fault_of("o"), "5 chunks, its metadata says 6");
  auto made = fresh();
  publish(js, "$O.b.C." + made.nuid, "x");
  EXPECT_SAYS(fault_of("o"), "6 chunks, its metadata says 5");
  made = fresh();
  auto third =
      await<StoredMessage>(
          loop, kSoon, [&](auto done) { js.next_message("OBJ_b", "$O.b.C." + made.nuid, 1, done); })
          .value()
          .sequence +
      2;
  must(loop, [&](auto done) { js.delete_message("OBJ_b", third, done); });
  EXPECT_SAYS(fault_of("o"), "4 chunks, its metadata says 5");
  publish(js, "$O.b.C." + made.nuid, content.substr(2000, 1000));  // in the wrong place
  EXPECT_SAYS(fault_of("o"), "digest");
  publish(js, object_meta_subject("b", "o"), "{\"name\":", {{"Nats-Rollup", "sub"}});
  EXPECT_SAYS(fault_of("o"), "metadata");
  EXPECT_EQ(info("o").error().errc(), Errc::corrupt);
  EXPECT_EQ(names(), std::vector<std::string>{});
  must_put("p", "other");
  overwrite_metadata("p", [](auto& json) { json["name"] = "q"; });
  EXPECT_SAYS(fault_of("p"), "another object's");
  fresh();  // all of it can be put right
  EXPECT_TRUE(get("o").value() == content);
}

TEST_F(ObjectStoreTest, LinksAreNotFollowed) {
  publish(js, object_meta_subject("b", "l"),
          R"({"name":"l","options":{"link":{"bucket":"b","name":"o"}},"bucket":"b","nuid":"N",)"
          R"("size":0,"mtime":"0001-01-01T00:00:00Z","chunks":0})",
          {{"Nats-Rollup", "sub"}});
  auto got = get("l");
  EXPECT_EQ(got.error().errc(), Errc::incompatible);
  EXPECT_SAYS(got.error().what(), "b/o");
  EXPECT_EQ(info("l").value().link, "b/o");
}

TEST_F(ObjectStoreTest, WhatIsReplacedWhileItIsReadIsSaid) {
  must_put("o", bytes_of(10'000'000));
  auto get = begin_get("o");
  ASSERT_TRUE(loop.run_until([&] { return get->info.has_value(); }, kSoon));
  must_put("o", "new");
  ASSERT_TRUE(complete(*get));
  ASSERT_TRUE(*get->ended);
  EXPECT_EQ((*get->ended)->errc(), Errc::not_found);
  EXPECT_SAYS((*get->ended)->what(), "replaced");
}

TEST_F(ObjectStoreTest, AReaderAsksForNoMoreThanThereIsRoomFor) {
  const auto content = bytes_of(32 * 1024 * 1024);
  must_put("o", content);
  auto get = begin_get("o");
  auto consumers = [&] {
    return nlohmann::json::parse(await<std::string>(loop, kSoon, [&](auto done) {
                                   js.api("CONSUMER.LIST.OBJ_b", "", done);
                                 }).value())["consumers"];
  };
  const auto most = ObjectReader::kMostBytes / kDefaultChunkSize;
  // It fills what it may and then rests.
  auto read_a_little = [&] {
    ASSERT_TRUE(loop.run_until(
        [&] {
          auto chunk = get->reader->take();
          if (chunk) get->content += *chunk;
          return chunk.has_value();
        },
        kSoon));
  };
  std::uint64_t taken = 0;
  for (int round = 0; round < 40; ++round) {
    read_a_little();
    ++taken;
    auto list = consumers();
    ASSERT_EQ(list.size(), 1u);
    EXPECT_LE(list[0]["delivered"]["consumer_seq"].get<std::uint64_t>(), taken + most);
    // One that was just asked may still be on its way.
    EXPECT_TRUE(loop.run_until([&] { return consumers()[0]["num_waiting"] == 0; }, kSoon))
        << "no request stays that asks for what is not there";
  }
  // A pause so long that the server forgets the consumer.
  must(loop, [&](auto done) {
    js.api("CONSUMER.DELETE.OBJ_b." + consumers()[0]["name"].get<std::string>(), "",
           [done](Result<std::string> r) { done(r ? Failure() : Failure(r.error())); });
  });
  ASSERT_TRUE(complete(*get));
  ASSERT_FALSE(*get->ended) << (*get->ended)->what();
  EXPECT_TRUE(get->content == content);
  EXPECT_TRUE(loop.run_until([&] { return consumers().empty(); }, kSoon))
      << "nothing is left on the server";
}

TEST_F(ObjectStoreTest, AnAbandonedPutLeavesNothing) {
  must_put("o", "old");
  {
    auto put = begin_put({.name = "o", .chunk_size = 1000}, bytes_of(100'000));
    ASSERT_TRUE(loop.run_until([&] { return put->given(50'000); }, kSoon));
    ASSERT_TRUE(loop.run_until([&] { return messages() > 10; }, kSoon));
    put->give(60'000);  // some are under way
  }
  EXPECT_TRUE(messages_become(2));
  EXPECT_EQ(get("o").value(), "old");
  {
    auto put = begin_put({.name = "o"}, "never begun");
  }
  {
    auto untouched = begin_get("o");
  }
  EXPECT_TRUE(messages_become(2));
}

TEST_F(ObjectStoreTest, APutThatIsLeftWhileItBecomesVisibleDoes) {
  must_put("o", bytes_of(9000), 1000);
  auto put = begin_put({.name = "o", .chunk_size = 1000}, bytes_of(5000, 2));
  ASSERT_TRUE(loop.run_until([&] { return put->given(); }, kSoon));
  auto seen = c.subscribe(object_meta_subject("b"), [&](Message) { put.reset(); });
  must(loop, [&](auto done) { c.flush(kSoon, done); });
  put->finish();
  ASSERT_TRUE(messages_become(6));
  EXPECT_FALSE(put);
  EXPECT_TRUE(get("o").value() == bytes_of(5000, 2));
}

TEST_F(ObjectStoreTest, AFullBucketIsSaid) {
  store = std::make_unique<ObjectStore>(js, "small", seconds(1));
  must(loop, [&](auto done) { store->ensure({.max_bytes = 100'000}, done); });
  auto put = begin_put({.name = "o", .chunk_size = 10'000}, bytes_of(200'000));
  auto result = complete(*put);
  ASSERT_FALSE(result);
  EXPECT_SAYS(result.error().what(), "maximum bytes");
  auto empty = [&] {
    return await<StreamState>(loop, kSoon, [&](auto done) { js.stream("OBJ_small", done); })
               .value()
               .messages == 0;
  };
  EXPECT_TRUE(loop.run_until(empty, kSoon)) << "what was stored of it is purged";
}

TEST_F(ObjectStoreTest, APutGoesOnWhenTheServerWasKilled) {
  auto put = begin_put({.name = "o", .chunk_size = 10'000}, bytes_of(3'000'000));
  for (std::size_t part = 1; part <= 3; ++part) {
    ASSERT_TRUE(loop.run_until([&] { return put->given(part * 700'000); }, kSoon));
    ASSERT_FALSE(put->result);
    servers[0].kill_hard();
    put->give(part * 700'000 + 100'000);  // goes nowhere
    servers[0].start_again();
  }
  auto made = complete(*put);
  ASSERT_TRUE(made) << made.error().what();
  auto got = get("o");
  ASSERT_TRUE(got) << got.error().what();
  EXPECT_TRUE(got.value() == put->content);
  EXPECT_EQ(messages(), 301u);
}

TEST_F(ObjectStoreTest, APutGivesUpWhenTheServerStaysAway) {
  store = std::make_unique<ObjectStore>(js, "b", seconds(2));
  auto put = begin_put({.name = "o", .chunk_size = 1000}, bytes_of(100'000));
  auto get = begin_get("none");
  ASSERT_TRUE(loop.run_until([&] { return put->given(50'000); }, kSoon));
  servers[0].kill_hard();
  ASSERT_TRUE(loop.run_until([&] { return put->given() && put->result; }, kSoon));
  EXPECT_EQ(put->result->error().errc(), Errc::unavailable);
  EXPECT_SAYS(put->result->error().what(), "put object \"o\" into bucket \"b\"");
  put->finish();  // says so once more
  put->result.reset();
  ASSERT_TRUE(loop.run_until([&] { return put->result.has_value(); }, kSoon));
  EXPECT_FALSE(*put->result);
}

TEST_F(ObjectStoreTest, AGetGoesOnWhenTheServerWasKilled) {
  const auto content = bytes_of(20'000'000);
  must_put("o", content);
  auto get = begin_get("o");
  for (std::size_t part = 1; part <= 3; ++part) {
    ASSERT_TRUE(loop.run_until(
        [&] {
          if (auto chunk = get->reader->take()) get->content += *chunk;
          return get->content.size() >= part * 5'000'000;
        },
        kSoon));
    servers[0].kill_hard();
    servers[0].start_again();
  }
  ASSERT_TRUE(complete(*get));
  ASSERT_FALSE(*get->ended) << (*get->ended)->what();
  EXPECT_TRUE(get->content == content);
}

TEST_F(ObjectStoreTest, AGetGivesUpWhenTheServerStaysAway) {
  must_put("o", bytes_of(20'000'000));
  store = std::make_unique<ObjectStore>(js, "b", seconds(2));
  std::unique_ptr<Get> get;
  // So short a patience may be over before it has begun.
  const Time end = BootClock::now() + kSoon * slowness();
  do {
    ASSERT_LT(BootClock::now(), end) << "each get ended before it had begun";
    get = begin_get("o");
    ASSERT_TRUE(loop.run_until([&] { return get->info || get->ended; }, kSoon));
  } while (!get->info);
  servers[0].kill_hard();
  ASSERT_TRUE(complete(*get));
  ASSERT_TRUE(*get->ended);
  EXPECT_EQ((*get->ended)->errc(), Errc::unavailable);
}

// As after a change of the stream's leader that swallowed some chunks and let later ones through.
TEST_F(ObjectStoreTest, AChunkThatOvertookALostOneIsPutRight) {
  auto put = begin_put({.name = "o", .chunk_size = 1000}, bytes_of(100'000));
  const auto all_stored = [&] { return messages() == put->at / 1000; };
  ASSERT_TRUE(loop.run_until([&] { return put->given(10'000) && all_stored(); }, kSoon));
  auto first = await<StoredMessage>(loop, kSoon, [&](auto done) { js.message("OBJ_b", 1, done); });
  const std::string subject = first.value().subject;
  const std::string nuid = subject.substr(subject.rfind('.') + 1);
  // Four chunks are under way, which the server never sees. Where acknowledgements were slow, fewer
  // may be at a time, until some were quick.
  std::size_t lost = 0;
  while (true) {
    lost = put->at / 1000;
    freeze(servers[0].pid());
    put->give((lost + 4) * 1000);
    if (put->at == (lost + 4) * 1000) break;
    thaw(servers[0].pid());
    for (int quick = 0; quick < 8; ++quick) {
      ASSERT_LT(put->at, 80'000u) << "acknowledgements are slow all the time";
      const auto next = put->at + 1000;
      ASSERT_TRUE(loop.run_until([&] { return put->given(next) && all_stored(); }, kSoon));
    }
  }
  servers[0].kill_hard();
  servers[0].start_again();
  servers[0].wait_ready(kSoon);
  {
    Loop other_loop;
    Connection other(other_loop, servers.options("other"));
    ASSERT_TRUE(connect(other));
    JetStream other_js(other, kSoon);
    for (std::size_t i : {lost, lost + 2, lost + 3})
      publish(other_js, subject, put->content.substr(i * 1000, 1000),
              {{"Nats-Msg-Id", nuid + "." + std::to_string(i) + ".0"}});
  }
  auto made = complete(*put);
  ASSERT_TRUE(made) << made.error().what();
  auto got = get("o");
  ASSERT_TRUE(got) << got.error().what();
  EXPECT_TRUE(got.value() == put->content);
  EXPECT_EQ(messages(), 101u);
}

// Blocks on threads of its own while the test's thread runs the loop.
class ObjectBridgeTest : public ObjectStoreTest {
 protected:
  template <typename Work>
  auto on_thread(Work work) {
    return std::async(std::launch::async, std::move(work));
  }
  template <typename T>
  bool ready(std::future<T>& future, Duration limit = kSoon) {
    return loop.run_until([&] { return future.wait_for(seconds(0)) == std::future_status::ready; },
                          limit);
  }
  static ObjectInfo write_all(ObjectSink& sink, std::string_view content, std::size_t step) {
    for (std::size_t at = 0; at < content.size(); at += step) sink.write(content.substr(at, step));
    return sink.finish();
  }
  static std::string read_all(ObjectSource& source, std::size_t step) {
    std::string content;
    std::string part(step, '\0');
    while (auto size = source.read(part.data(), part.size())) content.append(part, 0, size);
    EXPECT_EQ(source.read(part.data(), part.size()), 0u) << "the end stays the end";
    return content;
  }
};

TEST_F(ObjectBridgeTest, ThreadsWriteAndReadWhatIsLargerThanAnyQueue) {
  for (std::size_t size : {std::size_t{0}, std::size_t{1}, std::size_t{50'000'000}}) {
    const auto content = bytes_of(size);
    auto sink =
        std::make_unique<ObjectSink>(*store, NewObject{.name = "o", .headers = {{"k", "v"}}});
    auto written = on_thread([&] { return write_all(*sink, content, 77'777); });
    ASSERT_TRUE(ready(written));
    EXPECT_EQ(written.get().size, size);
    auto source = std::make_unique<ObjectSource>(*store, "o");
    auto read = on_thread([&] {
      EXPECT_EQ(source->info().headers, (std::vector<Header>{{"k", "v"}}));
      return read_all(*source, 33'333);
    });
    ASSERT_TRUE(ready(read));
    EXPECT_TRUE(read.get() == content);
  }
}

TEST_F(ObjectBridgeTest, ASlowThreadHoldsTheReaderBack) {
  must_put("o", bytes_of(20'000'000));
  ObjectSource source(*store, "o");
  std::promise<void> go_on;
  auto waits = go_on.get_future();
  std::string content;
  auto read = on_thread([&] {
    std::string first(1000, '\0');
    first.resize(source.read(first.data(), first.size()));
    waits.wait();
    return first + read_all(source, 100'000);
  });
  auto delivered = [&] {
    auto list = nlohmann::json::parse(await<std::string>(loop, kSoon, [&](auto done) {
                                        js.api("CONSUMER.LIST.OBJ_b", "", done);
                                      }).value())["consumers"];
    return list.empty() ? 0 : list[0]["delivered"]["consumer_seq"].get<std::uint64_t>();
  };
  // All that may be kept has come, and no more. Where answers are slow less is asked for at a time:
  // then it has come to rest earlier.
  const std::uint64_t kept = ObjectReader::kMostBytes / kDefaultChunkSize + 8;
  std::uint64_t seen = 0;
  const auto more = [&] { return delivered() > seen; };
  while (seen < kept && loop.run_until(more, seconds(seen == 0 ? 30 : 3))) seen = delivered();
  EXPECT_GT(seen, 0u);
  for (int i = 0; i < 20; ++i) EXPECT_LE(delivered(), kept + 2);
  EXPECT_EQ(read.wait_for(seconds(0)), std::future_status::timeout);
  go_on.set_value();
  ASSERT_TRUE(ready(read));
  EXPECT_TRUE(read.get() == bytes_of(20'000'000));
}

// Runs `work`, which must throw Error; tells which.
template <typename Work>
Errc error_of(Work work) {
  try {
    work();
  } catch (const Error& error) {
    return error.errc();
  }
  ADD_FAILURE() << "nothing was thrown";
  return Errc::system;
}

TEST_F(ObjectBridgeTest, ABlockedThreadHearsThatTheStoreIsGone) {
  must_put("o", bytes_of(1'000'000));
  ObjectSink sink(*store, {.name = "p"});
  ObjectSource source(*store, "o");
  ObjectSource finished(*store, "o");
  std::atomic<int> blocked{0};
  freeze(servers[0].pid());
  auto writes = on_thread([&] {
    return error_of([&] {
      ++blocked;
      while (true) sink.write(bytes_of(100'000));
    });
  });
  auto reads = on_thread([&] {
    return error_of([&] {
      ++blocked;
      read_all(source, 1000);
    });
  });
  ASSERT_TRUE(loop.run_until([&] { return blocked == 2; }, kSoon));
  store.reset();
  ASSERT_EQ(writes.wait_for(kSoon), std::future_status::ready);
  ASSERT_EQ(reads.wait_for(kSoon), std::future_status::ready);
  EXPECT_EQ(writes.get(), Errc::shutting_down);
  EXPECT_EQ(reads.get(), Errc::shutting_down);
  thaw(servers[0].pid());
  auto late = on_thread([&] { return error_of([&] { sink.finish(); }); });
  EXPECT_EQ(late.get(), Errc::shutting_down);
}

TEST_F(ObjectBridgeTest, EndsMayOutliveStoreAndLoop) {
  const auto content = bytes_of(1'000'000);
  auto other_loop = std::make_unique<Loop>();
  auto other = std::make_unique<Connection>(*other_loop, servers.options("other"));
  ASSERT_TRUE(connect(*other));
  auto other_js = std::make_unique<JetStream>(*other);
  auto other_store = std::make_unique<ObjectStore>(*other_js, "b");
  auto sink = std::make_unique<ObjectSink>(*other_store, NewObject{.name = "o"});
  auto done = on_thread([&] { return write_all(*sink, content, 1000); });
  ASSERT_TRUE(other_loop->run_until(
      [&] { return done.wait_for(seconds(0)) == std::future_status::ready; }, kSoon));
  EXPECT_EQ(done.get().size, content.size());
  auto source = std::make_unique<ObjectSource>(*other_store, "o");
  other_store.reset();
  other_js.reset();
  other.reset();
  other_loop.reset();
  on_thread([&] {
    EXPECT_EQ(error_of([&] { source->info(); }), Errc::shutting_down);
    source.reset();
    sink.reset();
  }).get();
}

TEST_F(ObjectBridgeTest, AThreadThatIsStoppedThrows) {
  std::stop_source stop;
  auto sink = std::make_unique<ObjectSink>(*store, NewObject{.name = "o"}, stop.get_token());
  auto source = std::make_unique<ObjectSource>(*store, "o", stop.get_token());
  freeze(servers[0].pid());
  auto writes = on_thread([&] {
    return error_of([&] {
      while (true) sink->write(bytes_of(100'000));
    });
  });
  auto reads = on_thread([&] { return error_of([&] { source->info(); }); });
  loop.run_once(milliseconds(10));
  stop.request_stop();
  EXPECT_EQ(writes.get(), Errc::shutting_down);
  EXPECT_EQ(reads.get(), Errc::shutting_down);
  thaw(servers[0].pid());
  on_thread([&] {
    sink.reset();
    source.reset();
  }).get();
  EXPECT_TRUE(messages_become(0)) << "the put was given up";
}

TEST_F(ObjectBridgeTest, AFailureReachesTheThread) {
  EXPECT_THROW(ObjectSink(*store, {.name = ""}), Error);
  ObjectSource none(*store, "none");
  auto reads = on_thread([&] { return error_of([&] { none.info(); }); });
  ASSERT_TRUE(ready(reads));
  EXPECT_EQ(reads.get(), Errc::not_found);
  must_put("o", bytes_of(10'000'000));
  overwrite_metadata("o", [](auto& json) {
    json["digest"] = "SHA-256=47DEQpj8HBSa-_TImW-5JCeuQeRkm5NMpJWZG3hSuFU=";
  });
  ObjectSource broken(*store, "o");
  auto corrupt = on_thread([&] { return error_of([&] { read_all(broken, 100'000); }); });
  ASSERT_TRUE(ready(corrupt));
  EXPECT_EQ(corrupt.get(), Errc::corrupt);
  store = std::make_unique<ObjectStore>(js, "b", seconds(1));
  ObjectSink sink(*store, {.name = "p"});
  servers[0].kill_hard();
  auto writes = on_thread([&] {
    return error_of([&] {
      while (true) sink.write(bytes_of(100'000));
    });
  });
  ASSERT_TRUE(ready(writes));
  EXPECT_EQ(writes.get(), Errc::unavailable);
}

class ObjectStoreClusterTest : public ObjectStoreTest {
 protected:
  ObjectStoreClusterTest() : ObjectStoreTest(3) {
    // How long the servers may be without a leader is Outage's to say.
    store = std::make_unique<ObjectStore>(js, "b", seconds(300));
  }
  // Until `done`, as long as that has to do with the servers.
  ::testing::AssertionResult outlast(const std::function<bool()>& done) {
    return outage.outlast([&] { return loop.run_until(done, seconds(1)); });
  }

  // A server dies during a put. Tells whether the servers lose of it what they had acknowledged, as
  // the stream itself shows: it has all, nobody removes any, and then it has less.
  void put_while_it_dies(std::size_t victim, bool& lost) {
    constexpr std::uint64_t kMessages = 151;
    ASSERT_TRUE(outage.wait_whole());
    auto put = begin_put({.name = "o", .chunk_size = 20'000}, bytes_of(3'000'000, victim));
    ASSERT_TRUE(outlast([&] { return put->given(1'000'000); }));
    outage.kill(victim);
    ASSERT_TRUE(outlast([&] { return put->given(); }));
    if (!put->result) put->finish();
    ASSERT_TRUE(outlast([&] { return put->result.has_value(); }));
    ASSERT_TRUE(*put->result) << put->result->error().what();
    ASSERT_TRUE(outlast([&] { return has_messages(kMessages); }));
    int removals = 0;
    const auto count = [&](const Message&) { ++removals; };
    const auto purges = c.subscribe("$JS.API.STREAM.PURGE.>", count);
    const auto deletions = c.subscribe("$JS.API.STREAM.MSG.DELETE.>", count);
    ASSERT_TRUE(outage.end());
    auto got = begin_get("o");
    ASSERT_TRUE(complete(*got, seconds(90)));
    if (*got->ended) lost = !messages_become(kMessages) && removals == 0;
    if (lost) return;
    ASSERT_FALSE(*got->ended) << (*got->ended)->what();
    EXPECT_TRUE(got->content == put->content);
    EXPECT_EQ(names(), std::vector<std::string>{"o"});
    EXPECT_TRUE(messages_become(kMessages));
  }

  faults::Outage outage{servers.all()};
};

TEST_F(ObjectStoreClusterTest, APutGoesOnWhileTheLeaderChanges) {
  auto put = begin_put({.name = "o", .chunk_size = 20'000}, bytes_of(6'000'000));
  for (std::size_t part = 1; part <= 3; ++part) {
    js.api("STREAM.LEADER.STEPDOWN.OBJ_b", "", [](Result<std::string>) {});
    ASSERT_TRUE(loop.run_until([&] { return put->given(part * 1'500'000); }, seconds(90)));
  }
  auto made = complete(*put, seconds(90));
  ASSERT_TRUE(made) << made.error().what();
  auto got = get("o");
  ASSERT_TRUE(got) << got.error().what();
  EXPECT_TRUE(got.value() == put->content);
}

TEST_F(ObjectStoreClusterTest, GetsGoOnWhileServersAreKilled) {
  CLUSTER_SKIP_LONG_WAITS();
  const auto content = bytes_of(6'000'000);
  must_put("o", content, 20'000);
  for (std::size_t victim = 0; victim < servers.size(); ++victim) {
    ASSERT_TRUE(outage.wait_whole());
    auto get = begin_get("o");
    ASSERT_TRUE(outlast([&] {
      if (auto chunk = get->reader->take()) get->content += *chunk;
      return get->content.size() >= 1'000'000;
    }));
    outage.kill(victim);
    ASSERT_TRUE(outlast([&] {
      get->take();
      return get->ended.has_value();
    }));
    get->take();
    ASSERT_FALSE(*get->ended) << (*get->ended)->what();
    EXPECT_TRUE(get->content == content);
    ASSERT_TRUE(outage.end());
  }
}

TEST_F(ObjectStoreClusterTest, PutsGoOnWhileServersAreKilled) {
  CLUSTER_SKIP_LONG_WAITS();
  constexpr int kLosses = 3;
  int losses = 0;
  for (std::size_t victim = 0; victim < servers.size();) {
    bool lost = false;
    ASSERT_NO_FATAL_FAILURE(put_while_it_dies(victim, lost));
    if (!lost) {
      ++victim;
      continue;
    }
    ASSERT_LT(++losses, kLosses) << "the servers lose what they acknowledge, each time";
    must(loop, [&](auto done) { js.delete_stream("OBJ_b", done); });
    ASSERT_NO_FATAL_FAILURE(make_bucket());
  }
}

}  // namespace
}  // namespace cluster::nats
