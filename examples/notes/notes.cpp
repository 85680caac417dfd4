// notes: a small HTTP service that keeps its notes in SQLite. It needs nothing of cpp-cluster's
// library; cluster.yaml beside it makes it highly available, with its database.
//
//   POST /notes {"text": "…"}   201 {"id": 1, "text": "…", "node": "node-1", "epoch": 1}
//   GET  /notes                 200 {"notes": […], "node": …, "epoch": …}
//   GET  /notes/1               200, or 404
//   GET  /healthz               200 once it serves
//
// With --extension (cpp_cluster_sqlite) a 201 means that JetStream has the note: whatever dies
// then, it is kept. 503: it is not stored, try again. 504: it is here, and may or may not be kept.

#include <atomic>
#include <chrono>
#include <csignal>
#include <cstdint>
#include <cstdlib>
#include <iostream>
#include <mutex>
#include <optional>
#include <stdexcept>
#include <string>
#include <string_view>
#include <thread>
#include <vector>

#include <httplib.h>
#include <sqlite3.h>
#include <nlohmann/json.hpp>

using namespace std::chrono_literals;
using nlohmann::json;

namespace {

constexpr std::size_t kMaxTextBytes = 64 * 1024;
constexpr int kMaxListed = 100'000;
constexpr int kBusyMs = 5'000;
// What the extension answers a COMMIT with that JetStream has not acknowledged
// (docs/replication.md).
constexpr int kNotAcknowledged = 52252;

struct DatabaseError : std::runtime_error {
  DatabaseError(int c, const std::string& what) : std::runtime_error(what), code(c) {}
  int code;  // SQLite's
};

struct Note {
  std::int64_t id = 0;
  std::string text{};
};

class Statement {
 public:
  Statement(sqlite3* db, const char* sql) : db_(db) {
    if (const int code = sqlite3_prepare_v2(db, sql, -1, &handle_, nullptr); code != SQLITE_OK)
      throw DatabaseError(code, std::string(sql) + ": " + sqlite3_errmsg(db));
  }
  ~Statement() { sqlite3_finalize(handle_); }
  Statement(const Statement&) = delete;
  Statement& operator=(const Statement&) = delete;

  Statement& bind(int at, const std::string& text) {
    sqlite3_bind_text(handle_, at, text.data(), static_cast<int>(text.size()), SQLITE_TRANSIENT);
    return *this;
  }
  Statement& bind(int at, std::int64_t number) {
    sqlite3_bind_int64(handle_, at, number);
    return *this;
  }
  /// Whether there is a row.
  bool step() {
    const int code = sqlite3_step(handle_);
    if (code == SQLITE_ROW) return true;
    if (code == SQLITE_DONE) return false;
    throw DatabaseError(sqlite3_extended_errcode(db_), sqlite3_errmsg(db_));
  }
  std::string text(int column) const {
    const auto* found = sqlite3_column_text(handle_, column);
    return found == nullptr ? "" : reinterpret_cast<const char*>(found);
  }
  std::int64_t number(int column) const { return sqlite3_column_int64(handle_, column); }

 private:
  sqlite3* db_;
  sqlite3_stmt* handle_ = nullptr;
};

// The notes in their database. One connection, used by one thread at a time.
class Notes {
 public:
  Notes(const std::string& path, const std::string& extension) {
    const int code = sqlite3_open(path.c_str(), &db_);
    try {
      if (code != SQLITE_OK) throw DatabaseError(code, path + ": " + sqlite3_errmsg(db_));
      sqlite3_busy_timeout(db_, kBusyMs);
      run("PRAGMA journal_mode=WAL");
      // A commit is safe once JetStream has it: this disk need not sync it, too.
      run(extension.empty() ? "PRAGMA synchronous=FULL" : "PRAGMA synchronous=NORMAL");
      if (!extension.empty()) load(extension);
      run("CREATE TABLE IF NOT EXISTS notes(id INTEGER PRIMARY KEY, text TEXT NOT NULL)");
    } catch (...) {
      sqlite3_close(db_);
      throw;
    }
  }
  ~Notes() { sqlite3_close(db_); }
  Notes(const Notes&) = delete;
  Notes& operator=(const Notes&) = delete;

  std::int64_t add(const std::string& text) {
    const std::lock_guard lock(mutex_);
    try {
      Statement(db_, "INSERT INTO notes(text) VALUES(?)").bind(1, text).step();
    } catch (const DatabaseError& error) {
      if (error.code == kNotAcknowledged || error.code == SQLITE_CONSTRAINT_COMMITHOOK)
        throw DatabaseError(error.code, commit_error());
      throw;
    }
    return sqlite3_last_insert_rowid(db_);
  }

  std::optional<std::string> find(std::int64_t id) {
    const std::lock_guard lock(mutex_);
    Statement statement(db_, "SELECT text FROM notes WHERE id = ?");
    if (!statement.bind(1, id).step()) return std::nullopt;
    return statement.text(0);
  }

  /// Those with higher ids than `after`, so many at most.
  std::vector<Note> list(std::int64_t after, int most) {
    const std::lock_guard lock(mutex_);
    std::vector<Note> notes;
    Statement statement(db_, "SELECT id, text FROM notes WHERE id > ? ORDER BY id LIMIT ?");
    statement.bind(1, after).bind(2, std::int64_t{most});
    while (statement.step()) notes.push_back({statement.number(0), statement.text(1)});
    return notes;
  }

 private:
  void run(const char* sql) {
    Statement statement(db_, sql);
    while (statement.step()) {
    }
  }
  void load(const std::string& extension) {
    sqlite3_db_config(db_, SQLITE_DBCONFIG_ENABLE_LOAD_EXTENSION, 1, nullptr);
    char* why = nullptr;
    const int code = sqlite3_load_extension(db_, extension.c_str(), nullptr, &why);
    const std::string text = why == nullptr ? "" : why;
    sqlite3_free(why);
    if (code != SQLITE_OK) throw DatabaseError(code, extension + ": " + text);
    sqlite3_db_config(db_, SQLITE_DBCONFIG_ENABLE_LOAD_EXTENSION, 0, nullptr);
  }
  std::string commit_error() {
    Statement statement(db_, "SELECT cluster_commit_error()");
    return statement.step() ? statement.text(0) : "";
  }

  std::mutex mutex_;
  sqlite3* db_ = nullptr;
};

// What cpp-cluster tells the programs that it runs: which node leads, and under which epoch.
std::string environment(const char* name, const char* otherwise) {
  const char* value = std::getenv(name);
  return value == nullptr ? otherwise : value;
}

void answer(httplib::Response& response, int status, json body) {
  static const std::string node = environment("CPP_CLUSTER_NODE", "");
  static const std::uint64_t epoch =
      std::strtoull(environment("CPP_CLUSTER_EPOCH", "0").c_str(), nullptr, 10);
  body["node"] = node;
  body["epoch"] = epoch;
  response.status = status;
  response.set_content(body.dump(-1, ' ', false, json::error_handler_t::replace) + "\n",
                       "application/json");
}

void post_note(Notes& notes, const httplib::Request& request, httplib::Response& response) {
  const json body = json::parse(request.body, nullptr, false);
  if (!body.is_object() || !body.contains("text") || !body["text"].is_string())
    return answer(response, 400, {{"error", "the body must be JSON like {\"text\": \"…\"}"}});
  const std::string text = body["text"];
  if (text.size() > kMaxTextBytes)
    return answer(response, 413, {{"error", "a text may have 65536 bytes at most"}});
  try {
    answer(response, 201, {{"id", notes.add(text)}, {"text", text}});
  } catch (const DatabaseError& error) {
    answer(response, error.code == kNotAcknowledged ? 504 : 503, {{"error", error.what()}});
  }
}

void get_note(Notes& notes, const httplib::Request& request, httplib::Response& response) {
  const std::string digits = request.matches[1];
  const std::int64_t id = digits.size() < 18 ? std::stoll(digits) : 0;
  const auto text = notes.find(id);
  if (!text) return answer(response, 404, {{"error", "there is no note " + digits}});
  answer(response, 200, {{"id", id}, {"text", *text}});
}

// ?after=ID: the next ones.
void get_notes(Notes& notes, const httplib::Request& request, httplib::Response& response) {
  const std::string after = request.get_param_value("after");
  json list = json::array();
  for (auto& note : notes.list(std::strtoll(after.c_str(), nullptr, 10), kMaxListed))
    list.push_back({{"id", note.id}, {"text", std::move(note.text)}});
  answer(response, 200, {{"notes", std::move(list)}});
}

// The socket of a predecessor on this machine may take a moment to go away. False: `limit` has
// passed, or one of `signals` has come.
bool bind_within(httplib::Server& server, const std::string& host, int port,
                 std::chrono::milliseconds limit, const sigset_t& signals) {
  const auto until = std::chrono::steady_clock::now() + limit;
  while (!server.bind_to_port(host.c_str(), port)) {
    if (std::chrono::steady_clock::now() > until) {
      std::cerr << "notes: can't listen on " << host << ":" << port << ": the port is taken\n";
      return false;
    }
    const timespec pause{.tv_sec = 0, .tv_nsec = 10'000'000};
    if (sigtimedwait(&signals, nullptr, &pause) > 0) return false;
  }
  return true;
}

int usage(std::ostream& out, int status) {
  out << "usage: notes [--host 127.0.0.1] [--port 9000] [--database FILE] [--extension FILE]\n"
         "The database is $CPP_CLUSTER_DATABASE, when that is set; else it is in memory.\n";
  return status;
}

}  // namespace

int main(int argc, char** argv) {
  std::string host = "127.0.0.1";
  int port = 9000;
  std::string database = environment("CPP_CLUSTER_DATABASE", ":memory:");
  std::string extension;
  for (int i = 1; i < argc; ++i) {
    const std::string_view flag = argv[i];
    if (flag == "--help") return usage(std::cout, 0);
    if (i + 1 == argc) return usage(std::cerr, 2);
    if (flag == "--host")
      host = argv[++i];
    else if (flag == "--port")
      port = std::atoi(argv[++i]);
    else if (flag == "--database")
      database = argv[++i];
    else if (flag == "--extension")
      extension = argv[++i];
    else
      return usage(std::cerr, 2);
  }
  if (port < 1 || port > 65535) return usage(std::cerr, 2);

  // Signals are waited for by one thread; the others never see them.
  sigset_t signals;
  sigemptyset(&signals);
  sigaddset(&signals, SIGTERM);
  sigaddset(&signals, SIGINT);
  pthread_sigmask(SIG_BLOCK, &signals, nullptr);

  std::optional<Notes> notes;
  try {
    notes.emplace(database, extension);
  } catch (const DatabaseError& error) {
    std::cerr << "notes: " << error.what() << "\n";
    return 1;
  }
  httplib::Server server;
  // The library's default, SO_REUSEPORT, would let two programs serve one port side by side.
  server.set_socket_options([](socket_t socket) {
    const int yes = 1;
    setsockopt(socket, SOL_SOCKET, SO_REUSEADDR, &yes, sizeof yes);
  });
  server.set_tcp_nodelay(true);
  server.set_keep_alive_max_count(1'000'000);
  server.set_payload_max_length(8 * kMaxTextBytes);
  server.Post("/notes",
              [&](const auto& request, auto& response) { post_note(*notes, request, response); });
  server.Get("/notes",
             [&](const auto& request, auto& response) { get_notes(*notes, request, response); });
  server.Get(R"(/notes/(\d+))",
             [&](const auto& request, auto& response) { get_note(*notes, request, response); });
  server.Get("/healthz",
             [](const auto&, auto& response) { answer(response, 200, json::object()); });

  if (!bind_within(server, host, port, 5s, signals)) return 1;
  std::cout << "notes: serving on http://" << host << ":" << port << std::endl;

  std::atomic<bool> ended = false;
  std::thread stopper([&] {
    int signal = 0;
    sigwait(&signals, &signal);
    // The library forgets a stop() that comes before it runs.
    while (!server.is_running() && !ended) std::this_thread::sleep_for(1ms);
    server.stop();
  });
  const bool clean = server.listen_after_bind();
  ended = true;
  kill(getpid(), SIGTERM);  // wakes the thread if the server has ended by itself
  stopper.join();
  if (!clean) std::cerr << "notes: serving has ended with an error\n";
  return clean ? 0 : 1;
}
