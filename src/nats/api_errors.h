// What JetStream's refusals mean for a caller.
#pragma once

#include <string>

#include "cluster/error.h"

namespace cluster::nats {

/// The Error for an answer's `error` object; `what` says what was tried.
Error error_from_api(const std::string& what, int code, int err_code,
                     const std::string& description);

}  // namespace cluster::nats
