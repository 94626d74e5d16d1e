//! Goal: `litekeep import` writes a configuration that litekeep reads, and harms nothing. Method: the files of other process
//! managers in a folder, and Node itself for those that are programs.

use crate::Place;

const PROCFILE: &str = "web: ./server --port $PORT\nworker: ./worker\n";

#[test]
fn what_is_written_is_read() {
    let place = Place::new();
    std::fs::write(place.path("Procfile"), PROCFILE).unwrap();
    std::fs::write(place.path(".env"), "A=b\n").unwrap();
    let ran = place.run(&["import", "Procfile"]).succeeded();
    assert!(ran.stdout.contains("processes: web, worker\njobs: none\nwrote litekeep.toml"), "{}", ran.stdout);
    assert!(ran.stdout.contains("warning: Procfile:1:1: nothing sets `PORT` for `web`"), "{}", ran.stdout);
    let text = std::fs::read_to_string(place.path("litekeep.toml")).unwrap();
    assert!(text.starts_with("# foreman reads the variables of `.env`"), "{text}");
    assert!(text.contains("[process.web]\ncommand = \"./server --port $PORT\"\n"), "{text}");
    let read = place.run(&["databases", "--json"]).succeeded();
    assert!(read.stderr.is_empty(), "{}", read.stderr);
    assert!(read.json()["config"].as_str().unwrap().ends_with("litekeep.toml"));
}

#[test]
fn no_file_is_written_over() {
    let place = Place::new();
    std::fs::write(place.path("Procfile"), PROCFILE).unwrap();
    std::fs::write(place.path("litekeep.toml"), "# mine\n").unwrap();
    place.run(&["import", "Procfile"]).failed_with(&[
        "error: could not import `Procfile`",
        "`litekeep.toml` exists already and is left as it is",
        "hint: add to it by hand what is missing, or write another file with -o",
    ]);
    assert_eq!(std::fs::read_to_string(place.path("litekeep.toml")).unwrap(), "# mine\n");
    place.run(&["import", "Procfile", "-o", "other.toml"]).succeeded();
}

#[test]
fn mistakes_are_shown_in_their_lines_and_nothing_is_written() {
    let place = Place::new();
    std::fs::write(place.path("oxfile.toml"), "[processes.a]\ncomand = \"x\"\n").unwrap();
    place
        .run(&["import", "oxfile.toml"])
        .failed_with(&["oxfile.toml:2:1: unknown key `comand`: did you mean `command`?"]);
    place.run(&["import", "gone.json"]).failed_with(&["read `gone.json`: it does not exist"]);
    place
        .run(&["import", "oxfile.ini"])
        .failed_with(&["is none of the files that are understood", "hint: name an ecosystem"]);
    assert!(!place.path("litekeep.toml").exists());
}

#[test]
fn paths_begin_at_the_imported_files_folder() {
    let place = Place::new();
    std::fs::create_dir(place.path("sub")).unwrap();
    std::fs::write(place.path("sub/Procfile"), PROCFILE).unwrap();
    place.run(&["import", "sub/Procfile"]).succeeded();
    let text = std::fs::read_to_string(place.path("litekeep.toml")).unwrap();
    let folder = place.path("sub").canonicalize().unwrap();
    assert!(text.contains(&format!("cwd = {folder:?}\n")), "{text}");
    // The same folder by another name is no other one.
    place.run(&["import", "sub/../sub/Procfile", "-o", "sub/litekeep.toml"]).succeeded();
    let text = std::fs::read_to_string(place.path("sub/litekeep.toml")).unwrap();
    assert!(!text.contains("cwd"), "{text}");
}

/// The command in the hint is pasted into a shell, where there is a Node.
#[test]
fn a_program_is_refused_with_what_to_type() {
    let place = Place::new();
    std::fs::create_dir(place.path("it's")).unwrap();
    for (name, code) in [
        ("it's/ecosystem.config.js", "module.exports = { apps: [{ name: 'a' + 1, script: 'a.js' }] }"),
        ("it's/ecosystem.config.mjs", "export default { apps: [{ name: 'a' + 1, script: 'a.js' }] }"),
    ] {
        std::fs::write(place.path(name), code).unwrap();
        let ran = place
            .run(&["import", name])
            .failed_with(&["is a program, which litekeep does not run", "hint: `node -"]);
        let (_, hint) = ran.stderr.split_once("hint: `").unwrap();
        let (command, _) = hint.split_once("` writes").unwrap();
        let has_node = std::process::Command::new("node").arg("--version").output().is_ok();
        if !has_node {
            continue;
        }
        let mut shell = std::process::Command::new("sh");
        let status = shell.args(["-c", command]).current_dir(place.path(".")).status().unwrap();
        assert!(status.success(), "{command}");
        let output = format!("{}.toml", name.rsplit('.').next().unwrap());
        place.run(&["import", "ecosystem.config.json", "-o", &output]).succeeded();
        let text = std::fs::read_to_string(place.path(&output)).unwrap();
        assert!(text.contains("[process.a1]\ncommand = \"node a.js\""), "{text}");
    }
}
