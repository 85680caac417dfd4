// A WAL stream that somebody deletes, whoever leads or does not: it is made again, and nothing that
// a copy has is lost. And one to which somebody else publishes: nobody minds.
#include "sqlite/replicated_database.h"

#include <optional>
#include <string>

#include "integration/nats_fixture.h"
#include "integration/sqlite_fixture.h"

namespace cluster::sqlite {
namespace {

using testing::kSoon;

class DatabaseStream : public SqliteTest {
 protected:
  DatabaseStream() : c(loop, servers.options()), js(c, kSoon) {}
  void SetUp() override {
    ASSERT_TRUE(testing::connect(c));
    create("a.db").exec("INSERT INTO t(v) VALUES(1)");
    ASSERT_NO_FATAL_FAILURE(start());
  }
  void start() {
    database = std::make_unique<ReplicatedDatabase>(
        loop, pool, js,
        ReplicatedDatabase::Options{.platform = "p", .app = "a", .node = "n", .path = path("a.db")},
        ReplicatedDatabase::Events{});
    database->start();
    ASSERT_TRUE(until([this] { return database->ready(); }));
  }
  void TearDown() override {
    bool over = false;
    database->stop([&] { over = true; });
    EXPECT_TRUE(until([&] { return over; }));
  }
  bool until(const std::function<bool()>& condition) { return loop.run_until(condition, kSoon); }

  void lead(std::uint64_t epoch) {
    std::optional<Failure> done;
    database->promote(epoch, [&](const Failure& failure) { done = failure; });
    ASSERT_TRUE(until([&] { return done.has_value(); }));
    ASSERT_FALSE(*done) << (*done)->what();
    const auto synced =
        nats::await<Txid>(loop, kSoon, [&](auto answer) { database->sync(kSoon, answer); });
    ASSERT_TRUE(synced) << synced.error().what();
  }
  void follow() {
    bool done = false;
    database->demote({.quiet = kSoon}, [&] { done = true; });
    ASSERT_TRUE(until([&] { return done; }));
  }
  std::optional<nats::StreamState> stream() {
    auto state =
        nats::await<nats::StreamState>(loop, kSoon, [&](auto done) { js.stream("p_a_wal", done); });
    return state ? std::optional(state.value()) : std::nullopt;
  }
  void commit() {
    Handle(path("a.db"), Handle::Access::read_write).exec("INSERT INTO t(v) VALUES(2)");
    const auto synced =
        nats::await<Txid>(loop, kSoon, [&](auto answer) { database->sync(kSoon, answer); });
    ASSERT_TRUE(synced) << synced.error().what();
  }
  void publish_foreign(int count = 1) {
    for (int i = 0; i < count; ++i) {
      nats::Message message;
      message.subject = "p.a.wal";
      message.data = "hello";
      ASSERT_TRUE(nats::await<nats::PubAck>(
          loop, kSoon, [&](auto done) { js.publish(message, {}, kSoon, done); }));
    }
  }
  std::uint64_t foreign() { return database->status().counts.copy.foreign_messages; }

  /// What stands there afterwards is another stream, and as it is to be.
  void expect_made_again(std::uint64_t before) {
    std::optional<nats::StreamState> state;
    ASSERT_TRUE(until([&] {
      state = stream();
      return state.has_value();
    }));
    EXPECT_NE(history_of(*state), before);
    EXPECT_EQ(state->config.subjects, std::vector<std::string>{"p.a.wal"});
    EXPECT_TRUE(state->config.deny_delete);
  }

  testing::NatsServers servers;
  Loop loop;
  nats::Connection c;
  nats::JetStream js;
  StrandPool pool;
  std::unique_ptr<ReplicatedDatabase> database;
};

TEST_F(DatabaseStream, IsMadeAgainWhileNobodyLeads) {
  ASSERT_NO_FATAL_FAILURE(lead(1));
  ASSERT_NO_FATAL_FAILURE(follow());
  ASSERT_TRUE(until([this] { return database->ready(); }));
  const auto before = history_of(*stream());
  testing::must(loop, [&](auto done) { js.delete_stream("p_a_wal", done); });
  ASSERT_NO_FATAL_FAILURE(expect_made_again(before));
  ASSERT_TRUE(until([this] { return database->status().counts.copy.streams_made_anew == 1; }));
  ASSERT_TRUE(until([this] { return database->ready(); }));
  ASSERT_NO_FATAL_FAILURE(lead(2));
  EXPECT_GT(stream()->messages, 1U) << "the new one begins with what the copy has";
}

TEST_F(DatabaseStream, IsMadeAgainBeforeAnybodyHasEverLed) {
  const auto before = history_of(*stream());
  testing::must(loop, [&](auto done) { js.delete_stream("p_a_wal", done); });
  ASSERT_NO_FATAL_FAILURE(expect_made_again(before));
  ASSERT_TRUE(until([this] { return database->status().counts.copy.streams_made_anew == 1; }));
  ASSERT_TRUE(until([this] { return database->ready(); }));
  ASSERT_NO_FATAL_FAILURE(lead(1));
  EXPECT_GT(stream()->messages, 1U);
}

// Whoever makes it first: the others go on with that one.
TEST_F(DatabaseStream, MayBeMadeAgainByAnother) {
  ASSERT_NO_FATAL_FAILURE(lead(1));
  ASSERT_NO_FATAL_FAILURE(follow());
  ASSERT_TRUE(until([this] { return database->ready(); }));
  const auto before = history_of(*stream());
  auto config = stream()->config;
  config.metadata[kHistoryKey] = "another";
  testing::must(loop, [&](auto done) { js.delete_stream("p_a_wal", done); });
  ASSERT_TRUE(nats::await<nats::StreamState>(loop, kSoon,
                                             [&](auto done) { js.create_stream(config, done); }));
  ASSERT_NE(history_of(*stream()), before);
  ASSERT_TRUE(until([this] { return database->status().counts.copy.streams_made_anew == 1; }));
  ASSERT_TRUE(until([this] { return database->ready(); }));
  ASSERT_NO_FATAL_FAILURE(lead(2));
  EXPECT_GT(stream()->messages, 1U);
}

TEST_F(DatabaseStream, GoesOnOverMessagesOfOthers) {
  ASSERT_NO_FATAL_FAILURE(publish_foreign(2));
  ASSERT_NO_FATAL_FAILURE(lead(1));
  const auto before = stream()->last_seq;
  ASSERT_NO_FATAL_FAILURE(publish_foreign(3));
  ASSERT_NO_FATAL_FAILURE(commit());
  EXPECT_EQ(stream()->last_seq, before + 4);
  ASSERT_NO_FATAL_FAILURE(publish_foreign(1));
  ASSERT_NO_FATAL_FAILURE(follow());
  ASSERT_NO_FATAL_FAILURE(publish_foreign(1));
  ASSERT_TRUE(until([this] { return database->ready(); }));
  const auto status = database->status();
  EXPECT_EQ(status.counts.copy.divergences + status.counts.copy.had_anew, 0U);
  EXPECT_EQ(status.quarantine.newest.size(), 0U);
  ASSERT_TRUE(until([this] { return foreign() == 7; })) << foreign();
  EXPECT_EQ(database->status().lag_records, 0U);
  ASSERT_NO_FATAL_FAILURE(publish_foreign(1));
  ASSERT_NO_FATAL_FAILURE(lead(2));
  ASSERT_NO_FATAL_FAILURE(commit());
  EXPECT_EQ(foreign(), 8U);
}

// Who has published before anybody has led did not begin it.
TEST_F(DatabaseStream, IsBegunByNoMessageOfOthers) {
  ASSERT_NO_FATAL_FAILURE(publish_foreign(1));
  database->stop([] {});
  database.reset();
  ASSERT_NO_FATAL_FAILURE(start());
  EXPECT_EQ(database->status().copy, DatabaseCopy::Phase::founding);
  ASSERT_NO_FATAL_FAILURE(lead(1));
}

}  // namespace
}  // namespace cluster::sqlite
