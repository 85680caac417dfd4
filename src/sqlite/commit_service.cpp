#include "sqlite/commit_service.h"

#include <algorithm>
#include <cerrno>
#include <charconv>
#include <filesystem>
#include <utility>

#include <sys/epoll.h>
#include <sys/stat.h>

#include "core/log.h"
#include "sqlite/commit_protocol.h"
#include "sqlite/file.h"

namespace cluster::sqlite {
namespace {

using std::chrono::milliseconds;

constexpr std::size_t kMostClients = 1024;
constexpr int kMostWaiting = 4;  // requests of one client
constexpr std::size_t kMostOut = 16 * 1024;
constexpr milliseconds kLongestWait = std::chrono::hours(24);
constexpr Duration kOpenAgain = std::chrono::seconds(1);
constexpr Duration kAcceptAgain = milliseconds(100);
constexpr int kBacklog = 512;

Error system_error(const std::string& what, int code) {
  return Error(Errc::system, what + ": " + std::strerror(code));
}

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

/// Whoever may write to the database may connect; before there is one, whoever owns its folder.
void set_access(const std::string& socket, const std::string& database) {
  struct stat like{};
  mode_t mode = 0600;
  if (::stat(database.c_str(), &like) == 0)
    mode = like.st_mode & 0666;
  else if (::stat(std::filesystem::path(database).parent_path().c_str(), &like) != 0)
    throw system_error("folder of " + database, errno);
  struct stat is{};
  if (::stat(socket.c_str(), &is) != 0) throw system_error("socket " + socket, errno);
  if ((is.st_uid != like.st_uid || is.st_gid != like.st_gid) &&
      ::chown(socket.c_str(), like.st_uid, like.st_gid) != 0)
    log::warn("commit_socket_owner",
              {{"socket", socket},
               {"why", std::strerror(errno)},
               {"means", "programs of the user who owns the database may not reach it"}});
  if (::chmod(socket.c_str(), mode) != 0) throw system_error("mode of socket " + socket, errno);
}

bool somebody_listens(const commit_protocol::SocketAddress& at) {
  const UniqueFd probe(::socket(AF_UNIX, SOCK_STREAM | SOCK_CLOEXEC | SOCK_NONBLOCK, 0));
  return ::connect(probe.get(), reinterpret_cast<const sockaddr*>(&at.address), at.size) == 0 ||
         errno == EAGAIN;
}

}  // namespace

std::string commit_socket_of(const std::string& database) {
  return real_path(database) + commit_protocol::kSocketSuffix;
}

CommitService::CommitService(Loop& loop, Options options, Sync sync)
    : loop_(loop),
      options_(std::move(options)),
      sync_(std::move(sync)),
      socket_(commit_socket_of(options_.path)) {
  open();
}

CommitService::~CommitService() {
  *alive_ = false;
  close_door();
}

// ---- the socket

void CommitService::open() {
  try {
    listen();
    trouble_.clear();
  } catch (const Error& error) {
    const std::string why =
        std::string("commits that wait for JetStream are refused: ") + error.what();
    if (trouble_ != why)
      log::error("commit_socket",
                 {{"path", options_.path}, {"epoch", options_.epoch}, {"why", error.what()}});
    trouble_ = why;
    listener_.reset();
    retry_ = loop_.after(kOpenAgain, [this] { open(); });
  }
}

// Made under another name and moved into its place: there is no moment at which it is somebody
// else's, or can be reached by those who may not.
void CommitService::listen() {
  commit_protocol::SocketAddress place, made;
  const std::string temporary = socket_ + ".new";
  if (!commit_protocol::make_address(socket_, place) ||
      !commit_protocol::make_address(temporary, made))
    throw system_error("socket " + socket_, errno);
  if (somebody_listens(place))
    throw Error(Errc::unavailable,
                "socket " + socket_ + ": another process serves this database: is it a node too?");
  listener_.reset(::socket(AF_UNIX, SOCK_STREAM | SOCK_CLOEXEC | SOCK_NONBLOCK, 0));
  if (!listener_) throw system_error("socket", errno);
  if (::unlink(temporary.c_str()) != 0 && errno != ENOENT)
    throw system_error("socket " + temporary, errno);
  ::fchmod(listener_.get(), 0600);
  if (::bind(listener_.get(), reinterpret_cast<const sockaddr*>(&made.address), made.size) != 0)
    throw system_error("socket " + temporary, errno);
  if (::listen(listener_.get(), kBacklog) != 0) throw system_error("socket " + temporary, errno);
  set_access(temporary, options_.path);
  struct stat file{};
  if (::stat(temporary.c_str(), &file) != 0 || ::rename(temporary.c_str(), socket_.c_str()) != 0)
    throw system_error("socket " + socket_, errno);
  device_ = file.st_dev;
  inode_ = file.st_ino;
  listening_ = loop_.on_fd(listener_.get(), EPOLLIN, [this](unsigned) { accept(); });
}

void CommitService::close_door() {
  retry_.reset();
  listening_.reset();
  listener_.reset();
  struct stat file{};
  if (inode_ == 0 || ::lstat(socket_.c_str(), &file) != 0) return;
  if (file.st_dev == device_ && file.st_ino == inode_) ::unlink(socket_.c_str());
  inode_ = 0;
}

void CommitService::accept() {
  const int fd = ::accept4(listener_.get(), nullptr, nullptr, SOCK_CLOEXEC | SOCK_NONBLOCK);
  if (fd < 0) {
    if (errno == EAGAIN || errno == EINTR || errno == ECONNABORTED) return;
    // No descriptor is left, say: it would be called again at once.
    log::error("commit_accept", {{"path", options_.path}, {"why", std::strerror(errno)}});
    listening_.reset();
    retry_ = loop_.after(kAcceptAgain, [this] {
      listening_ = loop_.on_fd(listener_.get(), EPOLLIN, [this](unsigned) { accept(); });
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
