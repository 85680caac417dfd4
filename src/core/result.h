// A value or the Error that came instead of it; what asynchronous calls hand to their callbacks.
#pragma once

#include <functional>
#include <optional>
#include <utility>
#include <variant>

#include "cluster/error.h"
#include "core/check.h"

namespace cluster {

template <typename T>
class [[nodiscard]] Result {
 public:
  Result(T value)
      : content_(std::move(value)) {}  // NOLINT(google-explicit-constructor): a value is a result
  Result(Error error)
      : content_(std::move(error)) {}  // NOLINT(google-explicit-constructor): so is an error

  bool ok() const noexcept { return content_.index() == 0; }
  explicit operator bool() const noexcept { return ok(); }
  /// The value. Throws the error when there is none.
  T& value() {
    if (!ok()) throw std::get<1>(content_);
    return std::get<0>(content_);
  }
  const T& value() const {
    if (!ok()) throw std::get<1>(content_);
    return std::get<0>(content_);
  }
  const Error& error() const {
    CLUSTER_CHECK(!ok());
    return std::get<1>(content_);
  }

 private:
  std::variant<T, Error> content_;
};

/// What a callback gets that has no value to hand over: nothing, or why it failed.
using Failure = std::optional<Error>;

template <typename T>
using Callback = std::function<void(Result<T>)>;
using Completion = std::function<void(Failure)>;

}  // namespace cluster
