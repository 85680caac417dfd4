// The socket of a database, by the first byte: what a program may send to a node, and what
// whoever has taken the node's place may send to a program. Over real sockets, as both sides read.
#include <algorithm>
#include <cstddef>
#include <cstdint>
#include <cstdlib>
#include <filesystem>
#include <string>
#include <thread>

#include <sys/socket.h>
#include <unistd.h>

#include "core/loop.h"
#include "core/strand.h"
#include "fuzz/expect.h"
#include "sqlite/commit_client.h"
#include "sqlite/commit_place.h"
#include "sqlite/commit_protocol.h"
#include "sqlite/commit_service.h"

using namespace cluster;
using namespace cluster::sqlite;

namespace {

constexpr std::chrono::seconds kSoon{10};

std::string path_of(const char* name) {
  return (std::filesystem::temp_directory_path() / (name + std::to_string(::getpid()))).string();
}

/// Blocks; empty when there is nobody.
UniqueFd connect_to(const std::string& socket) {
  commit_protocol::SocketAddress at;
  expect(commit_protocol::make_address(socket, at));
  UniqueFd fd(::socket(AF_UNIX, SOCK_STREAM | SOCK_CLOEXEC, 0));
  const bool connected =
      ::connect(fd.get(), reinterpret_cast<const sockaddr*>(&at.address), at.size) == 0;
  return connected ? std::move(fd) : UniqueFd();
}

// It answers requests, once each, and nothing else.
void ask_node(std::string_view bytes) {
  static Loop loop;
  static int asked = 0;
  static StrandPool pool;
  static const std::string database = path_of("commit_fuzz-a");
  static CommitService service(loop, pool.strand(), CommitService::Options{database, 3},
                               [](Duration limit, const Callback<CommitService::Stored>& done) {
                                 expect(limit >= Duration(0) && limit <= std::chrono::hours(24));
                                 ++asked;
                                 done(CommitService::Stored{3, 5, 7});
                               });
  asked = 0;
  expect(loop.run_until([] { return !service.socket().empty(); }, kSoon));
  const UniqueFd program = connect_to(service.socket());
  expect(static_cast<bool>(program));
  expect(loop.run_until([] { return service.clients() == 1; }, kSoon));
  // What it refuses it does not read to its end.
  std::thread sender([&] {
    ::send(program.get(), bytes.data(), bytes.size(), MSG_NOSIGNAL);
    ::shutdown(program.get(), SHUT_WR);
  });
  expect(loop.run_until([] { return service.clients() == 0; }, kSoon));
  sender.join();
  std::string all;
  char buffer[4096];
  for (ssize_t n = 0; (n = ::recv(program.get(), buffer, sizeof buffer, 0)) > 0;)
    all.append(buffer, static_cast<std::size_t>(n));
  expect(std::count(all.begin(), all.end(), '\n') <= asked + 1);
  expect(asked <= std::count(bytes.begin(), bytes.end(), '\n'));
}

// It takes nothing for an acknowledgement but that of what it has asked.
void answer_program(const std::string& bytes) {
  static const std::string database = path_of("commit_fuzz-b");
  static const std::string socket = path_of("commit_fuzz") + "/" + commit_socket_name(database);
  static const UniqueFd listener = [] {
    commit_protocol::SocketAddress at;
    expect(commit_protocol::make_address(socket, at));
    ::unlink(socket.c_str());
    UniqueFd fd(::socket(AF_UNIX, SOCK_STREAM | SOCK_CLOEXEC, 0));
    expect(::bind(fd.get(), reinterpret_cast<const sockaddr*>(&at.address), at.size) == 0);
    expect(::listen(fd.get(), 8) == 0);
    return fd;
  }();
  std::thread node([&] {
    const UniqueFd program(::accept4(listener.get(), nullptr, nullptr, SOCK_CLOEXEC));
    ::send(program.get(), bytes.data(), bytes.size(), MSG_NOSIGNAL);
    ::shutdown(program.get(), SHUT_WR);
    char byte = 0;
    while (::recv(program.get(), &byte, 1, 0) > 0) continue;
  });
  {
    CommitClient client(database);
    CommitClient::Stored stored;
    std::string why;
    if (client.sync(std::chrono::seconds(10), stored, why))
      expect(bytes.starts_with(commit_protocol::kGreeting) &&
             bytes.find("\nok") != std::string::npos);
    else
      expect(!why.empty() || bytes.find("\nerror 1 ") != std::string::npos ||
             bytes.find("refuse ") != std::string::npos);
  }
  node.join();
}

}  // namespace

extern "C" int LLVMFuzzerTestOneInput(const std::uint8_t* data, std::size_t size) {
  static const bool named = [] {
    std::filesystem::create_directory(path_of("commit_fuzz"));
    return ::setenv(kCommitFolderVariable, path_of("commit_fuzz").c_str(), 1) == 0;
  }();
  expect(named);
  if (size == 0) return 0;
  const std::string bytes(reinterpret_cast<const char*>(data) + 1, size - 1);
  if (data[0] % 2 == 0)
    ask_node(bytes);
  else
    answer_program(bytes);
  return 0;
}
