// Aligned columns for people.
#pragma once

#include <string>
#include <vector>

namespace cluster::cli {

enum class Colour { none, good, bad, dim, bold };

struct Cell {
  std::string text{};
  Colour colour = Colour::none;

  Cell(const char* t) : text(t) {}             // NOLINT(google-explicit-constructor): rows read
  Cell(std::string t) : text(std::move(t)) {}  // NOLINT(google-explicit-constructor): as lists
  Cell(std::string t, Colour c) : text(std::move(t)), colour(c) {}
};

class Table {
 public:
  explicit Table(std::vector<std::string> headers) : headers_(std::move(headers)) {}
  /// One cell for each header.
  void add(std::vector<Cell> row);
  bool empty() const noexcept { return rows_.empty(); }
  /// Lines that end with a newline; columns two blanks apart, an empty cell shown as "-". Control
  /// characters, which may come from anybody's records, are shown as "?".
  std::string text(bool colour) const;

 private:
  std::vector<std::string> headers_;
  std::vector<std::vector<Cell>> rows_;
};

std::string paint(const std::string& text, Colour colour, bool on);
/// `text` without control characters, which a terminal might obey.
std::string harmless(const std::string& text);

}  // namespace cluster::cli
