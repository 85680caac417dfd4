#include "platform/step_times.h"

#include <algorithm>
#include <chrono>

namespace cluster {
namespace {

struct Names {
  std::string_view outcome, ms;
};

Names names_of(const StepDone& done) {
  switch (done.step) {
    case Step::database:
      return done.up ? Names{"database_up", "database_up_ms"}
                     : Names{"database_down", "database_down_ms"};
    case Step::backend:
      return done.up ? Names{"backend_up", "backend_up_ms"}
                     : Names{"backend_down", "backend_down_ms"};
    case Step::hook:
      return done.up ? Names{"hook_up", "hook_up_ms"} : Names{"hook_down", "hook_down_ms"};
  }
  return {"unknown", "unknown_ms"};
}

}  // namespace

void StepTimes::add(const StepDone& done) {
  auto times = std::find_if(all_.begin(), all_.end(),
                            [&](const Times& t) { return t.step == done.step && t.up == done.up; });
  if (times == all_.end()) times = all_.insert(all_.end(), Times{done.step, done.up});
  const double seconds = std::chrono::duration<double>(done.took).count();
  const auto bound = std::lower_bound(kBounds.begin(), kBounds.end(), seconds);
  ++times->in[static_cast<std::size_t>(bound - kBounds.begin())];
  times->sum_s += seconds;
  if (done.outcome != StepDone::Outcome::done) ++times->failures;
}

std::vector<log::Field> fields_of(const std::vector<StepDone>& steps) {
  std::vector<log::Field> fields;
  for (const auto& done : steps) {
    const Names names = names_of(done);
    fields.emplace_back(names.ms,
                        std::chrono::duration_cast<std::chrono::milliseconds>(done.took).count());
    if (done.outcome != StepDone::Outcome::done)
      fields.emplace_back(names.outcome,
                          done.outcome == StepDone::Outcome::late ? "late" : "failed");
  }
  return fields;
}

}  // namespace cluster
