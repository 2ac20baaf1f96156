//! Daemon: builds all rooms, starts them in order, stops them in reverse.
//!
//! Owns the signals and the drain. What it hands out is in `settings`, what a running one takes up in `reload`,
//! certificates in `certificates`, the words for a first start in `welcome`.

mod certificates;
mod confine;
mod descriptors;
mod pressure;
mod reload;
mod service;
mod settings;
mod tls_reports;
mod sockets;
mod trace;
mod upgrade;
mod welcome;

pub use certificates::identities;
pub use settings::{directory, directory_service, dns, register, rules, rules_as_seen_from, wording};

use std::io;
use std::net::IpAddr;
use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::time::Duration;

use arc_swap::ArcSwap;
use tokio::signal::unix::{Signal, SignalKind, signal};
use tokio::sync::{mpsc, watch};
use tokio::task::JoinSet;

use crate::admin::{self, Command};
use crate::clock::Clock;
use crate::config::{self, Settings};
use crate::decision::Door;
use crate::delivery::Pool;
use crate::directory::{self, News};
use crate::dns::{Resolver, Validation};
use crate::document::Mistakes;
use crate::inquiry::Inquiry;
use crate::limits::Limits;
use crate::listener::{Admission, Entrance, Listener, Shared};
use crate::mail::Endpoint;
use crate::net::{ClientTls, Identity, Roots};
use crate::queue::{Holds, Queue};
use crate::report::{Event, Reporter};
use crate::smtp::reply::{Texts, WordingError};
use crate::spool::{self, Recovered, Spool};
use crate::{delivery, net};

use confine::Confined;
use sockets::Sockets;
use upgrade::Program;

/// Accepted messages between the spool and the queue; senders wait when it is full.
const ARRIVALS_LIMIT: usize = 4_096;
/// For a last word to sessions that are cut off.
const FAREWELL: Duration = Duration::from_millis(250);
/// How long a start waits for a directory service's first word.
const DIRECTORY_PATIENCE: Duration = Duration::from_secs(5);

#[derive(Debug, thiserror::Error)]
pub enum Error {
    #[error("{0}")]
    Config(#[from] Mistakes),
    #[error("{what}: {source}")]
    Io { what: String, source: io::Error },
    #[error("the spool: {0}")]
    Spool(#[from] spool::Error),
    #[error("the directory: {0}")]
    Directory(#[from] directory::Trouble),
    #[error("TLS: {0}")]
    Tls(#[from] net::Error),
    #[error("[replies]: {}", .0.iter().map(ToString::to_string).collect::<Vec<_>>().join("; "))]
    Wording(Vec<WordingError>),
}

fn io_error(what: impl Into<String>) -> impl FnOnce(io::Error) -> Error {
    let what = what.into();
    move |source| Error::Io { what, source }
}

/// Loads everything, starts it, and returns when it has stopped.
pub fn run(path: &Path) -> Result<(), Error> {
    let loaded = config::load(path)?;
    let program = upgrade::Program::of_this_process()?;
    descriptors::raise_limit();
    // In this order, and before there is a second thread: sockets while there may be a root to bind them.
    let sockets = Sockets::open(&loaded.settings)?;
    let confined = confine::confine(&loaded.settings)?;
    settings::start_log(&loaded.settings.log)?;
    let runtime = tokio::runtime::Builder::new_multi_thread()
        .enable_all()
        .build()
        .map_err(io_error("the runtime did not start"))?;
    let ending = runtime.block_on(async {
        let daemon = Daemon::start(path.to_owned(), loaded, sockets, confined, program).await?;
        Ok::<_, Error>(daemon.serve().await)
    })?;
    drop(runtime);
    match ending {
        Ending::Stopped => Ok(()),
        Ending::Replaced(program, sockets) => Err(program.take_over(&sockets)),
    }
}

/// What comes after the daemon.
enum Ending {
    Stopped,
    /// By the program that lies in its place now.
    Replaced(Program, Sockets),
}

struct Daemon {
    path: PathBuf,
    settings: Settings,
    /// Of the start: what a reload cannot change is as it was then.
    first: Box<Settings>,
    inquiry: Arc<Inquiry>,
    resolver: Arc<Resolver>,
    /// How TLS went with the internet.
    ledger: Arc<delivery::Ledger>,
    /// Of those reports.
    reporting: tokio::task::JoinHandle<()>,
    shared: Arc<Shared>,
    spool: Spool,
    queue: Queue,
    /// For the API.
    in_force: Arc<ArcSwap<admin::InForce>>,
    entrances: Vec<Entrance>,
    listeners: JoinSet<()>,
    take_in: tokio::task::JoinHandle<()>,
    /// Of the connections of inline relay.
    tending: tokio::task::JoinHandle<()>,
    commands: mpsc::Receiver<Command>,
    draining: watch::Sender<bool>,
    /// The time to drain is over.
    cutting: watch::Sender<bool>,
    ceilings: watch::Sender<pressure::Ceilings>,
    reporter: Reporter,
    /// Kept open for a successor; closed when a drain begins.
    sockets: Sockets,
    confined: Confined,
    program: Program,
    certificate_files: certificates::Watch,
}

impl Daemon {
    async fn start(
        path: PathBuf,
        loaded: config::Loaded,
        sockets: Sockets,
        confined: Confined,
        program: Program,
    ) -> Result<Self, Error> {
        let config::Loaded { settings, table, warnings } = loaded;
        let clock = Clock::System;
        let reporter = Reporter::default();
        for warning in &warnings {
            reporter.note(&Event::Warning { what: &warning.to_string() });
        }
        let (connections, too_few) = descriptors::connections(settings.limits.connections);
        for what in confined.warnings.iter().chain(&too_few) {
            reporter.note(&Event::Warning { what });
        }
        let identities = identities(&settings)?;
        let tls = certificates::server(&identities, &settings)?;
        certificates::report(&identities, &settings, &reporter);
        let texts = Texts::new(&wording(&settings)).map_err(Error::Wording)?;
        let (spool, recovered) = open_spool(&settings, clock).await?;
        // After the spool, whose lock proves that nobody else writes below this folder.
        let reporter = reporter.with_tracer(trace::start(&settings, clock)?);
        tokio::spawn(trace::watch(reporter.clone(), settings.audit.head_every));
        report_recovery(&recovered, &reporter);
        let snapshot = settings.node.state_dir.join("directory");
        let (directory, news) = settings::directory(&settings, table, Some(snapshot))?;
        if let Some(news) = news {
            tokio::spawn(tell(news, reporter.clone()));
        }
        // A directory that does not answer holds nobody up: its snapshot answers, or senders wait.
        let _ = directory.ready(DIRECTORY_PATIENCE).await;
        let lookup_deadline = settings.directory.lookup_deadline;
        let resolver = Arc::new(Resolver::new(settings::dns(&settings), reporter.metrics().dns()));
        let inquiry = Inquiry::new(directory, rules(&settings), lookup_deadline, clock);
        let inquiry = Arc::new(inquiry.asking(resolver.clone()));
        inquiry.tell_privacy(reporter.withheld().clone());
        trace::recover(&recovered.messages, &inquiry, &reporter).await;
        tokio::spawn(watch_validation(resolver.validation(), reporter.clone()));
        let ledger = Arc::new(delivery::Ledger::default());
        let services = Arc::new(services(&settings, identities.first(), &resolver, Some(&ledger))?);
        let inline = Arc::new(Pool::new(settings::inline(&settings, &services)));
        let queue_settings = settings::queue(&settings);
        let state = &settings.node.state_dir;
        let holds =
            Holds::open(state.join("queue-holds.json")).map_err(io_error("the holds of the queue"))?;
        let holds = Arc::new(holds);
        let queue = Queue::new(
            queue_settings,
            spool.clone(),
            inquiry.clone(),
            services.clone(),
            reporter.clone(),
            clock,
            holds.clone(),
        );
        let (arrivals, arriving) = mpsc::channel(ARRIVALS_LIMIT);
        let (draining, drain_watch) = watch::channel(false);
        let cutting = watch::Sender::new(false);
        let ceilings = watch::Sender::new(settings::ceilings(&settings));
        let limits = &settings.limits;
        let limits_in_force = Arc::new(Limits::new(settings::limits(&settings), limits.counters));
        let (pressure, shortage) = pressure::watch(spool.clone(), ceilings.subscribe(), reporter.clone());
        let shared = Arc::new(Shared {
            inquiry: inquiry.clone(),
            spool: spool.clone(),
            inline: inline.clone(),
            tls: Arc::new(tls),
            texts: Arc::new(ArcSwap::from_pointee(texts)),
            firewall: ArcSwap::from_pointee(settings::firewall(&settings)),
            auth: ArcSwap::from_pointee(settings::auth(&settings, &resolver, clock)),
            arrivals,
            pressure,
            draining: drain_watch.clone(),
            cutting: cutting.subscribe(),
            holds: holds.subscribe(),
            admission: Admission::new(connections),
            limits: limits_in_force,
            resolver: resolver.clone(),
            reporter: reporter.clone(),
            clock,
        });
        let in_force =
            Arc::new(ArcSwap::from_pointee(settings::in_force(&settings, &settings, &identities, &services)));
        let (command_sender, commands) = mpsc::channel(16);
        let door = Arc::new(admin::Door {
            queue: queue.clone(),
            spool: spool.clone(),
            reporter: reporter.clone(),
            state_dir: settings.node.state_dir.clone(),
            commands: command_sender,
            draining: drain_watch,
            shortage,
            directory: inquiry.directory().clone(),
            register: open_register(path.clone()),
            moving: tokio::sync::Mutex::default(),
            limits: shared.limits.clone(),
            region: settings.node.region.to_string(),
            hostname: settings.node.hostname.to_string(),
            history: admin::History::keep(reporter.clone(), clock),
            audit: admin::Audit::new(state.join(admin::AUDIT_FILE)),
            clock,
            inquiry: inquiry.clone(),
            texts: shared.texts.clone(),
            outside: admin::Outside::new(in_force.clone()),
            regions: settings.known_regions(),
            started_at: clock.now(),
        });
        admin::serve(door, &settings.admin_socket(), admin_address(&settings, &shared.tls)?)
            .await
            .map_err(io_error("the admin socket"))?;
        queue.recover(recovered.messages).await;
        let desk = tls_reports::Desk {
            settings: settings.clone(),
            ledger: ledger.clone(),
            resolver: resolver.clone(),
            services,
            spool: spool.clone(),
            arrivals: shared.arrivals.clone(),
            reporter: reporter.clone(),
            clock,
        };
        let reporting = tokio::spawn(desk.work());
        let mut daemon = Self {
            path,
            inquiry,
            resolver,
            ledger,
            reporting,
            shared,
            spool,
            tending: tokio::spawn(inline.tend()),
            take_in: tokio::spawn(queue.clone().take_in(arriving)),
            queue,
            in_force,
            entrances: Vec::new(),
            listeners: JoinSet::new(),
            commands,
            draining,
            cutting,
            ceilings,
            reporter,
            sockets,
            confined,
            program,
            certificate_files: certificates::Watch::new(&settings),
            first: Box::new(settings.clone()),
            settings,
        };
        daemon.listen()?;
        tidy_stores(&daemon.settings, daemon.reporter.clone(), clock);
        service::ready();
        Ok(daemon)
    }

    /// The sockets are bound already, in the order of the configuration. Callers come when all is ready.
    fn listen(&mut self) -> Result<(), Error> {
        let mut sockets = self.sockets.share().map_err(io_error("the listening sockets"))?.into_iter();
        let mut bound = Vec::new();
        for listener in &self.settings.listeners {
            let entrance = Entrance {
                name: listener.name.as_str().into(),
                door: if listener.legacy { Door::Legacy } else { Door::Regular },
                conditions: Arc::new(ArcSwap::from_pointee(settings::conditions(&self.settings, listener))),
            };
            for address in &listener.addresses {
                let socket = sockets.next().expect("one was opened for each address");
                let socket = net::listen(socket).map_err(io_error(format!("listening on {address}")))?;
                bound.push((socket, entrance.clone()));
            }
            self.entrances.push(entrance);
        }
        let mut addresses = Vec::new();
        for (socket, entrance) in bound {
            if let Ok(address) = socket.local_addr() {
                self.reporter.note(&Event::Listening { listener: &entrance.name, address });
                addresses.push((entrance.name.clone(), address));
            }
            let listener = Listener::new(socket, entrance, self.shared.clone());
            self.listeners.spawn(listener.run());
        }
        welcome::print(&self.settings, &self.inquiry, &addresses);
        Ok(())
    }

    /// Until a signal or the operator ends it.
    async fn serve(mut self) -> Ending {
        let listen_for = |kind| signal(kind).expect("signals can be listened for inside a runtime");
        let mut terminate = listen_for(SignalKind::terminate());
        let mut interrupt = listen_for(SignalKind::interrupt());
        let mut hangup = listen_for(SignalKind::hangup());
        let mut replace = listen_for(SignalKind::user_defined2());
        let mut pulse = tokio::time::interval(service::pulse());
        let mut look_at_files = tokio::time::interval(certificates::LOOK_EVERY);
        let within = loop {
            tokio::select! {
                _ = terminate.recv() => break self.settings.deadlines.drain,
                _ = interrupt.recv() => break self.settings.deadlines.drain,
                _ = replace.recv() => {
                    // Why not, if not, is in the log.
                    if self.may_be_replaced().await.is_ok() {
                        return self.be_replaced(terminate, interrupt).await;
                    }
                }
                _ = pulse.tick() => {
                    // Not alive without its spool: this waits for the lock that every commit takes.
                    self.spool.state();
                    service::alive();
                }
                _ = look_at_files.tick() => self.look_at_certificates().await,
                _ = hangup.recv() => {
                    // A mistake is in the log; the old configuration stays.
                    let _ = self.reload().await;
                }
                Some(command) = self.commands.recv() => match command {
                    Command::Reload(answer) => {
                        let reloaded = self.reload().await;
                        let _ = answer.send(reloaded);
                    }
                    Command::Drain { within } => break within.unwrap_or(self.settings.deadlines.drain),
                    Command::Upgrade(answer) => {
                        let may = self.may_be_replaced().await;
                        let goes = may.is_ok();
                        let _ = answer.send(may);
                        if goes {
                            return self.be_replaced(terminate, interrupt).await;
                        }
                    }
                },
            }
        };
        service::stopping();
        // Whoever calls from now on is refused at once, and tries another node.
        drop(std::mem::take(&mut self.sockets));
        self.drain(within).await;
        Ending::Stopped
    }

    /// Whether what lies in this program's place could go on from here.
    async fn may_be_replaced(&self) -> Result<(), String> {
        let checked = self.program.check(&self.path).await;
        if let Err(why) = &checked {
            self.reporter.note(&Event::Warning { what: &format!("not replaced: {why}") });
        }
        checked
    }

    async fn be_replaced(mut self, mut terminate: Signal, mut interrupt: Signal) -> Ending {
        service::reloading();
        let program = self.program.clone();
        let sockets = std::mem::take(&mut self.sockets);
        let within = self.settings.deadlines.drain;
        self.drain(within).await;
        // Who was told to stop meanwhile stops.
        tokio::select! {
            biased;
            _ = terminate.recv() => Ending::Stopped,
            _ = interrupt.recv() => Ending::Stopped,
            () = std::future::ready(()) => Ending::Replaced(program, sockets),
        }
    }

    /// Stops accepting, lets transactions end, then the queue, then the disk.
    async fn drain(mut self, within: Duration) {
        self.reporter.note(&Event::Draining { within });
        self.draining.send_replace(true);
        let deadline = tokio::time::Instant::now() + within;
        let ended = async { while self.listeners.join_next().await.is_some() {} };
        let all_ended = tokio::time::timeout_at(deadline, ended).await.is_ok();
        let sessions_cut = self.reporter.metrics().sessions();
        if !all_ended {
            // Who sends a message still is told that it was not taken, if it listens at once.
            self.cutting.send_replace(true);
            let ended = async { while self.listeners.join_next().await.is_some() {} };
            let _ = tokio::time::timeout(FAREWELL, ended).await;
        }
        self.listeners.abort_all();
        while self.listeners.join_next().await.is_some() {}
        self.tending.abort();
        self.reporting.abort();
        tls_reports::write_down(&self.settings, &self.ledger).await;
        drop(self.shared);
        let _ = tokio::time::timeout_at(deadline, self.take_in).await;
        let left = deadline.saturating_duration_since(tokio::time::Instant::now());
        self.queue.stop(left).await;
        self.spool.close().await;
        self.inquiry.directory().close().await;
        self.reporter.note(&Event::Stopped { sessions_cut });
        trace::close(&self.reporter).await;
    }
}

/// What deliveries of an earlier run left half-done in this node's Maildirs goes, while nobody waits for it.
fn tidy_stores(settings: &Settings, reporter: Reporter, clock: Clock) {
    let stores = settings.regions.get(&settings.node.region).into_iter().flat_map(|region| &region.store);
    for store in stores {
        let Endpoint::Maildir(root) = store else { continue };
        let (root, hostname) = (root.clone(), settings.node.hostname.to_string());
        let (reporter, now) = (reporter.clone(), clock.now());
        // A thread that nobody waits for, not even a stop.
        let work = move || {
            let removed = delivery::remove_leftovers(&root, &hostname, now);
            if removed > 0 {
                let what =
                    format!("{removed} unfinished files were removed from Maildirs in {}", root.display());
                reporter.note(&Event::Finding { what: &what });
            }
        };
        let _ = std::thread::Builder::new().name("tidy".to_owned()).spawn(work);
    }
}

/// The directory as the configuration names it now, for whoever wants to change it over the API.
fn open_register(path: PathBuf) -> admin::OpenRegister {
    Box::new(move || {
        let path = path.clone();
        Box::pin(async move {
            let loading = tokio::task::spawn_blocking(move || config::load(&path));
            let loaded = loading.await.map_err(|error| error.to_string())?;
            let loaded = loaded.map_err(|mistakes| mistakes.to_string())?;
            let (settings, register, _) = register(loaded).await?;
            Ok((register, settings.routing.propagation_window))
        })
    })
}

/// Says in the log what the directory service has to tell.
async fn tell(mut news: mpsc::Receiver<News>, reporter: Reporter) {
    while let Some(news) = news.recv().await {
        reporter.note(&match &news {
            News::Lost { source, why } => Event::DirectoryLost { source, why },
            News::Back { source, after } => Event::DirectoryBack { source, after: *after },
            News::FromSnapshot { age, domains, users } => {
                Event::DirectoryFromSnapshot { age: *age, domains: *domains, users: *users }
            }
            News::Warning { what } => Event::Warning { what },
        });
    }
}

fn admin_address(settings: &Settings, tls: &Arc<net::ServerTls>) -> Result<Option<admin::Address>, Error> {
    let Some(address) = settings.admin.address else { return Ok(None) };
    let token = match &settings.admin.token_file {
        Some(path) => {
            let text = std::fs::read_to_string(path).map_err(io_error(path.display().to_string()))?;
            admin::Token::parse(&text)
        }
        None => None,
    };
    Ok(Some(admin::Address { address, token, tls: settings.admin.tls.then(|| tls.clone()) }))
}

async fn open_spool(settings: &Settings, clock: Clock) -> Result<(Spool, Recovered), Error> {
    let spool_settings = settings::spool(settings);
    let opened = tokio::task::spawn_blocking(move || Spool::open(spool_settings, clock));
    Ok(opened.await.expect("opening a spool does not panic")?)
}

fn report_recovery(recovered: &Recovered, reporter: &Reporter) {
    for finding in &recovered.findings {
        reporter.note(&Event::Finding { what: &finding.to_string() });
        match finding {
            spool::Finding::Lost { id, .. } => {
                reporter.note(&Event::Quarantined { id: *id, why: "its envelope is damaged" });
            }
            spool::Finding::OrphanBody { id } => {
                reporter.note(&Event::Quarantined { id: *id, why: "no record of it is left" });
            }
            spool::Finding::TornTail { .. }
            | spool::Finding::Damaged { .. }
            | spool::Finding::Repaired { .. }
            | spool::Finding::Unreadable { .. }
            | spool::Finding::MissingBody { .. } => {}
        }
    }
    for message in recovered.messages.iter().filter(|message| message.quarantined) {
        let why = message.quarantine.as_deref().unwrap_or("set aside before the restart");
        reporter.note(&Event::Quarantined { id: message.envelope.id, why });
    }
    reporter
        .note(&Event::Recovered { messages: recovered.messages.len(), findings: recovered.findings.len() });
}

/// What couriers use. `identity` is shown to next hops that ask: other regions' edges know us by it.
/// `ledger` counts how TLS goes, where that is to be reported.
pub fn services(
    settings: &Settings,
    identity: Option<&Identity>,
    resolver: &Arc<Resolver>,
    ledger: Option<&Arc<delivery::Ledger>>,
) -> Result<delivery::Services, Error> {
    let ledger = ledger.filter(|_| settings.outbound.tls_reports).cloned();
    Ok(delivery::Services {
        hostname: settings.node.hostname.as_str().into(),
        dialer: Arc::new(net::Network),
        resolver: resolver.clone(),
        tls: Arc::new(ClientTls::new(Roots::system(), identity)?),
        patience: settings::delivery_patience(settings),
        troubled: delivery::Troubled::default(),
        internet: Some(Arc::new(internet(settings, ledger)?)),
        clock: Clock::System,
    })
}

fn internet(settings: &Settings, ledger: Option<Arc<delivery::Ledger>>) -> Result<delivery::Internet, Error> {
    let roots = match &settings.outbound.ca {
        Some(authorities) => Roots::system().and_file(authorities)?,
        None => Roots::system(),
    };
    let tls = Arc::new(ClientTls::new(roots, None)?);
    Ok(delivery::Internet::new(settings::internet(settings, &interfaces()), tls, ledger, Clock::System))
}

/// The addresses of this machine; none when the system does not tell.
fn interfaces() -> Vec<IpAddr> {
    let Ok(interfaces) = nix::ifaddrs::getifaddrs() else { return Vec::new() };
    let addresses = interfaces.filter_map(|interface| interface.address);
    let ip = |address: nix::sys::socket::SockaddrStorage| match (
        address.as_sockaddr_in(),
        address.as_sockaddr_in6(),
    ) {
        (Some(four), _) => Some(IpAddr::V4(four.ip())),
        (None, Some(six)) => Some(IpAddr::V6(six.ip())),
        (None, None) => None,
    };
    addresses.filter_map(ip).collect()
}

/// Says once when names turn out to come without the signatures that would prove them.
async fn watch_validation(mut validation: watch::Receiver<Validation>, reporter: Reporter) {
    while validation.changed().await.is_ok() {
        match *validation.borrow_and_update() {
            Validation::Impossible => reporter.note(&Event::Warning {
                what: "[dns] servers answer without DNSSEC signatures: nothing is validated, and DANE is not used",
            }),
            Validation::Unknown | Validation::On | Validation::Off => {}
        }
    }
}
