// The version of cpp-cluster.
#pragma once

#define CLUSTER_VERSION "0.1.0"
