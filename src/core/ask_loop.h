// How a thread that may block has something done on the loop, and waits for the answer.
#pragma once

#include <condition_variable>
#include <functional>
#include <memory>
#include <mutex>
#include <optional>
#include <stop_token>
#include <string>
#include <utility>

#include "core/loop.h"
#include "core/result.h"

namespace cluster {

/// Runs `start` on the loop, which calls its argument once, there or on any other thread; returns
/// what that is given. Throws the Error that came instead, or that `start` threw; shutting_down
/// when `stop` is requested meanwhile; timeout after `limit`. A late answer is dropped; so what
/// `start` uses must look after itself.
template <typename T>
T ask_loop(Loop& loop, const std::string& what, Duration limit, std::stop_token stop,
           std::function<void(Callback<T>)> start) {
  struct Answer {
    std::mutex mutex{};
    std::condition_variable_any came{};
    std::optional<Result<T>> result{};
  };
  const auto answer = std::make_shared<Answer>();
  const Callback<T> give = [answer](Result<T> result) {
    {
      const std::lock_guard lock(answer->mutex);
      if (answer->result) return;
      answer->result.emplace(std::move(result));
    }
    answer->came.notify_all();
  };
  loop.post([give, start = std::move(start)] {
    try {
      start(give);
    } catch (const Error& error) {
      give(error);
    }
  });
  std::unique_lock lock(answer->mutex);
  answer->came.wait_for(lock, stop, limit, [&] { return answer->result.has_value(); });
  if (answer->result) return std::move(answer->result->value());
  if (stop.stop_requested()) throw Error(Errc::shutting_down, what + ": it was stopped");
  throw Error(Errc::timeout, what + ": no answer within the time limit");
}

}  // namespace cluster
