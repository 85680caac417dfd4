// Errors of cpp-cluster: one code enumeration, one exception type.
#pragma once

#include <string>
#include <system_error>

namespace cluster {

/// What went wrong, for programs to branch on. The text for people is in Error::what().
enum class Errc {
  not_leader = 1,  ///< this node does not lead the app
  no_leader,       ///< nobody leads the app at the moment
  lock_held,       ///< somebody else holds the lock
  lock_lost,       ///< the lock's session ended
  /// The time limit passed; whether the operation took effect may be unknown
  timeout,
  app_not_found,         ///< no app of that name on this platform
  node_not_found,        ///< no node of that name on this platform
  node_already_present,  ///< another process uses this node name
  fenced,                ///< a newer epoch has taken over
  no_responders,         ///< nobody listens on that subject
  shutting_down,         ///< the platform is stopping
  invalid_argument,      ///< an option or argument is not acceptable
  /// A record, a server or a peer of a version that this one can't work with
  incompatible,
  corrupt,      ///< bytes that are not what they should be
  unavailable,  ///< NATS or JetStream can't be reached or does not answer
  /// The NATS user may not use a subject, or the system refused an operation
  permission_denied,
  wrong_revision,  ///< a compare-and-set found another revision than expected
  not_found,       ///< no such key, stream or file
  system,          ///< the operating system refused; the message has its reason
  backend_failed,  ///< the program under management could not be started or kept running
  /// It was sent, and no answer came: whether it took effect is unknown
  unknown_outcome,
  overloaded,   ///< the limit of what may run or wait at a time is reached; nothing was done
  call_failed,  ///< the handler of a call answered with an error of its own: see CallError::name()
  not_replicated,  ///< what was committed to a database has not got into JetStream
};

/// The category of Errc; its name is "cluster".
const std::error_category& error_category() noexcept;
std::error_code make_error_code(Errc code) noexcept;

/// The exception that all of cpp-cluster throws. Its message says what was tried, on what, what
/// came back, and what to do next.
class Error : public std::system_error {
 public:
  Error(Errc code, const std::string& message)
      : std::system_error(make_error_code(code)), message_(message) {}

  const char* what() const noexcept override { return message_.c_str(); }
  Errc errc() const noexcept { return static_cast<Errc>(code().value()); }

 private:
  std::string message_;
};

}  // namespace cluster

template <>
struct std::is_error_code_enum<cluster::Errc> : std::true_type {};
