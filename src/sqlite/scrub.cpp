#include "sqlite/scrub.h"

#include <algorithm>
#include <chrono>
#include <optional>
#include <utility>

#include "core/log.h"
#include "core/wall_time.h"

namespace cluster::sqlite {
namespace {

using std::chrono::seconds;

constexpr Duration kFirstScrubRetry = seconds(1);  // when it can't be told what pages must be
constexpr Duration kLastScrubRetry = seconds(60);
constexpr Duration kLastWrongRetry = seconds(2);
constexpr Duration kFirstRepairRetry = seconds(1);
constexpr Duration kLastRepairRetry = seconds(30);
constexpr Duration kAlarmAgain = seconds(60);
constexpr Duration kSaveEvery = seconds(1);
constexpr Duration kLongestSleep = std::chrono::hours(1);  // the wall clock may be set

}  // namespace

Scrub::Scrub(Loop& loop, StrandPool& strands, Options options, Work work)
    : loop_(loop),
      options_(std::move(options)),
      work_(std::move(work)),
      journal_("database", options_.app, options_.node, options_.audit),
      node_(number_of(options_.node + "/" + options_.app)),
      strand_(strands.strand()),
      retry_(kFirstScrubRetry) {}

Scrub::~Scrub() { *alive_ = false; }

void Scrub::start() {
  auto known = [this, alive = alive_, &loop = loop_](Result<std::optional<ScrubRecord>> record) {
    loop.post([this, alive, record = std::move(record)] {
      if (*alive && !stopped_) loaded(record);
    });
  };
  const bool queued = strand_->post([known, path = options_.record] {
    try {
      known(read_scrub_record(path));
    } catch (const Error& error) {
      known(error);
    }
  });
  if (!queued)
    known(Error(Errc::system, "there is no thread to read " + options_.record + " with"));
}

void Scrub::stop() {
  stopped_ = true;
  timer_.reset();
}

void Scrub::loaded(const Result<std::optional<ScrubRecord>>& record) {
  loaded_ = true;
  if (!record)
    log::warn("scrub_file_unreadable", {{"app", options_.app},
                                        {"node", options_.node},
                                        {"why", record.error().what()},
                                        {"means", "the scrub begins at the first page"}});
  if (record && record.value()) record_ = *record.value();
  if (record_.since_ms == 0) {
    record_.since_ms = wall_ms();
    save();
  }
  if (std::exchange(asked_, false)) return begin_now();
  arm(Duration(0));
}

// Who goes on from this looks once more at what is wrong now.
ScrubRecord Scrub::to_be_saved() const {
  ScrubRecord record = record_;
  if (wrong_.empty()) return record;
  const auto first = std::min_element(
      wrong_.begin(), wrong_.end(),
      [](const Wrong& a, const Wrong& b) { return a.page.number < b.page.number; });
  const PageNumber number = first->page.number;
  record.next = record.under_way() ? std::min(record.next, number) : number;
  if (!record.under_way()) record.begun_ms = record.ended_ms;
  return record;
}

// A disk that takes nothing costs no more than that a restart begins at the first page.
void Scrub::save() {
  saved_ = BootClock::now();
  strand_->post([path = options_.record, record = to_be_saved()] {
    try {
      write_scrub_record(path, record);
    } catch (const Error& error) {
      log::debug("scrub_file_not_written", {{"why", error.what()}});
    }
  });
}

void Scrub::begin_now() {
  if (stopped_) return;
  asked_ = !loaded_;
  if (asked_) return;
  if (!record_.under_way()) {
    record_.begun_ms = wall_ms();
    record_.next = 1;
    record_.wrong = record_.repaired = 0;
    save();
  }
  retry_ = kFirstScrubRetry;
  if (!busy_) arm(Duration(0));
}

void Scrub::arm(Duration delay) {
  if (!stopped_) timer_ = loop_.after(std::min(delay, kLongestSleep), [this] { next(); });
}

void Scrub::next() {
  if (busy_ || stopped_) return;
  const Time now = BootClock::now();
  if (!wrong_.empty() && now >= mend_at_) return mend();
  const bool wanted = record_.under_way() || options_.plan.interval > Duration(0);
  const Duration due =
      wanted ? until_scrub(record_, options_.plan, node_, wall_ms()) : kLongestSleep;
  if (wanted && due == Duration(0)) return scan();
  arm(wrong_.empty() ? due : std::min(due, mend_at_ - now));
}

// ---- looking for wrong pages

void Scrub::scan() {
  if (!record_.under_way()) begin_now();
  busy_ = true;
  const Time begun = BootClock::now();
  work_.compare(record_.next, scrub_step_bytes(options_.plan),
                [this, alive = alive_, begun](const Result<ScrubStep>& result) {
                  if (!*alive || stopped_) return;
                  busy_ = false;
                  scanned(result, begun);
                });
}

void Scrub::scanned(const Result<ScrubStep>& result, Time begun) {
  if (!result) return not_now(result.error());
  const ScrubStep& step = result.value();
  retry_ = kFirstScrubRetry;
  trouble_.clear();
  waiting_.clear();
  pages_ = step.pages;
  compared_ += step.compared;
  const std::uint64_t pages = step.next - record_.next;
  record_.next = step.next;
  for (const auto& page : step.wrong)
    if (!add_wrong(page)) return;  // given up
  if (record_.next > step.pages) return finish(step);
  if (!step.wrong.empty() || BootClock::now() - saved_ >= kSaveEvery) save();
  arm(pause_after(pages * step.page_size, BootClock::now() - begun, options_.plan));
}

void Scrub::finish(const ScrubStep& step) {
  const std::int64_t now = wall_ms();
  journal_.info("database_scrubbed", {{"pages", step.pages},
                                      {"wrong", record_.wrong},
                                      {"repaired", record_.repaired},
                                      {"ms", std::max<std::int64_t>(0, now - record_.begun_ms)}});
  record_.ended_ms = now;
  record_.last_pages = step.pages;
  record_.begun_ms = 0;
  record_.next = 1;
  save();
  arm(Duration(0));
}

// There may be no copy now, or the node is just becoming the leader.
void Scrub::not_now(const Error& error) {
  if (error.errc() != Errc::unavailable && error.errc() != Errc::shutting_down) {
    if (trouble_ != error.what()) journal_.warn("database_scrub_failed", {{"why", error.what()}});
    trouble_ = error.what();
  }
  waiting_ = error.what();
  // A copy that has taken the place of a wrong one may lead as soon as that is seen.
  retry_ = std::min(retry_, wrong_.empty() ? kLastScrubRetry : kLastWrongRetry);
  arm(retry_);
  retry_ *= 2;
}

// False when there are too many.
bool Scrub::add_wrong(const WrongPage& page) {
  const bool known = std::any_of(wrong_.begin(), wrong_.end(),
                                 [&](const Wrong& one) { return one.page.number == page.number; });
  if (known) return true;
  ++found_;
  ++record_.wrong;
  if (wrong_.size() == kMostWrong)
    return !give_up("more than " + std::to_string(kMostWrong) +
                    " pages of its file are not what was written");
  journal_.error("database_scrub_wrong_page", {{"page", page.number},
                                               {"why", to_text(page)},
                                               {"role", work_.leads() ? "primary" : "standby"}});
  wrong_.push_back({page});
  if (wrong_.size() > 1) return true;
  mend_at_ = BootClock::now();
  alarm_at_ = {};
  work_.changed();
  return true;
}

// ---- and what becomes of them

// Looks at the first of them once more: it may have been written anew meanwhile.
void Scrub::mend() {
  busy_ = true;
  work_.compare(wrong_.front().page.number, 1,
                [this, alive = alive_](const Result<ScrubStep>& result) {
                  if (!*alive || stopped_) return;
                  busy_ = false;
                  looked_at(result);
                });
}

void Scrub::looked_at(const Result<ScrubStep>& result) {
  if (wrong_.empty()) return arm(Duration(0));
  if (!result) {
    mend_later(retry_);
    return not_now(result.error());
  }
  retry_ = kFirstScrubRetry;
  const ScrubStep& step = result.value();
  Wrong& first = wrong_.front();
  if (step.wrong.empty()) {
    journal_.info("database_scrub_page_right",
                  {{"page", first.page.number}, {"means", "it has been written anew"}});
    return is_right(first.page.number);
  }
  first.page = step.wrong.front();
  if (!work_.leads()) return repair(first.page, step.page_size);
  alarm();
  std::rotate(wrong_.begin(), wrong_.begin() + 1, wrong_.end());
  mend_later(kAlarmAgain / static_cast<int>(wrong_.size()));
  arm(Duration(0));
}

void Scrub::alarm() {
  const Time now = BootClock::now();
  if (now < alarm_at_) return;
  alarm_at_ = now + kAlarmAgain;
  work_.unsound(why_wrong());
}

void Scrub::repair(const WrongPage& page, std::uint32_t page_size) {
  busy_ = true;
  work_.repair(page, page_size, [this, alive = alive_, page](const Result<bool>& result) {
    if (!*alive || stopped_) return;
    busy_ = false;
    repaired(result, page);
  });
}

void Scrub::repaired(const Result<bool>& result, const WrongPage& page) {
  const auto found = std::find_if(wrong_.begin(), wrong_.end(),
                                  [&](const Wrong& one) { return one.page.number == page.number; });
  if (found == wrong_.end()) return arm(Duration(0));
  if (result && result.value()) {
    ++repaired_;
    ++record_.repaired;
    unsettled_ = true;
    journal_.warn("database_scrub_repaired",
                  {{"page", page.number}, {"was", to_text(page)}, {"from", "the leader"}});
    return is_right(page.number);
  }
  last_error_ = result ? "it is just being written to" : result.error().what();
  if (++found->tries >= kMostTries &&
      give_up("page " + std::to_string(page.number) + " of its file (" + to_text(page) +
              ") could not be had from the leader: " + last_error_))
    return;
  const Duration delay =
      std::min(kFirstRepairRetry * (1 << std::min(found->tries - 1, 5)), kLastRepairRetry);
  std::rotate(wrong_.begin(), found + 1, wrong_.end());
  mend_later(delay / static_cast<int>(wrong_.size()));
  arm(Duration(0));
}

void Scrub::is_right(PageNumber number) {
  std::erase_if(wrong_, [&](const Wrong& one) { return one.page.number == number; });
  mend_at_ = BootClock::now();
  save();
  if (wrong_.empty()) {
    last_error_.clear();
    if (std::exchange(unsettled_, false)) work_.settle();
    work_.changed();
  }
  arm(Duration(0));
}

void Scrub::mend_later(Duration delay) { mend_at_ = BootClock::now() + delay; }

// The next scrub looks at the copy that takes its place.
bool Scrub::give_up(const std::string& why) {
  if (!work_.give_up(why)) return false;
  wrong_.clear();
  unsettled_ = false;
  last_error_.clear();
  record_.begun_ms = 0;
  record_.next = 1;
  save();
  work_.changed();
  arm(retry_);
  return true;
}

std::string Scrub::why_wrong() const {
  if (wrong_.empty()) return {};
  const WrongPage& page = wrong_.front().page;
  const std::string which = "page " + std::to_string(page.number) + ": " + to_text(page);
  return wrong_.size() == 1 ? which
                            : std::to_string(wrong_.size()) + " pages of its file, " + which;
}

Scrub::Status Scrub::status() const {
  Status status;
  status.on = options_.plan.interval > Duration(0);
  status.record = record_;
  status.pages = pages_;
  status.compared = compared_;
  status.found = found_;
  status.repaired = repaired_;
  for (const auto& one : wrong_) status.wrong.push_back(one.page);
  status.waiting = waiting_;
  status.overdue = scrub_overdue(record_, options_.plan, wall_ms());
  if (!wrong_.empty())
    status.trouble =
        "scrubbing has found its file wrong: " + why_wrong() +
        (work_.leads() ? "; hand over to a sound node: cpp-cluster stepdown " + options_.app
                       : "; it is had from the node that leads") +
        (last_error_.empty() ? "" : ": " + last_error_);
  else if (!trouble_.empty())
    status.trouble = "it can't be scrubbed: " + trouble_;
  return status;
}

}  // namespace cluster::sqlite
