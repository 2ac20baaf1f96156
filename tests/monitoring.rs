//! Monitoring: the page of metrics, the alert rules and the dashboard file, by Prometheus's own tool and
//! against what a running edge really tells.

mod world;

use std::collections::BTreeSet;
use std::fs::{self, File};
use std::process::{Command, Output, Stdio};

use landfall::decision::Reason;
use world::{CONTOSO, Edge, Folder, free_address, letter};

fn docs(file: &str) -> String {
    format!("{}/docs/{file}", env!("CARGO_MANIFEST_DIR"))
}

fn promtool(arguments: &[&str], input: Stdio) -> Output {
    Command::new("promtool").args(arguments).stdin(input).output().expect("tests/run installs prometheus")
}

/// The metrics page of an edge that has seen every kind of thing that alerts look at.
fn page() -> String {
    let address = free_address();
    let fabrikam = "[[tenant]]\nid = \"fabrikam\"\ndefault_region = \"NAM\"\nallowed_regions = [\"NAM\"]\n\
                    [[tenant.domain]]\nname = \"fabrikam.com\"\n";
    let edge = Edge::builder("EUR")
        .directory(&format!("{CONTOSO}\n{fabrikam}"))
        .with(&format!("[admin]\naddress = \"{address}\"\n[limits]\nconnections_per_ip = 1"))
        .start();
    let mut client = edge.client();
    client.deliver("you@example.org", &["anna@contoso.com"], letter("seen"));
    assert!(client.say("MAIL FROM:<you@example.org>").starts_with("250 "));
    assert!(client.say("RCPT TO:<carol@fabrikam.com>").starts_with("451 4.4.62 "));
    let turned_away = world::Client::silent(edge.address).reply();
    assert!(turned_away.starts_with("451 4.7.652 "), "{turned_away}");
    edge.wait_for("anna@contoso.com", 1);
    edge.wait_for_empty_queue();
    let asked = Command::new("curl").args(["--silent", &format!("http://{address}/metrics")]).output();
    String::from_utf8_lossy(&asked.expect("tests/run installs curl").stdout).into_owned()
}

/// Every `landfall_...` word of a text, buckets and their like as the metric that they belong to.
fn metrics_in(text: &str) -> BTreeSet<String> {
    let words = text.split(|c: char| !(c.is_ascii_alphanumeric() || c == '_'));
    let metrics = words.filter(|word| word.starts_with("landfall_"));
    metrics.map(|word| word.strip_suffix("_bucket").unwrap_or(word).to_owned()).collect()
}

#[test]
fn alerts_and_dashboard_name_metrics_that_exist_and_prometheus_reads_all_three() {
    let page = page();
    let folder = Folder::new();
    fs::write(folder.join("page"), &page).expect("our own folder");
    let input = File::open(folder.join("page")).expect("just written");
    let checked = promtool(&["check", "metrics"], input.into());
    assert!(checked.status.success(), "{checked:?}\n{page}");
    let rules =
        promtool(&["check", "rules", "--lint=all", "--lint-fatal", &docs("alerts.yml")], Stdio::null());
    assert!(rules.status.success(), "{rules:?}");

    let told: BTreeSet<String> = page
        .lines()
        .filter_map(|line| line.strip_prefix("# TYPE ")?.split(' ').next().map(ToOwned::to_owned))
        .collect();
    for file in ["alerts.yml", "grafana.json"] {
        let text = fs::read_to_string(docs(file)).expect("it is there");
        let named = metrics_in(&text);
        assert!(named.len() >= 8, "{file} names {named:?}");
        let unknown: Vec<_> = named.difference(&told).collect();
        assert!(unknown.is_empty(), "{file} names {unknown:?}, which no edge tells:\n{page}");
    }
    let board: serde_json::Value =
        serde_json::from_str(&fs::read_to_string(docs("grafana.json")).expect("it is there")).expect("JSON");
    assert!(board["panels"].as_array().is_some_and(|panels| panels.len() >= 10));
}

/// The reasons that alerts look for are ones that the program gives.
#[test]
fn alerts_name_reasons_that_exist() {
    let alerts = fs::read_to_string(docs("alerts.yml")).expect("it is there");
    let reasons =
        [Reason::WrongRegion, Reason::NoRoute, Reason::DomainLookupFailed, Reason::RecipientLookupFailed];
    let words: BTreeSet<&str> = reasons.iter().map(Reason::word).collect();
    let mut named = 0;
    for part in alerts.split("reason=").skip(1) {
        let quoted = part.split('"').nth(1).expect("a label's value is quoted");
        for word in quoted.split('|') {
            assert!(words.contains(word), "no reason is called {word}: {words:?}");
            named += 1;
        }
    }
    assert!(named >= 3);
}
