#include "cli/verify_verdict.h"

#include <algorithm>

namespace cluster::cli {
namespace {

constexpr std::size_t kPagesShown = 8;

std::string pages_text(const CopyFound& found) {
  std::string shown;
  for (std::size_t i = 0; i < std::min(found.pages.size(), kPagesShown); ++i)
    shown += (shown.empty() ? "" : ", ") + std::to_string(found.pages[i]);
  if (found.wrong > kPagesShown) shown += ", …";
  return (found.wrong == 1 ? "1 page is" : std::to_string(found.wrong) + " pages are") +
         " not as written: " + shown;
}

// What there is to say of a copy without the others.
void judge_alone(CheckedCopy& copy, const StreamHash& stream) {
  const CopyFound& found = *copy.found;
  if (!found.damage.empty()) {
    copy.wrong = found.damage;
    return;
  }
  if (found.wrong > 0)
    copy.wrong = pages_text(found);
  else if (found.hash != found.noted)
    copy.wrong = "its content is " + found.hash + ", noted is " + found.noted;
  const auto wanted = stream(found.sequence, found.txid);
  copy.with_stream = wanted.has_value();
  if (wanted && *wanted != found.noted && copy.wrong.empty())
    copy.wrong = "its content is not the stream's: " + found.noted + ", the stream has " + *wanted;
}

}  // namespace

void judge(std::vector<CheckedCopy>& copies, std::size_t reference, const StreamHash& stream) {
  for (auto& copy : copies)
    if (copy.found) judge_alone(copy, stream);
  CheckedCopy& first = copies.at(reference);
  const bool there = first.found && first.found->damage.empty();
  first.with_others = there;
  for (auto& copy : copies) {
    if (&copy == &first || !copy.found || !copy.found->damage.empty()) continue;
    if (!there) {
      copy.not_compared = "of " + first.node + " nothing is known to compare it with";
      continue;
    }
    const std::string at = std::to_string(first.found->txid);
    const std::string& mine = copy.found->noted_at;
    if (mine.empty()) {
      copy.not_compared = "it has no note of its content at transaction " + at;
      continue;
    }
    copy.with_others = true;
    if (mine == first.found->noted) continue;
    // The stream tells which of the two is wrong; without its word it is the one that follows.
    const auto truth = stream(first.found->sequence, first.found->txid);
    if (copy.wrong.empty() && (!truth || *truth != mine))
      copy.wrong = "its content at transaction " + at + " is not that of " + first.node + ": " +
                   mine + ", that has " + first.found->noted;
  }
}

}  // namespace cluster::cli
