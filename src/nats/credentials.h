// What proves to a NATS server who we are: checked when options are given, so that a wrong path or
// a broken file is an error at once and not a refused connection later.
#pragma once

#include <string>

#include "cluster/options.h"
#include "core/result.h"

namespace cluster::nats {

/// The public key (U…) that belongs to an NKey user seed (SU…). Error{invalid_argument} for what is
/// no user seed.
Result<std::string> public_nkey_of_seed(const std::string& seed);
/// The same for a file that holds a seed; other lines in it (as nsc writes them) do not matter.
Result<std::string> public_nkey_of_seed_file(const std::string& path);
/// Every fault of the credentials and TLS files of `nats`, or nothing.
Failure check_credentials(const Nats& nats);

}  // namespace cluster::nats
