// What must hold for any input; else the fuzzer keeps the input that shows it.
#pragma once

#include <cstdlib>

inline void expect(bool holds) {
  if (!holds) std::abort();
}
