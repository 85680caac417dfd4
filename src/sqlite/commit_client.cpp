#include "sqlite/commit_client.h"

#include <algorithm>
#include <cerrno>
#include <cstdio>
#include <cstring>

#include <poll.h>
#include <sys/socket.h>
#include <sys/stat.h>
#include <unistd.h>

#include "sqlite/commit_place.h"
#include "sqlite/commit_protocol.h"

namespace cluster::sqlite {
namespace {

using std::chrono::milliseconds;

// The node's own limit, with its reason, comes first; this one is for a node that was stopped.
constexpr milliseconds kGrace{250};
constexpr milliseconds kConnectAgain{2};

/// 0 with `result`, or errno.
int try_connect(const std::string& socket, CommitClient::Clock::time_point until,
                UniqueFd& result) {
  commit_protocol::SocketAddress at;
  if (!commit_protocol::make_address(socket, at)) return errno;
  UniqueFd fd(::socket(AF_UNIX, SOCK_STREAM | SOCK_CLOEXEC | SOCK_NONBLOCK, 0));
  if (!fd) return errno;
  // EAGAIN: more connect than the node has accepted yet.
  while (::connect(fd.get(), reinterpret_cast<const sockaddr*>(&at.address), at.size) != 0) {
    if (errno == EINTR) continue;
    if (errno != EAGAIN || CommitClient::Clock::now() >= until) return errno;
    ::poll(nullptr, 0, static_cast<int>(kConnectAgain.count()));
  }
  result = std::move(fd);
  return 0;
}

}  // namespace

bool CommitClient::ready(Clock::time_point until, std::string& why) {
  // A connection is of the process that made it: after fork() two would read each other's answers.
  if (fd_ && process_ != ::getpid()) disconnect();
  if (fd_) {
    // Whether it has ended or the node refuses, without waiting.
    char bytes[commit_protocol::kMostLine];
    const ssize_t got = ::recv(fd_.get(), bytes, sizeof bytes, MSG_DONTWAIT);
    if (got < 0 && (errno == EAGAIN || errno == EINTR)) return true;
    disconnect();
  }
  return connect(until, why);
}

bool CommitClient::connect(Clock::time_point until, std::string& why) {
  in_.clear();
  if (!find(until, why)) return false;
  process_ = ::getpid();
  std::string greeting;
  if (!read_line(until, greeting, why)) {
    disconnect();
    return false;
  }
  if (greeting.rfind(commit_protocol::kGreeting, 0) == 0) return true;
  disconnect();
  why = greeting.rfind("refuse ", 0) == 0
            ? greeting.substr(7)
            : "socket " + socket_ + " speaks another version: \"" + greeting + "\"";
  return false;
}

// Where somebody serves it. What is in the way of a better place is said, when it is nowhere.
bool CommitClient::find(Clock::time_point until, std::string& why) {
  const std::string name = commit_socket_name(database_);
  if (name.empty()) {
    why = "folder of database " + database_ + ": " + std::strerror(errno);
    return false;
  }
  why.clear();
  std::string first;
  for (const auto& folder : commit_folders_of_program(database_)) {
    socket_ = folder.path + "/" + name;
    if (first.empty()) first = socket_;
    struct stat found{};
    if (folder.checked && ::lstat(folder.path.c_str(), &found) != 0) continue;
    if (folder.checked && !is_safe(folder, found)) {
      if (::lstat(socket_.c_str(), &found) == 0 && why.empty())
        why = "socket " + socket_ +
              " is not believed: its folder must belong to root, to this "
              "program's user or to the database's owner, and nobody else may write there";
      continue;
    }
    const int code = try_connect(socket_, until, fd_);
    if (code == 0) return true;
    if (code != ENOENT && code != ECONNREFUSED && why.empty())
      why = "socket " + socket_ + ": " + std::strerror(code);
  }
  if (why.empty())
    why = "this node does not lead the database: nobody serves " + first + ", nor where else it " +
          "could be";
  return false;
}

bool CommitClient::sync(milliseconds limit, Stored& stored, std::string& why, bool was_ready) {
  const auto until = Clock::now() + limit + kGrace;
  const std::string id = std::to_string(++last_request_);
  const std::string asking = "sync " + id + " " + std::to_string(limit.count()) + "\n";
  bool asked = was_ready && fd_ && write_line(asking, why);
  if (!asked) {
    if (was_ready) disconnect();
    asked = ready(until, why) && write_line(asking, why);
  }
  if (!asked) {
    disconnect();
    return false;
  }
  const std::string failed = "error " + id + " ";
  std::string refused;
  while (true) {
    std::string line;
    if (!read_line(until, line, why)) {
      if (!refused.empty()) why = refused;
      disconnect();
      return false;
    }
    // What was asked before is answered still.
    if (line.rfind("refuse ", 0) == 0) {
      refused = line.substr(7);
      continue;
    }
    if (line.rfind(failed, 0) == 0) {
      why = line.substr(failed.size());
      return false;
    }
    unsigned long long request = 0, epoch = 0, txid = 0, sequence = 0;
    if (std::sscanf(line.c_str(), "ok %llu %llu %llu %llu", &request, &epoch, &txid, &sequence) !=
            4 ||
        request != last_request_) {
      why = "the node's answer is not understood: \"" + line + "\"";
      disconnect();
      return false;
    }
    stored = {epoch, txid, sequence};
    return true;
  }
}

bool CommitClient::take_line(std::string& line) {
  const auto end = in_.find('\n');
  if (end == std::string::npos) return false;
  line = in_.substr(0, end);
  in_.erase(0, end + 1);
  return true;
}

bool CommitClient::read_line(Clock::time_point until, std::string& line, std::string& why) {
  while (!take_line(line)) {
    if (!wait(POLLIN, until)) {
      why = "the node does not answer";
      return false;
    }
    char bytes[commit_protocol::kMostLine];
    const ssize_t got = ::recv(fd_.get(), bytes, sizeof bytes, 0);
    if (got > 0) {
      in_.append(bytes, static_cast<std::size_t>(got));
      if (in_.size() <= 4 * commit_protocol::kMostLine) continue;
      why = "the node's answer is too long";
      return false;
    }
    if (got < 0 && (errno == EINTR || errno == EAGAIN)) continue;
    why = "the node has closed the connection: it does not lead the database any more";
    return false;
  }
  return true;
}

// A request is smaller than any socket's buffer, and one is under way at a time.
bool CommitClient::write_line(const std::string& line, std::string& why) {
  const ssize_t put = ::send(fd_.get(), line.data(), line.size(), MSG_NOSIGNAL);
  if (put == static_cast<ssize_t>(line.size())) return true;
  why = "the node has closed the connection: it does not lead the database any more";
  return false;
}

bool CommitClient::wait(short events, Clock::time_point until) const {
  while (true) {
    const auto left = std::chrono::ceil<milliseconds>(until - Clock::now()).count();
    // What has come counts even when this thread was too late to take it.
    pollfd on{fd_.get(), events, 0};
    if (::poll(&on, 1, static_cast<int>(std::clamp<long long>(left, 0, 60'000))) > 0) return true;
    if (left <= 0) return false;
  }
}

void CommitClient::disconnect() {
  fd_.reset();
  in_.clear();
}

}  // namespace cluster::sqlite
