// The program cpp-cluster.
#include "cli/command.h"

int main(int argc, char** argv) { return cluster::cli::run_program(argc, argv); }
