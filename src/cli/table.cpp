#include "cli/table.h"

#include <algorithm>

#include "core/check.h"

namespace cluster::cli {
namespace {

// Columns that UTF-8 text takes, for all but wide and combining characters.
std::size_t width(const std::string& text) {
  return static_cast<std::size_t>(std::count_if(text.begin(), text.end(), [](char c) {
    return (static_cast<unsigned char>(c) & 0xc0) != 0x80;
  }));
}

const char* code(Colour colour) {
  switch (colour) {
    case Colour::none: return "";
    case Colour::good: return "\033[32m";
    case Colour::bad: return "\033[31m";
    case Colour::dim: return "\033[2m";
    case Colour::bold: return "\033[1m";
  }
  return "";
}

}  // namespace

std::string paint(const std::string& text, Colour colour, bool on) {
  if (!on || colour == Colour::none) return text;
  return code(colour) + text + "\033[0m";
}

std::string harmless(const std::string& text) {
  std::string out = text;
  for (std::size_t i = 0; i < out.size(); ++i) {
    const auto c = static_cast<unsigned char>(out[i]);
    if (c < 0x20 || c == 0x7f) out[i] = '?';
    // U+0080 to U+009F in UTF-8: control characters too, for some terminals.
    if (c == 0xc2 && i + 1 < out.size() && static_cast<unsigned char>(out[i + 1]) < 0xa0)
      out.replace(i, 2, "?");
  }
  return out;
}

void Table::add(std::vector<Cell> row) {
  CLUSTER_CHECK(row.size() == headers_.size());
  for (auto& cell : row) cell.text = cell.text.empty() ? "-" : harmless(cell.text);
  rows_.push_back(std::move(row));
}

std::string Table::text(bool colour) const {
  std::vector<std::size_t> widths;
  for (const auto& header : headers_) widths.push_back(width(header));
  for (const auto& row : rows_)
    for (std::size_t i = 0; i < row.size(); ++i)
      widths[i] = std::max(widths[i], width(row[i].text));
  std::string out;
  const auto line = [&](const auto& cell_at) {
    for (std::size_t i = 0; i < headers_.size(); ++i) {
      const Cell cell = cell_at(i);
      out += paint(cell.text, cell.colour, colour);
      if (i + 1 < headers_.size()) out += std::string(widths[i] - width(cell.text) + 2, ' ');
    }
    out += '\n';
  };
  line([&](std::size_t i) { return Cell(headers_[i], Colour::bold); });
  for (const auto& row : rows_) line([&](std::size_t i) { return row[i]; });
  return out;
}

}  // namespace cluster::cli
