// cpp-cluster: everything.
#pragma once

#include "cluster/app.h"
#include "cluster/backend.h"
#include "cluster/clock.h"
#include "cluster/election.h"
#include "cluster/error.h"
#include "cluster/member.h"
#include "cluster/options.h"
#include "cluster/platform.h"
#include "cluster/version.h"
