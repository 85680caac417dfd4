#include "nats/blocking_jetstream.h"

#include <utility>

#include "nats/jetstream_messages.h"

namespace cluster::nats {

Result<PubAck> BlockingJetStream::publish(Message message, const Expect& expect, Duration timeout,
                                          const std::stop_token& stop) const {
  add_expectation(message, expect);
  const std::string subject = message.subject;
  return pub_ack_from(subject, exchange_->request(std::move(message), timeout, stop));
}

Result<std::string> BlockingJetStream::api(const std::string& what, const std::string& body,
                                           Duration timeout, const std::stop_token& stop) const {
  return api_answer_from(what, exchange_->request(api_request(what, body), timeout, stop));
}

Result<StoredMessage> BlockingJetStream::last_message(const std::string& stream,
                                                      const std::string& subject, Duration timeout,
                                                      const std::stop_token& stop) const {
  const std::string what = "STREAM.MSG.GET." + stream;
  auto text = api(what, message_request({.last_of_subject = subject}), timeout, stop);
  if (!text) return text.error();
  return message_answer_from(what, text.value());
}

Result<StoredMessage> BlockingJetStream::last_message_direct(const std::string& stream,
                                                             const std::string& subject,
                                                             Duration timeout,
                                                             const std::stop_token& stop) const {
  const std::string what = "DIRECT.GET." + stream + "." + subject;
  return direct_answer_from(what, exchange_->request(api_request(what, ""), timeout, stop));
}

Result<StreamState> BlockingJetStream::stream(const std::string& name, Duration timeout,
                                              const std::stop_token& stop) const {
  const std::string what = "STREAM.INFO." + name;
  auto text = api(what, "", timeout, stop);
  if (!text) return text.error();
  return stream_state_from_answer(what, text.value());
}

Result<StreamState> BlockingJetStream::ensure_stream(const StreamConfig& config, Duration timeout,
                                                     const std::stop_token& stop) const {
  auto there = stream(config.name, timeout, stop);
  if (there || there.error().errc() != Errc::not_found) return there;
  const std::string what = "STREAM.CREATE." + config.name;
  auto text = api(what, stream_request(config), timeout, stop);
  if (text) return stream_state_from_answer(what, text.value());
  if (text.error().errc() != Errc::invalid_argument) return text.error();
  // Somebody else may have made it meanwhile, not quite like this.
  auto now = stream(config.name, timeout, stop);
  return now ? now : Result<StreamState>(text.error());
}

}  // namespace cluster::nats
