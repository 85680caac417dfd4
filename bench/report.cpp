#include "bench/report.h"

#include <algorithm>
#include <cerrno>
#include <cmath>
#include <cstring>

#include "cluster/error.h"

namespace bench {

double Distribution::quantile(double share) const {
  if (values_.empty()) return std::nan("");
  std::vector<double> sorted = values_;
  std::sort(sorted.begin(), sorted.end());
  const auto rank = static_cast<std::size_t>(std::ceil(share * static_cast<double>(sorted.size())));
  return sorted[std::clamp<std::size_t>(rank, 1, sorted.size()) - 1];
}

std::string Distribution::text() const {
  return "p50 " + ms_text(median()) + ", p99 " + ms_text(quantile(0.99)) + ", max " +
         ms_text(max()) + " (n = " + std::to_string(size()) + ")";
}

std::string ms_text(double ms) {
  char text[32];
  std::snprintf(text, sizeof text, ms < 10 ? "%.3f ms" : "%.1f ms", ms);
  return text;
}

Report::Report(const std::string& file) : file_(std::fopen(file.c_str(), "we")) {
  if (file_ == nullptr)
    throw cluster::Error(cluster::Errc::system,
                         "can't write " + file + ": " + std::strerror(errno));
}

Report::~Report() { std::fclose(file_); }

void Report::write(const std::string& text) {
  for (std::FILE* to : {stdout, file_}) {
    std::fputs(text.c_str(), to);
    std::fflush(to);
  }
}

void Report::section(const std::string& title) { write("\n### " + title + "\n\n"); }

void Report::line(const std::string& text) { write("- " + text + "\n"); }

void Report::verdict(const std::string& figure, const std::string& measured,
                     const std::string& target, std::optional<bool> met) {
  rows_.push_back({figure, measured, target, !met ? "-" : *met ? "met" : "NOT MET"});
}

void Report::failed(const std::string& figure, const std::string& why) {
  all_measured_ = false;
  line("FAILED: " + why);
  rows_.push_back({figure, "failed: " + why, "", "NOT MEASURED"});
}

void Report::summary() {
  section("Summary");
  std::string table = "| figure | measured | target | |\n|---|---|---|---|\n";
  for (const auto& row : rows_)
    table +=
        "| " + row.figure + " | " + row.measured + " | " + row.target + " | " + row.met + " |\n";
  write(table);
}

}  // namespace bench
