// Which subjects a NATS user of a platform needs, and no more: for the nodes of one app, or for an
// operator; written as nats-server's configuration (docs/isolation.md). Pure.
#pragma once

#include <string>
#include <string_view>
#include <vector>

namespace cluster::cli {

/// Subjects that are allowed for one reason.
struct Grant {
  std::string why{};  ///< one line, for people
  std::vector<std::string> subjects{};
};

struct NatsUser {
  std::string name{};
  std::string app{};  ///< none: an operator
  std::vector<Grant> publish{};
  std::vector<Grant> subscribe{};
};

enum class Streams {
  made_by_user,  ///< the first node of the app makes what is not there
  made_before,   ///< the user may make none
};

/// Why `name` can't name a user: its answers come on `_INBOX.<name>.>`, so it is one token of a
/// subject. Empty when it can.
std::string user_name_fault(std::string_view name);

/// For the nodes of one app, and for programs that use what is the app's.
NatsUser confined_user(const std::string& platform, const std::string& app, std::string name,
                       Streams streams);
/// For whoever may everything of the platform.
NatsUser operator_user(const std::string& platform, std::string name);

/// The variable of nats-server's configuration that holds a user's password, without its `$`.
std::string password_variable(const std::string& user);

/// A whole `authorization` block, to be included in nats-server's configuration.
std::string authorization_block(const std::string& platform, const std::vector<NatsUser>& users);

}  // namespace cluster::cli
