//! Reload: what a running daemon takes up without a restart: a new configuration, or new certificates.
//!
//! Whole or not at all: everything that can fail comes before anything that changes. What cannot be taken up
//! stays as it was at the start, and is told.

use std::path::PathBuf;
use std::sync::Arc;
use std::time::Duration;

use super::{Daemon, Error, certificates, identities, rules, service, services, settings, wording};
use crate::config::{self, Settings};
use crate::delivery;
use crate::net::Identity;
use crate::report::{self, Event};
use crate::smtp::reply::Texts;

impl Daemon {
    /// Puts a new configuration in force, whole or not at all. Sessions go on; each transaction keeps what it
    /// began with. Returns the warnings.
    pub(super) async fn reload(&mut self) -> Result<Vec<String>, String> {
        service::reloading();
        let reloaded = self.try_reload().await;
        service::ready();
        match reloaded {
            Ok(warnings) => {
                self.reporter.note(&Event::Reloaded { warnings: warnings.len() });
                Ok(warnings)
            }
            Err(why) => {
                self.reporter.note(&Event::ReloadRefused { why: &why });
                Err(why)
            }
        }
    }

    async fn try_reload(&mut self) -> Result<Vec<String>, String> {
        let path = self.path.clone();
        let config::Loaded { settings: wanted, table, warnings } = load_meanwhile(path).await?;
        // Beside the settings of the start: those are in force, however many reloads there were since.
        let fixed = settings_that_need_a_restart(&self.first, &wanted);
        let mut settings = Settings { node: self.settings.node.clone(), ..wanted };
        if let Some(place) = self.confined.out_of_reach(&settings) {
            return Err(format!(
                "{} lies outside of what this process may write since its start (node.sandbox): restart it instead",
                place.display()
            ));
        }
        if directory_service_changed(&self.settings, &settings) {
            settings.directory = config::DirectorySettings {
                postmaster: settings.directory.postmaster.take(),
                ..self.settings.directory.clone()
            };
        }
        let settings = settings;
        // Everything that can fail comes before anything that changes.
        let texts = Texts::new(&wording(&settings)).map_err(|errors| Error::Wording(errors).to_string())?;
        let (identities, services) = self.identify(&settings).map_err(|error| error.to_string())?;
        let warned: Vec<String> = warnings.iter().map(ToString::to_string).chain(fixed).collect();
        for what in &warned {
            self.reporter.note(&Event::Warning { what });
        }
        self.resolver.replace(settings::dns(&settings));
        // Where a service is in use, it stays: what it has to say it says by itself.
        if has_directory_file(&self.settings) && has_directory_file(&settings) {
            self.inquiry.directory().replace(table);
        }
        self.inquiry.replace_rules(rules(&settings));
        self.shared.texts.store(Arc::new(texts));
        self.shared.firewall.store(Arc::new(settings::firewall(&settings)));
        self.shared.auth.store(Arc::new(settings::auth(&settings, &self.resolver, self.shared.clock)));
        self.shared.limits.replace(settings::limits(&settings));
        self.ceilings.send_replace(settings::ceilings(&settings));
        for entrance in &self.entrances {
            let listener = settings.listeners.iter().find(|listener| *listener.name == *entrance.name);
            if let Some(listener) = listener {
                entrance.conditions.store(Arc::new(settings::conditions(&settings, listener)));
            }
        }
        self.appear_as(&identities, services, &settings).await;
        report::reopen_log();
        self.certificate_files = certificates::Watch::new(&settings);
        self.settings = settings;
        Ok(warned)
    }

    /// Reads the certificates and shows them from now on; when anything about them is wrong, the old ones stay.
    fn identify(&self, settings: &Settings) -> Result<(Vec<Identity>, Arc<delivery::Services>), Error> {
        let identities = identities(settings)?;
        let services = services(settings, identities.first(), &self.resolver, Some(&self.ledger))?;
        certificates::replace(&self.shared.tls, &identities, settings)?;
        Ok((identities, Arc::new(services)))
    }

    /// Files that were replaced on disk come into force; a pair that does not fit leaves the old one.
    pub(super) async fn look_at_certificates(&mut self) {
        if !self.certificate_files.has_changed() {
            return;
        }
        match self.identify(&self.settings) {
            Ok((identities, services)) => self.appear_as(&identities, services, &self.settings).await,
            Err(error) => {
                let what = format!("the new certificate is not used, the old one stays: {error}");
                self.reporter.note(&Event::Warning { what: &what });
            }
        }
    }

    /// Next hops and operators see these certificates from now on.
    async fn appear_as(
        &self,
        identities: &[Identity],
        services: Arc<delivery::Services>,
        settings: &Settings,
    ) {
        self.shared.inline.replace(settings::inline(settings, &services));
        self.in_force.store(Arc::new(settings::in_force(&self.first, settings, identities, &services)));
        self.queue.reconsider(settings::queue(settings), services).await;
        certificates::report(identities, settings, &self.reporter);
    }
}

/// Reads configuration and directory while others are served: ten million users take seconds of a processor,
/// which come after whatever a client waits for.
async fn load_meanwhile(path: PathBuf) -> Result<config::Loaded, String> {
    const NICE: i32 = 10;
    let (done, loaded) = tokio::sync::oneshot::channel();
    let read = move || {
        // On Linux this is about the thread alone. Where it is not allowed, it is as urgent as the others.
        let _ = rustix::process::setpriority_process(None, NICE);
        // Whoever does not wait for it any more is stopping.
        let _ = done.send(config::load(&path));
    };
    std::thread::Builder::new().name("reload".to_owned()).spawn(read).map_err(|error| error.to_string())?;
    let loaded = loaded.await.map_err(|_| "reading it has ended in a panic".to_owned())?;
    loaded.map_err(|mistakes| mistakes.to_string())
}

/// What a reload leaves as it was at the start, each with a word for the operator.
fn settings_that_need_a_restart(old: &Settings, new: &Settings) -> Vec<String> {
    let changed = [
        ("[node]", old.node != new.node),
        ("[[listener]] names and addresses", listener_places(old) != listener_places(new)),
        ("[directory] and its service", directory_service_changed(old, new)),
        ("outbound.tls_report*", reporting(old) != reporting(new)),
        ("[spool]", old.spool != new.spool),
        ("[trace]", old.trace != new.trace),
        ("[audit]", old.audit != new.audit),
        ("[admin]", old.admin != new.admin),
        ("[log]", old.log != new.log),
        ("limits.connections", old.limits.connections != new.limits.connections),
        ("limits.counters", old.limits.counters != new.limits.counters),
    ];
    changed
        .into_iter()
        .filter(|(_, changed)| *changed)
        .map(|(what, _)| format!("{what} has changed: that takes effect with a restart"))
        .collect()
}

/// Tenants and domains are a file's, wherever users are.
fn has_directory_file(settings: &Settings) -> bool {
    !matches!(settings.directory.source, config::DirectorySource::Postgres(_))
}

fn directory_file(settings: &Settings) -> bool {
    matches!(settings.directory.source, config::DirectorySource::File(_))
}

/// Files are read anew at each reload; of anything else only the postmaster is.
fn directory_service_changed(old: &Settings, new: &Settings) -> bool {
    let same =
        config::DirectorySettings { postmaster: old.directory.postmaster.clone(), ..new.directory.clone() }
            == old.directory;
    !(same || directory_file(old) && directory_file(new))
}

fn reporting(settings: &Settings) -> (bool, Duration, &Option<crate::mail::Address>) {
    let outbound = &settings.outbound;
    (outbound.tls_reports, outbound.tls_report_interval, &outbound.tls_report_from)
}

fn listener_places(settings: &Settings) -> Vec<(&str, &[std::net::SocketAddr], bool)> {
    settings
        .listeners
        .iter()
        .map(|listener| (listener.name.as_str(), listener.addresses.as_slice(), listener.legacy))
        .collect()
}
