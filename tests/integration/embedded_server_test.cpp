// The embedded server: what it says when it can't start, that it dies with its parent, what is
// kept.
#include "nats/embedded_server.h"

#include <csignal>
#include <fstream>

#include <fcntl.h>
#include <sys/socket.h>
#include <sys/stat.h>
#include <sys/wait.h>
#include <unistd.h>

#include "integration/nats_fixture.h"
#include "nats/server_url.h"

namespace cluster::nats {
namespace {

using testing::connect;
using testing::kSoon;
using testing::must;
using testing::TemporaryFolder;

EmbeddedNats options(const TemporaryFolder& folder) {
  EmbeddedNats o;
  o.folder = folder / "nats";
  o.port = 0;
  o.server_name = "one";
  o.sync_always = false;
  return o;
}

std::string script(const TemporaryFolder& folder, const std::string& text) {
  std::string path = folder / "nats-server";
  std::ofstream(path) << "#!/bin/sh\n" << text;
  ::chmod(path.c_str(), 0755);
  return path;
}

Error error_of(const std::function<void()>& what) {
  try {
    what();
  } catch (const Error& error) {
    return error;
  }
  return Error(Errc::corrupt, "there was no error");
}

bool says(const Error& error, const std::string& part) {
  return std::string(error.what()).find(part) != std::string::npos;
}

TEST(EmbeddedServer, ServesJetStreamAndKeepsItsFiles) {
  TemporaryFolder folder;
  int port = 0;
  for (int round = 0; round < 2; ++round) {
    auto o = options(folder);
    o.port = port;
    o.sync_always = true;
    EmbeddedServer server(o);
    server.wait_ready(kSoon);
    port = server.options().port;
    Loop loop;
    ConnectOptions to;
    to.nats.servers = {server.url()};
    Connection c(loop, to);
    ASSERT_TRUE(connect(c));
    EXPECT_EQ(c.server().server_name, "one");
    JetStream js(c);
    KeyValue kv(js, "b");
    must(loop, [&](auto done) { kv.ensure({.bucket = "b"}, done); });
    auto put = await<std::uint64_t>(loop, kSoon, [&](auto done) { kv.put("k", "v", done); });
    EXPECT_EQ(put.value(), static_cast<std::uint64_t>(round) + 1);
    EXPECT_TRUE(server.running());
  }
}

TEST(EmbeddedServer, AMissingProgramIsNamed) {
  TemporaryFolder folder;
  auto o = options(folder);
  o.binary = "/nowhere/nats-server";
  auto error = error_of([&] { EmbeddedServer server(o); });
  EXPECT_EQ(error.errc(), Errc::not_found);
  EXPECT_TRUE(says(error, "/nowhere/nats-server") && says(error, "install")) << error.what();
}

TEST(EmbeddedServer, AnOldOneIsRefusedWithBothVersions) {
  TemporaryFolder folder;
  auto o = options(folder);
  o.binary = script(folder, "echo 'nats-server: v2.9.25'\n");
  auto error = error_of([&] { EmbeddedServer server(o); });
  EXPECT_EQ(error.errc(), Errc::incompatible);
  EXPECT_TRUE(says(error, "2.9.25") && says(error, "2.10")) << error.what();
  o.binary = script(folder, "echo 'something else'\n");
  EXPECT_EQ(error_of([&] { EmbeddedServer server(o); }).errc(), Errc::incompatible);
}

TEST(EmbeddedServer, OneThatEndsAtOnceIsReportedWithItsLastWords) {
  TemporaryFolder folder;
  auto o = options(folder);
  o.binary = script(folder,
                    "[ \"$1\" = --version ] && { echo 'nats-server: v2.10.27'; exit; }\necho 'the "
                    "disk is on fire' >&2\nexit 3\n");
  EmbeddedServer server(o);
  auto error = error_of([&] { server.wait_ready(kSoon); });
  EXPECT_EQ(error.errc(), Errc::backend_failed);
  EXPECT_TRUE(says(error, "the disk is on fire")) << error.what();
  std::string why;
  EXPECT_FALSE(server.running(&why));
  EXPECT_NE(why.find("status 3"), std::string::npos) << why;
}

TEST(EmbeddedServer, ATakenPortIsReported) {
  TemporaryFolder a;
  TemporaryFolder b;
  EmbeddedServer first(options(a));
  first.wait_ready(kSoon);
  auto o = options(b);
  o.port = first.options().port;
  EmbeddedServer second(o);
  auto error = error_of(
      [&] { second.wait_ready(kSoon); });  // that the first one answers there is not enough
  EXPECT_EQ(error.errc(), Errc::backend_failed);
  EXPECT_TRUE(says(error, "address already in use")) << error.what();
}

TEST(EmbeddedServer, AFolderInUseIsRefused) {
  TemporaryFolder folder;
  EmbeddedServer first(options(folder));
  first.wait_ready(kSoon);
  auto error = error_of([&] { EmbeddedServer second(options(folder)); });
  EXPECT_EQ(error.errc(), Errc::system);
  EXPECT_TRUE(says(error, "process " + std::to_string(first.pid()))) << error.what();
}

TEST(EmbeddedServer, DiesWithItsParentAndTheFolderIsFreeAgain) {
  TemporaryFolder folder;
  int ends[2];
  ASSERT_EQ(::pipe2(ends, O_CLOEXEC), 0);
  pid_t parent = ::fork();
  if (parent == 0) {
    pid_t pid = 0;
    try {
      auto server = std::make_unique<EmbeddedServer>(options(folder));
      server->wait_ready(kSoon);
      pid = server->pid();
      server.release();
    } catch (...) {
    }
    [[maybe_unused]] auto n = ::write(ends[1], &pid, sizeof pid);
    ::pause();
    ::_exit(0);
  }
  pid_t server = 0;
  ASSERT_EQ(::read(ends[0], &server, sizeof server), static_cast<ssize_t>(sizeof server));
  ::close(ends[0]);
  ::close(ends[1]);
  ASSERT_GT(server, 0);
  ASSERT_EQ(::kill(server, 0), 0);
  ::kill(parent, SIGKILL);
  ::waitpid(parent, nullptr, 0);
  // It waits for the folder for some seconds, in which a busy machine may not get to the server's
  // end.
  std::unique_ptr<EmbeddedServer> next;
  const Time end = BootClock::now() + kSoon;
  while (!next) {
    try {
      next = std::make_unique<EmbeddedServer>(options(folder));
    } catch (const Error& error) {
      ASSERT_TRUE(error.errc() == Errc::system && BootClock::now() < end) << error.what();
    }
  }
  next->wait_ready(kSoon);
  EXPECT_TRUE(next->running());
}

TEST(EmbeddedServer, AServerThatHangsIsKilledAndTheRestReportedAsTimeout) {
  TemporaryFolder folder;
  EmbeddedServer server(options(folder));
  server.wait_ready(kSoon);
  testing::freeze(server.pid());
  auto error = error_of([&] { server.wait_ready(std::chrono::milliseconds(200)); });
  EXPECT_EQ(error.errc(), Errc::timeout) << error.what();
  testing::thaw(server.pid());
  server.wait_ready(kSoon);
}

}  // namespace
}  // namespace cluster::nats
