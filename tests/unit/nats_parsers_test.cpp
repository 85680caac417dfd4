// What the NATS layer parses: URLs, places of delivered messages, stored messages, times.
#include <gtest/gtest.h>
#include <rapidcheck/gtest.h>

#include "nats/object_info.h"
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

// As `nats object put` and Python's client write it.
TEST(ObjectInfo, IsReadAsOtherClientsWriteIt) {
  auto go = object_info_from(
      R"({"name":"dir/a b","headers":{"K":["V"],"L":["1","2"]},"options":{"max_chunk_size":131072},)"
      R"("bucket":"files","nuid":"TkERk6w1xFG9eRNzLR8cE2","size":3000000,)"
      R"("mtime":"0001-01-01T00:00:00Z","chunks":23,)"
      R"("digest":"SHA-256=bEMY_2jVZmEYhxQ25OpkBHqfHWl42m6At5FZ1mYDaLo="})",
      7);
  ASSERT_TRUE(go) << go.error().what();
  EXPECT_EQ(go.value().name, "dir/a b");
  EXPECT_EQ(go.value().headers, (std::vector<Header>{{"K", "V"}, {"L", "1"}, {"L", "2"}}));
  EXPECT_EQ(go.value().size, 3'000'000u);
  EXPECT_EQ(go.value().chunks, 23u);
  EXPECT_EQ(go.value().chunk_size, 131'072u);
  EXPECT_EQ(go.value().mtime_ns, 7);
  EXPECT_FALSE(go.value().deleted);
  auto python = object_info_from(
      R"({"name": "q", "bucket": "files", "nuid": "WL437SJzQ4ZIEy9V18BS1u", "size": 0, "mtime": )"
      R"("2026-11-23T22:01:59.077189+00:00", "chunks": 0, "deleted": true, "options": {}})",
      0);
  ASSERT_TRUE(python) << python.error().what();
  EXPECT_TRUE(python.value().deleted);
}

TEST(ObjectInfo, IsWrittenAsOthersExpectIt) {
  EXPECT_EQ(to_json("b", {.name = "n",
                          .headers = {{"k", "1"}, {"k", "2"}},
                          .nuid = "N",
                          .size = 3,
                          .chunks = 1,
                          .chunk_size = 9,
                          .digest = "SHA-256=x"}),
            R"({"bucket":"b","chunks":1,"digest":"SHA-256=x","headers":{"k":["1","2"]},)"
            R"("name":"n","nuid":"N","options":{"max_chunk_size":9},"size":3})");
  EXPECT_EQ(object_meta_subject("b", "grüße/?"), "$O.b.M.Z3LDvMOfZS8_");
  EXPECT_EQ(object_meta_subject("b", "x"), "$O.b.M.eA==");
  EXPECT_EQ(object_chunk_subject("b", "N"), "$O.b.C.N");
  EXPECT_EQ(object_chunk_subject("b"), "$O.b.C.>");
  ObjectDigest digest;
  digest.add("a");
  digest.add("bc");
  auto sum = digest.finish();
  EXPECT_EQ(sum, "SHA-256=ungWv48Bz-pBQUDeXa4iI7ADYaOWF3qctBD_YfIAFa0=");
  EXPECT_TRUE(same_digest(sum, sum.substr(0, sum.size() - 1)));
  EXPECT_FALSE(same_digest(sum, ""));
}

TEST(ObjectInfo, WhatDescribesNoObjectIsCorrupt) {
  for (const char* bad :
       {"", "[]", "{}", R"({"name":"n"})", R"({"nuid":"N"})", R"({"name":"n","nuid":"a.b"})",
        R"({"name":"n","nuid":">"})", R"({"name":"n","nuid":"N","size":-1})",
        R"({"name":"n","nuid":"N","chunks":4294967296})", R"({"name":"n","nuid":"N","size":"1"})"})
    EXPECT_EQ(object_info_from(bad, 0).error().errc(), Errc::corrupt) << bad;
}

}  // namespace
}  // namespace cluster::nats
