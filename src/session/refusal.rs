//! Refusal: from `Reason` to `Reply`, the one table.
//!
//! No wildcard arm: a new reason makes the compiler ask what to say. That no lookup failure becomes
//! a 5xx (rule 20) can be read off here.

use crate::decision::Reason;
use crate::smtp::reply::Reply;

pub fn reply_for(reason: &Reason) -> Reply {
    match reason {
        Reason::RelayDenied => Reply::RelayDenied,
        Reason::UnknownRecipient | Reason::SendingDisabled => Reply::UnknownRecipient,
        Reason::WrongRegion => Reply::WrongRegion,
        Reason::MixedRegions => Reply::MixedRegions,
        Reason::PartnerRestricted => Reply::PartnerRestricted,
        Reason::DirectSendForbidden => Reply::DirectSendForbidden,
        Reason::TlsNeeded => Reply::TlsNeeded,
        Reason::ComesAlone => Reply::TooManyRecipients,
        Reason::NoSubscription => Reply::NoSubscription,
        Reason::DomainLookupFailed => Reply::DomainLookupFailed,
        Reason::RecipientLookupFailed | Reason::Overloaded => Reply::TryAgainLater,
        Reason::NoRoute => Reply::NoRoute,
        Reason::InsufficientResources => Reply::InsufficientRoom,
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
            assert!(reply_for(&reason).is_temporary(), "{reason:?}");
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
        ] {
            let reply = reply_for(&reason);
            assert!(reply.is_refusal() && !reply.closes(), "{reason:?}");
        }
    }
}
