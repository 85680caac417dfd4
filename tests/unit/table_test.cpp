#include "cli/table.h"

#include <gtest/gtest.h>

namespace cluster::cli {
namespace {

TEST(Table, ColumnsAreAsWideAsTheirWidestCell) {
  Table table({"NODE", "STATE"});
  table.add({"a", "live"});
  table.add({"a-long-name", ""});
  table.add({"zürich", {"left", Colour::bad}});
  EXPECT_EQ(table.text(false),
            "NODE         STATE\n"
            "a            live\n"
            "a-long-name  -\n"
            "zürich       left\n");
}

TEST(Table, ColourDoesNotMoveColumns) {
  Table table({"A", "B"});
  table.add({{"x", Colour::good}, "y"});
  EXPECT_EQ(table.text(true), "\033[1mA\033[0m  \033[1mB\033[0m\n\033[32mx\033[0m  y\n");
}

TEST(Table, WhatATerminalMightObeyIsNotShown) {
  EXPECT_EQ(harmless("a\033[2Jb\nc\x7f"
                     "d\xc2\x9b"
                     "e ü"),
            "a?[2Jb?c?d?e ü");
  Table table({"A"});
  table.add({"\033]0;x\a"});
  EXPECT_EQ(table.text(true).find("\033]"), std::string::npos);
}

}  // namespace
}  // namespace cluster::cli
