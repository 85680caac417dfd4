// cpp-cluster: everything.
#pragma once

#include "cluster/app.h"
#include "cluster/audit.h"
#include "cluster/backend.h"
#include "cluster/clock.h"
#include "cluster/database.h"
#include "cluster/election.h"
#include "cluster/error.h"
#include "cluster/events.h"
#include "cluster/kv.h"
#include "cluster/lock.h"
#include "cluster/member.h"
#include "cluster/options.h"
#include "cluster/platform.h"
#include "cluster/snapshots.h"
#include "cluster/sqlite.h"
#include "cluster/version.h"
