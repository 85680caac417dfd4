// Calls, keys and events as values of your types, by nlohmann::json: the only header of ours that
// needs it (<nlohmann/json.hpp>). A type is one that from_json and to_json know, for example by
// NLOHMANN_DEFINE_TYPE_NON_INTRUSIVE. What does not fit is an Error{invalid_argument} that says
// where it came from and what nlohmann::json has against it; with JSON_DIAGNOSTICS defined to 1
// that names the place in the document, too.
#pragma once

#include <cstdint>
#include <functional>
#include <optional>
#include <string>
#include <string_view>
#include <type_traits>
#include <utility>
#include <vector>

#include <nlohmann/json.hpp>

#include "cluster/app.h"
#include "cluster/call.h"
#include "cluster/error.h"
#include "cluster/events.h"
#include "cluster/kv.h"

namespace cluster {

/// The JSON text of a value. Text in it that is no UTF-8 is an Error{invalid_argument}, of `what`.
template <typename T>
std::string to_json_text(const T& value, const std::string& what) {
  try {
    return nlohmann::json(value).dump();
  } catch (const nlohmann::json::exception& fault) {
    throw Error(Errc::invalid_argument, what + ": it can't be written as JSON: " + fault.what());
  }
}

/// The value that JSON text stands for. Throws Error{invalid_argument}, of `what`.
template <typename T>
T from_json_text(std::string_view text, const std::string& what) {
  try {
    return nlohmann::json::parse(text).template get<T>();
  } catch (const nlohmann::json::exception& fault) {
    throw Error(Errc::invalid_argument,
                what + ": it is not the JSON that is expected: " + std::string(fault.what()));
  }
}

/// Answers calls to `method` with what `handler(value)` or `handler(value, request)` returns; a
/// request that does not fit `Request` is answered invalid_argument, and the handler is not called.
///
///     cluster::handle_json<Order>(app, "price", [](const Order& order) { return price_of(order);
///     });
template <typename Request, typename Handler>
void handle_json(App& app, const std::string& method, Handler handler) {
  const std::string what = "request of \"" + app.name() + "." + method + "\"";
  app.handle(method, [handler = std::move(handler), what](const CallRequest& request) {
    const auto value = from_json_text<Request>(request.payload, what);
    if constexpr (std::is_invocable_v<Handler, const Request&, const CallRequest&>)
      return to_json_text(handler(value, request), "answer to the " + what);
    else
      return to_json_text(handler(value), "answer to the " + what);
  });
}

/// Calls, by a Platform or an App. Throws as its call(), and CallError{invalid_argument} for an
/// answer that does not fit `Answer`: then the call was carried out.
///
///     const auto price = cluster::call_json<Money>(platform, "shop", "price", order);
template <typename Answer, typename Caller, typename Request>
Answer call_json(Caller& caller, const std::string& app, const std::string& method,
                 const Request& request, CallOptions options = {}) {
  const std::string what = "\"" + app + "." + method + "\"";
  const auto reply =
      caller.call(app, method, to_json_text(request, "request to " + what), std::move(options));
  try {
    return from_json_text<Answer>(reply.payload, "answer of " + what);
  } catch (const Error& fault) {
    throw CallError(fault.errc(), "invalid_argument", fault.what(), reply.node);
  }
}

/// A value with the revision that it has in its bucket.
template <typename T>
struct JsonEntry {
  T value{};
  std::uint64_t revision = 0;
};

/// Nothing: there is no such key. Throws as Kv::get().
template <typename T>
std::optional<JsonEntry<T>> get_json(Kv kv, std::string_view key) {
  const auto entry = kv.get(key);
  if (!entry) return std::nullopt;
  return JsonEntry<T>{from_json_text<T>(entry->value, "value of \"" + std::string(key) + "\""),
                      entry->revision};
}
/// As Kv::put(), create() and update().
template <typename T>
std::uint64_t put_json(Kv kv, std::string_view key, const T& value) {
  return kv.put(key, to_json_text(value, "value of \"" + std::string(key) + "\""));
}
template <typename T>
std::uint64_t create_json(Kv kv, std::string_view key, const T& value) {
  return kv.create(key, to_json_text(value, "value of \"" + std::string(key) + "\""));
}
template <typename T>
std::uint64_t update_json(Kv kv, std::string_view key, const T& value, std::uint64_t revision) {
  return kv.update(key, to_json_text(value, "value of \"" + std::string(key) + "\""), revision);
}

/// As Events::publish(); the payload is the value.
template <typename T>
PublishedEvent publish_json(Events events, std::string_view subject, const T& value,
                            const PublishOptions& options = {}) {
  return events.publish(subject, to_json_text(value, "event \"" + std::string(subject) + "\""),
                        options);
}
/// The payload of an event.
template <typename T>
T json_of(const Event& event) {
  return from_json_text<T>(event.payload, "event \"" + event.subject + "\"");
}

}  // namespace cluster
