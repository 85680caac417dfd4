// A program that uses a database as any other does, and knows nothing of replication: it writes as
// fast as it is told to, or notes what it sees. Started by cluster_bench, never by hand.
//   bench_sql write PATH CORE SECONDS RATE ROWS OUT    transactions of ROWS rows; RATE 0: no pause
//   bench_sql commit PATH EXTENSION SECONDS COMMITTERS OUT    rows of many connections, of a thread
//   each bench_sql read PATH OUT                            until SIGTERM
// OUT gets a line for each commit or each sight: the last row's number, CLOCK_BOOTTIME in ns. Of
// "commit" a line has what COMMIT took in ns, and when it returned; EXTENSION - : none.
#include <cerrno>
#include <csignal>
#include <cstdint>
#include <cstdio>
#include <cstdlib>
#include <cstring>
#include <ctime>
#include <stdexcept>
#include <string>
#include <thread>
#include <vector>

#include <poll.h>
#include <sched.h>
#include <sqlite3.h>
#include <sys/inotify.h>
#include <sys/prctl.h>
#include <unistd.h>

namespace {

constexpr int kRowBytes = 100;
// The WAL is written before the wal-index counts it: so long it is looked at after a write.
constexpr std::int64_t kLookNs = 2'000'000;
constexpr useconds_t kLookPauseUs = 20;
constexpr useconds_t kBusyPauseUs = 200;
constexpr int kMostBusyLooks = 50'000;

struct Line {
  std::int64_t row = 0;
  std::int64_t ns = 0;
};

std::int64_t now_ns() {
  timespec now{};
  clock_gettime(CLOCK_BOOTTIME, &now);
  return std::int64_t{now.tv_sec} * 1'000'000'000 + now.tv_nsec;
}

void sleep_until(std::int64_t ns) {
  const timespec until{ns / 1'000'000'000, static_cast<long>(ns % 1'000'000'000)};
  while (clock_nanosleep(CLOCK_BOOTTIME, TIMER_ABSTIME, &until, nullptr) == EINTR) {
  }
}

class Database {
 public:
  explicit Database(const std::string& path) {
    check(sqlite3_open(path.c_str(), &db_), "open");
    check(sqlite3_busy_timeout(db_, 10'000), "busy_timeout");
  }
  /// For a lock. What sqlite3_busy_timeout() does is too slow for many writers: 1 ms, then more.
  void look_often() {
    check(sqlite3_busy_handler(
              db_,
              [](void*, int looks) {
                usleep(kBusyPauseUs);
                return looks < kMostBusyLooks ? 1 : 0;
              },
              nullptr),
          "busy_handler");
  }
  void load(const std::string& extension) {
    check(sqlite3_db_config(db_, SQLITE_DBCONFIG_ENABLE_LOAD_EXTENSION, 1, nullptr), "extensions");
    check(sqlite3_load_extension(db_, extension.c_str(), nullptr, nullptr), "the extension");
  }
  ~Database() { sqlite3_close(db_); }
  Database(const Database&) = delete;
  Database& operator=(const Database&) = delete;

  sqlite3* get() const { return db_; }
  void check(int rc, const char* what) const {
    if (rc != SQLITE_OK && rc != SQLITE_ROW && rc != SQLITE_DONE)
      throw std::runtime_error(std::string(what) + ": " + sqlite3_errmsg(db_));
  }
  void exec(const char* sql) { check(sqlite3_exec(db_, sql, nullptr, nullptr, nullptr), sql); }
  sqlite3_stmt* prepare(const char* sql) {
    sqlite3_stmt* statement = nullptr;
    check(sqlite3_prepare_v2(db_, sql, -1, &statement, nullptr), sql);
    return statement;
  }
  std::int64_t number(sqlite3_stmt* statement) {
    check(sqlite3_step(statement), "step");
    const std::int64_t found = sqlite3_column_int64(statement, 0);
    check(sqlite3_reset(statement), "reset");
    return found;
  }
  std::string text(const char* sql) {
    sqlite3_stmt* statement = prepare(sql);
    std::string found;
    if (sqlite3_step(statement) == SQLITE_ROW)
      if (const auto* text = sqlite3_column_text(statement, 0))
        found = reinterpret_cast<const char*>(text);
    sqlite3_finalize(statement);
    return found;
  }

 private:
  sqlite3* db_ = nullptr;
};

void write_out(const std::string& path, const std::vector<Line>& lines) {
  std::FILE* out = std::fopen(path.c_str(), "we");
  if (out == nullptr) throw std::runtime_error(path + ": " + std::strerror(errno));
  for (const auto& line : lines)
    std::fprintf(out, "%lld %lld\n", static_cast<long long>(line.row),
                 static_cast<long long>(line.ns));
  if (std::fclose(out) != 0) throw std::runtime_error(path + ": " + std::strerror(errno));
}

// Half of it never repeats, half always does: a compressor makes it about half as long.
void fill(char* text, std::uint64_t& state) {
  std::memset(text, '-', kRowBytes);
  for (int i = 0; i < kRowBytes / 2; ++i) {
    state = state * 6364136223846793005ULL + 1442695040888963407ULL;
    text[i] = "0123456789abcdef"[state >> 60];
  }
}

constexpr int kAutoCheckpoint = 1'000;  // frames, SQLite's default

// When a transaction was in the WAL: COMMIT may go on to checkpoint, as SQLite has it by default.
int note_commit(void* time, sqlite3* db, const char* name, int frames) {
  *static_cast<std::int64_t*>(time) = now_ns();
  if (frames >= kAutoCheckpoint) sqlite3_wal_checkpoint(db, name);
  return SQLITE_OK;
}

int run_writer(char** arguments) {
  Database db(arguments[0]);
  const int core = std::atoi(arguments[1]);
  const double seconds = std::atof(arguments[2]);
  const double rate = std::atof(arguments[3]);
  const int rows = std::atoi(arguments[4]);
  if (core >= 0) {
    cpu_set_t cores;
    CPU_ZERO(&cores);
    CPU_SET(core, &cores);
    if (sched_setaffinity(0, sizeof cores, &cores) != 0)
      throw std::runtime_error(std::string("sched_setaffinity: ") + std::strerror(errno));
  }
  db.exec("PRAGMA journal_mode=WAL");
  db.exec("PRAGMA synchronous=NORMAL");
  db.exec("CREATE TABLE IF NOT EXISTS rows(id INTEGER PRIMARY KEY, text TEXT)");
  auto* begin = db.prepare("BEGIN IMMEDIATE");
  auto* commit = db.prepare("COMMIT");
  auto* insert = db.prepare("INSERT INTO rows(id, text) VALUES(?, ?)");
  auto* last = db.prepare("SELECT max(id) FROM rows");
  std::int64_t row = db.number(last);
  std::int64_t committed = 0;
  sqlite3_wal_hook(db.get(), note_commit, &committed);
  std::vector<Line> lines;
  lines.reserve(4'000'000);
  std::uint64_t random = static_cast<std::uint64_t>(row) + 1;
  char text[kRowBytes];
  const std::int64_t start = now_ns();
  lines.push_back({row, start});
  const auto end = start + static_cast<std::int64_t>(seconds * 1e9);
  for (std::int64_t i = 1; now_ns() < end; ++i) {
    if (rate > 0)
      sleep_until(start + static_cast<std::int64_t>(static_cast<double>(i) * 1e9 / rate));
    db.check(sqlite3_step(begin), "BEGIN");
    db.check(sqlite3_reset(begin), "BEGIN");
    for (int r = 0; r < rows; ++r) {
      fill(text, random);
      sqlite3_bind_int64(insert, 1, ++row);
      sqlite3_bind_text(insert, 2, text, kRowBytes, SQLITE_STATIC);
      db.check(sqlite3_step(insert), "INSERT");
      db.check(sqlite3_reset(insert), "INSERT");
    }
    db.check(sqlite3_step(commit), "COMMIT");
    db.check(sqlite3_reset(commit), "COMMIT");
    lines.push_back({row, committed});
  }
  for (auto* statement : {begin, commit, insert, last}) sqlite3_finalize(statement);
  write_out(arguments[5], lines);
  return 0;
}

// Each commits one row after the other.
std::vector<Line> commit_rows(const std::string& path, const std::string& extension,
                              std::uint64_t who, std::int64_t end) {
  Database db(path);
  db.exec("PRAGMA synchronous=NORMAL");
  if (extension != "-") db.load(extension);
  db.look_often();
  auto* begin = db.prepare("BEGIN IMMEDIATE");
  auto* commit = db.prepare("COMMIT");
  auto* insert = db.prepare("INSERT INTO rows(text) VALUES(?)");
  std::vector<Line> lines;
  lines.reserve(1'000'000);
  std::uint64_t random = who;
  char text[kRowBytes];
  while (now_ns() < end) {
    db.check(sqlite3_step(begin), "BEGIN");
    db.check(sqlite3_reset(begin), "BEGIN");
    fill(text, random);
    sqlite3_bind_text(insert, 1, text, kRowBytes, SQLITE_STATIC);
    db.check(sqlite3_step(insert), "INSERT");
    db.check(sqlite3_reset(insert), "INSERT");
    const std::int64_t before = now_ns();
    if (sqlite3_step(commit) != SQLITE_DONE)
      throw std::runtime_error("COMMIT: " + db.text("SELECT cluster_commit_error()"));
    const std::int64_t after = now_ns();
    db.check(sqlite3_reset(commit), "COMMIT");
    lines.push_back({after - before, after});
  }
  for (auto* statement : {begin, commit, insert}) sqlite3_finalize(statement);
  return lines;
}

int run_committers(char** arguments) {
  const std::string path = arguments[0], extension = arguments[1];
  const auto committers = static_cast<std::size_t>(std::atoi(arguments[3]));
  {
    Database db(path);
    db.exec("PRAGMA journal_mode=WAL");
    db.exec("CREATE TABLE IF NOT EXISTS rows(id INTEGER PRIMARY KEY, text TEXT)");
  }
  const std::int64_t end = now_ns() + static_cast<std::int64_t>(std::atof(arguments[2]) * 1e9);
  std::vector<std::vector<Line>> lines(committers);
  std::vector<std::string> failures(committers);
  std::vector<std::thread> threads;
  for (std::size_t i = 0; i < committers; ++i)
    threads.emplace_back([&, i] {
      try {
        lines[i] = commit_rows(path, extension, i + 1, end);
      } catch (const std::exception& error) {
        failures[i] = error.what();
      }
    });
  for (auto& thread : threads) thread.join();
  std::vector<Line> all;
  for (std::size_t i = 0; i < committers; ++i) {
    if (!failures[i].empty()) throw std::runtime_error(failures[i]);
    all.insert(all.end(), lines[i].begin(), lines[i].end());
  }
  write_out(arguments[4], all);
  return 0;
}

volatile std::sig_atomic_t stopped = 0;

int run_reader(char** arguments) {
  const std::string path = arguments[0];
  Database db(path);
  // Not in the middle of a wait that a signal would end: SIGTERM comes in poll() alone.
  struct sigaction action{};
  action.sa_handler = [](int) { stopped = 1; };
  sigaction(SIGTERM, &action, nullptr);
  prctl(PR_SET_TIMERSLACK, 1);
  const int events = inotify_init1(IN_NONBLOCK | IN_CLOEXEC);
  if (events < 0 || inotify_add_watch(events, (path + "-wal").c_str(), IN_MODIFY) < 0)
    throw std::runtime_error("inotify: " + path + "-wal: " + std::strerror(errno));
  auto* last = db.prepare("SELECT max(id) FROM rows");
  std::vector<Line> lines;
  lines.reserve(1'000'000);
  std::int64_t seen = db.number(last);
  lines.push_back({seen, now_ns()});
  char buffer[4096];
  while (stopped == 0) {
    pollfd wait{events, POLLIN, 0};
    if (poll(&wait, 1, 100) > 0)
      while (::read(events, buffer, sizeof buffer) > 0) {
      }
    const std::int64_t until = now_ns() + kLookNs;
    do {
      const std::int64_t found = db.number(last);
      const std::int64_t now = now_ns();
      if (found > seen) {
        lines.push_back({found, now});
        seen = found;
        break;
      }
      usleep(kLookPauseUs);
    } while (stopped == 0 && now_ns() < until);
  }
  sqlite3_finalize(last);
  close(events);
  write_out(arguments[1], lines);
  return 0;
}

}  // namespace

int main(int argc, char** argv) {
  try {
    if (argc == 8 && std::strcmp(argv[1], "write") == 0) return run_writer(argv + 2);
    if (argc == 7 && std::strcmp(argv[1], "commit") == 0) return run_committers(argv + 2);
    if (argc == 4 && std::strcmp(argv[1], "read") == 0) return run_reader(argv + 2);
    std::fprintf(stderr,
                 "usage: bench_sql write PATH CORE SECONDS RATE ROWS OUT | commit PATH EXTENSION "
                 "SECONDS COMMITTERS OUT | read PATH OUT\n");
    return 2;
  } catch (const std::exception& error) {
    std::fprintf(stderr, "%s\n", error.what());
    return 1;
  }
}
