// A database's way through a real stream into a replica: leader, fence, follower, hand-over.

#include "integration/nats_fixture.h"
#include "integration/sqlite_fixture.h"
#include "sqlite/capture.h"
#include "sqlite/restore.h"
#include "sqlite/wal_follower.h"
#include "sqlite/wal_leader.h"

namespace cluster::sqlite {
namespace {

using testing::connect;
using testing::kSoon;
using testing::NatsServers;

class WalStreamTest : public SqliteTest {
 protected:
  WalStreamTest() : c(loop, servers.options()), js(c) {}

  void SetUp() override {
    ASSERT_TRUE(connect(c));
    nats::StreamConfig config;
    config.name = "p_a_wal";
    config.subjects = {"p.a.wal"};
    ASSERT_TRUE(nats::await<nats::StreamState>(loop, kSoon,
                                               [&](auto done) { js.create_stream(config, done); }));
  }

  /// A leader with its database.
  struct Primary {
    WalStreamTest& test;
    std::unique_ptr<Capture> capture;
    std::unique_ptr<WalLeader> leader;
    std::optional<StreamRecord> fence;
    std::optional<std::uint64_t> fenced_by;
    std::uint64_t stored = 0;
    std::size_t most = 1'000'000;  // bytes of a part

    Primary(WalStreamTest& t, std::uint64_t epoch) : test(t) {
      WalLeader::Events events;
      events.fence_stored = [this](const StreamRecord& record) { fence = record; };
      events.stored = [this](const StreamRecord& record) { stored = record.last; };
      events.fenced = [this](std::uint64_t by) { fenced_by = by; };
      leader = std::make_unique<WalLeader>(test.js, "p_a_wal", "p.a.wal", epoch,
                                           "w" + std::to_string(epoch), events);
    }
    bool wait_for_fence() {
      return test.loop.run_until([this] { return fence || fenced_by; }, kSoon);
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
        if (!test.loop.run_until([this] { return leader->ready() || fenced_by; }, kSoon) ||
            fenced_by)
          return false;
        StreamRecord record;
        record.first = captured->header.min_txid;
        record.last = captured->header.max_txid;
        record.part = part;
        record.final = at + most >= file.size();
        record.before = captured->header.pre_apply;
        record.checksum = record.final ? captured->trailer.post_apply : 0;
        leader->append(record, std::make_shared<const std::string>(file.substr(at, most)));
      }
      return true;
    }
    bool wait_until_stored() {
      return test.loop.run_until([this] { return fenced_by || stored == capture->written(); },
                                 kSoon);
    }
  };

  /// A replica that is made from the first file of the stream, and follows the rest.
  struct Standby {
    WalStreamTest& test;
    std::string path;
    PositionLog log;
    std::unique_ptr<Strand> strand;
    std::shared_ptr<Replica> replica;
    std::unique_ptr<WalFollower> follower;
    std::string stuck, failed;
    bool caught_up = false;

    Standby(WalStreamTest& t, const std::string& name)
        : test(t),
          path(test.path(name)),
          log(position_log_path(path)),
          strand(test.pool.strand()) {}
    ~Standby() {
      follower.reset();
      strand.reset();
    }

    void begin_with_first_file() {
      auto message = nats::await<nats::StoredMessage>(
          test.loop, kSoon, [&](auto done) { test.js.message("p_a_wal", 2, done); });
      ASSERT_TRUE(message) << message.error().what();
      LtxDecoder file(source_of(message.value().data));
      const auto state = write_database(path + ".new", {&file});
      replace_database(path + ".new", path);
      log.append({1, state.txid, 2, state.pages.database(), state.page_size, {}, 0});
      follow();
    }
    void follow() {
      replica = std::make_shared<Replica>(path, log, 4'000'000);
      ASSERT_TRUE(replica->position());
      WalFollower::Events events;
      events.caught_up = [this] { caught_up = true; };
      events.stuck = [this](const std::string& why, bool) { stuck = why; };
      events.failed = [this](const Error& error) { failed = error.what(); };
      follower = std::make_unique<WalFollower>(test.js, *strand, "p_a_wal", replica,
                                               replica->position()->sequence, events);
    }
    bool wait_for(Txid txid) {
      return test.loop.run_until(
                 [&] { return !stuck.empty() || !failed.empty() || applied() >= txid; }, kSoon) &&
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
  standby.begin_with_first_file();
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
  EXPECT_TRUE(standby.caught_up);
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
  standby.begin_with_first_file();
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
  // The old one's database has diverged, and its follower says so.
  old.capture.reset();
  db.close();
  Standby back(*this, "p.db");
  const auto sum = [&] {
    Capture all({.path = path("p.db")}, {}, true);
    return all.content();
  }();
  back.log.append({1, old.stored + 1, 0, sum.pages.database(), sum.page_size, {}, 0});
  back.follow();
  ASSERT_TRUE(loop.run_until([&] { return !back.stuck.empty(); }, kSoon));
  EXPECT_NE(back.stuck.find("the stream goes on behind"), std::string::npos) << back.stuck;
}

}  // namespace
}  // namespace cluster::sqlite
