// JetStream for threads that may block: each call waits for its answer, over an Exchange. Not for
// the loop; the loop's is JetStream.
#pragma once

#include <cstdint>
#include <memory>
#include <stop_token>
#include <string>

#include "nats/exchange.h"
#include "nats/jetstream.h"

namespace cluster::nats {

/// From any thread. Errors are those of JetStream's calls and of Exchange::request: timeout and
/// unknown_outcome leave open whether a publish was stored; with every other error it was not.
class BlockingJetStream {
 public:
  explicit BlockingJetStream(std::shared_ptr<Exchange> exchange) : exchange_(std::move(exchange)) {}

  Exchange& exchange() const noexcept { return *exchange_; }

  Result<PubAck> publish(Message message, const Expect& expect, Duration timeout,
                         const std::stop_token& stop = {}) const;
  /// The last message of a subject, from the stream's leader.
  Result<StoredMessage> last_message(const std::string& stream, const std::string& subject,
                                     Duration timeout, const std::stop_token& stop = {}) const;
  /// The same from any replica that has it, which may lag behind the leader; of a stream with
  /// allow_direct. Faster, and what a stream of one replica can answer as well.
  Result<StoredMessage> last_message_direct(const std::string& stream, const std::string& subject,
                                            Duration timeout,
                                            const std::stop_token& stop = {}) const;
  Result<StreamState> stream(const std::string& name, Duration timeout,
                             const std::stop_token& stop = {}) const;
  /// Makes the stream, or leaves one of that name alone; what it is then.
  Result<StreamState> ensure_stream(const StreamConfig& config, Duration timeout,
                                    const std::stop_token& stop = {}) const;
  /// A request to `$JS.API.<what>`; its answer's JSON text.
  Result<std::string> api(const std::string& what, const std::string& body, Duration timeout,
                          const std::stop_token& stop = {}) const;

 private:
  std::shared_ptr<Exchange> exchange_;
};

}  // namespace cluster::nats
