// What a node tells Prometheus.
#include "platform/node_metrics.h"

#include <map>
#include <regex>
#include <set>
#include <sstream>

#include <gtest/gtest.h>

namespace cluster {
namespace {

NodeStatus example() {
  NodeStatus status;
  status.platform = "shop";
  status.node = "node-1";
  status.in_force = true;
  AppStatus app;
  app.name = "notes";
  app.epoch = 7;
  StepTimes times;
  times.add({Step::hook, true, std::chrono::milliseconds(20), StepDone::Outcome::done});
  times.add({Step::hook, true, std::chrono::milliseconds(400), StepDone::Outcome::failed});
  times.add({Step::hook, true, std::chrono::hours(1), StepDone::Outcome::late});
  times.add({Step::database, false, std::chrono::milliseconds(5), StepDone::Outcome::done});
  app.steps = times.all();
  sqlite::ReplicatedDatabase::Status database;
  database.role = sqlite::ReplicatedDatabase::Role::primary;
  database.txid = 4'711;
  database.sequence = (std::uint64_t{1} << 52) + 1;
  database.lag_time = std::chrono::milliseconds(1'250);
  database.counts.copy.divergences = 2;
  database.counts.copy.stream_ends_lost = 1;
  database.counts.copy.foreign_writes = 4;
  database.counts.replaced = 3;
  database.quarantine.totals[0] = {2, 81'920};
  app.database = database;
  status.apps.push_back(app);
  app.name = "plain";
  app.database.reset();
  status.apps.push_back(app);
  return status;
}

std::set<std::string> lines_of(const std::string& text) {
  std::set<std::string> lines;
  std::stringstream in(text);
  for (std::string line; std::getline(in, line);) lines.insert(line);
  return lines;
}

TEST(NodeMetrics, HaveEachFigureOfAnAppsDatabase) {
  const auto lines = lines_of(to_metrics(example()));
  for (const char* line :
       {"cluster_node_session 1", "cluster_app_epoch{app=\"notes\"} 7",
        "cluster_database_primary{app=\"notes\"} 1", "cluster_database_txid{app=\"notes\"} 4711",
        "cluster_database_sequence{app=\"notes\"} 4503599627370497",
        "cluster_database_lag_seconds{app=\"notes\"} 1.250000",
        "cluster_database_divergences_total{app=\"notes\"} 2",
        "cluster_database_foreign_writes_total{app=\"notes\"} 4",
        "cluster_database_quarantined{app=\"notes\",kind=\"diverged\"} 2",
        "cluster_database_quarantined{app=\"notes\",kind=\"damaged\"} 0",
        "cluster_database_quarantined_bytes{app=\"notes\",kind=\"diverged\"} 81920",
        "cluster_database_stream_ends_lost_total{app=\"notes\"} 1",
        "cluster_database_replaced_total{app=\"notes\"} 3"})
    EXPECT_TRUE(lines.contains(line)) << line;
  for (const auto& line : lines)
    EXPECT_FALSE(line.starts_with("cluster_database") && line.find("plain") != std::string::npos)
        << line;
}

TEST(NodeMetrics, HaveWhatEachStepOfATransitionHasTaken) {
  const auto lines = lines_of(to_metrics(example()));
  const std::string hook = R"({app="notes",step="hook",direction="up")";
  const std::string database = R"({app="notes",step="database",direction="down")";
  for (const auto& line : {"cluster_transition_seconds_bucket" + hook + R"(,le="0.01"} 0)",
                           "cluster_transition_seconds_bucket" + hook + R"(,le="0.025"} 1)",
                           "cluster_transition_seconds_bucket" + hook + R"(,le="0.5"} 2)",
                           "cluster_transition_seconds_bucket" + hook + R"(,le="300"} 2)",
                           "cluster_transition_seconds_bucket" + hook + R"(,le="+Inf"} 3)",
                           "cluster_transition_seconds_sum" + hook + "} 3600.420000",
                           "cluster_transition_seconds_count" + hook + "} 3",
                           "cluster_transition_failures_total" + hook + "} 2",
                           // A bound is of its bucket.
                           "cluster_transition_seconds_bucket" + database + R"(,le="0.0025"} 0)",
                           "cluster_transition_seconds_bucket" + database + R"(,le="0.005"} 1)",
                           "cluster_transition_failures_total" + database + "} 0"})
    EXPECT_TRUE(lines.contains(line)) << line;
}

// As the format's specification has it: each metric's lines stand together, behind its HELP and
// TYPE; counters, and only they, end with _total.
TEST(NodeMetrics, AreInThePrometheusTextFormat) {
  NodeStatus status = example();
  status.node = "a\"b\\c\nd";
  auto second = status.apps.front();
  second.name = "other";
  status.apps.push_back(second);
  const std::regex sample(
      R"re(([a-z_]+)(\{[a-z_]+="([^"\\]|\\.)*"(,[a-z_]+="([^"\\]|\\.)*")*\})? -?[0-9.]+)re");
  std::map<std::string, std::string> types;
  std::set<std::string> seen;
  std::string now;
  std::stringstream in(to_metrics(status));
  for (std::string line; std::getline(in, line);) {
    std::stringstream words(line);
    std::string mark, what, name, rest;
    if (line.starts_with("# ")) {
      words >> mark >> what >> name;
      std::getline(words, rest);
      EXPECT_FALSE(rest.empty()) << line;
      if (what == "TYPE") types[name] = rest.substr(1);
      if (what == "HELP") {
        EXPECT_TRUE(seen.insert(name).second) << name << " comes twice";
        now = name;
      }
      continue;
    }
    std::smatch match;
    ASSERT_TRUE(std::regex_match(line, match, sample)) << line;
    if (types[now] == "histogram")
      EXPECT_TRUE(std::regex_match(match[1].str(), std::regex(now + "_(bucket|sum|count)")))
          << line;
    else
      EXPECT_EQ(match[1], now) << line;
    EXPECT_TRUE(types.contains(now)) << line;
  }
  EXPECT_GT(types.size(), 30U);
  for (const auto& [name, type] : types)
    EXPECT_EQ(type == "counter", name.ends_with("_total")) << name << " is a " << type;
}

}  // namespace
}  // namespace cluster
