// A database's way through a real stream into a replica: leader, fence, follower, hand-over.

#include "integration/nats_fixture.h"
#include "integration/sqlite_fixture.h"
#include "long_waits.h"
#include "outage.h"
#include "sqlite/capture.h"
#include "sqlite/restore.h"
#include "sqlite/snapshot_store.h"
#include "sqlite/wal_follower.h"
#include "sqlite/wal_leader.h"

namespace cluster::sqlite {
namespace {

using testing::connect;
using testing::kSoon;
using testing::NatsServers;

class WalStreamTest : public SqliteTest {
 protected:
  explicit WalStreamTest(int count = 1) : servers(count), c(loop, servers.options()), js(c) {}

  void SetUp() override {
    ASSERT_TRUE(connect(c));
    ASSERT_NO_FATAL_FAILURE(make_stream("1"));
  }

  void make_stream(const std::string& id) {
    nats::StreamConfig config;
    config.name = "p_a_wal";
    config.subjects = {"p.a.wal"};
    config.replicas = static_cast<int>(servers.size());
    config.metadata = {{kHistoryKey, id}};
    // A server that stands still answers too late. To ask again changes nothing.
    Result<nats::StreamState> state = Error(Errc::unavailable, "not asked yet");
    ASSERT_TRUE(wait([&] {
      state = nats::await<nats::StreamState>(loop, kSoon,
                                             [&](auto done) { js.create_stream(config, done); });
      return state.ok();
    })) << state.error().what();
    history = history_of(state.value());
  }

  // Until `done`.
  virtual ::testing::AssertionResult wait(const std::function<bool()>& done) {
    if (loop.run_until(done, kSoon)) return ::testing::AssertionSuccess();
    return ::testing::AssertionFailure() << "in vain";
  }

  /// A leader with its database.
  struct Primary {
    WalStreamTest& test;
    std::unique_ptr<Capture> capture;
    std::unique_ptr<WalLeader> leader;
    std::optional<StreamRecord> fence;
    std::optional<std::uint64_t> fenced_by;
    std::string lost, trouble;
    std::uint64_t stored = 0;
    std::uint64_t acknowledged = 0;  // the newest record's sequence
    std::size_t most = 1'000'000;    // bytes of a part

    Primary(WalStreamTest& t, std::uint64_t epoch) : test(t) {
      WalLeader::Events events;
      events.fence_stored = [this](const StreamRecord& record) { fence = record; };
      events.stored = [this](const StreamRecord& record) {
        stored = record.last;
        acknowledged = record.sequence;
      };
      events.fenced = [this](std::uint64_t by) { fenced_by = by; };
      events.lost = [this](const Error& error) { lost = error.what(); };
      events.trouble = [this](const Error& error) { trouble = error.what(); };
      leader = std::make_unique<WalLeader>(
          test.js, "p_a_wal", "p.a.wal", test.history, epoch, "w" + std::to_string(epoch),
          [] { return StreamWriter::Own{}; }, events);
    }
    bool wait_for_fence() {
      return bool(test.wait([this] { return fence || fenced_by; }));
    }
    void open(const std::string& name, DatabaseState state = {}, bool trusted = false) {
      capture = std::make_unique<Capture>(CaptureOptions{.path = test.path(name)}, std::move(state),
                                          trusted);
    }
    /// Appends what there is; false when the leader is fenced meanwhile.
    bool ship() {
      capture->follow();
      std::string file;
      auto captured = capture->write([&](std::string_view bytes) { file += bytes; });
      if (!captured) return true;
      std::uint32_t part = 1;
      for (std::size_t at = 0; at < file.size(); at += most, ++part) {
        const auto may =
            test.wait([this] { return leader->ready() || fenced_by || !lost.empty(); });
        if (!may || fenced_by || !leader->ready()) {
          if (!may) trouble += std::string("; ") + may.message();
          return false;
        }
        StreamRecord record;
        record.first = captured->header.min_txid;
        record.last = captured->header.max_txid;
        record.part = part;
        record.final = at + most >= file.size();
        record.before = captured->hashes.before;
        record.hash = record.final ? captured->hashes.after : 0;
        leader->append(record, std::make_shared<const std::string>(file.substr(at, most)));
      }
      return true;
    }
    bool wait_until_stored() {
      return bool(test.wait([this] { return fenced_by || stored == capture->written(); }));
    }
  };

  /// A replica that is made from the first file of the stream, and follows the rest.
  struct Standby {
    WalStreamTest& test;
    std::string path;
    PositionLog log;
    HashFile hashes;
    std::unique_ptr<Strand> strand;
    std::shared_ptr<Replica> replica;
    std::unique_ptr<WalFollower> follower;
    std::string stuck, failed;
    bool caught_up = false;

    Standby(WalStreamTest& t, const std::string& name)
        : test(t),
          path(test.path(name)),
          log(position_log_path(path)),
          hashes(hash_file_path(path)),
          strand(test.pool.strand()) {}
    ~Standby() {
      follower.reset();
      strand.reset();
    }

    void begin_with_first_file(std::uint64_t sequence = 2) {
      Result<nats::StoredMessage> message = Error(Errc::unavailable, "not asked yet");
      ASSERT_TRUE(test.wait([&] {
        message = nats::await<nats::StoredMessage>(
            test.loop, kSoon, [&](auto done) { test.js.message("p_a_wal", sequence, done); });
        return message.ok();
      })) << message.error().what();
      LtxDecoder file(source_of(message.value().data));
      const auto state = write_database(path + ".new", {&file});
      replace_database(path + ".new", path);
      log.append({1, state.txid, sequence, state.pages.database(), state.page_size});
      follow();
    }
    void follow() {
      replica = std::make_shared<Replica>(path, log, hashes, 4'000'000);
      ASSERT_TRUE(replica->position());
      WalFollower::Events events;
      events.caught_up = [this] { caught_up = true; };
      events.stuck = [this](const WalFollower::Stuck& s) { stuck = s.why; };
      events.failed = [this](const Error& error, std::uint64_t) { failed = error.what(); };
      follower = std::make_unique<WalFollower>(test.js, *strand, "p_a_wal", replica,
                                               replica->position()->sequence, events);
    }
    bool wait_for(Txid txid, Duration limit = kSoon) {
      return test.loop.run_until(
                 [&] { return !stuck.empty() || !failed.empty() || applied() >= txid; }, limit) &&
             applied() >= txid;
    }
    Txid applied() {
      // Only when nothing is being applied may the replica be looked at.
      return follower->pending_bytes() == 0 ? replica->position()->txid : 0;
    }
    void stop() {
      follower.reset();
      replica.reset();
    }
  };

  NatsServers servers;
  Loop loop;
  nats::Connection c;
  nats::JetStream js;
  std::uint64_t history = 0;  // of the stream
  StrandPool pool;
};

TEST_F(WalStreamTest, AStandbyHasWhatTheLeaderCommits) {
  Handle db = create("p.db");
  Primary primary(*this, 1);
  ASSERT_TRUE(primary.wait_for_fence());
  EXPECT_EQ(primary.fence->sequence, 1U);
  EXPECT_EQ(primary.fence->last, 0U);
  primary.open("p.db");
  ASSERT_TRUE(primary.ship());
  Standby standby(*this, "r.db");
  ASSERT_TRUE(primary.wait_until_stored());
  ASSERT_NO_FATAL_FAILURE(standby.begin_with_first_file());
  for (int i = 0; i < 300; ++i) {
    db.exec("INSERT INTO t(v) VALUES(randomblob(" + std::to_string(i * 37 % 5000) + "))");
    ASSERT_TRUE(primary.ship());
  }
  // One that takes several messages.
  primary.most = 100'000;
  db.exec("INSERT INTO t(v) VALUES(randomblob(1000000))");
  ASSERT_TRUE(primary.ship());
  ASSERT_TRUE(primary.wait_until_stored());
  ASSERT_TRUE(standby.wait_for(primary.stored)) << standby.stuck << standby.failed;
  // It is told that behind the last record, and a turn of the loop later.
  EXPECT_TRUE(wait([&] { return standby.caught_up; }));
  Handle reader(path("r.db"), Handle::Access::read_only);
  EXPECT_EQ(reader.number("SELECT count(*) FROM t"), 301);
  reader.close();
  standby.stop();
  primary.capture.reset();
  db.close();
  EXPECT_TRUE(settled("r.db") == settled("p.db"));
}

TEST_F(WalStreamTest, TheNextLeaderFencesTheOldOneAndHasAllThatWasStored) {
  Handle db = create("p.db");
  Primary old(*this, 1);
  ASSERT_TRUE(old.wait_for_fence());
  old.open("p.db");
  ASSERT_TRUE(old.ship());
  ASSERT_TRUE(old.wait_until_stored());
  Standby standby(*this, "r.db");
  ASSERT_NO_FATAL_FAILURE(standby.begin_with_first_file());
  for (int i = 0; i < 50; ++i) {
    db.exec("INSERT INTO t(v) VALUES(" + std::to_string(i) + ")");
    ASSERT_TRUE(old.ship());
  }
  // Some of these may still be under way.
  Primary next(*this, 2);
  ASSERT_TRUE(next.wait_for_fence());
  ASSERT_TRUE(next.fence);
  ASSERT_TRUE(standby.wait_for(next.fence->last)) << standby.stuck << standby.failed;
  // What the old one commits from now on is refused, and it learns why.
  db.exec("INSERT INTO t(v) VALUES('too late')");
  old.ship();
  ASSERT_TRUE(loop.run_until([&] { return old.fenced_by.has_value(); }, kSoon));
  EXPECT_EQ(old.fenced_by, 2U);
  EXPECT_LE(old.stored, next.fence->last) << "what was stored is part of the history";
  // The replica becomes the primary.
  const DatabaseState state = standby.replica->state();
  EXPECT_EQ(state.txid, next.fence->last);
  standby.stop();
  next.open("r.db", state, true);
  Handle db2(path("r.db"), Handle::Access::read_write);
  db2.exec("INSERT INTO t(v) VALUES('new')");
  ASSERT_TRUE(next.ship());
  ASSERT_TRUE(next.wait_until_stored());
  EXPECT_EQ(next.stored, next.fence->last + 1);
  // The old one's database has diverged, and its follower says so. It holds all that was committed
  // there. How much of that was stored, and what the old leader heard of it, is left to chance.
  const Txid committed = old.capture->written();
  EXPECT_GT(committed, next.fence->last);
  old.capture.reset();
  db.close();
  Standby back(*this, "p.db");
  const auto sum = [&] {
    Capture all({.path = path("p.db")}, {}, true);
    return all.content();
  }();
  back.log.append({1, committed, 0, sum.pages.database(), sum.page_size, {}, 0});
  back.follow();
  ASSERT_TRUE(loop.run_until([&] { return !back.stuck.empty(); }, kSoon));
  EXPECT_NE(back.stuck.find("the stream goes on behind"), std::string::npos) << back.stuck;
}

// As `nats pub p.a.wal hello`, or a copy of what stands there.
TEST_F(WalStreamTest, MessagesOfOthersArePassedOver) {
  const auto publish = [this](nats::Message message) {
    message.subject = "p.a.wal";
    ASSERT_TRUE(nats::await<nats::PubAck>(
        loop, kSoon, [&](auto done) { js.publish(message, {}, kSoon, done); }));
  };
  nats::Message hello;
  hello.data = "hello";
  ASSERT_NO_FATAL_FAILURE(publish(hello));
  Handle db = create("p.db");
  Primary primary(*this, 1);
  ASSERT_TRUE(primary.wait_for_fence());
  EXPECT_EQ(primary.fence->sequence, 2U);
  EXPECT_EQ(primary.fence->last, 0U);
  primary.open("p.db");
  ASSERT_TRUE(primary.ship());
  ASSERT_TRUE(primary.wait_until_stored());
  Standby standby(*this, "r.db");
  ASSERT_NO_FATAL_FAILURE(standby.begin_with_first_file(3));
  const auto first = nats::await<nats::StoredMessage>(
      loop, kSoon, [&](auto done) { js.message("p_a_wal", 3, done); });
  ASSERT_TRUE(first);
  nats::Message copy;
  copy.data = first.value().data;
  for (const auto& header : first.value().headers)
    if (!header.first.starts_with("Nats-")) copy.headers.push_back(header);
  for (int i = 0; i < 20; ++i) {
    db.exec("INSERT INTO t(v) VALUES(" + std::to_string(i) + ")");
    ASSERT_NO_FATAL_FAILURE(publish(i % 2 == 0 ? hello : copy));
    ASSERT_TRUE(primary.ship());
  }
  ASSERT_TRUE(primary.wait_until_stored());
  EXPECT_EQ(primary.lost, "");
  // More than are looked at in one step.
  for (int i = 0; i < 300; ++i) ASSERT_NO_FATAL_FAILURE(publish(i % 2 == 0 ? hello : copy));
  Primary next(*this, 2);
  ASSERT_TRUE(next.wait_for_fence());
  EXPECT_EQ(next.fence->last, primary.stored);
  EXPECT_EQ(next.fence->epoch_before, 1U);
  ASSERT_TRUE(standby.wait_for(primary.stored)) << standby.stuck << standby.failed;
  ASSERT_TRUE(wait([&] { return standby.follower->applied() == next.fence->sequence; }));
  EXPECT_EQ(standby.stuck + standby.failed, "");
  standby.stop();
  primary.capture.reset();
  db.close();
  EXPECT_TRUE(settled("r.db") == settled("p.db"));
}

// What it has goes into no other history: the next leader begins the new one with all of it.
TEST_F(WalStreamTest, ALeaderAppendsNothingToAStreamThatWasMadeAnew) {
  Handle db = create("p.db");
  Primary primary(*this, 1);
  ASSERT_TRUE(primary.wait_for_fence());
  primary.open("p.db");
  ASSERT_TRUE(primary.ship());
  ASSERT_TRUE(primary.wait_until_stored());
  ASSERT_TRUE(nats::await<std::string>(
      loop, kSoon, [&](auto done) { js.api("STREAM.DELETE.p_a_wal", "", kSoon, done); }));
  ASSERT_NO_FATAL_FAILURE(make_stream("2"));
  // A leader that looks at the stream only now finds the new one. One that looked between the two
  // has found none, and is done.
  const bool looked_between = !primary.lost.empty();
  db.exec("INSERT INTO t(v) VALUES('late')");
  EXPECT_NE(primary.ship(), looked_between);
  ASSERT_TRUE(loop.run_until([&] { return !primary.lost.empty(); }, kSoon));
  EXPECT_NE(primary.lost.find(looked_between ? "is gone" : "made anew"), std::string::npos)
      << primary.lost;
  Result<nats::StreamState> state = Error(Errc::unavailable, "not asked yet");
  ASSERT_TRUE(wait([&] {
    state =
        nats::await<nats::StreamState>(loop, kSoon, [&](auto done) { js.stream("p_a_wal", done); });
    return state.ok();
  }));
  EXPECT_EQ(history_of(state.value()), history);
  EXPECT_EQ(state.value().last_seq, 0U);
}

class WalStreamClusterTest : public WalStreamTest {
 protected:
  WalStreamClusterTest() : WalStreamTest(3) {}

  ::testing::AssertionResult wait(const std::function<bool()>& done) override {
    return outage.outlast([&] { return loop.run_until(done, std::chrono::seconds(1)); });
  }

  std::string answer_of(const std::string& what) {
    const auto text =
        nats::await<std::string>(loop, kSoon, [&](auto done) { js.api(what, "", done); });
    return text ? text.value() : text.error().what();
  }

  // The stream itself shows that what was acknowledged has gone.
  void expect_end_before(std::uint64_t sequence) {
    Result<nats::StreamState> state = Error(Errc::unavailable, "not asked yet");
    const auto limit = BootClock::now() + std::chrono::seconds(90);
    while (!state && BootClock::now() < limit)
      state = nats::await<nats::StreamState>(loop, kSoon,
                                             [&](auto done) { js.stream("p_a_wal", done); });
    ASSERT_TRUE(state) << state.error().what();
    EXPECT_LT(state.value().last_seq, sequence) << "the leader said that the stream lost its end";
  }

  // Each server dies while a leader appends, the next one when the one before has caught up. Tells
  // whether the servers themselves lost records that they had acknowledged, which the leader says.
  void kill_one_by_one(const std::string& name, bool& lost) {
    const std::string copy = "copy-of-" + name;
    Handle db = create(name);
    Primary primary(*this, 1);
    ASSERT_TRUE(primary.wait_for_fence());
    primary.open(name);
    ASSERT_TRUE(primary.ship());
    ASSERT_TRUE(primary.wait_until_stored());
    Standby standby(*this, copy);
    ASSERT_NO_FATAL_FAILURE(standby.begin_with_first_file());
    for (std::size_t kill = 0; kill < servers.size(); ++kill) {
      ASSERT_TRUE(outage.wait_whole());
      for (int i = 0; i < 40 && !lost; ++i) {
        db.exec("INSERT INTO t(v) VALUES(randomblob(3000))");
        if (i == 20) outage.kill(kill);
        const bool shipped = primary.ship();
        lost = primary.lost.find("has lost records that it had acknowledged") != std::string::npos;
        ASSERT_TRUE(shipped || lost) << "server " << kill << ", transaction " << i << ": "
                                     << (primary.lost.empty() ? primary.trouble : primary.lost);
      }
      if (!lost) {
        ASSERT_TRUE(wait([&] { return primary.stored == primary.capture->written(); }));
      }
      ASSERT_TRUE(outage.end());
      if (lost) return expect_end_before(primary.acknowledged);
    }
    // A cluster that has just lost a server makes consumers late.
    ASSERT_TRUE(standby.wait_for(primary.stored, std::chrono::seconds(90)))
        << standby.stuck << standby.failed << "; it has " << standby.applied() << " of "
        << primary.stored << "\n"
        << answer_of("STREAM.INFO.p_a_wal") << "\n"
        << answer_of("CONSUMER.LIST.p_a_wal");
    standby.stop();
    primary.capture.reset();
    db.close();
    EXPECT_TRUE(settled(copy) == settled(name));
  }

  faults::Outage outage{servers.all()};
};

// Nothing is lost, and no gap is left. nats-server 2.10 on a busy machine may lose what it has
// acknowledged when its servers fail one after the other (docs/replication.md): then the leader has
// said so, and it is tried again.
TEST_F(WalStreamClusterTest, GoesOnWhenServersDieOneByOne) {
  CLUSTER_SKIP_LONG_WAITS();
  constexpr int kTries = 4;
  for (int i = 1; i <= kTries; ++i) {
    bool lost = false;
    ASSERT_NO_FATAL_FAILURE(kill_one_by_one("p" + std::to_string(i) + ".db", lost));
    if (!lost) return;
    ASSERT_TRUE(nats::await<std::string>(loop, std::chrono::seconds(90), [&](auto done) {
      js.api("STREAM.DELETE.p_a_wal", "", std::chrono::seconds(60), done);
    }));
    ASSERT_NO_FATAL_FAILURE(make_stream(std::to_string(i + 1)));
  }
  FAIL() << "the servers lose what they acknowledge, each time";
}

}  // namespace
}  // namespace cluster::sqlite
