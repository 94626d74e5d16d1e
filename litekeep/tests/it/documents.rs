//! Goal: what the documents say is there. Method: every link of README, changelog and `docs/` is followed, also to the test
//! that it names in its title; the configuration's example is parsed, its defaults are compared, and each command in a
//! code block must have the flags that it is shown with.

use std::collections::HashMap;
use std::fs;
use std::path::{Path, PathBuf};

use litekeep_config::{Config, Input, StoreUrl, template};
use litekeep_store::{Counts, price};

use crate::Place;

fn root() -> PathBuf {
    Path::new(env!("CARGO_MANIFEST_DIR")).parent().unwrap().to_owned()
}

/// A document, its fenced blocks apart.
struct Document {
    path: PathBuf,
    prose: String,
    /// Language and content.
    blocks: Vec<(String, String)>,
}

impl Document {
    fn read(path: PathBuf) -> Document {
        let text = fs::read_to_string(&path).unwrap_or_else(|error| panic!("read {path:?}: {error}"));
        let (mut prose, mut blocks, mut inside) = (String::new(), Vec::new(), false);
        for line in text.lines() {
            if let Some(language) = line.strip_prefix("```") {
                inside = !inside;
                if inside {
                    blocks.push((language.to_owned(), String::new()));
                }
                continue;
            }
            let to = match blocks.last_mut().filter(|_| inside) {
                Some((_, block)) => block,
                None => &mut prose,
            };
            to.push_str(line);
            to.push('\n');
        }
        Document { path, prose, blocks }
    }

    /// Target and title of each link, inline or defined.
    fn links(&self) -> Vec<(String, Option<String>)> {
        let inline =
            self.prose.split("](").skip(1).filter_map(|rest| rest.split_once(')')).map(|(link, _)| link);
        let links = inline.chain(self.definitions().into_values());
        let parts = |link: &str| match link.split_once(" \"") {
            Some((target, title)) => (target.to_owned(), Some(title.trim_end_matches('"').to_owned())),
            None => (link.to_owned(), None),
        };
        links.map(parts).collect()
    }

    /// What `[name]: link` lines define.
    fn definitions(&self) -> HashMap<&str, &str> {
        let lines = self.prose.lines().filter_map(|line| line.strip_prefix('[')?.split_once("]: "));
        lines.collect()
    }

    /// Names of definitions that links use.
    fn uses(&self) -> Vec<&str> {
        self.prose.split("][").skip(1).filter_map(|rest| rest.split_once(']')).map(|(name, _)| name).collect()
    }

    /// What `#...` may lead to.
    fn anchors(&self) -> Vec<String> {
        let headings = self.prose.lines().filter(|line| line.starts_with('#'));
        let anchor = |heading: &str| {
            let text = heading.trim_start_matches('#').trim().to_lowercase();
            let kept = text.chars().filter(|c| c.is_alphanumeric() || matches!(c, ' ' | '-' | '_'));
            kept.map(|c| if c == ' ' { '-' } else { c }).collect()
        };
        headings.map(anchor).collect()
    }
}

fn documents() -> Vec<Document> {
    let docs = fs::read_dir(root().join("docs")).unwrap().map(|entry| entry.unwrap().path());
    let docs = docs.filter(|path| path.extension().is_some_and(|extension| extension == "md"));
    let named = ["README.md", "CHANGELOG.md"].map(|name| root().join(name));
    named.into_iter().chain(docs).map(Document::read).collect()
}

#[test]
fn every_link_leads_somewhere() {
    let mut dead = Vec::new();
    for document in documents() {
        let name = document.path.display();
        let definitions = document.definitions();
        for used in document.uses().into_iter().filter(|used| !definitions.contains_key(used)) {
            dead.push(format!("{name}: [{used}] is not defined"));
        }
        for (target, title) in document.links().into_iter().filter(|(target, _)| !target.contains("://")) {
            let (file, anchor) = target.split_once('#').unwrap_or((&target, ""));
            let path = match file {
                "" => document.path.clone(),
                file => document.path.parent().unwrap().join(file),
            };
            let Ok(text) = fs::read_to_string(&path) else {
                dead.push(format!("{name}: {target} is not there"));
                continue;
            };
            if !anchor.is_empty() && !Document::read(path).anchors().iter().any(|found| found == anchor) {
                dead.push(format!("{name}: {target} has no such heading"));
            }
            if let Some(test) = title.filter(|test| !text.contains(&format!("fn {test}("))) {
                dead.push(format!("{name}: {file} has no test {test}"));
            }
        }
    }
    assert!(dead.is_empty(), "{}", dead.join("\n"));
}

/// The first TOML of a page, as litekeep reads it.
fn example(page: &str) -> Config {
    let document = Document::read(root().join("docs").join(page));
    let (_, text) = document.blocks.iter().find(|(language, _)| language == "toml").unwrap();
    let env = |_: &str| Some("the value of a variable".to_owned());
    let read_file = |_: &Path| Ok("secret".to_owned());
    let input = Input { path: Path::new("/etc/litekeep.toml"), text, env: &env, read_file: &read_file };
    let config = Config::from_toml(&input).unwrap_or_else(|error| panic!("{error}"));
    assert!(config.warnings.is_empty(), "{:?}", config.warnings);
    config
}

#[test]
fn the_examples_of_the_configuration_are_accepted() {
    assert_eq!(example("configuration.md").databases.len(), 3);
    let config = example("processes.md");
    assert_eq!((config.databases.len(), config.processes.len(), config.jobs.len()), (1, 1, 1));
}

/// Method: each key that the page's tables name is set in a file, and must be known there, and none is missing.
#[test]
fn the_keys_of_processes_and_jobs_are_those_that_are_read() {
    let document = Document::read(root().join("docs/processes.md"));
    let section = |title: &str| {
        let (_, rest) = document.prose.split_once(&format!("## {title}\n")).unwrap();
        let rows = rest.split("\n## ").next().unwrap().lines().filter_map(|line| line.strip_prefix("| `"));
        let keys = rows.flat_map(|row| row.split(" |").next().unwrap().split("`, `"));
        keys.map(|key| key.trim_end_matches('`').to_owned()).collect::<Vec<_>>()
    };
    for (title, table) in [("`[process.NAME]`", "process"), ("`[job.NAME]`", "job")] {
        let text = format!("[{table}.a]\nno_key_at_all_1 = 1\n");
        let input =
            Input { path: Path::new("c"), text: &text, env: &|_| None, read_file: &|_| Err(String::new()) };
        let error = Config::from_toml(&input).unwrap_err().to_string();
        let (_, known) = error.split_once("NAME] has ").unwrap();
        let mut known: Vec<&str> = known.lines().next().unwrap().split('`').skip(1).step_by(2).collect();
        let mut shown = section("Both");
        shown.extend(section(title));
        known.sort_unstable();
        shown.sort_unstable();
        assert_eq!(shown, known, "{title}");
    }
}

#[test]
fn the_defaults_of_the_configuration_are_those_of_the_template() {
    let document = Document::read(root().join("docs/configuration.md"));
    let backup = StoreUrl::parse("s3://b/p").unwrap();
    let template = template(Path::new("app.db"), &backup, &[]);
    let settings: Vec<_> =
        template.lines().filter_map(|line| line.strip_prefix('#')?.split_once(" = ")).collect();
    // Those that the template shows for a database; the rest belongs to other tables.
    let in_tables = settings.iter().filter(|(key, _)| !["addr", "level", "format"].contains(key));
    let mut compared = 0;
    for (key, value) in in_tables.filter(|(key, _)| !key.starts_with(' ')) {
        let row = document.prose.lines().find(|line| line.starts_with(&format!("| `{key}` |")));
        let row = row.unwrap_or_else(|| panic!("docs/configuration.md has no row for `{key}`"));
        assert!(row.contains(&format!("`{value}`")), "`{key}` is {value} by default, but: {row}");
        compared += 1;
    }
    assert!(compared >= 8, "{template}");
}

/// A month of a database of 100 MB that is written to around the clock, and changes by a tenth a day.
#[test]
fn the_small_preset_costs_what_its_row_says() {
    let price = |keys: &str, is_elsewhere: bool| {
        let text = format!("[[database]]\npath = \"a\"\nbackup = \"s3://b/a\"\npreset = \"small\"\n{keys}");
        let input =
            Input { path: Path::new("c"), text: &text, env: &|_| None, read_file: &|_| Err(String::new()) };
        let config = Config::from_toml(&input).unwrap();
        let database = &config.databases[0];
        let seconds = |time: std::time::Duration| time.as_secs_f64();
        let (day, bytes, changed) = (86_400.0, 100e6, 10e6);
        let month = 30.0 * day;
        let uploads = month / seconds(database.upload_interval_for(&database.destinations[0]));
        // One for ten uploads.
        let packs = uploads / 10.0;
        let (of_five_minutes, of_an_hour) = (month / 300.0, month / 3600.0);
        let snapshots = month / seconds(database.snapshot_every);
        let proofs = month / seconds(database.verify_every.unwrap());
        // With the parent map of each snapshot, and the page checksums of each file that is large.
        let is_large = |seconds: f64| changed * seconds / day > 256.0 * 1024.0;
        let records_of = |files: f64, seconds: f64| if is_large(seconds) { files } else { 0.0 };
        let records = 2.0 * snapshots + records_of(of_five_minutes, 300.0) + records_of(of_an_hour, 3600.0);
        let put = uploads + packs + of_five_minutes + of_an_hour + snapshots + records + proofs;
        let between = changed * seconds(database.snapshot_every) / day;
        let files_between = seconds(database.snapshot_every) / 3600.0;
        // Each file is merged twice; a snapshot is made of the last one and what followed.
        let get = uploads + of_five_minutes + (snapshots + proofs) * (1.0 + files_between);
        let read = 2.0 * 30.0 * changed + snapshots * (bytes + between) + proofs * (bytes + between);
        let kept_days = seconds(database.keep.unwrap()) / day;
        let kept = kept_days * day / seconds(database.snapshot_every) + 1.0;
        let stored = kept * bytes + kept_days * changed + 2.0 * changed;
        let counts = Counts {
            put: put as u64,
            get: get as u64,
            list: proofs as u64 + 1,
            bytes_in: if is_elsewhere { read as u64 } else { 0 },
            ..Counts::default()
        };
        let price = price::monthly(&counts, std::time::Duration::from_secs_f64(month), stored as u64);
        price.total()
    };
    let document = Document::read(root().join("docs/configuration.md"));
    let row = document.prose.lines().find(|line| line.starts_with("| `preset` |")).unwrap();
    let said = |total: f64| row.contains(&format!("about ${total:.2}"));
    assert!(price("", false) < 0.5, "{}", price("", false));
    for (keys, is_elsewhere) in [("", false), ("", true), ("snapshot_every = \"7d\"", true)] {
        let total = price(keys, is_elsewhere);
        assert!(said(total), "{keys:?}, elsewhere: {is_elsewhere}: about ${total:.2} is not in {row}");
    }
}

#[test]
fn commands_have_the_flags_that_they_are_shown_with() {
    let place = Place::new();
    let mut shown = 0;
    for document in documents() {
        let name = document.path.display();
        let shell = document.blocks.iter().filter(|(language, _)| language == "sh");
        for line in shell.flat_map(|(_, block)| block.lines()) {
            let Some(command) = line.strip_prefix("litekeep ") else { continue };
            let own = command.split('#').next().unwrap().split(" -- ").next().unwrap();
            let (verb, rest) = own.trim().split_once(' ').unwrap_or((own.trim(), ""));
            let mut help = place.run(&[verb, "--help"]).succeeded().stdout;
            let action = rest.split_whitespace().next().filter(|word| help.contains(&format!("\n  {word} ")));
            if let Some(action) = action {
                help = place.run(&[verb, action, "--help"]).succeeded().stdout;
            }
            for flag in rest.split_whitespace().filter(|word| word.starts_with('-')) {
                let flag = flag.trim_start_matches('-');
                let known = help.contains(&format!("--{flag}")) || help.contains(&format!("-{flag},"));
                assert!(known, "{name}: `{line}`: no -{flag} in\n{help}");
            }
            shown += 1;
        }
    }
    assert!(shown > 5, "the documents show {shown} commands");
}
