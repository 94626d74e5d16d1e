//! The tests of `it` with MySQL, which is fetched on first use; where it cannot be had a line says so, and they are skipped.

#[path = "../../../sync/tests/conformance/caching.rs"]
mod caching;
#[path = "../../../sync/tests/conformance/caching_changes.rs"]
mod caching_changes;
#[path = "../../../sync/tests/conformance/caching_conditions.rs"]
mod caching_conditions;
#[path = "../../../sync/tests/conformance/comparing.rs"]
mod comparing;
#[path = "../../../sync/tests/conformance/copying.rs"]
mod copying;
#[path = "../../../sync/tests/conformance/cutting.rs"]
mod cutting;
#[path = "../../../sync/tests/conformance/dialect.rs"]
mod dialect;
#[path = "../../../sync/tests/conformance/following.rs"]
mod following;
#[path = "../it/hub.rs"]
mod hub;
#[path = "../../../sync/tests/conformance/in_sql.rs"]
mod in_sql;
#[path = "../../../sync/tests/conformance/keyless.rs"]
mod keyless;
#[path = "../../../sync/tests/conformance/merging.rs"]
mod merging;
#[path = "../it/once.rs"]
mod once;
#[path = "../../../sync/tests/conformance/pull_scene.rs"]
mod pull_scene;
#[path = "../it/pulled.rs"]
mod pulled;
#[path = "../../../sync/tests/conformance/pulled_in_sql.rs"]
mod pulled_in_sql;
#[path = "../../../sync/tests/conformance/pulling.rs"]
mod pulling;
#[path = "../../../sync/tests/conformance/pulling_columns.rs"]
mod pulling_columns;
#[path = "../../../sync/tests/conformance/pushers.rs"]
mod pushers;
#[path = "../it/refusing.rs"]
mod refusing;
#[path = "../../../sync/tests/conformance/scene.rs"]
mod scene;
#[path = "../it/server.rs"]
mod server;
#[path = "../../../replicate/tests/shared/shipping.rs"]
mod shipping;
#[path = "../it/tables.rs"]
mod tables;
#[path = "../../../sync/tests/conformance/taking.rs"]
mod taking;
#[path = "../../../sync/tests/conformance/transferring.rs"]
mod transferring;
#[path = "../../../sync/tests/conformance/two_way.rs"]
mod two_way;
#[path = "../../../sync/tests/conformance/two_way_in_sql.rs"]
mod two_way_in_sql;
#[path = "../../../sync/tests/conformance/two_way_scene.rs"]
mod two_way_scene;
#[path = "../it/values.rs"]
mod values;

pub(crate) const FLAVOR: litekeep_testkit::mysql::Flavor = litekeep_testkit::mysql::Flavor::Mysql;
