//! Meaning: what a reply says, in words for somebody who only wanted to send a letter.
//!
//! One table from enhanced codes (RFC 3463) and ATTR tokens to sentences. Pure; `notice` asks.

use crate::mail::{RemoteReply, Status};

/// What it means, and what its reader can do. `None` when the next hop's own words have to do.
pub(super) fn of(status: Status, reply: &RemoteReply) -> Option<&'static str> {
    of_token(&reply.text).or_else(|| of_status(status))
}

/// The tokens of the catalogue, wherever a region's edge said them.
fn of_token(text: &str) -> Option<&'static str> {
    let digits =
        |rest: &str| rest.chars().take_while(|c| c.is_ascii_digit() || *c == '.').collect::<String>();
    let token = text.split("ATTR").skip(1).map(digits).find(|token| !token.is_empty())?;
    match token.trim_end_matches('.') {
        "3.4" | "55" => Some("The recipient's mail system could not look up the address."),
        "5" => Some("The recipient's organisation has no mail subscription at this service."),
        "34" => Some(
            "The message went round in circles between mail systems. The recipient's postmaster has to \
             mend that.",
        ),
        "35" => Some(
            "The recipient's organisation keeps its mail in another region than the one that was asked. The \
             mail has to enter there; the recipient's postmaster should check where the domain's mail is \
             sent (its MX record).",
        ),
        "38" => {
            Some("The recipients of this message belong to different regions and have to be sent to apart.")
        }
        "55.1" => Some("The region where the recipient's mailbox is could not be reached."),
        _ => None,
    }
}

fn of_status(status: Status) -> Option<&'static str> {
    let meaning = match (status.class, status.subject, status.detail) {
        (5, 4, 300) | (_, 4, 7) => {
            "It could not be delivered for so long that the attempts were given up. You may send it again."
        }
        (5, 1, 1 | 6 | 10) | (5, 4, 1) => {
            "The address does not exist there. Look for a typing mistake in it, or ask the recipient in \
             another way for the right one."
        }
        (5, 1, 2) => "The domain behind the '@' takes no mail. Look for a typing mistake in it.",
        (5, 1, 3) => "The address is not written as an address has to be.",
        (5, 1, 7 | 8) => "The recipient's mail system does not accept your own address as a sender.",
        (5, 2, 1) => "The mailbox exists and takes no mail.",
        (_, 2, 2) => "The mailbox is full. Its owner has to make room.",
        (5, 2, 3) | (5, 3, 4) => "The message is larger than the recipient's mail system takes.",
        (_, 3, 1) => "The recipient's mail system has no room at present.",
        (4, 3, _) => "The recipient's mail system is out of order for now.",
        (4, 4, 1 | 2) => "The recipient's mail system does not answer.",
        (_, 4, 3) => "A directory that is needed to deliver the message does not answer.",
        (_, 4, 4) => "No way to the recipient's mail system could be found.",
        (_, 4, 6 | 14) => "The message went round in circles between mail systems.",
        (5, 6, 7) => "The recipient's mail system takes no addresses or header fields beyond plain ASCII.",
        (5, 6, _) => "The recipient's mail system does not take content of this kind.",
        (5, 7, 10) | (_, 7, 5) => "The connection to the recipient's mail system could not be made secure.",
        (5, 7, 30) => {
            "You asked for encryption all the way, and the recipient's mail system does not offer it."
        }
        (5, 7, _) => "The recipient's mail system has rules that forbid this message.",
        (4, 7, _) => "The recipient's mail system does not want this message for now.",
        _ => return None,
    };
    Some(meaning)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn tokens_speak_before_codes() {
        for (status, text, part) in [
            ("4.4.62", "Mail sent to the wrong region. ATTR35. For more information", "another region"),
            ("4.3.2", "Temporary server error. Please try again later ATTR55", "look up"),
            ("4.4.3", "Temporary server error. Please try again later ATTR55.1", "region where"),
            ("4.4.3", "Temporary server error. Please try again later ATTR3.4", "look up"),
            ("5.4.14", "Hop count exceeded - possible mail loop ATTR34", "circles"),
            ("5.1.1", "no such user", "does not exist"),
            ("5.4.1", "Recipient address rejected: Access denied", "does not exist"),
            ("5.2.2", "quota, see ATTRIBUTES", "full"),
            ("5.4.300", "", "given up"),
        ] {
            let status = Status::parse(status).expect("a status");
            let meaning = of(status, &RemoteReply::ours("", status, text)).expect(text);
            assert!(meaning.contains(part), "{text}: {meaning}");
        }
        let plain = Status::new(5, 0, 0);
        assert_eq!(of(plain, &RemoteReply::ours("", plain, "no")), None);
    }
}
