//! Goal: what a test program has started is gone when it has ended. Method: this test program, started anew for one test that leaves a
//! server in a static.

use std::path::{Path, PathBuf};
use std::process::Command;
use std::sync::OnceLock;
use std::time::Duration;

use litekeep_testkit::postgres::Postgres;
use litekeep_testkit::process::eventually;

const LONG: Duration = Duration::from_secs(60);

/// Set for the program that leaves a server: the file for what is to be known of it.
const ROLE: &str = "LITEKEEP_TEST_LEAVINGS";

/// Does nothing but in the program that is started for it.
#[test]
fn role_of_one_that_leaves_a_server() {
    static SERVER: OnceLock<Postgres> = OnceLock::new();
    let Some(file) = std::env::var_os(ROLE) else { return };
    let server = SERVER.get_or_init(|| Postgres::start().unwrap());
    let folder = server.query("SHOW data_directory").unwrap().remove(0).remove(0).unwrap();
    std::fs::write(file, folder).unwrap();
}

/// Processes whose command line names the folder.
fn processes_of(folder: &str) -> Vec<PathBuf> {
    let entries = std::fs::read_dir("/proc").unwrap().flatten().map(|entry| entry.path());
    let command_line = |process: &Path| std::fs::read(process.join("cmdline")).unwrap_or_default();
    entries.filter(|path| String::from_utf8_lossy(&command_line(path)).contains(folder)).collect()
}

#[test]
fn a_server_in_a_static_and_its_folder_are_gone_after_the_test_program() {
    let dir = tempfile::tempdir().unwrap();
    let file = dir.path().join("folder");
    let mut program = Command::new(std::env::current_exe().unwrap());
    program.args(["--exact", "leavings::role_of_one_that_leaves_a_server"]).env(ROLE, &file);
    let ran = program.output().unwrap();
    assert!(ran.status.success(), "{}", String::from_utf8_lossy(&ran.stdout));
    let folder = std::fs::read_to_string(&file).unwrap();
    let parent = Path::new(&folder).parent().unwrap();
    eventually("the server is gone", LONG, || Ok(processes_of(&folder).is_empty())).unwrap();
    eventually("its folder is gone", LONG, || Ok(!parent.exists())).unwrap();
}
