#include "built.h"

namespace cluster::built {

const char* const kSourceFolder = CLUSTER_SOURCE_FOLDER;
const char* const kDataFolder = CLUSTER_SOURCE_FOLDER "/tests/data";
const char* const kExamplesFolder = CLUSTER_BINARY_FOLDER "/examples";
const char* const kExampleSourcesFolder = CLUSTER_SOURCE_FOLDER "/examples";

const char* const kProgram = CLUSTER_PROGRAM;
const char* const kGuardian = CLUSTER_GUARDIAN;
const char* const kSqliteExtension = CLUSTER_SQLITE_EXTENSION;

const char* const kBackendTool = CLUSTER_BACKEND_TOOL;
const char* const kE2eNode = CLUSTER_E2E_NODE;
const char* const kE2eBackend = CLUSTER_E2E_BACKEND;
const char* const kWallClock = CLUSTER_WALL_CLOCK;
const char* const kHeldFiles = CLUSTER_HELD_FILES;
const char* const kFailingReads = CLUSTER_FAILING_READS;

}  // namespace cluster::built
