//! Withheld: the domains whose addresses are not named here: strict tenants' that enter elsewhere (rule 22).
//!
//! Learned from the answers of the directory, by `inquiry`; asked by the log and the trace before they write
//! an address. Bounded by the directory, and by a limit for domains that nobody could be asked about.

use std::borrow::Cow;
use std::collections::HashSet;
use std::fmt::Display;
use std::sync::Arc;

use arc_swap::ArcSwap;

use crate::mail::{Address, Domain, RemoteReply, Sender};

/// Domains beyond this are not learned while the directory does not answer.
const UNSURE_LIMIT: usize = 10_000;

#[derive(Debug, Default)]
pub struct Withheld(ArcSwap<HashSet<Box<str>>>);

/// Whether a domain's addresses may be written down here.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Privacy {
    Open,
    Withheld,
    /// The directory did not answer: withheld until it does.
    Unsure,
}

impl Withheld {
    pub fn learn(&self, domain: &Domain, privacy: Privacy) {
        let known = self.0.load();
        let wanted = match privacy {
            Privacy::Open => false,
            Privacy::Withheld => true,
            Privacy::Unsure => known.contains(domain.as_str()) || known.len() < UNSURE_LIMIT,
        };
        if known.contains(domain.as_str()) == wanted {
            return;
        }
        self.0.rcu(|known| {
            let mut known = HashSet::clone(known);
            if wanted {
                known.insert(domain.as_str().into());
            } else {
                known.remove(domain.as_str());
            }
            Arc::new(known)
        });
    }

    pub fn is_open(&self, domain: &Domain) -> bool {
        let known = self.0.load();
        known.is_empty()
            || !known.contains(domain.as_str()) && !domain.parents().any(|parent| known.contains(parent))
    }

    /// The address, or its domain alone.
    pub fn shown(&self, address: &Address) -> String {
        if self.is_open(address.domain()) { address.to_string() } else { format!("@{}", address.domain()) }
    }

    pub fn shown_sender(&self, sender: &Sender) -> String {
        sender.as_ref().map_or_else(|| "<>".to_owned(), |address| self.shown(address))
    }

    /// As `shown_sender`; by its domain alone unless `privacy` is open.
    pub(super) fn shown_as(&self, sender: &Sender, privacy: Privacy) -> String {
        match (sender, privacy) {
            (Some(address), Privacy::Withheld | Privacy::Unsure) => format!("@{}", address.domain()),
            (_, Privacy::Open) | (None, _) => self.shown_sender(sender),
        }
    }

    /// What a next hop said about a recipient: its words may repeat an address that is withheld.
    pub(super) fn shown_reply(&self, reply: &RemoteReply, recipient: &Address) -> String {
        match (self.is_open(recipient.domain()), reply.code) {
            (true, _) => self.scrubbed(&reply.line()).into_owned(),
            (false, 0) => reply.status.to_string(),
            (false, code) => format!("{code} {}", reply.status),
        }
    }

    /// Words that may name addresses: those that are withheld lose their local part.
    pub fn scrubbed<'t>(&self, text: &'t str) -> Cow<'t, str> {
        if self.0.load().is_empty() || !text.contains('@') {
            return Cow::Borrowed(text);
        }
        let mut out = String::with_capacity(text.len());
        let mut rest = text;
        while let Some(at) = rest.find('@') {
            let (before, after) = rest.split_at(at);
            let end = after[1..].find(|c: char| !(c.is_ascii_alphanumeric() || ".-".contains(c)));
            let (domain, next) = after[1..].split_at(end.unwrap_or(after.len() - 1));
            let withheld = Domain::parse(domain.trim_end_matches('.')).is_ok_and(|it| !self.is_open(&it));
            out.push_str(if withheld { without_local_part(before) } else { before });
            out.push('@');
            out.push_str(domain);
            rest = next;
        }
        out.push_str(rest);
        Cow::Owned(out)
    }

    /// For log lines: nothing is made where nobody listens.
    pub(super) fn display<'a>(&'a self, address: &'a Address) -> impl Display + 'a {
        std::fmt::from_fn(move |f| {
            if self.is_open(address.domain()) {
                write!(f, "{address}")
            } else {
                write!(f, "@{}", address.domain())
            }
        })
    }
}

fn without_local_part(before: &str) -> &str {
    if let Some(quoted) = before.strip_suffix('"') {
        return &before[..quoted.rfind('"').unwrap_or(0)];
    }
    let start = before.rfind(|c: char| c.is_whitespace() || "<>=:;,()[]".contains(c));
    &before[..start.map_or(0, |at| at + before[at..].chars().next().map_or(1, char::len_utf8))]
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_is_withheld_is_named_by_its_domain_until_the_directory_says_otherwise() {
        let withheld = Withheld::default();
        let address = Address::parse("anna@strict.example").expect("an address");
        let below = Address::parse("anna@eu.strict.example").expect("an address");
        assert_eq!(withheld.shown(&address), "anna@strict.example");
        withheld.learn(address.domain(), Privacy::Withheld);
        assert_eq!(withheld.shown(&address), "@strict.example");
        assert_eq!(withheld.shown(&below), "@eu.strict.example");
        assert_eq!(withheld.display(&address).to_string(), "@strict.example");
        for (text, scrubbed) in [
            ("550 5.1.1 <anna@strict.example> is unknown", "550 5.1.1 <@strict.example> is unknown"),
            ("smtp.mailfrom=anna@strict.example; a@b.example", "smtp.mailfrom=@strict.example; a@b.example"),
            ("\"a b\"@strict.example.", "@strict.example."),
            ("anna@Strict.Example", "@Strict.Example"),
            ("@strict.example", "@strict.example"),
            ("no address", "no address"),
        ] {
            assert_eq!(withheld.scrubbed(text), scrubbed);
        }
        withheld.learn(address.domain(), Privacy::Open);
        assert_eq!(withheld.shown(&address), "anna@strict.example");
        withheld.learn(address.domain(), Privacy::Unsure);
        assert_eq!(withheld.shown(&address), "@strict.example");
        assert_eq!(withheld.shown_sender(&None), "<>");
    }
}
