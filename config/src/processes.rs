//! Processes of one file that would get in each other's way, or wait for each other for ever.

use std::collections::HashMap;
use std::net::{IpAddr, SocketAddr};
use std::ops::Range;
use std::path::PathBuf;

use crate::conflicts::covers;
use crate::diagnostic::Report;
use crate::names;
use crate::process::{Listen, ProcessConfig, Restart, Until};
use crate::reader::lexical;
use crate::settings::{DatabaseConfig, Source};

/// A process with the places that messages about it point at.
pub(crate) struct PlacedProcess {
    pub(crate) config: ProcessConfig,
    /// What it waits for; [`check`] moves it into the configuration.
    pub(crate) dependencies: Vec<Dependency>,
    /// One for each socket.
    pub(crate) listen_spans: Vec<Range<usize>>,
    pub(crate) proxy_span: Range<usize>,
}

/// What a process waits for, as it stands in the file.
pub(crate) struct Dependency {
    pub(crate) name: String,
    /// The database's file, where the condition is one of databases.
    pub(crate) path: Option<PathBuf>,
    pub(crate) until: Until,
    pub(crate) span: Range<usize>,
}

/// Everything that the processes are held against.
pub(crate) struct Others<'a> {
    pub(crate) databases: &'a [DatabaseConfig],
    pub(crate) jobs: Vec<&'a str>,
    /// litekeep's own addresses, with the tables that they are of.
    pub(crate) own: [(&'a str, Option<SocketAddr>); 3],
}

pub(crate) fn check(
    mut processes: Vec<PlacedProcess>,
    others: &Others<'_>,
    report: &mut Report<'_>,
) -> Vec<ProcessConfig> {
    check_addresses(&processes, others, report);
    let names: HashMap<String, usize> =
        processes.iter().enumerate().map(|(place, process)| (process.config.name.clone(), place)).collect();
    for place in 0..processes.len() {
        let dependencies = std::mem::take(&mut processes[place].dependencies);
        for dependency in &dependencies {
            let resolved = match &dependency.path {
                Some(path) => database(path, dependency, &processes, others),
                None => process(dependency, &names, &processes, others),
            };
            match resolved {
                Ok(name) => processes[place].config.depends_on.push((name, dependency.until)),
                Err(message) => report.error(&dependency.span, message),
            }
        }
        processes[place].dependencies = dependencies;
    }
    check_circles(&processes, &names, report);
    processes.into_iter().map(|process| process.config).collect()
}

fn process(
    dependency: &Dependency,
    names: &HashMap<String, usize>,
    processes: &[PlacedProcess],
    others: &Others<'_>,
) -> Result<String, String> {
    let Dependency { name, until, .. } = dependency;
    if let Some(place) = names.get(name) {
        let restarts = processes[*place].config.restart == Restart::Always;
        if *until == Until::CompletedSuccessfully && restarts {
            return Err(format!(
                "`{name}` never completes, since it has restart = \"always\": set it to \"never\""
            ));
        }
        return Ok(name.clone());
    }
    if others.jobs.contains(&name.as_str()) {
        return Err(format!(
            "`{name}` is a job, which runs by the clock: a process waits for processes and databases"
        ));
    }
    if others
        .databases
        .iter()
        .any(|database| matches!(&database.source, Source::File(path) if path.ends_with(name)))
    {
        return Err(format!(
            "`{name}` is a database: write depends_on = {{ \"{name}\" = \"db_restored\" }}, or another condition"
        ));
    }
    let known = || names.keys().map(String::as_str);
    Err(match names::nearest(name, known()) {
        Some(near) => format!("there is no process `{name}`: did you mean `{near}`?"),
        None => format!("there is no process `{name}`: write a [process.{name}]"),
    })
}

/// The database's own spelling of its path.
fn database(
    path: &std::path::Path,
    dependency: &Dependency,
    processes: &[PlacedProcess],
    others: &Others<'_>,
) -> Result<String, String> {
    let name = &dependency.name;
    let found = others.databases.iter().find(|database| covers(&database.source, path));
    let found = found.map(|database| match &database.source {
        Source::File(own) => (database, own.clone()),
        Source::Folder { .. } => (database, path.to_owned()),
    });
    match found {
        Some((database, _)) if dependency.until == Until::Migrated && database.migrations.is_none() => {
            Err(format!("`{name}` has no migrations: add migrations = \"migrations\" to its [[database]]"))
        }
        Some((_, path)) => Ok(path.to_string_lossy().into_owned()),
        // Which databases these have is in another file.
        None if processes.iter().any(|process| process.config.litestream.is_some()) => {
            Ok(path.to_string_lossy().into_owned())
        }
        None => {
            let known: Vec<String> =
                others.databases.iter().map(|database| database.source.to_string()).collect();
            Err(match known.as_slice() {
                [] => format!("there is no database `{name}`: write a [[database]] with this path"),
                _ => format!(
                    "there is no database `{name}`, but {}",
                    names::list(known.iter().map(String::as_str))
                ),
            })
        }
    }
}

/// Each circle is told once, where it was found first.
fn check_circles(processes: &[PlacedProcess], names: &HashMap<String, usize>, report: &mut Report<'_>) {
    #[derive(Clone, Copy, PartialEq)]
    enum Seen {
        Never,
        OnTheWay,
        Done,
    }
    let mut seen = vec![Seen::Never; processes.len()];
    for start in 0..processes.len() {
        if seen[start] != Seen::Never {
            continue;
        }
        // The way here, each with the next of its dependencies to look at: recursion would be as deep as the file is long.
        let mut way = vec![(start, 0)];
        seen[start] = Seen::OnTheWay;
        while let Some((place, next)) = way.last_mut() {
            let Some(dependency) = processes[*place].dependencies.get(*next) else {
                seen[*place] = Seen::Done;
                way.pop();
                continue;
            };
            *next += 1;
            let Some(target) = names.get(&dependency.name).copied().filter(|_| dependency.path.is_none())
            else {
                continue;
            };
            match seen[target] {
                Seen::Never => {
                    seen[target] = Seen::OnTheWay;
                    way.push((target, 0));
                }
                Seen::OnTheWay => {
                    let from = way.iter().position(|(place, _)| *place == target).unwrap_or(0);
                    let mut circle: Vec<&str> =
                        way[from..].iter().map(|(place, _)| processes[*place].config.name.as_str()).collect();
                    circle.push(&dependency.name);
                    let circle = circle.join("` waits for `");
                    report.error(&dependency.span, format!("nothing of this would ever start: `{circle}`"));
                }
                Seen::Done => {}
            }
        }
    }
}

/// An address with who has it.
struct Taken<'a> {
    socket: Listen,
    owner: String,
    span: Option<&'a Range<usize>>,
}

fn check_addresses(processes: &[PlacedProcess], others: &Others<'_>, report: &mut Report<'_>) {
    let mut taken: Vec<Taken<'_>> = Vec::new();
    taken.extend(others.own.into_iter().filter_map(|(owner, addr)| {
        Some(Taken { socket: Listen::Tcp(addr?), owner: owner.into(), span: None })
    }));
    for process in processes {
        let listen =
            process.config.listen.iter().map(|(_, socket)| socket.clone()).zip(&process.listen_spans);
        let proxy = process.config.proxy.map(|address| (Listen::Tcp(address), &process.proxy_span));
        for (socket, span) in listen.chain(proxy) {
            if let Some(first) = taken.iter().find(|other| overlap(&other.socket, &socket)) {
                let line =
                    first.span.map(|span| format!(", in line {}", report.line_of(span))).unwrap_or_default();
                let message = format!("{} has this address already{line}: give each its own", first.owner);
                report.error(span, message);
            }
            taken.push(Taken { socket, owner: format!("`{}`", process.config.name), span: Some(span) });
        }
    }
}

/// Whether only one of two can listen.
fn overlap(one: &Listen, other: &Listen) -> bool {
    let (one, other) = match (one, other) {
        (Listen::Unix(one), Listen::Unix(other)) => return lexical(one) == lexical(other),
        (Listen::Tcp(one), Listen::Tcp(other)) => (one, other),
        _ => return false,
    };
    // `::` is every address of both kinds, `0.0.0.0` every one of its own.
    let covers = |whole: IpAddr, part: IpAddr| whole.is_unspecified() && (whole.is_ipv6() || part.is_ipv4());
    let (a, b) = (one.ip(), other.ip());
    one.port() == other.port() && one.port() != 0 && (a == b || covers(a, b) || covers(b, a))
}
