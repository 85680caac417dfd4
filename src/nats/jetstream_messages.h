// What JetStream's requests and answers look like, apart from how they are sent: for JetStream on
// the loop and BlockingJetStream on other threads. Pure.
#pragma once

#include <cstdint>
#include <string>

#include "core/result.h"
#include "nats/jetstream.h"
#include "nats/message.h"

namespace cluster::nats {

/// `$JS.API.<what>`.
Message api_request(const std::string& what, const std::string& body);
/// The answer's JSON text, or the error that came instead or stands in it.
Result<std::string> api_answer_from(const std::string& what, Result<Message> answer);

std::string stream_request(const StreamConfig& config);
Result<StreamState> stream_state_from_answer(const std::string& what, const std::string& text);

void add_expectation(Message& message, const Expect& expect);
/// What JetStream answered to a message published to `subject`.
Result<PubAck> pub_ack_from(const std::string& subject, Result<Message> answer);

/// Of STREAM.MSG.GET: one of these, or the next of a subject from a sequence on.
struct MessageWanted {
  std::uint64_t sequence = 0;
  std::string last_of_subject{};
  std::string next_of_subject{};
};
std::string message_request(const MessageWanted& wanted);
Result<StoredMessage> message_answer_from(const std::string& what, const std::string& text);

/// What DIRECT.GET answers: the message itself, its place in headers. not_found for none.
Result<StoredMessage> direct_answer_from(const std::string& what, Result<Message> answer);

}  // namespace cluster::nats
