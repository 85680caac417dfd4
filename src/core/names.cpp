#include "core/names.h"

#include <algorithm>
#include <vector>

namespace cluster {
namespace {

bool lower(char c) { return c >= 'a' && c <= 'z'; }
bool digit(char c) { return c >= '0' && c <= '9'; }
bool alnum(char c) { return lower(c) || digit(c) || (c >= 'A' && c <= 'Z'); }

std::string label_fault(std::string_view name) {
  if (name.empty()) return "it is empty";
  if (name.size() > 32) return "it has more than 32 characters";
  if (!lower(name[0])) return "it must begin with a letter from a to z";
  for (char c : name)
    if (!lower(c) && !digit(c) && c != '-')
      return std::string("it has '") + c + "'; allowed are a to z, 0 to 9 and '-'";
  return {};
}

}  // namespace

bool is_plain_token(std::string_view text) {
  return !text.empty() && std::all_of(text.begin(), text.end(),
                                      [](char c) { return alnum(c) || c == '_' || c == '-'; });
}

std::string platform_name_fault(std::string_view name) { return label_fault(name); }

std::string app_name_fault(std::string_view name) {
  if (!name.empty() && name[0] == '_') return "names that begin with '_' are the platform's own";
  // An app's bucket is `<platform>_<app>`.
  for (const char* own :
       {"audit", "events", "leases", "locks", "members", "placement", "ring", "services"})
    if (name == own) return "it is the name of a bucket of the platform's own";
  return label_fault(name);
}

std::string node_name_fault(std::string_view name) {
  if (name.empty()) return "it is empty";
  if (name.size() > 63) return "it has more than 63 characters";
  if (!alnum(name[0])) return "it must begin with a letter or a digit";
  for (char c : name)
    if (!alnum(c) && c != '-')
      return std::string("it has '") + c + "'; allowed are letters, digits and '-'";
  return {};
}

int edit_distance(std::string_view a, std::string_view b) {
  std::vector<std::vector<int>> d(a.size() + 1, std::vector<int>(b.size() + 1));
  for (size_t i = 0; i <= a.size(); ++i) d[i][0] = static_cast<int>(i);
  for (size_t j = 0; j <= b.size(); ++j) d[0][j] = static_cast<int>(j);
  for (size_t i = 1; i <= a.size(); ++i) {
    for (size_t j = 1; j <= b.size(); ++j) {
      int replace = d[i - 1][j - 1] + (a[i - 1] == b[j - 1] ? 0 : 1);
      d[i][j] = std::min({d[i - 1][j] + 1, d[i][j - 1] + 1, replace});
      if (i > 1 && j > 1 && a[i - 1] == b[j - 2] && a[i - 2] == b[j - 1])
        d[i][j] = std::min(d[i][j], d[i - 2][j - 2] + 1);
    }
  }
  return d[a.size()][b.size()];
}

}  // namespace cluster
