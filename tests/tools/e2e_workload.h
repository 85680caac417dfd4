// What end-to-end tests let a node do with keys and locks, at random, and how each call and return
// is written down: a JSON object a line, times of CLOCK_BOOTTIME in nanoseconds.
#pragma once

#include <atomic>
#include <cstdint>
#include <random>
#include <string>
#include <thread>
#include <vector>

#include <nlohmann/json.hpp>

#include "cluster/cluster.h"

namespace cluster::e2e {

/// A file that several threads and processes append lines to, each with one write(2): a killed
/// process leaves whole lines.
class CallLog {
 public:
  explicit CallLog(const std::string& path);
  ~CallLog();
  CallLog(const CallLog&) = delete;
  CallLog& operator=(const CallLog&) = delete;

  void line(nlohmann::json line) const;

 private:
  int fd_;
};

/// Options: "log", "keys" and "locks" (names), "kv_clients", "lock_clients" (threads), "pace_ms"
/// (mean time between two calls), "timeout_ms" (of a call), "hold" (a lock that a thread of its own
/// takes and keeps until it is lost), "seed", "stop" (a file: all end when it is there).
class Workload {
 public:
  Workload(Platform& platform, App& app, const nlohmann::json& options);
  /// Waits for the threads; the platform has stopped by then, or "stop" is there.
  ~Workload();

 private:
  class Client;
  void watch();
  bool stopped() const;
  void keys_client(int number);
  void locks_client(int number);
  void keep_lock();

  Platform& platform_;
  App& app_;
  const nlohmann::json options_;
  const CallLog log_;
  std::atomic<bool> ended_{false};
  KvWatch watch_;
  std::vector<std::thread> threads_;
};

}  // namespace cluster::e2e
