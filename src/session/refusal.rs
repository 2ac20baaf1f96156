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
        Reason::NoSubscription => Reply::NoSubscription,
        Reason::DomainLookupFailed => Reply::DomainLookupFailed,
        Reason::RecipientLookupFailed | Reason::Overloaded => Reply::TryAgainLater,
        Reason::NoRoute => Reply::NoRoute,
        Reason::InsufficientResources => Reply::InsufficientRoom,
    }
}
