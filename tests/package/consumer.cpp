// The program that is built against the installed package: it includes everything and calls into
// the library, without a NATS server.
#include <cluster/cluster.h>
#include <cluster/version.h>

#include <cstdio>

int main() {
  const cluster::Error error(cluster::Errc::not_leader, "tried out");
  if (error.code() != make_error_code(cluster::Errc::not_leader)) return 1;
  if (cluster::BootClock::now() <= cluster::Time{}) return 1;
  std::puts(CLUSTER_VERSION);
}
