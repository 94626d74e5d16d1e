//! Goal: machines that are cut off from the server go on, and come to the same rows when they are not any more, whatever their clocks say; no edit is
//! lost without a word. Method: the real binary with the configuration of `docs/offline-first.md`, three times, each behind a connection that is cut and mended while edits are made
//! on all of them and on the server. Each edit adds its name to a column; it must be in a row, have been deleted by somebody who saw it, or be in a list of conflicts.

use std::collections::BTreeSet;
use std::time::{Duration, Instant};

use anyhow::{Context as _, Result, ensure};
use litekeep_testkit::postgres::Postgres;
use litekeep_testkit::process::eventually;
use litekeep_testkit::{Link, Process, campaign, clock, programs};
use rusqlite::Connection;
use serde_json::Value;

use crate::Place;
use crate::scene::LONG;

const TABLE: &str =
    "CREATE TABLE notes(id INTEGER PRIMARY KEY, title TEXT NOT NULL, body TEXT NOT NULL, tags TEXT NOT NULL)";
const ROWS: &str = "SELECT id || ' ' || title || '|' || body || '|' || tags FROM notes ORDER BY id";
/// How far the clocks are ahead, in seconds.
const AHEAD: [i64; 3] = [0, 7_200, -86_400];

/// A database, the way to the server, and a litekeep with a clock of its own.
struct Machine {
    place: Place,
    link: Link,
    ahead_s: i64,
    litekeep: Option<Process>,
}

impl Machine {
    fn new(server: &Postgres, ahead_s: i64) -> Result<Machine> {
        let page = std::fs::read_to_string(programs::workspace().join("docs/offline-first.md"))?;
        let toml = page.split("```toml\n").nth(1).and_then(|rest| rest.split("```").next());
        let place = Place::new();
        std::fs::write(place.path("litekeep.toml"), toml.context("the page has a configuration")?)?;
        Connection::open(place.path("app.db"))?
            .execute_batch(&format!("PRAGMA journal_mode = WAL; {TABLE}"))?;
        let link = Link::to(server.address())?;
        let mut machine = Machine { place, link, ahead_s, litekeep: None };
        machine.begin(server)?;
        Ok(machine)
    }

    fn begin(&mut self, server: &Postgres) -> Result<()> {
        let mut command = self.place.command(&["replicate"]);
        command.env("DATABASE_URL", self.url(server));
        clock::skew(&mut command, self.ahead_s)?;
        self.litekeep = Some(Process::start(command, &self.place.path("litekeep.log"))?);
        Ok(())
    }

    fn url(&self, server: &Postgres) -> String {
        let port = |address: std::net::SocketAddr| format!(":{}/", address.port());
        server.url("postgres").replace(&port(server.address()), &port(self.link.address()))
    }

    fn query(&self, sql: &str) -> Result<Vec<String>> {
        let db = Connection::open(self.place.path("app.db"))?;
        db.busy_timeout(LONG)?;
        let mut statement = db.prepare(sql)?;
        let rows = statement.query_map((), |row| row.get(0))?;
        Ok(rows.collect::<Result<_, _>>()?)
    }

    fn json(&self, server: &Postgres, arguments: &[&str]) -> Result<Value> {
        let mut command = self.place.command(&[arguments, &["--json"]].concat());
        let output = command.env("DATABASE_URL", self.url(server)).output()?;
        let said = || format!("{arguments:?}: {}", String::from_utf8_lossy(&output.stderr));
        serde_json::from_slice(&output.stdout).with_context(said)
    }

    /// Edits that its list of conflicts tells.
    fn listed(&self, server: &Postgres) -> Result<String> {
        let told = self.json(server, &["sync", "conflicts"])?;
        let conflicts = told["conflicts"].as_array().context("a list")?;
        Ok(conflicts.iter().map(|conflict| conflict["lost"].to_string()).collect())
    }

    fn log(&self) -> String {
        std::fs::read_to_string(self.place.path("litekeep.log")).unwrap_or_default()
    }
}

fn there(server: &Postgres, sql: &str) -> Result<Vec<String>> {
    Ok(server.query(sql)?.into_iter().filter_map(|row| row.into_iter().next().flatten()).collect())
}

/// Until all have the same rows, and stay so.
fn converge(machines: &[Machine], server: &Postgres) -> Result<Vec<String>> {
    let (mut before, mut since) = (vec![], Instant::now());
    let logs = || machines.iter().map(Machine::log).collect::<Vec<_>>().join("\n");
    eventually("all four are the same, and stay so", LONG, || {
        let here = machines.iter().map(|machine| machine.query(ROWS));
        let all: Vec<Vec<String>> = here.chain([there(server, ROWS)]).collect::<Result<_>>()?;
        if all != before {
            (before, since) = (all, Instant::now());
        }
        Ok(before.iter().all(|rows| *rows == before[0]) && since.elapsed() > Duration::from_secs(1))
    })
    .with_context(|| format!("{before:#?}\n{}", logs()))?;
    Ok(before.swap_remove(0))
}

#[test]
fn machines_that_were_cut_off_come_to_the_same() {
    campaign::rounds("offline", 1, |seed| {
        let mut random = fastrand::Rng::with_seed(seed);
        let server = Postgres::start()?;
        let mut machines = vec![Machine::new(&server, AHEAD[0])?];
        machines[0].query(
            "INSERT INTO notes VALUES (1, '', '', ''), (2, '', '', ''), (3, '', '', '') RETURNING ''",
        )?;
        let has_come = || Ok(there(&server, ROWS).is_ok_and(|rows| rows.len() == 3));
        eventually("the first has brought its rows", LONG, has_come).with_context(|| machines[0].log())?;
        for ahead_s in &AHEAD[1..] {
            machines.push(Machine::new(&server, *ahead_s)?);
        }
        converge(&machines, &server)?;

        // What the page promises, with nothing left to chance.
        machines.iter().for_each(|machine| machine.link.cut());
        let edits = ["title = 'a', tags = 'first'", "body = 'b', tags = 'ahead'", "tags = 'behind'"];
        for (machine, edit) in machines.iter().zip(edits) {
            machine.query(&format!("UPDATE notes SET {edit} WHERE id = 1 RETURNING ''"))?;
        }
        machines[0].query("DELETE FROM notes WHERE id = 2 RETURNING ''")?;
        machines[1].query("UPDATE notes SET body = 'stays' WHERE id = 2 RETURNING ''")?;
        machines[2].query("INSERT INTO notes VALUES (77, 'new', '', '') RETURNING ''")?;
        let is_red = || {
            let status = machines[0].json(&server, &["sync", "status"])?;
            Ok(status.to_string().contains("\"ok\":false"))
        };
        eventually("the status is red", LONG, is_red)?;
        ensure!(
            machines[0].query(ROWS)? == ["1 a||first", "3 ||", "77 new||"][..2],
            "the application goes on"
        );
        for nth in [2, 0, 1] {
            machines[nth].link.mend();
        }
        let rows = converge(&machines, &server)?;
        ensure!(rows == ["1 a|b|ahead", "2 |stays|", "3 ||", "77 new||"], "{rows:#?}");
        let told: String = machines.iter().map(|machine| machine.listed(&server)).collect::<Result<_>>()?;
        ensure!(told.contains("first") && told.contains("behind") && !told.contains("\"b\""), "{told}");

        let (mut made, mut seen) = (BTreeSet::new(), String::new());
        for round in 0..6 {
            for machine in &mut machines {
                match random.u8(0..5) {
                    0 | 1 => machine.link.cut(),
                    2 | 3 => machine.link.mend(),
                    _ if random.bool() => {
                        machine.litekeep.take().context("it runs")?.kill()?;
                        machine.begin(&server)?;
                    }
                    _ => {}
                }
            }
            for nth in 0..random.u32(10..40) {
                let site = random.usize(0..4);
                let (id, name) = (random.u32(1..12), format!("e{round}.{nth}@{site};"));
                let column = ["title", "body", "tags"][random.usize(0..3)];
                let sql = match random.u8(0..10) {
                    0 => format!("DELETE FROM notes WHERE id = {id} RETURNING '-' || title || body || tags"),
                    1..4 => format!(
                        "INSERT INTO notes VALUES ({}, '{name}', '', '') ON CONFLICT DO NOTHING RETURNING '+'",
                        id + random.u32(0..2) * 100 * (1 + site as u32)
                    ),
                    _ => format!(
                        "UPDATE notes SET {column} = {column} || '{name}' WHERE id = {id} RETURNING '+'"
                    ),
                };
                let done = match machines.get(site) {
                    Some(machine) => machine.query(&sql)?,
                    None => there(&server, &sql)?,
                };
                for what in done {
                    match what.strip_prefix('-') {
                        Some(edits) => seen.push_str(edits),
                        None => _ = made.insert(name.clone()),
                    }
                }
                std::thread::sleep(Duration::from_millis(random.u64(0..12)));
            }
        }
        machines.iter().for_each(|machine| machine.link.mend());
        let rows = converge(&machines, &server)?;
        let told: String = machines.iter().map(|machine| machine.listed(&server)).collect::<Result<_>>()?;
        let told = format!("{}{told}{seen}", rows.concat());
        let lost: Vec<&String> = made.iter().filter(|name| !told.contains(name.as_str())).collect();
        ensure!(lost.is_empty(), "of {} edits these are lost: {lost:?}", made.len());
        for mut machine in machines {
            let status = machine.litekeep.take().context("it runs")?.terminate(LONG)?;
            ensure!(status.success(), "{}", machine.log());
        }
        Ok(())
    });
}
