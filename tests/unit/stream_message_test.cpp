// Records of a WAL stream as headers: what is written is read back; what nobody writes is refused
// with the header that is wrong.
#include "sqlite/stream_message.h"

#include <gtest/gtest.h>
#include <rapidcheck/gtest.h>

namespace cluster::sqlite {
namespace {

StreamRecord data() {
  StreamRecord record;
  record.epoch = 7;
  record.writer = "node-1.Qd7";
  record.first = 12;
  record.last = 15;
  record.before = 0x8000000000000001;
  record.hash = 0xfedcba9876543210;
  return record;
}

// As a server has stored it in place 5.
std::vector<nats::Header> stored(const StreamRecord& record) {
  auto headers = headers_of(record);
  headers.emplace_back("Nats-Expected-Last-Sequence", "4");
  return headers;
}

std::string refusal(std::vector<nats::Header> headers, const std::string& name,
                    const std::string& value) {
  for (auto& [key, old] : headers)
    if (key == name) old = value;
  auto result = stream_record_from(headers, 5);
  return result ? "it was accepted" : result.error().what();
}

RC_GTEST_PROP(StreamMessage, ReadsBackWhatItWrote, ()) {
  StreamRecord record = data();
  record.epoch = *rc::gen::inRange<std::uint64_t>(1, 1ULL << 40);
  record.fence = *rc::gen::arbitrary<bool>();
  record.first = *rc::gen::inRange<Txid>(1, 1ULL << 40);
  record.last = record.fence ? record.first : record.first + *rc::gen::inRange<Txid>(0, 1000);
  record.before = *rc::gen::arbitrary<std::uint64_t>();
  record.hash = *rc::gen::arbitrary<std::uint64_t>();
  if (record.fence) {
    record.epoch_before = *rc::gen::inRange<std::uint64_t>(0, record.epoch);
  } else {
    record.part = *rc::gen::inRange<std::uint32_t>(1, 5000);
    record.final = *rc::gen::arbitrary<bool>();
  }
  auto headers = headers_of(record);
  headers.push_back(*rc::gen::arbitrary<bool>()
                        ? nats::Header("Nats-Expected-Last-Sequence", "98")
                        : nats::Header("Nats-Expected-Last-Msg-Id", "node-1.Qd7/1"));
  const auto read = stream_record_from(headers, 99);
  RC_ASSERT(read.ok());
  const auto& r = read.value();
  RC_ASSERT(r.sequence == 99U);
  RC_ASSERT(r.epoch == record.epoch);
  RC_ASSERT(r.writer == record.writer);
  RC_ASSERT(r.fence == record.fence);
  RC_ASSERT(r.epoch_before == record.epoch_before);
  RC_ASSERT(r.first == record.first);
  RC_ASSERT(r.last == record.last);
  RC_ASSERT(r.part == record.part);
  RC_ASSERT(r.final == record.final);
  RC_ASSERT(r.before == record.before);
  RC_ASSERT(r.hash == record.hash);
}

TEST(StreamMessage, IdsTellSendingsApart) {
  StreamRecord a = data(), b = data();
  b.attempt = 2;
  EXPECT_NE(a.id(), b.id());
  b = a;
  b.writer = "node-1.Qd8";
  EXPECT_NE(a.id(), b.id());
  EXPECT_EQ(headers_of(a).front(), nats::Header("Nats-Msg-Id", a.id()));
}

TEST(StreamMessage, SaysWhichHeaderIsWrong) {
  const auto good = stored(data());
  for (const auto& [name, value] : std::vector<nats::Header>{{"Cluster-Version", "x"},
                                                             {"Cluster-Epoch", "0"},
                                                             {"Cluster-Epoch", "-1"},
                                                             {"Cluster-Writer", ""},
                                                             {"Cluster-Txid", "15-12"},
                                                             {"Cluster-Txid", "12"},
                                                             {"Cluster-Txid", "0-3"},
                                                             {"Cluster-Part", "0"},
                                                             {"Cluster-Part", "2/3"},
                                                             {"Cluster-Part", ""},
                                                             {"Cluster-Part", "1/"},
                                                             {"Cluster-Hash", "1"},
                                                             {"Cluster-Hash", "g-1"},
                                                             {"Cluster-Part", "4294967296"}}) {
    const auto text = refusal(good, name, value);
    EXPECT_NE(text.find("header " + name + " is \"" + value + "\""), std::string::npos) << text;
    EXPECT_NE(text.find("message 5"), std::string::npos) << text;
  }
  EXPECT_NE(refusal(good, "Cluster-Version", "3").find("upgrade"), std::string::npos);
  StreamRecord fence = data();
  fence.fence = true;
  fence.first = fence.last;
  EXPECT_NE(refusal(stored(fence), "Cluster-Fence", "7").find("Cluster-Fence"), std::string::npos)
      << "the epoch before a fence is a lower one";
}

TEST(StreamMessage, ACopyOfARecordIsNone) {
  const auto is_record = [](std::vector<nats::Header> headers, std::uint64_t sequence) {
    const auto record = stream_record_from(headers, sequence);
    EXPECT_TRUE(record || is_foreign(record.error()));
    return record.ok();
  };
  EXPECT_TRUE(is_record(stored(data()), 5));
  EXPECT_FALSE(is_record(stored(data()), 6)) << "the server has checked another place";
  EXPECT_FALSE(is_record(headers_of(data()), 5)) << "it has checked none";
  EXPECT_FALSE(is_record({}, 5));
  auto older = stored(data());
  older[1].second = "1";
  const auto refused = stream_record_from(older, 5);
  ASSERT_FALSE(refused);
  EXPECT_FALSE(is_foreign(refused.error())) << "another version is not passed over";
}

// ---- what fits into a message

std::size_t wire_size(const std::vector<nats::Header>& headers) {
  std::size_t size = sizeof "NATS/1.0\r\n\r\n" - 1;
  for (const auto& [key, value] : headers) size += key.size() + value.size() + 4;
  return size;
}

RC_GTEST_PROP(StreamMessage, APartOfThatSizeIsTakenWhateverItsHeaders, ()) {
  StreamRecord record = data();
  record.writer = std::string(*rc::gen::inRange<std::size_t>(1, 120), 'w');
  record.epoch = record.first = record.last = record.before = record.hash = record.attempt =
      ~std::uint64_t{0};
  record.part = 0xffffffff;
  record.fence = *rc::gen::arbitrary<bool>();
  record.epoch_before = ~std::uint64_t{0};
  auto headers = headers_of(record);
  if (*rc::gen::arbitrary<bool>())
    headers.emplace_back("Nats-Expected-Last-Msg-Id", record.id());
  else
    headers.emplace_back("Nats-Expected-Last-Sequence", std::to_string(record.attempt));
  const auto max_payload = *rc::gen::inRange<std::int64_t>(1, 2'000'000);
  const std::size_t most = most_part(record.writer, max_payload);
  if (most == 0) RC_DISCARD("too little for any");
  RC_ASSERT(most >= 1'000U);
  RC_ASSERT(most <= 1'000'000U);
  RC_ASSERT(most + wire_size(headers) <= static_cast<std::size_t>(max_payload));
  RC_ASSERT(fits(most, record.writer, max_payload));
}

TEST(StreamMessage, FourKilobytesAreEnoughForAnyWriter) {
  const std::string longest(32 + 1 + 20 + 1 + 16, 'w');
  EXPECT_GT(most_part(longest, 4'096), 3'000U);
  EXPECT_EQ(most_part(longest, 1'000), 0U);
  EXPECT_FALSE(fits(3'800, longest, 4'096));
  EXPECT_EQ(most_part(longest, 0), 1'000'000U) << "not known";
}

}  // namespace
}  // namespace cluster::sqlite
