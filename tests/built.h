// What the build has made of what tests run and read, and where (tests/CMakeLists.txt). Apart from
// the tests, so that ccache finds them from any clone: they do not say where it is.
#pragma once

namespace cluster::built {

extern const char* const kSourceFolder;  ///< the project's root
extern const char* const kDataFolder;    ///< tests/data
extern const char* const kExamplesFolder;
extern const char* const kExampleSourcesFolder;

extern const char* const kProgram;  ///< cpp-cluster
extern const char* const kGuardian;
extern const char* const kSqliteExtension;

extern const char* const kBackendTool;
extern const char* const kE2eNode;
extern const char* const kE2eBackend;
extern const char* const kWallClock;  ///< for LD_PRELOAD, as the next
extern const char* const kHeldFiles;
extern const char* const kFailingReads;

}  // namespace cluster::built
