#include "bench/built.h"

namespace bench::built {

const char* const kNode = BENCH_NODE;
const char* const kLocks = BENCH_LOCKS;
const char* const kSql = BENCH_SQL;
const char* const kProgram = BENCH_PROGRAM;
const char* const kGuardian = BENCH_GUARDIAN;
const char* const kExtension = BENCH_EXTENSION;
const char* const kBackend = BENCH_BACKEND;
const char* const kSimulator = BENCH_SIMULATOR;

}  // namespace bench::built
