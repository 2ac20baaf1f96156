//! Message: DKIM, ARC and DMARC of one message, from its header section and the hashes of its body.
//!
//! mail-auth judges signatures and policies; which of them are put to it, the keys and the hashes are ours.

use std::fmt;
use std::sync::Arc;

use hickory_resolver::TokioResolver;
use hickory_resolver::config::ResolverConfig;
use hickory_resolver::net::runtime::TokioRuntimeProvider;
use mail_auth::arc::ArcError;
use mail_auth::common::crypto::{Algorithm, CryptoError, HashAlgorithm};
use mail_auth::common::to_a_label;
use mail_auth::common::verify::VerifySignature;
use mail_auth::dkim::{Canonicalization, DkimError, Signature};
use mail_auth::dmarc::{self, verify::DmarcParameters};
use mail_auth::{
    ArcOutput, AuthenticatedMessage, DkimOutput, DkimResult, DmarcResult, DnsError, Error,
    MessageAuthenticator, Parameters, SpfOutput,
};
use tokio::time::{Instant, timeout_at};

use crate::dns::{Answer, Resolver};
use crate::mail::{Domain, SpfResult};

use super::answers::{Answers, Kind, policy_name};
use super::body::BodyHash;
use super::findings::{Dmarc, Finding, Mark, Policy, Unread};

/// Header fields of one message; more is nobody's letter.
const FIELDS_LIMIT: usize = 2000;
/// Names in one `h=`: each is searched among all fields.
const SIGNED_NAMES_LIMIT: usize = 256;
/// Sets of an ARC chain (RFC 8617 §5.2.1 allows 50).
const SETS_LIMIT: usize = 50;
/// DKIM identities of other domains whose organisation is looked up for DMARC.
const IDENTITIES_LIMIT: usize = 10;

/// Asks nobody: all it wants is in `Answers`.
pub(super) struct Judge(MessageAuthenticator);

impl fmt::Debug for Judge {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("Judge")
    }
}

impl Judge {
    pub(super) fn new() -> Self {
        let nobody = ResolverConfig::from_parts(None, Vec::new(), Vec::new());
        let resolver = TokioResolver::builder_with_config(nobody, TokioRuntimeProvider::default()).build();
        Self(MessageAuthenticator(resolver.expect("a resolver without servers needs nothing to be built")))
    }
}

/// What of a message is to be judged.
pub(super) struct Wanted {
    pub(super) dkim: bool,
    pub(super) arc: bool,
    pub(super) dmarc: bool,
    /// DKIM signatures that are verified.
    pub(super) signatures: usize,
}

/// What is judged: a header section without mistakes that would hide part of it from us.
pub(super) struct Message<'h> {
    parsed: AuthenticatedMessage<'h>,
    /// Signatures that are not put to the judge, with the reason.
    set_aside: Vec<Finding>,
}

/// Why nothing can be said of a message.
pub(super) enum Unreadable {
    /// There is no header field at all.
    Empty,
    Malformed,
    TooManyFields,
}

impl<'h> Message<'h> {
    pub(super) fn read(head: &'h [u8], wanted: &Wanted) -> Result<Self, Unreadable> {
        let Some(mut parsed) = AuthenticatedMessage::parse(head) else {
            let is_empty = head.iter().all(u8::is_ascii_whitespace);
            return Err(if is_empty { Unreadable::Empty } else { Unreadable::Malformed });
        };
        let ends_early = parsed.raw_body().iter().any(|byte| !byte.is_ascii_whitespace());
        if ends_early || matches!(head.first(), Some(b' ' | b'\t')) {
            return Err(Unreadable::Malformed);
        }
        if parsed.headers.len() > FIELDS_LIMIT {
            return Err(Unreadable::TooManyFields);
        }
        let mut set_aside = Vec::new();
        let mut kept = Vec::new();
        let mut more = 0;
        for mut field in std::mem::take(&mut parsed.dkim_headers) {
            match unacceptable(&field.header) {
                _ if kept.len() + set_aside.len() >= wanted.signatures => more += 1,
                Some((mark, why)) => {
                    set_aside.push(about(Finding::new("dkim", mark).because(why), &field.header))
                }
                None => {
                    // Third parties' signatures (RFC 6541) and failure reports (RFC 6651) are extensions that
                    // would have us ask for more names.
                    field.header.atps = None;
                    field.header.r = false;
                    kept.push(field);
                }
            }
        }
        if more > 0 {
            let why = format!("{more} more signatures were not looked at");
            set_aside.push(Finding::new("dkim", Mark::Policy).because(why));
        }
        parsed.dkim_headers = kept;
        parsed.errors.truncate(wanted.signatures);
        if !wanted.arc {
            parsed.ams_headers.clear();
        }
        Ok(Self { parsed, set_aside })
    }

    /// Which hashes of the body the signatures are about.
    pub(super) fn body_forms(&self) -> Vec<Canonicalization> {
        let dkim = self.parsed.dkim_headers.iter().map(|field| field.header.cb);
        // Of an ARC chain only the last signature is about the body as it is now.
        let arc = self.parsed.ams_headers.last().map(|field| field.header.cb);
        let mut forms: Vec<Canonicalization> = Vec::new();
        for form in dkim.chain(arc) {
            if !forms.contains(&form) {
                forms.push(form);
            }
        }
        forms
    }

    pub(super) fn put_hashes(&mut self, hashes: Vec<BodyHash>) {
        for hash in hashes {
            let form = hash.form();
            let value = hash.finish();
            for (canonical, algorithm, _, body_hash) in &mut self.parsed.body_hashes {
                if *canonical == form && *algorithm == HashAlgorithm::Sha256 {
                    body_hash.clone_from(&value);
                }
            }
        }
    }
}

/// The author's domain, or the nearest one above it that mail can have: a policy may hold for names that no
/// address has.
fn nearest_domain(author: &str) -> Option<Domain> {
    let above = std::iter::successors(Some(author), |name| name.split_once('.').map(|(_, rest)| rest));
    above.filter_map(|name| Domain::parse(name).ok()).next()
}

/// What no verifier may accept, or need not: found before anything is asked or computed.
fn unacceptable(signature: &Signature) -> Option<(Mark, &'static str)> {
    if signature.a == Algorithm::RsaSha1 {
        // RFC 8301 §3.1
        return Some((Mark::Policy, "rsa-sha1 is not acceptable"));
    }
    if !signature.h.iter().any(|name| name.eq_ignore_ascii_case("from")) {
        // RFC 6376 §5.4
        return Some((Mark::PermError, "From is not signed"));
    }
    if signature.h.len() > SIGNED_NAMES_LIMIT {
        return Some((Mark::Policy, "too many signed fields"));
    }
    None
}

/// What a message's signatures and its author's policy came to.
#[derive(Default)]
pub(super) struct Judged {
    pub(super) dkim: Vec<Finding>,
    pub(super) arc: Option<Finding>,
    pub(super) dmarc: Option<(Finding, Dmarc)>,
    pub(super) unread: Option<Unread>,
}

/// What SPF said, for DMARC: whose domain it was about, and the result.
pub(super) struct Sender {
    pub(super) domain: String,
    pub(super) result: SpfResult,
}

impl Judge {
    /// Nothing is asked after `until`; what is not known by then is a temperror.
    pub(super) async fn judge(
        &self,
        resolver: &Arc<Resolver>,
        message: Message<'_>,
        wanted: &Wanted,
        sender: Option<Sender>,
        until: Instant,
    ) -> Judged {
        let Message { parsed, set_aside } = message;
        let mut judged = Judged::default();
        let mut keys = Answers::default();
        keys.look_up(resolver, Kind::Key, key_names(&parsed), until).await;
        let mut outputs = Vec::new();
        if wanted.dkim {
            let parameters = Parameters::new(&parsed).with_txt_cache(&keys);
            outputs = Box::pin(self.0.verify_dkim(parameters)).await;
            judged.dkim = outputs.iter().map(dkim_finding).chain(set_aside).collect();
        }
        if wanted.arc {
            judged.arc = match unacceptable_chain(&parsed) {
                Some(why) => Some(Finding::new("arc", Mark::Fail).because(why)),
                None => {
                    let parameters = Parameters::new(&parsed).with_txt_cache(&keys);
                    arc_finding(&Box::pin(self.0.verify_arc(parameters)).await)
                }
            };
        }
        if wanted.dmarc {
            judged.dmarc = Some(match author_domain(&parsed) {
                Ok(author) => self.dmarc(resolver, author, &outputs, sender, until).await,
                Err(NoAuthor::Nobody(why)) => no_policy(Finding::new("dmarc", Mark::None).because(why)),
                Err(NoAuthor::Hidden(why)) => {
                    judged.unread = Some(Unread::Header);
                    no_policy(Finding::new("dmarc", Mark::PermError).because(why))
                }
            });
        }
        judged
    }

    async fn dmarc(
        &self,
        resolver: &Arc<Resolver>,
        author: String,
        dkim: &[DkimOutput<'_>],
        sender: Option<Sender>,
        until: Instant,
    ) -> (Finding, Dmarc) {
        let mut policies = Answers::default();
        let names = walk(&author).map(policy_name);
        policies.look_up(resolver, Kind::Policy, names, until).await;
        // Alignment is with the organisation of the author's domain, which is a name of this walk (§4.10.2).
        let organisation = walk(&author).filter(|name| policies.policy_at(name).is_some()).last();
        if let Some(organisation) = organisation {
            let below = |name: &&str| is_below(name, organisation) && **name != *author;
            let signers =
                dkim.iter().filter_map(|output| output.signature()).map(|signature| signature.d.as_str());
            let others = sender.iter().map(|sender| sender.domain.as_str()).chain(signers).filter(below);
            let names = others.take(IDENTITIES_LIMIT).flat_map(walk).map(policy_name);
            policies.look_up(resolver, Kind::Policy, names.collect::<Vec<_>>(), until).await;
        }
        let sender_domain = sender.as_ref().map_or("", |sender| sender.domain.as_str());
        let spf = SpfOutput::new(sender_domain.to_owned()).with_result(
            sender.as_ref().map_or(mail_auth::SpfResult::None, |sender| spf_result(sender.result)),
        );
        // Of the message the judge looks at the author alone, whose domain is put right here.
        let written = AuthenticatedMessage { from: vec![format!("author@{author}")], ..Default::default() };
        let parameters = DmarcParameters::new(&written, dkim, sender_domain, &spf);
        let output =
            Box::pin(self.0.verify_dmarc(Parameters::new(parameters).with_txt_cache(&policies))).await;
        let mut policy = match output.policy() {
            dmarc::Policy::Reject => Policy::Reject,
            dmarc::Policy::Quarantine => Policy::Quarantine,
            dmarc::Policy::None | dmarc::Policy::Unspecified => Policy::None,
        };
        if let Some(record) = output.dmarc_record()
            && record.np != record.sp
            && policies.policy_at(&author).is_none()
            && is_nowhere(resolver, &author, until).await
        {
            policy = for_absent(record);
        }
        let (mark, reason) = match output.result() {
            DmarcResult::Pass => (Mark::Pass, None),
            DmarcResult::Fail(_) => (Mark::Fail, None),
            DmarcResult::TempError(error) => (Mark::TempError, Some(words(&error))),
            DmarcResult::PermError(error) => (Mark::PermError, Some(words(&error))),
            DmarcResult::None => (Mark::None, None),
        };
        let mut finding = Finding::new("dmarc", mark).about("header.from", &*author);
        finding.reason = reason.map(Into::into);
        if output.dmarc_record().is_some() {
            finding = finding.about("policy.dmarc", policy.word());
        }
        (finding, Dmarc { mark, domain: nearest_domain(&author), policy })
    }
}

/// Every key that is needed, so that all can be asked for at once.
fn key_names(parsed: &AuthenticatedMessage<'_>) -> Vec<String> {
    let dkim = parsed.dkim_headers.iter().map(|field| field.header.domain_key());
    let last = parsed.ams_headers.last().map(|field| field.header.domain_key());
    let sets = if parsed.ams_headers.is_empty() { 0 } else { SETS_LIMIT };
    let seals = parsed.as_headers.iter().take(sets).map(|field| field.header.domain_key());
    dkim.chain(last).chain(seals).collect()
}

fn dkim_finding(output: &DkimOutput<'_>) -> Finding {
    let (mark, error) = match output.result() {
        DkimResult::Pass => (Mark::Pass, None),
        // It was signed, and the body is not what was signed (RFC 8601 §2.7.1).
        DkimResult::Neutral(error @ Error::Dkim(DkimError::FailedBodyHashMatch)) => (Mark::Fail, Some(error)),
        DkimResult::Neutral(error) => (Mark::Neutral, Some(error)),
        DkimResult::Fail(error) => (Mark::Fail, Some(error)),
        DkimResult::PermError(error) => (Mark::PermError, Some(error)),
        DkimResult::TempError(error) => (Mark::TempError, Some(error)),
        DkimResult::None => (Mark::None, None),
    };
    let mut finding = Finding::new("dkim", mark);
    finding.reason = error.map(|error| words(error).into());
    match output.signature() {
        Some(signature) => about(finding, signature),
        None => finding,
    }
}

fn arc_finding(output: &ArcOutput<'_>) -> Option<Finding> {
    let finding = match output.result() {
        DkimResult::None => return None,
        DkimResult::Pass => Finding::new("arc", Mark::Pass),
        DkimResult::TempError(error) => Finding::new("arc", Mark::TempError).because(words(error)),
        // A chain holds or it does not (RFC 8617 §4.4).
        DkimResult::Neutral(error) | DkimResult::Fail(error) | DkimResult::PermError(error) => {
            Finding::new("arc", Mark::Fail).because(words(error))
        }
    };
    let sealer = output.sets().last().map(|set| set.seal.header.d.clone()).unwrap_or_default();
    Some(finding.about("header.d", sealer))
}

/// What is not put to the judge at all.
fn unacceptable_chain(parsed: &AuthenticatedMessage<'_>) -> Option<&'static str> {
    let old = |algorithm| algorithm == Algorithm::RsaSha1;
    if parsed.as_headers.iter().any(|field| old(field.header.a))
        || parsed.ams_headers.iter().any(|field| old(field.header.a))
    {
        return Some("rsa-sha1 is not acceptable");
    }
    parsed
        .ams_headers
        .iter()
        .any(|field| field.header.h.len() > SIGNED_NAMES_LIMIT)
        .then_some("too many signed fields")
}

/// Why there is no domain whose policy could count.
enum NoAuthor {
    Nobody(&'static str),
    /// Readers will show one, and may not agree on which.
    Hidden(&'static str),
}

/// The one domain of the authors in From, as A-labels.
fn author_domain(parsed: &AuthenticatedMessage<'_>) -> Result<String, NoAuthor> {
    let is_from = |name: &[u8]| name.trim_ascii().eq_ignore_ascii_case(b"from");
    // RFC 5322 §3.6
    if parsed.headers.iter().filter(|(name, _)| is_from(name)).count() > 1 {
        return Err(NoAuthor::Hidden("more than one From"));
    }
    let plain = |domain: &str| {
        let domain = domain.trim().trim_end_matches('.');
        to_a_label(domain).into_owned()
    };
    let mut domains =
        parsed.from.iter().filter_map(|from| from.rsplit_once('@')).map(|(_, domain)| plain(domain));
    let first = domains.next().ok_or(NoAuthor::Nobody("no author's domain"))?;
    // Authors of several domains have no one policy (RFC 9989 §5.3.2).
    if domains.any(|domain| domain != first) {
        return Err(NoAuthor::Nobody("authors of several domains"));
    }
    // Underscores and the like may be in names of the DNS, for which a policy may hold.
    if !first.bytes().all(|byte| byte.is_ascii_graphic()) {
        return Err(NoAuthor::Hidden("the author's domain is none"));
    }
    Ok(first)
}

fn no_policy(finding: Finding) -> (Finding, Dmarc) {
    let mark = finding.mark;
    (finding, Dmarc { mark, domain: None, policy: Policy::None })
}

/// The names at which a domain's policy may be, longest first: at most eight (RFC 9989 §4.10).
fn walk(domain: &str) -> impl Iterator<Item = &str> {
    let labels = domain.split('.').filter(|label| !label.is_empty()).count();
    let first = (labels >= 2).then_some(labels);
    let counts = std::iter::successors(first, |count| match count {
        1 => None,
        8.. => Some(7),
        count => Some(count - 1),
    });
    counts.map(move |count| {
        let dots = labels - count;
        (0..dots).fold(domain, |name, _| name.split_once('.').map_or("", |(_, rest)| rest))
    })
}

fn is_below(name: &str, domain: &str) -> bool {
    name.strip_suffix(domain).is_some_and(|rest| rest.is_empty() || rest.ends_with('.'))
}

/// Whether the author's domain does not exist at all, which has a policy of its own (RFC 9989 §4.7, "np").
async fn is_nowhere(resolver: &Resolver, domain: &str, until: Instant) -> bool {
    matches!(timeout_at(until, Box::pin(resolver.a(domain))).await, Ok(Answer::NoName { .. }))
}

fn for_absent(record: &dmarc::Dmarc) -> Policy {
    match (record.np, record.t) {
        (dmarc::Policy::Reject, false) => Policy::Reject,
        (dmarc::Policy::Reject, true) | (dmarc::Policy::Quarantine, false) => Policy::Quarantine,
        (dmarc::Policy::Quarantine, true) | (dmarc::Policy::None | dmarc::Policy::Unspecified, _) => {
            Policy::None
        }
    }
}

fn spf_result(result: SpfResult) -> mail_auth::SpfResult {
    match result {
        SpfResult::None => mail_auth::SpfResult::None,
        SpfResult::Neutral => mail_auth::SpfResult::Neutral,
        SpfResult::Pass => mail_auth::SpfResult::Pass,
        SpfResult::Fail => mail_auth::SpfResult::Fail,
        SpfResult::SoftFail => mail_auth::SpfResult::SoftFail,
        SpfResult::TempError => mail_auth::SpfResult::TempError,
        SpfResult::PermError => mail_auth::SpfResult::PermError,
    }
}

fn about(finding: Finding, signature: &Signature) -> Finding {
    finding
        .about("header.d", signature.d.as_str())
        .about("header.s", signature.s.as_str())
        .about("header.a", signature.a.name())
        .about("header.b", beginning(&signature.b))
}

/// The first characters of a signature, as RFC 6008 §4 tells signatures of one domain apart.
fn beginning(signature: &[u8]) -> String {
    const ALPHABET: &[u8; 64] = b"ABCDEFGHIJKLMNOPQRSTUVWXYZabcdefghijklmnopqrstuvwxyz0123456789+/";
    let Some(bytes) = signature.first_chunk::<6>() else { return String::new() };
    let bits = bytes.iter().fold(0_u64, |bits, byte| bits << 8 | u64::from(*byte));
    (0..8).rev().map(|at| char::from(ALPHABET[(bits >> (6 * at) & 0x3f) as usize])).collect()
}

/// In the words that others use too.
fn words(error: &Error) -> &'static str {
    match error {
        Error::ParseError => "malformed",
        Error::MissingParameters => "missing parameters",
        Error::NoHeadersFound => "no headers",
        Error::Base64 => "bad base64",
        Error::NotAligned => "not aligned",
        Error::Io(_) => "a lookup failed",
        Error::Crypto(CryptoError::FailedVerification | CryptoError::Library(_)) => {
            "signature did not verify"
        }
        Error::Crypto(CryptoError::IncompatibleAlgorithms) => "key is of another algorithm",
        Error::Dns(DnsError::Resolver(_)) => "a lookup failed",
        Error::Dns(DnsError::RecordNotFound(_)) => "no key for signature",
        Error::Dns(DnsError::InvalidRecordType) => "record is malformed",
        Error::Dkim(DkimError::UnsupportedVersion) => "unsupported version",
        Error::Dkim(DkimError::UnsupportedAlgorithm) => "unsupported algorithm",
        Error::Dkim(DkimError::UnsupportedCanonicalization) => "unsupported canonicalization",
        Error::Dkim(DkimError::UnsupportedKeyType) => "unsupported key type",
        Error::Dkim(DkimError::FailedBodyHashMatch) | Error::Arc(ArcError::FailedBodyHashMatch) => {
            "body hash did not verify"
        }
        Error::Dkim(DkimError::FailedAuidMatch) => "i= is not of the domain",
        Error::Dkim(DkimError::RevokedPublicKey) => "key is revoked",
        Error::Dkim(DkimError::SignatureExpired) | Error::Arc(ArcError::SignatureExpired) => {
            "signature expired"
        }
        Error::Dkim(DkimError::SignatureLength) | Error::Arc(ArcError::SignatureLength) => {
            "signature of a part of the body"
        }
        Error::Arc(ArcError::ChainTooLong) => "chain is too long",
        Error::Arc(ArcError::InvalidInstance(_)) => "instances are not in order",
        Error::Arc(ArcError::InvalidCV) => "chain was broken before",
        Error::Arc(ArcError::HasHeaderTag) => "seal has h=",
        Error::Arc(ArcError::BrokenChain) => "chain is not whole",
        Error::Dkim2(_) => "malformed",
    }
}
