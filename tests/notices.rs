//! Notices: what senders hear, whole daemon, real next hops, read by another's parser (RFC 3461 to 3464, 6533).

mod world;

use std::time::Duration;

use world::{
    Builder, CONTOSO, Client, Dovecot, Edge, Hop, Letter, Report, Says, Sink, free_address, holds_for,
    letter, until,
};

/// Nothing is retried within a test: what happens at once, happens at once.
const PATIENT: &str = "[queue]\nfirst_intervals = [\"15m\"]";
const REFUSED: &[&str] = &["-f", "RCPT", "-B", "550 5.1.1 Nobody here"];

/// Contoso with a mailbox in Britain, and one that only SMTPUTF8 can name.
fn contoso() -> String {
    let user = |address: &str, region: &str| {
        format!("\n[[tenant.user]]\naddress = \"{address}\"\npreferred_data_location = \"{region}\"\n")
    };
    format!("{CONTOSO}{}{}", user("gail@contoso.com", "GBR"), user("jürgen@contoso.com", "NAM"))
}

fn edge() -> Builder {
    Edge::builder("EUR").directory(&contoso()).with(PATIENT)
}

/// One transaction: parameters behind MAIL, and recipients with theirs.
fn send(edge: &Edge, sender: &str, recipients: &[&str], message: impl AsRef<[u8]>) {
    let mut client = edge.client();
    say(&mut client, sender, recipients, message);
}

fn say(client: &mut Client, sender: &str, recipients: &[&str], message: impl AsRef<[u8]>) {
    client.expect(&format!("MAIL FROM:{sender}"), "250 2.1.0 Sender OK");
    for recipient in recipients {
        client.expect(&format!("RCPT TO:{recipient}"), "250 2.1.5 Recipient OK");
    }
    let taken = client.data(message);
    assert!(taken.starts_with("250 2.6.0 "), "{taken}");
}

/// The reports among what a mailbox holds.
fn reports(letters: &[Letter]) -> Vec<Report> {
    let notices = letters.iter().filter(|letter| {
        letter.header("Content-Type").is_some_and(|kind| kind.starts_with("multipart/report"))
    });
    notices.map(Report::of).collect()
}

fn wait_for_report(edge: &Edge, mailbox: &str) -> Report {
    until(&format!("a report for {mailbox}"), || reports(&edge.mailbox(mailbox)).pop())
}

#[test]
fn a_failure_is_told_field_by_field() {
    let sink = Sink::start(REFUSED);
    let edge = edge().relay("NAM", sink.address).start();
    send(
        &edge,
        "<anna@contoso.com> ENVID=QQ+2B314 RET=HDRS",
        &["<ben@contoso.com> ORCPT=rfc822;benjamin+2Bx@contoso.com NOTIFY=FAILURE"],
        letter("the offer"),
    );
    let report = wait_for_report(&edge, "anna@contoso.com");
    assert_eq!(report.kinds(), ["text/plain", "message/delivery-status", "text/rfc822-headers"]);
    assert_eq!(report.about_message("Original-Envelope-Id").as_deref(), Some("QQ+314"));
    assert_eq!(report.about_message("Reporting-MTA").as_deref(), Some("dns; edge1.eur.example.net"));
    assert_eq!(
        report.about_message("Received-From-MTA").as_deref(),
        Some("dns; client.example.org (127.0.0.1)")
    );
    assert!(report.about_message("Arrival-Date").is_some_and(|date| date.ends_with("+0000")));
    let about = |name: &str| report.about("ben@contoso.com", name);
    assert_eq!(about("Original-Recipient").as_deref(), Some("rfc822;benjamin+x@contoso.com"));
    assert_eq!(about("Final-Recipient").as_deref(), Some("rfc822;ben@contoso.com"));
    assert_eq!(about("Action").as_deref(), Some("failed"));
    assert_eq!(about("Status").as_deref(), Some("5.1.1"));
    let remote = format!("dns; [{}] (port {})", sink.address.ip(), sink.address.port());
    assert_eq!(about("Remote-MTA"), Some(remote));
    assert_eq!(about("Diagnostic-Code").as_deref(), Some("smtp; 550 5.1.1 Nobody here"));
    assert!(about("Last-Attempt-Date").is_some());
    assert_eq!(about("Will-Retry-Until"), None);
    assert_eq!(report.header("Auto-Submitted").as_deref(), Some("auto-replied"));
    assert_eq!(report.header("To").as_deref(), Some("anna@contoso.com"));
    for words in ["your message \"the offer\"", "typing mistake", "Nobody here", "you wrote to benjamin+x@"] {
        assert!(report.words().contains(words), "{words}: {}", report.words());
    }
    assert!(report.returned().contains("Subject: the offer") && !report.returned().contains("Hello."));
}

#[test]
fn the_region_that_refuses_is_named_in_plain_words() {
    let reply = "550 5.4.62 Mail sent to the wrong Office 365 region. ATTR35. For more information please go to https://go.microsoft.com/fwlink/?linkid=865268";
    let sink = Sink::start(&["-f", "RCPT", "-B", reply]);
    let edge = edge().relay("NAM", sink.address).start();
    send(&edge, "<anna@contoso.com>", &["<ben@contoso.com>"], letter("astray"));
    let report = wait_for_report(&edge, "anna@contoso.com");
    assert!(report.words().contains("keeps its mail in another region"), "{}", report.words());
    let diagnostic = report.about("ben@contoso.com", "Diagnostic-Code").expect("a field");
    assert_eq!(diagnostic, format!("smtp; {reply}"), "unfolded it is what was said");
}

#[test]
fn ret_full_brings_the_message_back_and_dots_and_eight_bits_survive() {
    let sink = Sink::start(REFUSED);
    let edge = edge().relay("NAM", sink.address).start();
    let message = "Subject: whole\r\n\r\n.a line with a dot\r\n..\r\ncaf\u{e9}\r\n";
    send(&edge, "<anna@contoso.com> RET=FULL BODY=8BITMIME", &["<ben@contoso.com>"], message);
    let notice = edge.wait_for("anna@contoso.com", 1).remove(0);
    let report = Report::of(&notice);
    assert_eq!(report.kinds()[2], "message/rfc822");
    assert_eq!(report.header("Content-Transfer-Encoding").as_deref(), Some("8bit"));
    let text = notice.text();
    assert!(text.contains(message), "byte for byte in\n{text}");
}

#[test]
fn success_into_a_mailbox_is_told_to_who_asked_and_nobody_else() {
    let edge = edge().start();
    let mut client = edge.client();
    say(
        &mut client,
        "<anna@contoso.com> ENVID=wanted RET=FULL",
        &["<ida@contoso.com> NOTIFY=SUCCESS,FAILURE"],
        letter("one"),
    );
    say(&mut client, "<anna@contoso.com>", &["<ida@contoso.com> NOTIFY=FAILURE,DELAY"], letter("two"));
    say(&mut client, "<anna@contoso.com>", &["<ida@contoso.com> NOTIFY=NEVER"], letter("three"));
    say(&mut client, "<anna@contoso.com>", &["<ida@contoso.com>"], letter("four"));
    say(&mut client, "<>", &["<ida@contoso.com> NOTIFY=SUCCESS"], letter("five"));
    edge.wait_for("ida@contoso.com", 5);
    let report = wait_for_report(&edge, "anna@contoso.com");
    assert_eq!(report.action("ida@contoso.com"), "delivered");
    assert_eq!(report.about("ida@contoso.com", "Status").as_deref(), Some("2.0.0"));
    assert_eq!(report.about("ida@contoso.com", "Remote-MTA"), None, "nobody needs our disk's paths");
    assert_eq!(report.about_message("Original-Envelope-Id").as_deref(), Some("wanted"));
    assert_eq!(report.kinds()[2], "text/rfc822-headers", "RET is about failures");
    assert_eq!(report.header("Subject").as_deref(), Some("Mail was delivered"));
    edge.wait_for_empty_queue();
    assert_eq!(edge.mailbox("anna@contoso.com").len(), 1);
}

#[test]
fn a_store_by_lmtp_is_the_end_of_the_way() {
    let dovecot = Dovecot::start(&["anna@contoso.com", "ida@contoso.com"]);
    let edge = edge().store(&[&dovecot.url()]).with("[region.EUR]\ntls = \"off\"").start();
    send(
        &edge,
        "<anna@contoso.com>",
        &["<ida@contoso.com> NOTIFY=SUCCESS", "<anna@contoso.com> NOTIFY=SUCCESS"],
        letter("both"),
    );
    let letters = dovecot.wait_for("anna@contoso.com", 2);
    let report = reports(&letters).pop().expect("one of them");
    assert_eq!(report.recipients(), 2, "one notice for both");
    assert_eq!([report.action("ida@contoso.com"), report.action("anna@contoso.com")], ["delivered"; 2]);
    assert!(report.about("ida@contoso.com", "Remote-MTA").is_some());
}

#[test]
fn a_next_hop_with_dsn_gets_the_wishes_and_we_keep_silent() {
    let sink = Sink::start(&[]);
    let edge = edge().relay("NAM", sink.address).start();
    send(
        &edge,
        "<anna@contoso.com> RET=HDRS ENVID=QQ+2B1",
        &[
            "<ben@contoso.com> NOTIFY=SUCCESS,DELAY ORCPT=rfc822;benjamin+2Bx@contoso.com",
            "<bob@contoso.com> NOTIFY=NEVER",
        ],
        letter("wishes"),
    );
    sink.wait_for(1);
    let said = sink.commands("MAIL").remove(0);
    assert!(said.ends_with(" RET=HDRS ENVID=QQ+2B1"), "{said}");
    assert_eq!(
        sink.commands("RCPT"),
        [
            "RCPT TO:<ben@contoso.com> NOTIFY=SUCCESS,DELAY ORCPT=rfc822;benjamin+2Bx@contoso.com",
            "RCPT TO:<bob@contoso.com> NOTIFY=NEVER",
        ]
    );
    edge.wait_for_empty_queue();
    assert!(edge.mailbox("anna@contoso.com").is_empty(), "the next hop will tell");
}

#[test]
fn a_next_hop_without_dsn_gets_none_and_we_say_that_it_was_relayed() {
    let sink = Sink::start(&["-N"]);
    let edge = edge().relay("NAM", sink.address).start();
    send(
        &edge,
        "<anna@contoso.com> RET=HDRS ENVID=QQ1",
        &["<ben@contoso.com> NOTIFY=SUCCESS", "<bob@contoso.com> NOTIFY=NEVER"],
        letter("no wishes"),
    );
    let report = wait_for_report(&edge, "anna@contoso.com");
    assert_eq!(report.action("ben@contoso.com"), "relayed");
    assert_eq!(report.recipients(), 1);
    assert!(report.words().contains("You will not hear whether it reached"), "{}", report.words());
    assert_eq!(sink.commands("RCPT"), ["RCPT TO:<ben@contoso.com>", "RCPT TO:<bob@contoso.com>"]);
    assert!(!sink.commands("MAIL").concat().contains("ENVID"));
}

#[test]
fn two_edges_and_one_word_of_success() {
    // The far edge is a next hop with DSN, and its mailboxes are the end of the way.
    let eur = edge();
    let nam = Edge::builder("NAM")
        .directory(&contoso())
        .relay("EUR", eur.address())
        .with("[region.EUR]\npeers = [\"127.0.0.0/8\"]")
        .start();
    let eur = eur.relay("NAM", nam.address).start();
    send(&eur, "<anna@contoso.com> ENVID=far", &["<ben@contoso.com> NOTIFY=SUCCESS"], letter("far"));
    nam.wait_for("ben@contoso.com", 1);
    let report = wait_for_report(&eur, "anna@contoso.com");
    assert_eq!(report.action("ben@contoso.com"), "delivered");
    assert_eq!(report.about_message("Reporting-MTA").as_deref(), Some("dns; edge1.nam.example.net"));
    assert_eq!(report.about_message("Original-Envelope-Id").as_deref(), Some("far"));
    nam.wait_for_empty_queue();
    eur.wait_for_empty_queue();
    assert_eq!(eur.mailbox("anna@contoso.com").len(), 1);
}

#[test]
fn what_one_attempt_settles_is_one_notice() {
    // There is no such Bob there.
    let far = Edge::builder("NAM")
        .directory(&contoso().replace("bob@contoso.com", "bobby@contoso.com"))
        .with("[region.EUR]\nrelay = [\"smtp://127.0.0.1:1\"]\npeers = [\"127.0.0.0/8\"]")
        .start();
    let edge = edge().relay("NAM", far.address).start();
    send(&edge, "<anna@contoso.com>", &["<ben@contoso.com>", "<bob@contoso.com>"], letter("both"));
    far.wait_for("ben@contoso.com", 1);
    let report = wait_for_report(&edge, "anna@contoso.com");
    assert_eq!(report.recipients(), 1, "only what is ours to tell");
    assert_eq!(report.action("bob@contoso.com"), "failed");
    assert_eq!(report.about("bob@contoso.com", "Status").as_deref(), Some("5.4.1"));
    edge.wait_for_empty_queue();
    assert_eq!(edge.mailbox("anna@contoso.com").len(), 1);
}

#[test]
fn success_and_failure_share_a_notice() {
    let dovecot = Dovecot::start(&["anna@contoso.com"]);
    let edge = edge().store(&[&dovecot.url()]).with("[region.EUR]\ntls = \"off\"").start();
    send(
        &edge,
        "<anna@contoso.com>",
        &["<anna@contoso.com> NOTIFY=SUCCESS", "<ida@contoso.com>"],
        letter("one of two"),
    );
    let letters = dovecot.wait_for("anna@contoso.com", 2);
    let report = reports(&letters).pop().expect("one of them");
    assert_eq!(report.action("anna@contoso.com"), "delivered");
    assert_eq!(report.action("ida@contoso.com"), "failed");
    assert_eq!(report.header("Subject").as_deref(), Some("Undeliverable mail"));
}

#[test]
fn never_is_never() {
    let sink = Sink::start(REFUSED);
    let edge = edge()
        .relay("NAM", sink.address)
        .relay("GBR", free_address())
        .with("[queue]\ndelay_dsn_after = \"1s\"\nexpire_after = \"2s\"\nfirst_intervals = [\"1s\"]\nmax_interval = \"1s\"")
        .start();
    let mut client = edge.client();
    say(
        &mut client,
        "<anna@contoso.com>",
        &["<ben@contoso.com> NOTIFY=NEVER", "<gail@contoso.com> NOTIFY=NEVER"],
        letter("quiet"),
    );
    // Refused at once, late, and expired: all three have come to pass when the queue is empty.
    edge.wait_for_empty_queue();
    assert!(edge.log().contains("\"event\":\"expired\"") && edge.log().contains("\"event\":\"failed\""));
    say(&mut client, "<anna@contoso.com>", &["<ida@contoso.com>"], letter("the only one"));
    edge.wait_for("ida@contoso.com", 1);
    assert!(edge.mailbox("anna@contoso.com").is_empty());
    assert!(edge.log().contains("the sender wants no such notices"), "{}", edge.log());
}

#[test]
fn a_sender_in_another_region_is_told_there() {
    let refusing = Sink::start(REFUSED);
    let home = Sink::start(&[]);
    let edge = edge().relay("NAM", refusing.address).relay("GBR", home.address).start();
    send(&edge, "<gail@contoso.com>", &["<ben@contoso.com>"], letter("from afar"));
    let taken = home.wait_for(1).remove(0);
    assert!(taken.sender.starts_with("<>"), "{taken:?}");
    assert_eq!(taken.recipients, ["<gail@contoso.com>"]);
    assert_eq!(Report::of(&taken.message).action("ben@contoso.com"), "failed");
}

#[test]
fn a_notice_survives_kill_9() {
    let refusing = Sink::start(REFUSED);
    let home = free_address();
    // The notice may have been deferred, durably, before the kill: then it is next tried when that interval ends.
    let mut edge = edge()
        .relay("NAM", refusing.address)
        .relay("GBR", home)
        .with("[queue]\nfirst_intervals = [\"1s\"]\nmax_interval = \"1s\"")
        .start();
    send(&edge, "<gail@contoso.com>", &["<ben@contoso.com>"], letter("from afar"));
    until("the notice to be owed", || edge.log().contains("\"event\":\"notified\"").then_some(()));
    edge.kill();
    let sink = Sink::start_at(home, &[]);
    edge.start();
    assert_eq!(Report::of(&sink.wait_for(1)[0].message).action("ben@contoso.com"), "failed");
    edge.wait_for_empty_queue();
    assert_eq!(refusing.commands("RCPT").len(), 1, "the outcome came with the notice");
    assert_eq!(sink.taken().len(), 1);
}

#[test]
fn an_international_message_is_reported_in_its_own_alphabet() {
    let sink = Sink::start(&[]);
    let edge = edge().relay("NAM", sink.address).start();
    let message = "Subject: Gr\u{fc}\u{df}e\r\n\r\nHallo\r\n";
    send(
        &edge,
        "<anna@contoso.com> SMTPUTF8 BODY=8BITMIME",
        &["<jürgen@contoso.com> ORCPT=utf-8;j\\x{FC}rgen@contoso.com"],
        message,
    );
    let report = wait_for_report(&edge, "anna@contoso.com");
    assert_eq!(report.kinds(), ["text/plain", "message/global-delivery-status", "message/global-headers"]);
    assert_eq!(report.about("jürgen@contoso.com", "Status").as_deref(), Some("5.6.7"), "{report:?}");
    let original = report.about("jürgen@contoso.com", "Original-Recipient");
    assert_eq!(original.as_deref(), Some("utf-8;jürgen@contoso.com"));
    assert!(report.words().contains("Gr\u{fc}\u{df}e"), "{}", report.words());
}

#[test]
fn a_way_back_that_takes_ascii_only_gets_ascii() {
    // Neither 8BITMIME nor SMTPUTF8, for the recipient as for the sender.
    let sink = Sink::start(&["-8"]);
    let edge = edge().relay("NAM", sink.address).start();
    let message = "Subject: Gr\u{fc}\u{df}e\r\n\r\nHallo\r\n";
    send(&edge, "<ben@contoso.com> SMTPUTF8 BODY=8BITMIME", &["<jürgen@contoso.com>"], message);
    let taken = sink.wait_for(1).remove(0);
    assert!(taken.message.0.is_ascii(), "{taken:?}");
    let report = Report::of(&taken.message);
    assert_eq!(report.kinds()[..2], ["text/plain", "message/delivery-status"]);
    assert_eq!(report.action("j\\x{FC}rgen@contoso.com"), "failed");
    assert_eq!(report.header("To").as_deref(), Some("ben@contoso.com"));
    edge.wait_for_empty_queue();
    assert_eq!(sink.taken().len(), 1);
}

#[test]
fn inline_relay_owes_the_same_words() {
    for (options, store) in [(&["-N"][..], "sink"), (&[][..], "sink"), (&[][..], "maildir")] {
        let sink = Sink::start(options);
        let edge = edge().with("[region.EUR]\nmode = \"inline\"\ntls = \"off\"");
        let maildir = store == "maildir";
        let edge = if maildir { edge } else { edge.store(&[&sink.url()]) }.start();
        let mut client = edge.client();
        client.expect("MAIL FROM:<anna@contoso.com> ENVID=inline", "250 2.1.0 Sender OK");
        client.expect("RCPT TO:<ida@contoso.com> NOTIFY=SUCCESS", "250 2.1.5 Recipient OK");
        let said = client.data(letter("through"));
        assert!(said.contains("Taken by the next hop"), "{said}");
        let told = match (maildir, options) {
            (true, _) => wait_for_report(&edge, "anna@contoso.com"),
            (false, ["-N"]) => {
                let taken = sink.wait_for(2);
                let notice = taken.iter().find(|taken| taken.sender.starts_with("<>")).expect("one of them");
                Report::of(&notice.message)
            }
            (false, _) => {
                sink.wait_for(1);
                holds_for("no word of ours", Duration::from_millis(500), || sink.taken().len() == 1);
                assert!(sink.commands("RCPT")[0].contains("NOTIFY=SUCCESS"));
                continue;
            }
        };
        let action = if maildir { "delivered" } else { "relayed" };
        assert_eq!(told.action("ida@contoso.com"), action);
        assert_eq!(told.about_message("Original-Envelope-Id").as_deref(), Some("inline"));
        assert!(told.returned().contains("Subject: through"), "{told:?}");
    }
}

#[test]
fn a_delay_is_told_with_the_time_until_which_we_try() {
    let edge = edge()
        .relay("NAM", free_address())
        .with("[queue]\ndelay_dsn_after = \"1s\"\nfirst_intervals = [\"1s\"]\nmax_interval = \"1s\"")
        .start();
    send(
        &edge,
        "<anna@contoso.com> ENVID=late RET=FULL",
        &["<ben@contoso.com> NOTIFY=DELAY,FAILURE", "<bob@contoso.com> NOTIFY=FAILURE"],
        letter("late"),
    );
    let report = wait_for_report(&edge, "anna@contoso.com");
    assert_eq!(report.action("ben@contoso.com"), "delayed");
    assert_eq!(report.recipients(), 1, "the other did not ask for it");
    assert!(report.about("ben@contoso.com", "Status").is_some_and(|status| status.starts_with("4.")));
    assert!(report.about("ben@contoso.com", "Will-Retry-Until").is_some());
    assert_eq!(report.kinds()[2], "text/rfc822-headers");
    assert!(report.words().contains("need not send it again"), "{}", report.words());
    holds_for("no second one", Duration::from_secs(2), || edge.mailbox("anna@contoso.com").len() == 1);
}

#[test]
fn a_delay_is_transient_also_where_a_server_refuses_the_connection_for_good() {
    let hop = Hop::start(|asked| match asked {
        "" => Says::This("554 5.7.1 No mail from there"),
        _ => Says::Usual,
    });
    let edge = edge().relay("NAM", hop.address).with("[queue]\ndelay_dsn_after = \"1s\"").start();
    send(&edge, "<anna@contoso.com>", &["<ben@contoso.com>"], letter("late"));
    let report = wait_for_report(&edge, "anna@contoso.com");
    assert_eq!(report.action("ben@contoso.com"), "delayed");
    // RFC 3464 §2.3.4: what goes on is of class 4, whatever the diagnostic says.
    assert_eq!(report.about("ben@contoso.com", "Status").as_deref(), Some("4.7.1"));
    let said = report.about("ben@contoso.com", "Diagnostic-Code").expect("the words");
    assert!(said.contains("554 5.7.1 No mail from there"), "{said}");
}

#[test]
fn the_postmaster_that_was_named_is_the_original_recipient() {
    let sink = Sink::start(&[]);
    let edge =
        edge().relay("NAM", sink.address).with("[directory]\npostmaster = \"ben@contoso.com\"").start();
    send(&edge, "<anna@contoso.com>", &["<Postmaster>"], letter("to whom it may concern"));
    sink.wait_for(1);
    assert_eq!(
        sink.commands("RCPT"),
        ["RCPT TO:<ben@contoso.com> ORCPT=rfc822;postmaster@edge1.eur.example.net"]
    );
}
