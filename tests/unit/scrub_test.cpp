// What a scrub does with what it finds, on a database that is made up.
#include "sqlite/scrub.h"

#include <algorithm>
#include <map>
#include <memory>
#include <optional>
#include <set>
#include <string>
#include <vector>

#include <gtest/gtest.h>

#include "slowness.h"
#include "temporary_folder.h"

namespace cluster::sqlite {
namespace {

using namespace std::chrono_literals;

constexpr std::uint32_t kPage = 65'536;  // bytes

class ScrubTest : public ::testing::Test {
 protected:
  // A database of so many pages, of which some are wrong.
  PageNumber pages_ = 40;
  std::set<PageNumber> wrong_;
  bool leads_ = false;
  std::optional<Error> no_compare_, no_repair_;
  std::set<PageNumber> moved_on_;  // the leader has another version

  std::vector<PageNumber> compared_;  // where steps began
  std::vector<PageNumber> repaired_;
  std::vector<std::string> given_up_, unsound_;
  int settled_ = 0;
  std::map<std::string, int> audited_;

  std::unique_ptr<Scrub> scrub(Duration interval = 0s,
                               std::uint64_t rate = std::uint64_t{1} << 34) {
    Scrub::Work work;
    work.compare = [this](PageNumber first, std::size_t bytes, Callback<ScrubStep> done) {
      compared_.push_back(first);
      loop_.post([this, first, bytes, done] { done(compare(first, bytes)); });
    };
    work.leads = [this] { return leads_; };
    work.repair = [this](const WrongPage& page, std::uint32_t, Callback<bool> done) {
      loop_.post([this, page, done] { done(repair(page.number)); });
    };
    work.settle = [this] { ++settled_; };
    work.give_up = [this](const std::string& why) {
      given_up_.push_back(why);
      wrong_.clear();  // another copy
      return true;
    };
    work.unsound = [this](const std::string& why) { unsound_.push_back(why); };
    work.changed = [] {};
    Scrub::Options options{"a", "n", folder_ / "a.db-cluster-scrub", {interval, rate}, {}};
    options.audit = [this](AuditEntry entry) { ++audited_[entry.action]; };
    auto made = std::make_unique<Scrub>(loop_, pool_, std::move(options), std::move(work));
    made->start();
    return made;
  }
  bool wait(const std::function<bool()>& condition) {
    return loop_.run_until(condition, 30s * slowness());
  }
  static bool complete(const Scrub& scrub) { return scrub.status().record.ended_ms != 0; }
  PageNumber saved_next() {
    const auto record = read_scrub_record(folder_ / "a.db-cluster-scrub");
    return record ? record->next : 0;
  }

  testing::TemporaryFolder folder_;
  Loop loop_;
  StrandPool pool_;

 private:
  Result<ScrubStep> compare(PageNumber first, std::size_t bytes) {
    if (no_compare_) return *no_compare_;
    ScrubStep step;
    step.page_size = kPage;
    step.pages = pages_;
    step.next = first;
    for (; step.next <= pages_ &&
           (step.next - first + 1) * std::size_t{kPage} <= std::max<std::size_t>(bytes, kPage);
         ++step.next) {
      ++step.compared;
      if (wrong_.contains(step.next)) step.wrong.push_back({step.next, step.next + 7, 0});
    }
    return step;
  }
  Result<bool> repair(PageNumber number) {
    if (no_repair_) return *no_repair_;
    if (moved_on_.contains(number)) return false;
    repaired_.push_back(number);
    wrong_.erase(number);
    return true;
  }
};

TEST_F(ScrubTest, LooksAtAllPagesOnceAndSaysWhenItWasDone) {
  const auto one = scrub();
  one->begin_now();
  ASSERT_TRUE(wait([&] { return complete(*one); }));
  EXPECT_EQ(one->status().compared, pages_);
  EXPECT_EQ(one->status().record.last_pages, pages_);
  EXPECT_EQ(compared_, (std::vector<PageNumber>{1, 17, 33}));
  EXPECT_EQ(one->status().trouble, "");
  EXPECT_EQ(audited_["scrubbed"], 1);
}

TEST_F(ScrubTest, BeginsByItselfWhenItIsDue) {
  const auto one = scrub(1s);
  ASSERT_TRUE(wait([&] { return complete(*one); }));
}

TEST_F(ScrubTest, SwitchedOffItBeginsOnlyWhenAskedTo) {
  const auto one = scrub(0s);
  loop_.run_until([] { return false; }, 50ms);
  EXPECT_TRUE(compared_.empty());
  one->begin_now();
  ASSERT_TRUE(wait([&] { return complete(*one); }));
}

TEST_F(ScrubTest, GoesOnWhereItWasWhenTheNodeIsRestarted) {
  {
    const auto one = scrub(0s, 64 * 1024);  // a page a second
    one->begin_now();
    ASSERT_TRUE(wait([&] { return saved_next() > 2; }));
  }
  compared_.clear();
  const auto again = scrub();
  ASSERT_TRUE(wait([&] { return complete(*again); }));
  EXPECT_GT(compared_.front(), 2U);
}

TEST_F(ScrubTest, WrongPagesOfAStandbyAreRepairedOneByOneAndMovedIntoTheFile) {
  wrong_ = {3, 4, 39};
  const auto one = scrub();
  one->begin_now();
  ASSERT_TRUE(wait([&] { return complete(*one) && wrong_.empty() && settled_ > 0; }));
  EXPECT_EQ(std::set<PageNumber>(repaired_.begin(), repaired_.end()),
            (std::set<PageNumber>{3, 4, 39}));
  EXPECT_FALSE(one->found_wrong());
  EXPECT_EQ(one->status().found, 3U);
  EXPECT_EQ(one->status().repaired, 3U);
  EXPECT_EQ(one->status().trouble, "");
  EXPECT_EQ(audited_["scrub_wrong_page"], 3);
  EXPECT_EQ(audited_["scrub_repaired"], 3);
  EXPECT_TRUE(given_up_.empty());
}

TEST_F(ScrubTest, APageThatWasWrittenAnewMeanwhileNeedsNoRepair) {
  wrong_ = {5};
  no_repair_ = Error(Errc::unavailable, "nobody leads");
  const auto one = scrub();
  one->begin_now();
  ASSERT_TRUE(wait([&] { return complete(*one) && one->found_wrong(); }));
  EXPECT_NE(one->status().trouble.find("page 5"), std::string::npos) << one->status().trouble;
  wrong_.clear();
  ASSERT_TRUE(wait([&] { return !one->found_wrong(); }));
  EXPECT_TRUE(repaired_.empty());
}

TEST_F(ScrubTest, TooManyWrongPagesAreAWrongCopy) {
  pages_ = 400;
  for (PageNumber n = 1; n <= Scrub::kMostWrong + 1; ++n) wrong_.insert(3 * n);
  no_repair_ = Error(Errc::unavailable, "nobody leads");
  const auto one = scrub();
  one->begin_now();
  ASSERT_TRUE(wait([&] { return !given_up_.empty(); }));
  EXPECT_EQ(given_up_.size(), 1U);
  EXPECT_FALSE(one->found_wrong());
  EXPECT_FALSE(complete(*one));
}

TEST_F(ScrubTest, APageThatNobodyHasIsTriedABoundedNumberOfTimes) {
  wrong_ = {5};
  moved_on_ = {5};
  const auto one = scrub();
  one->begin_now();
  ASSERT_TRUE(wait([&] { return one->found_wrong(); }));
  // The pauses between them grow to half a minute: two tries are waited for.
  ASSERT_TRUE(wait([&] { return std::count(compared_.begin(), compared_.end(), 5) >= 2; }));
  EXPECT_TRUE(given_up_.empty());
  EXPECT_NE(one->status().trouble.find("had from the node that leads"), std::string::npos);
}

TEST_F(ScrubTest, WrongPagesOfAPrimaryAreAnAlarmAndStay) {
  wrong_ = {5, 6};
  leads_ = true;
  const auto one = scrub();
  one->begin_now();
  ASSERT_TRUE(wait([&] { return complete(*one) && !unsound_.empty(); }));
  EXPECT_EQ(unsound_.size(), 1U);
  EXPECT_TRUE(repaired_.empty());
  EXPECT_EQ(one->status().wrong.size(), 2U);
  EXPECT_NE(one->status().trouble.find("cpp-cluster stepdown a"), std::string::npos)
      << one->status().trouble;
  EXPECT_TRUE(given_up_.empty());
}

TEST_F(ScrubTest, WhatCanNotBeLookedAtNowIsLookedAtLater) {
  no_compare_ = Error(Errc::unavailable, "it is restored");
  const auto one = scrub();
  one->begin_now();
  ASSERT_TRUE(wait([&] { return !compared_.empty(); }));
  EXPECT_EQ(one->status().trouble, "");
  no_compare_.reset();
  ASSERT_TRUE(wait([&] { return complete(*one); }));
}

TEST_F(ScrubTest, AFileThatCanNotBeReadAtAllIsToldOf) {
  no_compare_ = Error(Errc::system, "open of a.db: Permission denied");
  const auto one = scrub();
  one->begin_now();
  ASSERT_TRUE(wait([&] { return !one->status().trouble.empty(); }));
  EXPECT_EQ(audited_["scrub_failed"], 1);
}

}  // namespace
}  // namespace cluster::sqlite
