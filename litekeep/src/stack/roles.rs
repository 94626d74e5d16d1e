//! What runs in which role of a node in a cluster.

use std::path::Path;
use std::sync::PoisonError;

use anyhow::Result;
use litekeep_config::{Config, OnRoleChange};
use litekeep_env::process::Handle;
use litekeep_supervise::{Job, Process, Service, Wanted};

use super::sockets::Sockets;
use super::{Changing, Stack, in_order, jobs, names, names_of_jobs, services};
use crate::settings::Settings;

/// The name of the variable that says in which role a run began.
pub(super) const ROLE: &str = "LITEKEEP_ROLE";

/// Which role the node has, for processes.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Place {
    /// None yet, so nothing runs.
    Nowhere,
    Primary,
    /// Still the primary, without what runs there only.
    Leaving,
    Replica,
}

impl Place {
    /// Whether what is for the primary only runs.
    pub(super) fn has_primarys(self) -> bool {
        self == Place::Primary
    }

    /// As processes see it.
    pub(super) fn name(self) -> &'static str {
        match self {
            Place::Primary | Place::Leaving => "primary",
            Place::Replica | Place::Nowhere => "replica",
        }
    }
}

impl Stack {
    pub(super) fn place(&self) -> Option<Place> {
        *self.place.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// The processes that run in the role of now.
    pub(super) fn services(&self, config: &Config, sockets: &mut Sockets) -> Result<Vec<Service>> {
        let place = self.place();
        let node = (place, self.node.get());
        let mut services = services::of(config, &self.args, &self.home, sockets, &self.replication(), node)?;
        services.retain(|_| place != Some(Place::Nowhere));
        Ok(services)
    }

    /// The jobs that run in the role of now.
    pub(super) fn jobs(&self, config: &Config) -> Result<Vec<Job>> {
        let mut jobs = jobs::of(config, &self.args, &self.home)?;
        let is_primarys = |job: &Job| config.jobs.iter().any(|own| own.name == job.name && own.if_primary);
        jobs.retain(|job| self.place().is_none_or(Place::has_primarys) || !is_primarys(job));
        jobs.retain(|_| self.place() != Some(Place::Nowhere));
        if let Some(place) = self.place() {
            let role = || (ROLE.into(), place.name().into());
            jobs.iter_mut().for_each(|job| job.spec.spawn.told.push(role()));
        }
        Ok(jobs)
    }

    /// Ends what an earlier litekeep has left running on a node that was the primary then, and may not be any more.
    ///
    /// # Errors
    /// When the processes cannot be taken care of.
    pub(crate) async fn end_survivors(&self, settings: &Settings) -> Result<()> {
        if self.changing.lock().await.supervisor.is_some() {
            return Ok(());
        }
        self.take_place(Place::Nowhere, settings).await?;
        if let Some(supervisor) = &self.changing.lock().await.supervisor {
            supervisor.strays_gone().await;
        }
        Ok(())
    }

    /// Ends what runs on the primary only, before another node becomes that. The others go on as they are.
    ///
    /// # Errors
    /// When some of it outlives SIGKILL.
    pub(crate) async fn end_primarys(&self) -> Result<()> {
        let mut changing = self.changing.lock().await;
        let Some(settings) = changing.accepted.clone() else { return Ok(()) };
        {
            let mut place = self.place.lock().unwrap_or_else(PoisonError::into_inner);
            if *place != Some(Place::Primary) {
                return Ok(());
            }
            *place = Some(Place::Leaving);
        }
        self.apply(&mut changing, &settings.config).await
    }

    /// Lets run what runs in the role of now.
    async fn apply(&self, changing: &mut Changing, config: &Config) -> Result<()> {
        let services = self.services(config, &mut changing.sockets)?;
        changing.order = names(&services);
        let jobs = Some(self.jobs(config)?);
        let Some(supervisor) = &mut changing.supervisor else { return Ok(()) };
        let applied = supervisor.apply(Wanted { services, jobs }).await?;
        for (name, error) in &applied.failed {
            tracing::error!("`{name}` could not take the role of its node: {error}");
        }
        self.shows(changing, config);
        Ok(())
    }

    /// Those who ask see what is under care now.
    fn shows(&self, changing: &mut Changing, config: &Config) {
        let Changing { supervisor: Some(supervisor), order, jobs, .. } = changing else { return };
        *jobs = names_of_jobs(config);
        jobs.retain(|name| supervisor.job(name).is_ok());
        order.retain(|name| supervisor.service(name).is_ok());
        let mut running = self.running();
        running.processes = in_order(supervisor, order);
        running.jobs = jobs::in_order(supervisor, jobs);
    }

    /// Takes a role: starts everything the first time, with pending migrations on a primary; then what runs in that role only starts or
    /// ends, and the others do what the configuration says. Those that end have ended when it returns.
    ///
    /// # Errors
    /// When a migration fails, or the processes cannot be as the configuration wants them.
    pub(crate) async fn take_place(&self, place: Place, settings: &Settings) -> Result<()> {
        let former = self.place.lock().unwrap_or_else(PoisonError::into_inner).replace(place);
        if self.changing.lock().await.supervisor.is_none() {
            return self.start(settings).await;
        }
        if former == Some(place) {
            return Ok(());
        }
        let mut changing = self.changing.lock().await;
        let settings = changing.accepted.clone().unwrap_or_else(|| settings.clone());
        let config = &settings.config;
        if place.has_primarys() {
            super::migrations::run(&settings, None, &self.args).await?;
        }
        self.apply(&mut changing, config).await?;
        signal_all(config, &self.running().processes);
        Ok(())
    }
}

/// Sends the processes that want one their signal.
fn signal_all(config: &Config, processes: &[Process]) {
    for own in &config.processes {
        let OnRoleChange::Signal(signal) = &own.on_role_change else { continue };
        let Ok(number) = services::signal(signal) else { continue };
        for process in processes.iter().filter(|process| super::belongs(process.name(), &own.name)) {
            let pid = process.status().borrow().pid;
            let sent = pid.map_or(Ok(()), |pid| Handle::open(pid).and_then(|handle| handle.signal(number)));
            if let Err(error) = sent {
                tracing::warn!(process = process.name(), "tell of the role by SIG{signal}: {error}");
            }
        }
    }
}

/// Writes who is the primary, for applications: nothing is there on the primary itself, and while nobody is.
pub(crate) fn note_primary(meta_dir: &Path, name: Option<&str>) -> std::io::Result<()> {
    let note = meta_dir.join("primary");
    match name {
        Some(name) if meta_dir.is_dir() => litekeep_env::file::replace(&note, format!("{name}\n").as_bytes()),
        _ => match std::fs::remove_file(&note) {
            Err(error) if error.kind() != std::io::ErrorKind::NotFound => Err(error),
            _ => Ok(()),
        },
    }
}
