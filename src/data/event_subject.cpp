#include "data/event_subject.h"

#include <algorithm>
#include <vector>

#include "core/names.h"

namespace cluster {
namespace {

constexpr std::size_t kLongestSubject = 200;
constexpr std::size_t kLongestId = 200;
constexpr std::size_t kLongestName = 64;
constexpr std::string_view kDead = "_dead";

std::vector<std::string_view> tokens_of(std::string_view text) {
  std::vector<std::string_view> tokens;
  while (true) {
    const auto dot = text.find('.');
    tokens.push_back(text.substr(0, dot));
    if (dot == std::string_view::npos) return tokens;
    text.remove_prefix(dot + 1);
  }
}

bool visible(char c) { return c > ' ' && c < 0x7f; }

std::string token_fault(std::string_view token) {
  if (token.empty()) return "it has an empty token";
  for (const char c : token)
    if (!visible(c) || std::string_view("*>\"\\").find(c) != std::string_view::npos)
      return "token \"" + std::string(token) +
             "\" may have visible ASCII characters only, and none of * > \" \\";
  return {};
}

std::string length_fault(std::string_view text) {
  if (text.size() <= kLongestSubject) return {};
  return "it is longer than " + std::to_string(kLongestSubject) + " bytes";
}

bool fits(std::string_view token, std::string_view word) { return token == "*" || token == word; }

}  // namespace

std::string event_subject_fault(std::string_view subject) {
  if (auto fault = length_fault(subject); !fault.empty()) return fault;
  for (const auto token : tokens_of(subject))
    if (auto fault = token_fault(token); !fault.empty()) return fault;
  if (subject.front() == '_') return "subjects that begin with \"_\" are kept for cpp-cluster";
  return {};
}

std::string event_pattern_fault(std::string_view pattern) {
  if (auto fault = length_fault(pattern); !fault.empty()) return fault;
  const auto tokens = tokens_of(pattern);
  for (std::size_t i = 0; i < tokens.size(); ++i) {
    if (tokens[i] == "*" || (tokens[i] == ">" && i + 1 == tokens.size())) continue;
    if (tokens[i] == ">") return "\">\" may only be its last token";
    if (auto fault = token_fault(tokens[i]); !fault.empty()) return fault;
  }
  return {};
}

std::string event_id_fault(std::string_view id) {
  if (!id.empty() && id.size() <= kLongestId && std::all_of(id.begin(), id.end(), visible))
    return {};
  return "an id has 1 to " + std::to_string(kLongestId) + " visible ASCII characters";
}

std::string durable_name_fault(std::string_view name) {
  const auto fine = [](char c) {
    return (c >= 'a' && c <= 'z') || (c >= 'A' && c <= 'Z') || (c >= '0' && c <= '9') || c == '-';
  };
  if (!name.empty() && name.size() <= kLongestName && std::all_of(name.begin(), name.end(), fine))
    return {};
  return "a durable subscription's name has 1 to " + std::to_string(kLongestName) +
         " of A-Z, a-z, 0-9 and -";
}

std::string event_source_fault(std::string_view app) {
  return app == "_" || app == "*" ? std::string() : app_name_fault(app);
}

std::string event_subject(const std::string& platform, const std::string& app,
                          std::string_view subject) {
  return platform + "." + app + ".events." + std::string(subject);
}

std::optional<EventPlace> event_place(const std::string& platform, std::string_view subject) {
  const auto tokens = tokens_of(subject);
  if (tokens.size() < 4 || tokens[0] != platform || tokens[2] != "events") return std::nullopt;
  const auto begin = platform.size() + 1 + tokens[1].size() + 1 + tokens[2].size() + 1;
  return EventPlace{std::string(tokens[1]), std::string(subject.substr(begin))};
}

std::string dead_subject(const std::string& durable, const std::string& subject) {
  return std::string(kDead) + "." + durable + "." + subject;
}

bool wants_reserved(std::string_view pattern) { return pattern.starts_with('_'); }

bool fits_dead_of(std::string_view pattern, const std::string& durable) {
  const auto tokens = tokens_of(pattern);
  if (tokens[0] != kDead) return false;  // a wildcard does not fit it
  return tokens.size() > 1 && (tokens[1] == ">" || fits(tokens[1], durable));
}

}  // namespace cluster
