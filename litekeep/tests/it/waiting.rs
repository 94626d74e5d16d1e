//! Goal: what was waited for is there. Method: a bank that goes on while `litekeep wait` is called again and again; what was acknowledged before
//! each call is in what is restored after it.

use litekeep_testkit::bank::{self, Bank, Options};
use litekeep_testkit::fault_proxy::Fault;

use crate::Ran;
use crate::scene::{LONG, Scene, Store};

/// A WAL that begins anew all the time, for its beginning is where the positions are hard to tell apart.
const SMALL_WAL: &str = "upload_interval = \"50ms\"\nwal_limit = \"4 MiB\"";

fn wait(scene: &Scene, arguments: &[&str]) -> Ran {
    Ran::of(scene.command(&[&["wait", "--json"], arguments].concat()))
}

#[test]
fn what_was_waited_for_is_in_the_backup() {
    let scene = Scene::new(Store::Proxied, SMALL_WAL);
    let litekeep = scene.replicate().unwrap();
    let mut bank = Bank::start(&Options { pause_us: 200, vacuum: 0.01, ..scene.bank() }).unwrap();
    bank.wait_for(10, LONG).unwrap();
    for _ in 0..12 {
        let acknowledged = bank.acks().unwrap().highest();
        let waited = wait(&scene, &["app.db", "--timeout", "2m"]).succeeded().json();
        assert_eq!(waited["ok"], true, "{waited}");
        let restored =
            bank::check(&scene.restore(&["-txid", waited["txid"].as_str().unwrap()]).unwrap()).unwrap();
        assert!(restored.ops >= acknowledged, "{} of {acknowledged}, {waited}", restored.ops);
    }
    // While nothing is confirmed nothing is said to be.
    scene.proxy().outage(Some(Fault::Status(503)));
    bank.wait_for(bank.acks().unwrap().highest() + 50, LONG).unwrap();
    let in_vain = wait(&scene, &["app.db", "--timeout", "500ms"]);
    assert_eq!((in_vain.code, in_vain.json()["ok"].as_bool()), (1, Some(false)), "{}", in_vain.stdout);
    scene.proxy().outage(None);
    bank.stop().unwrap();
    let last = wait(&scene, &["app.db", "--timeout", "2m"]).succeeded().json();
    scene.stop(litekeep).unwrap();

    // At rest it is known without anybody who works on it; what comes then is not.
    assert_eq!(wait(&scene, &["app.db"]).succeeded().json()["ok"], true);
    let copy = scene.place.path("copy.db");
    Ran::of(scene.command(&["follow", &scene.url(), "-o", copy.to_str().unwrap(), "--once"])).succeeded();
    let (copy, txid) = (copy.to_str().unwrap(), last["txid"].as_str().unwrap());
    assert_eq!(wait(&scene, &[copy, "-txid", txid]).succeeded().json()["ok"], true);
    let refused = wait(&scene, &[copy, "-txid", "0fffffffffffffff"]);
    assert!(refused.code == 2 && refused.stderr.contains("litekeep follow"), "{}", refused.stderr);
    let refused = wait(&scene, &[copy]);
    assert!(refused.code == 2 && refused.stderr.contains("--txid"), "{}", refused.stderr);
    rusqlite::Connection::open(scene.db()).unwrap().execute_batch("CREATE TABLE more(x)").unwrap();
    let refused = wait(&scene, &["app.db"]);
    assert!(refused.code == 2 && refused.stderr.contains("litekeep replicate"), "{}", refused.stderr);
}
