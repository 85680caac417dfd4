// notes: a small HTTP service that knows nothing of cpp-cluster; cluster.yaml beside it makes it
// highly available. Its state is in memory, so each leader begins with an empty list.
//
//   POST /notes {"text": "…"}   201 {"id": 1, "text": "…", "node": "node-1", "epoch": 1}
//   GET  /notes                 200 {"notes": […], "node": …, "epoch": …}
//   GET  /notes/1               200, or 404
//   GET  /healthz               200 once it serves

#include <atomic>
#include <chrono>
#include <csignal>
#include <cstdint>
#include <cstdlib>
#include <iostream>
#include <mutex>
#include <optional>
#include <string>
#include <string_view>
#include <thread>
#include <vector>

#include <httplib.h>
#include <nlohmann/json.hpp>

using namespace std::chrono_literals;
using nlohmann::json;

namespace {

constexpr std::size_t kMaxNotes = 1'000'000;
constexpr std::size_t kMaxTextBytes = 64 * 1024;

// The texts of the notes; a note's id is its place, counted from 1.
class Notes {
 public:
  std::optional<std::size_t> add(std::string text) {
    const std::lock_guard lock(mutex_);
    if (texts_.size() == kMaxNotes) return std::nullopt;
    texts_.push_back(std::move(text));
    return texts_.size();
  }

  std::optional<std::string> find(std::size_t id) const {
    const std::lock_guard lock(mutex_);
    if (id < 1 || id > texts_.size()) return std::nullopt;
    return texts_[id - 1];
  }

  std::vector<std::string> all() const {
    const std::lock_guard lock(mutex_);
    return texts_;
  }

 private:
  mutable std::mutex mutex_;
  std::vector<std::string> texts_;
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
  const auto id = notes.add(text);
  if (!id) return answer(response, 507, {{"error", "there are too many notes"}});
  answer(response, 201, {{"id", *id}, {"text", text}});
}

void get_note(const Notes& notes, const httplib::Request& request, httplib::Response& response) {
  const std::string digits = request.matches[1];
  const std::size_t id = digits.size() < 10 ? std::stoul(digits) : 0;
  const auto text = notes.find(id);
  if (!text) return answer(response, 404, {{"error", "there is no note " + digits}});
  answer(response, 200, {{"id", id}, {"text", *text}});
}

void get_notes(const Notes& notes, httplib::Response& response) {
  json list = json::array();
  std::size_t id = 0;
  for (auto& text : notes.all()) list.push_back({{"id", ++id}, {"text", std::move(text)}});
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
  out << "usage: notes [--host 127.0.0.1] [--port 9000]\n";
  return status;
}

}  // namespace

int main(int argc, char** argv) {
  std::string host = "127.0.0.1";
  int port = 9000;
  for (int i = 1; i < argc; ++i) {
    const std::string_view flag = argv[i];
    if (flag == "--help") return usage(std::cout, 0);
    if (i + 1 == argc) return usage(std::cerr, 2);
    if (flag == "--host")
      host = argv[++i];
    else if (flag == "--port")
      port = std::atoi(argv[++i]);
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

  Notes notes;
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
              [&](const auto& request, auto& response) { post_note(notes, request, response); });
  server.Get("/notes", [&](const auto&, auto& response) { get_notes(notes, response); });
  server.Get(R"(/notes/(\d+))",
             [&](const auto& request, auto& response) { get_note(notes, request, response); });
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
