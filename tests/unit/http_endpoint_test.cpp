#include "ops/http_endpoint.h"

#include <atomic>
#include <memory>
#include <stdexcept>
#include <string>
#include <thread>
#include <vector>

#include <arpa/inet.h>
#include <fcntl.h>
#include <gtest/gtest.h>
#include <netinet/in.h>
#include <sys/socket.h>
#include <sys/time.h>
#include <sys/wait.h>
#include <unistd.h>

#include "cluster/error.h"
#include "core/unique_fd.h"

namespace cluster {
namespace {

// Sends bytes as they are and reads all that comes back.
std::string raw_request(const std::string& address, const std::string& request) {
  int fd = ::socket(AF_INET, SOCK_STREAM | SOCK_CLOEXEC, 0);
  timeval limit{.tv_sec = 40, .tv_usec = 0};
  ::setsockopt(fd, SOL_SOCKET, SO_RCVTIMEO, &limit, sizeof limit);
  sockaddr_in to{};
  to.sin_family = AF_INET;
  to.sin_addr.s_addr = htonl(INADDR_LOOPBACK);
  to.sin_port = htons(static_cast<uint16_t>(std::stoi(address.substr(address.rfind(':') + 1))));
  std::string answer;
  if (::connect(fd, reinterpret_cast<sockaddr*>(&to), sizeof to) == 0) {
    ::send(fd, request.data(), request.size(), MSG_NOSIGNAL);
    char chunk[4096];
    for (ssize_t n; (n = ::recv(fd, chunk, sizeof chunk, 0)) > 0;)
      answer.append(chunk, static_cast<std::size_t>(n));
  }
  ::close(fd);
  return answer;
}

std::string ask(const std::string& address, const std::string& method, const std::string& path) {
  return raw_request(address,
                     method + " " + path + " HTTP/1.1\r\nHost: x\r\nConnection: close\r\n\r\n");
}

HttpReply echo(const std::string& path) {
  return {.status = path == "/ready" ? 503 : 200, .body = "{\"path\":\"" + path + "\"}"};
}

TEST(HttpEndpoint, AnswersItsPaths) {
  HttpEndpoint endpoint("127.0.0.1:0", echo);
  std::string answer = ask(endpoint.address(), "GET", "/health");
  EXPECT_EQ(answer.rfind("HTTP/1.1 200 ", 0), 0u) << answer;
  EXPECT_NE(answer.find("Content-Type: application/json"), std::string::npos) << answer;
  EXPECT_NE(answer.find("\r\n\r\n{\"path\":\"/health\"}"), std::string::npos) << answer;
  EXPECT_EQ(ask(endpoint.address(), "GET", "/ready").rfind("HTTP/1.1 503 ", 0), 0u);
  EXPECT_NE(ask(endpoint.address(), "GET", "/status?verbose=1").find("{\"path\":\"/status\"}"),
            std::string::npos);
}

// Connections whose requests never become complete.
class SlowClients {
 public:
  SlowClients(const std::string& address, int count) {
    sockaddr_in to{};
    to.sin_family = AF_INET;
    to.sin_addr.s_addr = htonl(INADDR_LOOPBACK);
    to.sin_port = htons(static_cast<uint16_t>(std::stoi(address.substr(address.rfind(':') + 1))));
    for (int i = 0; i < count; ++i) {
      fds_.push_back(::socket(AF_INET, SOCK_STREAM | SOCK_CLOEXEC, 0));
      EXPECT_EQ(::connect(fds_.back(), reinterpret_cast<sockaddr*>(&to), sizeof to), 0);
    }
    thread_ = std::thread([this] {
      while (!stop_) {
        for (const int fd : fds_) ::send(fd, "G", 1, MSG_NOSIGNAL);
        std::this_thread::sleep_for(std::chrono::milliseconds(100));
      }
    });
  }
  ~SlowClients() {
    stop_ = true;
    thread_.join();
    for (const int fd : fds_) ::close(fd);
  }
  SlowClients(const SlowClients&) = delete;
  SlowClients& operator=(const SlowClients&) = delete;

 private:
  std::vector<int> fds_;
  std::atomic<bool> stop_{false};
  std::thread thread_;
};

TEST(HttpEndpoint, ClientsThatNeverFinishDoNotKeepOthersOut) {
  HttpEndpoint endpoint("127.0.0.1:0", echo);
  const SlowClients slow(endpoint.address(), 6);
  EXPECT_EQ(ask(endpoint.address(), "GET", "/health").rfind("HTTP/1.1 200 ", 0), 0u);
}

TEST(HttpEndpoint, TooManyThatNeverFinishAreEnded) {
  HttpEndpoint endpoint("127.0.0.1:0", echo);
  const SlowClients slow(endpoint.address(), 40);
  std::string answer;
  for (int i = 0; i < 10 && answer.empty(); ++i) answer = ask(endpoint.address(), "GET", "/health");
  EXPECT_EQ(answer.rfind("HTTP/1.1 200 ", 0), 0u);
}

TEST(HttpEndpoint, ClientsThatNeverFinishDoNotHoldItsEndUp) {
  auto endpoint = std::make_unique<HttpEndpoint>("127.0.0.1:0", echo);
  const SlowClients slow(endpoint->address(), 40);
  const std::string address = endpoint->address();
  endpoint.reset();
  EXPECT_EQ(ask(address, "GET", "/health"), "");
}

// SQLite's locks are of this kind: closing any descriptor of a file ends all that a process has.
TEST(HttpEndpoint, LeavesThisProcessItsLocksOnFiles) {
  char path[] = "/tmp/cluster-lock-XXXXXX";
  const UniqueFd file(::mkostemp(path, O_CLOEXEC));
  ASSERT_TRUE(file);
  ::unlink(path);
  struct flock lock{.l_type = F_WRLCK, .l_whence = SEEK_SET, .l_start = 0, .l_len = 1, .l_pid = 0};
  ASSERT_EQ(::fcntl(file.get(), F_SETLK, &lock), 0);
  {
    HttpEndpoint endpoint("127.0.0.1:0", echo);
    ask(endpoint.address(), "GET", "/health");
  }
  // Only another process sees them.
  const pid_t child = ::fork();
  if (child == 0) {
    struct flock found{
        .l_type = F_WRLCK, .l_whence = SEEK_SET, .l_start = 0, .l_len = 1, .l_pid = 0};
    ::_exit(::fcntl(file.get(), F_GETLK, &found) == 0 && found.l_type == F_WRLCK ? 0 : 1);
  }
  int status = -1;
  ASSERT_EQ(::waitpid(child, &status, 0), child);
  EXPECT_EQ(status, 0) << "the lock is gone";
}

TEST(HttpEndpoint, AHeadHasNoBody) {
  HttpEndpoint endpoint("127.0.0.1:0", echo);
  std::string answer = ask(endpoint.address(), "HEAD", "/health");
  EXPECT_EQ(answer.rfind("HTTP/1.1 200 ", 0), 0u) << answer;
  EXPECT_EQ(answer.find("path"), std::string::npos) << answer;
}

TEST(HttpEndpoint, UnknownPathsNameTheKnownOnes) {
  HttpEndpoint endpoint("127.0.0.1:0", echo);
  std::string answer = ask(endpoint.address(), "GET", "/healthz");
  EXPECT_EQ(answer.rfind("HTTP/1.1 404 ", 0), 0u) << answer;
  EXPECT_NE(answer.find(R"("paths":["/health", "/ready", "/status", "/metrics"])"),
            std::string::npos)
      << answer;
}

TEST(HttpEndpoint, OtherMethodsAreRefused) {
  HttpEndpoint endpoint("127.0.0.1:0", echo);
  for (const char* method : {"POST", "DELETE", "PUT"}) {
    std::string answer = ask(endpoint.address(), method, "/health");
    EXPECT_EQ(answer.rfind("HTTP/1.1 405 ", 0), 0u) << answer;
    EXPECT_NE(answer.find("Allow: GET, HEAD"), std::string::npos) << answer;
  }
}

TEST(HttpEndpoint, NoiseAndHugeRequestsDoNotEndIt) {
  HttpEndpoint endpoint("127.0.0.1:0", echo);
  raw_request(endpoint.address(), "\x16\x03\x01\r\n\r\n");
  raw_request(endpoint.address(), "GET /" + std::string(100'000, 'x') + " HTTP/1.1\r\n\r\n");
  EXPECT_EQ(ask(endpoint.address(), "GET", "/health").rfind("HTTP/1.1 200 ", 0), 0u);
}

TEST(HttpEndpoint, AnAnswerThatThrowsIsA500) {
  HttpEndpoint endpoint(
      "127.0.0.1:0", [](const std::string&) -> HttpReply { throw std::runtime_error("secret"); });
  std::string answer = ask(endpoint.address(), "GET", "/status");
  EXPECT_EQ(answer.rfind("HTTP/1.1 500 ", 0), 0u) << answer;
  EXPECT_EQ(answer.find("secret"), std::string::npos) << answer;
}

TEST(HttpEndpoint, APortInUseIsSaidClearly) {
  HttpEndpoint first("127.0.0.1:0", echo);
  try {
    HttpEndpoint second(first.address(), echo);
    FAIL() << "two on one port";
  } catch (const Error& error) {
    EXPECT_EQ(error.errc(), Errc::system);
    std::string what = error.what();
    EXPECT_NE(what.find(first.address()), std::string::npos) << what;
    EXPECT_NE(what.find("Address already in use"), std::string::npos) << what;
  }
}

TEST(HttpEndpoint, ThePortIsFreeAgainAfterStop) {
  // Another program may be given the port in between, though hardly three times in a row.
  for (int tries = 1;; ++tries) {
    HttpEndpoint first("127.0.0.1:0", echo);
    ask(first.address(), "GET", "/health");
    first.stop();
    first.stop();
    try {
      HttpEndpoint second(first.address(), echo);
      EXPECT_EQ(second.address(), first.address());
      return;
    } catch (const Error& error) {
      ASSERT_LT(tries, 3) << error.what();
    }
  }
}

TEST(HttpEndpoint, AddressesThatAreNoneAreRefused) {
  for (const char* bad : {"127.0.0.1", "127.0.0.1:", "127.0.0.1:x", "127.0.0.1:65536",
                          "127.0.0.1:-1", ":8080", "::1:8080", "[::1:8080"}) {
    try {
      HttpEndpoint endpoint(bad, echo);
      ADD_FAILURE() << bad;
    } catch (const Error& error) {
      EXPECT_EQ(error.errc(), Errc::invalid_argument) << bad << ": " << error.what();
    }
  }
  EXPECT_THROW(HttpEndpoint("192.0.2.1:0", echo), Error) << "an address of another machine";
}

TEST(HttpEndpoint, SpeaksIpv6) {
  int fd = ::socket(AF_INET6, SOCK_STREAM | SOCK_CLOEXEC, 0);
  sockaddr_in6 any{};
  any.sin6_family = AF_INET6;
  any.sin6_addr = in6addr_loopback;
  bool have = fd >= 0 && ::bind(fd, reinterpret_cast<sockaddr*>(&any), sizeof any) == 0;
  if (fd >= 0) ::close(fd);
  if (!have) GTEST_SKIP() << "this machine has no IPv6";
  HttpEndpoint endpoint("[::1]:0", echo);
  EXPECT_EQ(endpoint.address().rfind("[::1]:", 0), 0u) << endpoint.address();
}

}  // namespace
}  // namespace cluster
