//! Tests of live copies with real files, replicators and SQLite connections.

mod roles;
