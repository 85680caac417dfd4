#include "sqlite/snapshot_restore.h"

#include <algorithm>
#include <filesystem>
#include <utility>

#include <fcntl.h>
#include <sys/file.h>
#include <unistd.h>

#include "core/ids.h"
#include "core/log.h"
#include "nats/stored_message.h"
#include "sqlite/database_builder.h"
#include "sqlite/file.h"
#include "sqlite/handle.h"
#include "sqlite/position_log.h"
#include "sqlite/restore.h"
#include "sqlite/stored_claims.h"
#include "sqlite/stream_files.h"
#include "sqlite/stream_message.h"

namespace cluster::sqlite {
namespace {

constexpr int kMostDamaged = 16;  // objects that are passed over before it is given up

// Applies files of the store one by one, each read in pieces.
class ChainReader {
 public:
  ChainReader(SnapshotStore& store, const RestoreBytes& progress, std::stop_token stop)
      : store_(store), progress_(progress), stop_(std::move(stop)) {}

  /// `at`: the file that is being applied, for who catches what this throws.
  void apply(const Files& chain, DatabaseBuilder& builder, StoredFile& at) {
    done_ = all_ = 0;
    for (const auto& file : chain) all_ += file.size;
    for (const auto& file : chain) {
      at = file;
      const auto object = store_.open(file.name(), stop_);
      LtxDecoder decoder([&](char* into, std::size_t most) {
        if (stop_.stop_requested()) throw Error(Errc::shutting_down, "restore: it was stopped");
        const std::size_t n = object->read(into, most);
        done_ += n;
        if (progress_) progress_(done_, all_);
        return n;
      });
      const LtxHeader& h = decoder.header();
      if (h.min_txid != file.min || h.max_txid != file.max)
        throw Error(Errc::corrupt, "it holds transactions " + std::to_string(h.min_txid) + " to " +
                                       std::to_string(h.max_txid));
      builder.apply(decoder);
      if (builder.state().pages.database() != file.end.hash)
        throw Error(Errc::corrupt,
                    "with it the database has not the hash that it had at "
                    "transaction " +
                        std::to_string(file.max));
    }
  }

 private:
  SnapshotStore& store_;
  const RestoreBytes& progress_;
  const std::stop_token stop_;
  std::uint64_t done_ = 0, all_ = 0;
};

// Trying again does not help, another file may.
bool is_damage(const Error& error) {
  return error.errc() == Errc::corrupt || error.errc() == Errc::not_found ||
         error.errc() == Errc::incompatible || error.errc() == Errc::invalid_argument;
}

void pass_over(Files& files, const StoredFile& file, const std::string& why, Restored& restored) {
  std::erase(files, file);
  restored.damaged.push_back(file.name() + ": " + why);
  log::warn("snapshot_unusable", {{"object", file.name()}, {"why", why}});
}

// A store that has lost its end and goes on has other transactions under the numbers of lost ones.
// Why what the file ends with is not what the stream has there; empty: it is, or can't be told.
std::string other_than_stream(SnapshotStore& store, const StreamRange& stream,
                              const StoredFile& file, std::stop_token stop) {
  if (stream.name.empty()) return {};
  const auto record_at = [&](std::uint64_t sequence) -> std::optional<StreamRecord> {
    if (sequence < stream.first || sequence > stream.last) return std::nullopt;
    const auto message = store.message(stream.name, sequence, stop);
    if (!message) return std::nullopt;
    auto record = stream_record_from(message->headers, sequence);
    return record ? std::optional(std::move(record.value())) : std::nullopt;
  };
  const std::string why = "the stream goes on from another content";
  if (const auto last = record_at(file.end.sequence))
    return last->last == file.max && last->hash == file.end.hash ? "" : why;
  const auto next = record_at(file.end.sequence + 1);
  if (!next) return {};
  if (next->fence ? next->last != file.max : next->first != file.max + 1) return why;
  return (next->fence ? next->hash : next->before) == file.end.hash ? "" : why;
}

std::string folder_of(const std::string& path) {
  return std::filesystem::absolute(path).parent_path().string();
}

// ---- for operators

std::string moment(const RestoreTarget& target) {
  if (target.txid) return "transaction " + std::to_string(*target.txid);
  if (target.time_ns) return nats::rfc3339_from(*target.time_ns);
  return "now";
}

[[noreturn]] void nothing_kept(const SnapshotStore& store, const RestoreRequest& request,
                               const StoreListing& listing, const Restored& restored) {
  std::string text = "restore of " + request.path + " to " + moment(request.target) + ": ";
  if (!restored.damaged.empty()) {
    text += "what is kept is damaged: " + restored.damaged.front();
    if (restored.damaged.size() > 1)
      text += " (and " + std::to_string(restored.damaged.size() - 1) + " more)";
    throw Error(Errc::corrupt, text);
  }
  const StoredFile* oldest = nullptr;
  for (const auto& file : listing.files)
    if (file.snapshot() && (oldest == nullptr || file.time_ns < oldest->time_ns)) oldest = &file;
  if (oldest == nullptr)
    text += "bucket " + store.bucket() + " has no snapshot";
  else
    text += "the oldest snapshot is of transaction " + std::to_string(oldest->max) + ", " +
            nats::rfc3339_from(oldest->time_ns) + ", and nothing before it is kept";
  if (!listing.foreign.empty())
    text += " (and " + std::to_string(listing.foreign.size()) +
            " objects that can't be used, such as " + listing.foreign.front().name + ": " +
            listing.foreign.front().why + ")";
  throw Error(Errc::not_found, text);
}

// May a database be put there?
void check_place(const std::string& path, bool force) {
  namespace fs = std::filesystem;
  const bool there = fs::exists(fs::symlink_status(path));
  if (there && !force)
    throw Error(Errc::invalid_argument,
                path + " exists: give another path, or replace it with --force (in C++: .force)");
  const UniqueFd log(::open(position_log_path(path).c_str(), O_RDONLY | O_CLOEXEC));
  if (log && ::flock(log.get(), LOCK_SH | LOCK_NB) != 0)
    throw Error(Errc::lock_held, "a cpp-cluster node replicates " + path +
                                     ": restore to another path, then write from there into the "
                                     "leader's database, or stop the node first");
  const bool log_left = fs::exists(path + "-wal") || fs::exists(path + "-shm");
  if (!there && log_left)
    throw Error(Errc::invalid_argument, path + " is not there, but " + path +
                                            "-wal or -shm is: remove what is left of "
                                            "another database first");
  if (!there) return;
  try {
    // Needs the database for itself alone.
    Handle handle(path, Handle::Access::read_write);
    handle.exec("PRAGMA journal_mode=DELETE");
  } catch (const Error& error) {
    if (error.errc() == Errc::corrupt) return;  // damaged, or something else: it was to be replaced
    throw Error(Errc::lock_held, "a program has " + path +
                                     " open: stop it, or restore to another path (" + error.what() +
                                     ")");
  }
}

using Phase = cluster::RestoreProgress::Phase;

void tell(const RestoreRequest& request, Phase phase, std::uint64_t done, std::uint64_t of) {
  if (request.progress) request.progress({phase, done, of});
}

// The files that lead to that object, with itself as the first one: of its history, whichever.
Files files_up_to(SnapshotStore& store, const std::string& object, const std::stop_token& stop) {
  // Who names an object wants that one, whatever the stream says today.
  const Files all = store.list(stop).files;
  const auto named =
      std::find_if(all.begin(), all.end(), [&](const auto& file) { return file.name() == object; });
  if (named == all.end())
    throw Error(Errc::not_found, "bucket " + store.bucket() + " has no file \"" + object +
                                     "\": the list of snapshots, with merged files, tells which "
                                     "there are");
  Files files{*named};
  for (const auto& file : all)
    if (file.end.history == named->end.history && file.max <= named->max && !(file == *named))
      files.push_back(file);
  return files;
}

// The files of a stream that is gone, when one of them ends with just the transaction that is
// wanted and the present stream does not go as far; else nothing.
Files older_history(const Files& all, const Files& own, const std::optional<StreamRange>& stream,
                    const RestoreTarget& target, SnapshotStore& store,
                    const std::stop_token& stop) {
  if (!target.txid) return {};
  const auto ends_there = [&](const auto& file) { return file.max == *target.txid; };
  const auto reaches = [&](const auto& file) { return file.max >= *target.txid; };
  if (std::any_of(own.begin(), own.end(), reaches)) return {};
  if (stream)
    if (const auto newest = newest_record(store, *stream, stop))
      if (newest->last >= *target.txid) return {};
  const auto wanted = std::find_if(all.begin(), all.end(), ends_there);
  Files files;
  for (const auto& file : all)
    if (wanted != all.end() && file.end.history == wanted->end.history) files.push_back(file);
  return files;
}

struct Reached {
  StreamEnd end{};
  std::int64_t time_ns = 0;
};

// Goes on in the stream up to the target; whether there was nothing behind it.
bool follow_stream(SnapshotStore& store, const StreamRange& stream, const RestoreRequest& request,
                   DatabaseBuilder& builder, Reached& at, std::stop_token stop) {
  const CopyPosition from{at.end.epoch, builder.state().txid, at.end.hash};
  const std::uint64_t begin = at.end.sequence;
  StreamFiles files(store, stream.name, from, {begin, at.time_ns}, stream.last,
                    folder_of(request.path), stop);
  const RestoreTarget& target = request.target;
  while (auto file = files.next()) {
    if (target.txid && file->record.last > *target.txid) return false;
    if (target.time_ns && file->time_ns > *target.time_ns) return false;
    LtxDecoder decoder(file->bytes->source());
    builder.apply(decoder);
    if (builder.state().pages.database() != file->record.hash)
      throw Error(Errc::corrupt,
                  "record " + std::to_string(file->record.sequence) +
                      ": with it the database has not the hash that the record says");
    at.end = {stream.history, file->record.epoch, file->record.sequence, file->record.hash};
    at.time_ns = file->time_ns;
    tell(request, Phase::stream, at.end.sequence - begin, stream.last - begin);
  }
  return true;
}

// Checks it, and puts it where it is wanted.
void put_in_place(const std::string& fresh, const RestoreRequest& request, Restored& restored,
                  const std::stop_token& stop) {
  try {
    tell(request, Phase::check, 0, 0);
    restored.complaint = integrity_of(fresh, stop).value_or("");
    check_place(request.path, request.force);
    take_access(fresh, request.path);
    replace_database(fresh, request.path);
  } catch (const Error&) {
    ::unlink(fresh.c_str());
    throw;
  }
}

// Restores from the files of one history and its stream, if it is there still. False: it has
// nothing of that time; then there is no file.
bool restore_from(SnapshotStore& store, Files files, std::optional<StreamRange> stream,
                  const RestoreRequest& request, Restored& restored, const std::stop_token& stop) {
  const std::string fresh = request.path + ".restore-" + random_id();
  const RestoreBytes read = [&request](std::uint64_t done, std::uint64_t all) {
    tell(request, Phase::files, done, all);
  };
  ChainReader reader(store, read, stop);
  for (int i = 0; i < kMostDamaged; ++i) {
    const Files chain = plan_restore(files, request.target);
    const std::uint64_t behind = chain.empty() ? 0 : chain.back().end.sequence;
    const bool connects = stream && behind + 1 >= stream->first && behind <= stream->last;
    if (chain.empty() && !connects) return false;
    StoredFile at;  // of the chain: what is at fault when something is
    bool in_chain = !chain.empty();
    try {
      DatabaseBuilder builder(fresh);
      Reached reached;
      if (!chain.empty()) {
        reader.apply(chain, builder, at);
        reached = {chain.back().end, chain.back().time_ns};
      }
      bool newest = !stream && restored.damaged.empty();
      if (connects) {
        in_chain = false;
        newest = follow_stream(store, *stream, request, builder, reached, stop);
        in_chain = reached.end.sequence == behind && !chain.empty();
      }
      if (builder.state().txid == 0) return false;
      restored.state = builder.finish(reached.end.hash);
      restored.epoch = reached.end.epoch;
      restored.sequence = reached.end.sequence;
      restored.time_ns = reached.time_ns;
      restored.newest = newest && std::none_of(files.begin(), files.end(), [&](const auto& file) {
                          return file.max > restored.state.txid;
                        });
    } catch (const Error& error) {
      if (!is_damage(error)) throw;
      if (in_chain) {
        pass_over(files, at, error.what(), restored);
      } else {
        restored.damaged.push_back("stream " + request.stream + ": " + error.what());
        stream.reset();
      }
      continue;
    }
    put_in_place(fresh, request, restored, stop);
    restored.from = chain;
    return true;
  }
  return false;
}

}  // namespace

std::optional<Restored> restore_connected(SnapshotStore& store, const StreamRange& stream,
                                          const std::string& path, const RestoreBytes& progress,
                                          std::stop_token stop) {
  Files files = files_of(files_kept(store, stream, stop), stream);
  Restored restored;
  ChainReader reader(store, progress, stop);
  for (int i = 0; i < kMostDamaged; ++i) {
    const Files chain = plan_restore(files);
    if (chain.empty() || chain.back().end.sequence + 1 < stream.first) return std::nullopt;
    const StoredFile& last = chain.back();
    if (const auto why = other_than_stream(store, stream, last, stop); !why.empty()) {
      pass_over(files, last, why, restored);
      continue;
    }
    ::unlink(path.c_str());
    StoredFile at = last;
    try {
      DatabaseBuilder builder(path);
      reader.apply(chain, builder, at);
      restored.state = builder.finish(last.end.hash);
    } catch (const Error& error) {
      if (!is_damage(error)) throw;
      pass_over(files, at, error.what(), restored);
      continue;
    }
    restored.epoch = last.end.epoch;
    restored.sequence = last.end.sequence;
    restored.time_ns = last.time_ns;
    restored.from = chain;
    return restored;
  }
  return std::nullopt;
}

namespace {

// As one file ends, whatever stream it is of, and nothing behind it.
Restored restore_object(SnapshotStore& store, const RestoreRequest& request,
                        const std::stop_token& stop) {
  const auto stream = store.stream(request.stream, stop);
  const Files files = files_up_to(store, request.object, stop);
  RestoreRequest exact = request;
  exact.target = {.txid = files.front().max};
  Restored restored;
  if (!restore_from(store, files, std::nullopt, exact, restored, stop))
    nothing_kept(store, request, store.list(stop), restored);
  restored.stream_gone = !stream || files.front().end.history != stream->history;
  restored.newest = false;
  return restored;
}

}  // namespace

Restored restore_database(SnapshotStore& store, const RestoreRequest& request,
                          std::stop_token stop) {
  check_place(request.path, request.force);
  if (!request.object.empty()) return restore_object(store, request, stop);
  const auto kept = kept_files(store, request.stream, stop);
  const auto& stream = kept.stream;
  const auto& listing = kept.listing;
  Restored restored;
  const Files older = older_history(listing.files, files_meant(listing.files, stream), stream,
                                    request.target, store, stop);
  if (!older.empty() && restore_from(store, older, std::nullopt, request, restored, stop)) {
    restored.stream_gone = true;
    restored.newest = false;
    return restored;
  }
  bool own = stream.has_value();
  for (const auto& files : histories_of(listing.files, stream)) {
    if (restore_from(store, files, own ? stream : std::nullopt, request, restored, stop)) {
      restored.stream_gone =
          stream && !files.empty() && files.front().end.history != stream->history;
      restored.newest = restored.newest && !restored.stream_gone;
      return restored;
    }
    // A transaction's number means another one in another history; a time does not.
    if (!files.empty() && (!request.target.time_ns || !restored.damaged.empty())) break;
    own = false;
  }
  nothing_kept(store, request, listing, restored);
}

}  // namespace cluster::sqlite
