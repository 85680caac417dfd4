// What the benchmarks find out: distributions, lines of detail, and a verdict for each figure.
// Goes to standard output and into a file, as Markdown.
#pragma once

#include <cstdio>
#include <optional>
#include <string>
#include <vector>

#include "cluster/clock.h"

namespace bench {

inline double milliseconds(cluster::Duration span) {
  return std::chrono::duration<double, std::milli>(span).count();
}

/// Times in milliseconds.
class Distribution {
 public:
  void add(cluster::Duration span) { values_.push_back(milliseconds(span)); }
  std::size_t size() const { return values_.size(); }
  bool empty() const { return values_.empty(); }
  /// The nearest rank: the smallest value that `share` (0 to 1) of all do not exceed.
  double quantile(double share) const;
  double median() const { return quantile(0.5); }
  double max() const { return quantile(1); }
  /// "p50 1.2 ms, p99 3.4 ms, max 5.6 ms (n = 100)"
  std::string text() const;

 private:
  std::vector<double> values_;
};

/// "0.146 ms", "12.3 ms"
std::string ms_text(double ms);

class Report {
 public:
  explicit Report(const std::string& file);
  ~Report();
  Report(const Report&) = delete;
  Report& operator=(const Report&) = delete;

  void section(const std::string& title);
  /// One item of the section's list.
  void line(const std::string& text);
  /// `met` empty: there is no target to meet, or it could not be measured (`measured` says why).
  void verdict(const std::string& figure, const std::string& measured, const std::string& target,
               std::optional<bool> met);
  /// A figure that could not be measured.
  void failed(const std::string& figure, const std::string& why);
  /// The table of all verdicts.
  void summary();
  bool all_measured() const { return all_measured_; }

 private:
  void write(const std::string& text);

  struct Row {
    std::string figure, measured, target, met;
  };
  std::FILE* file_;
  std::vector<Row> rows_;
  bool all_measured_ = true;
};

}  // namespace bench
