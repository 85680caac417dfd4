// Streams, key-value buckets and ordered consumers against real servers, also while these die.
#include "nats/jetstream.h"

#include <csignal>
#include <map>
#include <set>

#include <nlohmann/json.hpp>

#include "integration/nats_fixture.h"
#include "long_waits.h"
#include "nats/key_value.h"
#include "outage.h"

namespace cluster::nats {
namespace {

using std::chrono::milliseconds;
using std::chrono::seconds;
using testing::connect;
using testing::kSoon;
using testing::must;
using testing::NatsServers;

class JetStreamTest : public ::testing::Test {
 protected:
  // A request's time limit is a test's: a server that stands still answers late.
  explicit JetStreamTest(int count = 1)
      : servers(count), c(loop, servers.options()), js(c, count == 1 ? kSoon : seconds(5)) {}
  void SetUp() override { ASSERT_TRUE(connect(c)); }

  StreamState make(const StreamConfig& config) {
    return await<StreamState>(loop, kSoon, [&](auto done) { js.create_stream(config, done); })
        .value();
  }
  StreamConfig config(const std::string& name = "S") {
    StreamConfig s;
    s.name = name;
    s.subjects = {name + ".>"};
    return s;
  }
  Result<PubAck> publish(const std::string& subject, const std::string& data, Expect expect = {}) {
    Message m;
    m.subject = subject;
    m.data = data;
    return await<PubAck>(loop, kSoon, [&](auto done) { js.publish(std::move(m), expect, done); });
  }

  void store(const std::string& subject, const std::string& data) {
    auto ack = publish(subject, data);
    ASSERT_TRUE(ack) << ack.error().what();
  }

  // Until `count` have come, as long as one comes after the other.
  ::testing::AssertionResult wait_for(const std::size_t& seen, std::size_t count) {
    while (seen < count) {
      const std::size_t before = seen;
      if (!loop.run_until([&] { return seen != before; }, kSoon))
        return ::testing::AssertionFailure() << seen << " of " << count << ", and no more";
    }
    return ::testing::AssertionSuccess();
  }

  NatsServers servers;
  Loop loop;
  Connection c;
  JetStream js;
};

TEST_F(JetStreamTest, StreamsAreMadeListedAndDeleted) {
  auto made = make(config());
  EXPECT_EQ(made.config.name, "S");
  EXPECT_EQ(made.config.subjects, std::vector<std::string>{"S.>"});
  EXPECT_EQ(made.last_seq, 0u);
  make(config());  // again: left alone
  make(config("T"));
  auto other = config();
  other.max_msgs_per_subject = 5;
  auto refused = await<StreamState>(loop, kSoon, [&](auto done) { js.create_stream(other, done); });
  ASSERT_FALSE(refused);
  EXPECT_EQ(refused.error().errc(), Errc::invalid_argument);
  auto updated = await<StreamState>(loop, kSoon, [&](auto done) { js.update_stream(other, done); });
  ASSERT_TRUE(updated) << updated.error().what();
  EXPECT_EQ(updated.value().config.max_msgs_per_subject, 5);
  auto names = await<std::vector<std::string>>(loop, kSoon, [&](auto done) { js.streams(done); });
  EXPECT_EQ(names.value(), (std::vector<std::string>{"S", "T"}));
  must(loop, [&](auto done) { js.delete_stream("S", done); });
  auto gone = await<StreamState>(loop, kSoon, [&](auto done) { js.stream("S", done); });
  EXPECT_EQ(gone.error().errc(), Errc::not_found);
  auto bad = await<StreamState>(loop, kSoon, [&](auto done) { js.stream("a.b", done); });
  EXPECT_EQ(bad.error().errc(), Errc::invalid_argument);
  auto account = await<AccountInfo>(loop, kSoon, [&](auto done) { js.account(done); });
  EXPECT_EQ(account.value().streams, 1);
}

TEST_F(JetStreamTest, ManyStreamsAreListedThroughPages) {
  // A page of STREAM.NAMES is 1024 names; memory streams are cheap.
  constexpr std::size_t kCount = 1'040;
  std::size_t made = 0;
  for (std::size_t i = 0; i < kCount; ++i) {
    auto s = config("S" + std::to_string(i));
    s.file_storage = false;
    js.create_stream(s, [&](Result<StreamState> r) {
      EXPECT_TRUE(r) << r.error().what();
      ++made;
    });
    // Some at a time: the last one's time limit counts from when it is sent.
    if (i % 64 == 63) {
      ASSERT_TRUE(wait_for(made, i + 1));
    }
  }
  ASSERT_TRUE(wait_for(made, kCount));
  auto names = await<std::vector<std::string>>(loop, kSoon, [&](auto done) { js.streams(done); });
  EXPECT_EQ(names.value().size(), kCount);
}

TEST_F(JetStreamTest, PublishKeepsToItsExpectations) {
  make(config());
  Expect empty;
  empty.last_sequence = 0;
  auto first = publish("S.a", "1", empty);
  ASSERT_TRUE(first) << first.error().what();
  EXPECT_EQ(first.value().sequence, 1u);
  EXPECT_EQ(first.value().stream, "S");
  auto again = publish("S.a", "2", empty);
  ASSERT_FALSE(again);
  EXPECT_EQ(again.error().errc(), Errc::wrong_revision);
  EXPECT_NE(std::string(again.error().what()).find("wrong last sequence: 1"), std::string::npos)
      << again.error().what();
  Expect of_subject;
  of_subject.last_subject_sequence = 0;
  EXPECT_FALSE(publish("S.a", "2", of_subject));
  EXPECT_TRUE(publish("S.b", "2", of_subject));
  of_subject.last_subject_sequence = 1;
  EXPECT_TRUE(publish("S.a", "3", of_subject));
  auto nowhere = publish("nowhere", "x");
  ASSERT_FALSE(nowhere);
  EXPECT_EQ(nowhere.error().errc(), Errc::unavailable);
}

TEST_F(JetStreamTest, PipelinedAppendsMakeOneHistory) {
  make(config());
  std::size_t stored = 0;
  for (std::uint64_t i = 0; i < 500; ++i) {
    Message m;
    m.subject = "S.log";
    Expect expect;
    expect.last_sequence = i;
    js.publish(std::move(m), expect, [&](Result<PubAck> ack) {
      ASSERT_TRUE(ack) << ack.error().what();
      ++stored;
    });
  }
  ASSERT_TRUE(loop.run_until([&] { return stored == 500; }, kSoon));
}

// What the WAL stream rests on (docs/protocols.md): an append that states its predecessor's id is
// stored behind it or not at all, also when several are under way; a copy of one that is stored
// already is answered with its place.
// Returns false when servers did not answer, as in an election: that says nothing of it.
[[nodiscard]] bool check_appends_by_id(Loop& loop, JetStream& js) {
  auto append = [&](const std::string& id, Expect expect, Callback<PubAck> done) {
    Message m;
    m.subject = "S.log";
    m.data = std::string(20'000, 'x');
    m.headers = {{"Nats-Msg-Id", id}};
    js.publish(std::move(m), std::move(expect), std::move(done));
  };
  auto behind = [](const std::string& id) {
    Expect expect;
    expect.last_message_id = id;
    return expect;
  };
  auto at = [](std::uint64_t sequence) {
    Expect expect;
    expect.last_sequence = sequence;
    return expect;
  };
  constexpr std::uint64_t kCount = 200;
  auto unanswered = [](const Result<PubAck>& ack) {
    return !ack && ack.error().errc() != Errc::wrong_revision;
  };
  auto answers = std::make_shared<std::map<std::uint64_t, Result<PubAck>>>();
  auto note = [answers](std::uint64_t i) {
    return [answers, i](Result<PubAck> ack) { answers->emplace(i, std::move(ack)); };
  };
  auto all_came = [&](std::size_t count) {
    return loop.run_until([&] { return answers->size() == count; }, 2 * kSoon) &&
           std::none_of(answers->begin(), answers->end(),
                        [&](const auto& answer) { return unanswered(answer.second); });
  };
  for (std::uint64_t i = 1; i <= kCount; ++i)
    append("a" + std::to_string(i), i == 1 ? at(0) : behind("a" + std::to_string(i - 1)), note(i));
  if (!all_came(kCount)) return false;
  for (const auto& [i, ack] : *answers) {
    EXPECT_TRUE(ack) << i << ": " << ack.error().what();
    if (!ack) return true;
    EXPECT_EQ(ack.value().sequence, i);
  }
  // Somebody else's message takes the next place: the first one under way is refused, and so are
  // those behind it, though one of them would have had the right sequence.
  auto fence = await<PubAck>(loop, kSoon, [&](auto done) { append("fence", at(kCount), done); });
  if (unanswered(fence)) return false;
  EXPECT_TRUE(fence) << fence.error().what();
  answers->clear();
  for (std::uint64_t i = kCount + 1; i <= kCount + 5; ++i)
    append("a" + std::to_string(i),
           i == kCount + 1 ? at(kCount) : behind("a" + std::to_string(i - 1)), note(i));
  if (!all_came(5)) return false;
  for (const auto& [i, ack] : *answers) EXPECT_FALSE(ack) << i << " was stored";
  auto copy = await<PubAck>(loop, kSoon, [&](auto done) { append("fence", at(kCount), done); });
  if (unanswered(copy)) return false;
  EXPECT_TRUE(copy) << copy.error().what();
  if (!copy) return true;
  EXPECT_TRUE(copy.value().duplicate);
  EXPECT_EQ(copy.value().sequence, kCount + 1);
  return true;
}

TEST_F(JetStreamTest, AppendsFollowTheMessageThatTheyName) {
  make(config());
  EXPECT_TRUE(check_appends_by_id(loop, js)) << "the server does not answer";
}

TEST_F(JetStreamTest, MessagesAreReadBackWhole) {
  make(config());
  Message m;
  m.subject = "S.a";
  m.data = std::string("\0bin\xff", 5);
  m.headers = {{"Cluster-Epoch", "42"}, {"Other", "x: y"}};
  ASSERT_TRUE(await<PubAck>(loop, kSoon, [&](auto done) { js.publish(m, {}, done); }));
  store("S.b", "other");
  auto last =
      await<StoredMessage>(loop, kSoon, [&](auto done) { js.last_message("S", "S.a", done); });
  ASSERT_TRUE(last) << last.error().what();
  EXPECT_EQ(last.value().data, m.data);
  EXPECT_EQ(last.value().sequence, 1u);
  EXPECT_EQ(last.value().header("Cluster-Epoch"), "42");
  EXPECT_EQ(last.value().header("Other"), "x: y");
  EXPECT_GT(last.value().time_ns, 1'700'000'000'000'000'000);
  auto second = await<StoredMessage>(loop, kSoon, [&](auto done) { js.message("S", 2, done); });
  EXPECT_EQ(second.value().data, "other");
  auto none = await<StoredMessage>(loop, kSoon, [&](auto done) { js.message("S", 3, done); });
  EXPECT_EQ(none.error().errc(), Errc::not_found);
}

TEST_F(JetStreamTest, TheServerIsGoodEnough) {
  must(loop, [&](auto done) { check_server(js, done); });
}

TEST_F(JetStreamTest, KeysAreChangedByCompareAndSet) {
  KeyValue kv(js, "b");
  must(loop, [&](auto done) { kv.ensure({.bucket = "b", .description = "test"}, done); });
  must(loop, [&](auto done) { kv.ensure({.bucket = "b", .history = 5}, done); });  // left alone
  auto update = [&](const std::string& key, const std::string& value, std::uint64_t revision) {
    return await<std::uint64_t>(loop, kSoon,
                                [&](auto done) { kv.update(key, value, revision, done); });
  };
  auto get = [&](const std::string& key) {
    return await<KvEntry>(loop, kSoon, [&](auto done) { kv.get(key, done); });
  };
  EXPECT_EQ(get("k").error().errc(), Errc::not_found);
  auto first = update("k", "one", 0);
  ASSERT_TRUE(first) << first.error().what();
  EXPECT_EQ(update("k", "two", 0).error().errc(), Errc::wrong_revision);
  auto second = update("k", "two", first.value());
  ASSERT_TRUE(second);
  EXPECT_EQ(update("k", "three", first.value()).error().errc(), Errc::wrong_revision);
  auto entry = get("k");
  ASSERT_TRUE(entry);
  EXPECT_EQ(entry.value().value, "two");
  EXPECT_EQ(entry.value().revision, second.value());
  EXPECT_EQ(entry.value().key, "k");
  ASSERT_TRUE(await<std::uint64_t>(loop, kSoon, [&](auto done) { kv.put("x.y/z=1", "v", done); }));
  EXPECT_EQ(get("x.y/z=1").value().value, "v");
  ASSERT_TRUE(await<std::uint64_t>(loop, kSoon, [&](auto done) { kv.remove("k", done); }));
  EXPECT_EQ(get("k").error().errc(), Errc::not_found);
  EXPECT_EQ(update("k", "new", 0).error().errc(), Errc::wrong_revision);
  for (const char* bad : {"", ".a", "a.", "a b", "a*", "a..b", ">"})
    EXPECT_EQ(get(bad).error().errc(), Errc::invalid_argument) << bad;
  auto state = await<StreamState>(loop, kSoon, [&](auto done) { js.stream("KV_b", done); }).value();
  EXPECT_EQ(state.config.max_msgs_per_subject, 1);
  EXPECT_TRUE(state.config.allow_rollup && state.config.allow_direct && state.config.deny_delete &&
              state.config.discard_new);
  EXPECT_THROW(KeyValue(js, "a.b"), Error);
}

struct Seen {
  std::vector<std::pair<std::string, std::uint64_t>> entries;
  std::vector<KvEntry> all;
  int caught_up = 0;
  int rewound = 0;
  std::vector<Error> troubles;

  KvWatch::Handlers handlers() {
    KvWatch::Handlers h;
    h.entry = [this](KvEntry e) {
      entries.emplace_back(e.value, e.revision);
      all.push_back(std::move(e));
    };
    h.caught_up = [this] { ++caught_up; };
    h.rewound = [this](std::uint64_t, std::uint64_t) { ++rewound; };
    h.trouble = [this](const Error& e) { troubles.push_back(e); };
    return h;
  }
};

TEST_F(JetStreamTest, AWatchShowsTheNewestOfEachKeyAndThenEachChange) {
  KeyValue kv(js, "b");
  must(loop, [&](auto done) { kv.ensure({.bucket = "b"}, done); });
  auto put = [&](const std::string& key, const std::string& value) {
    return await<std::uint64_t>(loop, kSoon, [&](auto done) { kv.put(key, value, done); }).value();
  };
  Seen empty;
  auto on_empty = kv.watch(">", empty.handlers());
  ASSERT_TRUE(loop.run_until([&] { return empty.caught_up == 1; }, kSoon));
  EXPECT_TRUE(empty.entries.empty());
  // Of a key's values the bucket keeps the newest only: what is overwritten before it was
  // delivered, a watch never sees.
  const auto first_sees = [&](std::size_t count) {
    return loop.run_until([&] { return empty.all.size() == count; }, kSoon);
  };
  put("a", "1");
  ASSERT_TRUE(first_sees(1));
  put("b.c", "2");
  put("a", "3");
  ASSERT_TRUE(first_sees(3));
  Seen seen;
  auto watch = kv.watch(">", seen.handlers());
  ASSERT_TRUE(loop.run_until([&] { return seen.caught_up == 1; }, kSoon));
  EXPECT_EQ(seen.entries, (std::vector<std::pair<std::string, std::uint64_t>>{{"2", 2}, {"3", 3}}));
  Seen one;
  auto on_one = kv.watch("b.*", one.handlers());
  ASSERT_TRUE(loop.run_until([&] { return one.caught_up == 1; }, kSoon));
  put("a", "4");
  ASSERT_TRUE(await<std::uint64_t>(loop, kSoon, [&](auto done) { kv.remove("b.c", done); }));
  ASSERT_TRUE(loop.run_until(
      [&] { return seen.all.size() == 4 && one.all.size() == 2 && empty.all.size() == 5; }, kSoon));
  EXPECT_EQ(seen.all[3].operation, KvEntry::Operation::remove);
  EXPECT_EQ(seen.all[3].key, "b.c");
  EXPECT_EQ(one.all[1].revision, 5u);
  EXPECT_EQ(seen.caught_up, 1);
}

TEST_F(JetStreamTest, AWatchOfAMissingBucketWaitsForIt) {
  KeyValue kv(js, "late");
  Seen seen;
  auto watch = kv.watch(">", seen.handlers());
  ASSERT_TRUE(loop.run_until([&] { return !seen.troubles.empty(); }, kSoon));
  EXPECT_EQ(seen.troubles[0].errc(), Errc::not_found);
  EXPECT_EQ(seen.caught_up, 0);
  must(loop, [&](auto done) { kv.ensure({.bucket = "late"}, done); });
  ASSERT_TRUE(loop.run_until([&] { return seen.caught_up == 1; }, kSoon));
}

TEST_F(JetStreamTest, AWatchSurvivesItsServersDeathWithoutGapsOrRepeats) {
  KeyValue kv(js, "b");
  must(loop, [&](auto done) { kv.ensure({.bucket = "b", .history = 64}, done); });
  Seen seen;
  auto watch = kv.watch(">", seen.handlers());
  ASSERT_TRUE(loop.run_until([&] { return seen.caught_up == 1; }, kSoon));
  Connection other(loop, servers.options("writer"));
  JetStream other_js(other);
  KeyValue writer(other_js, "b");
  int next = 0;
  auto write = [&](int count) {
    for (int i = 0; i < count;) {
      ASSERT_TRUE(connect(other));
      auto r = await<std::uint64_t>(loop, kSoon, [&](auto done) {
        writer.put("k" + std::to_string(next % 7), std::to_string(next), done);
      });
      if (!r) continue;
      ++i;
      ++next;
    }
  };
  for (int round = 0; round < 3; ++round) {
    write(20);
    servers[0].kill_hard();
    servers[0].start_again();
    // Whoever writes before the watch is back must not be missed.
    write(20);
  }
  ASSERT_TRUE(loop.run_until(
      [&] {
        return !seen.entries.empty() && seen.entries.back().first == std::to_string(next - 1);
      },
      kSoon));
  for (std::size_t i = 1; i < seen.entries.size(); ++i)
    ASSERT_EQ(seen.entries[i].second, seen.entries[i - 1].second + 1)
        << "revisions follow each other";
  EXPECT_EQ(seen.entries.front().second, 1u);
  EXPECT_EQ(seen.caught_up, 1);
  EXPECT_EQ(seen.rewound, 0);
}

TEST_F(JetStreamTest, AnOrderedConsumerBeginsWhereItIsTold) {
  make(config());
  for (int i = 1; i <= 5; ++i) store("S.a" + std::to_string(i % 2), std::to_string(i));
  auto read = [&](std::vector<std::string> filters, StartAt start) {
    std::string got;
    bool done = false;
    OrderedConsumer::Handlers h;
    h.message = [&](StoredMessage m) { got += m.data; };
    h.caught_up = [&] { done = true; };
    OrderedConsumer consumer(js, "S", std::move(filters), start, h);
    EXPECT_TRUE(loop.run_until([&] { return done; }, kSoon));
    return got;
  };
  using K = StartAt::Kind;
  EXPECT_EQ(read({}, {}), "12345");
  EXPECT_EQ(read({"S.a0"}, {}), "24");
  EXPECT_EQ(read({"S.a0", "S.a1"}, {}), "12345");
  EXPECT_EQ(read({}, {K::sequence, 4}), "45");
  EXPECT_EQ(read({}, {K::last_per_subject, 0}), "45");
  EXPECT_EQ(read({}, {K::new_only, 0}), "");
  std::string late;
  OrderedConsumer::Handlers h;
  bool ready = false;
  h.message = [&](StoredMessage m) { late += m.data; };
  h.caught_up = [&] { ready = true; };
  OrderedConsumer fresh(js, "S", {}, {K::new_only, 0}, h);
  ASSERT_TRUE(loop.run_until([&] { return ready; }, kSoon));
  store("S.x", "6");
  ASSERT_TRUE(loop.run_until([&] { return late == "6"; }, kSoon));
  EXPECT_EQ(fresh.last_sequence(), 6u);
}

TEST_F(JetStreamTest, AnOrderedConsumerFollowsALargeStreamUnderFlowControl) {
  make(config());
  constexpr std::size_t kCount = 3'000;
  std::size_t stored = 0;
  for (std::size_t i = 0; i < kCount; ++i) {
    Message m;
    m.subject = "S.x";
    m.data = std::string(16 * 1024, 'x');
    js.publish(std::move(m), {}, [&](Result<PubAck> ack) {
      EXPECT_TRUE(ack) << ack.error().what();
      ++stored;
    });
    // Some at a time: the last one's time limit counts from when it is sent.
    if (i % 250 == 249) {
      ASSERT_TRUE(wait_for(stored, i + 1));
    }
  }
  ASSERT_TRUE(wait_for(stored, kCount));
  std::size_t expected = 1;
  bool done = false;
  OrderedConsumer::Handlers h;
  h.message = [&](StoredMessage m) { ASSERT_EQ(m.sequence, expected++); };
  h.caught_up = [&] { done = true; };
  OrderedConsumer consumer(js, "S", {}, {}, h);
  ASSERT_TRUE(wait_for(expected, kCount + 1));
  ASSERT_TRUE(loop.run_until([&] { return done; }, kSoon));
  EXPECT_EQ(expected, kCount + 1u);
}

TEST_F(JetStreamTest, AnOrderedConsumerThatIsDeletedComesBack) {
  make(config());
  std::vector<std::uint64_t> got;
  OrderedConsumer::Handlers h;
  h.message = [&](StoredMessage m) { got.push_back(m.sequence); };
  OrderedConsumer consumer(js, "S", {}, {}, h);
  store("S.x", "1");
  ASSERT_TRUE(loop.run_until([&] { return got.size() == 1; }, kSoon));
  for (int round = 0; round < 3; ++round) {
    // On a busy machine it may just be making itself anew: it is deleted by the name it has then.
    const auto deleted = [&] {
      const auto names = nlohmann::json::parse(await<std::string>(loop, kSoon, [&](auto done) {
                                                 js.api("CONSUMER.NAMES.S", "", done);
                                               }).value())["consumers"];
      return names.is_array() && names.size() == 1 &&
             await<std::string>(loop, kSoon, [&](auto done) {
               js.api("CONSUMER.DELETE.S." + names[0].get<std::string>(), "", done);
             }).ok();
    };
    ASSERT_TRUE(loop.run_until(deleted, kSoon));
    store("S.x", "next");
    ASSERT_TRUE(
        loop.run_until([&] { return got.size() == static_cast<std::size_t>(round) + 2; }, kSoon));
  }
  EXPECT_EQ(got, (std::vector<std::uint64_t>{1, 2, 3, 4}));
}

TEST_F(JetStreamTest, AnOrderedConsumerSurvivesItsServersDeathWithoutGapsOrRepeats) {
  make(config());
  std::vector<std::uint64_t> got;
  OrderedConsumer::Handlers h;
  int rewound = 0;
  h.message = [&](StoredMessage m) { got.push_back(m.sequence); };
  h.rewound = [&](std::uint64_t, std::uint64_t) { ++rewound; };
  OrderedConsumer consumer(js, "S", {}, {}, h);
  Connection other(loop, servers.options("writer"));
  JetStream writer(other);
  std::uint64_t last = 0;
  auto write = [&](int count) {
    Time stored = BootClock::now();  // the last one
    while (count > 0) {
      ASSERT_TRUE(connect(other));
      Message m;
      m.subject = "S.x";
      const auto ack =
          await<PubAck>(loop, kSoon, [&](auto done) { writer.publish(std::move(m), {}, done); });
      if (!ack) {
        ASSERT_LT(BootClock::now(), stored + kSoon * slowness()) << ack.error().what();
        continue;
      }
      stored = BootClock::now();
      last = ack.value().sequence;
      --count;
    }
  };
  for (int round = 0; round < 3; ++round) {
    ASSERT_NO_FATAL_FAILURE(write(20));
    servers[0].kill_hard();
    servers[0].start_again();
    // What is stored before the consumer is back must not be missed.
    ASSERT_NO_FATAL_FAILURE(write(20));
  }
  ASSERT_TRUE(loop.run_until([&] { return !got.empty() && got.back() == last; }, kSoon));
  ASSERT_EQ(got.size(), last);
  for (std::size_t i = 0; i < got.size(); ++i) EXPECT_EQ(got[i], i + 1);
  EXPECT_EQ(rewound, 0);
}

TEST_F(JetStreamTest, AnOrderedConsumerIsNotFooledByAGap) {
  make(config());
  std::vector<std::string> got;
  OrderedConsumer::Handlers h;
  h.message = [&](StoredMessage m) { got.push_back(m.data); };
  OrderedConsumer consumer(js, "S", {}, {}, h);
  std::vector<std::string> expected;
  auto names_of = [&] {
    return await<std::string>(loop, kSoon, [&](auto done) { js.api("CONSUMER.LIST.S", "", done); })
        .value();
  };
  for (int round = 0; round < 3; ++round) {
    expected.push_back(std::to_string(round));
    store("S.x", expected.back());
    ASSERT_TRUE(loop.run_until([&] { return got == expected; }, kSoon));
    auto before = nlohmann::json::parse(names_of())["consumers"][0];
    // A heartbeat that knows of deliveries which have not come.
    Message forged;
    forged.subject = before["config"]["deliver_subject"];
    forged.headers = {{"Status", "100"}, {"Nats-Last-Consumer", "999"}};
    ASSERT_TRUE(c.publish(forged));
    auto replaced = [&] {
      auto now = nlohmann::json::parse(names_of())["consumers"];
      return now.size() == 1 && now[0]["name"] != before["name"];
    };
    Time end = BootClock::now() + kSoon;
    while (!replaced()) ASSERT_LT(BootClock::now(), end);
  }
  EXPECT_EQ(got, expected);
}

// Its server may be one that does not have all, and never delivers the rest. Stood for by a
// consumer whose filter lets nothing pass any more: its heartbeats go on.
TEST_F(JetStreamTest, AnOrderedConsumerThatDeliversNothingMoreIsMadeAnew) {
  make(config());
  const std::vector<std::vector<std::string>> filters = {{}, {"S.x"}, {"S.y.>", "S.x"}};
  std::vector<std::vector<std::uint64_t>> got(filters.size());
  std::vector<std::unique_ptr<OrderedConsumer>> consumers;
  for (std::size_t i = 0; i < filters.size(); ++i) {
    OrderedConsumer::Handlers h;
    h.message = [&got, i](StoredMessage m) { got[i].push_back(m.sequence); };
    consumers.push_back(std::make_unique<OrderedConsumer>(js, "S", filters[i], StartAt{}, h));
  }
  auto all_have = [&](std::size_t count) {
    return std::all_of(got.begin(), got.end(), [&](const auto& g) { return g.size() == count; });
  };
  store("S.x", "1");
  ASSERT_TRUE(loop.run_until([&] { return all_have(1); }, kSoon));
  auto list = [&] {
    return nlohmann::json::parse(await<std::string>(loop, kSoon, [&](auto done) {
                                   js.api("CONSUMER.LIST.S", "", done);
                                 }).value())["consumers"];
  };
  std::set<std::string> before;
  for (const auto& consumer : list()) {
    auto other = consumer["config"];
    other.erase("filter_subjects");
    other["filter_subject"] = "S.nobody";
    const std::string name = consumer["name"];
    before.insert(name);
    must(loop, [&](auto done) {
      js.api("CONSUMER.CREATE.S." + name + ".S.nobody",
             nlohmann::json{{"stream_name", "S"}, {"action", "update"}, {"config", other}}.dump(),
             [done](Result<std::string> r) { done(r ? Failure() : Failure(r.error())); });
    });
  }
  ASSERT_EQ(before.size(), filters.size());
  store("S.x", "2");
  ASSERT_TRUE(loop.run_until([&] { return all_have(2); }, kSoon)) << list();
  for (const auto& its : got) EXPECT_EQ(its, (std::vector<std::uint64_t>{1, 2}));
  for (const auto& consumer : list()) EXPECT_FALSE(before.contains(consumer["name"]));
}

// However it began, and whatever was overwritten or removed meanwhile.
TEST_F(JetStreamTest, AnOrderedConsumerWithNothingToDeliverIsLeftAlone) {
  make(config());
  for (int i = 0; i < 3; ++i) store("S.x", "old");
  store("S.y", "other");
  must(loop, [&](auto done) {
    js.purge("S", "S.x", 0,
             [done](Result<std::uint64_t> r) { done(r ? Failure() : Failure(r.error())); });
  });
  store("S.x", "new");
  store("S.z", "removed");
  must(loop, [&](auto done) { js.delete_message("S", 6, done); });
  using K = StartAt::Kind;
  const std::vector<std::pair<std::vector<std::string>, StartAt>> all = {
      {{}, {}},
      {{"S.x"}, {}},
      {{"S.x", "S.nobody"}, {}},
      {{}, {K::last_per_subject}},
      {{"S.y"}, {K::last_per_subject}},
      {{}, {K::new_only}},
      {{"S.y"}, {K::sequence, 5}},
      {{}, {K::sequence, 100}},
      {{"S.nobody"}, {}}};
  std::vector<std::unique_ptr<OrderedConsumer>> consumers;
  for (const auto& [filters, start] : all)
    consumers.push_back(
        std::make_unique<OrderedConsumer>(js, "S", filters, start, OrderedConsumer::Handlers{}));
  auto names = [&] {
    std::set<std::string> found;
    const auto list = nlohmann::json::parse(await<std::string>(loop, kSoon, [&](auto done) {
                                              js.api("CONSUMER.NAMES.S", "", done);
                                            }).value())["consumers"];
    for (const auto& name : list) found.insert(name);
    return found;
  };
  // A server that stands still for seconds has them made anew, too, but not each time.
  for (int tries = 1;; ++tries) {
    ASSERT_TRUE(loop.run_until([&] { return names().size() == all.size(); }, kSoon));
    const auto before = names();
    // Each is asked about twice.
    loop.run_until([] { return false; }, std::chrono::seconds(13));
    const auto after = names();
    if (after == before) return;
    ASSERT_LT(tries, 3) << "made anew each time";
  }
}

TEST_F(JetStreamTest, AnOrderedConsumerNoticesAStreamThatLostItsTail) {
  make(config());
  for (int i = 0; i < 5; ++i) store("S.x", "old");
  std::vector<std::uint64_t> got;
  std::vector<std::pair<std::uint64_t, std::uint64_t>> rewound;
  OrderedConsumer::Handlers h;
  h.message = [&](StoredMessage m) { got.push_back(m.sequence); };
  h.rewound = [&](std::uint64_t delivered, std::uint64_t last) {
    rewound.emplace_back(delivered, last);
  };
  OrderedConsumer consumer(js, "S", {}, {}, h);
  ASSERT_TRUE(loop.run_until([&] { return got.size() == 5; }, kSoon));
  // As after a restored backup: the same stream, shorter.
  must(loop, [&](auto done) { js.delete_stream("S", done); });
  make(config());
  store("S.x", "new");
  ASSERT_TRUE(loop.run_until([&] { return !rewound.empty(); }, kSoon));
  EXPECT_EQ(rewound[0].first, 5u);
  EXPECT_LE(rewound[0].second, 1u);
  store("S.x", "newer");
  ASSERT_TRUE(loop.run_until([&] { return got.back() == 2; }, kSoon));
}

TEST_F(JetStreamTest, HandlersMayEndTheirWatch) {
  KeyValue kv(js, "b");
  must(loop, [&](auto done) { kv.ensure({.bucket = "b"}, done); });
  for (int i = 0; i < 5; ++i)
    ASSERT_TRUE(await<std::uint64_t>(
        loop, kSoon, [&](auto done) { kv.put("k" + std::to_string(i), "v", done); }));
  std::unique_ptr<KvWatch> watch;
  int calls = 0;
  KvWatch::Handlers h;
  h.entry = [&](KvEntry) {
    ++calls;
    watch.reset();
  };
  watch = kv.watch(">", h);
  ASSERT_TRUE(loop.run_until([&] { return calls > 0; }, kSoon));
  must(loop, [&](auto done) { c.flush(kSoon, done); });
  EXPECT_EQ(calls, 1);
}

// What is written while its connection is away is new, all of it, though it has delivered nothing
// yet.
TEST_F(JetStreamTest, AWatchOfAnEmptyBucketMissesNothingThatIsWrittenWhileItIsAway) {
  KeyValue kv(js, "b");
  must(loop, [&](auto done) { kv.ensure({.bucket = "b", .history = 64}, done); });
  Seen seen;
  auto watch = kv.watch(">", seen.handlers());
  ASSERT_TRUE(loop.run_until([&] { return seen.caught_up == 1; }, kSoon));
  servers[0].kill_hard();
  servers[0].start_again();
  servers[0].wait_ready(kSoon);
  {
    // Its loop stands still meanwhile.
    Loop other;
    Connection d(other, servers.options());
    ASSERT_TRUE(connect(d));
    JetStream others(d);
    KeyValue same(others, "b");
    for (int i = 1; i <= 3; ++i)
      ASSERT_TRUE(await<std::uint64_t>(other, kSoon,
                                       [&](auto done) { same.put("k", std::to_string(i), done); }));
  }
  ASSERT_TRUE(loop.run_until([&] { return seen.entries.size() >= 3; }, kSoon));
  for (std::size_t i = 0; i < 3; ++i) EXPECT_EQ(seen.entries[i].second, i + 1);
  EXPECT_EQ(seen.rewound, 0);
  EXPECT_EQ(seen.caught_up, 1);
}

class JetStreamClusterTest : public JetStreamTest {
 protected:
  JetStreamClusterTest() : JetStreamTest(3) {}

  // Until `attempt` goes through: answers may be lost while the servers elect their leaders.
  void insist(const std::function<Failure()>& attempt) {
    Failure why;
    ASSERT_TRUE(loop.run_until(
        [&] {
          why = attempt();
          return !why;
        },
        seconds(90)))
        << why->what();
  }
};

TEST_F(JetStreamClusterTest, AppendsFollowTheMessageThatTheyName) {
  auto replicated = config();
  replicated.replicas = 3;
  for (int tries = 0; tries < 5; ++tries) {
    ASSERT_NO_FATAL_FAILURE(insist([&] {
      const auto made =
          await<StreamState>(loop, kSoon, [&](auto done) { js.create_stream(replicated, done); });
      return made ? Failure() : Failure(made.error());
    }));
    if (check_appends_by_id(loop, js)) return;
    ASSERT_NO_FATAL_FAILURE(insist([&] {
      const auto gone =
          await<std::string>(loop, kSoon, [&](auto done) { js.api("STREAM.DELETE.S", "", done); });
      return gone || gone.error().errc() == Errc::not_found ? Failure() : Failure(gone.error());
    }));
  }
  FAIL() << "the servers do not answer, each time";
}

TEST_F(JetStreamClusterTest, ABucketSurvivesTheDeathOfEachServerInTurn) {
  CLUSTER_SKIP_LONG_WAITS();
  KeyValue kv(js, "b");
  ASSERT_NO_FATAL_FAILURE(insist([&] {
    try {
      must(loop,
           [&](auto done) { kv.ensure({.bucket = "b", .history = 64, .replicas = 3}, done); });
      return Failure();
    } catch (const Error& error) {
      return Failure(error);
    }
  }));
  Seen seen;
  auto watch = kv.watch(">", seen.handlers());
  ASSERT_TRUE(loop.run_until([&] { return seen.caught_up == 1; }, kSoon));
  std::uint64_t revision = 0;
  int value = 0;
  faults::Outage outage(servers.all());
  // Sends the write unchanged; true when it is known to be stored.
  auto stored = [&] {
    auto r = await<std::uint64_t>(loop, kSoon, [&](auto done) {
      kv.update("k", std::to_string(value), revision, seconds(1), done);
    });
    if (r) {
      revision = r.value();
      return true;
    }
    if (r.error().errc() == Errc::wrong_revision) {  // an earlier sending had landed
      auto entry = await<KvEntry>(loop, kSoon, [&](auto done) { kv.get("k", done); });
      if (!entry) return false;
      EXPECT_EQ(entry.value().value, std::to_string(value));
      revision = entry.value().revision;
      return true;
    }
    connect(c);
    loop.run_until([] { return false; }, milliseconds(100));
    return false;
  };
  auto write = [&](int count) {
    for (int i = 0; i < count; ++i) {
      ++value;
      ASSERT_TRUE(outage.outlast(stored));
    }
  };
  for (std::size_t victim = 0; victim < servers.size(); ++victim) {
    ASSERT_NO_FATAL_FAILURE(write(5));
    ASSERT_TRUE(outage.wait_whole());
    outage.kill(victim);
    ASSERT_NO_FATAL_FAILURE(write(5));
    ASSERT_TRUE(outage.end());
  }
  CLUSTER_END_LOST(outage);
  ASSERT_TRUE(loop.run_until(
      [&] { return !seen.entries.empty() && seen.entries.back().first == std::to_string(value); },
      seconds(90)));
  for (std::size_t i = 0; i < seen.entries.size(); ++i) EXPECT_EQ(seen.entries[i].second, i + 1);
  EXPECT_EQ(seen.rewound, 0);
  EXPECT_EQ(seen.caught_up, 1);
}

}  // namespace
}  // namespace cluster::nats
