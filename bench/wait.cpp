#include "bench/wait.h"

#include <csignal>

#include "bench/report.h"

namespace bench {

Waiting::Waiting() {
  for (const int signal : {SIGINT, SIGTERM, SIGHUP})
    signals_.push_back(loop_.on_signal(signal, [this] { interrupted_ = true; }));
}

void Waiting::wait_for(const std::string& what, cluster::Duration limit,
                       const std::function<bool()>& condition) {
  const bool met = loop_.run_until([&] { return interrupted_ || condition(); }, limit);
  check();
  if (!met)
    throw Failed{"for " + std::to_string(static_cast<int>(milliseconds(limit) / 1000)) +
                 " s it has waited in vain for " + what};
}

void Waiting::pass(cluster::Duration span) {
  loop_.run_until([this] { return interrupted_; }, span);
  check();
}

void Waiting::check() const {
  if (interrupted_) throw Interrupted{};
}

}  // namespace bench
