//! Goal: MongoDB has what SQLite has, and SQLite what it has, row by row and value by value, whatever is killed; what cannot be is said. Method: real
//! logs, a real server, and every value read back and compared. What every server must do is in `sync/tests/conformance`.

#[path = "../../../sync/tests/conformance/caching.rs"]
mod caching;
#[path = "../../../sync/tests/conformance/caching_changes.rs"]
mod caching_changes;
#[path = "../../../sync/tests/conformance/comparing.rs"]
mod comparing;
#[path = "../../../sync/tests/conformance/copying.rs"]
mod copying;
#[path = "../../../sync/tests/conformance/following.rs"]
mod following;
mod hub;
mod inward;
mod inward_changes;
mod once;
#[path = "../../../sync/tests/conformance/pull_scene.rs"]
mod pull_scene;
mod pulled;
#[path = "../../../sync/tests/conformance/pulling.rs"]
mod pulling;
#[path = "../../../sync/tests/conformance/pushers.rs"]
mod pushers;
mod refusing;
#[path = "../../../sync/tests/conformance/scene.rs"]
mod scene;
mod server;
#[path = "../../../replicate/tests/shared/shipping.rs"]
mod shipping;
#[path = "../../../sync/tests/conformance/taking.rs"]
mod taking;
mod transactions;
#[path = "../../../sync/tests/conformance/two_way.rs"]
mod two_way;
#[path = "../../../sync/tests/conformance/two_way_scene.rs"]
mod two_way_scene;
mod values;
