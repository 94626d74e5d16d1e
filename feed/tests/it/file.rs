//! What a file promises beyond the suite.

use std::fs;
use std::io::Write as _;
use std::path::Path;

use litekeep_feed::{Delivery, Event, Kind, State};
use litekeep_store::{Store, Target};

use crate::log::Log;

/// The ids of the events of a file, as the log has them.
pub(crate) fn lines(path: &Path) -> Vec<String> {
    let text = fs::read_to_string(path).unwrap();
    assert!(text.is_empty() || text.ends_with('\n'), "{path:?} ends within a line");
    let read = |line| Event::read(line).unwrap_or_else(|| panic!("no event: {line}")).0.id;
    text.lines().map(read).collect()
}

fn some_events() -> (Log, std::path::PathBuf) {
    let log = Log::new();
    log.insert(1, 3);
    log.insert(10, 20);
    let path = log.path("events.jsonl");
    (log, path)
}

/// A kill can leave any beginning of what was being written.
#[test]
fn a_torn_end_is_made_whole_wherever_it_was_torn() {
    let (log, path) = some_events();
    let settings = log.settings(path.to_str().unwrap());
    log.deliver(&settings).unwrap();
    let whole = fs::read(&path).unwrap();
    let old =
        State { txid: Some("0000000000000001".into()), ..State::read(&settings.position).unwrap().unwrap() };
    let old = serde_json::to_vec(&old).unwrap();
    for length in (0..whole.len()).step_by(97).chain([1, whole.len() - 1]) {
        fs::write(&path, &whole[..length]).unwrap();
        fs::write(&settings.position, &old).unwrap();
        log.deliver(&settings).unwrap();
        assert_eq!(lines(&path), log.ids(), "torn at {length} of {}", whole.len());
    }
}

#[test]
fn without_its_position_the_file_says_where_to_go_on() {
    let (log, path) = some_events();
    let settings = log.settings(path.to_str().unwrap());
    log.deliver(&settings).unwrap();
    fs::remove_file(&settings.position).unwrap();
    log.insert(100, 5);
    log.deliver(&settings).unwrap();
    assert_eq!(lines(&path), log.ids());
}

/// What is opened for it is gone on with, unless the file knows better where.
#[test]
fn tables_are_looked_at_before_anything_is_delivered() {
    let (log, path) = some_events();
    let mut settings = log.settings(path.to_str().unwrap());
    let deliver = |settings: &litekeep_feed::Settings| {
        let mut delivery = litekeep_feed::Delivery::new(settings.clone()).unwrap();
        log.runtime.block_on(async {
            delivery.check_tables().await?;
            while delivery.step().await? {}
            delivery.keep().await
        })
    };
    settings.wanted.tables = vec!["t".into(), "ts".into()];
    let error = deliver(&settings).unwrap_err();
    assert_eq!((error.kind(), error.to_string().as_str()), (Kind::Invalid, "there is no table `ts`"));
    assert!(!path.exists() && !settings.position.exists());
    settings.wanted.tables = vec!["T".into()];
    deliver(&settings).unwrap();
    assert_eq!(lines(&path), log.ids());
    fs::remove_file(&settings.position).unwrap();
    log.insert(100, 5);
    deliver(&settings).unwrap();
    assert_eq!(lines(&path), log.ids());
}

/// A damaged file in one of two backups stopped the feed, which the other one could have gone on with.
#[test]
fn what_is_damaged_in_one_backup_comes_from_another() {
    let log = Log::new();
    let events = log.path("events.ndjson");
    let mut settings = log.settings(&format!("file://{}", events.display()));
    log.insert(1, 3);
    log.deliver(&settings).unwrap();
    log.insert(4, 3);
    let other = log.path("other");
    copy_all(&log.path("log"), &other);
    settings.stores.push(Store::open(&Target::Folder(other)).unwrap());
    let newest =
        std::fs::read_dir(log.path("log/ltx/0")).unwrap().map(|file| file.unwrap().path()).max().unwrap();
    let mut bytes = std::fs::read(&newest).unwrap();
    let middle = bytes.len() / 2;
    bytes[middle] ^= 1;
    std::fs::write(newest, bytes).unwrap();
    assert_eq!(log.deliver(&settings).err().map(|e| e.kind()), Some(Kind::Corrupt));
    let mut delivery = Delivery::new(settings).unwrap();
    let mut told = vec![];
    log.runtime.block_on(async {
        for _ in 0..10 {
            told.extend(delivery.step().await.err().map(|e| e.to_string()));
        }
    });
    assert_eq!(lines(&events).len(), 6, "{told:?}");
}

fn copy_all(from: &Path, to: &Path) {
    std::fs::create_dir_all(to).unwrap();
    for entry in std::fs::read_dir(from).unwrap().map(Result::unwrap) {
        let to = to.join(entry.file_name());
        match entry.path().is_dir() {
            true => copy_all(&entry.path(), &to),
            false => drop(std::fs::copy(entry.path(), to).unwrap()),
        }
    }
}

#[test]
fn a_file_that_was_moved_away_is_followed_by_a_new_one() {
    let (log, path) = some_events();
    let settings = log.settings(path.to_str().unwrap());
    let mut delivery = litekeep_feed::Delivery::new(settings).unwrap();
    let mut step = || log.runtime.block_on(async { while delivery.step().await.unwrap() {} });
    step();
    let known = log.ids();
    let old = path.with_extension("old");
    fs::rename(&path, &old).unwrap();
    log.insert(100, 5);
    step();
    assert_eq!(lines(&old), known);
    assert_eq!(lines(&path), log.ids()[known.len()..]);
}

#[test]
fn a_file_that_is_not_ours_is_not_touched() {
    let (log, path) = some_events();
    let settings = log.settings(path.to_str().unwrap());
    for content in
        ["{\"name\":\"x\"}", "{\"name\":\"x\"}\n", "text", "a\nb", "{\"source\":{\"connector\":\"other\"}}\n"]
    {
        for has_position in [false, true] {
            let _ = fs::remove_file(&settings.position);
            let _ = fs::remove_file(&path);
            if has_position {
                log.deliver(&settings).unwrap();
            }
            fs::write(&path, content).unwrap();
            let error = log.deliver(&settings).map(drop).unwrap_err();
            assert_eq!(error.kind(), Kind::Invalid, "{content}: {error}");
            assert!(error.to_string().contains("something else than events"), "{content}: {error}");
            assert_eq!(fs::read_to_string(&path).unwrap(), content);
        }
    }
}

#[test]
fn a_file_has_one_writer() {
    let (log, path) = some_events();
    let mut first = litekeep_feed::Delivery::new(log.settings(path.to_str().unwrap())).unwrap();
    log.runtime.block_on(first.step()).unwrap();
    let mut settings = log.settings(path.to_str().unwrap());
    settings.position = log.path("feeds/other");
    let error = log.deliver(&settings).map(drop).unwrap_err();
    assert!(error.to_string().contains("another process delivers to it"), "{error}");
}

/// The events that are there are others than the log's: nothing is passed over unseen.
#[test]
fn events_that_differ_from_those_that_are_there_are_refused() {
    let (log, path) = some_events();
    let settings = log.settings(path.to_str().unwrap());
    log.deliver(&settings).unwrap();
    let text = fs::read_to_string(&path).unwrap();
    let mut file = fs::File::create(&path).unwrap();
    file.write_all(text.replace("\"x29\"", "\"other\"").as_bytes()).unwrap();
    let state = State::read(&settings.position).unwrap().unwrap();
    let old = State { txid: Some("0000000000000001".into()), ..state };
    fs::write(&settings.position, serde_json::to_vec(&old).unwrap()).unwrap();
    let error = log.deliver(&settings).map(drop).unwrap_err();
    assert_eq!(error.kind(), Kind::Invalid);
    assert!(error.hint().unwrap().contains("mv "), "{error}");
}

#[test]
fn a_position_that_the_log_has_no_more_is_refused() {
    let (log, path) = some_events();
    let settings = log.settings(path.to_str().unwrap());
    log.deliver(&settings).unwrap();
    log.insert(100, 5);
    log.insert(200, 5);
    // What stays is the last state, without what led to it.
    log.runtime.block_on(async {
        let log = log.store.list().await.unwrap();
        let files = litekeep_store::plan::restore(&log, litekeep_store::plan::Goal::Latest).unwrap();
        assert!(files.len() > 1, "{files:?}");
    });
    log.lose(3..=4);
    let error = log.deliver(&settings).map(drop).unwrap_err();
    assert_eq!(error.kind(), Kind::Invalid, "{error}");
    let said = format!("{error}; {}", error.hint().unwrap());
    assert!(said.contains("0000000000000003") && said.contains("rm '"), "{said}");
    assert_eq!(lines(&path).len(), 23, "nothing was left out in silence");
}
