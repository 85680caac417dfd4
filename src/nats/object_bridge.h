// Puts and gets for a thread that blocks, beside the loop that does the work: bytes go through a
// bounded queue. Not for the loop's own thread.
#pragma once

#include <cstddef>
#include <memory>
#include <stop_token>
#include <string_view>

#include "nats/object_store.h"

namespace cluster::nats {

/// Takes an object's bytes from another thread. Made on the loop; then one other thread calls it.
/// Calls throw Error: why the put failed, shutting_down when `stop` is requested or the store is
/// gone, timeout when the loop has not taken anything for twice the store's patience.
class ObjectSink {
 public:
  /// Throws as ObjectStore::put does.
  ObjectSink(ObjectStore& store, NewObject object, std::stop_token stop = {});
  /// From any thread: gives the object up unless finish() has returned.
  ~ObjectSink();
  ObjectSink(const ObjectSink&) = delete;
  ObjectSink& operator=(const ObjectSink&) = delete;

  /// Blocks while much is under way.
  void write(std::string_view bytes);
  /// Blocks until the object is visible.
  ObjectInfo finish();

  struct Shared;

 private:
  void push(std::string chunk);

  std::shared_ptr<Shared> shared_;
  std::size_t chunk_size_ = 0;
  std::string chunk_;
};

/// Hands an object's bytes to another thread. As ObjectSink.
class ObjectSource {
 public:
  ObjectSource(ObjectStore& store, const std::string& name, std::stop_token stop = {});
  ~ObjectSource();
  ObjectSource(const ObjectSource&) = delete;
  ObjectSource& operator=(const ObjectSource&) = delete;

  /// Blocks until the metadata has come.
  ObjectInfo info();
  /// Blocks for the next bytes, up to `most`; 0 only at the end, when all has been verified.
  std::size_t read(char* into, std::size_t most);

  struct Shared;

 private:
  std::shared_ptr<Shared> shared_;
  std::string chunk_;
  std::size_t at_ = 0;
};

}  // namespace cluster::nats
