#include "ops/process_backend.h"

#include <csignal>
#include <filesystem>
#include <fstream>
#include <optional>
#include <sstream>
#include <string>
#include <vector>

#include <arpa/inet.h>
#include <fcntl.h>
#include <gtest/gtest.h>
#include <netinet/in.h>
#include <pwd.h>
#include <spawn.h>
#include <sys/prctl.h>
#include <sys/resource.h>
#include <sys/socket.h>
#include <sys/wait.h>
#include <unistd.h>

#include "built.h"
#include "core/ids.h"
#include "core/open_files.h"
#include "core/process_scan.h"
#include "core/unique_fd.h"
#include "ops/leftovers.h"
#include "shell.h"

extern char** environ;

namespace cluster {
namespace {

using namespace std::chrono_literals;
using State = ProcessBackend::State;

const std::string kTool = built::kBackendTool;
const std::string kToolInShell = shell_quoted(kTool);
constexpr Duration kLong = 60s;  // never reached unless something is wrong

std::string read_file(const std::string& path) {
  std::ostringstream text;
  text << std::ifstream(path).rdbuf();
  return text.str();
}

bool runs(pid_t pid) {
  std::string stat = read_file("/proc/" + std::to_string(pid) + "/stat");
  auto at = stat.rfind(')');
  return at != std::string::npos && stat.size() > at + 2 && stat[at + 2] != 'Z' &&
         stat[at + 2] != 'X';
}

std::vector<std::string> shell(const std::string& script) { return {"/bin/sh", "-c", script}; }

class ProcessBackendTest : public ::testing::Test {
 protected:
  ProcessBackendTest() {
    folder_ = std::filesystem::temp_directory_path() / ("cluster-backend-" + random_id());
    std::filesystem::create_directories(folder_);
    std::filesystem::permissions(folder_, std::filesystem::perms::all);
  }
  ~ProcessBackendTest() override {
    backend_.reset();
    end_marked({instance_mark(marker_)}, kLong);
    std::filesystem::remove_all(folder_);
  }

  std::string path(const std::string& name) const { return folder_ + "/" + name; }

  ProcessBackend& make(Process process) {
    backend_ = std::make_unique<ProcessBackend>(
        loop_, pool_,
        BackendContext{.platform = "shop", .app = "db", .node = "node-1", .marker = marker_},
        std::move(process));
    backend_->on_process_group([this](pid_t group) { groups_.push_back(group); });
    backend_->on_failed([this](const Error& error, bool cooldown) {
      gave_up_ = error.what();
      cooldown_ = cooldown;
    });
    return *backend_;
  }

  // A port that nobody listens on and the kernel gives to nobody else. A program that says
  // SO_REUSEADDR, as this one does, may still listen on it.
  int free_port() {
    UniqueFd fd(::socket(AF_INET, SOCK_STREAM | SOCK_CLOEXEC, 0));
    const int yes = 1;
    ::setsockopt(fd.get(), SOL_SOCKET, SO_REUSEADDR, &yes, sizeof yes);
    sockaddr_in address{};
    address.sin_family = AF_INET;
    address.sin_addr.s_addr = htonl(INADDR_LOOPBACK);
    socklen_t size = sizeof address;
    EXPECT_EQ(::bind(fd.get(), reinterpret_cast<sockaddr*>(&address), size), 0);
    EXPECT_EQ(::getsockname(fd.get(), reinterpret_cast<sockaddr*>(&address), &size), 0);
    ports_.push_back(std::move(fd));
    return ntohs(address.sin_port);
  }

  // What start() came to: empty when ready.
  std::string start(uint64_t epoch = 7) {
    bool done = false;
    std::string what;
    backend_->start(epoch, "leader", [&](const std::optional<Error>& error) {
      done = true;
      if (error) what = error->what();
    });
    EXPECT_FALSE(done) << "called back from within start()";
    EXPECT_TRUE(loop_.run_until([&] { return done; }, kLong));
    return what;
  }

  void stop() {
    bool done = false;
    backend_->stop([&] { done = true; });
    EXPECT_FALSE(done) << "called back from within stop()";
    ASSERT_TRUE(loop_.run_until([&] { return done; }, kLong));
    EXPECT_EQ(backend_->status().state, State::stopped);
    EXPECT_EQ(backend_->status().pid, 0);
  }

  bool until(const std::function<bool()>& condition) { return loop_.run_until(condition, kLong); }
  bool until_file(const std::string& name) {
    return until([&] { return std::filesystem::exists(path(name)); });
  }
  pid_t reported(const std::string& name) {
    EXPECT_TRUE(until_file(name));
    return std::stoi("0" + read_file(path(name)));
  }
  State state() const { return backend_->status().state; }

  Loop loop_;
  StrandPool pool_;
  std::string folder_;
  std::string marker_ = random_id();
  std::unique_ptr<ProcessBackend> backend_;
  std::vector<pid_t> groups_;
  std::optional<std::string> gave_up_;
  bool cooldown_ = false;
  std::vector<UniqueFd> ports_;
};

#define EXPECT_HAS(text, part) EXPECT_NE((text).find(part), std::string::npos) << (text)

// ---- ready

TEST_F(ProcessBackendTest, IsReadyOnceItRunsAndGoneAfterStop) {
  make({.command = shell("exec sleep 1000")});
  EXPECT_EQ(start(), "");
  EXPECT_EQ(state(), State::ready);
  pid_t pid = backend_->status().pid;
  EXPECT_TRUE(runs(pid));
  EXPECT_EQ(::getpgid(pid), pid);
  stop();
  EXPECT_FALSE(runs(pid));
  EXPECT_EQ(groups_, (std::vector<pid_t>{pid, 0}));
  EXPECT_EQ(backend_->status().last_exit, "was ended by SIGTERM");
  EXPECT_EQ(::waitpid(pid, nullptr, WNOHANG), -1) << "reaped";
}

TEST_F(ProcessBackendTest, IsReadyAfterItsDelay) {
  make({.command = shell("exec sleep 1000"), .ready = ReadyDelay{120ms}});
  Time begin = BootClock::now();
  EXPECT_EQ(start(), "");
  EXPECT_GE(BootClock::now() - begin, 120ms);
}

TEST_F(ProcessBackendTest, IsReadyOnceItsPortAcceptsConnections) {
  const int port = free_port();
  make(
      {.command = {kTool, "listen", std::to_string(port), "100"}, .ready = ReadyTcp{.port = port}});
  Time begin = BootClock::now();
  EXPECT_EQ(start(), "");
  EXPECT_GE(BootClock::now() - begin, 100ms);
  EXPECT_HAS(backend_->status().last_health, "accepts connections");
  stop();
}

TEST_F(ProcessBackendTest, IsReadyOnceItsUrlAnswersWell) {
  const int port = free_port();
  std::ofstream(path("unwell")) << "";
  make({.command = {kTool, "http", std::to_string(port), "204", path("unwell")},
        .ready = ReadyHttp{"http://localhost:" + std::to_string(port) + "/health?x=1"}});
  std::optional<std::string> result;
  backend_->start(1, "leader",
                  [&](const std::optional<Error>& error) { result = error ? error->what() : ""; });
  ASSERT_TRUE(
      until([&] { return backend_->status().last_health.find("503") != std::string::npos; }));
  EXPECT_FALSE(result);
  EXPECT_EQ(state(), State::starting);
  std::filesystem::remove(path("unwell"));
  ASSERT_TRUE(until([&] { return result.has_value(); }));
  EXPECT_EQ(*result, "");
  EXPECT_HAS(backend_->status().last_health, "204");
}

// ---- what the program sees

TEST_F(ProcessBackendTest, SeesItsRoleAndItsOwnVariablesAndTheNodes) {
  ::setenv("BACKEND_TEST_INHERITED", "from node", 1);
  ::setenv("CPP_CLUSTER_EPOCH", "1", 1);
  ::setenv("NOTIFY_SOCKET", "/nowhere", 1);
  make({.command = shell("env > " + path("new") + " && mv " + path("new") + " " + path("env") +
                         "; exec sleep 1000"),
        .environment = {{"COLOR", "dark blue"}}});
  EXPECT_EQ(start(42), "");
  ASSERT_TRUE(until_file("env"));
  ::unsetenv("CPP_CLUSTER_EPOCH");
  ::unsetenv("NOTIFY_SOCKET");
  std::string env = "\n" + read_file(path("env"));
  for (std::string line :
       {"CPP_CLUSTER_PLATFORM=shop", "CPP_CLUSTER_APP=db", "CPP_CLUSTER_NODE=node-1",
        "CPP_CLUSTER_ROLE=leader", "CPP_CLUSTER_EPOCH=42", "COLOR=dark blue",
        "BACKEND_TEST_INHERITED=from node"})
    EXPECT_HAS(env, "\n" + line + "\n");
  EXPECT_HAS(env, "\nCPP_CLUSTER_INSTANCE=" + marker_ + "\n");
  EXPECT_EQ(env.find("NOTIFY_SOCKET"), std::string::npos);
  EXPECT_EQ(env.find("CPP_CLUSTER_EPOCH=1\n"), std::string::npos);
}

TEST_F(ProcessBackendTest, GetsNoDescriptorsSignalsOrMaskOfTheNode) {
  int leaky = ::open("/dev/null", O_RDONLY);  // no O_CLOEXEC
  ::signal(SIGUSR1, SIG_IGN);
  sigset_t blocked, before;
  sigemptyset(&blocked);
  sigaddset(&blocked, SIGUSR2);
  ::pthread_sigmask(SIG_BLOCK, &blocked, &before);
  make({.command = {kTool, "inherited", path("report")}});
  EXPECT_EQ(start(), "");
  bool came = until_file("report");
  std::string input =
      std::filesystem::read_symlink("/proc/" + std::to_string(backend_->status().pid) + "/fd/0");
  ::pthread_sigmask(SIG_SETMASK, &before, nullptr);
  ::signal(SIGUSR1, SIG_DFL);
  ::close(leaky);
  ASSERT_TRUE(came);
  EXPECT_EQ(read_file(path("report")), "descriptors 0 1 2");
  EXPECT_EQ(input, "/dev/null");
}

// A node raises its own; select() can't be used with descriptors beyond 1,023.
TEST_F(ProcessBackendTest, MayHaveAsManyFilesOpenAsItsNodeMightAtItsStart) {
  const rlimit before = open_files_of_children();
  rlimit limits{512, before.rlim_max};
  ASSERT_EQ(::setrlimit(RLIMIT_NOFILE, &limits), 0);
  raise_open_files();
  ASSERT_EQ(::getrlimit(RLIMIT_NOFILE, &limits), 0);
  EXPECT_EQ(limits.rlim_cur, limits.rlim_max);
  make({.command = shell("ulimit -Sn >files.part; ulimit -Hn >>files.part; mv files.part files; "
                         "exec sleep 1000"),
        .folder = folder_});
  EXPECT_EQ(start(), "");
  ASSERT_TRUE(until_file("files"));
  EXPECT_EQ(read_file(path("files")), "512\n" + std::to_string(limits.rlim_max) + "\n");
  stop();
}

TEST_F(ProcessBackendTest, RunsInItsFolderAndAppendsToItsLogFile) {
  std::ofstream(path("log")) << "before\n";
  make({.command = shell("pwd; echo problem >&2; exec sleep 1000"),
        .folder = folder_,
        .log_file = path("log")});
  EXPECT_EQ(start(), "");
  EXPECT_TRUE(until([&] { return read_file(path("log")) == "before\n" + folder_ + "\nproblem\n"; }))
      << read_file(path("log"));
}

TEST_F(ProcessBackendTest, RunsAsItsUser) {
  if (::geteuid() != 0) GTEST_SKIP() << "needs root";
  const passwd* nobody = ::getpwnam("nobody");
  if (!nobody) GTEST_SKIP() << "needs a user called nobody";
  make({.command = shell("id > " + path("new") + "; echo $HOME $USER >> " + path("new") + "; mv " +
                         path("new") + " " + path("id") + "; exec sleep 1000"),
        .user = "nobody"});
  std::string home = nobody->pw_dir;
  EXPECT_EQ(start(), "");
  ASSERT_TRUE(until_file("id"));
  std::string id = read_file(path("id"));
  EXPECT_HAS(id, "(nobody)");
  EXPECT_EQ(id.find("root"), std::string::npos) << id;
  EXPECT_HAS(id, "\n" + home + " nobody\n");
  stop();
}

TEST_F(ProcessBackendTest, DoesNotRunBeforeItsGroupIsRecorded) {
  make({.command = shell("touch " + path("ran") + "; exec sleep 1000")});
  backend_->on_process_group([&](pid_t group) {
    groups_.push_back(group);
    if (group == 0) return;
    EXPECT_EQ(::getpgid(group), group);
    EXPECT_EQ(std::filesystem::read_symlink("/proc/" + std::to_string(group) + "/exe"),
              std::filesystem::read_symlink("/proc/self/exe"));
    throw std::runtime_error("no room in the table");
  });
  std::string error = start();
  EXPECT_HAS(error, "no room in the table");
  EXPECT_FALSE(std::filesystem::exists(path("ran")));
  ASSERT_EQ(groups_.size(), 2u);
  EXPECT_EQ(groups_.back(), 0);
}

// ---- starts that fail

TEST_F(ProcessBackendTest, ACommandThatIsNotThereIsReportedWithWhereItWasLookedFor) {
  make({.command = {"no-such-program"}, .environment = {{"PATH", "/usr/bin:/bin"}}});
  std::string error = start();
  EXPECT_HAS(error, "app \"db\"");
  EXPECT_HAS(error, "command not found: looked for \"no-such-program\" in PATH (/usr/bin:/bin)");
  EXPECT_EQ(state(), State::failed);
  EXPECT_TRUE(groups_.empty());
}

TEST_F(ProcessBackendTest, AFailedExecIsReportedWithItsReason) {
  make({.command = {"/no/such/program"}});
  EXPECT_HAS(start(), "can't execute \"/no/such/program\": No such file or directory");
  std::ofstream(path("script")) << "echo no first line\n";
  make({.command = {path("script")}});
  EXPECT_HAS(start(), "Permission denied; make it executable");
  std::filesystem::permissions(path("script"), std::filesystem::perms::all);
  make({.command = {path("script")}});
  EXPECT_HAS(start(), "its first line must name the shell");
}

TEST_F(ProcessBackendTest, AMissingFolderUserOrLogFileIsReported) {
  make({.command = {"sleep", "1"}, .folder = path("nowhere")});
  EXPECT_HAS(start(), "can't enter its folder \"" + path("nowhere") + "\": No such file");
  make({.command = {"sleep", "1"}, .user = "no-such-user"});
  EXPECT_HAS(start(), "unknown user \"no-such-user\"");
  make({.command = {"sleep", "1"}, .log_file = path("nowhere/log")});
  EXPECT_HAS(start(), "can't write the log file \"" + path("nowhere/log") + "\": No such file");
}

TEST_F(ProcessBackendTest, AnExitBeforeItIsReadyFailsTheStartWithTheLastLines) {
  std::ofstream(path("log")) << "of an earlier run\n";
  make({.command = shell("echo first; echo 'cannot open database' >&2; exit 3"),
        .log_file = path("log"),
        .ready = ReadyDelay{25s}});
  std::string error = start();
  EXPECT_HAS(error, "exited with status 3 before it was ready");
  EXPECT_HAS(error, "first\ncannot open database");
  EXPECT_EQ(error.find("earlier run"), std::string::npos) << error;
  EXPECT_FALSE(gave_up_) << "a failed start is reported once";
  ASSERT_EQ(groups_.size(), 2u);
}

TEST_F(ProcessBackendTest, AProgramThatGoesToTheBackgroundIsToldNotTo) {
  make({.command = {kTool, "stray", path("stray")}, .ready = ReadyDelay{25s}});
  EXPECT_HAS(start(), "tell it to stay in the foreground");
  EXPECT_TRUE(find_marked({instance_mark(marker_)}).empty()) << "and it is gone";
}

TEST_F(ProcessBackendTest, NotReadyInTimeEndsItAndSaysWhatTheLastCheckSaw) {
  const int port = free_port();
  // So short a time may pass before the first check was made: then there is nothing to say of it.
  std::string error;
  for (auto limit = 150ms; limit < kLong; limit *= 2) {
    make({.command = shell("exec sleep 1000"),
          .ready = ReadyTcp{.port = port},
          .ready_timeout = limit});
    error = start();
    if (error.find("the last check") != std::string::npos) {
      EXPECT_HAS(error, "was not ready within " + std::to_string(limit.count()) + " ms");
      break;
    }
  }
  EXPECT_HAS(error, "127.0.0.1:" + std::to_string(port) + ": Connection refused");
  EXPECT_EQ(groups_.back(), 0);
}

TEST_F(ProcessBackendTest, APortThatAnotherProgramHoldsIsNotTakenForReadiness) {
  int listener = ::socket(AF_INET, SOCK_STREAM | SOCK_CLOEXEC, 0);
  sockaddr_in address{};
  address.sin_family = AF_INET;
  address.sin_addr.s_addr = htonl(INADDR_LOOPBACK);
  socklen_t size = sizeof address;
  ASSERT_EQ(::bind(listener, reinterpret_cast<sockaddr*>(&address), size), 0);
  ASSERT_EQ(::listen(listener, 16), 0);
  ::getsockname(listener, reinterpret_cast<sockaddr*>(&address), &size);
  make({.command = shell("touch " + path("ran")),
        .ready = ReadyTcp{.port = ntohs(address.sin_port)}});
  EXPECT_HAS(start(), "another program already answers");
  ::close(listener);
  EXPECT_FALSE(std::filesystem::exists(path("ran")));
}

TEST_F(ProcessBackendTest, CanBeStartedAgainAfterAFailureAndAfterAStop) {
  // It is ready by what it does: after a time it would be, too, if it had not come to its exit yet.
  const int port = free_port();
  make({.command = shell("test -e " + path("allowed") + " || exit 1; exec " + kToolInShell +
                         " listen " + std::to_string(port) + " 0"),
        .ready = ReadyTcp{.port = port}});
  EXPECT_HAS(start(), "exited with status 1");
  std::ofstream(path("allowed")) << "";
  EXPECT_EQ(start(), "");
  stop();
  EXPECT_EQ(start(), "");
}

// ---- restarts

TEST_F(ProcessBackendTest, IsStartedAgainAfterItDied) {
  make({.command = shell("exec sleep 1000"), .backoff_min = 20ms});
  EXPECT_EQ(start(), "");
  pid_t first = backend_->status().pid;
  ::kill(first, SIGKILL);
  ASSERT_TRUE(until([&] { return state() == State::backing_off; }));
  EXPECT_EQ(backend_->status().last_exit, "was ended by SIGKILL");
  ASSERT_TRUE(until([&] { return state() == State::ready; }));
  EXPECT_EQ(backend_->status().restarts, 1u);
  pid_t second = backend_->status().pid;
  EXPECT_EQ(groups_, (std::vector<pid_t>{first, 0, second}));
  EXPECT_FALSE(gave_up_);
}

TEST_F(ProcessBackendTest, GivesUpWithACooldownAfterTooManyRestartsWithGrowingPauses) {
  make({.command = shell("echo run >> " + path("runs") + "; while ! test -e " + path("die") +
                         "; do sleep 0.01; done; exit 4"),
        .log_file = path("log"),
        .backoff_min = 20ms,
        .backoff_max = 60ms,
        .max_restarts = 4,
        .restart_window = 1h});
  EXPECT_EQ(start(), "");
  Time begin = BootClock::now();
  std::ofstream(path("die")) << "";
  ASSERT_TRUE(until([&] { return gave_up_.has_value(); }));
  EXPECT_GE(BootClock::now() - begin, 20ms + 40ms + 60ms + 60ms);
  EXPECT_TRUE(cooldown_);
  EXPECT_HAS(*gave_up_, "was restarted 4 times");
  EXPECT_HAS(*gave_up_, "exited with status 4");
  EXPECT_EQ(state(), State::failed);
  EXPECT_EQ(read_file(path("runs")), "run\nrun\nrun\nrun\nrun\n");
  EXPECT_EQ(groups_.back(), 0);
}

TEST_F(ProcessBackendTest, OnFailureGivesTheLeadUpWithoutCooldownAfterACleanExit) {
  make({.command = shell("while ! test -e " + path("die") + "; do sleep 0.01; done"),
        .restart = Restart::on_failure});
  EXPECT_EQ(start(), "");
  std::ofstream(path("die")) << "";
  ASSERT_TRUE(until([&] { return gave_up_.has_value(); }));
  EXPECT_FALSE(cooldown_);
  EXPECT_EQ(backend_->status().restarts, 0u);
}

TEST_F(ProcessBackendTest, OnFailureRestartsAfterAnUncleanExit) {
  make({.command = shell("exec sleep 1000"), .restart = Restart::on_failure, .backoff_min = 1ms});
  EXPECT_EQ(start(), "");
  ::kill(backend_->status().pid, SIGTERM);
  ASSERT_TRUE(until([&] { return state() == State::ready && backend_->status().restarts == 1; }));
}

TEST_F(ProcessBackendTest, NeverGivesTheLeadUpAtOnce) {
  make({.command = shell("exec sleep 1000"), .restart = Restart::never});
  EXPECT_EQ(start(), "");
  ::kill(backend_->status().pid, SIGSEGV);
  ASSERT_TRUE(until([&] { return gave_up_.has_value(); }));
  EXPECT_HAS(*gave_up_, "was ended by SIGSEGV");
  EXPECT_TRUE(cooldown_);
}

TEST_F(ProcessBackendTest, FailedHealthChecksCountAsAnExit) {
  const int port = free_port();
  make({.command = {kTool, "http", std::to_string(port), "200", path("unwell")},
        .ready = ReadyHttp{"http://127.0.0.1:" + std::to_string(port)},
        .health_interval = 20ms,
        .health_failures = 3,
        .backoff_min = 1ms});
  EXPECT_EQ(start(), "");
  pid_t first = backend_->status().pid;
  std::ofstream(path("unwell")) << "";
  ASSERT_TRUE(until([&] { return groups_.size() == 2; }));
  EXPECT_FALSE(runs(first));
  std::filesystem::remove(path("unwell"));
  ASSERT_TRUE(until([&] { return state() == State::ready; }));
  EXPECT_EQ(backend_->status().restarts, 1u);
  EXPECT_FALSE(gave_up_);
}

TEST_F(ProcessBackendTest, AHungProgramFailsItsHealthChecksAndIsKilled) {
  const int port = free_port();
  make({.command = {kTool, "http", std::to_string(port), "200", path("unwell")},
        .ready = ReadyHttp{"http://127.0.0.1:" + std::to_string(port)},
        .health_interval = 10ms,
        .health_failures = 1,
        .stop_timeout = 50ms,
        .restart = Restart::never});
  EXPECT_EQ(start(), "");
  ::kill(backend_->status().pid, SIGSTOP);
  ASSERT_TRUE(until([&] { return gave_up_.has_value(); }));
  EXPECT_HAS(*gave_up_, "no answer in time");
}

// ---- stops

TEST_F(ProcessBackendTest, MayFinishWhatItDoesWithinStopTimeout) {
  make({.command = shell("trap 'sleep 0.1; touch " + path("saved") + "; exit 0' TERM; touch " +
                         path("up") + "; while :; do sleep 0.01; done")});
  EXPECT_EQ(start(), "");
  ASSERT_TRUE(until_file("up"));
  stop();
  EXPECT_TRUE(std::filesystem::exists(path("saved")));
  EXPECT_EQ(backend_->status().last_exit, "exited with status 0");
}

TEST_F(ProcessBackendTest, ChildrenMayFinishWithinStopTimeoutAlsoAfterTheirParent) {
  make({.command =
            shell("(trap 'sleep 0.2; touch " + path("saved") + "; exit 0' TERM; touch " +
                  path("up") + "; while :; do sleep 0.01; done) & trap 'exit 0' TERM; wait")});
  EXPECT_EQ(start(), "");
  ASSERT_TRUE(until_file("up"));
  stop();
  EXPECT_TRUE(std::filesystem::exists(path("saved")));
}

TEST_F(ProcessBackendTest, IsKilledWithItsChildrenAfterStopTimeout) {
  make({.command = {kTool, "stubborn", path("child")}, .stop_timeout = 100ms});
  EXPECT_EQ(start(), "");
  pid_t parent = backend_->status().pid;
  pid_t child = reported("child");
  Time begin = BootClock::now();
  stop();
  EXPECT_GE(BootClock::now() - begin, 100ms);
  EXPECT_FALSE(runs(parent));
  EXPECT_FALSE(runs(child));
  EXPECT_EQ(backend_->status().last_exit, "was ended by SIGKILL");
}

TEST_F(ProcessBackendTest, ChildrenOfAProgramThatDiedAreGoneBeforeItIsStartedAgain) {
  make({.command = {kTool, "stubborn", path("child")}, .backoff_min = 10s});
  EXPECT_EQ(start(), "");
  pid_t child = reported("child");
  ::kill(backend_->status().pid, SIGKILL);
  ASSERT_TRUE(until([&] { return state() == State::backing_off; }));
  EXPECT_FALSE(runs(child));
  stop();
}

TEST_F(ProcessBackendTest, WhatHasLeftTheGroupIsEndedByStop) {
  make({.command = shell(kToolInShell + " stray " + path("stray") + "; exec sleep 1000")});
  EXPECT_EQ(start(), "");
  pid_t stray = reported("stray");
  EXPECT_NE(::getpgid(stray), backend_->status().pid);
  stop();
  EXPECT_FALSE(runs(stray));
}

TEST_F(ProcessBackendTest, StraysOfOtherAppsAreLeftAlone) {
  make({.command = shell("CPP_CLUSTER_APP=other " + kToolInShell + " stray " + path("stray") +
                         "; exec sleep 1000")});
  EXPECT_EQ(start(), "");
  pid_t stray = reported("stray");
  stop();
  EXPECT_TRUE(runs(stray));
}

TEST_F(ProcessBackendTest, KillNowEndsTheGroupWithoutTheLoop) {
  make({.command = {kTool, "stubborn", path("child")}, .stop_timeout = 1h});
  EXPECT_EQ(start(), "");
  pid_t parent = backend_->status().pid;
  pid_t child = reported("child");
  backend_->kill_now();
  Time end = BootClock::now() + kLong;
  while ((runs(parent) || runs(child)) && BootClock::now() < end) ::usleep(1000);
  EXPECT_FALSE(runs(parent));
  EXPECT_FALSE(runs(child));
  stop();
  EXPECT_EQ(groups_.back(), 0);
  EXPECT_FALSE(gave_up_);
}

TEST_F(ProcessBackendTest, KillNowCutsAStopUnderWayShort) {
  make({.command = {kTool, "stubborn", path("child")}, .stop_timeout = 1h});
  EXPECT_EQ(start(), "");
  reported("child");
  int done = 0;
  backend_->stop([&] { ++done; });
  backend_->stop([&] { ++done; });
  backend_->kill_now();
  EXPECT_TRUE(until([&] { return done == 2; }));
}

TEST_F(ProcessBackendTest, AStopWhileItStartsEndsBoth) {
  make({.command = shell("exec sleep 1000"), .ready = ReadyDelay{20s}});
  for (bool spawned : {false, true}) {
    std::string result;
    bool stopped = false;
    backend_->start(1, "leader", [&](const std::optional<Error>& error) {
      ASSERT_TRUE(error);
      EXPECT_EQ(error->errc(), Errc::shutting_down);
      result = error->what();
    });
    if (spawned) {
      ASSERT_TRUE(until([&] { return backend_->status().pid != 0; }));
    }
    backend_->stop([&] { stopped = true; });
    ASSERT_TRUE(until([&] { return stopped; }));
    EXPECT_HAS(result, "was stopped before it was ready");
    EXPECT_EQ(state(), State::stopped);
  }
  EXPECT_TRUE(find_marked({instance_mark(marker_)}).empty());
}

TEST_F(ProcessBackendTest, AStopWhileBackingOffEndsTheRestarts) {
  make({.command = shell("while ! test -e " + path("die") + "; do sleep 0.01; done; exit 1"),
        .backoff_min = 50ms});
  EXPECT_EQ(start(), "");
  std::ofstream(path("die")) << "";
  ASSERT_TRUE(until([&] { return state() == State::backing_off; }));
  stop();
  stop();
  auto groups = groups_.size();
  loop_.run_until([] { return false; },
                  150ms);  // nothing may happen while a restart would have been due
  EXPECT_EQ(groups_.size(), groups);
  EXPECT_EQ(state(), State::stopped);
}

TEST_F(ProcessBackendTest, CallbacksMayDestroyTheBackend) {
  make({.command = shell("exec sleep 1000")});
  bool done = false;
  backend_->start(1, "leader", [&](const std::optional<Error>&) {
    backend_.reset();
    done = true;
  });
  ASSERT_TRUE(until([&] { return done; }));
  make({.command = shell("exec sleep 1000")});
  EXPECT_EQ(start(), "");
  done = false;
  backend_->stop([&] {
    backend_.reset();
    done = true;
  });
  ASSERT_TRUE(until([&] { return done; }));
  EXPECT_TRUE(find_marked({instance_mark(marker_)}).empty());
}

TEST_F(ProcessBackendTest, DestroyingItKillsTheProgram) {
  make({.command = {kTool, "stubborn", path("child")}});
  EXPECT_EQ(start(), "");
  pid_t parent = backend_->status().pid;
  pid_t child = reported("child");
  backend_.reset();
  EXPECT_TRUE(until([&] { return !runs(parent) && !runs(child); }));
}

TEST_F(ProcessBackendTest, ManyStartsAndStopsLeakNothing) {
  make({.command = shell("exec sleep 1000")});
  auto descriptors = [] {
    return std::distance(std::filesystem::directory_iterator("/proc/self/fd"),
                         std::filesystem::directory_iterator());
  };
  EXPECT_EQ(start(), "");
  stop();
  auto before = descriptors();
  for (int i = 0; i < 30; ++i) {
    EXPECT_EQ(start(), "");
    stop();
  }
  // A strand may still be about to close what the last look for left-overs had open.
  EXPECT_TRUE(until([&] { return descriptors() <= before; })) << descriptors() << " of " << before;
}

// ---- the node's death, left-overs

class NodeDeathTest : public ProcessBackendTest {
 protected:
  // A node of its own that runs the command; returns its process id once the program is ready.
  pid_t run_node(std::vector<std::string> command, const std::string& user = "") {
    std::vector<std::string> words = {kTool, "node", marker_, path("backend"), user};
    words.insert(words.end(), command.begin(), command.end());
    std::vector<char*> arguments;
    for (auto& word : words) arguments.push_back(word.data());
    arguments.push_back(nullptr);
    EXPECT_EQ(::posix_spawn(&node_, kTool.c_str(), nullptr, nullptr, arguments.data(), environ), 0);
    return node_;
  }
  void kill_node() {
    if (node_ <= 0) return;
    ::kill(node_, SIGKILL);
    ::waitpid(node_, nullptr, 0);
    node_ = 0;
  }
  ~NodeDeathTest() override { kill_node(); }

  pid_t node_ = 0;
};

TEST_F(NodeDeathTest, TheProgramDiesWithANodeThatIsKilled) {
  run_node({"sleep", "1000"});
  pid_t program = reported("backend");
  EXPECT_TRUE(runs(program));
  kill_node();
  EXPECT_TRUE(until([&] { return !runs(program); }));
}

TEST_F(NodeDeathTest, TheProgramDiesWithANodeThatIsKilledAlsoAsAnotherUser) {
  if (::geteuid() != 0 || !::getpwnam("nobody"))
    GTEST_SKIP() << "needs root and a user called nobody";
  run_node({"sleep", "1000"}, "nobody");
  pid_t program = reported("backend");
  EXPECT_TRUE(runs(program));
  kill_node();
  EXPECT_TRUE(until([&] { return !runs(program); }));
}

TEST_F(NodeDeathTest, LeftOversOfADeadNodeAreFoundAndEnded) {
  run_node(shell(kToolInShell + " stray " + path("stray") + "; exec sleep 1000"));
  pid_t program = reported("backend");
  pid_t stray = reported("stray");
  kill_node();
  EXPECT_TRUE(until([&] { return !runs(program); }));
  EXPECT_TRUE(runs(stray));
  // The stray's parents may still be on their way out.
  EXPECT_TRUE(until([&] { return find_leftovers(marker_).size() == 1; }));
  auto found = find_leftovers(marker_);
  ASSERT_EQ(found.size(), 1u);
  EXPECT_EQ(found[0].pid, stray);
  EXPECT_HAS(found[0].command, "stray " + path("stray"));
  auto ended = end_leftovers(marker_, kLong);
  ASSERT_EQ(ended.size(), 1u);
  EXPECT_EQ(ended[0].pid, stray);
  EXPECT_FALSE(runs(stray));
  EXPECT_TRUE(find_leftovers(marker_).empty());
  EXPECT_TRUE(end_leftovers(marker_, kLong).empty());
}

TEST_F(NodeDeathTest, LeftOversOfOtherFoldersAreLeftAlone) {
  run_node({"sleep", "1000"});
  pid_t program = reported("backend");
  EXPECT_TRUE(end_leftovers(marker_ + "x", kLong).empty());
  EXPECT_TRUE(end_leftovers(marker_.substr(0, marker_.size() - 1), kLong).empty());
  EXPECT_TRUE(runs(program));
}

// ---- options

TEST(CheckProcess, SaysAllThatIsWrongWithItsPath) {
  auto problems = check_process({.command = {},
                                 .environment = {{"A=B", "x"}, {"CPP_CLUSTER_APP", "y"}},
                                 .ready = ReadyTcp{.port = 70000},
                                 .health_failures = 0,
                                 .backoff_min = 5s,
                                 .backoff_max = 1s},
                                "apps.db.backend");
  ASSERT_EQ(problems.size(), 6u);
  EXPECT_EQ(problems[0], "apps.db.backend.command: is empty; give the program and its arguments");
  EXPECT_EQ(problems[3], "apps.db.backend.ready.port: 70000 is no port from 1 to 65535");
  EXPECT_TRUE(check_process({.command = {"x"}}, "b").empty());
}

TEST(HttpUrl, IsTakenApart) {
  auto url = parse_http_url("http://[::1]:8080/a?b#c");
  EXPECT_EQ(url.host, "::1");
  EXPECT_EQ(url.port, 8080);
  EXPECT_EQ(url.path, "/a?b");
  url = parse_http_url("http://example?x");
  EXPECT_EQ(url.host, "example");
  EXPECT_EQ(url.port, 80);
  EXPECT_EQ(url.path, "/?x");
  for (const char* bad :
       {"", "ftp://x", "https://x/", "http://", "http://:80", "http://x:0", "http://x:y",
        "http://[::1", "http://a b", "http://x/\r\nHost: y", "http://u@x", "http://[::1]x"})
    EXPECT_THROW(parse_http_url(bad), Error) << bad;
}

}  // namespace
}  // namespace cluster
