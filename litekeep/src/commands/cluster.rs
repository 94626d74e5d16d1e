//! `litekeep promote`, `handoff` and `cluster`: what is asked of a node of a cluster.

use anyhow::{Context as _, Result};
use litekeep_env::{Clock, SystemClock};
use serde::Serialize;
use serde::de::DeserializeOwned;

use crate::args::ConfigArgs;
use crate::args::cluster::{Cluster, ClusterCommand, ClusterForget, Handoff, Promote};
use crate::cluster::{AtRisk, ClusterView, NodeView, Presence, Promotion, Records, primary_store, views};
use crate::control::{Ask, is_up, talk};
use crate::report::{self, Failure, Format, Outcome, text};
use crate::settings::Settings;

/// What was done.
#[derive(Serialize)]
struct Did {
    did: &'static str,
    node: Option<String>,
}

#[derive(Serialize)]
struct Promoted {
    did: &'static str,
    former: Option<String>,
    at_risk: Option<AtRisk>,
}

#[derive(Serialize)]
struct Forgot {
    did: &'static str,
    nodes: Vec<String>,
}

pub(super) async fn promote(args: &Promote, format: Format) -> Result<Outcome> {
    let Promotion { former, at_risk, .. } = lead(args, format).await.context("become the primary")?;
    let promoted = Promoted { did: "promoted", former, at_risk };
    report::result(format, &promoted, || match (&promoted.at_risk, &promoted.former) {
        (Some(at_risk), _) => format!("this node is the primary\n{}\n", at_risk.text()),
        (None, Some(former)) => {
            format!("this node is the primary; `{former}` has handed over, and nothing is missing\n")
        }
        (None, None) => "this node is the primary\n".to_owned(),
    });
    Ok(Outcome::Done)
}

/// Until this node leads. Whoever sits there is asked where something may be missing.
async fn lead(args: &Promote, format: Format) -> Result<Promotion> {
    let promotion: Promotion = item(&args.config, &Ask::Promote { yes: args.yes }, format).await?;
    let Some(at_risk) = promotion.at_risk.as_ref().filter(|_| !promotion.leads) else { return Ok(promotion) };
    if format == Format::Text {
        report::line(&at_risk.text());
    }
    if report::is_agreed(format) {
        return item(&args.config, &Ask::Promote { yes: true }, format).await;
    }
    let hint = match &at_risk.node {
        Some(node) => {
            format!("nothing is lost if `{node}` can be started again; add --yes to go on without it")
        }
        None => "start the node that has the databases first; add --yes to go on without it".to_owned(),
    };
    Err(Failure::invalid(at_risk.text()).hint(hint).into())
}

pub(super) async fn handoff(args: &Handoff, format: Format) -> Result<Outcome> {
    let question = Ask::HandOff { to: args.node.clone() };
    let handed_over = async {
        let mut client = talk(&args.config, format, &question).await?;
        while client.next().await?.is_some() {}
        anyhow::Ok(())
    };
    handed_over.await.context("hand over")?;
    let did = Did { did: "handed_over", node: args.node.clone() };
    report::result(format, &did, || {
        let to =
            args.node.as_ref().map_or("whichever node comes first".to_owned(), |node| format!("`{node}`"));
        format!("everything is confirmed, and the lease is left to {to}\n")
    });
    Ok(Outcome::Done)
}

async fn item<T: DeserializeOwned>(config: &ConfigArgs, question: &Ask, format: Format) -> Result<T> {
    let mut client = talk(config, format, question).await?;
    let mut last = None;
    while let Some(item) = client.next().await? {
        last = Some(serde_json::from_value(item)?);
    }
    last.context("the node said nothing")
}

pub(super) async fn cluster(args: &Cluster, format: Format) -> Result<Outcome> {
    match &args.command {
        ClusterCommand::Status(args) => {
            let view = view(&args.config, format).await.context("show the cluster")?;
            report::result(format, &view, || words(&view));
            Ok(if view.ok { Outcome::Done } else { Outcome::No })
        }
        ClusterCommand::Forget(args) => {
            let nodes = forget(args, format).await.context("forget nodes of the cluster")?;
            let forgot = Forgot { did: "forgot", nodes };
            report::result(format, &forgot, || match forgot.nodes.as_slice() {
                [] => "there is nobody to forget\n".to_owned(),
                nodes => format!("forgotten: {}; who starts again is known again\n", nodes.join(", ")),
            });
            Ok(Outcome::Done)
        }
    }
}

async fn forget(args: &ClusterForget, format: Format) -> Result<Vec<String>> {
    let view = view(&args.config, format).await?;
    let is_gone = |node: &&NodeView| node.presence == Presence::Gone;
    let mut names = args.nodes.clone();
    if args.gone {
        names = view.nodes.iter().filter(is_gone).map(|node| node.told.node.clone()).collect();
    }
    for name in &names {
        match view.nodes.iter().find(|node| node.told.node == *name) {
            None => {
                let failure = Failure::invalid(format!("there is no node `{name}`"));
                return Err(failure.hint("`litekeep cluster status` shows them").into());
            }
            Some(node) if node.presence == Presence::Up => {
                let age = text::age(node.silent_ms);
                let failure = Failure::invalid(format!("`{name}` was heard of {age} ago"));
                return Err(failure.hint("`litekeep down` there ends it; forget it then").into());
            }
            Some(_) => {}
        }
    }
    let settings = Settings::load_stack(&args.config, format)?;
    Records::of(&primary_store(&settings)?).forget(&names).await?;
    Ok(names)
}

/// As the node sees it; where it is not up, what the nodes told last.
async fn view(config: &ConfigArgs, format: Format) -> Result<ClusterView> {
    if is_up(config, format).await? {
        return item(config, &Ask::Cluster, format).await;
    }
    let settings = Settings::load_stack(config, format)?;
    let Some(cluster) = settings.config.cluster.clone() else {
        let failure = Failure::invalid(format!("there is no [cluster] in `{}`", settings.path.display()));
        return Err(failure.hint("add [cluster] on each node, and start it with `litekeep up`").into());
    };
    let told = Records::of(&primary_store(&settings)?).nodes().await?;
    let nodes = views(told, Some(SystemClock.unix_ms()));
    let epoch = nodes.iter().filter_map(|node| node.told.epoch).max();
    let primary = nodes.iter().find(|node| node.told.role == "primary" && node.told.epoch == epoch);
    let primary = primary.map(|node| node.told.clone());
    let trouble = "this node is not up; this is what the nodes told last".to_owned();
    Ok(ClusterView {
        node: cluster.node.unwrap_or_default(),
        role: "down".to_owned(),
        epoch,
        since: primary.as_ref().and_then(|node| node.since.clone()),
        primary: primary.map(|node| node.node),
        lapsed: false,
        writable: false,
        ok: false,
        trouble: Some(trouble.clone()),
        problems: vec![trouble],
        nodes,
    })
}

fn words(view: &ClusterView) -> String {
    let mut out = match &view.primary {
        Some(primary) => format!("primary: {primary}"),
        None => "primary: none".to_owned(),
    };
    if let Some(epoch) = view.epoch {
        out += &format!(", epoch {epoch}");
    }
    if let Some(since) = &view.since {
        out += &format!(", since {since}");
    }
    if view.lapsed {
        out += ", its lease has run out";
    }
    let can = if view.writable { "can" } else { "cannot" };
    out += &format!("\napplications {can} write on this node\n");
    let (gone, listed): (Vec<&NodeView>, Vec<_>) =
        view.nodes.iter().partition(|node| node.presence == Presence::Gone);
    listed.into_iter().for_each(|node| out += &words_of(node, view));
    if !gone.is_empty() {
        let names: Vec<_> = gone.iter().map(|node| node.told.node.as_str()).collect();
        let names = names.join(", ");
        out += &format!("not heard of for a day: {names}; `litekeep cluster forget --gone` forgets them\n");
    }
    let others = view.problems.iter().filter(|problem| Some(*problem) != view.trouble.as_ref());
    for problem in view.trouble.iter().chain(others) {
        out += &format!("! {problem}\n");
    }
    out
}

fn words_of(NodeView { told: node, presence, silent_ms }: &NodeView, view: &ClusterView) -> String {
    let here = if node.node == view.node { " (here)" } else { "" };
    let candidate = if node.candidate { "" } else { ", no candidate" };
    let since = node.since.as_ref().map_or(String::new(), |since| format!(" since {since}"));
    let heard = match presence {
        Presence::Up => String::new(),
        _ => format!(", heard of last {} ago", text::age(*silent_ms)),
    };
    // Another one has led since, and it has not said what it is now.
    let was = if node.role == "primary" && node.epoch < view.epoch { "was " } else { "" };
    let mut out = format!("{}{here}: {was}{}{since}{candidate}{heard}\n", node.node, node.role);
    for database in &node.databases {
        let path = database.path.display();
        let txid = database.txid.as_deref().unwrap_or("none");
        let lag = database.lag_ms.map_or(String::new(), |lag| format!(", {lag} ms behind"));
        let forks = match database.forks {
            0 => String::new(),
            n => format!(", {}: `litekeep forks list` there", text::count(n, "fork")),
        };
        out += &format!("  {path}: transaction {txid}{lag}{forks}\n");
        if let Some(stream) = &database.stream {
            let why = stream.error.as_ref().map_or(String::new(), |error| format!(": {error}"));
            out += &match stream.live {
                true => format!("    streams from {}\n", stream.url),
                false => format!("    not streaming from {}, reads the backup{why}\n", stream.url),
            };
        }
    }
    out
}
