// What the copies of a database that each node has verified say together: which are sound, and the
// same at one transaction. Pure.
#pragma once

#include <cstdint>
#include <functional>
#include <optional>
#include <string>
#include <vector>

namespace cluster::cli {

/// What a node has found of its copy. Hashes are of the whole content, in hexadecimal digits.
struct CopyFound {
  std::uint64_t txid = 0;       ///< that it looked at
  std::uint64_t sequence = 0;   ///< of the record that ends with it
  std::string hash{}, noted{};  ///< as it was read, and as it was noted
  std::string noted_at{};       ///< as it was noted at the reference's transaction, if it was
  std::uint64_t wrong = 0;      ///< pages that are not as they were written
  std::vector<std::uint64_t> pages{};  ///< the first of them
  std::string damage{};                ///< why it could not be read at all
};

struct CheckedCopy {
  std::string node{}, role{};
  std::string problem{};  ///< why it was not verified; else there is
  std::optional<CopyFound> found{};
  // The verdict:
  bool with_stream = false;    ///< it was compared with the stream, at its own transaction
  bool with_others = false;    ///< and with the reference, at that one's; the reference itself is
  std::string wrong{};         ///< what is wrong; empty: nothing that was found
  std::string not_compared{};  ///< why it was not compared with the reference
};

/// The hash that the stream has for a transaction, at the record that ends with it.
using StreamHash =
    std::function<std::optional<std::string>(std::uint64_t sequence, std::uint64_t txid)>;

/// `reference`: the one whose transaction all others are compared at.
void judge(std::vector<CheckedCopy>& copies, std::size_t reference, const StreamHash& stream);

}  // namespace cluster::cli
