//! Machines with a network of their own, on this one: each is a network namespace with one address, all of them hang on one bridge, and
//! packets from one of them to another can be lost without a word, as in a network that is cut. Nothing of it reaches this machine's
//! network, and nothing of it is seen there: namespaces have no names, and end with the processes that hold them, which end with us.
//!
//! All of them see the same files. What is [mounted](Network::mount) they see, and we see it by [`Network::path`] only.
//!
//! Needs `ip` (Debian: iproute2), `nsenter` and `unshare` (util-linux), and root or user namespaces that anybody may make.

use std::collections::BTreeSet;
use std::ffi::OsStr;
use std::io::{BufRead, BufReader};
use std::net::Ipv4Addr;
use std::path::{Path, PathBuf};
use std::process::{Child, Command, Stdio};
use std::sync::{Mutex, PoisonError};

use anyhow::{Context, Result, ensure};

/// Says that it is there, and is until its input ends: with us, however that comes.
const HOLDER: &str = "echo there && exec cat > /dev/null";

/// A process that keeps namespaces.
#[derive(Debug)]
struct Holder(Child);

#[derive(Debug)]
struct Machine {
    name: String,
    holder: Holder,
}

/// The machines, and what is between them.
#[derive(Debug)]
pub struct Network {
    switch: Holder,
    machines: Vec<Machine>,
    /// From one machine to another.
    cuts: Mutex<BTreeSet<(usize, usize)>>,
    is_root: bool,
}

impl Holder {
    fn hold(mut command: Command) -> Result<Holder> {
        command.args(["sh", "-c", HOLDER]);
        command.stdin(Stdio::piped()).stdout(Stdio::piped()).stderr(Stdio::piped());
        let mut child = command.spawn().with_context(|| format!("run {:?}", command.get_program()))?;
        let mut line = String::new();
        BufReader::new(child.stdout.take().context("its output")?).read_line(&mut line)?;
        if line != "there\n" {
            let said = child.wait_with_output()?.stderr;
            let said = String::from_utf8_lossy(&said).trim().to_owned();
            anyhow::bail!(
                "make a network namespace: {said}: tests of partitions run as root, or where anybody may make user namespaces (sysctl user.max_user_namespaces, kernel.unprivileged_userns_clone, kernel.apparmor_restrict_unprivileged_userns)"
            );
        }
        Ok(Holder(child))
    }

    fn id(&self) -> u32 {
        self.0.id()
    }
}

impl Drop for Holder {
    fn drop(&mut self) {
        _ = self.0.kill();
        _ = self.0.wait();
    }
}

fn address(nth: usize) -> Ipv4Addr {
    Ipv4Addr::new(10, 86, 0, nth as u8 + 1)
}

fn hardware(nth: usize) -> String {
    format!("02:00:00:00:00:{:02x}", nth + 1)
}

/// An address that no machine has.
const NOWHERE: &str = "02:00:00:00:01:00";

impl Network {
    /// Starts it with machines of these names, each of which reaches the others.
    ///
    /// # Errors
    /// When namespaces cannot be made here.
    pub fn start(names: &[&str]) -> Result<Network> {
        let is_root = std::os::unix::fs::MetadataExt::uid(&std::fs::metadata("/proc/self")?) == 0;
        let mut command = Command::new("unshare");
        if !is_root {
            command.arg("--map-root-user");
        }
        command.args(["--net", "--mount", "--"]);
        let switch = Holder::hold(command)?;
        let mut network = Network { switch, machines: vec![], cuts: Mutex::default(), is_root };
        for name in names {
            let mut command = network.inside(&network.switch, &[]);
            command.args(["unshare", "--net", "--"]);
            network.machines.push(Machine { name: (*name).to_owned(), holder: Holder::hold(command)? });
        }
        let mut lines = "link set lo up\nlink add bridge type bridge\nlink set bridge up\n".to_owned();
        for (nth, machine) in network.machines.iter().enumerate() {
            let (pid, own) = (machine.holder.id(), hardware(nth));
            lines += &format!("link add to{nth} type veth peer name eth0 address {own} netns {pid}\n");
            lines += &format!("link set to{nth} master bridge up\n");
        }
        network.ip(&network.switch, &lines)?;
        for (nth, machine) in network.machines.iter().enumerate() {
            let mut lines =
                format!("link set lo up\naddress add {}/24 dev eth0\nlink set eth0 up\n", address(nth));
            for other in (0..names.len()).filter(|other| *other != nth) {
                lines += &way(other, &hardware(other));
            }
            network.ip(&machine.holder, &lines)?;
        }
        Ok(network)
    }

    /// What runs in somebody's namespaces.
    fn inside(&self, holder: &Holder, more: &[&str]) -> Command {
        let mut command = Command::new("nsenter");
        command.arg(format!("--target={}", holder.id())).args(["--net", "--mount"]).args(more);
        if !self.is_root {
            command.args(["--user", "--preserve-credentials"]);
        }
        command.arg("--");
        command
    }

    fn ip(&self, holder: &Holder, lines: &str) -> Result<()> {
        let mut command = self.inside(holder, &[]);
        command
            .args(["ip", "-batch", "-"])
            .stdin(Stdio::piped())
            .stdout(Stdio::null())
            .stderr(Stdio::piped());
        let mut child = command.spawn().context("run nsenter")?;
        std::io::Write::write_all(&mut child.stdin.take().context("its input")?, lines.as_bytes())?;
        let output = child.wait_with_output()?;
        let said = String::from_utf8_lossy(&output.stderr);
        ensure!(output.status.success(), "ip (Debian: apt-get install iproute2) failed: {said}\n{lines}");
        Ok(())
    }

    fn nth(&self, name: &str) -> Result<usize> {
        let nth = self.machines.iter().position(|machine| machine.name == name);
        nth.with_context(|| format!("there is no machine `{name}`"))
    }

    /// The address of a machine.
    ///
    /// # Panics
    /// When there is no such machine.
    #[must_use]
    pub fn address(&self, name: &str) -> Ipv4Addr {
        address(self.nth(name).expect("a machine of this network"))
    }

    /// A program that will run on a machine in a folder; a process that is started so has the number that its handle says. What else
    /// is set on the command, but its folder, counts for the program.
    ///
    /// # Panics
    /// When there is no such machine.
    #[must_use]
    pub fn command(&self, name: &str, folder: &Path, program: impl AsRef<OsStr>) -> Command {
        let machine = &self.machines[self.nth(name).expect("a machine of this network")];
        let mut command = self.inside(&machine.holder, &[]);
        // A mount namespace has a folder of its own to be in.
        command.args(["sh", "-c", "cd \"$0\" && exec \"$@\""]).arg(folder).arg(program);
        command
    }

    /// Mounts a file system in memory, which all machines see, and which is full when it has so many bytes.
    ///
    /// # Errors
    /// When that may not be.
    pub fn mount(&self, folder: &Path, bytes: u64) -> Result<()> {
        let mut command = self.inside(&self.switch, &[]);
        command.args(["mount", "-t", "tmpfs", "-o", &format!("size={bytes}"), "tmpfs"]).arg(folder);
        let output = command.output().context("run nsenter")?;
        let said = String::from_utf8_lossy(&output.stderr);
        ensure!(output.status.success(), "mount a tmpfs at {folder:?}: {said}");
        Ok(())
    }

    /// A file as the machines see it, for us. Not for SQLite, which follows links first.
    #[must_use]
    pub fn path(&self, path: &Path) -> PathBuf {
        let root = PathBuf::from(format!("/proc/{}/root", self.switch.id()));
        path.strip_prefix("/").map_or_else(|_| root.clone(), |path| root.join(path))
    }

    /// Packets from one machine to another are lost from now on.
    ///
    /// # Errors
    /// When there are no such machines.
    pub fn cut(&self, from: &str, to: &str) -> Result<()> {
        let (from, to) = (self.nth(from)?, self.nth(to)?);
        self.cuts.lock().unwrap_or_else(PoisonError::into_inner).insert((from, to));
        self.ip(&self.machines[from].holder, &way(to, NOWHERE))
    }

    /// The same both ways, between one and each of others.
    ///
    /// # Errors
    /// When there are no such machines.
    pub fn part(&self, one: &str, others: &[&str]) -> Result<()> {
        for other in others.iter().filter(|other| **other != one) {
            self.cut(one, other)?;
            self.cut(other, one)?;
        }
        Ok(())
    }

    /// Everybody reaches everybody again.
    ///
    /// # Errors
    /// When the machines are gone.
    pub fn mend(&self) -> Result<()> {
        let cuts = std::mem::take(&mut *self.cuts.lock().unwrap_or_else(PoisonError::into_inner));
        cuts.iter()
            .try_for_each(|(from, to)| self.ip(&self.machines[*from].holder, &way(*to, &hardware(*to))))
    }

    /// The processes that run on a machine.
    ///
    /// # Errors
    /// When the system does not say.
    pub fn processes(&self, name: &str) -> Result<Vec<i32>> {
        let holder = self.machines[self.nth(name)?].holder.id();
        let of = |pid: &str| std::fs::read_link(format!("/proc/{pid}/ns/net")).ok();
        let own = of(&holder.to_string()).context("a machine that is there")?;
        let all = std::fs::read_dir("/proc")?.flatten();
        let all = all.filter_map(|entry| entry.file_name().into_string().ok());
        let there = all.filter(|pid| *pid != holder.to_string() && of(pid).as_ref() == Some(&own));
        Ok(there.filter_map(|pid| pid.parse().ok()).collect())
    }
}

/// Where packets to a machine go: each has its place in the tables of the others, so that none asks for it.
fn way(to: usize, hardware: &str) -> String {
    format!("neighbour replace {} lladdr {hardware} dev eth0 nud permanent\n", address(to))
}
