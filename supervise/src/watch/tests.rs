use tokio::sync::mpsc;

use super::*;

const DELAY: Duration = Duration::from_millis(150);

fn settings(dir: &Path, paths: &[&str], ignore: &[&str]) -> Settings {
    let paths = paths.iter().map(|path| dir.join(path)).collect();
    let ignore = ignore.iter().map(|pattern| pattern.to_string()).collect();
    Settings { ignore, ..Settings::new(paths, DELAY) }
}

/// Watches files; the paths that are told.
async fn follow(settings: Settings) -> (Watch, mpsc::UnboundedReceiver<PathBuf>) {
    let (tell, told) = mpsc::unbounded_channel();
    let files = Files::watch(settings).await.unwrap();
    let watch = Watch::new(files.follow(move |path| {
        tell.send(path).unwrap();
        Box::pin(std::future::ready(()))
    }));
    (watch, told)
}

/// Watches paths of a folder; the paths that are told.
async fn watched(dir: &Path, paths: &[&str], ignore: &[&str]) -> (Watch, mpsc::UnboundedReceiver<PathBuf>) {
    follow(settings(dir, paths, ignore)).await
}

async fn next(told: &mut mpsc::UnboundedReceiver<PathBuf>) -> PathBuf {
    tokio::time::timeout(Duration::from_secs(10), told.recv()).await.expect("a change is told").unwrap()
}

async fn is_quiet(told: &mut mpsc::UnboundedReceiver<PathBuf>) {
    let more = tokio::time::timeout(4 * DELAY, told.recv()).await;
    assert!(more.is_err(), "{more:?}");
}

#[test]
fn patterns() {
    for (pattern, yes, no) in [
        ("*.log", "a.log", "a.log2"),
        ("node_modules", "node_modules", "node_modules2"),
        ("?at*", "cats", "at"),
        ("*", "", "none"),
    ] {
        assert!(matches(pattern.as_bytes(), yes.as_bytes()), "{pattern} {yes}");
        assert_eq!(matches(pattern.as_bytes(), no.as_bytes()), pattern == "*", "{pattern} {no}");
    }
}

#[tokio::test]
async fn a_burst_of_a_thousand_changes_is_told_once() {
    let dir = tempfile::tempdir().unwrap();
    fs::create_dir(dir.path().join("src")).unwrap();
    let (_watch, mut told) = watched(dir.path(), &["src"], &[]).await;
    for i in 0..1000 {
        fs::write(dir.path().join("src").join(format!("{}.js", i % 50)), i.to_string()).unwrap();
        if i % 100 == 0 {
            tokio::time::sleep(DELAY / 10).await;
        }
    }
    assert!(next(&mut told).await.starts_with(dir.path().join("src")));
    is_quiet(&mut told).await;
    fs::write(dir.path().join("src/1.js"), "again").unwrap();
    assert_eq!(next(&mut told).await, dir.path().join("src/1.js"));
}

#[tokio::test]
async fn folders_that_appear_move_and_go_are_followed() {
    let dir = tempfile::tempdir().unwrap();
    let src = dir.path().join("src");
    fs::create_dir_all(src.join("a/b")).unwrap();
    let (_watch, mut told) = watched(dir.path(), &["src"], &[]).await;
    fs::write(src.join("a/b/deep"), "1").unwrap();
    assert_eq!(next(&mut told).await, src.join("a/b/deep"));
    // Made in one go, with a file in it before anybody can look.
    fs::create_dir_all(src.join("new/below")).unwrap();
    fs::write(src.join("new/below/file"), "1").unwrap();
    next(&mut told).await;
    fs::write(src.join("new/below/file"), "2").unwrap();
    assert_eq!(next(&mut told).await, src.join("new/below/file"));
    // Out of sight.
    fs::rename(src.join("new"), dir.path().join("outside")).unwrap();
    assert_eq!(next(&mut told).await, src.join("new"));
    fs::write(dir.path().join("outside/below/file"), "3").unwrap();
    is_quiet(&mut told).await;
    // The whole of it goes and comes back, as a checkout does.
    fs::rename(&src, dir.path().join("old")).unwrap();
    assert_eq!(next(&mut told).await, src);
    fs::create_dir_all(src.join("a")).unwrap();
    next(&mut told).await;
    fs::write(src.join("a/file"), "4").unwrap();
    assert_eq!(next(&mut told).await, src.join("a/file"));
}

#[tokio::test]
async fn an_editor_that_puts_a_new_file_in_place_counts_and_its_neighbours_do_not() {
    let dir = tempfile::tempdir().unwrap();
    let file = dir.path().join("app.toml");
    fs::write(&file, "1").unwrap();
    let (_watch, mut told) = watched(dir.path(), &["app.toml"], &[]).await;
    for content in ["2", "3"] {
        fs::write(dir.path().join(".app.toml.swp"), content).unwrap();
        is_quiet(&mut told).await;
        fs::rename(dir.path().join(".app.toml.swp"), &file).unwrap();
        assert_eq!(next(&mut told).await, file);
    }
    fs::write(&file, "4").unwrap();
    assert_eq!(next(&mut told).await, file);
}

#[tokio::test]
async fn what_is_ignored_does_not_count_with_all_below_it() {
    let dir = tempfile::tempdir().unwrap();
    fs::create_dir_all(dir.path().join("src/node_modules/x")).unwrap();
    let (_watch, mut told) = watched(dir.path(), &["src"], &["node_modules", "*.log", ".*"]).await;
    fs::write(dir.path().join("src/node_modules/x/index.js"), "1").unwrap();
    fs::write(dir.path().join("src/app.log"), "1").unwrap();
    fs::create_dir(dir.path().join("src/.git")).unwrap();
    fs::write(dir.path().join("src/.git/HEAD"), "1").unwrap();
    is_quiet(&mut told).await;
    fs::write(dir.path().join("src/app.js"), "1").unwrap();
    assert_eq!(next(&mut told).await, dir.path().join("src/app.js"));
}

#[tokio::test]
async fn what_is_not_there_yet_is_waited_for() {
    let dir = tempfile::tempdir().unwrap();
    let (_watch, mut told) = watched(dir.path(), &["later/on/file"], &[]).await;
    fs::create_dir(dir.path().join("later")).unwrap();
    fs::create_dir(dir.path().join("later/on")).unwrap();
    is_quiet(&mut told).await;
    fs::write(dir.path().join("later/on/file"), "1").unwrap();
    assert_eq!(next(&mut told).await, dir.path().join("later/on/file"));
}

#[tokio::test]
async fn changes_during_a_call_are_told_after_it() {
    let dir = tempfile::tempdir().unwrap();
    let (tell, mut told) = mpsc::unbounded_channel();
    let go = Arc::new(tokio::sync::Notify::new());
    let (file, gate) = (dir.path().join("file"), go.clone());
    let files = Files::watch(settings(dir.path(), &[""], &[])).await.unwrap();
    let _watch = Watch::new(files.follow(move |path| {
        tell.send(path).unwrap();
        let gate = gate.clone();
        Box::pin(async move { gate.notified().await })
    }));
    fs::write(&file, "1").unwrap();
    next(&mut told).await;
    fs::write(&file, "2").unwrap();
    is_quiet(&mut told).await;
    go.notify_one();
    next(&mut told).await;
}

#[tokio::test]
async fn what_litekeep_writes_itself_does_not_count_also_below_a_link() {
    let dir = tempfile::tempdir().unwrap();
    let src = dir.path().join("src");
    fs::create_dir_all(src.join("state")).unwrap();
    std::os::unix::fs::symlink(&src, dir.path().join("link")).unwrap();
    for root in ["src", "link"] {
        let mut settings = settings(dir.path(), &[root], &[]);
        let (state, log) = (src.join("state"), src.join("web.log"));
        settings.never = Arc::new(move |path| path.starts_with(&state) || is_log(path, &log));
        let (_watch, mut told) = follow(settings).await;
        for name in ["state/a", "web.log", "web.log.1.gz"] {
            fs::write(src.join(name), root).unwrap();
        }
        is_quiet(&mut told).await;
        fs::write(src.join("web.log.js"), root).unwrap();
        assert_eq!(next(&mut told).await, dir.path().join(root).join("web.log.js"));
    }
}

#[tokio::test]
async fn a_tree_is_walked_off_the_async_threads() {
    let dir = tempfile::tempdir().unwrap();
    let mut watching = std::pin::pin!(Files::watch(settings(dir.path(), &[""], &[])));
    assert!(futures::poll!(watching.as_mut()).is_pending());
    watching.await.unwrap();
}
