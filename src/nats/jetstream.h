// JetStream's API over a Connection: streams, publishing with an expected sequence, reading,
// ordered consumers. Asynchronous and on the loop; each call answers once, within its timeout.
#pragma once

#include <cstdint>
#include <functional>
#include <map>
#include <memory>
#include <optional>
#include <string>
#include <vector>

#include "nats/connection.h"

namespace cluster::nats {

struct StreamConfig {
  std::string name{};
  std::string description{};
  std::vector<std::string> subjects{};
  int replicas = 1;
  bool file_storage = true;
  std::int64_t max_msgs_per_subject = -1;
  std::int64_t max_bytes = -1;
  std::int32_t max_msg_size = -1;
  std::chrono::nanoseconds max_age{0};           ///< 0: for ever
  std::chrono::nanoseconds duplicate_window{0};  ///< 0: the server's default
  bool allow_rollup = false;
  bool allow_direct = false;
  bool deny_delete = false;
  bool deny_purge = false;
  bool discard_new = false;
  std::map<std::string, std::string> metadata{};
};

struct StreamState {
  StreamConfig config{};
  std::uint64_t messages = 0;
  std::uint64_t bytes = 0;
  std::uint64_t first_seq = 0;
  std::uint64_t last_seq = 0;
  std::int64_t last_time_ns = 0;    ///< when the last message was stored, since 1970; 0: never
  std::int64_t server_time_ns = 0;  ///< what the clock of the server that leads it says; 0: unknown
  std::string created{};            ///< wall time; a cluster that restarts may change it
  std::string leader{};             ///< server that leads it, empty outside a cluster
  std::vector<std::string> peers{};  ///< the other servers with a replica
};

struct PubAck {
  std::string stream{};
  std::uint64_t sequence = 0;
  bool duplicate = false;
};

struct StoredMessage {
  std::string subject{};
  std::uint64_t sequence = 0;
  std::int64_t time_ns = 0;  ///< wall time of storing, since 1970
  std::string data{};
  std::vector<Header> headers{};
  std::uint64_t pending = 0;  ///< of a consumer: how many more wait behind this one

  std::string_view header(std::string_view name) const {
    for (const auto& [key, value] : headers)
      if (key == name) return value;
    return {};
  }
};

struct AccountInfo {
  std::int64_t max_memory = 0, max_storage = 0;
  int streams = 0;
};

struct Expect {
  std::optional<std::uint64_t> last_sequence{};          ///< of the stream; 0: it is empty
  std::optional<std::uint64_t> last_subject_sequence{};  ///< of the subject; 0: nothing there yet
  /// Nats-Msg-Id of the stream's last message. A server that was restarted knows it no more when
  /// that message is older than the stream's duplicate_window: it refuses then.
  std::string last_message_id{};
};

/// Errors, besides those of Connection::request: unavailable (JetStream is not enabled for the
/// account, or has no leader now: says which), wrong_revision (an expectation failed; nothing was
/// stored), not_found (no such stream or message), permission_denied, invalid_argument and
/// incompatible (the server's refusal, with its text). After timeout and unavailable a publish may
/// or may not have been stored.
class JetStream {
 public:
  explicit JetStream(Connection& connection, Duration timeout = std::chrono::seconds(5));

  Connection& connection() const noexcept { return connection_; }
  void account(Callback<AccountInfo> done);
  /// Makes the stream, or leaves one alone that has the same configuration already.
  void create_stream(const StreamConfig& config, Callback<StreamState> done);
  void update_stream(const StreamConfig& config, Callback<StreamState> done);
  /// Sets one key of a stream's metadata. All else of its configuration stays as it is, also what
  /// this program does not know; of two that change it at once, one is lost.
  void set_metadata(const std::string& name, const std::string& key, const std::string& value,
                    Completion done);
  /// Makes the stream unless one of that name is there, whose configuration is left alone.
  void ensure_stream(const StreamConfig& config, Completion done);
  void stream(const std::string& name, Callback<StreamState> done);
  void delete_stream(const std::string& name, Completion done);
  void streams(Callback<std::vector<std::string>> done);  ///< names of all, paged through
  /// Removes messages of subjects that match `filter` (empty: of all subjects), with sequences
  /// below `before` (0: all), and tells how many.
  void purge(const std::string& stream, const std::string& filter, std::uint64_t before,
             Callback<std::uint64_t> done);

  void publish(Message message, Expect expect, Callback<PubAck> done);
  void publish(Message message, Expect expect, Duration timeout, Callback<PubAck> done);
  /// The last message of a subject, from the stream's leader: never stale.
  void last_message(const std::string& stream, const std::string& subject,
                    Callback<StoredMessage> done);
  void message(const std::string& stream, std::uint64_t sequence, Callback<StoredMessage> done);
  /// The first message of a subject at `from` or behind it; as last_message from the leader.
  void next_message(const std::string& stream, const std::string& subject, std::uint64_t from,
                    Callback<StoredMessage> done);
  /// Removes one message, without overwriting its bytes.
  void delete_message(const std::string& stream, std::uint64_t sequence, Completion done);
  /// How many messages one subject has now, from the leader.
  void count_messages(const std::string& stream, const std::string& subject,
                      Callback<std::uint64_t> done);

  /// Sends a request to `$JS.API.<what>` and hands over the parsed-for-errors JSON text of the
  /// answer.
  void api(const std::string& what, const std::string& body, Callback<std::string> done);
  void api(const std::string& what, const std::string& body, Duration timeout,
           Callback<std::string> done);

  Duration timeout() const noexcept { return timeout_; }

 private:
  Connection& connection_;
  Duration timeout_;
};

/// Is the server that we are connected to good enough: incompatible before 2.10.0 (logs a warning
/// before 2.10.23), unavailable without JetStream, each with what to do.
void check_server(JetStream& jetstream, Completion done);

/// Where an ordered consumer begins.
struct StartAt {
  enum class Kind { all, last_per_subject, new_only, sequence, time } kind = Kind::all;
  std::uint64_t sequence = 0;  ///< with Kind::sequence: the first one wanted
  bool headers_only = false;   ///< messages come without their data
  std::int64_t time_ns = 0;    ///< with Kind::time: wall time; the first stored then or later
  /// With Kind::sequence: what is before it was read, so that it counts as delivered once the
  /// consumer has begun. A stream that is made anew is then told of (`rewound`) in any case.
  bool goes_on = false;
};

/// Reads a stream in order, without acknowledgements, each message once, for as long as it lives:
/// an ephemeral push consumer that is made anew after a gap, a missed heartbeat, a reconnect, or
/// when it does not deliver what the stream has, and then resumes behind what was delivered last.
class OrderedConsumer {
 public:
  struct Handlers {
    std::function<void(StoredMessage)> message{};
    /// Once: the server has it; from now on nothing that is stored is missed.
    std::function<void()> begun{};
    /// Once: all that was stored when it began has been delivered.
    std::function<void()> caught_up{};
    /// The stream's last sequence is lower than one that was delivered: the store has lost what it
    /// had acknowledged. The consumer goes on from the stream's end.
    std::function<void(std::uint64_t delivered, std::uint64_t last)> rewound{};
    /// Messages behind `delivered` and before `first` have left the stream before they could be
    /// delivered. Whether the filters match any of them nobody knows.
    std::function<void(std::uint64_t delivered, std::uint64_t first)> trimmed{};
    /// Creating the consumer failed; it is tried again, with backoff to one second.
    std::function<void(const Error&)> trouble{};
  };
  OrderedConsumer(JetStream& jetstream, std::string stream, std::vector<std::string> filters,
                  StartAt start, Handlers handlers);
  ~OrderedConsumer();
  OrderedConsumer(const OrderedConsumer&) = delete;
  OrderedConsumer& operator=(const OrderedConsumer&) = delete;

  std::uint64_t last_sequence() const noexcept;  ///< delivered last; 0: none
  /// Nothing comes until resume(), which goes on behind what was delivered last. Idempotent.
  void pause();
  void resume();

 private:
  struct Core;
  std::shared_ptr<Core> core_;
};

}  // namespace cluster::nats
