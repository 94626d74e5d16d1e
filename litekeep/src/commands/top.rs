//! `litekeep top`: the status page in the terminal.
//!
//! Where `litekeep up` runs it is asked; else the same is read as `litekeep status` does. Without a terminal one frame is
//! printed.

mod frame;

use std::io::IsTerminal as _;
use std::time::Duration;

use anyhow::{Context as _, Result};
use ratatui::Terminal;
use ratatui::backend::TestBackend;
use ratatui::crossterm::event::{self, Event, KeyCode, KeyEventKind, KeyModifiers};
use tokio::time::{Instant, timeout};

use crate::args::{self, ConfigArgs};
use crate::commands::status;
use crate::control::{Ask, Client, Home, talk};
use crate::dashboard::View;
use crate::report::{self, Format, Outcome};
use crate::settings::Settings;

use frame::{Screen, State};

/// How often it is asked.
const EVERY: Duration = Duration::from_secs(1);
/// The size of the frame that is printed without a terminal.
const PRINTED: (u16, u16) = (110, 60);

pub(super) async fn run(args: &args::Top, format: Format) -> Result<Outcome> {
    let view = look(&args.config, format).await.context("show everything")?;
    if format == Format::Json || !std::io::stdout().is_terminal() {
        let ok = view.ok;
        report::result(format, &view, || printed(&view));
        return Ok(if ok { Outcome::Done } else { Outcome::No });
    }
    let mut terminal = ratatui::try_init().context("take over the terminal")?;
    let result = watch(&mut terminal, view, &args.config, format).await;
    ratatui::restore();
    result.context("show everything")
}

/// How everything is.
async fn look(config: &ConfigArgs, format: Format) -> Result<View> {
    let home = match Settings::load_stack(config, format) {
        Ok(settings) => Some(Home::of(&settings)),
        // It runs by a configuration that was good once.
        Err(_) => Settings::place_of_stack(config).map(|place| Home::beside(&place)),
    };
    if let Some(home) = home
        && let Some(mut client) = Client::ask(&home, &Ask::Board).await?
        && let Some(view) = client.next().await?
    {
        return Ok(serde_json::from_value(view)?);
    }
    status::view(config, format).await
}

/// One frame as text.
fn printed(view: &View) -> String {
    let Ok(mut terminal) = Terminal::new(TestBackend::new(PRINTED.0, PRINTED.1));
    let screen = Screen { view, state: &State::default(), said: None, has_keys: false };
    let Ok(_) = terminal.draw(|frame| screen.draw(frame));
    let cells = terminal.backend().buffer();
    let lines = cells.content().chunks(usize::from(PRINTED.0));
    let lines = lines.map(|line| line.iter().map(|cell| cell.symbol()).collect::<String>());
    let text: Vec<String> = lines.map(|line| line.trim_end().to_owned()).collect();
    text.join("\n").trim_end().to_owned() + "\n"
}

/// Shows it until `q`.
async fn watch(
    terminal: &mut ratatui::DefaultTerminal,
    mut view: View,
    config: &ConfigArgs,
    format: Format,
) -> Result<Outcome> {
    let mut state = State::default();
    let mut said: Option<String> = None;
    loop {
        let due = Instant::now() + EVERY;
        loop {
            state.keep_within(&view);
            terminal.draw(|frame| {
                Screen { view: &view, state: &state, said: said.as_deref(), has_keys: true }.draw(frame);
            })?;
            let Some(key) = key(due).await? else { break };
            said = None;
            match key {
                KeyCode::Char('q') | KeyCode::Esc if state.asks.is_none() => return Ok(Outcome::Done),
                KeyCode::Char('y') if state.asks.is_some() => {
                    // Another one may be chosen by now: the rows have changed.
                    let name = state.asks.take().unwrap_or_default();
                    said = Some(format!("{name} is being restarted"));
                    if let Err(error) = act(config, format, Ask::Restart { names: vec![name] }).await {
                        said = Some(format!("{error:#}"));
                    }
                }
                _ if state.asks.take().is_some() => {}
                KeyCode::Up | KeyCode::Char('k') => state.up(),
                KeyCode::Down | KeyCode::Char('j') => state.down(),
                KeyCode::Char('r') => state.asks = state.chosen_name(&view),
                _ => {}
            }
        }
        match look(config, format).await {
            Ok(fresh) => view = fresh,
            // What is shown is old, and that is said, until it answers again.
            Err(error) => said = Some(format!("no answer: {error:#}")),
        }
    }
}

async fn act(config: &ConfigArgs, format: Format, ask: Ask) -> Result<()> {
    let mut client = talk(config, format, &ask).await?;
    while client.next().await?.is_some() {}
    Ok(())
}

/// The next key; `None` when none came in time, which may be over already: a restart that was asked for takes long. `Esc`
/// stands for control-C, which raw terminals take for a key.
async fn key(due: Instant) -> Result<Option<KeyCode>> {
    loop {
        let left = due.saturating_duration_since(Instant::now());
        let read = tokio::task::spawn_blocking(move || match event::poll(left)? {
            true => event::read().map(Some),
            false => Ok(None),
        });
        // Half a key can keep the terminal's reader waiting for the rest.
        let Ok(read) = timeout(left + EVERY, read).await else { return Ok(None) };
        match read?? {
            Some(Event::Key(key)) if key.kind != KeyEventKind::Release => {
                let is_control_c =
                    key.modifiers.contains(KeyModifiers::CONTROL) && key.code == KeyCode::Char('c');
                return Ok(Some(if is_control_c { KeyCode::Esc } else { key.code }));
            }
            // Its size has changed: draw again.
            Some(Event::Resize(..)) => return Ok(Some(KeyCode::Null)),
            Some(_) => {}
            None => return Ok(None),
        }
    }
}
