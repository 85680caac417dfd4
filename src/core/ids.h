// Random ids, and what the kernel says of this machine.
#pragma once

#include <string>

namespace cluster {

/// 16 random characters of [0-9A-Za-z]: about 95 bits from the kernel's generator.
std::string random_id();
/// The host's name up to its first dot.
std::string short_host_name();
/// The kernel's id of this boot of this machine (/proc/sys/kernel/random/boot_id).
std::string boot_id();

}  // namespace cluster
