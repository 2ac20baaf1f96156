//! Welcome: what a start prints for people: where it listens, which region it is, and lines to try.

use std::io::Write;
use std::net::{IpAddr, Ipv4Addr, SocketAddr};
use std::sync::Arc;

use crate::config::Settings;
use crate::decision::{Attribution, Door, Reason, Trail};
use crate::inquiry::{Asked, Circumstances, Inquiry, Names, Refused};
use crate::mail::{Address, Peer, User};

/// So many users are looked at for an example of each answer.
const EXAMPLES_FROM: usize = 200;

pub(super) fn print(settings: &Settings, inquiry: &Inquiry, addresses: &[(Arc<str>, SocketAddr)]) {
    // Whoever read our standard output may be gone, after an upgrade say: that ends no daemon.
    let _ = std::io::stdout().write_all(words(settings, inquiry, addresses).as_bytes());
}

fn words(settings: &Settings, inquiry: &Inquiry, addresses: &[(Arc<str>, SocketAddr)]) -> String {
    let (version, node) = (env!("CARGO_PKG_VERSION"), &settings.node);
    let mut words = format!("landfall {version}: {} in region {}\n", node.hostname, node.region);
    for (name, address) in addresses {
        words += &format!("listening on {address} ({name})\n");
    }
    let Some((_, address)) = addresses.first() else { return words };
    let examples = Examples::find(inquiry);
    let line = |recipient: &Address| {
        format!("  swaks --server {} --port {} --to {recipient}", address.ip(), address.port())
    };
    let shown = [
        (&examples.accepted, "250: the message goes to its region's store"),
        (&examples.wrong_region, "451 4.4.62 ... ATTR35: that mail enters in another region"),
        (&examples.unknown, "550 5.4.1: nobody of that name"),
    ];
    if shown.iter().any(|(example, _)| example.is_some()) {
        words += "try:\n";
    }
    for (example, answer) in shown {
        if let Some(recipient) = example {
            words += &format!("{}\n    {answer}\n", line(recipient));
        }
    }
    words
}

#[derive(Default)]
struct Examples {
    accepted: Option<Address>,
    wrong_region: Option<Address>,
    unknown: Option<Address>,
}

impl Examples {
    fn find(inquiry: &Inquiry) -> Self {
        let mut examples = Self::default();
        let table = inquiry.directory().table();
        for (user, _) in table.users().take(EXAMPLES_FROM) {
            examples.look_at(inquiry, &user);
        }
        examples
    }

    fn look_at(&mut self, inquiry: &Inquiry, user: &User) {
        match ask(inquiry, &user.primary) {
            Some(Ok(())) if self.accepted.is_none() => {
                let nobody = Address::parse(&format!("nobody@{}", user.primary.domain())).ok();
                self.unknown =
                    nobody.filter(|nobody| refusal(inquiry, nobody) == Some(Reason::UnknownRecipient));
                self.accepted = Some(user.primary.clone());
            }
            // A strict tenant's address is not named in another region, not even here.
            Some(Err(Refused { reason: Reason::WrongRegion, names: Names::Address }))
                if self.wrong_region.is_none() =>
            {
                self.wrong_region = Some(user.primary.clone());
            }
            Some(_) | None => {}
        }
    }
}

fn refusal(inquiry: &Inquiry, address: &Address) -> Option<Reason> {
    ask(inquiry, address)?.err().map(|refused| refused.reason)
}

/// The decision for a stranger's mail, when it needs no waiting.
fn ask(inquiry: &Inquiry, address: &Address) -> Option<Result<(), Refused>> {
    let stranger = Peer::new(IpAddr::V4(Ipv4Addr::UNSPECIFIED));
    let circumstances = Circumstances {
        attribution: &Attribution::Incoming,
        via: None,
        peer: &stranger,
        sender: None,
        door: Door::Regular,
        region_so_far: None,
    };
    let asked = Asked::Mailbox(address.clone());
    let rules = inquiry.rules();
    let mut trail = Trail::off();
    let mut decision = std::pin::pin!(inquiry.admit(&rules, &asked, &circumstances, &mut trail));
    let mut context = std::task::Context::from_waker(std::task::Waker::noop());
    match decision.as_mut().poll(&mut context) {
        std::task::Poll::Ready(decided) => Some(decided.map(|_| ())),
        std::task::Poll::Pending => None,
    }
}
