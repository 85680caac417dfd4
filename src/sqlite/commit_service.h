// Tells programs that commit to a leader's database when JetStream has what they committed: a
// socket beside the database while its node leads (commit_protocol.h). On the loop.
#pragma once

#include <cstdint>
#include <functional>
#include <map>
#include <memory>
#include <string>

#include <sys/types.h>

#include "core/loop.h"
#include "core/result.h"
#include "core/unique_fd.h"

namespace cluster::sqlite {

class CommitService {
 public:
  /// Where the database stood when a request was answered.
  struct Stored {
    std::uint64_t epoch = 0, txid = 0, sequence = 0;
  };
  struct Options {
    std::string path{};  ///< of the database
    std::uint64_t epoch = 0;
  };
  /// As Primary::sync.
  using Sync = std::function<void(Duration limit, Callback<Stored> done)>;

  /// The socket is there from now on; where it can't be made this is tried again every second, and
  /// trouble() says why.
  CommitService(Loop& loop, Options options, Sync sync);
  /// Closes all connections; programs that wait for an answer take that for none.
  ~CommitService();
  CommitService(const CommitService&) = delete;
  CommitService& operator=(const CommitService&) = delete;

  /// The socket is gone, and those who are connected are told to commit no more. What was asked
  /// before is answered still. Idempotent.
  void refuse(const std::string& why);

  const std::string& trouble() const noexcept { return trouble_; }
  std::size_t clients() const noexcept { return clients_.size(); }
  std::uint64_t served() const noexcept { return last_client_; }  ///< clients so far
  int waiting() const noexcept;                                   ///< requests without an answer

 private:
  using ClientId = std::uint64_t;
  struct Client {
    UniqueFd fd{};
    LoopSource source{};
    std::string in{};
    std::string out{};  // that the socket has not taken
    int waiting = 0;    // requests without an answer
    bool closing = false;
  };

  void open();
  void listen();
  void accept();
  void close_door();
  void serve(ClientId id, unsigned events);
  bool read(ClientId id, Client& client);
  bool ask(ClientId id, Client& client, const std::string& line);
  void answer(ClientId id, const std::string& line);
  bool write(Client& client, const std::string& line);
  void watch(ClientId id, Client& client);

  Loop& loop_;
  const Options options_;
  const Sync sync_;
  const std::string socket_;
  UniqueFd listener_;
  dev_t device_ = 0;  // of the socket's file, once it is there
  ino_t inode_ = 0;
  LoopSource listening_;
  LoopSource retry_;
  std::map<ClientId, Client> clients_;
  ClientId last_client_ = 0;
  bool refusing_ = false;
  std::string trouble_;
  std::shared_ptr<bool> alive_ = std::make_shared<bool>(true);
};

/// The file that SQLite names after a database, with links in its path followed as SQLite does.
std::string commit_socket_of(const std::string& database);

}  // namespace cluster::sqlite
