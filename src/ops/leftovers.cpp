#include "ops/leftovers.h"

#include "cluster/error.h"
#include "core/log.h"

namespace cluster {

std::vector<Leftover> find_leftovers(const std::string& marker) {
  return find_marked({instance_mark(marker)});
}

std::vector<Leftover> end_leftovers(const std::string& marker, Duration limit) {
  EndedProcesses result = end_marked({instance_mark(marker)}, limit);
  for (const auto& one : result.ended)
    log::warn("leftover_ended", {{"pid", one.pid}, {"command", one.command}});
  if (!result.remaining.empty()) {
    std::string list;
    for (const auto& one : result.remaining)
      list += (list.empty() ? "" : ", ") + std::to_string(one.pid) + " (" + one.command + ")";
    throw Error(Errc::backend_failed,
                "programs that an earlier run of this node left behind do not end: " + list +
                    "; end them before the node starts, or restart the machine");
  }
  return result.ended;
}

}  // namespace cluster
