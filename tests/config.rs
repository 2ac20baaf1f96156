//! Configuration: what loads, what does not, and what each bad file is told.
//!
//! `tests/config/bad/*.toml` carry the mistakes they must give in lines that begin with `#!`,
//! without the path of the folder, in the order in which they are printed.

use std::fs;
use std::path::{Path, PathBuf};

use landfall::config::{self, Settings};

/// The smallest configuration without a mistake, and a directory beside it.
fn write(folder: &Path, config: &str, directory: &str) -> PathBuf {
    let path = folder.join("landfall.toml");
    fs::write(&path, config).expect("a temporary folder takes files");
    fs::write(folder.join("directory.toml"), directory).expect("a temporary folder takes files");
    path
}

const CONFIG: &str = r#"
node = { hostname = "edge1.eur.example.net", region = "EUR" }
tls = { self_signed = true }
region.EUR.store = ["maildir://mail"]
directory.path = "directory.toml"
"#;

fn settings(path: &Path) -> Settings {
    config::load(path).unwrap_or_else(|mistakes| panic!("{}:\n{mistakes}", path.display())).settings
}

#[test]
fn every_bad_file_is_told_all_its_mistakes() {
    let folder = "tests/config/bad/";
    let mut files: Vec<PathBuf> = fs::read_dir(folder)
        .expect("the folder is there")
        .map(|entry| entry.expect("an entry").path())
        .collect();
    files.retain(|path| path.extension().is_some_and(|extension| extension == "toml"));
    files.retain(|path| !path.to_string_lossy().ends_with(".directory.toml"));
    files.sort();
    assert!(files.len() >= 10, "only {} bad files were found", files.len());
    let mut wrong = String::new();
    for path in files {
        let text = fs::read_to_string(&path).expect("a readable file");
        let expected: Vec<&str> = text.lines().filter_map(|line| line.strip_prefix("#! ")).collect();
        let told = match config::load(&path) {
            Ok(_) => String::new(),
            Err(mistakes) => mistakes.to_string().replace(folder, ""),
        };
        if told.lines().collect::<Vec<_>>() != expected || expected.is_empty() {
            wrong.push_str(&format!("{} is told\n{told}\n\n", path.display()));
        }
    }
    assert!(wrong.is_empty(), "\n{wrong}");
}

#[test]
fn what_is_shown_loads_to_the_same() {
    let folder = tempfile::tempdir().expect("a temporary folder");
    fs::write(folder.path().join("users.csv"), "address\nanna@contoso.com\n").expect("written");
    let full = r#"
        region_codes = ["XYZ"]
        [node]
        hostname = "edge1.eur.example.net"
        region = "eur"
        state_dir = "state"
        [[listener]]
        name = "mx \"one\""
        address = ["127.0.0.1:2525"]
        tls = "off"
        proxy_protocol_from = ["10.0.0.0/8", "2001:db8::1"]
        xclient_from = ["192.0.2.0/28"]
        [[listener]]
        address = ["127.0.0.1:0", "[::1]:0"]
        tls = "required"
        legacy = true
        [tls]
        self_signed = true
        [region.EUR]
        store = ["maildir://mail/eur", "lmtp+unix:///run/lmtp.sock"]
        mode = "inline"
        tls = "off"
        [region.NAM]
        relay = ["smtps://edge.nam.example.net", "smtp://[::1]:2526"]
        peers = ["edge.nam.example.net", "192.0.2.0/28"]
        [region.XYZ]
        store = ["smtp://store.example.net"]
        [directory]
        path = "directory.toml"
        subaddress = ""
        postmaster = "Post.Master@contoso.com"
        lookup_deadline = "1s500ms"
        [routing]
        mixed_regions = "split"
        propagation_window = "0s"
        transit = "spool"
        [queue]
        first_intervals = ["100ms", "2s"]
        max_interval = "90s"
        expire_after = "36h"
        [limits]
        message_size = "1000kB"
        per_recipient_per_hour = 0
        [deadlines]
        command = "2s"
        [wire]
        normalize_line_endings_from = ["192.0.2.7"]
        [admin]
        address = "127.0.0.1:9090"
        [replies]
        service_name = "Landfall"
        context = true
        [log]
        format = "json"
        level = "trace"
    "#;
    let directory =
        "[[tenant]]\nid = \"contoso\"\ndefault_region = \"EUR\"\n[[tenant.domain]]\nname = \"contoso.com\"\n";
    for config in [CONFIG, full] {
        let first = settings(&write(folder.path(), config, directory));
        let shown = config::show(&first);
        // From another folder: what is shown holds wherever it stands.
        let elsewhere = tempfile::tempdir().expect("a temporary folder");
        let second = settings(&write(elsewhere.path(), &shown, "no = directory at all"));
        assert_eq!(first, second, "{shown}");
        let json = config::show_json(&first);
        assert_eq!(json["node"]["region"], "EUR");
        assert_eq!(json["limits"]["hops"], 100);
    }
}

#[test]
fn the_example_is_every_default() {
    let folder = tempfile::tempdir().expect("a temporary folder");
    let spoken_for = |text: &str| {
        // What the example cannot have without a certificate at hand.
        let path = write(folder.path(), &text.replace("self_signed = false", "self_signed = true"), "");
        settings(&path)
    };
    let example = spoken_for(config::example());
    let plain = spoken_for(
        r#"
        node = { hostname = "edge1.eur.example.net", region = "EUR" }
        tls = { self_signed = true }
        region.EUR.store = ["lmtp://store1.eur.example.net:24"]
        directory.path = "directory.toml"
        "#,
    );
    assert_eq!(example, plain);
}

#[test]
fn the_minimal_file_lacks_nothing_but_its_certificate_and_directory() {
    let mistakes = config::load(Path::new("config/minimal.toml")).expect_err("there is no certificate");
    let keys: Vec<&str> = mistakes.0.iter().map(|mistake| mistake.key.as_str()).collect();
    assert_eq!(keys, ["tls.certificate[0].cert", "tls.certificate[0].key", "directory.path"], "{mistakes}");
    let lines = fs::read_to_string("config/minimal.toml").expect("it is there").lines().count();
    assert!(lines <= 21, "{lines} lines are not minimal");
}

#[test]
fn regions_without_a_route_are_warnings() {
    let folder = tempfile::tempdir().expect("a temporary folder");
    let directory = r#"
        [[tenant]]
        id = "contoso"
        default_region = "EUR"
        allowed_regions = ["EUR", "NAM", "GBR"]
        [[tenant.domain]]
        name = "contoso.com"
        [[tenant.user]]
        address = "anna@contoso.com"
        preferred_data_location = "Europe"
    "#;
    let config = format!("{CONFIG}\nregion.GBR.relay = [\"smtp://edge.gbr.example.net\"]");
    let path = write(folder.path(), &config, directory);
    let loaded = config::load(&path).expect("no mistakes");
    let warnings: Vec<String> = loaded.warnings.iter().map(|warning| warning.key.clone()).collect();
    assert_eq!(warnings, ["region.NAM", "tenant[contoso].user[anna@contoso.com].preferred_data_location"]);
}

#[test]
fn a_missing_file_is_one_mistake_that_names_it() {
    let mistakes = config::load(Path::new("tests/config/nothing-here.toml")).expect_err("it is not there");
    assert_eq!(mistakes.0.len(), 1);
    let line = mistakes.to_string();
    assert!(line.starts_with("tests/config/nothing-here.toml: cannot be read: No such file"), "{line}");
}

#[test]
fn a_certificate_must_be_readable_and_have_its_own_key() {
    let folder = tempfile::tempdir().expect("a temporary folder");
    let pair = |name: &str| {
        let signed = rcgen::generate_simple_self_signed([name.to_owned()]).expect("a pair");
        (signed.cert.pem(), signed.signing_key.serialize_pem())
    };
    let (one, two) = (pair("one.example"), pair("two.example"));
    for (file, content) in [("cert.pem", &one.0), ("key.pem", &one.1), ("other.pem", &two.1)] {
        fs::write(folder.path().join(file), content).expect("written");
    }
    fs::write(folder.path().join("empty.pem"), "").expect("written");
    let with = |cert: &str, key: &str| {
        let config = CONFIG.replace(
            "tls = { self_signed = true }",
            &format!("tls.certificate = [{{ cert = \"{cert}\", key = \"{key}\" }}]"),
        );
        config::load(&write(folder.path(), &config, ""))
    };
    with("cert.pem", "key.pem").expect("a good pair");
    for (cert, key, wrong) in [
        ("cert.pem", "other.pem", "key"),
        ("empty.pem", "key.pem", "cert"),
        ("absent.pem", "key.pem", "cert"),
        ("cert.pem", "cert.pem", "key"),
        ("key.pem", "key.pem", "cert"),
    ] {
        let mistakes = with(cert, key).expect_err("a bad pair");
        let keys: Vec<_> = mistakes.0.iter().map(|mistake| mistake.key.clone()).collect();
        assert_eq!(keys, [format!("tls.certificate[0].{wrong}")], "{cert} {key}: {mistakes}");
    }
}

#[test]
fn what_is_allowed_and_hardly_meant_is_a_warning() {
    let folder = tempfile::tempdir().expect("a temporary folder");
    let directory = r#"
        [[tenant]]
        id = "contoso"
        default_region = "EUR"
        allowed_regions = ["NAM"]
        in_region_routing = true
        [[tenant.domain]]
        name = "contoso.com"
        mail_flow_region = "EUR"
        previous_mail_flow_region = "NAM"
        mail_flow_region_changed_at = 2999-01-01T00:00:00Z
    "#;
    let config = format!(
        "{CONFIG}\n[region.EUR]\nstore = [\"MAILDIR://mail\"]\nmode = \"inline\"\n[region.NAM]\n\
         [queue]\ndelay_dsn_after = \"2h\"\nexpire_after = \"1h\""
    );
    let config = config.replace("region.EUR.store = [\"maildir://mail\"]\n", "");
    let loaded = config::load(&write(folder.path(), &config, directory)).expect("no mistakes");
    let mut warnings: Vec<String> = loaded.warnings.iter().map(|warning| warning.key.clone()).collect();
    warnings.sort();
    assert_eq!(
        warnings,
        [
            "queue.delay_dsn_after",
            "region.EUR.mode",
            "region.NAM",
            "region.NAM",
            "tenant[contoso].allowed_regions",
            "tenant[contoso].domain[contoso.com].mail_flow_region_changed_at",
            "tenant[contoso].in_region_routing",
        ]
    );
    // Nothing is said of what was not.
    let quiet = write(folder.path(), &format!("{CONFIG}\nqueue.expire_after = \"1h\""), "");
    assert_eq!(config::load(&quiet).expect("no mistakes").warnings.len(), 0);
}

#[test]
fn the_socket_is_below_the_state_and_the_node_has_a_name() {
    let folder = tempfile::tempdir().expect("a temporary folder");
    for (line, wrong) in [
        ("admin.socket = \"/run/x.sock\"", Some("admin.socket: is not below node.state_dir")),
        ("admin.socket = \"../x.sock\"", Some("admin.socket: is not below node.state_dir")),
        ("admin.socket = \"sub/x.sock\"", None),
        ("region.NAM.relay = [\"SMTP://edge.nam.example.net\"]", None),
    ] {
        let loaded = config::load(&write(folder.path(), &format!("{CONFIG}\n{line}"), ""));
        match wrong {
            None => drop(loaded.unwrap_or_else(|mistakes| panic!("{line}: {mistakes}"))),
            Some(wrong) => {
                let mistakes = loaded.expect_err(line).to_string();
                assert!(mistakes.contains(wrong), "{line}: {mistakes}");
            }
        }
    }
    for hostname in ["127.0.0.1", "10", "edge.7"] {
        let config = CONFIG.replace("edge1.eur.example.net", hostname);
        let mistakes = config::load(&write(folder.path(), &config, "")).expect_err(hostname).to_string();
        assert!(mistakes.contains("node.hostname: "), "{mistakes}");
    }
}
