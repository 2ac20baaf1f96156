//! Refusal: from `Reason` to `Reply`, the one table.
//!
//! No wildcard arm: a new reason makes the compiler ask what to say. That no lookup failure becomes
//! a 5xx (rule 20) can be read off here.

use crate::decision::Reason;
use crate::limits::Limit;
use crate::mail::Peer;
use crate::smtp::reply::{Answer, Detail, Reply};

pub fn reply_for(reason: &Reason) -> Reply {
    match reason {
        Reason::RelayDenied => Reply::RelayDenied,
        Reason::UnknownRecipient | Reason::SendingDisabled => Reply::UnknownRecipient,
        Reason::WrongRegion => Reply::WrongRegion,
        Reason::MixedRegions => Reply::MixedRegions,
        Reason::PartnerRestricted => Reply::PartnerRestricted,
        Reason::DirectSendForbidden => Reply::DirectSendForbidden,
        Reason::TlsNeeded => Reply::TlsNeeded,
        Reason::ComesAlone => Reply::ComesAlone,
        Reason::Ipv6NotAccepted(_) => Reply::Ipv6NotAccepted,
        Reason::Ipv6WithoutPtr => Reply::Ipv6WithoutPtr,
        Reason::Ipv6Unauthenticated => Reply::Ipv6Unauthenticated,
        Reason::DmarcRejected(_) => Reply::DmarcRejected,
        Reason::HeaderUnreadable => Reply::HeaderUnreadable,
        Reason::NoSubscription => Reply::NoSubscription,
        Reason::DomainLookupFailed => Reply::DomainLookupFailed,
        Reason::RecipientLookupFailed | Reason::Overloaded => Reply::TryAgainLater,
        Reason::NoRoute => Reply::NoRoute,
        Reason::InsufficientResources => Reply::InsufficientRoom,
        Reason::Limited(limit) => reply_at(*limit),
        Reason::BlockListed { .. } => Reply::BlockListed,
        Reason::BlockListedForNow { .. } => Reply::BlockListedForNow,
    }
}

/// With its particulars: what a constant text cannot say.
pub fn answer_for(reason: &Reason, peer: &Peer) -> Answer {
    let reply = reply_for(reason);
    if let Reason::BlockListed { zone } | Reason::BlockListedForNow { zone } = reason {
        return Answer::new(reply, Detail::Listed(peer.ip, zone.clone()));
    }
    let names_client = reply.entry().text.contains("{ip}");
    let detail = match reason {
        Reason::Ipv6NotAccepted(domain) | Reason::DmarcRejected(domain) => Detail::Domain(domain.clone()),
        _ if names_client => Detail::Ip(peer.ip),
        _ => Detail::None,
    };
    Answer::new(reply, detail)
}

fn reply_at(limit: Limit) -> Reply {
    match limit {
        Limit::MessageSize => Reply::TooLarge,
        Limit::RecipientsPerMessage => Reply::TooManyRecipients,
        Limit::RecipientsPerDomain => Reply::TooManyOfDomain,
        Limit::Hops => Reply::TooManyHops,
        Limit::Faults => Reply::TooManyFaults,
        Limit::SessionAge => Reply::SessionTooOld,
        Limit::ConnectionsPerIp => Reply::TooManyConnections,
        Limit::PerRecipientPerHour => Reply::RecipientTooBusy,
        Limit::PerSenderRecipientPerHour => Reply::SenderTooEager,
        // The client can be served later, and on this connection.
        Limit::ConnectionsPerIpPerMinute
        | Limit::MessagesPerIpPerMinute
        | Limit::UnknownRecipientsPerIpPerMinute
        | Limit::PerTenantPerMinute
        | Limit::Dnsbl => Reply::ServerBusy,
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    /// Rule 20.
    #[test]
    fn what_could_not_be_found_out_is_never_a_5xx() {
        for reason in [
            Reason::DomainLookupFailed,
            Reason::RecipientLookupFailed,
            Reason::Overloaded,
            Reason::NoRoute,
            Reason::InsufficientResources,
        ] {
            assert_eq!(reply_for(&reason).code() / 100, 4, "{reason:?}");
        }
    }

    /// Rule 59: what passes by itself is no reason for a bounce.
    #[test]
    fn only_rule_58_bounces() {
        for limit in Limit::ALL {
            let lasting = matches!(
                limit,
                Limit::MessageSize
                    | Limit::Hops
                    | Limit::PerRecipientPerHour
                    | Limit::PerSenderRecipientPerHour
            );
            assert_eq!(reply_at(limit).code() / 100, if lasting { 5 } else { 4 }, "{limit:?}");
        }
    }

    #[test]
    fn no_reason_is_answered_with_success_or_a_closed_session() {
        for reason in [
            Reason::RelayDenied,
            Reason::UnknownRecipient,
            Reason::SendingDisabled,
            Reason::WrongRegion,
            Reason::MixedRegions,
            Reason::PartnerRestricted,
            Reason::DirectSendForbidden,
            Reason::TlsNeeded,
            Reason::ComesAlone,
            Reason::NoSubscription,
            Reason::Ipv6WithoutPtr,
            Reason::Ipv6Unauthenticated,
            Reason::Limited(Limit::MessagesPerIpPerMinute),
            Reason::Limited(Limit::PerRecipientPerHour),
            Reason::Limited(Limit::PerSenderRecipientPerHour),
            Reason::Limited(Limit::PerTenantPerMinute),
        ] {
            let reply = reply_for(&reason);
            assert!(reply.is_refusal() && reply.code() != 421, "{reason:?}");
        }
    }
}
