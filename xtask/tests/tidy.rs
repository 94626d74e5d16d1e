//! Goal: what the architecture promises about the source holds. Method: every Cargo.toml and every Rust file is read.

use std::collections::BTreeMap;
use std::fs;
use std::path::{Path, PathBuf};

use toml::Table;

/// The layer of each crate (by folder); a crate may use its own layer or a lower one.
const LAYERS: &[(u8, &[&str])] = &[
    (0, &["ltx", "format", "config"]),
    (1, &["env"]),
    (2, &["store", "sql", "lease", "supervise"]),
    (3, &["replicate", "replica", "rows", "proxy", "stream", "schema", "gateway"]),
    (4, &["sync", "cluster"]),
    (5, &["sync-postgres", "sync-mysql", "sync-mongodb", "feed", "query", "dashboard"]),
    (6, &["litekeep"]),
    (7, &["sim", "testkit", "recorder", "xtask"]),
];

/// The anchors' worst files are the ones that nobody split; ours are split before this many lines.
const LONGEST_FILE: usize = 1000;

fn root() -> PathBuf {
    Path::new(env!("CARGO_MANIFEST_DIR")).parent().unwrap().to_owned()
}

fn manifest(path: &Path) -> Table {
    let text = fs::read_to_string(path).unwrap_or_else(|error| panic!("read {path:?}: {error}"));
    text.parse().unwrap_or_else(|error| panic!("parse {path:?}: {error}"))
}

/// The manifest of each member by its folder's last name.
fn members() -> BTreeMap<String, Table> {
    let workspace = manifest(&root().join("Cargo.toml"));
    let members = workspace["workspace"]["members"].as_array().unwrap();
    members
        .iter()
        .map(|member| member.as_str().unwrap())
        .map(|member| {
            let name = member.rsplit('/').next().unwrap();
            (name.to_owned(), manifest(&root().join(member).join("Cargo.toml")))
        })
        .collect()
}

fn layer(folder: &str) -> u8 {
    let layer = LAYERS.iter().find(|(_, folders)| folders.contains(&folder));
    layer
        .unwrap_or_else(|| panic!("the crate {folder} has no layer: add it to docs/ARCHITECTURE.md and here"))
        .0
}

/// Our crates among the dependencies of one kind, by folder; of all targets.
fn own_dependencies(manifest: &Table, kind: &str) -> Vec<String> {
    let for_targets = manifest.get("target").and_then(|target| target.as_table()).into_iter().flatten();
    let tables = for_targets.filter_map(|(_, target)| target.get(kind)).chain(manifest.get(kind));
    tables
        .filter_map(|table| table.as_table())
        .flat_map(|table| table.iter())
        .map(|(name, value)| value.get("package").and_then(|package| package.as_str()).unwrap_or(name))
        .filter_map(|name| if name == "litekeep" { Some(name) } else { name.strip_prefix("litekeep-") })
        .map(String::from)
        .collect()
}

#[test]
fn crates_depend_only_downwards() {
    let mut wrong = Vec::new();
    for (folder, manifest) in members() {
        let test_only = own_dependencies(&manifest, "dev-dependencies");
        let always =
            ["dependencies", "build-dependencies"].map(|kind| own_dependencies(&manifest, kind)).concat();
        for used in &always {
            if layer(used) > layer(&folder) {
                wrong.push(format!(
                    "{folder} (layer {}) uses {used} (layer {})",
                    layer(&folder),
                    layer(used)
                ));
            }
        }
        for used in &test_only {
            if layer(used) > layer(&folder) && used != "testkit" {
                wrong.push(format!("the tests of {folder} use {used}, a higher layer"));
            }
        }
        if folder == "testkit" && !always.is_empty() {
            wrong.push(format!("testkit uses {always:?}: it must not know how the product works inside"));
        }
    }
    assert!(wrong.is_empty(), "{wrong:#?}");
}

#[test]
fn packages_are_named_for_their_folders_and_share_the_lints() {
    for (folder, manifest) in members() {
        let name = manifest["package"]["name"].as_str().unwrap();
        let expected = if folder == "litekeep" { folder.clone() } else { format!("litekeep-{folder}") };
        assert_eq!(name, expected, "the package of {folder}");
        let shared = manifest.get("lints").and_then(|lints| lints.get("workspace"));
        assert_eq!(
            shared.and_then(|shared| shared.as_bool()),
            Some(true),
            "{folder}: lints.workspace = true"
        );
        layer(&folder);
    }
}

#[test]
fn every_folder_with_a_manifest_is_a_member() {
    let members = members();
    for entry in fs::read_dir(root()).unwrap() {
        let path = entry.unwrap().path();
        let folder = path.file_name().unwrap().to_str().unwrap().to_owned();
        let is_crate = path.join("Cargo.toml").is_file();
        assert!(!is_crate || members.contains_key(&folder), "{folder} is not a member of the workspace");
    }
}

fn rust_files(dir: &Path, found: &mut Vec<PathBuf>) {
    for entry in fs::read_dir(dir).unwrap_or_else(|error| panic!("read {dir:?}: {error}")) {
        let path = entry.unwrap().path();
        let name = path.file_name().unwrap().to_string_lossy();
        if path.is_dir() && !path.is_symlink() && name != "target" && !name.starts_with('.') {
            rust_files(&path, found);
        } else if name.ends_with(".rs") {
            found.push(path);
        }
    }
}

#[test]
fn source_files_are_short_and_finished() {
    // Put together here, so that this file does not have them.
    let banned = [
        (
            ["#[ign", "ore"].concat(),
            "a test that does not run proves nothing: delete it, or make it a campaign",
        ),
        (["to", "do!("].concat(), "what is not there yet is not in the source either"),
        (["unimpl", "emented!("].concat(), "what is not there yet is not in the source either"),
    ];
    let mut files = Vec::new();
    for folder in members().keys().map(|folder| root().join(folder)).filter(|folder| folder.is_dir()) {
        rust_files(&folder, &mut files);
    }
    assert!(files.len() > members().len(), "the source was found");
    let mut wrong = Vec::new();
    for path in files {
        let text = fs::read_to_string(&path).unwrap();
        let lines = text.lines().count();
        if lines > LONGEST_FILE {
            wrong.push(format!("{path:?} has {lines} lines, more than {LONGEST_FILE}: split it"));
        }
        for (word, reason) in &banned {
            for (n, _) in text.lines().enumerate().filter(|(_, line)| line.contains(word.as_str())) {
                wrong.push(format!("{path:?}:{}: `{word}`: {reason}", n + 1));
            }
        }
        let stem = path.file_stem().unwrap().to_str().unwrap();
        if ["util", "utils", "helper", "helpers", "misc", "common", "manager"].contains(&stem) {
            wrong.push(format!("{path:?}: name it for what it holds"));
        }
    }
    assert!(wrong.is_empty(), "{wrong:#?}");
}
