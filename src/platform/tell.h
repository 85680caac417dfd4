// Tells users' hooks of something on a strand: what they throw is logged, and so is what could not
// be queued.
#pragma once

#include <exception>
#include <functional>
#include <string>
#include <vector>

#include "core/log.h"
#include "core/strand.h"

namespace cluster {

/// `hooks` must live until the strand's tasks have run. `about`: the app, empty for the platform.
template <typename News>
void tell(Strand& strand, const char* name, const std::string& about,
          const std::vector<std::function<void(const News&)>>& hooks, const News& news) {
  if (hooks.empty()) return;
  bool queued = strand.post([&hooks, name, about, news] {
    for (const auto& hook : hooks) {
      try {
        hook(news);
      } catch (const std::exception& e) {
        log::error("hook_threw", {{"app", about}, {"hook", name}, {"why", e.what()}});
      } catch (...) {
        log::error("hook_threw", {{"app", about}, {"hook", name}, {"why", "not a std::exception"}});
      }
    }
  });
  if (!queued)
    log::error("hook_dropped",
               {{"app", about},
                {"hook", name},
                {"why", "too many wait: an earlier hook has not returned for long"}});
}

}  // namespace cluster
