// What the build has made of what the benchmarks run, and where (bench/CMakeLists.txt).
#pragma once

namespace bench::built {

extern const char* const kNode;
extern const char* const kLocks;
extern const char* const kSql;
extern const char* const kProgram;  ///< cpp-cluster
extern const char* const kGuardian;
extern const char* const kExtension;
extern const char* const kBackend;    ///< empty: not built
extern const char* const kSimulator;  ///< empty: not built

}  // namespace bench::built
