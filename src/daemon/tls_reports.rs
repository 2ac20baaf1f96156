//! Tls_reports: once a period, domains that ask for it are told how TLS went with them (RFC 8460).
//!
//! Owns the periods, their files below `state_dir/tls-reports`, and the sending. `delivery` counts.

use std::fs;
use std::io::Write;
use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::time::Duration;

use flate2::Compression;
use flate2::write::GzEncoder;
use mail_auth::common::parse::TxtRecordParser;
use mail_auth::mta_sts::{ReportUri, TlsRpt};
use mail_auth::report::tlsrpt::{DateRange, TlsReport};
use mail_parser::DateTime;
use serde::{Deserialize, Serialize};
use tokio::sync::mpsc;

use crate::clock::{Clock, Timestamp};
use crate::config::Settings;
use crate::delivery::{Counts, Ledger, Services};
use crate::dns::{Answer, Resolver};
use crate::mail::{Address, Envelope, Recipient, Transport};
use crate::report::{Event, Reporter};
use crate::spool::{Accepted, Notice, Spool};

/// How often the counts are written down: so much of them a crash may cost.
const WRITE_EVERY: Duration = Duration::from_secs(30);
/// Addresses of one domain that are served. RFC 8460 §3
const ADDRESSES_LIMIT: usize = 4;
/// What could not be reported for so long is dropped. RFC 8460 §5.5
const GIVE_UP_AFTER: Duration = Duration::from_secs(24 * 3600);
/// How often a report that did not go is tried again.
const AGAIN_AFTER: Duration = Duration::from_secs(15 * 60);

/// Everything that reporting needs.
pub(super) struct Desk {
    pub(super) settings: Settings,
    pub(super) ledger: Arc<Ledger>,
    pub(super) resolver: Arc<Resolver>,
    pub(super) services: Arc<Services>,
    pub(super) spool: Spool,
    pub(super) arrivals: mpsc::Sender<Accepted>,
    pub(super) reporter: Reporter,
    pub(super) clock: Clock,
}

/// One period as its file holds it.
#[derive(Debug, Serialize, Deserialize)]
struct Period {
    start: Timestamp,
    end: Timestamp,
    counts: Counts,
}

/// What became of one domain's report.
enum Fate {
    Done,
    Later,
}

impl Desk {
    /// As long as the daemon runs.
    pub(super) async fn work(self) {
        if !self.settings.outbound.tls_reports {
            return;
        }
        let interval = self.settings.outbound.tls_report_interval;
        let (mut start, mut end) = period_of(self.clock.now(), interval);
        // What an earlier run counted in this period goes on; what it left of another is ready to go.
        if let Some(kept) = read(&current(&self.settings)) {
            if kept.start == start && kept.end == end {
                self.ledger.restore(kept.counts);
            } else {
                write(&finished(&self.settings, &kept), &kept);
            }
        }
        let mut again_at = self.clock.now();
        loop {
            let now = self.clock.now();
            tokio::time::sleep(end.since(now).min(WRITE_EVERY).max(Duration::from_millis(100))).await;
            let now = self.clock.now();
            if now >= end {
                let period = Period { start, end, counts: self.ledger.take() };
                if !period.counts.is_empty() {
                    write(&finished(&self.settings, &period), &period);
                }
                (start, end) = period_of(now, interval);
                again_at = now;
            }
            write(&current(&self.settings), &Period { start, end, counts: self.ledger.counts() });
            if now >= again_at {
                again_at = now.plus(AGAIN_AFTER);
                self.send_all(now).await;
            }
        }
    }

    async fn send_all(&self, now: Timestamp) {
        let Ok(files) = fs::read_dir(folder(&self.settings)) else { return };
        let files = files.flatten().map(|file| file.path());
        for path in files.filter(|path| *path != current(&self.settings)) {
            let Some(mut period) = read(&path) else {
                let _ = fs::remove_file(&path);
                continue;
            };
            for domain in period.counts.keys().cloned().collect::<Vec<_>>() {
                let counted = period.counts[&domain].clone();
                let report = self.report(&domain, &period, counted);
                match Box::pin(self.send(&domain, &report)).await {
                    Fate::Done => {
                        period.counts.remove(&domain);
                        // At once: what has gone must not go again after a crash.
                        write(&path, &period);
                    }
                    Fate::Later => {}
                }
            }
            if period.counts.is_empty() || now.since(period.end) > GIVE_UP_AFTER {
                let _ = fs::remove_file(&path);
            }
        }
    }

    fn report(
        &self,
        domain: &str,
        period: &Period,
        policies: Vec<mail_auth::report::tlsrpt::Policy>,
    ) -> TlsReport {
        let moment = |at: Timestamp| DateTime::from_timestamp(at.millis() / 1000);
        let hostname = self.settings.node.hostname.as_str();
        TlsReport {
            organization_name: Some(hostname.to_owned()),
            date_range: DateRange { start_datetime: moment(period.start), end_datetime: moment(period.end) },
            contact_info: Some(self.sender().to_string()),
            report_id: format!("{}.{domain}@{hostname}", period.start.millis() / 1000),
            policies,
        }
    }

    fn sender(&self) -> Address {
        let own = || Address::postmaster_at(self.settings.node.hostname.clone());
        self.settings.outbound.tls_report_from.clone().unwrap_or_else(own)
    }

    async fn send(&self, domain: &str, report: &TlsReport) -> Fate {
        let wanted = match self.resolver.txt(&format!("_smtp._tls.{domain}.")).await {
            Answer::Found(found) => found.records,
            Answer::NoData { .. } | Answer::NoName { .. } => return Fate::Done,
            Answer::Failed(_) => return Fate::Later,
        };
        // More than one record is as good as none. RFC 8460 §3
        let mut wanted = wanted.iter().filter(|text| text.starts_with(b"v=TLSRPTv1"));
        let (Some(wanted), None) = (wanted.next(), wanted.next()) else { return Fate::Done };
        let Ok(TlsRpt { rua }) = TlsRpt::parse(wanted) else { return Fate::Done };
        let mut gzip = GzEncoder::new(Vec::new(), Compression::default());
        let _ = gzip.write_all(report.to_json().as_bytes());
        let Ok(bytes) = gzip.finish() else { return Fate::Done };
        let mut fate = Fate::Done;
        for address in rua.iter().take(ADDRESSES_LIMIT) {
            let (to, sent) = match address {
                ReportUri::Mail(to) => (to, self.mail(domain, report, to, &bytes).await),
                ReportUri::Http(url) => (url, self.post(url, &bytes).await),
            };
            match sent {
                Ok(()) => self.reporter.note(&Event::TlsReported { domain, to }),
                Err(why) => {
                    tracing::debug!(domain, to, why, "a TLS report did not go");
                    fate = Fate::Later;
                }
            }
        }
        fate
    }

    async fn post(&self, url: &str, bytes: &[u8]) -> Result<(), String> {
        let internet = self.services.internet.as_ref().ok_or("there is no way to the internet")?;
        internet.post(url, "application/tlsrpt+gzip", bytes.to_vec(), &self.resolver).await
    }

    /// By mail, through our own queue. From nobody: a report that bounces is nobody's loss.
    async fn mail(&self, domain: &str, report: &TlsReport, to: &str, bytes: &[u8]) -> Result<(), String> {
        // An address that is none is not tried again.
        let Ok(recipient) = Address::parse(to) else { return Ok(()) };
        let from = self.sender().to_string();
        // The trouble may be the very TLS that the report is about. RFC 8460 §5.3, RFC 8689 §5
        let mut content = b"TLS-Required: No\r\n".to_vec();
        let hostname = self.settings.node.hostname.as_str();
        report
            .write_rfc5322_from_bytes(
                domain,
                hostname,
                from.as_str(),
                std::iter::once(to),
                bytes,
                &mut content,
            )
            .map_err(|error| error.to_string())?;
        let envelope = Envelope {
            transport: Transport::Notice,
            ..Envelope::new(self.spool.mint(), self.clock.now(), None, vec![Recipient::new(recipient)])
        };
        let notice = Notice { envelope, content: content.into() };
        let accepted = self.spool.store_notice(notice).await.map_err(|error| format!("{error:?}"))?;
        self.arrivals.send(accepted).await.map_err(|_| "the daemon stops".to_owned())
    }
}

/// At the daemon's end.
pub(super) async fn write_down(settings: &Settings, ledger: &Ledger) {
    if settings.outbound.tls_reports {
        let (start, end) = period_of(Clock::System.now(), settings.outbound.tls_report_interval);
        write(&current(settings), &Period { start, end, counts: ledger.counts() });
    }
}

/// Periods begin at multiples of their length: days begin at midnight, UTC.
fn period_of(now: Timestamp, interval: Duration) -> (Timestamp, Timestamp) {
    let length = i64::try_from(interval.as_millis()).unwrap_or(i64::MAX).max(1);
    let start = Timestamp::from_millis(now.millis() - now.millis().rem_euclid(length));
    (start, start.plus(interval))
}

fn folder(settings: &Settings) -> PathBuf {
    settings.node.state_dir.join("tls-reports")
}

fn current(settings: &Settings) -> PathBuf {
    folder(settings).join("current.json")
}

fn finished(settings: &Settings, period: &Period) -> PathBuf {
    folder(settings).join(format!("{}.json", period.start.millis() / 1000))
}

fn read(path: &Path) -> Option<Period> {
    serde_json::from_slice(&fs::read(path).ok()?).ok()
}

/// A disk that does not take it costs a report.
fn write(path: &Path, period: &Period) {
    let half = path.with_extension("new");
    let written = path
        .parent()
        .map_or(Ok(()), fs::create_dir_all)
        .and_then(|()| fs::write(&half, serde_json::to_vec(period).expect("plain values")))
        .and_then(|()| fs::rename(&half, path));
    if let Err(error) = written {
        tracing::warn!(path = %path.display(), %error, "TLS results are not kept on disk");
    }
}
