// A JetStream object store, on the wire as every NATS client has it (ADR-20): large values in
// chunks, metadata that makes them visible at once. Asynchronous and on the loop; object_bridge.h
// is for threads that block.
#pragma once

#include <cstdint>
#include <functional>
#include <memory>
#include <optional>
#include <string>
#include <vector>

#include "nats/jetstream.h"
#include "nats/object_info.h"

namespace cluster::nats {

struct ObjectBucketConfig {
  std::string description{};
  int replicas = 1;
  std::int64_t max_bytes = -1;
};

struct NewObject {
  std::string name{};  ///< any UTF-8 of 1 to kLongestObjectName bytes
  std::string description{};
  std::vector<Header> headers{};
  /// Bytes that a chunk has at most; fewer where the server's max_payload is smaller.
  std::uint32_t chunk_size = kDefaultChunkSize;
};

class ObjectWriter;
class ObjectReader;

/// The JetStream must outlive it. When it is destroyed, its writers and readers fail with
/// shutting_down, other callbacks are dropped.
class ObjectStore {
 public:
  /// `patience`: how long puts, gets and removals go on when nothing comes through (servers away,
  /// no leader); less than the bucket's duplicate window, 2 minutes by default.
  ObjectStore(JetStream& jetstream, std::string bucket,
              Duration patience = std::chrono::seconds(60));
  ~ObjectStore();
  ObjectStore(const ObjectStore&) = delete;
  ObjectStore& operator=(const ObjectStore&) = delete;

  const std::string& bucket() const noexcept;
  /// Makes the bucket unless it is there (its configuration is then left alone).
  void ensure(const ObjectBucketConfig& config, Completion done);
  /// From the stream's leader: never stale. not_found for an object that is absent or removed, and
  /// when there is no bucket; corrupt for metadata that can't be read.
  void info(const std::string& name, Callback<ObjectInfo> done);
  /// All objects but removed ones, as of now or later; metadata that can't be read is logged and
  /// left out.
  void list(Callback<std::vector<ObjectInfo>> done);
  /// Leaves a marker, as every client does, and frees the chunks; not_found when it never was.
  void remove(const std::string& name, Completion done);

  struct WriterEvents;
  struct ReaderEvents;
  /// A new object, or what replaces the one of that name once all of it is stored. Throws
  /// Error{invalid_argument} for a name or texts that can't be, and when the server's max_payload
  /// is too small for any chunk.
  [[nodiscard]] std::unique_ptr<ObjectWriter> put(NewObject object, WriterEvents events);
  [[nodiscard]] std::unique_ptr<ObjectReader> get(const std::string& name, ReaderEvents events);

  struct Core;

 private:
  friend class ObjectSink;
  friend class ObjectSource;
  std::shared_ptr<Core> core_;
};

/// Events may destroy the writer or reader that they are of.
struct ObjectStore::WriterEvents {
  std::function<void()> ready{};  ///< the writer is ready() again
  /// Once, unless finish() was called, which then gets the error; what was stored is purged.
  std::function<void(const Error&)> failed{};
};

struct ObjectStore::ReaderEvents {
  std::function<void(const ObjectInfo&)> begun{};  ///< once, before the first chunk
  std::function<void()> ready{};                   ///< take() has more
  /// Once. Without an error: all has come, size and digest are right; take() still has what was not
  /// taken. With one, nothing more can be taken: not_found (also when it was removed or replaced
  /// meanwhile), corrupt (says what is wrong), incompatible (a link), unavailable or timeout (after
  /// the store's patience), shutting_down.
  std::function<void(Failure)> ended{};
};

/// Writes one object. Each chunk's place in the stream is settled with the stream's leader when its
/// acknowledgement did not come: none is lost, doubled or out of order.
class ObjectWriter {
 public:
  static constexpr int kMostUnderWay = 16;

  /// Before finish() has answered: gives the object up and purges its chunks, unless its metadata
  /// is on its way already.
  ~ObjectWriter();
  ObjectWriter(const ObjectWriter&) = delete;
  ObjectWriter& operator=(const ObjectWriter&) = delete;

  /// A chunk may be given. False while kMostUnderWay are not acknowledged (fewer when
  /// acknowledgements take so long that others on this connection would notice).
  bool ready() const noexcept;
  /// Bytes that a write() may have.
  std::uint32_t chunk_size() const noexcept;
  /// One chunk of 1 to chunk_size() bytes; only when ready().
  void write(std::string chunk);
  /// Once all chunks are given. Answers when all are stored, the object is visible, and the chunks
  /// of what it replaces are freed.
  void finish(Callback<ObjectInfo> done);

  struct Core;

 private:
  friend class ObjectStore;
  explicit ObjectWriter(std::shared_ptr<Core> core);
  std::shared_ptr<Core> core_;
};

/// Reads one object. What is not taken is not asked for: at most kMostBytes (or one chunk) are kept
/// or under way, and a pause may last as long as it likes.
class ObjectReader {
 public:
  static constexpr std::size_t kMostBytes = 4 * 1024 * 1024;

  ~ObjectReader();
  ObjectReader(const ObjectReader&) = delete;
  ObjectReader& operator=(const ObjectReader&) = delete;

  /// The next chunk, if it has come.
  std::optional<std::string> take();

  struct Core;

 private:
  friend class ObjectStore;
  explicit ObjectReader(std::shared_ptr<Core> core);
  std::shared_ptr<Core> core_;
};

}  // namespace cluster::nats
