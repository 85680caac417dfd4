// What a leader does about a stream that does not have what it had acknowledged. All else about it
// is proved under the simulator.
#include "sqlite/stream_writer.h"

#include <gtest/gtest.h>

namespace cluster::sqlite {
namespace {

using Command = StreamWriter::Command;
using Output = StreamWriter::Output;

// With a fence at sequence 10 and a transaction stored at 11.
class StreamWriterTest : public ::testing::Test {
 protected:
  void SetUp() override {
    Output out;
    writer.start(out);
    StreamRecord last;
    last.epoch = 4;
    last.writer = "b";
    last.sequence = 9;
    last.first = last.last = 6;
    out = {};
    writer.last_read(last, last.sequence, out);
    out = {};
    writer.outcome(0, StreamWriter::Outcome::stored, 10, out);
    ASSERT_TRUE(out.fence_stored);
    stored = append(7);
    out = {};
    writer.outcome(stored.id, StreamWriter::Outcome::stored, 11, out);
    ASSERT_EQ(out.stored.size(), 1U);
  }

  Command append(Txid txid) {
    StreamRecord record;
    record.first = record.last = txid;
    Output out;
    writer.append(record, out);
    EXPECT_EQ(out.commands.size(), 1U);
    return out.commands.at(0);
  }

  // The append is refused, and the end of the stream is read.
  Output refused_then(const Command& command, const StreamRecord& last) {
    Output out;
    writer.outcome(command.id, StreamWriter::Outcome::refused, 0, out);
    EXPECT_EQ(out.commands.size(), 1U);
    out = {};
    writer.last_read(last, last.sequence, out);
    return out;
  }

  StreamWriter writer{5, "a", 4};
  Command stored;
};

TEST_F(StreamWriterTest, AppendsNothingBehindTheGapOfAStreamThatHasLostItsEnd) {
  Command command = append(8);
  StreamRecord end = writer.fence();  // all that is left
  for (int i = 0;; ++i) {
    ASSERT_LT(i, 100);
    const Output out = refused_then(command, end);
    if (out.rewound) {
      EXPECT_TRUE(out.commands.empty());
      break;
    }
    ASSERT_EQ(out.commands.size(), 1U);
    command = out.commands.front();
    EXPECT_EQ(command.after_sequence, 11U) << "it would be taken behind the gap";
  }
}

// A replica that is behind for minutes may answer, and no leader takes the append.
TEST_F(StreamWriterTest, WhileNothingAnswersAStaleReadProvesNothing) {
  Command command = append(8);
  for (int i = 0; i < 100; ++i) {
    Output out;
    writer.outcome(command.id, StreamWriter::Outcome::unknown, 0, out);
    out = {};
    writer.last_read(writer.fence(), writer.fence().sequence, out);
    ASSERT_FALSE(out.rewound);
    ASSERT_EQ(out.commands.size(), 1U);
    command = out.commands.front();
  }
}

TEST_F(StreamWriterTest, AStaleReadCostsNoMoreThanATry) {
  const Output out = refused_then(append(8), writer.fence());
  ASSERT_EQ(out.commands.size(), 1U);
  EXPECT_EQ(out.commands.front().after_sequence, 11U);
  Output done;
  writer.outcome(out.commands.front().id, StreamWriter::Outcome::stored, 12, done);
  EXPECT_EQ(done.stored.size(), 1U);
  EXPECT_FALSE(done.rewound);
}

}  // namespace
}  // namespace cluster::sqlite
