//! A browser without a screen: Debian's Chromium, told what to do over its debugging pipe.

use std::fs::File;
use std::io::{BufRead as _, BufReader, Write as _};
use std::path::Path;
use std::process::{Command, Stdio};
use std::sync::mpsc::{Receiver, channel};
use std::time::{Duration, Instant};

use anyhow::{Context, Result, bail, ensure};
use serde_json::{Value, json};
use tempfile::TempDir;

use crate::leavings::folder;
use crate::litestream::run;
use crate::process::{Process, eventually};

/// How long an answer may take on a busy machine.
const LONG: Duration = Duration::from_secs(120);

/// A browser with one page.
#[derive(Debug)]
pub struct Chromium {
    to: File,
    answers: Receiver<Value>,
    number: u64,
    /// Of the page, once there is one.
    session: Option<String>,
    process: Process,
    dir: TempDir,
}

impl Chromium {
    /// Starts one, as root too.
    ///
    /// # Errors
    /// When it is not installed.
    pub fn start() -> Result<Chromium> {
        let dir = folder().context("make a folder for Chromium")?;
        let (to, from) = (dir.path().join("to"), dir.path().join("from"));
        let mut pipes = Command::new("mkfifo");
        pipes.args([&to, &from]);
        run(pipes)?;
        // Its descriptors 3 and 4 are the two ends.
        let mut command = Command::new("sh");
        let line = "exec chromium --headless --no-sandbox --disable-gpu --disable-dev-shm-usage --hide-scrollbars \
                    --no-first-run --disable-extensions --disable-background-networking --remote-debugging-pipe \
                    --user-data-dir=\"$0/profile\" about:blank 3<\"$0/to\" 4>\"$0/from\"";
        command.args(["-c", line]).arg(dir.path());
        let missing = "start Chromium (Debian: apt-get install chromium)";
        ensure!(is_installed(), "{missing}");
        let process = Process::start(command, &dir.path().join("log")).context(missing)?;
        let to = File::options().write(true).open(to)?;
        let from = BufReader::new(File::open(from)?);
        let (sender, answers) = channel();
        std::thread::spawn(move || {
            for message in from.split(0).map_while(Result::ok) {
                let Ok(message) = serde_json::from_slice(&message) else { return };
                if sender.send(message).is_err() {
                    return;
                }
            }
        });
        let mut chromium = Chromium { to, answers, number: 0, session: None, process, dir };
        let target =
            chromium.ask("Target.createTarget", json!({ "url": "about:blank" }))?["targetId"].clone();
        let attached =
            chromium.ask("Target.attachToTarget", json!({ "targetId": target, "flatten": true }))?;
        chromium.session = attached["sessionId"].as_str().map(str::to_owned);
        Ok(chromium)
    }

    /// Goes to a page, in a window of this width and height.
    ///
    /// # Errors
    /// When it cannot be reached.
    pub fn open(&mut self, url: &str, size: (u32, u32)) -> Result<()> {
        self.resize(size)?;
        let gone = self.ask("Page.navigate", json!({ "url": url }))?;
        ensure!(gone["errorText"].is_null(), "open {url}: {gone}");
        self.until("document.readyState === 'complete'")
    }

    /// Changes the window.
    ///
    /// # Errors
    /// When the browser has ended.
    pub fn resize(&mut self, (width, height): (u32, u32)) -> Result<()> {
        let metrics =
            json!({ "width": width, "height": height, "deviceScaleFactor": 1, "mobile": width < 600 });
        self.ask("Emulation.setDeviceMetricsOverride", metrics).map(drop)
    }

    /// As for one who prefers dark colours, or light ones.
    ///
    /// # Errors
    /// When the browser has ended.
    pub fn prefer(&mut self, dark: bool) -> Result<()> {
        let scheme = if dark { "dark" } else { "light" };
        let features = json!({ "features": [{ "name": "prefers-color-scheme", "value": scheme }] });
        self.ask("Emulation.setEmulatedMedia", features).map(drop)
    }

    /// The value of an expression of JavaScript.
    ///
    /// # Errors
    /// What it throws.
    pub fn value(&mut self, expression: &str) -> Result<Value> {
        let asked = json!({ "expression": expression, "returnByValue": true, "awaitPromise": true });
        let answer = self.ask("Runtime.evaluate", asked)?;
        if let Some(error) = answer.get("exceptionDetails") {
            bail!("{expression}: {error}");
        }
        Ok(answer["result"]["value"].clone())
    }

    /// Waits until an expression is true.
    ///
    /// # Errors
    /// When it does not come.
    pub fn until(&mut self, expression: &str) -> Result<()> {
        eventually(expression, LONG, || Ok(self.value(expression)? == true))
    }

    /// A picture of the whole page, as PNG.
    ///
    /// # Errors
    /// When it cannot be written.
    pub fn picture(&mut self, file: &Path) -> Result<()> {
        let asked = json!({ "format": "png", "captureBeyondViewport": true });
        let answer = self.ask("Page.captureScreenshot", asked)?;
        let mut decoder = Command::new("base64");
        decoder.arg("-d").stdin(Stdio::piped()).stdout(File::create(file)?);
        let mut decoder = decoder.spawn().context("start base64")?;
        let data = answer["data"].as_str().context("no picture")?;
        decoder.stdin.take().context("its input")?.write_all(data.as_bytes())?;
        ensure!(decoder.wait()?.success(), "base64 does not take the picture");
        Ok(())
    }

    fn ask(&mut self, method: &str, parameters: Value) -> Result<Value> {
        self.number += 1;
        let mut question = json!({ "id": self.number, "method": method, "params": parameters });
        if let Some(session) = &self.session {
            question["sessionId"] = session.as_str().into();
        }
        self.to.write_all(format!("{question}\0").as_bytes())?;
        let deadline = Instant::now() + LONG;
        loop {
            let left = deadline.saturating_duration_since(Instant::now());
            let answer = self.answers.recv_timeout(left);
            let mut answer =
                answer.with_context(|| format!("{method}: no answer: {}", self.process.output()))?;
            // Everything else tells what happened.
            if answer["id"] == self.number {
                ensure!(answer["error"].is_null(), "{method}: {answer}");
                return Ok(answer["result"].take());
            }
        }
    }
}

impl Drop for Chromium {
    /// Its children end with it only when it ends by itself.
    fn drop(&mut self) {
        self.session = None;
        _ = self.ask("Browser.close", json!({}));
        _ = self.process.wait(Duration::from_secs(10));
        _ = &self.dir;
    }
}

fn is_installed() -> bool {
    Command::new("chromium").arg("--version").output().is_ok_and(|output| output.status.success())
}
