// A leader of a database on a real server, with its stream and its snapshot bucket.
#pragma once

#include <atomic>
#include <future>
#include <memory>
#include <optional>
#include <string>
#include <thread>

#include "integration/nats_fixture.h"
#include "integration/sqlite_fixture.h"
#include "sqlite/primary.h"
#include "sqlite/snapshot_keeper.h"
#include "sqlite/snapshot_restore.h"
#include "sqlite/stored_claims.h"

namespace cluster::sqlite {

class SnapshotFixture : public SqliteTest {
 protected:
  /// How long work may take that goes through all of a large database.
  static constexpr auto kLong = std::chrono::minutes(3);

  // A lone server that stands still answers late.
  SnapshotFixture() : c(loop, servers.options()), js(c, testing::kSoon) {}

  void SetUp() override {
    ASSERT_TRUE(testing::connect(c));
    nats::StreamConfig config;
    config.name = "p_a_wal";
    config.subjects = {"p.a.wal"};
    config.deny_delete = true;
    const auto state = nats::await<nats::StreamState>(
        loop, testing::kSoon, [&](auto done) { js.create_stream(config, done); });
    ASSERT_TRUE(state) << state.error().what();
    history = history_of(state.value());
    store = std::make_unique<SnapshotStore>(js, "p_a_snapshots", testing::kSoon);
  }

  /// Runs `work` on a thread that may block, and the loop meanwhile.
  template <typename Work>
  auto blocking(Work work) {
    auto result = std::async(std::launch::async, work);
    EXPECT_TRUE(loop.run_until(
        [&] { return result.wait_for(std::chrono::seconds(0)) == std::future_status::ready; },
        kLong * slowness()))
        << "work on a thread has not ended; it is waited for";
    return result.get();
  }

  struct Lead {
    SnapshotFixture& test;
    PositionLog log;
    HashFile hashes;
    std::unique_ptr<WalLeader> leader;
    std::unique_ptr<Primary> primary;
    bool fenced = false;
    std::optional<StreamRecord> fence;

    Lead(SnapshotFixture& t, const std::string& database, std::uint64_t epoch,
         const DatabaseState& known = {}, std::size_t wal_limit = std::size_t{16} * 1024 * 1024)
        : test(t),
          log(position_log_path(t.path(database))),
          hashes(hash_file_path(t.path(database))) {
      WalLeader::Events events;
      events.fence_stored = [this](const StreamRecord& record) { fence = record; };
      events.stored = [this](const StreamRecord& record) {
        if (primary) primary->stored(record);
      };
      events.ready = [this] {
        if (primary) primary->ready();
      };
      events.fenced = [this](std::uint64_t) { fenced = true; };
      leader = std::make_unique<WalLeader>(
          test.js, "p_a_wal", "p.a.wal", test.history, epoch, "w" + std::to_string(epoch),
          [] { return StreamWriter::Own{}; }, events);
      EXPECT_TRUE(test.loop.run_until([this] { return fence || fenced; }, testing::kSoon));
      Primary::Options options;
      options.path = test.path(database);
      options.epoch = epoch;
      options.wal_limit = wal_limit;
      primary = std::make_unique<Primary>(test.loop, *leader, log, hashes, options, known,
                                          known.txid > 0, Primary::Events{});
      sync();
    }
    /// All that was committed is stored; returns the last transaction.
    Txid sync() {
      const auto txid =
          nats::await<Txid>(test.loop, kLong, [&](auto done) { primary->sync(kLong, done); });
      EXPECT_TRUE(txid) << txid.error().what();
      return txid ? txid.value() : 0;
    }
  };

  SnapshotKeeper::Options keeper_options() {
    SnapshotKeeper::Options options;
    options.app = "a";
    options.node = "n";
    options.stream = "p_a_wal";
    options.folder = path("");
    return options;
  }
  std::unique_ptr<SnapshotKeeper> keep(Lead& lead, SnapshotKeeper::Options options) {
    return std::make_unique<SnapshotKeeper>(
        loop, pool, *store, std::move(options),
        [&lead](Callback<std::shared_ptr<DatabaseImage>> done) {
          lead.primary->image(std::move(done));
        },
        [&lead] { return lead.primary->status().stored; });
  }
  StoredFile create_snapshot(SnapshotKeeper& keeper) {
    const auto file = nats::await<StoredFile>(loop, kLong, [&](auto done) { keeper.create(done); });
    EXPECT_TRUE(file) << file.error().what();
    return file ? file.value() : StoredFile{};
  }
  KeptFiles kept() {
    return blocking([this] { return kept_files(*store, "p_a_wal"); });
  }
  StoreListing list() {
    return blocking([this] { return store->list(); });
  }
  StreamRange stream() {
    return *blocking([this] { return store->stream("p_a_wal"); });
  }
  std::optional<Restored> bootstrap(const std::string& name) {
    const auto range = stream();
    return blocking([&] { return restore_connected(*store, range, path(name)); });
  }
  Restored restore(const std::string& name, RestoreTarget target = {}, bool force = false) {
    return blocking(
        [&] { return restore_database(*store, {"p_a_wal", target, {}, path(name), force}); });
  }
  std::int64_t rows(const std::string& name) {
    Handle db(path(name), Handle::Access::read_only);
    EXPECT_EQ(db.text("PRAGMA integrity_check"), "ok");
    return db.number("SELECT count(*) FROM t");
  }
  bool there(const std::string& name) { return std::filesystem::exists(path(name)); }

  testing::NatsServers servers;
  Loop loop;
  nats::Connection c;
  nats::JetStream js;
  StrandPool pool;
  std::uint64_t history = 0;  // of the stream
  std::unique_ptr<SnapshotStore> store;
};

}  // namespace cluster::sqlite
