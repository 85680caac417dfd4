// Who may begin the history of a database while its stream is empty: decided from what each node
// says that it holds. Pure. docs/replication.md, "Who founds".
#pragma once

#include <cstdint>
#include <optional>
#include <string>
#include <string_view>
#include <vector>

#include "coord/held_database.h"

namespace cluster::sqlite {

using coord::HeldDatabase;

/// Another node of the platform, by its record.
struct FoundingNode {
  std::string node{};
  bool live = false;  ///< its session has not ended
  std::optional<HeldDatabase>
      held{};  ///< nothing: its record does not speak of this app's database
};

/// Whom a person has chosen to found.
struct FounderChoice {
  std::string node{};  ///< empty: the app begins with no database

  bool operator==(const FounderChoice&) const = default;
};

/// The choice as it stands in the stream's metadata, and back. Nothing for what is none.
inline constexpr const char* kFounderKey = "cpp-cluster-founder";
std::string to_text(const FounderChoice& choice);
std::optional<FounderChoice> founder_choice_from(std::string_view text);

struct FoundingSituation {
  std::string app{}, node{};  ///< this node
  std::uint64_t stream = 0;   ///< the history of the empty stream
  HeldDatabase own{};
  std::vector<FoundingNode> others{};
  std::optional<FounderChoice> chosen{};
  bool heard = false;   ///< whoever was there when the platform began has had the time to join
  bool waited = false;  ///< and this node has waited that long since its start
};

struct FoundingVerdict {
  enum class Kind {
    may,     ///< this node may found
    waits,   ///< for another node, or for some seconds
    person,  ///< nobody founds until a person decides, or mends something
  } kind = Kind::waits;
  std::string why{};  ///< it may not: what it waits for, and what can be done

  bool operator==(const FoundingVerdict&) const = default;
};

FoundingVerdict judge(const FoundingSituation& situation);

/// "a copy at transaction 12 of epoch 3", for people.
std::string text_of(const HeldDatabase& held);

}  // namespace cluster::sqlite
