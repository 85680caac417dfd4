// A durable consumer whose messages several connections share, each message acknowledged by whoever
// has dealt with it. On the loop. Not for reading a stream in order: that is OrderedConsumer.
#pragma once

#include <cstdint>
#include <functional>
#include <memory>
#include <string>

#include "nats/jetstream.h"

namespace cluster::nats {

struct DurableConfig {
  std::string stream{};
  std::string name{};
  std::string description{};
  std::string filter{};  ///< one subject, with wildcards or without
  Duration ack_wait = std::chrono::seconds(30);
  int max_ack_pending = 1'000;  ///< over all members
  StartAt start{};              ///< counts when it is made; of these kinds all but last_per_subject
};

/// A message on its way to be acknowledged.
struct Delivery {
  StoredMessage message{};
  std::string reply{};           ///< where its acknowledgement goes
  std::uint64_t deliveries = 0;  ///< to any member, this one included
};

/// One member of it: takes as many messages as it is ready for, never more, so that none waits here
/// while another member is free. Makes the consumer when it is not there; brings filter, ack_wait
/// and max_ack_pending of one that is there up to date, once. The server repeats what is not
/// acknowledged without end: it is the member that counts.
class DurableConsumer {
 public:
  struct Handlers {
    std::function<void(Delivery)> message{};
    std::function<void()> begun{};  ///< once: the server has it
    /// Somebody has removed it, and the stream is there: nothing comes any more.
    std::function<void()> removed{};
    /// Something failed; it is tried again, with backoff to one second.
    std::function<void(const Error&)> trouble{};
  };
  DurableConsumer(JetStream& jetstream, DurableConfig config, Handlers handlers);
  ~DurableConsumer();
  DurableConsumer(const DurableConsumer&) = delete;
  DurableConsumer& operator=(const DurableConsumer&) = delete;

  /// So many more messages may come; each that comes counts one down.
  void set_ready(int messages);
  // Best effort: when one is lost, the message is delivered again after ack_wait.
  void acknowledge(const Delivery& delivery);            ///< done
  void refuse(const Delivery& delivery, Duration wait);  ///< deliver it again, not before `wait`
  void keep(const std::string& reply);                   ///< work goes on: ack_wait begins anew
  void give_up(const Delivery& delivery);                ///< never again

 private:
  struct Core;
  std::shared_ptr<Core> core_;
};

}  // namespace cluster::nats
