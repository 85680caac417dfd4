#include "sqlite/commit_service.h"

#include <algorithm>
#include <cerrno>
#include <charconv>
#include <utility>

#include <sys/epoll.h>
#include <sys/socket.h>

#include "core/log.h"
#include "sqlite/commit_protocol.h"

namespace cluster::sqlite {
namespace {

using std::chrono::milliseconds;

constexpr std::size_t kMostClients = 1024;
constexpr int kMostWaiting = 4;  // requests of one client
constexpr std::size_t kMostOut = 16 * 1024;
constexpr milliseconds kLongestWait = std::chrono::hours(24);
constexpr Duration kLookAgain = std::chrono::seconds(1);  // where it can't be made
constexpr Duration kSlowLook = std::chrono::seconds(2);   // a disk that hangs holds up no promotion
constexpr Duration kAcceptAgain = milliseconds(100);

/// Numbers between blanks; false when there is anything else.
template <typename... Numbers>
bool parse(const std::string& text, Numbers&... numbers) {
  const char* at = text.data();
  const char* const end = at + text.size();
  const auto one = [&](auto& number) {
    if (at != end && *at == ' ') ++at;
    const auto read = std::from_chars(at, end, number);
    if (read.ec != std::errc()) return false;
    at = read.ptr;
    return true;
  };
  return (one(numbers) && ...) && at == end;
}

std::string one_line(std::string text) {
  std::replace(text.begin(), text.end(), '\n', ' ');
  return text.substr(0, commit_protocol::kMostLine / 2);
}

}  // namespace

struct CommitService::Looked {
  std::shared_ptr<CommitSocket> socket{};
  bool made = false;
  std::string failure{};
};

CommitService::CommitService(Loop& loop, std::shared_ptr<Strand> files, Options options, Sync sync,
                             std::function<void()> opened)
    : loop_(loop),
      files_(std::move(files)),
      options_(std::move(options)),
      sync_(std::move(sync)),
      opened_(std::move(opened)) {
  look();
}

CommitService::~CommitService() {
  *alive_ = false;
  close_door();
}

// ---- the socket

// Makes the socket, or finds that the one that was made is still there.
void CommitService::look() {
  if (!slow_look_) slow_look_ = loop_.after(kSlowLook, [this] { look_is_slow(); });
  auto task = [this, alive = alive_, &loop = loop_, files = files_, path = options_.path,
               socket = std::move(socket_)]() mutable {
    Looked found;
    try {
      // What holds a lock must have gone before it is made again.
      if (socket && !socket->in_place()) socket.reset();
      found.made = !socket;
      if (!socket) socket = std::make_shared<CommitSocket>(path);
      found.socket = std::move(socket);
    } catch (const std::exception& error) {
      socket.reset();
      found.failure = error.what();
    }
    loop.post([this, alive, files, found]() mutable {
      if (*alive) return looked(std::move(found));
      auto* strand = files.get();
      strand->post([socket = std::move(found.socket), files = std::move(files)] {});
    });
  };
  if (files_->post(std::move(task))) return;
  report("there is no thread to make its socket with");
  next_look_ = loop_.after(kLookAgain, [this] { look(); });
}

void CommitService::look_is_slow() {
  report("the folder of its socket does not answer");
  if (auto opened = std::exchange(opened_, nullptr)) opened();
}

void CommitService::looked(Looked found) {
  slow_look_.reset();
  if (refusing_) return drop(std::move(found.socket));
  socket_ = std::move(found.socket);
  report(found.failure);
  if (!socket_) {
    listening_.reset();
    listener_.reset();
  } else if (found.made) {
    listener_ = socket_->take_listener();
    listen();
  }
  folder_ = socket_ ? socket_->folder() : "";
  path_ = socket_ ? socket_->path() : "";
  next_look_ = loop_.after(socket_ ? options_.look_interval : kLookAgain, [this] { look(); });
  // It may destroy this object.
  if (auto opened = std::exchange(opened_, nullptr)) opened();
}

void CommitService::report(const std::string& why) {
  if (!why.empty() && trouble_.find(why) == std::string::npos)
    log::error("commit_socket", {{"path", options_.path}, {"epoch", options_.epoch}, {"why", why}});
  trouble_ = why.empty() ? "" : "commits that wait for JetStream are refused: " + why;
}

void CommitService::listen() {
  listening_ = loop_.on_fd(listener_.get(), EPOLLIN, [this](unsigned) { accept(); });
}

// Removing a file may block.
void CommitService::drop(std::shared_ptr<CommitSocket> socket) {
  if (socket) files_->post([socket = std::move(socket)] {});
}

void CommitService::close_door() {
  next_look_.reset();
  slow_look_.reset();
  accept_again_.reset();
  listening_.reset();
  listener_.reset();
  folder_.clear();
  path_.clear();
  drop(std::move(socket_));
}

void CommitService::accept() {
  const int fd = ::accept4(listener_.get(), nullptr, nullptr, SOCK_CLOEXEC | SOCK_NONBLOCK);
  if (fd < 0) {
    if (errno == EAGAIN || errno == EINTR || errno == ECONNABORTED) return;
    // No descriptor is left, say: it would be called again at once.
    log::error("commit_accept", {{"path", options_.path}, {"why", std::strerror(errno)}});
    listening_.reset();
    accept_again_ = loop_.after(kAcceptAgain, [this] {
      if (listener_) listen();
    });
    return;
  }
  Client client;
  client.fd.reset(fd);
  if (clients_.size() >= kMostClients) {
    write(client, "refuse " + std::to_string(kMostClients) + " programs are connected already\n");
    return;
  }
  const ClientId id = ++last_client_;
  if (!write(client, commit_protocol::kGreeting + std::to_string(options_.epoch) + "\n")) return;
  auto& added = clients_.emplace(id, std::move(client)).first->second;
  watch(id, added);
}

void CommitService::refuse(const std::string& why) {
  if (std::exchange(refusing_, true)) return;
  close_door();
  trouble_.clear();
  const std::string line = "refuse " + one_line(why) + "\n";
  for (auto it = clients_.begin(); it != clients_.end();) {
    Client& client = it->second;
    client.closing = true;
    const bool keep = write(client, line) && (client.waiting > 0 || !client.out.empty());
    if (keep) watch(it->first, client);
    it = keep ? std::next(it) : clients_.erase(it);
  }
}

// ---- its clients

int CommitService::waiting() const noexcept {
  int all = 0;
  for (const auto& [id, client] : clients_) all += client.waiting;
  return all;
}

void CommitService::watch(ClientId id, Client& client) {
  const unsigned events = EPOLLIN | (client.out.empty() ? 0U : static_cast<unsigned>(EPOLLOUT));
  client.source.reset();
  client.source =
      loop_.on_fd(client.fd.get(), events, [this, id](unsigned ready) { serve(id, ready); });
}

void CommitService::serve(ClientId id, unsigned events) {
  const auto it = clients_.find(id);
  if (it == clients_.end()) return;
  Client& client = it->second;
  bool keep = true;
  if ((events & EPOLLOUT) != 0) {
    keep = write(client, "");
    if (keep && client.out.empty()) {
      if (client.closing && client.waiting == 0) keep = false;
      if (keep) watch(id, client);
    }
  }
  if (keep && (events & ~static_cast<unsigned>(EPOLLOUT)) != 0) {
    keep = read(id, client);
    // An answer may have come at once, and been the last one.
    if (!clients_.contains(id)) return;
  }
  if (!keep) clients_.erase(id);
}

// False when the client is to go.
bool CommitService::read(ClientId id, Client& client) {
  char bytes[commit_protocol::kMostLine];
  const ssize_t got = ::recv(client.fd.get(), bytes, sizeof bytes, 0);
  if (got < 0) return errno == EAGAIN || errno == EINTR;
  if (got == 0) return false;
  client.in.append(bytes, static_cast<std::size_t>(got));
  for (std::size_t end = 0; (end = client.in.find('\n')) != std::string::npos;) {
    const std::string line = client.in.substr(0, end);
    client.in.erase(0, end + 1);
    if (!ask(id, client, line)) return false;
    if (!clients_.contains(id)) return true;
  }
  return client.in.size() < commit_protocol::kMostLine;
}

// False when this is no request, or one too many.
bool CommitService::ask(ClientId id, Client& client, const std::string& line) {
  std::uint64_t request = 0;
  std::int64_t limit_ms = 0;
  if (line.rfind("sync ", 0) != 0 || !parse(line.substr(5), request, limit_ms) || limit_ms < 0 ||
      client.waiting >= kMostWaiting)
    return false;
  ++client.waiting;
  const Duration limit = std::min(milliseconds(limit_ms), kLongestWait);
  sync_(limit, [this, alive = alive_, id, request](const Result<Stored>& stored) {
    if (!*alive) return;
    const std::string number = std::to_string(request);
    if (!stored)
      return answer(id, "error " + number + " " + one_line(stored.error().what()) + "\n");
    const auto& at = stored.value();
    answer(id, "ok " + number + " " + std::to_string(at.epoch) + " " + std::to_string(at.txid) +
                   " " + std::to_string(at.sequence) + "\n");
  });
  return true;
}

void CommitService::answer(ClientId id, const std::string& line) {
  const auto it = clients_.find(id);
  if (it == clients_.end()) return;
  Client& client = it->second;
  --client.waiting;
  const bool empty = client.out.empty();
  if (!write(client, line) || (client.closing && client.waiting == 0 && client.out.empty())) {
    clients_.erase(it);
    return;
  }
  if (empty && !client.out.empty()) watch(id, client);
}

// False when the client has gone, or takes too little.
bool CommitService::write(Client& client, const std::string& line) {
  client.out += line;
  while (!client.out.empty()) {
    const ssize_t put = ::send(client.fd.get(), client.out.data(), client.out.size(), MSG_NOSIGNAL);
    if (put < 0 && errno == EINTR) continue;
    if (put < 0 && errno != EAGAIN) return false;
    if (put < 0) break;
    client.out.erase(0, static_cast<std::size_t>(put));
  }
  return client.out.size() <= kMostOut;
}

}  // namespace cluster::sqlite
