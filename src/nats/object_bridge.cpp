#include "nats/object_bridge.h"

#include <algorithm>
#include <condition_variable>
#include <cstring>
#include <deque>
#include <mutex>
#include <thread>

#include "core/check.h"
#include "nats/object_store_core.h"

namespace cluster::nats {
namespace {

constexpr std::size_t kQueuedBytes = 1024 * 1024;  // between the threads, or one chunk

// What both directions need: a queue of chunks and who waits for it. The loop's side is closed
// before the store is gone; from then on nothing is posted to the loop.
template <typename Self>
struct Queue : ObjectTransfer, std::enable_shared_from_this<Self> {
  const std::shared_ptr<ObjectStore::Core> store;
  Loop& loop;
  const Duration limit;
  const std::stop_token stop;
  const std::thread::id made_on = std::this_thread::get_id();

  std::mutex mutex{};
  std::condition_variable_any changed{};
  std::deque<std::string> chunks{};
  std::size_t bytes = 0;
  bool posted = false;  // the loop will look
  Failure failure{};    // and the loop's side is closed

  Queue(std::shared_ptr<ObjectStore::Core> of, std::stop_token token)
      : store(std::move(of)),
        loop(store->js.connection().loop()),
        limit(store->patience * 2),
        stop(std::move(token)) {}

  // With the mutex held:
  void wake_loop() {
    if (posted || failure) return;
    posted = true;
    loop.post([self = this->shared_from_this()] { self->work(); });
  }
  bool room() const { return bytes < kQueuedBytes; }
  void put(std::string chunk) {
    bytes += chunk.size();
    chunks.push_back(std::move(chunk));
  }
  std::string pop() {
    auto chunk = std::move(chunks.front());
    chunks.pop_front();
    bytes -= chunk.size();
    return chunk;
  }
  // Until `done` or a failure, which it throws.
  template <typename Done>
  void wait(std::unique_lock<std::mutex>& lock, const std::string& what, Done done) {
    CLUSTER_CHECK(std::this_thread::get_id() != made_on);
    const bool came =
        changed.wait_for(lock, stop, limit, [&] { return failure.has_value() || done(); });
    if (failure) throw *failure;
    if (came) return;
    if (stop.stop_requested()) throw Error(Errc::shutting_down, what + ": it was stopped");
    throw Error(Errc::timeout, what + ": nothing has moved within the time limit");
  }

  // From any thread, by the one that has the last say.
  void leave() {
    const std::lock_guard lock(mutex);
    if (failure) return;
    loop.post([self = this->shared_from_this()] {
      self->close(Error(Errc::shutting_down, "it was given up"));
    });
  }

  // On the loop:
  void open() { store->transfers.insert(this); }
  void close(const Error& error) {
    store->transfers.erase(this);
    static_cast<Self*>(this)->release();
    const std::lock_guard lock(mutex);
    if (!failure) failure = error;
    chunks.clear();
    bytes = 0;
    changed.notify_all();
  }
  void store_gone() override { close(store->gone()); }
};

}  // namespace

struct ObjectSink::Shared : Queue<ObjectSink::Shared> {
  using Queue::Queue;
  std::string what{};
  bool all_given = false;
  std::optional<ObjectInfo> result{};
  // On the loop only, until the store is gone:
  std::unique_ptr<ObjectWriter> writer{};
  bool finishing = false;

  void work();
  void release() { auto gone = std::move(writer); }
};

void ObjectSink::Shared::work() {
  {
    const std::lock_guard lock(mutex);
    posted = false;
  }
  while (writer && !finishing) {
    std::string chunk;
    {
      const std::lock_guard lock(mutex);
      if (chunks.empty() ? !all_given : !writer->ready()) return;
      if (!chunks.empty()) chunk = pop();
      changed.notify_all();
    }
    if (!chunk.empty()) {
      writer->write(std::move(chunk));
      continue;
    }
    finishing = true;
    writer->finish([weak = weak_from_this()](Result<ObjectInfo> info) {
      auto self = weak.lock();
      if (!self) return;
      if (!info) return self->close(info.error());
      const std::lock_guard lock(self->mutex);
      self->result = std::move(info.value());
      self->changed.notify_all();
    });
  }
}

ObjectSink::ObjectSink(ObjectStore& store, NewObject object, std::stop_token stop) {
  shared_ = std::make_shared<Shared>(store.core_, std::move(stop));
  shared_->what = "put object \"" + object.name + "\"";
  ObjectStore::WriterEvents events;
  events.ready = [weak = std::weak_ptr(shared_)] {
    if (auto self = weak.lock()) self->work();
  };
  events.failed = [weak = std::weak_ptr(shared_)](const Error& error) {
    if (auto self = weak.lock()) self->close(error);
  };
  shared_->writer = store.put(std::move(object), std::move(events));
  chunk_size_ = shared_->writer->chunk_size();
  shared_->open();
}

ObjectSink::~ObjectSink() { shared_->leave(); }

void ObjectSink::push(std::string chunk) {
  std::unique_lock lock(shared_->mutex);
  shared_->wait(lock, shared_->what, [&] { return shared_->room(); });
  shared_->put(std::move(chunk));
  shared_->wake_loop();
}

void ObjectSink::write(std::string_view bytes) {
  while (!bytes.empty()) {
    if (chunk_.empty()) chunk_.reserve(chunk_size_);
    auto part = bytes.substr(0, chunk_size_ - chunk_.size());
    chunk_.append(part);
    bytes.remove_prefix(part.size());
    if (chunk_.size() == chunk_size_) push(std::exchange(chunk_, {}));
  }
}

ObjectInfo ObjectSink::finish() {
  if (!chunk_.empty()) push(std::exchange(chunk_, {}));
  std::unique_lock lock(shared_->mutex);
  shared_->all_given = true;
  shared_->wake_loop();
  shared_->wait(lock, shared_->what, [&] { return shared_->result.has_value(); });
  return *shared_->result;
}

struct ObjectSource::Shared : Queue<ObjectSource::Shared> {
  using Queue::Queue;
  std::string what{};
  std::optional<ObjectInfo> info{};
  bool all_there = false;  // verified, and in `chunks`
  // On the loop only, until the store is gone:
  std::unique_ptr<ObjectReader> reader{};
  bool ended = false;

  void work();
  void release() { auto gone = std::move(reader); }
};

void ObjectSource::Shared::work() {
  {
    const std::lock_guard lock(mutex);
    posted = false;
  }
  while (reader) {
    {
      const std::lock_guard lock(mutex);
      if (!room()) return;
    }
    auto chunk = reader->take();
    const std::lock_guard lock(mutex);
    changed.notify_all();
    if (chunk) {
      put(std::move(*chunk));
      continue;
    }
    all_there = ended;
    return;
  }
}

ObjectSource::ObjectSource(ObjectStore& store, const std::string& name, std::stop_token stop) {
  shared_ = std::make_shared<Shared>(store.core_, std::move(stop));
  shared_->what = "get object \"" + name + "\"";
  std::weak_ptr weak(shared_);
  ObjectStore::ReaderEvents events;
  events.begun = [weak](const ObjectInfo& info) {
    auto self = weak.lock();
    if (!self) return;
    const std::lock_guard lock(self->mutex);
    self->info = info;
    self->changed.notify_all();
  };
  events.ready = [weak] {
    if (auto self = weak.lock()) self->work();
  };
  events.ended = [weak](const Failure& failure) {
    auto self = weak.lock();
    if (!self) return;
    if (failure) return self->close(*failure);
    self->ended = true;
    self->work();
  };
  shared_->reader = store.get(name, std::move(events));
  shared_->open();
}

ObjectSource::~ObjectSource() { shared_->leave(); }

ObjectInfo ObjectSource::info() {
  std::unique_lock lock(shared_->mutex);
  shared_->wait(lock, shared_->what, [&] { return shared_->info.has_value(); });
  return *shared_->info;
}

std::size_t ObjectSource::read(char* into, std::size_t most) {
  if (at_ == chunk_.size()) {
    chunk_.clear();
    at_ = 0;
    std::unique_lock lock(shared_->mutex);
    shared_->wait(lock, shared_->what,
                  [&] { return !shared_->chunks.empty() || shared_->all_there; });
    if (shared_->chunks.empty()) return 0;
    const bool plenty = shared_->bytes >= kQueuedBytes / 2;
    chunk_ = shared_->pop();
    if (plenty && shared_->bytes < kQueuedBytes / 2) shared_->wake_loop();
  }
  const auto size = std::min(most, chunk_.size() - at_);
  std::memcpy(into, chunk_.data() + at_, size);
  at_ += size;
  return size;
}

}  // namespace cluster::nats
