//! A database taken whole to a server, and one that is interrupted.

use litekeep_sql::Examiner;
use litekeep_sync::cut::Cut;
use litekeep_sync::transfer::{self, Copied, Parts, Settings};
use litekeep_sync::{Error, Target as _, copy};

use crate::scene::Scene;
use crate::server::{self, Options, Side, Table, server};

const NUMBERS: &str = "WITH RECURSIVE n(i) AS (SELECT 1 UNION ALL SELECT i + 1 FROM n WHERE i < 50000)";

fn side(scene: &Scene) -> Side {
    server::side(&scene.url, "copy", Options::default())
}

fn settings(scene: &Scene, parts: Parts) -> Settings {
    Settings { database: scene.database(), tables: vec![], parts }
}

pub(crate) fn copied(scene: &Scene, parts: Parts) -> Result<Copied, Error> {
    let run = async { transfer::run(&settings(scene, parts), &mut side(scene), |_, _| ()).await };
    scene.runtime.block_on(run)
}

/// What the server has of the database, where all of it can be there.
pub(crate) fn tables(scene: &Scene) -> Vec<Table> {
    let surveyed =
        copy::survey(&Examiner::open(&scene.database()).unwrap(), |_| true, &Cut::default()).unwrap();
    let target = side(scene);
    surveyed.iter().map(|(declared, profiles)| target.map(declared, profiles).0).collect()
}

/// Whether the server has what litekeep keeps until a copy has come to its end.
pub(crate) fn is_kept(scene: &Scene) -> bool {
    server::is_kept(&server(), scene.url.rsplit('/').next().unwrap())
}

#[test]
fn one_that_was_interrupted_goes_on_and_has_the_present_rows() {
    let scene = Scene::new(
        "halfway",
        &format!(
            "CREATE TABLE a(id INTEGER PRIMARY KEY, x TEXT); {NUMBERS} INSERT INTO a SELECT i, 'x' || i FROM n;
             CREATE TABLE b(k TEXT PRIMARY KEY, x); {NUMBERS} INSERT INTO b SELECT 'k' || i, i FROM n;"
        ),
    );
    let (send, mut rows) = tokio::sync::mpsc::unbounded_channel();
    scene.runtime.block_on(async {
        let (settings, mut target) = (settings(&scene, Parts::All), side(&scene));
        let run = transfer::run(&settings, &mut target, |rows, of| send.send((rows, of)).unwrap());
        tokio::pin!(run);
        loop {
            tokio::select! {
                biased;
                Some((rows, of)) = rows.recv() => {
                    assert_eq!(of, 100_000);
                    if rows > 50_000 {
                        break;
                    }
                }
                ended = &mut run => panic!("it came to its end: {ended:?}"),
            }
        }
    });
    assert!(is_kept(&scene));
    scene.commit("DELETE FROM a WHERE id % 3 = 0; UPDATE b SET x = -x WHERE x % 2 = 0; INSERT INTO a VALUES (-1, 'new')");
    let copied = copied(&scene, Parts::All).unwrap();
    assert!(copied.resumed && copied.found.unwrap().is_equal());
    scene.assert_equal(&tables(&scene), &server());
    assert!(!is_kept(&scene));
}
