//! Goal: the status page tells the truth, live, to those who may look, and to nobody else. Method: the real binary with real
//! processes and real stores, asked by hand over TCP and looked at by a real browser.

use std::io::{BufRead as _, BufReader, Read as _, Write as _};
use std::net::TcpStream;

use litekeep_testkit::Process;
use litekeep_testkit::chromium::Chromium;
use litekeep_testkit::fault_proxy::Fault;
use litekeep_testkit::process::eventually;
use serde_json::Value;

use crate::scene::{LONG, Scene, Store};
use crate::up::free_port;
use crate::{Place, shapes};

pub(crate) const TOKEN: &str = "correct-horse-battery";

pub(crate) struct Answer {
    pub(crate) code: u16,
    head: String,
    pub(crate) body: String,
}

impl Answer {
    pub(crate) fn json(&self) -> Value {
        serde_json::from_str(&self.body).unwrap_or_else(|error| panic!("{error}: {}{}", self.head, self.body))
    }

    pub(crate) fn header(&self, name: &str) -> Option<&str> {
        let headers = self.head.lines().filter_map(|line| line.split_once(": "));
        headers.into_iter().find(|(key, _)| key.eq_ignore_ascii_case(name)).map(|(_, value)| value)
    }
}

pub(crate) fn connect(port: u16, request: &str, headers: &[&str]) -> TcpStream {
    let mut stream = TcpStream::connect(("127.0.0.1", port)).unwrap();
    stream.set_read_timeout(Some(LONG)).unwrap();
    let host = format!("Host: 127.0.0.1:{port}");
    let own = headers.iter().any(|header| header.starts_with("Host:"));
    let headers: Vec<&str> = headers.iter().copied().chain((!own).then_some(host.as_str())).collect();
    let text = format!("{request} HTTP/1.1\r\n{}\r\nConnection: close\r\n\r\n", headers.join("\r\n"));
    stream.write_all(text.as_bytes()).unwrap();
    stream
}

pub(crate) fn ask(port: u16, request: &str, headers: &[&str]) -> Answer {
    let mut text = String::new();
    connect(port, request, headers).read_to_string(&mut text).unwrap();
    let (head, body) = text.split_once("\r\n\r\n").unwrap_or_else(|| panic!("{text}"));
    let code = head.split_whitespace().nth(1).unwrap().parse().unwrap();
    Answer { code, head: head.to_owned(), body: body.to_owned() }
}

fn status(port: u16) -> Value {
    ask(port, "GET /api/status", &[]).json()
}

/// Waits until the page is served and says so of everything.
fn reaches(port: u16, what: &str, is_there: impl Fn(&Value) -> bool) -> Value {
    let look = || Ok(TcpStream::connect(("127.0.0.1", port)).is_ok() && is_there(&status(port)));
    if let Err(error) = eventually(what, LONG, look) {
        panic!("{error}\n{:#}", status(port));
    }
    status(port)
}

fn configure(place: &Place, rest: &str) {
    let toml = format!("[[database]]\npath = \"app.db\"\nbackup = \"./backup\"\n{rest}");
    std::fs::write(place.path("litekeep.toml"), toml).unwrap();
}

fn up(place: &Place) -> Process {
    Process::start(place.command(&["up"]), &place.path("up.out")).unwrap()
}

fn down(place: &Place, mut running: Process) {
    place.run(&["down"]).succeeded();
    assert!(running.wait(LONG).unwrap().success());
}

#[test]
fn everything_is_shown_and_told_as_it_comes() {
    let place = Place::new();
    place.database("app.db", 10);
    std::fs::create_dir(place.path("migrations")).unwrap();
    std::fs::write(place.path("migrations/1_more.sql"), "-- migrate:up\nCREATE TABLE more(x);\n").unwrap();
    let (port, metrics) = (free_port(), free_port());
    configure(
        &place,
        &format!(
            "migrations = \"migrations\"\n[metrics]\naddr = \"127.0.0.1:{metrics}\"\n[dashboard]\naddr = \"127.0.0.1:{port}\"\n\
             [process.web]\ncommand = \"echo 'ready <b>'; echo 'a warning' >&2; sleep 100\"\n\
             health = {{ command = \"sleep 0.05\", interval = \"100ms\" }}\n\
             [process.bad]\ncommand = \"echo 'no QUEUE_URL' >&2; sleep 0.2; exit 3\"\n\
             [job.sweep]\ncommand = \"echo swept\"\nevery = \"1s\"\n"
        ),
    );
    let running = up(&place);
    let is_whole = |status: &Value| {
        let migrations = &status["databases"][0]["migrations"]["migrations"];
        let jobs = &status["stack"]["jobs"][0]["history"];
        status["safe"] == true
            && migrations[0]["state"] == "applied"
            && jobs.as_array().is_some_and(|all| !all.is_empty())
            && status["problems"].as_array().is_some_and(|all| !all.is_empty())
    };
    let shown = reaches(port, "everything is shown", is_whole);
    shapes::matches("board", &shown);
    let sentence = shown["sentence"].as_str().unwrap();
    let url = format!("file://{}", place.path("backup").canonicalize().unwrap().display());
    assert!(sentence.starts_with("Everything up to ") && sentence.contains("UTC"), "{sentence}");
    assert!(
        sentence.ends_with(", not yet proven restorable.") && sentence.contains("backup"),
        "{sentence} {url}"
    );
    assert_eq!(shown["ok"], false, "a process crashes");
    assert!(shown["problems"][0].as_str().unwrap().starts_with("bad is "), "{shown:#}");
    assert_eq!(shown["databases"][0]["migrations"]["migrations"][0]["state"], "applied");
    let web =
        shown["stack"]["processes"].as_array().unwrap().iter().find(|own| own["name"] == "web").unwrap();
    let took_ms = web["health"]["took_ms"].as_f64().unwrap();
    assert!(web["health"]["ok"] == true && took_ms >= 50.0 && web["liveness"].is_null(), "{web:#}");
    let deploy = &shown["deploys"][0]["processes"];
    assert!(deploy.as_array().unwrap().iter().any(|name| name == "web"), "{shown:#}");
    let text = ask(metrics, "GET /metrics", &[]).body;
    for line in ["litekeep_process_up{process=\"web\"} 1", "litekeep_job_up{job=\"sweep\"} 1"] {
        assert!(text.lines().any(|own| own == line), "{line}: {text}");
    }
    assert!(text.contains("litekeep_process_restarts_total{process=\"bad\"} "), "{text}");
    assert!(text.contains("litekeep_process_probe_seconds{process=\"web\"} 0."), "{text}");
    let bad = shown["last_words"].as_array().unwrap().iter().find(|own| own["process"] == "bad").unwrap();
    assert_eq!(bad["lines"][0], "no QUEUE_URL");

    place.run(&["verify"]).succeeded();
    let proven = |status: &Value| {
        status["sentence"].as_str().is_some_and(|said| said.contains("last proven restorable"))
    };
    let shown = reaches(port, "the proof is shown", proven);
    assert_eq!(shown["databases"][0]["backups"][0]["proofs"][0]["proven"], true);

    let history = ask(port, "GET /api/history", &[]).json();
    shapes::matches("board-history", &history);
    let restore = history[0]["restore"].as_str().unwrap();
    let point = history[0]["points"].as_array().unwrap().last().unwrap()["txid"].as_str().unwrap();
    let command = format!("{restore}{point}").replacen("litekeep", env!("CARGO_BIN_EXE_litekeep"), 1);
    let restored = std::process::Command::new("sh")
        .args(["-c", &command])
        .current_dir(place.dir.path())
        .output()
        .unwrap();
    assert!(restored.status.success() && place.path("restored-app.db").exists(), "{command}: {restored:?}");

    // The page itself has the sentence, and lets nothing foreign in.
    let page = ask(port, "GET /", &[]);
    assert_eq!(page.code, 200);
    assert!(
        page.body.contains("data-state=\"safe\"") && page.body.contains(">Everything up to "),
        "{}",
        page.body
    );
    assert!(
        page.header("content-security-policy").unwrap().starts_with("default-src 'none'; script-src 'self'")
    );
    assert_eq!(page.header("x-frame-options"), Some("DENY"));
    for (file, kind) in
        [("app.js", "text/javascript"), ("app.css", "text/css"), ("icon.svg", "image/svg+xml")]
    {
        let answer = ask(port, &format!("GET /{file}"), &[]);
        assert!(answer.code == 200 && answer.header("content-type").unwrap().starts_with(kind), "{file}");
        assert!(
            !answer.body.contains("https://") && !answer.body.contains("url("),
            "{file} loads from elsewhere"
        );
    }
    // It only reads.
    assert_eq!(ask(port, "POST /api/restart?process=web", &[]).code, 404);
    assert_eq!(ask(port, "POST /api/status", &[]).code, 405);
    // A name that somebody made to point here.
    for host in ["Host: evil.example", "Host: localhost.evil.example:9091", "Host:"] {
        let answer = ask(port, "GET /api/status", &[host]);
        assert!(answer.code == 421 && !answer.body.contains("app.db"), "{host}: {}", answer.head);
    }
    assert_eq!(ask(port, "GET /api/status", &["Host: localhost:1"]).code, 200);

    let mut live = BufReader::new(connect(port, "GET /api/live", &[])).lines().map(|line| line.unwrap());
    let mut seen = std::collections::BTreeMap::new();
    let mut kind = String::new();
    while seen.len() < 3 || seen["status"] < 3 {
        let line = live.next().expect("a stream without end");
        if let Some(event) = line.strip_prefix("event: ") {
            kind = event.to_owned();
        } else if let Some(data) = line.strip_prefix("data: ") {
            let data: Value = serde_json::from_str(data).unwrap();
            match kind.as_str() {
                "status" => assert_eq!(data["databases"].as_array().unwrap().len(), 1),
                "happened" => shapes::matches("events", &data),
                _ => shapes::matches("logs", &data),
            }
            *seen.entry(kind.clone()).or_insert(0) += 1;
        }
    }
    // It ends although somebody looks.
    down(&place, running);
    // Deploys are known to the next one.
    let running = up(&place);
    reaches(port, "the page is served again", |status| status["deploys"][0] == shown["deploys"][0]);
    down(&place, running);
}

#[test]
fn with_a_token_only_who_shows_it_looks_and_acts() {
    let place = Place::new();
    place.database("app.db", 10);
    let port = free_port();
    let rest = format!(
        "[dashboard]\naddr = \"0.0.0.0:{port}\"\ntoken = \"{TOKEN}\"\nactions = true\n[process.web]\ncommand = \"sleep 100\"\n"
    );
    configure(&place, &rest);
    let running = up(&place);
    eventually("the page is served", LONG, || Ok(TcpStream::connect(("127.0.0.1", port)).is_ok())).unwrap();
    let locked = ask(port, "GET /", &["Host: status.example"]);
    assert!(locked.code == 401 && locked.body.contains("type=\"password\""), "{}", locked.head);
    for path in ["/api/status", "/api/history", "/api/live", "/app.js", "/none"] {
        let answer = ask(port, &format!("GET {path}"), &[]);
        assert!(answer.code == 401 && answer.body.is_empty(), "{path}: {}", answer.head);
    }
    assert_eq!(ask(port, "GET /?token=wrong-horse-battery", &[]).code, 401);
    let entered = ask(port, &format!("GET /?token={TOKEN}"), &[]);
    let cookie = entered.header("set-cookie").unwrap().to_owned();
    assert!(
        entered.code == 200 && !cookie.contains(TOKEN) && cookie.contains("HttpOnly; SameSite=Strict"),
        "{cookie}"
    );
    let cookie = format!("Cookie: a=b; {}", cookie.split(';').next().unwrap());
    assert_eq!(ask(port, "GET /", &[&cookie, "Host: status.example"]).code, 200);
    let bearer = format!("Authorization: Bearer {TOKEN}");
    let process = || {
        let status = ask(port, "GET /api/status", &[&bearer]).json();
        status["stack"]["processes"][0].clone()
    };
    eventually("the process runs", LONG, || Ok(process()["state"] == "healthy")).unwrap();
    let before = process()["pid"].clone();

    let restart = "POST /api/restart?process=web";
    assert_eq!(ask(port, restart, &[]).code, 401);
    for origin in ["Origin: https://evil.example", "Origin: null", "X: no origin"] {
        assert_eq!(ask(port, restart, &[&cookie, origin]).code, 403, "{origin}");
    }
    assert_eq!(process()["pid"], before);
    let own = format!("Origin: http://127.0.0.1:{port}");
    let answer = ask(port, restart, &[&cookie, &own]);
    assert_eq!(answer.code, 204, "{}{}", answer.head, answer.body);
    // All who look within a second are told the same.
    eventually("another one runs", LONG, || {
        let now = process();
        Ok(now["pid"] != before && now["state"] == "healthy")
    })
    .unwrap();
    let unknown = ask(port, "POST /api/restart?process=wbe", &[&bearer]);
    assert!(unknown.code == 409 && unknown.body.contains("there is no process `wbe`"), "{}", unknown.body);
    let answer = ask(port, "POST /api/reload", &[&bearer]);
    assert!(answer.code == 200 && answer.body.contains("`web` is away until"), "{}", answer.body);
    assert_eq!(ask(port, "POST /api/reload", &[&bearer]).code, 204);
    configure(&place, &rest.replace("\n[process", "\n[log]\nlevel = \"debug\"\n[process"));
    let answer = ask(port, "POST /api/reload", &[&bearer]);
    assert!(answer.code == 200 && answer.body.contains("[log] has changed"), "{}", answer.body);

    // Another token lets nobody in by the old one, and ends what came in by it; the reload itself is answered.
    let mut live = connect(port, "GET /api/live", &[&bearer]);
    let metrics = free_port();
    let changed = rest.replace(TOKEN, "battery-staple-horse");
    configure(&place, &format!("[metrics]\naddr = \"127.0.0.1:{metrics}\"\n{changed}"));
    assert_eq!(ask(port, "POST /api/reload", &[&bearer]).code, 204);
    live.read_to_end(&mut Vec::new()).unwrap();
    assert_eq!(ask(port, "GET /api/status", &[&bearer]).code, 401);
    let bearer = "Authorization: Bearer battery-staple-horse";
    assert_eq!(ask(port, "GET /api/status", &[bearer]).code, 200);
    assert!(ask(metrics, "GET /metrics", &[]).body.contains("litekeep_process_up{process=\"web\"} 1"));
    // Another address, and one that is taken.
    let other = free_port();
    configure(&place, &changed.replace(&format!(":{port}"), &format!(":{other}")));
    place.run(&["reload"]).succeeded();
    assert_eq!(ask(other, "GET /api/status", &[bearer]).code, 200);
    assert!(
        TcpStream::connect(("127.0.0.1", port)).is_err()
            && TcpStream::connect(("127.0.0.1", metrics)).is_err()
    );
    let taken = std::net::TcpListener::bind(("0.0.0.0", port)).unwrap();
    configure(&place, &changed);
    let warnings = place.run(&["reload", "--json"]).succeeded().json()["warnings"].to_string();
    assert!(warnings.contains("for the status page: "), "{warnings}");
    assert_eq!(ask(other, "GET /api/status", &[bearer]).code, 200, "that of before goes on");
    drop(taken);
    down(&place, running);
}

#[test]
fn the_sentence_is_red_while_the_bucket_is_out_of_reach() {
    let scene = Scene::new(Store::Proxied, "upload_interval = \"20ms\"");
    let port = free_port();
    let file = scene.place.path("litekeep.toml");
    let toml = std::fs::read_to_string(&file).unwrap();
    std::fs::write(&file, format!("{toml}[dashboard]\naddr = \"127.0.0.1:{port}\"\n")).unwrap();
    scene.place.database("app.db", 5);
    let litekeep = scene.replicate().unwrap();
    reaches(port, "all is safe", |status| status["safe"] == true);
    scene.proxy().outage(Some(Fault::Status(503)));
    scene.place.database("app.db", 5);
    let is_red = |status: &Value| {
        let sentence = status["sentence"].as_str().unwrap_or_default();
        status["safe"] == false
            && sentence.starts_with("Since ")
            && sentence.ends_with("no commit of app.db has reached its backup.")
    };
    let red = reaches(port, "the outage is shown", is_red);
    assert!(red["problems"][0].as_str().unwrap().starts_with("app.db: "), "{red:#}");
    assert!(red["databases"][0]["lag_transactions"].as_u64().unwrap() > 0, "{red:#}");
    assert!(red["databases"][0]["lag_bytes"].as_u64().unwrap() > 100, "{red:#}");
    let page = ask(port, "GET /", &[]).body;
    assert!(page.contains("data-state=\"unsafe\"") && page.contains("<li>app.db: "), "{page}");
    let mut browser = Chromium::start().unwrap();
    browser.open(&format!("http://127.0.0.1:{port}/"), (1280, 900)).unwrap();
    assert_eq!(browser.value("document.title").unwrap(), "Not safe · litekeep");
    keep_picture(&mut browser, "broken");
    scene.proxy().outage(None);
    reaches(port, "all is safe again", |status| status["safe"] == true && status["ok"] == true);
    // The page that is open hears of it.
    browser.until("document.getElementById('hero').dataset.state === 'safe'").unwrap();
    scene.stop(litekeep).unwrap();
    browser.until("document.getElementById('hero').dataset.state === 'unknown'").unwrap();
    let said = browser.value("document.getElementById('sentence').textContent").unwrap();
    assert!(said.as_str().unwrap().starts_with("litekeep has not answered for "), "{said}");
    keep_picture(&mut browser, "unknown");
}

/// Keeps a picture for people where `LITEKEEP_TEST_PICTURES` names a folder.
pub(crate) fn keep_picture(browser: &mut Chromium, name: &str) {
    if let Some(folder) = std::env::var_os("LITEKEEP_TEST_PICTURES") {
        browser.picture(&std::path::Path::new(&folder).join(format!("{name}.png"))).unwrap();
    }
}

#[test]
fn a_browser_draws_it() {
    let place = Place::new();
    place.database("app.db", 10);
    let port = free_port();
    let rest = format!(
        "migrations = \"migrations\"\n[dashboard]\naddr = \"127.0.0.1:{port}\"\n[process.web]\ncommand = \"echo 'ready <script>'; sleep 100\"\n\
         health = {{ command = \"true\", interval = \"500ms\" }}\n\
         [job.sweep]\ncommand = \"echo swept\"\nevery = \"1s\"\n"
    );
    configure(&place, &rest);
    std::fs::create_dir(place.path("migrations")).unwrap();
    std::fs::write(place.path("migrations/1_more.sql"), "-- migrate:up\nCREATE TABLE more(x);\n").unwrap();
    let running = up(&place);
    reaches(port, "a job has run", |status| {
        status["ok"] == true
            && status["stack"]["jobs"][0]["history"].as_array().is_some_and(|all| !all.is_empty())
    });
    let mut browser = Chromium::start().unwrap();
    browser.open(&format!("http://127.0.0.1:{port}/"), (1280, 900)).unwrap();
    // What came with the page is drawn; what comes live is there a moment later, as text.
    assert_eq!(browser.value("document.title").unwrap(), "Safe · litekeep");
    for there in
        ["app.db", "Processes", "sweep", "swept", "litekeep restore ", "▲deploy", "⚑migration", " ms, "]
    {
        // The listing of the log may be of a moment before the migration was in it.
        browser
            .until(&format!("document.body.innerText.includes({there:?})"))
            .unwrap_or_else(|e| panic!("{e}: {}", browser.value("document.body.innerText").unwrap()));
    }
    browser.until("document.body.innerText.includes('job ended')").unwrap();
    browser.until("document.querySelector('pre')?.textContent.includes('ready <script>')").unwrap();
    // What is opened and chosen stays while everything goes on.
    let choose = "(() => { const open = document.querySelector('details'); open.open = true; \
                  const slider = document.querySelector('input[type=range]'); slider.value = slider.min; \
                  slider.dispatchEvent(new Event('input', { bubbles: true })); return true; })()";
    browser.value(choose).unwrap();
    let first = "document.querySelector('.command code').textContent.endsWith(' --txid 0000000000000001')";
    browser.until(first).unwrap();
    browser.value("window.before = document.getElementById('fresh').textContent").unwrap();
    browser.until("document.getElementById('fresh').textContent !== window.before").unwrap();
    assert_eq!(browser.value(first).unwrap(), true);
    assert_eq!(browser.value("document.querySelector('details').open").unwrap(), true);
    for (name, size, dark) in
        [("light", (1280, 900), false), ("dark", (1280, 900), true), ("narrow", (390, 844), false)]
    {
        browser.prefer(dark).unwrap();
        browser.resize(size).unwrap();
        browser.until("document.documentElement.scrollWidth <= innerWidth").unwrap();
        keep_picture(&mut browser, name);
    }
    // No script or style was refused by the page's own policy, which the browser would have reported as an error.
    let styled = browser.value("getComputedStyle(document.querySelector('.hero')).borderLeftWidth").unwrap();
    assert_eq!(styled, "6px");
    down(&place, running);
}

#[test]
fn feeds_are_shown_with_what_is_wrong_with_them() {
    let place = Place::new();
    place.database("app.db", 10);
    let port = free_port();
    let feed =
        |name: &str, to: &str| format!("[[feed]]\nname = {name:?}\nto = {to:?}\nfrom = \"beginning\"\n");
    let feeds = feed("fine", "events.jsonl") + &feed("lost", "/nowhere/<b>events.jsonl");
    configure(&place, &format!("[dashboard]\naddr = \"127.0.0.1:{port}\"\n{feeds}"));
    let running = Process::start(place.command(&["replicate"]), &place.path("replicate.out")).unwrap();
    eventually("the page is served", LONG, || Ok(TcpStream::connect(("127.0.0.1", port)).is_ok())).unwrap();
    reaches(port, "all is safe", |status| status["safe"] == true);
    place.database("app.db", 3);
    let told = |status: &Value, name: &str| {
        let feeds = status["databases"][0]["feeds"].as_array().cloned().unwrap_or_default();
        feeds.into_iter().find(|feed| feed["name"] == name).unwrap_or_default()
    };
    let shown = reaches(port, "both are shown", |status| {
        let (fine, lost) = (told(status, "fine"), told(status, "lost"));
        let has_all = fine["lag_transactions"] == 0 && fine["txid"] == status["databases"][0]["durable"];
        has_all && fine["delivered_at"].is_string() && lost["error"].is_string()
    });
    shapes::matches("board", &shown);
    assert_eq!((&shown["safe"], &shown["ok"]), (&true.into(), &false.into()));
    let problem = shown["problems"][0].as_str().unwrap();
    assert!(problem.starts_with("the feed `lost` does not deliver since "), "{problem}");
    let mut browser = Chromium::start().unwrap();
    browser.open(&format!("http://127.0.0.1:{port}/"), (1280, 900)).unwrap();
    let fine = "feed fine: file://events.jsonl";
    for there in
        [fine, "last event ", "feed lost: file:///nowhere/<b>events.jsonl", "No such file or directory"]
    {
        browser
            .until(&format!("document.body.innerText.includes({there:?})"))
            .unwrap_or_else(|e| panic!("{e}: {}", browser.value("document.body.innerText").unwrap()));
    }
    browser.until("document.querySelector('.place .badge')?.textContent.includes('failing')").unwrap();
    keep_picture(&mut browser, "feeds");

    let status = place.run(&["status"]);
    assert_eq!(status.code, 1, "{}", status.stderr);
    let last = shown["databases"][0]["durable"].as_str().unwrap();
    for there in [
        "RED app.db\n",
        "! the feed `lost` does not deliver since ",
        &format!("feed fine to file://events.jsonl: has everything, up to transaction {last}"),
        "feed lost to file:///nowhere/<b>events.jsonl: has not begun",
    ] {
        assert!(status.stdout.contains(there), "{there}: {}", status.stdout);
    }
    assert!(running.terminate(LONG).unwrap().success());
}

#[test]
fn top_shows_the_same_in_the_terminal() {
    let place = Place::new();
    place.database("app.db", 10);
    // It takes longer to end than `top` waits for anything else.
    let command = "trap 'sleep 3; exit' TERM; echo 'a warning' >&2; while :; do sleep 0.1; done";
    let health = "health = { command = \"true\" }";
    configure(&place, &format!("[process.web]\ncommand = {command:?}\n{health}\n"));
    // Nothing is up: what `status` knows.
    let ran = place.run(&["top"]);
    assert!(
        ran.code == 1 && ran.stdout.contains("! Nothing of app.db is in a backup yet."),
        "{}{}",
        ran.stdout,
        ran.stderr
    );
    assert!(
        ran.stdout.contains("no replicator is running") && ran.stdout.contains("▲ RED"),
        "{}",
        ran.stdout
    );
    shapes::matches("board", &place.run(&["top", "--json"]).json());

    let running = up(&place);
    // What each of them tells of comes by itself, one a moment after the other.
    let all = ["✓ Everything up to ", "● healthy", " ms, ", "ago: web"];
    let is_green = |ran: &crate::Ran| ran.code == 0 && all.iter().all(|there| ran.stdout.contains(there));
    let green = eventually("everything is green", LONG, || Ok(is_green(&place.run(&["top"]))));
    green.unwrap_or_else(|error| panic!("{error}: {}", place.run(&["top"]).stdout));
    shapes::matches("board", &place.run(&["top", "--json"]).succeeded().json());
    let pid = |place: &Place| place.run(&["top", "--json"]).json()["stack"]["processes"][0]["pid"].clone();
    let before = pid(&place);

    // In a terminal: restart the chosen process, and leave.
    let mut terminal = std::process::Command::new("script");
    let command = format!("stty rows 40 cols 120; {} top", env!("CARGO_BIN_EXE_litekeep"));
    terminal.args(["-qec", &command, "/dev/null"]).current_dir(place.dir.path()).env("TERM", "xterm");
    terminal.stdin(std::process::Stdio::piped()).stdout(std::fs::File::create(place.path("screen")).unwrap());
    let mut terminal = terminal.spawn().expect("script of util-linux");
    let mut keys = terminal.stdin.take().unwrap();
    let screen = || String::from_utf8_lossy(&std::fs::read(place.path("screen")).unwrap()).into_owned();
    eventually("it is drawn", LONG, || Ok(screen().contains("q quit"))).unwrap();
    assert!(screen().contains("warning"), "{}", screen());
    keys.write_all(b"r").unwrap();
    eventually("it asks", LONG, || Ok(screen().contains("Restart web?"))).unwrap();
    keys.write_all(b"y").unwrap();
    eventually("it is restarted", LONG, || Ok(pid(&place) != before && !pid(&place).is_null())).unwrap();
    keys.write_all(b"q").unwrap();
    assert!(terminal.wait().unwrap().success());
    down(&place, running);
}
