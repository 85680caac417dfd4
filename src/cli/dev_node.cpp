#include "cli/dev_node.h"

#include <cerrno>
#include <csignal>
#include <cstring>
#include <filesystem>
#include <vector>

#include <fcntl.h>
#include <sys/epoll.h>
#include <sys/wait.h>
#include <unistd.h>

#include "cli/command.h"
#include "ops/spawn.h"

namespace cluster::cli {
namespace {

constexpr std::size_t kLongestLine = 16 * 1024;
constexpr std::chrono::seconds kRestartDelay{1};

// What the file says must not be beaten by what this shell happens to have set.
std::vector<std::string> child_environment() {
  std::vector<std::string> environment = node_environment();
  std::erase_if(environment, [](const std::string& entry) {
    const std::string name = entry.substr(0, entry.find('='));
    return name.rfind("CPP_CLUSTER_", 0) == 0 || name == "NATS_URL" || name == "NODE_ID" ||
           name == "PLATFORM";
  });
  // All nodes of the platform are started at once.
  environment.emplace_back("CPP_CLUSTER_FOUNDING_WAIT=0s");
  return environment;
}

void write_private(const std::string& file, const std::string& text) {
  const UniqueFd fd(::open(file.c_str(), O_WRONLY | O_CREAT | O_TRUNC | O_CLOEXEC, 0600));
  if (!fd || ::write(fd.get(), text.data(), text.size()) != static_cast<ssize_t>(text.size()))
    throw CommandError(Exit::failed, "can't write " + file + ": " + std::strerror(errno));
}

std::string how_it_ended(int status) {
  if (WIFSIGNALED(status))
    return "was killed by signal " + std::to_string(WTERMSIG(status)) + " (" +
           strsignal(WTERMSIG(status)) + ")";
  return "has ended with status " + std::to_string(WEXITSTATUS(status));
}

}  // namespace

struct DevNode::State {
  State(Loop& l, DevNodeOptions o) : loop(l), options(std::move(o)) {}

  void start();
  void read_output();
  void print_line(const std::string& line) const;
  void ended();
  void start_later();
  void say(const std::string& what) const { print_line("-- " + what); }

  Loop& loop;
  DevNodeOptions options;
  Child child{};
  UniqueFd output{};
  std::string partial{};
  bool stopping = false;
  LoopSource on_output{};
  LoopSource on_exit{};
  LoopSource restart{};
};

void DevNode::State::start() {
  std::error_code failure;
  const std::string self = std::filesystem::read_symlink("/proc/self/exe", failure).string();
  if (failure) throw CommandError(Exit::failed, "can't find this program: " + failure.message());
  Launch launch = prepare_launch(
      {.command = {self, "run", "--config", options.file}, .log_file = options.log_file},
      child_environment(), {});
  if (options.log_file.empty()) {
    int ends[2] = {-1, -1};
    if (::pipe2(ends, O_CLOEXEC) != 0)
      throw CommandError(Exit::failed, std::string("pipe: ") + std::strerror(errno));
    output.reset(ends[0]);
    launch.output.reset(ends[1]);
    // Room, so that a node rarely waits for a terminal that is slow or stopped.
    ::fcntl(output.get(), F_SETPIPE_SZ, 1 << 20);
    ::fcntl(output.get(), F_SETFL, O_NONBLOCK);
    on_output = loop.on_fd(output.get(), EPOLLIN, [this](unsigned) { read_output(); });
  }
  child = spawn(launch);
  open_gate(child);
  on_exit = loop.on_exit(child.pidfd.get(), [this] { ended(); });
}

void DevNode::State::print_line(const std::string& line) const {
  static const char* const kColours[] = {"\033[36m", "\033[33m", "\033[35m", "\033[32m",
                                         "\033[34m"};
  const std::string name = "[" + options.name + "] ";
  const std::size_t colour = static_cast<std::size_t>(options.number - 1) % std::size(kColours);
  print((use_colour() ? kColours[colour] + name + "\033[0m" : name) + line + "\n");
}

void DevNode::State::read_output() {
  char buffer[8192];
  ssize_t n = 0;
  // As much as there is now, but never so much that others wait.
  for (int i = 0; i < 16 && (n = ::read(output.get(), buffer, sizeof buffer)) > 0; ++i) {
    partial.append(buffer, static_cast<std::size_t>(n));
    for (auto end = partial.find('\n'); end != std::string::npos; end = partial.find('\n')) {
      print_line(partial.substr(0, end));
      partial.erase(0, end + 1);
    }
    if (partial.size() > kLongestLine) {
      print_line(partial);
      partial.clear();
    }
  }
  if (n == 0) on_output.reset();
}

void DevNode::State::ended() {
  int status = 0;
  ::waitpid(child.pid, &status, 0);
  if (output) read_output();
  if (!partial.empty()) print_line(std::exchange(partial, {}));
  on_output.reset();
  on_exit.reset();
  child = Child{};
  if (stopping) {
    say(WIFEXITED(status) && WEXITSTATUS(status) == 0 ? "has stopped" : how_it_ended(status));
    return;
  }
  // A configuration that is wrong stays wrong.
  const bool hopeless = WIFEXITED(status) && WEXITSTATUS(status) == static_cast<int>(Exit::usage);
  const bool again = options.restart && !hopeless;
  say(how_it_ended(status) + (again ? ": starting it again in a second" : ""));
  if (again) start_later();
}

void DevNode::State::start_later() {
  restart = loop.after(kRestartDelay, [this] {
    try {
      start();
    } catch (const std::exception& error) {
      on_output.reset();
      say(std::string("can't be started again, which is tried each second: ") + error.what());
      return start_later();
    }
    say("is started again, pid " + std::to_string(child.pid));
  });
}

DevNode::DevNode(Loop& loop, DevNodeOptions options)
    : state_(std::make_unique<State>(loop, std::move(options))) {
  write_private(state_->options.file, state_->options.yaml);
  state_->start();
}

DevNode::~DevNode() {
  if (!running()) return;
  ::kill(state_->child.pid, SIGKILL);
  while (::waitpid(state_->child.pid, nullptr, 0) < 0 && errno == EINTR) {
  }
}

const std::string& DevNode::name() const noexcept { return state_->options.name; }
const std::string& DevNode::log_file() const noexcept { return state_->options.log_file; }
pid_t DevNode::pid() const noexcept { return state_->child.pid; }

void DevNode::stop() {
  state_->stopping = true;
  state_->restart.reset();
  if (running()) ::kill(state_->child.pid, SIGTERM);
}

}  // namespace cluster::cli
