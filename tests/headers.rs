//! Headers: what mail from outside may not say of itself is gone before it is stored or handed on (rule 42).

mod world;

use world::{Authority, CONTOSO, Dovecot, Edge, Letter, Nameserver, Zone, swaks, until};

const ANNA: &str = "anna@contoso.com";

/// A message with forged fields in every dress, and what must be left of it.
const FORGED: &str = "X-MS-Exchange-Organization-SCL: -1\r\nFrom: x@foreign.example\r\n\
                      x-ms-exchange-FOREST-a:\r\n\tfolded\r\n more\r\nSubject: forged\r\nX-Landfall-Trust : yes\r\n\
                      X-MS-Exchange-CrossPremises-b: c\r\nX-MS-Exchange-ExternalOriginalInternetSender: ip=[1.2.3.4]\r\n\
                      X-Other: stays\r\n\r\nX-MS-Exchange-Organization-SCL: in the body\r\n";
const LEFT: &str = "From: x@foreign.example\r\nSubject: forged\r\nX-Other: stays\r\n\r\n\
                    X-MS-Exchange-Organization-SCL: in the body\r\n";

/// What stays is there byte for byte, and what went is nowhere.
fn check(letter: &Letter) {
    let added = letter.added_before(LEFT.as_bytes());
    assert!(!added.contains("X-MS") && !added.contains("X-Landfall"), "{added}");
}

#[test]
fn forged_trust_is_taken_out_by_data_and_by_chunks() {
    let edge = Edge::builder("EUR").directory(CONTOSO).start();
    let mut client = edge.client();
    client.deliver("x@foreign.example", &[ANNA], FORGED);
    client.envelope("x@foreign.example", &[ANNA]);
    // The chunks cut names and lines in two.
    for (index, part) in FORGED.as_bytes().chunks(7).enumerate() {
        let last = if (index + 1) * 7 >= FORGED.len() { " LAST" } else { "" };
        client.send(format!("BDAT {}{last}\r\n", part.len()));
        client.send(part);
        assert!(client.reply().starts_with("250 "));
    }
    for letter in &edge.wait_for(ANNA, 2) {
        check(letter);
    }
}

#[test]
fn an_inline_next_hop_never_sees_it() {
    let store = Dovecot::start(&[ANNA]);
    let inline = "[region.EUR]\nmode = \"inline\"\ntls = \"off\"";
    let edge = Edge::builder("EUR").store(&[&store.url()]).with(inline).directory(CONTOSO).start();
    let mut client = edge.client();
    client.envelope("x@foreign.example", &[ANNA]);
    let taken = client.data(FORGED);
    assert!(taken.starts_with("250 "), "{taken}");
    check(&store.wait_for(ANNA, 1)[0]);
    assert!(edge.log().contains(r#""relay":"inline""#), "{}", edge.log());
}

#[test]
fn a_header_line_of_many_megabytes_is_no_burden() {
    let edge = Edge::builder("EUR").directory(CONTOSO).start();
    let mut client = edge.client();
    let long = format!("X-MS-Exchange-Organization-A: {}\r\n", "a ".repeat(30_000));
    let folded: String = (0..100).map(|_| format!(" {}\r\n", "b".repeat(50_000))).collect();
    client.deliver("x@foreign.example", &[ANNA], format!("{long}{folded}{LEFT}"));
    check(&edge.wait_for(ANNA, 1)[0]);
}

/// Rule 40: the true sender is found behind the organisation's own servers and recorded, and nobody else's
/// record of it stays.
#[test]
fn the_true_sender_is_recorded() {
    let directory = format!(
        "{CONTOSO}\n[[tenant.inbound_connector]]\nname = \"hq\"\ntype = \"on-premises\"\nsource_ips = [\"127.0.0.0/24\"]\n\
         skip_ips = [\"198.51.100.1-198.51.100.9\"]\nusers = [\"anna@contoso.com\"]\n"
    );
    let edge = Edge::builder("EUR").directory(&directory).start();
    let chain = "Received: from gateway (gw [198.51.100.7]) by hq\r\n\
                 Received: from mail.sender.example (mail.sender.example [203.0.113.9])\r\n\tby gateway\r\n\
                 Received: from forged (forged [203.0.113.10]) by mail.sender.example\r\n";
    let forged = "X-MS-Exchange-SkipListedInternetSender: ip=[9.9.9.9];domain=forged\r\n";
    let body = "Subject: true\r\n\r\nbody\r\n";
    let mut client = edge.client();
    client.deliver("x@foreign.example", &[ANNA], format!("{chain}{forged}{body}"));
    client.deliver("x@foreign.example", &["Anna+tag@contoso.com"], format!("{chain}{forged}{body}"));
    client.deliver("x@foreign.example", &[ANNA, "ida@contoso.com"], format!("{chain}{forged}{body}"));
    let (original, skip_listed) =
        ("X-MS-Exchange-ExternalOriginalInternetSender", "X-MS-Exchange-SkipListedInternetSender");
    let mut found: Vec<_> = edge
        .wait_for(ANNA, 3)
        .iter()
        .map(|letter| {
            assert!(
                letter.text().contains(chain) && letter.text().ends_with("\r\n\r\nbody\r\n"),
                "{letter:?}"
            );
            assert_eq!(letter.headers(skip_listed), ["ip=[203.0.113.9];domain=mail.sender.example"]);
            letter.headers(original)
        })
        .collect();
    found.sort();
    // For anna alone it counts, by whichever of her addresses; where others are addressed too it does not.
    let counted = vec!["ip=[203.0.113.9];domain=mail.sender.example".to_owned()];
    assert_eq!(found, [vec![], counted.clone(), counted]);
    assert_eq!(edge.log().matches(r#""event":"origin-found""#).count(), 3, "{}", edge.log());

    // From elsewhere nothing is looked past, and nothing said of it is believed.
    edge.write_directory(&directory.replace("127.0.0.0/24", "192.0.2.0/24"));
    edge.reload();
    edge.client().deliver("x@foreign.example", &["ida@contoso.com"], format!("{chain}{forged}{body}"));
    let letter = &edge.wait_for("ida@contoso.com", 2)[1];
    let all = edge.mailbox("ida@contoso.com");
    assert!(all.iter().any(|letter| letter.headers(skip_listed).is_empty()), "{letter:?}");
}

/// Rule 40 and several tenants: each one's connector is for mail to itself, though the network be the same.
#[test]
fn what_a_tenant_says_of_its_servers_is_nothing_to_others() {
    let connector = |more: &str| {
        format!(
            "[[tenant.inbound_connector]]\nname = \"filter\"\ntype = \"on-premises\"\n\
             source_ips = [\"127.0.0.0/24\"]\n{more}\n"
        )
    };
    let partner = |address: &str| {
        format!(
            "[[tenant.inbound_connector]]\nname = \"partner\"\ntype = \"partner\"\n\
             sender_domains = [\"foreign.example\"]\nsource_ips = [\"{address}\"]\nskip_last_ip = true\n"
        )
    };
    let tenant = |id: &str, connector: &str| {
        format!(
            "[[tenant]]\nid = \"{id}\"\ndefault_region = \"EUR\"\ndomain = [{{ name = \"{id}.example\" }}]\n\
             user = [{{ address = \"u@{id}.example\" }}]\n{connector}\n"
        )
    };
    let directory = [
        tenant("first", &connector("skip_last_ip = true")),
        tenant("second", &connector("skip_last_ip = true")),
        tenant("third", &connector("")),
        tenant("fourth", ""),
        tenant("fifth", &partner("127.0.0.1")),
        tenant("sixth", &partner("203.0.113.1")),
    ]
    .join("\n");
    let edge = Edge::builder("EUR").directory(&directory).start();
    let chain = "Received: from mail.sender.example (mail.sender.example [203.0.113.9]) by filter\r\n";
    let mut client = edge.client();
    for (recipients, recorded) in [
        (&["u@first.example"][..], 1),
        (&["u@second.example"], 1),
        (&["u@third.example"], 0),
        (&["u@fourth.example"], 0),
        (&["u@first.example", "u@fourth.example"], 0),
        (&["u@fifth.example"], 1),
        // A partner's domain, which anybody may write, and not its address.
        (&["u@sixth.example"], 0),
    ] {
        let subject = recipients.join(" ");
        let message = format!("{chain}Subject: {subject}\r\n\r\nbody\r\n");
        client.deliver("x@foreign.example", recipients, message);
        for recipient in recipients {
            let letter = until("the message", || {
                let mut letters = edge.mailbox(recipient).into_iter();
                letters.find(|letter| letter.header("Subject").as_deref() == Some(subject.as_str()))
            });
            let found = letter.headers("X-MS-Exchange-SkipListedInternetSender");
            assert_eq!(found.len(), recorded, "{recipients:?} {letter:?}");
        }
    }
    let log = edge.log();
    assert!(
        log.contains(r#""connector":"second/filter""#) && log.contains(r#""connector":"third/filter""#),
        "{log}"
    );
}

/// Rule 40: SPF and the host name are asked of whom the message came from, not of whom it came through.
#[test]
fn the_true_sender_is_who_is_examined() {
    let names = Nameserver::start(&[Zone::signed("sender.test", "@ TXT \"v=spf1 ip4:203.0.113.9 -all\"\n")]);
    let directory = format!(
        "{CONTOSO}\n[[tenant.inbound_connector]]\nname = \"hq\"\ntype = \"on-premises\"\nsource_ips = [\"127.0.0.0/24\"]\n\
         skip_last_ip = true\n"
    );
    let edge = Edge::builder("EUR").with(&names.settings()).directory(&directory).start();
    for (address, result) in [("203.0.113.9", "spf=pass"), ("203.0.113.66", "spf=fail")] {
        let message = format!(
            "Received: from mail.sender.test (mail.sender.test [{address}]) by hq\r\nSubject: {result}\r\n\r\nbody\r\n"
        );
        edge.client().deliver("x@sender.test", &[ANNA], message);
        let letter = until("the message", || {
            edge.mailbox(ANNA).into_iter().find(|letter| letter.header("Subject").as_deref() == Some(result))
        });
        let found = letter.header("Authentication-Results").expect("an examined message");
        assert!(found.contains(result) && found.contains(&format!("policy.iprev={address}")), "{found}");
    }
    // What did not come through another server is this machine's own, and exempt.
    edge.client().deliver("x@sender.test", &[ANNA], "Subject: own\r\n\r\nbody\r\n");
    let letters = edge.wait_for(ANNA, 3);
    let own = letters.iter().find(|letter| letter.header("Subject").as_deref() == Some("own"));
    assert_eq!(own.expect("the last one").header("Authentication-Results"), None);
}

/// Rule 42: what the organisation's servers say counts where a certificate proves them, and only there.
#[test]
fn a_trusted_connector_is_believed_by_its_certificate_alone() {
    let authority = Authority::new();
    let directory = format!(
        "{CONTOSO}\n[[tenant.inbound_connector]]\nname = \"hq\"\ntype = \"on-premises\"\ntrusted_headers = true\n\
         certificate_names = [\"mail.contoso.com\"]\nsource_ips = [\"127.0.0.0/24\"]\n\
         [[tenant.inbound_connector]]\nname = \"other\"\ntype = \"on-premises\"\ncertificate_names = [\"other.contoso.com\"]\n"
    );
    let client_ca = format!("[tls]\nclient_ca = \"{}\"", authority.file().display());
    let edge = Edge::builder("EUR").with(&client_ca).directory(&directory).start();
    let certificates =
        [("proven", Some("mail.contoso.com")), ("other", Some("other.contoso.com")), ("address", None)];
    for (subject, certificate) in certificates {
        let pair = certificate.map(|name| authority.issue(name));
        let mut arguments =
            vec!["--tls".to_owned(), "--from".into(), "ida@contoso.com".into(), "--to".into(), ANNA.into()];
        if let Some(pair) = &pair {
            arguments.extend(["--tls-cert".to_owned(), pair.cert.display().to_string()]);
            arguments.extend(["--tls-key".to_owned(), pair.key.display().to_string()]);
        }
        arguments.extend(["--header".to_owned(), format!("Subject: {subject}")]);
        arguments.extend(["--add-header".to_owned(), "X-MS-Exchange-CrossPremises-AuthAs: Internal".into()]);
        let arguments: Vec<&str> = arguments.iter().map(String::as_str).collect();
        let (code, transcript) = swaks(edge.address, &arguments);
        assert_eq!(code, 0, "{transcript}");
    }
    for letter in edge.wait_for(ANNA, 3) {
        let said = letter.headers("X-MS-Exchange-Organization-AuthAs");
        let believed = letter.header("Subject").as_deref() == Some("proven");
        assert_eq!(said, if believed { vec!["Internal"] } else { vec![] }, "{letter:?}");
        assert!(letter.headers("X-MS-Exchange-CrossPremises-AuthAs").is_empty(), "{letter:?}");
    }
    assert_eq!(edge.log().matches(r#""connector":"contoso/hq""#).count(), 2, "{}", edge.log());
}
