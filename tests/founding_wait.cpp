// New platforms begin at once in tests, also in the programs that they start: nobody is waited for
// who might come with a database. Tests of that waiting set the variable themselves.
#include <cstdlib>

namespace {

[[maybe_unused]] const int kSet = ::setenv("CPP_CLUSTER_FOUNDING_WAIT", "0s", 0);

}  // namespace
