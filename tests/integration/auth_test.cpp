// Who may connect, and how that is encrypted: users, tokens, NKeys, credentials files, TLS and
// mutual TLS; and what is said when it is refused.
#include <cstdlib>
#include <fstream>

#include "built.h"
#include "integration/configured_server.h"
#include "integration/nats_fixture.h"
#include "nats/credentials.h"

namespace cluster::nats {
namespace {

using testing::ConfiguredServer;
using testing::connect;
using testing::kSoon;
using testing::TemporaryFolder;

constexpr char kNkeySeed[] =
    "SUANLCNIOTTYYYYGANOZWRVPG5G7RXN7NI2EAR5PRHBEQKUYMEIOON47KI";  // made for this test
constexpr char kNkey[] = "UB2NIBKNRQNG3S22YTNOCIAWBCL233HGHCXIGAX7U3GTKYFUOMQBIM4E";

std::string text_of(const std::string& path) {
  std::ifstream file(path);
  std::ostringstream text;
  text << file.rdbuf();
  return text.str();
}

Nats nats_at(const std::string& url) {
  Nats n;
  n.servers = {url};
  return n;
}

// Runs until connected, or until the first reason why not, which it returns.
std::string outcome(const Nats& nats) {
  Loop loop;
  ConnectOptions o;
  o.nats = nats;
  Connection c(loop, o);
  std::string why;
  c.on_state([&](ConnectionState, const std::string& reason) {
    // It is starting, or the machine is slow: the next try may tell more.
    if (reason.find("connection refused") == std::string::npos &&
        reason.find("connection timed out") == std::string::npos &&
        reason.find("no answer within the time limit") == std::string::npos)
      why = reason;
  });
  loop.run_until([&] { return !why.empty() || c.state() == ConnectionState::connected; }, kSoon);
  if (c.state() != ConnectionState::connected) return why.empty() ? "nothing happened" : why;
  // The proof that it may also be used.
  Message m;
  m.subject = "test.echo";
  auto echo = c.subscribe("test.echo", [&](Message request) {
    Message answer;
    answer.subject = request.reply;
    c.publish(answer);
  });
  auto answer = await<Message>(loop, kSoon, [&](auto done) { c.request(m, kSoon, done); });
  return answer ? "connected" : answer.error().what();
}

::testing::AssertionResult refused(const std::string& got, const std::string& part) {
  if (got.find(part) != std::string::npos && got != "connected")
    return ::testing::AssertionSuccess();
  return ::testing::AssertionFailure() << "\"" << got << "\" does not say \"" << part << "\"";
}

TEST(Authentication, UserAndPassword) {
  ConfiguredServer server("authorization { timeout: 30, user: u, password: \"p@ss\" }\n");
  auto n = nats_at("nats://" + server.place());
  EXPECT_TRUE(refused(outcome(n), "refuses the credentials"));
  n.user = "u";
  n.password = "wrong";
  EXPECT_TRUE(refused(outcome(n), "refuses the credentials"));
  n.password = "p@ss";
  EXPECT_EQ(outcome(n), "connected");
}

TEST(Authentication, UserAndPasswordInTheUrlAndNotInMessages) {
  ConfiguredServer server("authorization { timeout: 30, user: u, password: secret }\n");
  EXPECT_EQ(outcome(nats_at("nats://u:secret@" + server.place())), "connected");
  auto why = outcome(nats_at("nats://u:wrongsecret@" + server.place()));
  EXPECT_TRUE(refused(why, "refuses the credentials"));
  EXPECT_EQ(why.find("wrongsecret"), std::string::npos) << why;
}

TEST(Authentication, Token) {
  ConfiguredServer server("authorization { timeout: 30, token: s3cr3t }\n");
  auto n = nats_at("nats://" + server.place());
  n.token = "wrong";
  EXPECT_TRUE(refused(outcome(n), "refuses the credentials"));
  n.token = "s3cr3t";
  EXPECT_EQ(outcome(n), "connected");
}

TEST(Authentication, NKey) {
  EXPECT_EQ(public_nkey_of_seed(kNkeySeed).value(), kNkey);
  std::string damaged = kNkeySeed;
  damaged[10] = damaged[10] == 'A' ? 'B' : 'A';
  EXPECT_FALSE(public_nkey_of_seed(damaged));
  EXPECT_FALSE(public_nkey_of_seed(""));
  EXPECT_FALSE(public_nkey_of_seed(kNkey));
  ConfiguredServer server(std::string("authorization { timeout: 30, users: [ { nkey: ") + kNkey +
                          " } ] }\n");
  auto n = nats_at("nats://" + server.place());
  EXPECT_TRUE(refused(outcome(n), "refuses the credentials"));
  n.nkey_seed_file = server / "user.nk";
  std::ofstream(n.nkey_seed_file) << kNkeySeed << "\n";
  EXPECT_EQ(outcome(n), "connected");
  std::ofstream(n.nkey_seed_file) << damaged << "\n";
  EXPECT_TRUE(check_credentials(n).has_value());
}

TEST(Authentication, CredentialsFile) {
  const std::string data = std::string(built::kDataFolder) + "/nats/";
  ConfiguredServer server(text_of(data + "operator.conf") +
                          "jetstream: disabled\n");  // it would want a system account
  auto n = nats_at("nats://" + server.place());
  EXPECT_TRUE(refused(outcome(n), "refuses the credentials"));
  n.creds_file = data + "user.creds";
  EXPECT_EQ(outcome(n), "connected");
  n.creds_file = data + "operator.conf";
  EXPECT_NE(std::string(check_credentials(n)->what()).find("user JWT"), std::string::npos);
}

TEST(Authentication, ARefusalNamesTheSubject) {
  ConfiguredServer server(
      "authorization { timeout: 30, users: [ { user: u, password: p, permissions: { publish: "
      "[\"ok\", "
      "\"_INBOX.>\"], "
      "subscribe: [\"ok\", \"_INBOX.>\"] } } ] }\n");
  Loop loop;
  ConnectOptions o;
  o.nats = nats_at("nats://" + server.place());
  o.nats.user = "u";
  o.nats.password = "p";
  Connection c(loop, o);
  std::vector<Error> errors;
  c.on_error([&](const Error& e) { errors.push_back(e); });
  ASSERT_TRUE(connect(c));
  Message m;
  m.subject = "not.mine";
  auto answer = await<Message>(loop, kSoon, [&](auto done) { c.request(m, kSoon, done); });
  ASSERT_FALSE(answer);
  EXPECT_EQ(answer.error().errc(), Errc::permission_denied);
  EXPECT_NE(std::string(answer.error().what()).find("\"not.mine\""), std::string::npos)
      << answer.error().what();
  ASSERT_EQ(errors.size(), 1u);
  auto sub = c.subscribe("secrets.>", [](Message) {});
  ASSERT_TRUE(loop.run_until([&] { return errors.size() == 2; }, kSoon));
  EXPECT_EQ(errors[1].errc(), Errc::permission_denied);
  EXPECT_NE(std::string(errors[1].what()).find("\"secrets.>\""), std::string::npos)
      << errors[1].what();
  EXPECT_EQ(c.state(), ConnectionState::connected);
}

TEST(Authentication, ARefusedInboxFailsRequestsAtOnce) {
  ConfiguredServer server(
      "authorization { timeout: 30, users: [ { user: u, password: p, permissions: { subscribe: "
      "[\"ok\"] } } ] "
      "}\n");
  Loop loop;
  ConnectOptions o;
  o.nats = nats_at("nats://u:p@" + server.place());
  Connection c(loop, o);
  std::vector<Error> errors;
  c.on_error([&](const Error& e) { errors.push_back(e); });
  ASSERT_TRUE(connect(c));
  ASSERT_TRUE(loop.run_until([&] { return !errors.empty(); }, kSoon));
  EXPECT_NE(std::string(errors[0].what()).find("_INBOX."), std::string::npos);
  Message m;
  m.subject = "ok";
  auto answer = await<Message>(loop, kSoon, [&](auto done) { c.request(m, kSoon, done); });
  ASSERT_FALSE(answer);
  EXPECT_EQ(answer.error().errc(), Errc::permission_denied) << answer.error().what();
}

TEST(Authentication, JetStreamThatIsNotEnabledIsNamedWithWhatToDo) {
  // The last word counts: this switches off what the embedded server's configuration switches on.
  ConfiguredServer server("jetstream: disabled\n");
  Loop loop;
  ConnectOptions o;
  o.nats = nats_at("nats://" + server.place());
  Connection c(loop, o);
  ASSERT_TRUE(connect(c));
  EXPECT_FALSE(c.server().jetstream);
  JetStream js(c);
  try {
    testing::must(loop, [&](auto done) { check_server(js, done); });
    FAIL();
  } catch (const Error& error) {
    EXPECT_EQ(error.errc(), Errc::unavailable);
    EXPECT_NE(std::string(error.what()).find("-js"), std::string::npos) << error.what();
  }
  EXPECT_THROW((*server).wait_ready(std::chrono::milliseconds(300)), Error);
}

// Certificates made on the spot: an authority, a server's, a client's.
class TlsTest : public ::testing::Test {
 protected:
  void SetUp() override {
    if (std::system("openssl version >/dev/null 2>&1") != 0)
      GTEST_SKIP() << "there is no openssl command";
    const std::string script = R"(
set -e
cd ')" + folder.path().string() +
                               R"('
key='-newkey ec -pkeyopt ec_paramgen_curve:prime256v1 -nodes'
openssl req -x509 $key -keyout ca.key -out ca.pem -subj /CN=test-ca -days 2
for who in server client; do
  openssl req $key -keyout $who.key -out $who.csr -subj /CN=$who
  printf 'subjectAltName=DNS:localhost,DNS:nats.test,IP:127.0.0.1\n' >ext
  openssl x509 -req -in $who.csr -CA ca.pem -CAkey ca.key -CAcreateserial -out $who.pem -days 2 -extfile ext
done
)";
    ASSERT_EQ(std::system(("{ " + script + "} >/dev/null 2>&1").c_str()), 0);
  }
  std::string config(const std::string& more = {}) const {
    return "tls { cert_file: \"" + (folder / "server.pem") + "\", key_file: \"" +
           (folder / "server.key") + "\", ca_file: \"" + (folder / "ca.pem") + "\", timeout: 30" +
           more + " }\n";
  }
  TemporaryFolder folder;
};

TEST_F(TlsTest, AServersCertificateIsChecked) {
  ConfiguredServer server(config());
  auto n = nats_at("tls://localhost:" + std::to_string(server.port()));
  n.tls.ca_file = folder / "ca.pem";
  EXPECT_EQ(outcome(n), "connected");
  n.servers = {"nats://localhost:" + std::to_string(server.port())};
  n.tls.enabled = true;
  EXPECT_EQ(outcome(n), "connected");
  n.servers = {"tls://127.0.0.1:" + std::to_string(server.port())};
  EXPECT_EQ(outcome(n), "connected");
  n.tls.server_name = "nats.test";
  EXPECT_EQ(outcome(n), "connected");
  n.tls.server_name = "other.test";
  EXPECT_TRUE(refused(outcome(n), "hostname mismatch"));
  n.tls.skip_verification = true;
  EXPECT_EQ(outcome(n), "connected");
  n.tls = {};
  EXPECT_TRUE(refused(outcome(n), "certificate"));  // not of an authority that the system knows
}

TEST_F(TlsTest, AServerDecidesWhetherThereIsTls) {
  ConfiguredServer plain("");
  auto n = nats_at("tls://localhost:" + std::to_string(plain.port()));
  n.tls.ca_file = folder / "ca.pem";
  EXPECT_TRUE(refused(outcome(n), "has no TLS"));
  // One that wants it gets it, with all checks, whatever the URL says.
  ConfiguredServer encrypted(config());
  n = nats_at("nats://localhost:" + std::to_string(encrypted.port()));
  EXPECT_TRUE(refused(outcome(n), "certificate"));
  n.tls.ca_file = folder / "ca.pem";
  EXPECT_EQ(outcome(n), "connected");
}

TEST_F(TlsTest, AClientsCertificateIsAskedForAndSent) {
  ConfiguredServer server(config(", verify: true"));
  auto n = nats_at("tls://localhost:" + std::to_string(server.port()));
  n.tls.ca_file = folder / "ca.pem";
  EXPECT_TRUE(refused(outcome(n), "certificate"));
  n.tls.cert_file = folder / "client.pem";
  EXPECT_NE(std::string(check_credentials(n)->what()).find("belong together"), std::string::npos);
  n.tls.key_file = folder / "client.key";
  EXPECT_EQ(outcome(n), "connected");
  n.tls.key_file = folder / "server.key";
  EXPECT_TRUE(refused(outcome(n), "tls.cert_file"));
}

TEST_F(TlsTest, AReconnectIsEncryptedAgain) {
  ConfiguredServer server(config());
  Loop loop;
  ConnectOptions o;
  o.nats = nats_at("tls://localhost:" + std::to_string(server.port()));
  o.nats.tls.ca_file = folder / "ca.pem";
  Connection c(loop, o);
  ASSERT_TRUE(connect(c));
  for (int i = 0; i < 3; ++i) {
    (*server).kill_hard();
    ASSERT_TRUE(loop.run_until([&] { return c.state() == ConnectionState::reconnecting; }, kSoon));
    (*server).start_again();
    ASSERT_TRUE(connect(c));
    testing::must(loop, [&](auto done) { c.flush(kSoon, done); });
  }
}

}  // namespace
}  // namespace cluster::nats
