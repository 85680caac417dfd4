// Both sides of the process backend for its tests: a node that runs a program until it is killed,
// and programs.
//   backend_tool node MARKER REPORT COMMAND...   runs COMMAND as a backend; writes its process id
//   to REPORT when ready backend_tool listen PORT DELAY_MS            accepts connections after a
//   while backend_tool http PORT STATUS FILE           answers with STATUS, or with 503 while FILE
//   exists backend_tool stray REPORT                    leaves its group and parent, writes its
//   process id to REPORT, lives on backend_tool stubborn REPORT                 ignores SIGTERM,
//   and so does its child, whose id it writes to REPORT
#include <chrono>
#include <csignal>
#include <cstdio>
#include <cstdlib>
#include <cstring>
#include <filesystem>
#include <fstream>
#include <string>
#include <thread>
#include <vector>

#include <fcntl.h>
#include <netinet/in.h>
#include <sys/socket.h>
#include <unistd.h>

#include "core/loop.h"
#include "core/strand.h"
#include "ops/process_backend.h"

namespace {

void report(const std::string& file, pid_t pid) {
  std::ofstream(file + ".new") << pid << std::endl;
  std::filesystem::rename(file + ".new", file);
}

int fail(const char* what) {
  std::perror(what);
  return 1;
}

int listen_on(int port) {
  int fd = ::socket(AF_INET, SOCK_STREAM, 0);
  int yes = 1;
  ::setsockopt(fd, SOL_SOCKET, SO_REUSEADDR, &yes, sizeof yes);
  sockaddr_in address{};
  address.sin_family = AF_INET;
  address.sin_port = htons(static_cast<uint16_t>(port));
  address.sin_addr.s_addr = htonl(INADDR_LOOPBACK);
  if (::bind(fd, reinterpret_cast<sockaddr*>(&address), sizeof address) != 0 ||
      ::listen(fd, 16) != 0)
    std::exit(fail("listen"));
  return fd;
}

int run_node(const std::string& marker, const std::string& file, const std::string& user,
             std::vector<std::string> command) {
  cluster::Loop loop;
  cluster::StrandPool pool;
  cluster::ProcessBackend backend(loop, pool,
                                  {.platform = "p", .app = "a", .node = "n", .marker = marker},
                                  {.command = std::move(command), .user = user});
  backend.start(1, "leader", [&](const std::optional<cluster::Error>& error) {
    if (error) {
      std::fprintf(stderr, "%s\n", error->what());
      std::exit(1);
    }
    report(file, backend.status().pid);
  });
  loop.run();
  return 0;
}

int run_http(int port, const std::string& status, const std::string& file) {
  int listener = listen_on(port);
  while (true) {
    int fd = ::accept(listener, nullptr, nullptr);
    if (fd < 0) return fail("accept");
    char request[2048];
    if (::recv(fd, request, sizeof request, 0) > 0) {
      std::string answer = "HTTP/1.1 " + (std::filesystem::exists(file) ? "503" : status) +
                           " Whatever\r\nContent-Length: 0\r\nConnection: close\r\n\r\n";
      ::send(fd, answer.data(), answer.size(), MSG_NOSIGNAL);
    }
    ::close(fd);
  }
}

int sleep_for_good() {
  while (true) ::pause();
}

int report_inherited(const std::string& file) {
  std::string text = "descriptors";
  for (int fd = 0; fd < 1024; ++fd)
    if (::fcntl(fd, F_GETFD) >= 0) text += " " + std::to_string(fd);
  sigset_t blocked;
  ::sigprocmask(SIG_SETMASK, nullptr, &blocked);
  for (int signal : {SIGUSR1, SIGUSR2, SIGPIPE, SIGTERM, SIGCHLD}) {
    struct sigaction action{};
    ::sigaction(signal, nullptr, &action);
    if (sigismember(&blocked, signal)) text += " blocked " + std::to_string(signal);
    if (action.sa_handler == SIG_IGN) text += " ignored " + std::to_string(signal);
  }
  std::ofstream(file + ".new") << text;
  std::filesystem::rename(file + ".new", file);
  return sleep_for_good();
}

}  // namespace

int main(int argc, char** argv) {
  std::vector<std::string> words(argv + 1, argv + argc);
  std::string what = words.empty() ? "" : words[0];
  if (what == "node" && words.size() >= 5)
    return run_node(words[1], words[2], words[3], {words.begin() + 4, words.end()});
  if (what == "inherited" && words.size() == 2) return report_inherited(words[1]);
  if (what == "listen" && words.size() == 3) {
    std::this_thread::sleep_for(std::chrono::milliseconds(std::stoi(words[2])));
    int listener = listen_on(std::stoi(words[1]));
    while (true) {
      int fd = ::accept(listener, nullptr, nullptr);
      if (fd >= 0) ::close(fd);
    }
  }
  if (what == "http" && words.size() == 4) return run_http(std::stoi(words[1]), words[2], words[3]);
  if (what == "stray" && words.size() == 2) {
    if (::fork() > 0) return 0;
    ::setsid();
    report(words[1], ::getpid());
    return sleep_for_good();
  }
  if (what == "stubborn" && words.size() == 2) {
    ::signal(SIGTERM, SIG_IGN);
    pid_t child = ::fork();
    if (child > 0) report(words[1], child);
    return sleep_for_good();
  }
  std::fprintf(stderr, "see the top of backend_tool.cpp\n");
  return 2;
}
