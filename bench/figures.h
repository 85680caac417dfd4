// The figures that the benchmark measures; each in a source of its own. All throw Failed.
#pragma once

#include <string>

#include "bench/report.h"
#include "bench/wait.h"

namespace bench {

/// How much of each; `make bench` takes these, --quick a part of them.
struct Amounts {
  int failovers = 100;
  int failovers_with_backend = 30;
  int machine_failovers = 50;
  int handovers = 200;
  int server_kills = 30;
  int rest_seconds = 30;
  int simulator_seeds = 2'000;
  int raw_operations = 5'000;
  int talk_operations = 20'000;  ///< of each kind
  int calls_for_memory = 1'000'000;
  int locks_held = 10'000;
  int lock_hand_overs = 2'000;
  int lock_kills = 50;
  int lag_seconds = 10;
  int sustained_rounds = 5;
  int sustained_seconds = 5;
  int apply_mib = 1'024;
  int commit_seconds = 5;
  int snapshot_mib = 1'024;
};

struct Surroundings {
  Waiting& waiting;
  Report& report;
  std::string folder;       ///< of this figure alone
  bool sync_always = true;  ///< JetStream syncs each write
  Amounts amounts;
};

void failover_process(Surroundings& around);
void failover_database(Surroundings& around);
void failover_machine(Surroundings& around);
void handover(Surroundings& around);
void server_loss(Surroundings& around);
void rest(Surroundings& around);
void simulator(Surroundings& around);
void nats_layer(Surroundings& around);
void talk(Surroundings& around);
void locks(Surroundings& around);
void lag(Surroundings& around);
void sustained(Surroundings& around);
void apply(Surroundings& around);
void commit(Surroundings& around);
void snapshot(Surroundings& around);

}  // namespace bench
