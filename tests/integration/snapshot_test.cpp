// Snapshots of a real leader's database in a real object store, and what is restored from them.
#include "integration/snapshot_fixture.h"

#include "core/wall_time.h"
#include "integration/platform_fixture.h"
#include "sqlite/snapshot_removal.h"
#include "sqlite/snapshot_work.h"
#include "sqlite/stream_message.h"

namespace cluster::sqlite {
namespace {

using std::chrono::milliseconds;
using testing::kSoon;

class SnapshotsTest : public SnapshotFixture {};

TEST_F(SnapshotsTest, ANewcomerBeginsWithTheNewestSnapshotAndGoesOnInTheStream) {
  Handle db = create("p.db");
  Lead lead(*this, "p.db", 1);
  for (int i = 0; i < 100; ++i) db.exec("INSERT INTO t(v) VALUES(randomblob(3000))");
  const Txid txid = lead.sync();
  auto keeper = keep(lead, keeper_options());
  const StoredFile file = create_snapshot(*keeper);
  EXPECT_EQ(file.max, txid);
  EXPECT_EQ(file.end.epoch, 1U);
  EXPECT_EQ(keeper->status().newest, file);
  EXPECT_EQ(list().files, std::vector{file});

  const auto restored = bootstrap("r.db");
  ASSERT_TRUE(restored);
  EXPECT_EQ(restored->state.txid, txid);
  EXPECT_EQ(restored->sequence, file.end.sequence);
  EXPECT_TRUE(restored->damaged.empty());
  EXPECT_EQ(rows("r.db"), 100);
  keeper.reset();
  lead.primary.reset();
  db.close();
  EXPECT_TRUE(settled("p.db") == settled("r.db")) << "it is the database, byte for byte";
}

TEST_F(SnapshotsTest, WhatIsBehindTheSnapshotComesFromMergedFilesAndTheStream) {
  Handle db = create("p.db");
  Lead lead(*this, "p.db", 1);
  auto options = keeper_options();
  options.plan.merge_interval = milliseconds(50);
  options.plan.merge_count = 3;
  auto keeper = keep(lead, options);
  create_snapshot(*keeper);
  std::map<Txid, std::int64_t> rows_at;
  for (int i = 1; i <= 8; ++i) {
    db.exec("INSERT INTO t(v) VALUES(randomblob(500))");
    rows_at[lead.sync()] = i;
    // Each becomes a file of its own.
    ASSERT_TRUE(
        loop.run_until([&] { return keeper->status().reach == rows_at.rbegin()->first; }, kSoon));
  }
  ASSERT_TRUE(loop.run_until([&] { return keeper->status().merged == 8 + 2; }, kSoon))
      << "three files of level 1 make one of level 2";
  keeper.reset();
  db.exec("INSERT INTO t(v) VALUES('only in the stream')");
  rows_at[lead.sync()] = 9;

  const auto newest = restore("newest.db");
  EXPECT_EQ(newest.state.txid, rows_at.rbegin()->first);
  EXPECT_EQ(rows("newest.db"), 9);
  int n = 0;
  for (const auto& [txid, count] : rows_at) {
    const std::string name = "at" + std::to_string(++n) + ".db";
    EXPECT_EQ(restore(name, {.txid = txid}).state.txid, txid);
    EXPECT_EQ(rows(name), count) << "at transaction " << txid;
  }
  // Without most of the stream's records the same, from the files.
  const auto last = stream().last;
  blocking([&] {
    store->trim("p_a_wal", last);
    return true;
  });
  EXPECT_EQ(restore("trimmed.db").state.txid, newest.state.txid);
  for (const auto& [txid, count] : rows_at) {
    const std::string name = "at" + std::to_string(++n) + ".db";
    EXPECT_EQ(restore(name, {.txid = txid}).state.txid, txid);
    EXPECT_EQ(rows(name), count) << "at transaction " << txid;
  }
  // Between the moments that are kept, the one before.
  for (const auto& file : list().files)
    if (file.level == 1) blocking([&] { return store->remove(file.name()); });
  EXPECT_EQ(restore("coarse.db", {.txid = newest.state.txid - 2}).state.txid,
            newest.state.txid - 3);
}

TEST_F(SnapshotsTest, RestoreToATimeHasAllThatWasStoredByThenAndNothingElse) {
  Handle db = create("p.db");
  Lead lead(*this, "p.db", 1);
  auto keeper = keep(lead, keeper_options());
  create_snapshot(*keeper);
  std::vector<std::int64_t> times;
  for (int i = 0; i < 3; ++i) {
    db.exec("INSERT INTO t(v) VALUES(1)");
    lead.sync();
    times.push_back(wall_ns());
    ASSERT_TRUE(loop.run_until([&] { return wall_ns() > times.back(); }, kSoon));
  }
  for (std::size_t i = 0; i < times.size(); ++i) {
    const std::string name = "t" + std::to_string(i) + ".db";
    restore(name, {.time_ns = times[i]});
    EXPECT_EQ(rows(name), static_cast<std::int64_t>(i) + 1);
  }
  try {
    restore("never.db", {.time_ns = 1'000'000'000});
    FAIL() << "nothing of 1970 is kept";
  } catch (const Error& error) {
    EXPECT_EQ(error.errc(), Errc::not_found);
    EXPECT_NE(std::string(error.what()).find("the oldest snapshot is of transaction"),
              std::string::npos)
        << error.what();
  }
  EXPECT_FALSE(there("never.db"));
}

class SnapshotTimes : public SnapshotsTest {
 protected:
  void SetUp() override {
    SnapshotsTest::SetUp();
    db = create("p.db");
    lead = std::make_unique<Lead>(*this, "p.db", 1);
  }
  Txid insert() {
    db.exec("INSERT INTO t(v) VALUES(randomblob(500))");
    return lead->sync();
  }
  /// The stream's message there, as JetStream has stamped it.
  nats::StoredMessage message(std::uint64_t sequence) {
    return *blocking([&] { return store->message("p_a_wal", sequence); });
  }
  std::int64_t latest_up_to(std::uint64_t sequence) {
    std::int64_t time_ns = 0;
    for (auto at = stream().first; at <= sequence; ++at)
      time_ns = std::max(time_ns, message(at).time_ns);
    return time_ns;
  }
  std::int64_t time_in_file(const StoredFile& file) {
    return blocking([&] {
      const auto object = store->open(file.name());
      LtxDecoder decoder([&](char* into, std::size_t most) { return object->read(into, most); });
      return decoder.header().timestamp_ms;
    });
  }
  void trim(std::uint64_t before) {
    blocking([&] {
      store->trim("p_a_wal", before);
      return true;
    });
  }
  Handle db;
  std::unique_ptr<Lead> lead;
};

TEST_F(SnapshotTimes, EveryFileIsOfTheTimeOfTheRecordThatItEndsWith) {
  auto options = keeper_options();
  options.plan.merge_interval = milliseconds(50);
  options.plan.merge_count = 3;
  auto keeper = keep(*lead, options);
  create_snapshot(*keeper);
  for (int i = 0; i < 7; ++i) {
    const Txid txid = insert();
    ASSERT_TRUE(loop.run_until([&] { return keeper->status().reach == txid; }, kSoon));
  }
  insert();
  const auto last = create_snapshot(*keeper);
  ASSERT_TRUE(loop.run_until([&] { return keeper->status().merged >= 7 + 2; }, kSoon));
  keeper.reset();
  const auto files = list().files;
  ASSERT_GE(files.size(), 11U);
  for (const auto& file : files) {
    EXPECT_EQ(file.time_ns, latest_up_to(file.end.sequence)) << file.name();
    EXPECT_EQ(time_in_file(file), file.time_ns / 1'000'000) << file.name();
    const auto record = stream_record_from(message(file.end.sequence).headers, file.end.sequence);
    ASSERT_TRUE(record);
    EXPECT_EQ(record.value().last, file.max) << file.name();
  }
  EXPECT_EQ(last.time_ns, message(last.end.sequence).time_ns);
  // Each moment that is named gives what it names.
  int n = 0;
  for (const auto& file : files) {
    const std::string name = "t" + std::to_string(++n) + ".db";
    EXPECT_EQ(restore(name, {.time_ns = file.time_ns}).state.txid, file.max);
    if (file.snapshot()) continue;
    EXPECT_EQ(restore("b" + name, {.time_ns = file.time_ns - 1}).state.txid, file.max - 1);
  }
}

TEST_F(SnapshotTimes, WhatFollowsARecordOfAServerThatWasAheadIsOfNoEarlierTime) {
  insert();
  auto keeper = keep(*lead, keeper_options());
  auto first = create_snapshot(*keeper);
  keeper.reset();
  first.time_ns += std::chrono::nanoseconds(std::chrono::hours(1)).count();
  blocking([&] {
    std::string bytes(first.size, '\0');
    const auto source = store->open(first.name());
    for (std::size_t at = 0; at < bytes.size();)
      at += source->read(bytes.data() + at, bytes.size() - at);
    const auto sink = store->create(first);
    sink->write(bytes);
    sink->finish();
    return true;
  });
  insert();
  const auto in_stream = restore("stream.db");
  EXPECT_EQ(in_stream.state.txid, first.max + 1);
  EXPECT_EQ(in_stream.time_ns, first.time_ns);
  auto options = keeper_options();
  options.plan.merge_interval = milliseconds(50);
  keeper = keep(*lead, options);
  ASSERT_TRUE(loop.run_until([&] { return keeper->status().reach == first.max + 1; }, kSoon));
  insert();
  create_snapshot(*keeper);
  keeper.reset();
  const auto files = list().files;
  ASSERT_GE(files.size(), 3U);
  for (const auto& file : files) {
    EXPECT_EQ(file.time_ns, first.time_ns) << file.name();
    if (file == first) continue;
    EXPECT_EQ(time_in_file(file), file.time_ns / 1'000'000) << file.name();
  }
  EXPECT_EQ(restore("all.db", {.time_ns = first.time_ns}).state.txid, first.max + 2);
  trim(first.end.sequence + 1);
  EXPECT_THROW(restore("none.db", {.time_ns = first.time_ns - 1}), Error)
      << "what was stored by then is before the record that is later";
}

TEST_F(SnapshotTimes, OneOfATransactionWhoseRecordIsGoneIsOfTheTimeThatTheFilesKnow) {
  insert();
  auto keeper = keep(*lead, keeper_options());
  const auto first = create_snapshot(*keeper);
  keeper.reset();
  // Other nodes lead, and nothing is committed.
  lead.reset();
  db.close();
  for (std::uint64_t epoch = 2; epoch <= 3; ++epoch) {
    WalLeader::Events events;
    std::optional<StreamRecord> fence;
    events.fence_stored = [&](const StreamRecord& record) { fence = record; };
    WalLeader leader(
        js, "p_a_wal", "p.a.wal", history, epoch, "w" + std::to_string(epoch),
        [] { return StreamWriter::Own{}; }, events);
    ASSERT_TRUE(loop.run_until([&] { return fence.has_value(); }, kSoon));
  }
  const auto end = stream().last;
  trim(end);
  DatabaseImage image;
  image.state.txid = first.max;
  image.sequence = first.end.sequence;
  const auto place = [&](const Files& files) {
    const auto range = stream();
    return blocking([&] { return place_of(*store, range, files, image, {}); });
  };
  EXPECT_EQ(place({first}), (StoredAt{first.end.sequence, first.time_ns}));
  EXPECT_EQ(place({}), (StoredAt{end, message(end).time_ns})) << "rather too late than too early";
  // Of an emptied stream the server's clock is all that there is.
  trim(end + 1);
  ASSERT_GT(stream().first, stream().last);
  const auto emptied = place({});
  EXPECT_EQ(emptied.sequence, first.end.sequence);
  EXPECT_GT(emptied.time_ns, first.time_ns);
  EXPECT_EQ(place({first}), (StoredAt{first.end.sequence, first.time_ns}));
}

TEST_F(SnapshotTimes, WhatTheStreamHasLostIsNoSnapshot) {
  const Txid txid = insert();
  DatabaseImage image;
  image.state.txid = txid + 1;
  const auto range = stream();
  image.sequence = range.last;
  try {
    blocking([&] { return place_of(*store, range, {}, image, {}); });
    FAIL() << "the stream ends before it";
  } catch (const Error& error) {
    EXPECT_EQ(error.errc(), Errc::unavailable);
    EXPECT_NE(std::string(error.what()).find("has no transaction"), std::string::npos);
  }
}

TEST_F(SnapshotTimes, ARestoreBeyondTheEndSaysThatItIsTheNewest) {
  const Txid txid = insert();
  auto keeper = keep(*lead, keeper_options());
  const auto file = create_snapshot(*keeper);
  keeper.reset();
  const auto beyond = restore("beyond.db", {.time_ns = file.time_ns + 1});
  EXPECT_EQ(beyond.state.txid, txid);
  EXPECT_TRUE(beyond.newest);
  const Txid later = insert();
  EXPECT_FALSE(restore("before.db", {.time_ns = file.time_ns}).newest);
  const auto newest = restore("newest.db");
  EXPECT_EQ(newest.state.txid, later);
  EXPECT_TRUE(newest.newest);
}

TEST_F(SnapshotTimes, ATimeBeforeTheStreamWasBegunIsThatOfTheStreamBefore) {
  insert();
  auto keeper = keep(*lead, keeper_options());
  const auto old = create_snapshot(*keeper);
  keeper.reset();
  lead.reset();
  db.close();
  testing::must(loop, [&](auto done) { js.delete_stream("p_a_wal", done); });
  nats::StreamConfig config;
  config.name = "p_a_wal";
  config.subjects = {"p.a.wal"};
  config.metadata[kHistoryKey] = "another";
  const auto state = nats::await<nats::StreamState>(
      loop, kSoon, [&](auto done) { js.create_stream(config, done); });
  ASSERT_TRUE(state);
  history = history_of(state.value());
  // Its first record is just being appended.
  auto restored = restore("at_once.db", {.time_ns = old.time_ns});
  EXPECT_EQ(restored.state.txid, old.max);
  EXPECT_TRUE(restored.stream_gone);
  db = create("q.db");
  for (int i = 0; i < 3; ++i) db.exec("INSERT INTO t(v) VALUES('of the new stream')");
  Lead next(*this, "q.db", 2);
  auto again = keep(next, keeper_options());
  const auto file = create_snapshot(*again);
  again.reset();
  EXPECT_NE(file.end.history, old.end.history);
  restored = restore("then.db", {.time_ns = old.time_ns});
  EXPECT_EQ(restored.state.txid, old.max);
  EXPECT_TRUE(restored.stream_gone);
  EXPECT_FALSE(restored.newest);
  EXPECT_EQ(rows("then.db"), 1);
  restored = restore("now.db", {.time_ns = file.time_ns});
  EXPECT_EQ(restored.sequence, file.end.sequence);
  EXPECT_FALSE(restored.stream_gone);
  EXPECT_EQ(rows("now.db"), 3);
  EXPECT_THROW(restore("never.db", {.time_ns = old.time_ns - 1}), Error);
}

TEST_F(SnapshotTimes, HowLongItWasLedOutlivesALeaderAtRest) {
  insert();
  auto options = keeper_options();
  options.plan.led_step = milliseconds(50);
  options.plan.interval = milliseconds(50);
  options.plan.merge_interval = milliseconds(50);
  auto keeper = keep(*lead, options);
  create_snapshot(*keeper);
  const auto file = list().files.front();
  std::int64_t led = 0;
  // Nothing is written to the database meanwhile.
  for (const Time limit = BootClock::now() + kSoon; led < file.led_ms + 100;) {
    ASSERT_LT(BootClock::now(), limit);
    led = list().led_ms;
  }
  keeper.reset();
  EXPECT_TRUE(list().foreign.empty());
  keeper = keep(*lead, options);
  insert();
  const auto next = create_snapshot(*keeper);
  EXPECT_GE(next.led_ms, led);
}

TEST_F(SnapshotTimes, TheAgeOfTheNewestGrowsOnceSomethingIsStoredBehindIt) {
  insert();
  auto keeper = keep(*lead, keeper_options());
  create_snapshot(*keeper);
  EXPECT_EQ(keeper->status().age.count(), 0);
  insert();
  ASSERT_TRUE(loop.run_until([&] { return keeper->status().age > milliseconds(20); }, kSoon));
  create_snapshot(*keeper);
  EXPECT_EQ(keeper->status().age.count(), 0);
}

class DamagedSnapshots : public SnapshotsTest {
 protected:
  /// Two snapshots, and the stream from the second one's end on.
  void SetUp() override {
    SnapshotsTest::SetUp();
    db = create("p.db");
    lead = std::make_unique<Lead>(*this, "p.db", 1);
    auto keeper = keep(*lead, keeper_options());
    first = create_snapshot(*keeper);
    for (int i = 0; i < 50; ++i) db.exec("INSERT INTO t(v) VALUES(randomblob(3000))");
    lead->sync();
    second = create_snapshot(*keeper);
  }
  /// An object of that name whose bytes are others.
  void replace(const StoredFile& file, const std::function<void(std::string&)>& change) {
    blocking([&] {
      std::string bytes(file.size, '\0');
      const auto source = store->open(file.name());
      for (std::size_t at = 0; at < bytes.size();)
        at += source->read(bytes.data() + at, bytes.size() - at);
      change(bytes);
      const auto sink = store->create(file);
      sink->write(bytes);
      sink->finish();
      return true;
    });
  }
  Handle db;
  std::unique_ptr<Lead> lead;
  StoredFile first, second;
};

TEST_F(DamagedSnapshots, AnOlderOneIsUsedAndTheDamagedOneNamed) {
  replace(second, [](std::string& bytes) { bytes[bytes.size() / 2] ^= 1; });
  const auto restored = bootstrap("r.db");
  ASSERT_TRUE(restored);
  ASSERT_EQ(restored->damaged.size(), 1U);
  EXPECT_NE(restored->damaged[0].find(second.name()), std::string::npos) << restored->damaged[0];
  const auto again = restore("r2.db");
  EXPECT_EQ(again.damaged.size(), 1U);
  EXPECT_EQ(again.state.txid, second.max) << "the stream has the rest";
  EXPECT_EQ(rows("r2.db"), 50);
}

TEST_F(DamagedSnapshots, WithNoneThatIsWholeThereIsAnErrorAndNoFile) {
  const auto last = stream().last;
  blocking([&] {
    store->trim("p_a_wal", last);
    return true;
  });
  for (const auto& file : list().files)
    replace(file, [](std::string& bytes) { bytes.resize(bytes.size() / 2); });
  EXPECT_FALSE(bootstrap("r.db"));
  try {
    restore("r.db");
    FAIL() << "all are damaged";
  } catch (const Error& error) {
    EXPECT_EQ(error.errc(), Errc::corrupt);
    EXPECT_NE(std::string(error.what()).find("what is kept is damaged"), std::string::npos);
  }
  for (const auto& entry : std::filesystem::directory_iterator(path("")))
    EXPECT_EQ(entry.path().filename().string().find("r.db"), std::string::npos) << entry.path();
}

TEST_F(DamagedSnapshots, AFileOfAnotherContentUnderItsNameIsNoticed) {
  // Whole by its own checksum, and not what the stream has.
  auto forged = second;
  forged.end.hash ^= 1;
  blocking([&] {
    std::string bytes(second.size, '\0');
    const auto source = store->open(second.name());
    for (std::size_t at = 0; at < bytes.size();)
      at += source->read(bytes.data() + at, bytes.size() - at);
    const auto sink = store->create(forged);
    sink->write(bytes);
    sink->finish();
    return true;
  });
  const auto listing = kept().listing;
  ASSERT_EQ(listing.foreign.size(), 1U);
  EXPECT_EQ(listing.foreign[0].name, second.name());
  EXPECT_NE(listing.foreign[0].why.find("another hash"), std::string::npos)
      << listing.foreign[0].why;
  const auto restored = bootstrap("r.db");
  ASSERT_TRUE(restored);
  EXPECT_EQ(restored->from.front(), first);
}

TEST_F(DamagedSnapshots, AnExistingFileIsReplacedOnlyOnDemandAndNeverOneInUse) {
  restore("r.db", {.txid = first.max});
  EXPECT_EQ(rows("r.db"), 0);
  try {
    restore("r.db");
    FAIL() << "it is there";
  } catch (const Error& error) {
    EXPECT_EQ(error.errc(), Errc::invalid_argument);
    EXPECT_NE(std::string(error.what()).find("--force"), std::string::npos);
  }
  {
    Handle user(path("r.db"), Handle::Access::read_write);
    EXPECT_EQ(user.number("SELECT count(*) FROM t"), 0);
    EXPECT_THROW(restore("r.db", {}, true), Error) << "a program has it open";
  }
  EXPECT_THROW(restore("p.db", {}, true), Error) << "a node replicates it";
  restore("r.db", {}, true);
  EXPECT_EQ(rows("r.db"), 50);
}

TEST_F(SnapshotsTest, OldFilesGoAndTheStreamIsTrimmed) {
  Handle db = create("p.db");
  Lead lead(*this, "p.db", 1);
  auto options = keeper_options();
  options.plan.interval = milliseconds(100);
  options.plan.retention = milliseconds(0);
  options.plan.merge_interval = milliseconds(50);
  options.plan.stream_window = options.plan.least_window = milliseconds(0);
  int rounds = 0, removed = 0;
  options.audit = [&](const AuditEntry& entry) {
    if (entry.action != "snapshot_retention") return;
    ++rounds;
    for (const auto& [key, value] : entry.fields)
      if (key == "snapshots") removed += std::stoi(value);
  };
  auto keeper = keep(lead, options);
  std::int64_t count = 0;
  ASSERT_TRUE(loop.run_until(
      [&] {
        db.exec("INSERT INTO t(v) VALUES(randomblob(100))");
        ++count;
        return keeper->status().taken >= 5;
      },
      kLong));
  lead.sync();
  ASSERT_TRUE(loop.run_until([&] { return keeper->status().snapshots == 2; }, kSoon))
      << keeper->status().trouble;
  const auto taken = static_cast<int>(keeper->status().taken);
  ASSERT_TRUE(loop.run_until([&] { return removed >= taken - 2; }, kSoon)) << removed;
  EXPECT_GE(rounds, 1);
  EXPECT_TRUE(loop.run_until([&] { return stream().first > 2; }, kSoon));
  keeper.reset();
  const auto range = stream();
  EXPECT_LE(range.first, range.last);
  const auto restored = restore("r.db");
  EXPECT_EQ(rows("r.db"), count) << "nothing is missing for all that";
  const auto begun = bootstrap("b.db");
  ASSERT_TRUE(begun);
  EXPECT_GE(begun->sequence + 1, range.first);
}

// ---- objects that claim what can't be

class HostileObjects : public SnapshotsTest {
 protected:
  void put(const StoredFile& claims, const std::string& bytes) {
    blocking([&] {
      const auto sink = store->create(claims);
      sink->write(bytes);
      sink->finish();
      return true;
    });
  }
  static StoredFile changed(StoredFile file, const std::function<void(StoredFile&)>& change) {
    change(file);
    return file;
  }
};

TEST_F(HostileObjects, AreReportedAndChangeNothing) {
  Handle db = create("p.db");
  Lead lead(*this, "p.db", 1);
  auto options = keeper_options();
  std::vector<std::string> audited;
  options.audit = [&](const AuditEntry& entry) {
    if (entry.action == "snapshot_foreign") audited.push_back(entry.action);
  };
  auto keeper = keep(lead, options);
  for (int i = 0; i < 10; ++i) db.exec("INSERT INTO t(v) VALUES(randomblob(1000))");
  lead.sync();
  const StoredFile real = create_snapshot(*keeper);
  const Txid most = ~Txid{0};
  const std::string junk(500, 'x');
  int count = 0;
  const auto hostile = [&](const std::function<void(StoredFile&)>& change) {
    put(changed(real, change), junk);
    ++count;
  };
  hostile([&](auto& f) { f.max = most; });
  hostile([&](auto& f) { f.max = most / 8; });
  hostile([&](auto& f) { f.max = real.max + 1'000; });
  hostile([&](auto& f) { f.level = 1, f.min = 2, f.max = most / 8; });
  hostile([&](auto& f) { f.level = 8, f.min = real.max, f.max = real.max + 5'000; });
  hostile([&](auto& f) { f.max = real.max + 1, f.end.sequence = real.end.sequence + 1; });
  hostile([&](auto& f) { f.max = real.max + 2, f.end.sequence = most / 8; });
  hostile([&](auto& f) { f.max = real.max - 1, f.end.epoch = 4'711; });
  hostile([&](auto& f) { f.max = real.max - 2, f.time_ns = 9'000'000'000'000'000'000; });
  hostile([&](auto& f) { f.max = real.max - 3, f.end.hash = 1; });
  put(changed(real, [&](auto& f) { f.max = real.max - 4; }), "x");
  ++count;
  // What they say will be in the stream in time.
  for (int i = 0; i < 20; ++i) {
    db.exec("INSERT INTO t(v) VALUES(randomblob(1000))");
    lead.sync();
  }
  const Txid last = lead.sync();
  const StoredFile taken = create_snapshot(*keeper);
  EXPECT_EQ(taken.max, last);
  EXPECT_EQ(taken.end.sequence, stream().last);
  const auto status = keeper->status();
  EXPECT_EQ(status.trouble, "");
  EXPECT_EQ(status.foreign, static_cast<std::uint64_t>(count));
  EXPECT_EQ(status.newest, taken);
  EXPECT_EQ(static_cast<int>(audited.size()), std::min(count, 8)) << "the rest is counted";
  create_snapshot(*keeper);
  EXPECT_EQ(static_cast<int>(audited.size()), std::min(count, 8)) << "they are told of once";
  const auto listing = kept().listing;
  EXPECT_EQ(static_cast<int>(listing.foreign.size()), count);
  EXPECT_EQ(listing.files.size(), status.snapshots + status.merged);
  EXPECT_EQ(bootstrap("r.db")->state.txid, last);
  EXPECT_EQ(restore("s.db").state.txid, last);
  EXPECT_EQ(rows("s.db"), 30);
  EXPECT_TRUE(restore("u.db", {.txid = real.max}).damaged.empty());
  for (const Txid txid : {most, most / 8, real.max + 1'000, real.max - 2})
    EXPECT_EQ(testing::errc_of([&] {
                blocking([&] { return remove_snapshot(*store, "p_a_wal", txid, true); });
              }),
              Errc::not_found)
        << txid;
}

// What its content is shows only when it is read; then the others go on without it.
TEST_F(HostileObjects, AMergedFileThatIsNoneDoesNotStopTheRest) {
  Handle db = create("p.db");
  Lead lead(*this, "p.db", 1);
  auto options = keeper_options();
  options.plan.merge_count = 2;
  auto keeper = keep(lead, options);
  db.exec("INSERT INTO t(v) VALUES(1)");
  lead.sync();
  create_snapshot(*keeper);
  for (int i = 0; i < 2; ++i) {
    db.exec("INSERT INTO t(v) VALUES(1)");
    lead.sync();
    const auto at = create_snapshot(*keeper);
    auto claims = at;
    claims.level = 3;
    claims.min = at.max;
    put(claims, std::string(500, 'x'));
  }
  for (int i = 0; i < 3; ++i) {
    db.exec("INSERT INTO t(v) VALUES(1)");
    lead.sync();
    create_snapshot(*keeper);
    EXPECT_EQ(keeper->status().trouble, "");
  }
  EXPECT_GE(keeper->status().foreign, 1U);
}

// ---- a stream that was deleted

TEST_F(SnapshotsTest, OfAStreamThatWasDeletedSnapshotsAreListedAndRestoredByName) {
  Handle db = create("p.db");
  StoredFile old;
  {
    Lead lead(*this, "p.db", 1);
    auto keeper = keep(lead, keeper_options());
    for (int i = 0; i < 30; ++i) {
      db.exec("INSERT INTO t(v) VALUES('old')");
      lead.sync();
    }
    old = create_snapshot(*keeper);
  }
  testing::must(loop, [&](auto done) { js.delete_stream("p_a_wal", done); });
  SetUp();
  db.exec("DELETE FROM t; INSERT INTO t(v) VALUES('new')");
  Lead lead(*this, "p.db", 2);
  auto keeper = keep(lead, keeper_options());
  const StoredFile now = create_snapshot(*keeper);
  ASSERT_LT(now.max, old.max);
  ASSERT_NE(now.end.history, old.end.history);
  EXPECT_EQ(list().files.size(), 2U);
  restore("newest.db");
  EXPECT_EQ(rows("newest.db"), 1) << "the newest is of the present stream";
  const auto by_txid = restore("txid.db", {.txid = old.max});
  EXPECT_TRUE(by_txid.stream_gone);
  EXPECT_EQ(rows("txid.db"), 30);
  EXPECT_FALSE(restore("own.db", {.txid = now.max}).stream_gone);
  const auto by_name = blocking([&] {
    return restore_database(*store,
                            {.stream = "p_a_wal", .object = old.name(), .path = path("name.db")});
  });
  EXPECT_EQ(by_name.state.txid, old.max);
  EXPECT_EQ(rows("name.db"), 30);
  EXPECT_EQ(testing::errc_of([&] {
              blocking([&] {
                return restore_database(
                    *store, {.stream = "p_a_wal", .object = "ltx/9/none", .path = path("none.db")});
              });
            }),
            Errc::not_found);
  EXPECT_FALSE(there("none.db"));
}

TEST_F(SnapshotsTest, ABucketThatWasDeletedIsMadeAgain) {
  Handle db = create("p.db");
  Lead lead(*this, "p.db", 1);
  auto keeper = keep(lead, keeper_options());
  create_snapshot(*keeper);
  testing::must(loop, [&](auto done) { js.delete_stream("OBJ_p_a_snapshots", done); });
  EXPECT_FALSE(bootstrap("r.db")) << "there is none";
  EXPECT_EQ(restore("s.db").state.txid, lead.sync()) << "the stream has all of it";
  std::optional<Result<StoredFile>> again;
  // The first try finds out that the bucket is gone.
  for (int i = 0; i < 3 && (!again || !*again); ++i)
    again = nats::await<StoredFile>(loop, kSoon, [&](auto done) { keeper->create(done); });
  ASSERT_TRUE(*again) << again->error().what();
  EXPECT_TRUE(bootstrap("r.db"));
}

TEST_F(SnapshotsTest, AnInterruptedUploadIsNotSeenAndEndsAtOnce) {
  Handle db = create("p.db");
  db.exec(
      "WITH RECURSIVE c(x) AS (SELECT 1 UNION ALL SELECT x+1 FROM c WHERE x<20000) "
      "INSERT INTO t(v) SELECT randomblob(3000) FROM c");
  Lead lead(*this, "p.db", 1);
  auto keeper = keep(lead, keeper_options());
  std::optional<Error> why;
  keeper->create([&](Result<StoredFile> file) {
    if (!file) why = file.error();
  });
  ASSERT_TRUE(loop.run_until([&] { return keeper->status().done > 1'000; }, kSoon));
  keeper.reset();
  ASSERT_TRUE(why);
  EXPECT_EQ(why->errc(), Errc::not_leader);
  EXPECT_TRUE(list().files.empty());
  EXPECT_FALSE(bootstrap("r.db"));
  // Of an upload whose program was killed, chunks stay: of some, as if an hour had passed.
  for (const char* nuid : {"dead", "alive"})
    ASSERT_TRUE(nats::await<nats::PubAck>(loop, kSoon, [&](auto done) {
      js.publish({.subject = "$O.p_a_snapshots.C." + std::string(nuid), .data = "chunk"}, {}, done);
    }));
  EXPECT_EQ(blocking([&] { return store->sweep(std::chrono::hours(1)); }), 0U);
  // The next leader's is complete.
  keeper = keep(lead, keeper_options());
  create_snapshot(*keeper);
  EXPECT_EQ(blocking([&] { return store->sweep(Duration(0)); }), 2U);
  EXPECT_TRUE(bootstrap("r.db")) << "what an object has stays";
}

// Sanitizers keep what is freed.
#ifndef CLUSTER_SANITIZED
std::size_t memory_peak() {
  std::ifstream status("/proc/self/status");
  for (std::string line; std::getline(status, line);)
    if (line.starts_with("VmHWM:")) return std::stoul(line.substr(6)) * 1024;
  return 0;
}
void reset_memory_peak() { std::ofstream("/proc/self/clear_refs") << "5"; }
// The kernel's count is of some pages more or less.
std::size_t grown_since(std::size_t before) {
  const std::size_t now = memory_peak();
  return now > before ? now - before : 0;
}

TEST_F(SnapshotsTest, TakesAndRestoresALargeDatabaseInLittleMemory) {
  Handle db = create("p.db", "PRAGMA page_size=4096");
  db.exec(
      "WITH RECURSIVE c(x) AS (SELECT 1 UNION ALL SELECT x+1 FROM c WHERE x<36000) "
      "INSERT INTO t(v) SELECT randomblob(3500) FROM c");
  Lead lead(*this, "p.db", 1);
  reset_memory_peak();
  const std::size_t before = memory_peak();
  auto keeper = keep(lead, keeper_options());
  const auto file = create_snapshot(*keeper);
  EXPECT_GT(file.size, 120'000'000U) << "about twice of what it may take";
  const std::size_t taking = grown_since(before);
  reset_memory_peak();
  const std::size_t between = memory_peak();
  ASSERT_TRUE(bootstrap("r.db"));
  const std::size_t restoring = grown_since(between);
  EXPECT_LT(taking, 64U << 20);
  EXPECT_LT(restoring, 64U << 20);
  RecordProperty("taking_mb", static_cast<int>(taking >> 20));
  RecordProperty("restoring_mb", static_cast<int>(restoring >> 20));
}
#endif

}  // namespace
}  // namespace cluster::sqlite
