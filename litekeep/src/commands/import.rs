//! `litekeep import`: writes a commented `litekeep.toml` that does what the file of another process manager says.
//!
//! It never overwrites a file. What has no equivalent is a warning, and a comment in the file.

use std::path::{Path, PathBuf};

use anyhow::{Context as _, Result};
use litekeep_config::{Foreign, Imported, import};
use serde::Serialize;

use super::init::write_new;
use crate::args;
use crate::report::{self, Failure, Format, Outcome};

#[derive(Serialize)]
struct Done {
    from: PathBuf,
    config: PathBuf,
    processes: Vec<String>,
    jobs: Vec<String>,
    warnings: Vec<String>,
}

pub(super) fn run(args: &args::Import, format: Format) -> Result<Outcome> {
    let done = translate(args).with_context(|| format!("import `{}`", args.file.display()))?;
    report::result(format, &done, || done.text());
    Ok(Outcome::Done)
}

fn translate(args: &args::Import) -> Result<Done> {
    let format = format_of(&args.file)?;
    let text = std::fs::read_to_string(&args.file)
        .map_err(|error| Failure::io(format!("read `{}`", args.file.display()), &error))?;
    let folder = other_folder(&args.file, &args.output)?;
    let Imported { mut text, processes, jobs, warnings } =
        import(format, &args.file, &text, folder.as_deref())?;
    let mut warnings: Vec<String> = warnings.iter().map(ToString::to_string).collect();
    if format == Foreign::Procfile && args.file.with_file_name(".env").exists() {
        let note = "foreman reads the variables of `.env`, which is beside it: add env_file = \".env\" where they are needed";
        text.insert_str(0, &format!("# {note}\n"));
        warnings.push(note.to_owned());
    }
    write_new(&args.output, &text, "add to it by hand what is missing, or write another file with -o")?;
    Ok(Done { from: args.file.clone(), config: args.output.clone(), processes, jobs, warnings })
}

/// What a file is, by its name.
fn format_of(path: &Path) -> Result<Foreign, Failure> {
    let name = path.file_name().unwrap_or_default().to_string_lossy();
    let extension = path.extension().unwrap_or_default().to_string_lossy();
    match &*extension {
        "toml" => return Ok(Foreign::Oxfile),
        "json" | "yml" | "yaml" => return Ok(Foreign::Pm2),
        "js" | "cjs" | "mjs" => return Err(javascript(path, &extension)),
        _ => {}
    }
    if name.to_ascii_lowercase().contains("procfile") {
        return Ok(Foreign::Procfile);
    }
    Err(Failure::invalid(format!("`{}` is none of the files that are understood", path.display()))
        .hint("name an ecosystem.config.json, a Procfile or an oxfile.toml"))
}

/// A program, which only Node can tell the result of.
fn javascript(path: &Path, extension: &str) -> Failure {
    let absolute = std::path::absolute(path).unwrap_or_else(|_| path.to_owned());
    let module = serde_json::to_string(&absolute.to_string_lossy()).expect("a text is JSON");
    let quoted = |code: String| format!("'{}'", code.replace('\'', r"'\''"));
    let command = match extension {
        "mjs" => {
            let code = format!("import({module}).then(m => console.log(JSON.stringify(m.default, null, 2)))");
            format!("node -e {}", quoted(code))
        }
        _ => format!("node -p {}", quoted(format!("JSON.stringify(require({module}), null, 2)"))),
    };
    Failure::invalid(format!("`{}` is a program, which litekeep does not run", path.display()))
        .hint(format!("`{command} > ecosystem.config.json` writes what it says, and `litekeep import ecosystem.config.json` reads that"))
}

/// The file's folder, where it is not that of the result: its relative paths begin there.
fn other_folder(file: &Path, output: &Path) -> Result<Option<PathBuf>> {
    let folder = |path: &Path| -> std::io::Result<PathBuf> {
        let whole = std::path::absolute(path)?;
        Ok(whole.parent().unwrap_or(&whole).to_owned())
    };
    let (from, to) = (folder(file)?, folder(output)?);
    let same = from == to
        || from.canonicalize().ok().is_some_and(|from| to.canonicalize().is_ok_and(|to| from == to));
    Ok((!same).then_some(from))
}

impl Done {
    fn text(&self) -> String {
        let mut out: String = self.warnings.iter().map(|warning| format!("warning: {warning}\n")).collect();
        let names = |names: &[String]| if names.is_empty() { "none".to_owned() } else { names.join(", ") };
        out.push_str(&format!("processes: {}\njobs: {}\n", names(&self.processes), names(&self.jobs)));
        out.push_str(&format!(
            "wrote {}; what has no equivalent stands there as a comment\n",
            self.config.display()
        ));
        out
    }
}
