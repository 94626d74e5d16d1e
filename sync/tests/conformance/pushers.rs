//! Who may go on with a sync, and what is told to others.

use litekeep_sync::{Error, Kind};

use crate::scene::Scene;
use crate::server::{self, server};

pub(crate) const TABLE: &str =
    "CREATE TABLE t(id INTEGER PRIMARY KEY, x TEXT); INSERT INTO t VALUES (1, 'a')";

/// A mistake that is a person's to mend.
pub(crate) fn told(error: &Error, words: &str, hint: &str) {
    assert_eq!(error.kind(), Kind::Invalid, "{error}");
    assert!(error.to_string().contains(words), "{error}");
    assert!(error.hint().is_some_and(|said| said.contains(hint)), "{:?}", error.hint());
}

/// Of a push to this URL.
pub(crate) fn error(scene: &Scene, url: &str) -> Error {
    let mut push = scene.pushing_to(url, Default::default());
    scene.push(&mut push).unwrap_err()
}

#[test]
fn two_pushers_of_one_sync_are_told_apart() {
    let scene = Scene::new("fenced", TABLE);
    let (mut first, mut second) = (scene.pushed(), scene.pushed());
    scene.commit("INSERT INTO t VALUES (2, 'b')");
    scene.push(&mut first).unwrap();
    let refused = scene.push(&mut second).unwrap_err();
    assert_eq!(refused.kind(), Kind::Fenced, "{refused}");
    assert_eq!(server::count(&server(), "fenced", "t"), 2);
}

#[test]
fn another_history_is_not_gone_on_from() {
    let scene = Scene::new("history", TABLE);
    scene.pushed();
    let other = Scene::with_url(scene.url.clone(), TABLE);
    other.commit("INSERT INTO t VALUES (9, 'other')");
    let error = other.push(&mut other.pushing()).unwrap_err();
    told(&error, "the log has another transaction", "litekeep sync resync orders");
}
