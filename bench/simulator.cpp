// How fast the simulator runs on one core.
#include <fstream>
#include <regex>

#include "bench/built.h"
#include "bench/child.h"
#include "bench/figures.h"

namespace bench {

using namespace std::chrono_literals;

void simulator(Surroundings& around) {
  const std::string program = built::kSimulator;
  if (program.empty()) throw Failed{"cluster-sim is not part of this build"};
  const std::string log = around.folder + "/simulator.log";
  Child child({program, "--jobs", "1", "--seeds", std::to_string(around.amounts.simulator_seeds)},
              log);
  std::string how;
  around.waiting.wait_for("the simulator", 1'800s, [&] { return !child.running(&how); });
  std::ifstream file(log);
  std::string last;
  for (std::string text; std::getline(file, text);) last = text;
  std::smatch found;
  if (!std::regex_search(last, found, std::regex("([0-9.]+) million steps a minute")))
    throw Failed{"cluster-sim " + how + ", and its last line is: " + last};
  around.report.line(last);
  const double millions = std::stod(found[1]);
  around.report.verdict("simulated steps a minute on one core", found[1].str() + " million",
                        "≥ 10 million", millions >= 10);
}

}  // namespace bench
