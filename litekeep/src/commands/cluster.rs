//! `litekeep promote`, `handoff` and `cluster status`: what is asked of a node of a cluster.

use anyhow::{Context as _, Result};
use serde::Serialize;

use crate::args::ConfigArgs;
use crate::args::cluster::{Cluster, ClusterCommand, Handoff, Promote};
use crate::cluster::{ClusterView, Records, primary_store};
use crate::control::{Ask, is_up, talk};
use crate::report::{self, Failure, Format, Outcome, text};
use crate::settings::Settings;

/// What was done.
#[derive(Serialize)]
struct Did {
    /// `promoted` or `handed_over`.
    did: &'static str,
    node: Option<String>,
}

pub(super) async fn promote(args: &Promote, format: Format) -> Result<Outcome> {
    ask(&args.config, &Ask::Promote, format).await.context("become the primary")?;
    let did = Did { did: "promoted", node: None };
    report::result(format, &did, || {
        "this node is the primary; what a former primary had and the log has not is a fork there: `litekeep cluster status` tells of it\n".to_owned()
    });
    Ok(Outcome::Done)
}

pub(super) async fn handoff(args: &Handoff, format: Format) -> Result<Outcome> {
    let question = Ask::HandOff { to: args.node.clone() };
    ask(&args.config, &question, format).await.context("hand over")?;
    let did = Did { did: "handed_over", node: args.node.clone() };
    report::result(format, &did, || {
        let to =
            args.node.as_ref().map_or("whichever node comes first".to_owned(), |node| format!("`{node}`"));
        format!("everything is confirmed, and the lease is left to {to}\n")
    });
    Ok(Outcome::Done)
}

async fn ask(config: &ConfigArgs, question: &Ask, format: Format) -> Result<()> {
    let mut client = talk(config, format, question).await?;
    while client.next().await?.is_some() {}
    Ok(())
}

pub(super) async fn cluster(args: &Cluster, format: Format) -> Result<Outcome> {
    let ClusterCommand::Status(args) = &args.command;
    let view = view(&args.config, format).await.context("show the cluster")?;
    report::result(format, &view, || words(&view));
    Ok(if view.ok { Outcome::Done } else { Outcome::No })
}

/// As the node sees it; where it is not up, what the nodes told last.
async fn view(config: &ConfigArgs, format: Format) -> Result<ClusterView> {
    if is_up(config, format).await? {
        let mut client = talk(config, format, &Ask::Cluster).await?;
        let mut view = None;
        while let Some(item) = client.next().await? {
            view = Some(serde_json::from_value(item)?);
        }
        return view.context("the node said nothing");
    }
    let settings = Settings::load_stack(config, format)?;
    let Some(cluster) = settings.config.cluster.clone() else {
        let failure = Failure::invalid(format!("there is no [cluster] in `{}`", settings.path.display()));
        return Err(failure.hint("add [cluster] on each node, and start it with `litekeep up`").into());
    };
    let nodes = Records::of(&primary_store(&settings)?).nodes().await?;
    let primary = nodes.iter().filter(|node| node.role == "primary").max_by_key(|node| node.epoch);
    Ok(ClusterView {
        node: cluster.node.unwrap_or_default(),
        role: "down".to_owned(),
        epoch: nodes.iter().filter_map(|node| node.epoch).max(),
        primary: primary.map(|node| node.node.clone()),
        ok: false,
        trouble: Some("this node is not up; this is what the nodes told last".to_owned()),
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
    out += "\n";
    for node in &view.nodes {
        let here = if node.node == view.node { " (here)" } else { "" };
        let candidate = if node.candidate { "" } else { ", no candidate" };
        out += &format!("{}{here}: {}{candidate}, at {}\n", node.node, node.role, node.at);
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
            if let Some(trouble) = &database.trouble {
                out += &format!("    {trouble}\n");
            }
        }
        if let Some(trouble) = node.trouble.as_ref().filter(|_| node.node != view.node) {
            out += &format!("  {trouble}\n");
        }
    }
    if let Some(trouble) = &view.trouble {
        out += &format!("{trouble}\n");
    }
    out
}
