//! Ldap: users in a real OpenLDAP server: what clients see while it is well and while it is not.

mod world;

use std::time::Duration;

use world::{
    Authority, BASE, Babbler, Builder, Edge, Slapd, Stopwatch, ad_user, free_address, letter, median, told,
    until, until_told,
};

const OK: &str = "250 2.1.5 Recipient OK";
const UNKNOWN: &str = "550 5.4.1 Recipient address rejected: Access denied";
const RELAY_DENIED: &str = "550 5.7.64 TenantAttribution; Relay Access Denied";
const USER_FAILED: &str = "451 4.3.2 Temporary server error. Please try again later ATTR55";
const NO_ROUTE: &str = "451 4.4.3 Temporary server error. Please try again later ATTR55.1";
const ATTR35: &str = "451 4.4.62 Mail sent to the wrong Office 365 region. ATTR35. \
                      For more information please go to https://go.microsoft.com/fwlink/?linkid=865268";

/// The file next to it: tenants and domains, no users.
const TENANTS: &str = r#"
    # who is who
    [[tenant]]
    id = "contoso"
    default_region = "NAM"
    allowed_regions = ["EUR", "NAM"]
    multi_geo = true
    in_region_routing = true
    [[tenant.domain]]
    name = "contoso.com"
    mail_flow_region = "EUR"
    [[tenant]]
    id = "strict"
    default_region = "EUR"
    allowed_regions = ["EUR", "NAM"]
    multi_geo = true
    in_region_routing = true
    residency = "strict"
    [[tenant.domain]]
    name = "strict.example"
    mail_flow_region = "EUR"
"#;

const AD: &str = "[directory.ldap]\nschema = \"active-directory\"\nchanges = \"timestamp\"\n\
                  [directory.ldap.attributes]\nid = \"entryUUID\"\nchanged = \"modifyTimestamp\"\n";
const INETORGPERSON: &str = "[directory.ldap]\nschema = \"inetorgperson\"\n";

/// Anna, Ida and Bob live in EUR, New York's Nat in NAM; of the strict tenant Home lives here, Away does not.
fn fill(slapd: &Slapd) {
    let eur = "preferredDataLocation: EUR\n";
    slapd.add_long_ago(&ad_user(
        "anna",
        &["SMTP:Anna@contoso.com", "smtp:anna.k@contoso.com", "X500:/o=a"],
        eur,
    ));
    slapd.add_long_ago(&ad_user("ida", &["SMTP:ida@contoso.com"], eur));
    slapd.add_long_ago(&ad_user("nat", &["SMTP:nat@contoso.com"], "preferredDataLocation: NAM\n"));
    slapd.add_long_ago(&ad_user(
        "room",
        &["SMTP:room@contoso.com"],
        "preferredDataLocation: EUR\nuserAccountControl: 514\n",
    ));
    slapd.add_long_ago(&ad_user("home", &["SMTP:home@strict.example"], ""));
    slapd.add_long_ago(&ad_user("away", &["SMTP:away@strict.example"], "preferredDataLocation: nam\n"));
    slapd.add_long_ago(&format!(
        "dn: uid=bob,{BASE}\nobjectClass: inetOrgPerson\nobjectClass: adUser\n\
         objectClass: inetLocalMailRecipient\nuid: bob\ncn: Bob\nsn: B\n\
         mail: bob@contoso.com\nmail: robert@contoso.com\n\
         mailAlternateAddress: b@contoso.com\nmailLocalAddress: bobby@contoso.com\n\
         employeeType: mail\npreferredDataLocation: EUR\n"
    ));
}

fn world() -> (Slapd, Edge) {
    let slapd = Slapd::start();
    let edge = builder(&slapd, AD).start();
    (slapd, edge)
}

fn builder(slapd: &Slapd, settings: &str) -> Builder {
    fill(slapd);
    Edge::builder("EUR").with(&slapd.settings()).with(settings).directory(TENANTS)
}

fn set(slapd: &Slapd, cn: &str, change: &str) {
    slapd.modify(&format!("dn: cn={cn},{BASE}\nchangetype: modify\n{change}\n"));
}

#[test]
fn active_directorys_attributes_answer_as_a_file_does() {
    let (slapd, edge) = world();
    for (recipient, reply) in [
        ("anna@contoso.com", OK),
        ("ANNA.K@Contoso.com", OK),
        ("anna+list@contoso.com", OK),
        ("anna-list@contoso.com", UNKNOWN),
        ("room@contoso.com", OK),
        ("nat@contoso.com", NO_ROUTE),
        ("nobody@contoso.com", UNKNOWN),
        ("*@contoso.com", UNKNOWN),
        ("a*@contoso.com", UNKNOWN),
        ("\"*)(mail=*\"@contoso.com", UNKNOWN),
        ("anna@fabrikam.com", RELAY_DENIED),
    ] {
        assert_eq!(told(&edge, recipient), reply, "{recipient}");
    }
    edge.client().deliver("sender@example.org", &["anna.k@contoso.com"], letter("from ldap"));
    edge.wait_for("anna@contoso.com", 1);
    let log = slapd.log();
    assert!(log.contains(r"(mail=\2A\29\28mail=\2A@contoso.com)"), "one value, as the server read it: {log}");
    let user = edge.command(&["user", "show", "anna.k@contoso.com", "--json"]);
    assert_eq!((user.code, user.json()["home"].as_str()), (0, Some("EUR")), "{user:#?}");
    assert_eq!(user.json()["address"], "Anna@contoso.com");
    assert_eq!(user.json()["aliases"], serde_json::json!(["anna.k@contoso.com"]));
    let explained = edge.command(&["explain", "anna@contoso.com"]);
    assert_eq!(explained.code, 0, "{explained:#?}");
}

#[test]
fn a_disabled_account_gets_no_mail_where_that_is_asked() {
    let slapd = Slapd::start();
    let edge = builder(&slapd, AD).with("[directory.ldap]\ndisabled_accounts = \"reject\"").start();
    assert_eq!(told(&edge, "room@contoso.com"), UNKNOWN);
    set(&slapd, "room", "replace: userAccountControl\nuserAccountControl: 512");
    until_told(&edge, "room@contoso.com", OK);
}

#[test]
fn plain_inetorgperson_serves_too_with_licences_and_filters_of_ones_own() {
    let slapd = Slapd::start();
    let edge = builder(&slapd, INETORGPERSON)
        .with("[directory.ldap]\nfilter = \"(objectClass=inetLocalMailRecipient)\"\n")
        .with("[directory.ldap.attributes]\nlicenses = \"employeeType\"\n")
        .start();
    for address in
        ["bob@contoso.com", "robert@contoso.com", "b@contoso.com", "bobby@contoso.com", "bob+x@contoso.com"]
    {
        assert_eq!(told(&edge, address), OK, "{address}");
    }
    // She has her addresses where nobody looks now, and is none of those whom the filter lets through.
    assert_eq!(told(&edge, "anna@contoso.com"), UNKNOWN);
    let shown = edge.command(&["user", "show", "b@contoso.com", "--json"]).json();
    assert_eq!(shown["address"], "bob@contoso.com", "the first value of mail: {shown}");
    assert_eq!(shown["licenses"], serde_json::json!(["mail"]), "{shown}");
    assert_eq!(shown["in_region_routing"], "missing-license", "{shown}");

    let slapd = Slapd::start();
    let edge = builder(&slapd, INETORGPERSON)
        .with("[directory.ldap]\nlookup_filter = \"(mailLocalAddress={address})\"\n")
        .start();
    assert_eq!(told(&edge, "bobby@contoso.com"), OK);
    assert_eq!(told(&edge, "b@contoso.com"), UNKNOWN);
}

#[test]
fn a_change_is_seen_within_two_seconds_and_forgets_nobody_else() {
    let (slapd, edge) = world();
    assert_eq!(told(&edge, "anna.k@contoso.com"), OK);
    assert_eq!(told(&edge, "ida@contoso.com"), OK);
    assert_eq!(told(&edge, "new@contoso.com"), UNKNOWN);
    let mut times = Vec::new();
    let watch = Stopwatch::start();
    set(&slapd, "anna", "replace: preferredDataLocation\npreferredDataLocation: NAM");
    until_told(&edge, "anna.k@contoso.com", NO_ROUTE);
    times.push(watch.elapsed());
    // Back within the same seconds.
    let watch = Stopwatch::start();
    set(&slapd, "anna", "replace: preferredDataLocation\npreferredDataLocation: EUR");
    until_told(&edge, "anna.k@contoso.com", OK);
    times.push(watch.elapsed());
    // An address that nobody had.
    let watch = Stopwatch::start();
    slapd.add(&ad_user("new", &["SMTP:new@contoso.com"], "preferredDataLocation: EUR\n"));
    until_told(&edge, "new@contoso.com", OK);
    times.push(watch.elapsed());
    // An alias taken away.
    let watch = Stopwatch::start();
    set(&slapd, "anna", "delete: proxyAddresses\nproxyAddresses: smtp:anna.k@contoso.com");
    until_told(&edge, "anna.k@contoso.com", UNKNOWN);
    times.push(watch.elapsed());
    assert!(median(times.clone()) < Duration::from_secs(2), "{times:?}");
    assert_eq!(told(&edge, "ida@contoso.com"), OK);
    let (asked, log) = ("smtp:ida@contoso.com", slapd.log());
    assert_eq!(log.matches(asked).count(), 1, "Ida was asked for once: {log}");
    assert!(edge.metric("directory_changes") >= 4, "addresses that changes had to do with");
}

#[test]
fn update_sequence_numbers_tell_of_changes_too() {
    let slapd = Slapd::start();
    let edge = builder(&slapd, "[directory.ldap]\nschema = \"active-directory\"\n").start();
    set(&slapd, "ida", "replace: objectGUID\nobjectGUID:: AP8B/g==");
    assert_eq!(told(&edge, "ida@contoso.com"), OK);
    let mut times = Vec::new();
    for number in 1001..1004 {
        let to = if number % 2 == 1 { "NAM" } else { "EUR" };
        let watch = Stopwatch::start();
        set(
            &slapd,
            "ida",
            &format!(
                "replace: preferredDataLocation\npreferredDataLocation: {to}\n-\nreplace: uSNChanged\nuSNChanged: {number}"
            ),
        );
        until_told(&edge, "ida@contoso.com", if to == "NAM" { NO_ROUTE } else { OK });
        times.push(watch.elapsed());
    }
    assert!(median(times.clone()) < Duration::from_secs(2), "{times:?}");
    until("only what is new to be asked for", || slapd.log().contains("(uSNChanged>=1004)").then_some(()));
}

#[test]
fn another_regions_users_of_a_strict_tenant_are_never_fetched() {
    let (slapd, edge) = world();
    assert_eq!(told(&edge, "home@strict.example"), OK);
    assert_eq!(told(&edge, "nobody@strict.example"), UNKNOWN);
    assert_eq!(told(&edge, "away@strict.example"), ATTR35);
    let log = slapd.log();
    let asked: Vec<&str> = log.lines().filter(|line| line.contains("smtp:away@strict.example")).collect();
    assert_eq!(asked.len(), 2, "{asked:#?}");
    assert!(asked[0].contains("(!(|(preferredDataLocation=nam)))"), "{}", asked[0]);
    let search = |line: &str| {
        let mut words =
            line.split_whitespace().filter(|word| word.starts_with("conn=") || word.starts_with("op="));
        format!("{} {} ", words.next().expect("a connection"), words.next().expect("an operation"))
    };
    let about = |line: &str, what: &str| {
        let place = search(line);
        let lines: Vec<&str> =
            log.lines().filter(|line| line.contains(&place) && line.contains(what)).collect();
        lines.join("\n")
    };
    assert!(about(asked[0], "SEARCH RESULT").contains("nentries=0"), "{log}");
    assert!(about(asked[1], "SRCH attr=").ends_with("attr=preferredDataLocation entryUUID"), "{log}");
    // Changes tell of it by its id alone.
    let is_look = |line: &&str| line.contains("filter=") && line.contains("(modifyTimestamp>=");
    assert!(log.lines().any(|line| is_look(&line)), "{log}");
    for line in log.lines().filter(is_look) {
        let wants = about(line, "SRCH attr=");
        assert!(
            line.contains("(!(|(preferredDataLocation=nam)))") || !wants.contains("proxyAddresses"),
            "{line}\n{wants}"
        );
    }
    set(&slapd, "away", "replace: preferredDataLocation\npreferredDataLocation: EUR");
    until_told(&edge, "away@strict.example", OK);
    set(&slapd, "away", "replace: preferredDataLocation\npreferredDataLocation: NAM");
    until_told(&edge, "away@strict.example", ATTR35);
}

#[test]
fn the_verbs_read_page_by_page_and_never_write_users() {
    let slapd = Slapd::start();
    let edge = builder(&slapd, AD).with("[directory.ldap]\npage_size = 7\n").start();
    let many: String = (0..60)
        .map(|number| {
            let address = format!("SMTP:many{number}@contoso.com");
            ad_user(&format!("many{number}"), &[&address], "preferredDataLocation: EUR\n") + "\n"
        })
        .collect();
    slapd.add(&many);
    let stats = edge.command(&["directory", "stats", "--json"]);
    // One has no proxy address, but mail.
    assert_eq!(stats.json()["users"], 67, "more than the server gives at once: {stats:#?}");
    assert_eq!(stats.json()["domains"], 2);
    let listed = edge.command(&["user", "list", "--domain", "strict.example", "--json"]).json();
    assert_eq!(listed.as_array().map(Vec::len), Some(2), "{listed}");
    let check = edge.command(&["directory", "check"]);
    assert!(check.code == 1 && check.stdout.contains("away@strict.example"), "{check:#?}");
    assert!(check.stdout.contains("nat@contoso.com: lives in NAM"), "{check:#?}");
    let refused = edge.command(&["user", "set", "nat@contoso.com", "--preferred-data-location", "EUR"]);
    assert_eq!(refused.code, 1, "{refused:#?}");
    for word in ["change preferredDataLocation (now NAM)", "\"cn=nat,dc=example,dc=net\"", "ldap://"] {
        assert!(refused.stderr.contains(word), "{refused:#?}");
    }
    let moved = edge.command(&["domain", "set", "contoso.com", "--mail-flow-region", "NAM"]);
    assert_eq!(moved.code, 0, "{moved:#?}");
    let file = std::fs::read_to_string(edge.folder().join("directory.toml")).expect("it is there");
    assert!(file.contains("mail_flow_region = \"NAM\"") && file.contains("# who is who"), "{file}");
    let shown = edge.command(&["domain", "show", "contoso.com", "--json"]).json();
    assert_eq!((&shown["ingress"], &shown["users"]["total"]), (&"NAM".into(), &65.into()), "{shown}");
    // The running edge took it up: both regions are fine for a while, then only NAM is.
    edge.write_directory(&TENANTS.replace("contoso.com", "contoso.example"));
    edge.reload();
    assert_eq!(told(&edge, "anna@contoso.com"), RELAY_DENIED);
    for verb in [["directory", "migrate"].as_slice(), &["directory", "import", "directory.toml"]] {
        let refused = edge.command(verb);
        assert!(refused.code == 1 && !refused.stderr.is_empty(), "{refused:#?}");
    }
}

#[test]
fn users_in_the_file_and_other_mistakes_are_told_at_once() {
    let slapd = Slapd::start();
    let edge = builder(&slapd, AD)
        .directory(&format!("{TENANTS}\n[[tenant.user]]\naddress = \"x@strict.example\""))
        .with("[directory]\ntls = \"verify\"\nurl = \"ldap://dc1.example.net\"\n[directory.ldap]\nfilter = \"(a\"\n")
        .offline();
    let check = edge.command(&["config", "check"]);
    assert_eq!(check.code, 2, "{check:#?}");
    for word in [
        "has users, but they come from LDAP",
        "directory.url: speaks without TLS",
        "ldap.filter: \"(a\" is no filter",
    ] {
        assert!(check.stderr.contains(word) || check.stdout.contains(word), "{word}: {check:#?}");
    }
}

#[test]
fn tls_from_the_first_byte_or_when_asked_for_is_verified() {
    let (authority, stranger) = (Authority::new(), Authority::new());
    for scheme in ["ldaps", "starttls"] {
        let address = free_address();
        let pair = authority.issue_for(address);
        let slapd = if scheme == "ldaps" {
            Slapd::start_secure(address, &pair)
        } else {
            Slapd::start_upgradable(address, &pair)
        };
        let tls = |authority: &Authority| {
            let starttls = if scheme == "starttls" { "[directory.ldap]\nstarttls = true\n" } else { "" };
            format!("[directory]\ntls = \"verify\"\nca = \"{}\"\n{starttls}", authority.file().display())
        };
        let mut edge = builder(&slapd, AD).with(&tls(&authority)).start();
        assert_eq!(told(&edge, "anna@contoso.com"), OK, "{scheme}");
        assert!(slapd.log().contains("TLS established"), "{scheme}: {}", slapd.log());
        edge.stop();
        edge.configure(&tls(&stranger));
        edge.start();
        assert_eq!(told(&edge, "ida@contoso.com"), USER_FAILED, "{scheme}");
        assert!(edge.log().contains("invalid peer certificate"), "{scheme}: {}", edge.log());
    }
}

#[test]
fn a_wrong_password_and_a_place_where_nobody_is_are_failures_and_nobody_is_unknown() {
    let slapd = Slapd::start();
    let wrong = slapd.folder().join("wrong");
    std::fs::write(&wrong, "not this").expect("our own folder");
    let mut edge =
        builder(&slapd, AD).with(&format!("[directory]\npassword_file = \"{}\"", wrong.display())).start();
    assert_eq!(told(&edge, "anna@contoso.com"), USER_FAILED);
    assert!(edge.log().contains("invalidCredentials"), "{}", edge.log());
    let status = edge.command(&["status"]);
    assert!(status.code == 1 && status.stdout.contains("has not answered"), "nobody gets mail: {status:#?}");
    // The file is read at each attempt.
    std::fs::copy(slapd.folder().join("password"), &wrong).expect("our own folder");
    until_told(&edge, "anna@contoso.com", OK);
    // A stop writes no snapshot of what nobody follows yet.
    until("the edge to say that it is back", || edge.log().contains("\"directory-back\"").then_some(()));
    edge.stop();
    std::fs::remove_dir_all(edge.state().join("directory")).expect("there is a snapshot");
    for (base, word) in [
        ("ou=nowhere,dc=example,dc=net", "noSuchObject"),
        ("cn=landfall,dc=example,dc=net", "nobody with an address"),
    ] {
        edge.configure(&format!("[directory.ldap]\nbase_dn = \"{base}\""));
        edge.start();
        assert_eq!(told(&edge, "anna@contoso.com"), USER_FAILED, "{base}");
        assert!(edge.log().contains(word), "{word}: {}", edge.log());
        edge.stop();
    }
}

#[test]
fn tenants_may_have_a_place_of_their_own() {
    let slapd = Slapd::start();
    slapd.add(&format!("dn: ou=strict,{BASE}\nobjectClass: organizationalUnit\nou: strict\n"));
    let edge = builder(&slapd, AD)
        .with(&format!("[directory.ldap.base_dn_of]\nstrict = \"ou=strict,{BASE}\""))
        .start();
    assert_eq!(told(&edge, "anna@contoso.com"), OK);
    assert_eq!(told(&edge, "home@strict.example"), UNKNOWN, "Home is elsewhere in the tree");
    let entry = ad_user("hugo", &["SMTP:hugo@strict.example"], "");
    slapd.add(&entry.replace("dn: cn=hugo,", "dn: cn=hugo,ou=strict,"));
    until_told(&edge, "hugo@strict.example", OK);
}

#[test]
fn the_next_server_takes_over() {
    let (mut one, two) = (Slapd::start(), Slapd::start());
    fill(&two);
    let urls = format!("[directory]\nurl = \"ldap://{} ldap://{}\"", one.address, two.address);
    let edge = builder(&one, AD).with(&urls).start();
    assert_eq!(told(&edge, "anna@contoso.com"), OK);
    one.freeze();
    until_told(&edge, "ida@contoso.com", OK);
    assert!(two.log().contains("ida@contoso.com"), "{}", two.log());
    one.thaw();
}

/// The outage matrix: Anna was looked up before, Ida was not. What each client sees, and that mail flows
/// again by itself.
fn outage((mut slapd, edge): (Slapd, Edge), strike: impl FnOnce(&mut Slapd), heal: impl FnOnce(&mut Slapd)) {
    assert_eq!(told(&edge, "anna@contoso.com"), OK);
    assert_eq!(told(&edge, "nobody@contoso.com"), UNKNOWN);
    strike(&mut slapd);
    until_told(&edge, "nobody@contoso.com", USER_FAILED);
    let watch = Stopwatch::start();
    assert_eq!(told(&edge, "anna@contoso.com"), OK, "who is cached waits for nobody");
    // A question would wait for the deadline of five.
    assert!(watch.elapsed() < Duration::from_secs(4), "{:?}", watch.elapsed());
    assert_eq!(told(&edge, "ida@contoso.com"), USER_FAILED);
    assert_eq!(told(&edge, "anna@unknown.example"), RELAY_DENIED, "domains are the file's");
    let status = edge.command(&["status", "--json"]);
    let warned = status.json()["warnings"].to_string();
    assert!(status.code == 0 && warned.contains("the directory service is silent"), "{status:#?}");
    edge.client().deliver("sender@example.org", &["anna@contoso.com"], letter("in the outage"));
    edge.wait_for("anna@contoso.com", 1);
    heal(&mut slapd);
    until_told(&edge, "ida@contoso.com", OK);
    until_told(&edge, "nobody@contoso.com", UNKNOWN);
    edge.client().deliver("sender@example.org", &["ida@contoso.com"], letter("after it"));
    edge.wait_for("ida@contoso.com", 1);
    let log = edge.log();
    assert!(log.contains("\"directory-lost\""), "{log}");
    until("the edge to say that it is back", || edge.log().contains("\"directory-back\"").then_some(()));
}

#[test]
fn outage_stopped_and_restarted() {
    outage(world(), Slapd::stop, Slapd::run);
}

#[test]
fn outage_frozen() {
    outage(world(), Slapd::freeze, Slapd::thaw);
}

#[test]
fn outage_refused() {
    outage(world(), |slapd| slapd.refuse(true), |slapd| slapd.refuse(false));
}

fn outage_garbage(words: &'static [u8]) {
    let babbler = std::cell::Cell::new(None);
    let strike = |slapd: &mut Slapd| {
        slapd.stop();
        babbler.set(Some(Babbler::start(slapd.address, words)));
    };
    let heal = |slapd: &mut Slapd| {
        babbler.set(None);
        slapd.run();
    };
    outage(world(), strike, heal);
}

#[test]
fn outage_something_else_in_its_place() {
    outage_garbage(b"HTTP/1.1 400 Bad Request\r\n\r\n\0\xff\x01garbage");
}

#[test]
fn outage_a_server_that_speaks_ldap_and_makes_no_sense() {
    // A message of one part; an answer to the bind whose result is a text; a bare sequence.
    outage_garbage(b"\x30\x0c\x02\x01\x01\x61\x07\x04\x01x\x04\x00\x04\x00\x30\x03\x02\x01\x02\x30\x00");
}

#[test]
fn outage_certificate_expired() {
    let (authority, address) = (Authority::new(), free_address());
    let good = authority.issue_for(address);
    let slapd = Slapd::start_secure(address, &good);
    let tls = format!("[directory]\ntls = \"verify\"\nca = \"{}\"", authority.file().display());
    let edge = builder(&slapd, AD).with(&tls).start();
    let expired = authority.issue_expired(&address.ip().to_string());
    outage((slapd, edge), |slapd| slapd.show(&expired), |slapd| slapd.show(&good));
}

#[test]
fn a_node_starts_without_its_directory_from_the_snapshot() {
    let (mut slapd, mut edge) = world();
    assert_eq!(told(&edge, "anna@contoso.com"), OK);
    assert_eq!(told(&edge, "away@strict.example"), ATTR35);
    edge.stop();
    slapd.stop();
    let kept = std::fs::read_to_string(edge.state().join("directory/users.csv")).expect("a snapshot");
    assert!(kept.contains("anna@contoso.com") && !kept.contains("away"), "{kept}");
    edge.start();
    assert_eq!(told(&edge, "anna@contoso.com"), OK);
    assert_eq!(told(&edge, "ida@contoso.com"), USER_FAILED);
    assert_eq!(told(&edge, "anna@unknown.example"), RELAY_DENIED);
    assert!(edge.log().contains("\"directory-from-snapshot\""), "{}", edge.log());
    slapd.run();
    // Anna left while neither was there to see it.
    slapd.modify(&format!("dn: cn=anna,{BASE}\nchangetype: delete\n"));
    until_told(&edge, "ida@contoso.com", OK);
    until_told(&edge, "anna@contoso.com", UNKNOWN);
}

#[test]
fn a_deleted_entry_is_gone_when_its_answer_is_old() {
    let slapd = Slapd::start();
    let edge = builder(&slapd, AD).with("[directory]\ncache_for = \"2s\"").start();
    assert_eq!(told(&edge, "anna@contoso.com"), OK);
    slapd.modify(&format!("dn: cn=anna,{BASE}\nchangetype: delete\n"));
    until_told(&edge, "anna@contoso.com", UNKNOWN);
}
