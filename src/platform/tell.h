// Tells users' hooks of something on a strand: what they throw is logged, and so is what could not
// be queued.
#pragma once

#include <functional>
#include <string>
#include <vector>

#include "core/log.h"
#include "core/strand.h"
#include "core/thrown_by.h"

namespace cluster {

/// Told, on the strand, of a hook that threw, once that is in the log.
using HookThrew = std::function<void(const char* hook, const std::string& why)>;

/// `hooks` must live until the strand's tasks have run. `about`: the app, empty for the platform.
template <typename News>
void tell(Strand& strand, const char* name, const std::string& about,
          const std::vector<std::function<void(const News&)>>& hooks, const News& news,
          const HookThrew& threw) {
  if (hooks.empty()) return;
  bool queued = strand.post([&hooks, name, about, news, threw] {
    const auto fail = [&](const std::string& why) {
      log::error("hook_threw", {{"app", about}, {"hook", name}, {"why", why}});
      threw(name, why);
    };
    for (const auto& hook : hooks) {
      if (const auto why = thrown_by([&] { hook(news); })) fail(*why);
    }
  });
  if (!queued)
    log::error("hook_dropped",
               {{"app", about},
                {"hook", name},
                {"why", "too many wait: an earlier hook has not returned for long"}});
}

}  // namespace cluster
