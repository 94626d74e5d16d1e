//! The crate from outside: whole files in, settings and messages out.

mod cluster;
mod foreign;
mod litekeep_toml;
mod litestream_yaml;
mod processes;
mod template;

use std::path::Path;

use litekeep_config::{Config, Error, Input};

/// The environment that the files under test see.
fn env(name: &str) -> Option<String> {
    match name {
        "HOME" => Some("/home/me".into()),
        "BUCKET" => Some("my-bucket".into()),
        "EMPTY" => Some(String::new()),
        "KEY_ID" => Some("AKIA-hunter2".into()),
        "SECRET" => Some("s3cr3t-hunter2".into()),
        _ => None,
    }
}

fn read_file(path: &Path) -> Result<String, String> {
    match path.to_str() {
        Some("/run/secrets/key") => Ok("from-file-hunter2\n".into()),
        _ => Err("No such file or directory".into()),
    }
}

fn toml(text: &str) -> Result<Config, Error> {
    Config::from_toml(&Input {
        path: Path::new("/etc/litekeep.toml"),
        text,
        env: &env,
        read_file: &read_file,
    })
}

fn yaml(text: &str) -> Result<Config, Error> {
    yaml_with(text, &env)
}

fn yaml_with(text: &str, env: &dyn Fn(&str) -> Option<String>) -> Result<Config, Error> {
    Config::from_litestream_yaml(&Input {
        path: Path::new("/etc/litestream.yml"),
        text,
        env,
        read_file: &read_file,
    })
}

/// Each message with its place, without the quoted lines.
fn brief(error: &Error) -> Vec<String> {
    let place = |position: Option<(usize, usize)>| position.map_or("?".into(), |(l, c)| format!("{l}:{c}"));
    error.diagnostics().iter().map(|d| format!("{} {}", place(d.position()), d.message())).collect()
}
