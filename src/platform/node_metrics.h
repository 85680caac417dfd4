// What a node tells of itself to Prometheus: GET /metrics, in the text exposition format 0.0.4
// (https://prometheus.io/docs/instrumenting/exposition_formats/).
#pragma once

#include <string>

#include "platform/node_status.h"

namespace cluster {

inline constexpr const char* kMetricsType = "text/plain; version=0.0.4; charset=utf-8";

/// Names and meanings are in docs/metrics.md; times in seconds, sizes in bytes.
std::string to_metrics(const NodeStatus& status);

}  // namespace cluster
