//! Goal: three databases and a server stay in step in all directions, whoever is stopped or killed: in the end all four have the same rows, and no
//! edit is lost without a word. Method: the real binary beside random edits on all four. Each edit adds its name to the row, so a row tells all edits that it has come from; an
//! edit must be told by a row, have been deleted by somebody who saw it, or be in the list of conflicts.

#[cfg(feature = "mongodb")]
mod mongodb;

use std::collections::BTreeSet;
use std::time::{Duration, Instant};

use anyhow::{Context as _, Result, ensure};
use litekeep_testkit::mysql::{Flavor, Mysql};
use litekeep_testkit::postgres::Postgres;
use litekeep_testkit::process::eventually;
use litekeep_testkit::{Process, campaign};
use rusqlite::Connection;
use serde_json::Value;

use crate::feeds::add;
use crate::scene::{LONG, Scene, Store};
use crate::shapes;

const TABLE: &str = "CREATE TABLE t(id INTEGER PRIMARY KEY, edits TEXT NOT NULL)";
/// Few, so that edits meet.
const KEYS: u32 = 25;

/// A server that databases are in step with.
trait Hub: Sized {
    /// What its URL begins with.
    const SCHEME: &'static str;
    /// What makes a table there begins so.
    const MAKES: &'static str = "CREATE TABLE";

    fn begin() -> Result<Self>;
    fn url(&self) -> String;
    /// Somebody writes rows, whether they are there or not.
    fn write(&self, rows: &[(u32, &str)]) -> Result<()>;
    /// Somebody makes an edit: of a row that was deleted it tells `-` and its edits, of one that was written `+`.
    fn edit(&self, edit: &Edit, name: &str) -> Result<Told>;
    fn rows(&self) -> Result<Vec<String>>;
    /// What it keeps of how far each node is.
    fn stages(&self) -> Result<Vec<String>>;
    fn kill(&mut self) -> Result<()>;
    fn resume(&mut self) -> Result<()>;
    /// Ends the connections of litekeeps.
    fn cut_off(&self) -> Result<()>;
    /// What it keeps of syncs beside its tables.
    fn left(&self) -> Result<usize>;
}

type Told = Vec<(String, String)>;

/// What a server tells that was asked in SQL.
fn told(answer: Result<Vec<Vec<Option<String>>>>) -> Result<Told> {
    let row = |row: Vec<Option<String>>| {
        let mut texts = row.into_iter().flatten();
        Some((texts.next()?, texts.next()?))
    };
    match answer {
        Ok(rows) => Ok(rows.into_iter().filter_map(row).collect()),
        // It waited for a litekeep that waited for it, and was ended without effect.
        Err(error) if error.to_string().to_lowercase().contains("deadlock") => Ok(vec![]),
        Err(error) => Err(error),
    }
}

const STAGES: &str = "SELECT content FROM _litekeep_sync WHERE item = 'stage' ORDER BY name";
const ROWS: &str = "SELECT concat(id, ':', edits) FROM t ORDER BY id";

fn texts(rows: Vec<Vec<Option<String>>>) -> Vec<String> {
    rows.into_iter().filter_map(|row| row.into_iter().next().flatten()).collect()
}

impl Hub for Postgres {
    const SCHEME: &'static str = "postgres";

    fn begin() -> Result<Postgres> {
        Postgres::start()
    }

    fn url(&self) -> String {
        self.url("postgres")
    }

    fn write(&self, rows: &[(u32, &str)]) -> Result<()> {
        rows.iter().try_for_each(|(id, edits)| {
            let sql = format!(
                "INSERT INTO t VALUES ({id}, '{edits}') ON CONFLICT (id) DO UPDATE SET edits = '{edits}'"
            );
            self.query(&sql).map(drop)
        })
    }

    fn edit(&self, edit: &Edit, name: &str) -> Result<Told> {
        told(self.query(&returning(edit, name)))
    }

    fn rows(&self) -> Result<Vec<String>> {
        Ok(texts(self.query(ROWS)?))
    }

    fn stages(&self) -> Result<Vec<String>> {
        Ok(texts(self.query(STAGES)?))
    }

    fn kill(&mut self) -> Result<()> {
        self.kill()
    }

    fn resume(&mut self) -> Result<()> {
        self.resume()
    }

    fn cut_off(&self) -> Result<()> {
        let sql =
            "SELECT pg_terminate_backend(pid) FROM pg_stat_activity WHERE application_name = 'litekeep'";
        self.query(sql).map(drop)
    }

    fn left(&self) -> Result<usize> {
        Ok(self.query("SELECT 1 FROM pg_replication_slots")?.len())
    }
}

/// MariaDB, or MySQL.
struct OfFlavor<const IS_MARIADB: bool>(Mysql);

impl<const IS_MARIADB: bool> Hub for OfFlavor<IS_MARIADB> {
    const SCHEME: &'static str = if IS_MARIADB { "mariadb" } else { "mysql" };

    fn begin() -> Result<OfFlavor<IS_MARIADB>> {
        let flavor = if IS_MARIADB { Flavor::Mariadb } else { Flavor::Mysql };
        Ok(OfFlavor(Mysql::start(flavor)?))
    }

    fn url(&self) -> String {
        self.0.url("test")
    }

    fn write(&self, rows: &[(u32, &str)]) -> Result<()> {
        rows.iter().try_for_each(|(id, edits)| {
            self.query(&format!("REPLACE INTO t VALUES ({id}, '{edits}')")).map(drop)
        })
    }

    fn edit(&self, edit: &Edit, name: &str) -> Result<Told> {
        told(self.query(&statements(edit, name)))
    }

    fn rows(&self) -> Result<Vec<String>> {
        Ok(texts(self.query(ROWS)?))
    }

    fn stages(&self) -> Result<Vec<String>> {
        Ok(texts(self.query(STAGES)?))
    }

    fn kill(&mut self) -> Result<()> {
        self.0.kill()
    }

    fn resume(&mut self) -> Result<()> {
        self.0.resume()
    }

    fn cut_off(&self) -> Result<()> {
        let others =
            "SELECT id FROM information_schema.processlist WHERE id <> connection_id() AND user = 'admin'";
        for row in self.query(others)? {
            // It may have ended by itself.
            let _ = self.query(&format!("KILL {}", row[0].as_deref().unwrap_or_default()));
        }
        Ok(())
    }

    fn left(&self) -> Result<usize> {
        Ok(0)
    }
}

impl<const IS_MARIADB: bool> OfFlavor<IS_MARIADB> {
    fn query(&self, sql: &str) -> Result<Vec<Vec<Option<String>>>> {
        self.0.query_in("test", sql)
    }
}

fn statements(edit: &Edit, name: &str) -> String {
    let told = "SELECT '+', '' FROM (SELECT row_count() AS n) written WHERE n = 1";
    match edit {
        Edit::Delete { id } => format!(
            "START TRANSACTION; SELECT '-', edits FROM t WHERE id = {id} FOR UPDATE; DELETE FROM t WHERE id = {id}; COMMIT"
        ),
        Edit::Move { id, to } => {
            format!("UPDATE IGNORE t SET id = {to}, edits = concat(edits, ' {name}') WHERE id = {id}; {told}")
        }
        Edit::Insert { id } => format!("INSERT IGNORE INTO t VALUES ({id}, '{name}'); {told}"),
        Edit::Append { id } => {
            format!("UPDATE t SET edits = concat(edits, ' {name}') WHERE id = {id}; {told}")
        }
    }
}

type Mariadb = OfFlavor<true>;
type TheOther = OfFlavor<false>;

fn node(server: &impl Hub, more: &str, sql: &str) -> Scene {
    let scene = Scene::new(Store::Folder, "upload_interval = \"20ms\"");
    let db = Connection::open(scene.db()).unwrap();
    db.execute_batch(&format!("PRAGMA journal_mode = WAL; {TABLE}; {sql}")).unwrap();
    drop(db);
    scene.replicate_once().unwrap();
    let url = server.url();
    add(&scene, &format!("[[sync]]\nname = \"both\"\ndirection = \"both\"\nto = {url:?}\n{more}"));
    scene
}

fn rows_here(scene: &Scene) -> Vec<String> {
    let db = Connection::open(scene.db()).unwrap();
    let mut select = db.prepare("SELECT id || ':' || edits FROM t ORDER BY id").unwrap();
    let rows = select.query_map((), |row| row.get(0)).unwrap();
    rows.collect::<Result<_, _>>().unwrap()
}

#[test]
fn two_sides_go_in_step_and_say_how() {
    goes_in_step_and_says_how::<Postgres>();
}

#[test]
fn two_sides_go_in_step_with_mariadb() {
    goes_in_step_and_says_how::<Mariadb>();
}

#[test]
fn two_sides_go_in_step_with_mysql() {
    if Flavor::Mysql.is_available() {
        goes_in_step_and_says_how::<TheOther>();
    }
}

fn goes_in_step_and_says_how<H: Hub>() {
    let server = H::begin().unwrap();
    let scene = node(&server, "conflict = { t = \"sqlite\" }\n", "INSERT INTO t VALUES (1, 'a'), (2, 'b')");
    let run = |args: &[&str]| scene.place.run(args);
    let plan = run(&["sync", "plan", "--json"]).succeeded().json();
    shapes::matches("sync plan", &plan);
    assert!(plan["tables"][0]["sql"][0].as_str().unwrap().starts_with(H::MAKES), "{plan:#}");
    for command in ["verify", "conflicts", "forget", "refused"] {
        run(&["sync", command]).failed_with(&["the sync `both` has not begun", "litekeep sync run both"]);
    }
    let ran = run(&["sync", "run", "--json"]).succeeded().json();
    shapes::matches("sync run", &ran);
    assert!(ran["position"].is_string() && ran["txid"].is_string(), "{ran:#}");
    assert_eq!(server.rows().unwrap(), ["1:a", "2:b"]);
    let none = run(&["sync", "conflicts"]).succeeded().stdout;
    assert!(none.contains("no row was changed on both sides"), "{none}");

    let litekeep = scene.replicate().unwrap();
    server.write(&[(1, "there"), (3, "c")]).unwrap();
    let db = Connection::open(scene.db()).unwrap();
    db.execute_batch("UPDATE t SET edits = 'here' WHERE id = 2").unwrap();
    let expected = ["1:there", "2:here", "3:c"];
    eventually("both sides are the same", LONG, || {
        Ok(rows_here(&scene) == expected && server.rows()? == expected)
    })
    .unwrap_or_else(|error| panic!("{error}\n{}", litekeep.output()));
    scene.stop(litekeep).unwrap();

    // Both change a row while nobody looks.
    server.write(&[(1, "lost")]).unwrap();
    db.execute_batch("UPDATE t SET edits = 'kept' WHERE id = 1").unwrap();
    let litekeep = scene.replicate().unwrap();
    eventually("the row here has won", LONG, || Ok(server.rows()?[0] == "1:kept"))
        .unwrap_or_else(|error| panic!("{error}\n{}", litekeep.output()));
    let same = run(&["sync", "verify", "--json"]).succeeded().json();
    shapes::matches("sync verify", &same);
    let conflicts = run(&["sync", "conflicts", "--json"]).succeeded().json();
    shapes::matches("sync conflicts", &conflicts);
    assert_eq!(
        (&conflicts["conflicts"][0]["winner"], &conflicts["conflicts"][0]["lost"]["edits"]),
        (&Value::from("sqlite"), &Value::from("lost")),
        "{conflicts:#}"
    );
    let told = run(&["sync", "conflicts"]).succeeded().stdout;
    assert!(told.contains("t 1: sqlite won") && told.ends_with("1 conflict\n"), "{told}");
    let mut status = String::new();
    eventually("the status is green", LONG, || {
        let ran = run(&["sync", "status"]);
        status = ran.stdout;
        Ok(ran.code == 0 && status.contains("; 1 conflict so far"))
    })
    .unwrap_or_else(|error| panic!("{error}\n{status}"));
    assert!(status.contains(&format!("sync both with {}://", H::SCHEME)), "{status}");
    shapes::matches("sync status", &run(&["sync", "status", "--json"]).succeeded().json());
    scene.stop(litekeep).unwrap();

    shapes::matches("sync resync", &run(&["sync", "resync", "--json"]).succeeded().json());
    run(&["sync", "run"]).succeeded();
    run(&["sync", "verify", "--repair"]).succeeded();
    shapes::matches("sync refused", &run(&["sync", "refused", "--json"]).succeeded().json());
    shapes::matches("sync forget", &run(&["sync", "forget", "--json"]).succeeded().json());
    assert_eq!(server.left().unwrap(), 0);
    run(&["sync", "run"]).failed_with(&["the table `t` has rows on both sides", "litekeep sync resync both"]);
}

/// What is done to a row.
enum Edit {
    Delete {
        id: u32,
    },
    /// Where no other row is.
    Move {
        id: u32,
        to: u32,
    },
    /// Where none is.
    Insert {
        id: u32,
    },
    Append {
        id: u32,
    },
}

/// A statement of SQLite's and PostgreSQL's; see [`Hub::edit`].
fn returning(edit: &Edit, name: &str) -> String {
    match edit {
        Edit::Delete { id } => format!("DELETE FROM t WHERE id = {id} RETURNING '-', edits"),
        Edit::Move { id, to } => format!(
            "UPDATE t SET id = {to}, edits = edits || ' {name}' WHERE id = {id} AND NOT EXISTS (SELECT 1 FROM t WHERE id = {to}) RETURNING '+', edits"
        ),
        Edit::Insert { id } => {
            format!("INSERT INTO t VALUES ({id}, '{name}') ON CONFLICT DO NOTHING RETURNING '+', edits")
        }
        Edit::Append { id } => {
            format!("UPDATE t SET edits = edits || ' {name}' WHERE id = {id} RETURNING '+', edits")
        }
    }
}

/// What is known of the edits.
#[derive(Default)]
struct Edits {
    count: u32,
    /// Those that were acknowledged.
    made: BTreeSet<String>,
    /// Those of rows that somebody has deleted, or written anew, who saw them.
    seen: BTreeSet<String>,
}

impl Edits {
    fn see(&mut self, edits: &str) {
        self.seen.extend(edits.split(' ').map(str::to_owned));
    }

    /// A random edit, and its name.
    fn random(&mut self, site: usize, random: &mut fastrand::Rng) -> (String, Edit) {
        self.count += 1;
        let name = format!("e{}@{site}", self.count);
        let (id, to) = (random.u32(0..KEYS), random.u32(0..KEYS));
        let edit = match random.u8(0..20) {
            0..3 => Edit::Delete { id },
            3 => Edit::Move { id, to },
            4..9 => Edit::Insert { id },
            _ => Edit::Append { id },
        };
        (name, edit)
    }

    fn done(&mut self, name: String, rows: Vec<(String, String)>) {
        for (what, edits) in rows {
            match what.as_str() {
                "-" => self.see(&edits),
                _ => drop(self.made.insert(name.clone())),
            }
        }
    }
}

fn edit_here(scene: &Scene, sql: &str) -> Result<Vec<(String, String)>> {
    let db = Connection::open(scene.db())?;
    db.busy_timeout(LONG)?;
    let mut statement = db.prepare(sql)?;
    let rows = statement.query_map((), |row| Ok((row.get(0)?, row.get(1)?)))?;
    Ok(rows.collect::<Result<_, _>>()?)
}

/// Edits that the list of conflicts tells.
fn listed(scene: &Scene) -> Result<BTreeSet<String>> {
    let told: Value = serde_json::from_str(&scene.litekeep(&["sync", "conflicts", "--json"])?)?;
    let conflicts = told["conflicts"].as_array().context("a list")?;
    ensure!(told["count"].as_u64() == Some(conflicts.len() as u64), "some are not listed any more");
    let lost = conflicts.iter().filter_map(|conflict| conflict["lost"]["edits"].as_str());
    Ok(lost.flat_map(|edits| edits.split(' ').map(str::to_owned)).collect())
}

#[test]
fn four_come_to_the_same_and_no_edit_is_lost_without_a_word() {
    four_come_to_the_same::<Postgres>("two-way");
}

#[test]
fn four_come_to_the_same_with_mariadb() {
    four_come_to_the_same::<Mariadb>("two-way-mariadb");
}

#[test]
fn four_come_to_the_same_with_mysql() {
    if Flavor::Mysql.is_available() {
        four_come_to_the_same::<TheOther>("two-way-mysql");
    }
}

/// Kills or stops litekeeps, the server and connections while all four are written to.
fn four_come_to_the_same<H: Hub>(campaign: &str) {
    campaign::rounds(campaign, 2, |seed| {
        let mut random = fastrand::Rng::with_seed(seed);
        let policy = ["server", "sqlite", "latest"][usize::try_from(seed % 3)?];
        let mut server = H::begin()?;
        let first: Vec<String> = (0..KEYS).step_by(2).map(|id| format!("({id}, 'e0')")).collect();
        let more = format!("conflict = {policy:?}\n");
        let nodes: Vec<Scene> =
            [format!("INSERT INTO t VALUES {}", first.join(", ")), String::new(), String::new()]
                .iter()
                .map(|sql| node(&server, &more, sql))
                .collect();
        for scene in &nodes {
            scene.litekeep(&["sync", "run"])?;
        }
        let mut edits = Edits::default();
        let mut running: Vec<Option<Process>> = vec![None, None, None];
        for _ in 0..8 {
            for (scene, process) in nodes.iter().zip(&mut running) {
                match (process.take(), random.u8(0..4)) {
                    (Some(process), 0) => drop(process.kill()?),
                    (Some(process), 1) => scene.stop(process)?,
                    (None, 0..3) => *process = Some(scene.replicate()?),
                    (other, _) => *process = other,
                }
            }
            match random.u8(0..6) {
                0 => {
                    server.kill()?;
                    server.resume()?;
                }
                1 => server.cut_off()?,
                _ => {}
            }
            for _ in 0..random.u32(10..60) {
                let site = random.usize(0..4);
                let (name, edit) = edits.random(site, &mut random);
                let rows = match nodes.get(site) {
                    Some(scene) => edit_here(scene, &returning(&edit, &name))?,
                    None => server.edit(&edit, &name)?,
                };
                edits.done(name, rows);
                std::thread::sleep(Duration::from_millis(random.u64(0..12)));
            }
        }
        for (scene, process) in nodes.iter().zip(&mut running) {
            if process.is_none() {
                *process = Some(scene.replicate()?);
            }
        }
        let mut since = Instant::now();
        let mut before = vec![];
        let logs = || nodes.iter().map(Scene::log).collect::<Vec<_>>().join("\n");
        eventually("all four are the same, and stay so", LONG, || {
            let all: Vec<Vec<String>> = nodes.iter().map(rows_here).chain([server.rows()?]).collect();
            if all != before {
                (before, since) = (all, Instant::now());
            }
            Ok(before.iter().all(|rows| *rows == before[3]) && since.elapsed() > Duration::from_secs(2))
        })
        .with_context(|| format!("{before:#?}\n{}", logs()))?;
        // Nothing goes in circles.
        let pushes = || -> Result<Vec<Value>> {
            let pushes = |stage: &String| Ok(serde_json::from_str::<Value>(stage)?["pushes"].take());
            server.stages()?.iter().map(pushes).collect()
        };
        let at_rest = pushes()?;
        std::thread::sleep(Duration::from_secs(1));
        ensure!(pushes()? == at_rest, "it does not come to rest\n{}", logs());
        let mut told: BTreeSet<String> = before[3]
            .iter()
            .filter_map(|row| row.split_once(':'))
            .flat_map(|(_, edits)| edits.split(' '))
            .map(str::to_owned)
            .collect();
        for scene in &nodes {
            told.extend(listed(scene)?);
            scene.litekeep(&["sync", "verify"])?;
        }
        let lost: Vec<_> =
            edits.made.iter().filter(|name| !told.contains(*name) && !edits.seen.contains(*name)).collect();
        ensure!(lost.is_empty(), "of {} edits these are lost: {lost:?}\n{}", edits.made.len(), logs());
        for (scene, process) in nodes.iter().zip(running.into_iter().flatten()) {
            scene.stop(process)?;
        }
        Ok(())
    });
}
