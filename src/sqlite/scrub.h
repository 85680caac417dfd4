// Scrubbing of a database: its file is read in the background, page after page, at a bounded rate,
// and compared with the kept hashes (docs/replication.md, "Scrubbing"). Decides when, how far, and
// what becomes of a wrong page; how pages are compared, fetched and written is its owner's. On the
// loop.
#pragma once

#include <cstdint>
#include <functional>
#include <memory>
#include <string>
#include <vector>

#include "cluster/clock.h"
#include "core/audit.h"
#include "core/journal.h"
#include "core/loop.h"
#include "core/result.h"
#include "core/strand.h"
#include "sqlite/scrub_record.h"
#include "sqlite/scrub_step.h"

namespace cluster::sqlite {

class Scrub {
 public:
  /// Pages that are repaired one by one. With more of them wrong, the whole copy is.
  static constexpr std::size_t kMostWrong = 64;
  /// Tries to have a page repaired, before the whole copy is had anew.
  static constexpr int kMostTries = 10;

  struct Options {
    std::string app{}, node{};  ///< for the log
    std::string record{};       ///< the file in which it keeps how far it is
    ScrubOptions plan{};
    AuditSink audit{};
  };
  /// What its owner does for it; all must be given. Each callback is called once, on the loop.
  struct Work {
    /// Compares some pages, as scrub_some(): the same errors.
    std::function<void(PageNumber first, std::size_t bytes, Callback<ScrubStep> done)> compare{};
    /// This node leads: what is wrong here can't be had from elsewhere.
    std::function<bool()> leads{};
    /// Has the page from the leader and writes it. False: the page is another one by now.
    std::function<void(const WrongPage& page, std::uint32_t page_size, Callback<bool> done)>
        repair{};
    /// What was repaired is to get from the WAL into the file.
    std::function<void()> settle{};
    /// The copy is to be had anew as a whole. False: not now, as while this node leads.
    std::function<bool(const std::string& why)> give_up{};
    /// This node leads, and its file is wrong. Called again while that is so, once a minute.
    std::function<void(const std::string& why)> unsound{};
    /// Wrong pages were found, or are no more.
    std::function<void()> changed{};
  };
  struct Status {
    bool on = false;                 ///< it has an interval
    ScrubRecord record{};            ///< how far it is
    PageNumber pages = 0;            ///< of the database, as far as that is known
    std::uint64_t compared = 0;      ///< pages, since the node's start
    std::uint64_t found = 0;         ///< wrong ones, since the node's start
    std::uint64_t repaired = 0;      ///< of these
    std::vector<WrongPage> wrong{};  ///< that are wrong now; not more than kMostWrong
    bool overdue = false;
    std::string waiting{};  ///< why nothing can be compared just now
    std::string trouble{};
  };

  Scrub(Loop& loop, StrandPool& strands, Options options, Work work);
  ~Scrub();
  Scrub(const Scrub&) = delete;
  Scrub& operator=(const Scrub&) = delete;

  void start();
  /// Nothing follows.
  void stop();
  /// Begins one at once, unless one is under way.
  void begin_now();
  /// Pages of the file are wrong, as far as is known.
  bool found_wrong() const noexcept { return !wrong_.empty(); }
  Status status() const;

 private:
  void loaded(const Result<std::optional<ScrubRecord>>& record);
  ScrubRecord to_be_saved() const;
  void save();
  void arm(Duration delay);
  void next();
  void scan();
  void scanned(const Result<ScrubStep>& result, Time begun);
  void finish(const ScrubStep& step);
  void not_now(const Error& error);
  bool add_wrong(const WrongPage& page);
  void mend();
  void looked_at(const Result<ScrubStep>& result);
  void repair(const WrongPage& page, std::uint32_t page_size);
  void repaired(const Result<bool>& result, const WrongPage& page);
  void is_right(PageNumber number);
  void mend_later(Duration delay);
  bool give_up(const std::string& why);
  void alarm();
  std::string why_wrong() const;

  struct Wrong {
    WrongPage page{};
    int tries = 0;
  };

  Loop& loop_;
  const Options options_;
  const Work work_;
  const Journal journal_;
  const std::uint64_t node_;
  std::unique_ptr<Strand> strand_;  // for the record's file
  ScrubRecord record_;
  bool loaded_ = false;
  bool stopped_ = false;
  bool busy_ = false;     // something is compared or repaired
  bool asked_ = false;    // for a scrub, before the record was read
  PageNumber pages_ = 0;  // of the database
  std::vector<Wrong> wrong_;
  Time mend_at_{};  // then the first of these is looked at
  Time alarm_at_{};
  bool unsettled_ = false;  // something was repaired
  std::string last_error_;  // of repairs
  std::string trouble_;     // why it can't be scrubbed
  std::string waiting_;     // the same, also when it is as it should be
  Duration retry_{};
  Time saved_{};
  std::uint64_t compared_ = 0, found_ = 0, repaired_ = 0;
  LoopSource timer_;
  std::shared_ptr<bool> alive_ = std::make_shared<bool>(true);
};

}  // namespace cluster::sqlite
