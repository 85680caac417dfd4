// What callers and handlers of calls say to each other (docs/formats.md). Pure.
#pragma once

#include <cstdint>
#include <optional>
#include <string>
#include <string_view>

#include "cluster/call.h"
#include "core/result.h"
#include "nats/message.h"

namespace cluster {

/// Why it can't be: a method's name, `[A-Za-z0-9_-]{1,64}`, or options of a call. Empty when it
/// can.
std::string method_fault(std::string_view method);
std::string call_options_fault(const CallOptions& options);
/// "any" and so on; `all` is none of Route's.
std::string route_name(Route route);

/// `<platform>.<app>.calls.<route>.<method>.<caller>`, with the node before the method for
/// Route::node. With `*` for method and caller: what handlers listen on.
std::string call_subject(const std::string& platform, const std::string& app,
                         const std::string& route, const std::string& node,
                         const std::string& method, const std::string& caller);
/// Who cancels sends the call's id there.
std::string cancel_subject(const std::string& platform, const std::string& app);

/// What stands in the header Cluster-Call: `<id> <attempt> <ms> <node>`.
struct CallEnvelope {
  std::string id{};
  int attempt = 1;
  std::chrono::milliseconds limit{};  ///< for how long the caller waits
  std::string node{};                 ///< `-`: no node
};
std::string text_of(const CallEnvelope& envelope);
/// invalid_argument for what can't be read.
Result<CallEnvelope> call_envelope(std::string_view text);

/// The request to `to` as a handler gets it; responder, epoch and stop are the handler's side's.
/// A message without our headers, as any NATS client sends, is a call too.
Result<CallRequest> call_request(const nats::Message& message, const std::string& platform,
                                 Time now);

nats::Message call_answer(std::string payload, CallHeaders headers, const std::string& node,
                          std::uint64_t epoch);
/// `ran`: the handler may have done something.
nats::Message call_failure(const std::string& name, const std::string& text, bool ran,
                           const std::string& node, std::uint64_t epoch);

/// An answer as the caller reads it.
struct ReadAnswer {
  CallReply reply{};
  std::optional<CallError> error{};
  bool ran = true;  ///< of an error
};
ReadAnswer read_answer(nats::Message message, const std::string& what);

/// Any text as a header may have it: `%` and two hex digits for what is not visible ASCII, and for
/// %.
std::string escaped_header(std::string_view text);

/// The code of that name; call_failed for all others.
Errc errc_from(std::string_view name);

}  // namespace cluster
