// Names of the error codes.
#include "cluster/error.h"

namespace cluster {
namespace {

const char* name_of(Errc code) noexcept {
  switch (code) {
    case Errc::not_leader: return "not_leader";
    case Errc::no_leader: return "no_leader";
    case Errc::lock_held: return "lock_held";
    case Errc::lock_lost: return "lock_lost";
    case Errc::timeout: return "timeout";
    case Errc::app_not_found: return "app_not_found";
    case Errc::node_not_found: return "node_not_found";
    case Errc::node_already_present: return "node_already_present";
    case Errc::fenced: return "fenced";
    case Errc::no_responders: return "no_responders";
    case Errc::shutting_down: return "shutting_down";
    case Errc::invalid_argument: return "invalid_argument";
    case Errc::incompatible: return "incompatible";
    case Errc::corrupt: return "corrupt";
    case Errc::unavailable: return "unavailable";
    case Errc::permission_denied: return "permission_denied";
    case Errc::wrong_revision: return "wrong_revision";
    case Errc::not_found: return "not_found";
    case Errc::system: return "system";
    case Errc::backend_failed: return "backend_failed";
    case Errc::unknown_outcome: return "unknown_outcome";
    case Errc::overloaded: return "overloaded";
    case Errc::call_failed: return "call_failed";
    case Errc::not_replicated: return "not_replicated";
  }
  return "unknown";
}

class Category final : public std::error_category {
 public:
  const char* name() const noexcept override { return "cluster"; }
  std::string message(int value) const override { return name_of(static_cast<Errc>(value)); }
};

}  // namespace

const std::error_category& error_category() noexcept {
  static const Category category;
  return category;
}

std::error_code make_error_code(Errc code) noexcept {
  return {static_cast<int>(code), error_category()};
}

}  // namespace cluster
