// Tells programs that commit to a leader's database when JetStream has what they committed, over a
// socket (commit_protocol.h) that is there while its node leads. On the loop; the socket's file is
// made and removed on a strand.
#pragma once

#include <cstdint>
#include <functional>
#include <map>
#include <memory>
#include <string>

#include "core/loop.h"
#include "core/result.h"
#include "core/strand.h"
#include "core/unique_fd.h"
#include "sqlite/commit_socket.h"

namespace cluster::sqlite {

class CommitService {
 public:
  /// Where the database stood when a request was answered.
  struct Stored {
    std::uint64_t epoch = 0, txid = 0, sequence = 0;
  };
  struct Options {
    std::string path{};  ///< of the database, without links
    std::uint64_t epoch = 0;
    /// Whether the socket is still there is looked at so often.
    Duration look_interval = std::chrono::seconds(10);
  };
  /// As Primary::sync.
  using Sync = std::function<void(Duration limit, Callback<Stored> done)>;

  /// `files`: for what may block. `opened` is called once: the socket is there; or it can't be
  /// made, within some seconds: this is tried again every second, and trouble() says why.
  CommitService(Loop& loop, std::shared_ptr<Strand> files, Options options, Sync sync,
                std::function<void()> opened = {});
  /// Closes all connections; programs that wait for an answer take that for none.
  ~CommitService();
  CommitService(const CommitService&) = delete;
  CommitService& operator=(const CommitService&) = delete;

  /// Nobody can connect any more, and those who are connected are told to commit no more. What was
  /// asked before is answered still. Idempotent.
  void refuse(const std::string& why);

  const std::string& trouble() const noexcept { return trouble_; }
  /// Where the socket is; empty: nowhere now.
  const std::string& folder() const noexcept { return folder_; }
  const std::string& socket() const noexcept { return path_; }
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

  struct Looked;
  void look();
  void look_is_slow();
  void looked(Looked found);
  void listen();
  void accept();
  void report(const std::string& why);
  void drop(std::shared_ptr<CommitSocket> socket);
  void close_door();
  void serve(ClientId id, unsigned events);
  bool read(ClientId id, Client& client);
  bool ask(ClientId id, Client& client, const std::string& line);
  void answer(ClientId id, const std::string& line);
  bool write(Client& client, const std::string& line);
  void watch(ClientId id, Client& client);

  Loop& loop_;
  const std::shared_ptr<Strand> files_;
  const Options options_;
  const Sync sync_;
  std::function<void()> opened_;
  std::shared_ptr<CommitSocket> socket_;  // none while it is looked at
  std::string folder_, path_;
  UniqueFd listener_;
  LoopSource listening_;
  LoopSource next_look_, slow_look_, accept_again_;
  std::map<ClientId, Client> clients_;
  ClientId last_client_ = 0;
  bool refusing_ = false;
  std::string trouble_;
  std::shared_ptr<bool> alive_ = std::make_shared<bool>(true);
};

}  // namespace cluster::sqlite
