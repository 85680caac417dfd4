#include "sqlite/founding_rules.h"

#include <algorithm>
#include <tuple>

#include "core/number_text.h"

namespace cluster::sqlite {
namespace {

using Holds = HeldDatabase::What;
using VerdictKind = FoundingVerdict::Kind;

constexpr std::string_view kNode = "node ";
constexpr std::string_view kEmpty = "empty";

// A node that ended before it had looked says nothing.
bool speaks(const FoundingNode& other) {
  return other.held && (other.live || other.held->what != Holds::unknown);
}

bool holds_some(const HeldDatabase& held) {
  return held.what == Holds::unread || held.what == Holds::database || held.what == Holds::copy;
}

/// How what another node holds compares with what this one holds.
enum class Relation { same, less, more, other };

Relation relation(const HeldDatabase& theirs, const HeldDatabase& own) {
  if (own.hash != 0 && theirs.hash == own.hash) return Relation::same;
  if (theirs.what != Holds::copy || own.what != Holds::copy || theirs.history != own.history)
    return Relation::other;
  const auto at = std::tie(theirs.epoch, theirs.txid), here = std::tie(own.epoch, own.txid);
  if (at != here) return at < here ? Relation::less : Relation::more;
  return theirs.hash == 0 || own.hash == 0 ? Relation::same : Relation::other;
}

std::string named(const FoundingNode& other) {
  return other.node + (other.live ? "" : " (which is down)");
}

std::string commands(const std::string& app) {
  return "cpp-cluster db found " + app +
         " --node NODE lets a node begin with what it has, --empty "
         "lets the app begin without a database";
}

FoundingVerdict chosen_verdict(const FoundingSituation& s) {
  const FounderChoice& choice = *s.chosen;
  if (choice.node.empty()) {
    if (s.own.what == Holds::nothing) return {VerdictKind::may, {}};
    return {VerdictKind::waits,
            "it was decided that app " + s.app +
                " begins without a database, and this node holds " + text_of(s.own) +
                ": it is kept as it is; move it away, or let a node without one lead"};
  }
  if (choice.node != s.node)
    return {VerdictKind::waits,
            "node " + choice.node + " was chosen to begin with what it has: it must be running"};
  if (s.own.what == Holds::database || s.own.what == Holds::copy) return {VerdictKind::may, {}};
  return {VerdictKind::person, "this node was chosen to begin with what it has, and it has " +
                                   text_of(s.own) + ": " + commands(s.app)};
}

}  // namespace

std::string to_text(const FounderChoice& choice) {
  return choice.node.empty() ? std::string(kEmpty) : std::string(kNode) + choice.node;
}

std::optional<FounderChoice> founder_choice_from(std::string_view text) {
  if (text == kEmpty) return FounderChoice{};
  if (!text.starts_with(kNode) || text.size() == kNode.size()) return std::nullopt;
  return FounderChoice{std::string(text.substr(kNode.size()))};
}

std::string text_of(const HeldDatabase& held) {
  switch (held.what) {
    case Holds::unknown: return "what it has not looked at yet";
    case Holds::nothing: return "no database";
    case Holds::unread: return "a database that is not read yet";
    case Holds::database:
      return held.hash == 0
                 ? "a database that belongs to no known history"
                 : "a database that belongs to no known history (hash " + hex(held.hash) + ")";
    case Holds::copy:
      return "a copy at transaction " + std::to_string(held.txid) + " of epoch " +
             std::to_string(held.epoch) + " of history " + hex(held.history);
    case Holds::unusable:
      return "a file that can't be taken" + (held.why.empty() ? "" : " (" + held.why + ")");
  }
  return {};
}

FoundingVerdict judge(const FoundingSituation& s) {
  if (s.chosen) return chosen_verdict(s);
  if (s.own.what == Holds::unusable)
    return {VerdictKind::person, "this node has " + text_of(s.own) +
                                     ": mend it or move it away, or decide: " + commands(s.app)};
  if (s.own.what == Holds::unknown || s.own.what == Holds::unread)
    return {VerdictKind::waits, "what this node has is being looked at"};
  const bool empty = s.own.what == Holds::nothing;
  std::string unusable, apart, ahead, pending;
  bool all_empty = true;
  const auto add = [](std::string& list, const std::string& one) {
    list += (list.empty() ? "" : "; ") + one;
  };
  for (const auto& other : s.others) {
    if (!speaks(other)) {
      all_empty = false;
      continue;
    }
    const HeldDatabase& held = *other.held;
    const std::string says = named(other) + " has " + text_of(held);
    // What a live node said of another stream, or before it saw this one, it will say anew.
    const bool stale = other.live && held.stream != s.stream;
    if (held.what == Holds::unusable)
      add(unusable, says);
    else if (stale && !(empty && holds_some(held)))
      add(pending, named(other));
    else if (held.what == Holds::unknown || (held.what == Holds::unread && other.live && !empty))
      add(pending, named(other));
    else if (!holds_some(held))
      continue;
    else if (empty || relation(held, s.own) == Relation::more)
      add(ahead, says);
    else if (relation(held, s.own) == Relation::other)
      add(apart, says);
  }
  if (!unusable.empty())
    return {VerdictKind::person,
            unusable + ": mend it or move it away, or decide: " + commands(s.app)};
  if (!apart.empty())
    return {VerdictKind::person,
            "nodes hold different databases, and nobody can tell which one counts: "
            "this node has " +
                text_of(s.own) + "; " + apart + ". Decide: " + commands(s.app)};
  if (!ahead.empty())
    return {VerdictKind::waits,
            ahead + ", and this node " + (empty ? std::string("none") : "only " + text_of(s.own)) +
                ": that node is to begin; if it can't, decide: " + commands(s.app)};
  if (!pending.empty())
    return {VerdictKind::waits, "waits until " + pending + " has looked what it holds"};
  if (!s.heard || (empty && !all_empty && !s.waited))
    return {VerdictKind::waits, "waits some seconds for nodes that hold a database of this app"};
  return {VerdictKind::may, {}};
}

}  // namespace cluster::sqlite
