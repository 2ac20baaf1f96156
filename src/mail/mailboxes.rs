//! Mailboxes: whose mailbox is meant by a recipient's address, as the directory has just said.

use super::Address;

/// Recipients whose mailbox has another name than they were written with: aliases, subaddresses, a postmaster
/// whom somebody else reads. All others are their own.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct Mailboxes(Vec<(Address, Address)>);

impl Mailboxes {
    pub const NONE: &'static Self = &Self(Vec::new());

    pub fn note(&mut self, recipient: &Address, mailbox: Option<Address>) {
        if let Some(mailbox) = mailbox.filter(|mailbox| mailbox != recipient) {
            self.0.push((recipient.clone(), mailbox));
        }
    }

    pub fn of<'a>(&'a self, recipient: &'a Address) -> &'a Address {
        let found = self.0.iter().find(|(written, _)| written == recipient);
        found.map_or(recipient, |(_, mailbox)| mailbox)
    }
}
