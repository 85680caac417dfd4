#!/usr/bin/env python3
"""Runs SQL on the database of the app, and says what has become of its commit.

    execute.py EXTENSION SQL

For a backend of cpp-cluster's, which finds the database in CPP_CLUSTER_DATABASE. EXTENSION is
cpp_cluster_sqlite, installed below lib/cpp-cluster.
"""
import os
import sqlite3
import sys

db = sqlite3.connect(os.environ["CPP_CLUSTER_DATABASE"])
db.enable_load_extension(True)
db.load_extension(sys.argv[1])
db.enable_load_extension(False)

try:
    with db:
        db.execute(sys.argv[2])
    print("acknowledged")
except sqlite3.Error as error:
    why = db.execute("SELECT cluster_commit_error()").fetchone()[0]
    print(why or error)
    sys.exit(1)
