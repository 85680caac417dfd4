// What the NATS layer parses: URLs, places of delivered messages, stored messages, times.
#include <gtest/gtest.h>
#include <rapidcheck/gtest.h>

#include "nats/server_url.h"
#include "nats/stored_message.h"

namespace cluster::nats {
namespace {

TEST(ServerUrl, IsTakenApart) {
  auto url = parse_server_url(" tls://u:p@a@example.org:4333/ ").value();
  EXPECT_TRUE(url.tls);
  EXPECT_EQ(url.user, "u");
  EXPECT_EQ(url.password, "p@a");
  EXPECT_EQ(url.host, "example.org");
  EXPECT_EQ(url.port, 4333);
  EXPECT_EQ(url.text(), "tls://example.org:4333");
  EXPECT_EQ(parse_server_url("host").value().text(), "nats://host:4222");
  EXPECT_EQ(parse_server_url("nats://[::1]:5").value().text(), "nats://[::1]:5");
  EXPECT_EQ(parse_server_url("nats://[::1]").value().host, "::1");
  EXPECT_TRUE(parse_server_url("10.0.0.1:4222").value().host_is_address());
  EXPECT_FALSE(parse_server_url("a.b").value().host_is_address());
  EXPECT_EQ(parse_server_url("nats://token@h").value().full_text(), "nats://token@h:4222");
}

TEST(ServerUrl, FaultsAreNamedWithoutSecrets) {
  for (const char* bad :
       {"", "nats://", "http://x", "nats://h:0", "nats://h:65536", "nats://h:x", "nats://h:", "::1",
        "nats://[::1", "nats://[x]", "nats://[::1]4222", "nats://a/b"})
    EXPECT_FALSE(parse_server_url(bad)) << bad;
  std::string text = parse_server_url("nats://u:secret@h:x").error().what();
  EXPECT_EQ(text.find("secret"), std::string::npos) << text;
  auto all = parse_server_urls({"nats://a,nats://b:1", "ftp://c", "d:x"});
  ASSERT_FALSE(all);
  text = all.error().what();
  EXPECT_NE(text.find("ftp://c"), std::string::npos);
  EXPECT_NE(text.find("d:x"), std::string::npos);
  EXPECT_EQ(parse_server_urls({"a,b", "c"}).value().size(), 3u);
  EXPECT_FALSE(parse_server_urls({}));
}

TEST(DeliveryPlace, IsReadFromBothForms) {
  auto old = delivery_place_from("$JS.ACK.S.C.1.22.3.1700000000000000000.4");
  ASSERT_TRUE(old);
  EXPECT_EQ(old->stream_sequence, 22u);
  EXPECT_EQ(old->consumer_sequence, 3u);
  EXPECT_EQ(old->time_ns, 1'700'000'000'000'000'000);
  EXPECT_EQ(old->pending, 4u);
  for (const char* fresh :
       {"$JS.ACK.domain.hash.S.C.1.22.3.17.4", "$JS.ACK._.hash.S.C.1.22.3.17.4.random"}) {
    auto place = delivery_place_from(fresh);
    ASSERT_TRUE(place) << fresh;
    EXPECT_EQ(place->stream_sequence, 22u);
    EXPECT_EQ(place->consumer_sequence, 3u);
    EXPECT_EQ(place->pending, 4u);
  }
  for (const char* bad :
       {"", "_INBOX.x", "$JS.ACK.S.C.1.x.3.17.4", "$JS.ACK.S.C.1.2.3.4",
        "$JS.ACK.a.S.C.1.22.3.17.4", "$JS.FC.S.C.1.22.3.17.4", "$JS.ACK.S.C.1.-2.3.17.4"})
    EXPECT_FALSE(delivery_place_from(bad)) << bad;
}

TEST(StoredMessage, IsReadFromJson) {
  auto m = stored_message_from(
      R"({"subject":"a.b","seq":7,"hdrs":"TkFUUy8xLjANCk9uZTogMQ0KVHdvOiB4OiB5DQoNCg==","data":"AP9oaQ==","time":"2023-11-14T22:13:20.000000001Z"})");
  ASSERT_TRUE(m) << m.error().what();
  EXPECT_EQ(m.value().subject, "a.b");
  EXPECT_EQ(m.value().sequence, 7u);
  EXPECT_EQ(m.value().header("One"), "1");
  EXPECT_EQ(m.value().header("Two"), "x: y");
  EXPECT_EQ(m.value().headers.size(), 2u);
  EXPECT_EQ(m.value().data, std::string("\0\xffhi", 4));
  EXPECT_EQ(m.value().time_ns, 1'700'000'000'000'000'001);
  for (const char* bad : {"", "[]", "{}", R"({"subject":"a"})", R"({"subject":"a","seq":-1})",
                          R"({"subject":"a","seq":1,"data":"*"})"})
    EXPECT_FALSE(stored_message_from(bad)) << bad;
}

TEST(Rfc3339, IsReadAndWritten) {
  EXPECT_EQ(time_ns_from("1970-01-01T00:00:00Z"), 0);
  EXPECT_EQ(time_ns_from("2024-02-29T12:00:00.5Z"), 1'709'208'000'500'000'000);
  EXPECT_EQ(rfc3339_from(1'709'208'000'500'000'000), "2024-02-29T12:00:00.5Z");
  EXPECT_EQ(rfc3339_from(-1), "1969-12-31T23:59:59.999999999Z");
  for (const char* bad : {"", "2023-02-29T12:00:00Z", "2024-01-01 00:00:00Z", "2024-01-01T00:00:00",
                          "2024-01-01T24:00:00Z", "2024-01-01T00:00:00.Z",
                          "2024-01-01T00:00:00.1234567890Z", "2024-01-01T00:00:00+01:00"})
    EXPECT_FALSE(time_ns_from(bad)) << bad;
}

RC_GTEST_PROP(Rfc3339, EveryTimeComesBack, ()) {
  auto ns = *rc::gen::inRange<std::int64_t>(0, 4'102'444'800'000'000'000);
  RC_ASSERT(time_ns_from(rfc3339_from(ns)) == ns);
}

RC_GTEST_PROP(NatsParsers, TakeAnyBytes, (const std::string& bytes)) {
  // Nothing to assert but that they return: the sanitizers watch.
  (void)delivery_place_from("$JS.ACK." + bytes);
  (void)stored_message_from(bytes).ok();
  (void)time_ns_from(bytes);
  (void)from_base64(bytes);
  (void)parse_server_url(bytes).ok();
}

}  // namespace
}  // namespace cluster::nats
