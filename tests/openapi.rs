//! Openapi: the document of the API names the routes that there are, and a running edge answers as it says.

mod world;

use std::collections::BTreeSet;
use std::fs;
use std::io::{Read, Write};

use serde_json::Value;
use world::{CONTOSO, Edge, Nameserver, Zone, free_address, letter};

const METHODS: [&str; 2] = ["get", "post"];

fn document() -> Value {
    let path = concat!(env!("CARGO_MANIFEST_DIR"), "/docs/openapi.json");
    serde_json::from_str(&fs::read_to_string(path).expect("the document is there")).expect("JSON")
}

/// Every `.route("…", get(…))` of the admin room.
fn routes() -> BTreeSet<(String, String)> {
    let mut routes = BTreeSet::new();
    let folder = concat!(env!("CARGO_MANIFEST_DIR"), "/src/admin");
    for entry in fs::read_dir(folder).expect("the room is there") {
        let path = entry.expect("a readable entry").path();
        if path.extension().is_none_or(|end| end != "rs") {
            continue;
        }
        let text = fs::read_to_string(&path).expect("text");
        for part in text.split(".route(").skip(1) {
            let mut quoted = part.splitn(3, '"');
            let (_, path, rest) = (quoted.next(), quoted.next(), quoted.next());
            let method = rest.and_then(|rest| rest.trim_start_matches([',', ' ', '\n']).split('(').next());
            let method = method.unwrap_or_default().to_owned();
            assert!(METHODS.contains(&method.as_str()), "a route this test cannot read: {part:.80}");
            routes.insert((path.expect("a path").to_owned(), method));
        }
    }
    routes
}

#[test]
fn the_document_names_every_route_and_no_other() {
    let document = document();
    let mut documented = BTreeSet::new();
    for (path, operations) in document["paths"].as_object().expect("paths") {
        for (method, operation) in operations.as_object().expect("operations") {
            documented.insert((path.clone(), method.clone()));
            let token = operation["security"] == serde_json::json!([{ "bearer": [] }]);
            assert!(token || method == "get", "{method} {path} changes something and needs no token");
            let parameters = operation["parameters"].as_array().cloned().unwrap_or_default();
            for name in path.split('{').skip(1).filter_map(|rest| rest.split('}').next()) {
                let known = parameters.iter().any(|one| one["in"] == "path" && one["name"] == name);
                assert!(known, "{path} does not say what {name} is");
            }
        }
    }
    assert_eq!(documented, routes());
}

/// Holds a value to a schema, as far as our document uses them.
fn hold(document: &Value, schema: &Value, value: &Value, at: &str) {
    if let Some(reference) = schema["$ref"].as_str() {
        let pointer = reference.trim_start_matches('#');
        let schema = document.pointer(pointer).unwrap_or_else(|| panic!("{reference} is nowhere"));
        return hold(document, schema, value, at);
    }
    if let Some(allowed) = schema["enum"].as_array() {
        assert!(allowed.contains(value), "{at}: {value} is none of {allowed:?}");
    }
    let types: Vec<&str> = match &schema["type"] {
        Value::String(one) => vec![one],
        Value::Array(several) => several.iter().filter_map(Value::as_str).collect(),
        _ => Vec::new(),
    };
    let kind = match value {
        Value::Null => "null",
        Value::Bool(_) => "boolean",
        Value::Number(_) => "integer",
        Value::String(_) => "string",
        Value::Array(_) => "array",
        Value::Object(_) => "object",
    };
    assert!(types.is_empty() || types.contains(&kind), "{at}: {value} is no {types:?}");
    for required in schema["required"].as_array().into_iter().flatten().filter_map(Value::as_str) {
        assert!(value.get(required).is_some(), "{at} has no {required}: {value}");
    }
    let known = schema["properties"].as_object();
    for (key, below) in value.as_object().into_iter().flatten() {
        match known.and_then(|known| known.get(key)) {
            Some(schema) => hold(document, schema, below, &format!("{at}.{key}")),
            None if schema["additionalProperties"].is_object() => {
                hold(document, &schema["additionalProperties"], below, &format!("{at}.{key}"));
            }
            None => {}
        }
    }
    for (index, item) in value.as_array().into_iter().flatten().enumerate() {
        hold(document, &schema["items"], item, &format!("{at}[{index}]"));
    }
}

const TARGETS: &str =
    "[onboarding]\nmx_target = \"{domain}.mx.test\"\n[onboarding.ingress]\nEUR = [\"127.0.0.25\"]\n";

const CONNECTORS: &str = r#"
[[tenant.inbound_connector]]
name = "hq"
type = "on-premises"
source_ips = ["192.0.2.7"]
[[tenant.outbound_connector]]
name = "out"
recipient_domains = ["foreign.example"]
smart_hosts = ["smtp://127.0.0.1:1"]
"#;

#[test]
fn a_running_edge_answers_every_get_as_documented() {
    let document = document();
    let names = Nameserver::start(&[Zone::unsigned("contoso.com", "@ MX 10 old.example.\n")]);
    let edge = Edge::builder("EUR")
        .directory(&format!("{CONTOSO}{CONNECTORS}"))
        .with(TARGETS)
        .with(&names.settings())
        .store(&[&format!("lmtp://{}", free_address())])
        .start();
    edge.client().deliver("you@example.org", &["anna@contoso.com"], letter("it waits"));
    let id = edge.queue()[0]["id"].as_str().expect("an id").to_owned();
    let mut asked = 0;
    for (path, operations) in document["paths"].as_object().expect("paths") {
        let Some(operation) = operations.get("get") else { continue };
        let mut concrete = path
            .replace("{name}", "contoso.com")
            .replace("{domain}", "contoso.com")
            .replace("{address}", "anna@contoso.com")
            .replace("{id}", &id);
        if path == "/v1/explain" {
            concrete.push_str("?rcpt=anna@contoso.com");
        }
        let (code, body) = edge.api("GET", &concrete, "");
        assert_eq!(code, 200, "{concrete}: {body}");
        let content = operation["responses"]["200"]["content"].as_object().expect("a documented content");
        if let Some(json) = content.get("application/json") {
            let value: Value = serde_json::from_str(&body).unwrap_or_else(|error| panic!("{path}: {error}"));
            hold(&document, &json["schema"], &value, path);
            let is_empty_list = value.as_array().is_some_and(Vec::is_empty);
            assert!(!is_empty_list, "{path} shows nothing to hold to the schema");
        }
        asked += 1;
    }
    assert!(asked > 15, "only {asked} routes were asked");
    for path in ["/v1/domains/nobody.example", "/v1/users/nobody@contoso.com", "/v1/domains/no..domain"] {
        assert_eq!(edge.api("GET", path, "").0, 404, "{path}");
    }
    assert_eq!(edge.api("GET", "/v1/explain?rcpt=x", "").0, 422);
}

#[test]
fn status_tells_health_and_exits_by_it() {
    let mut edge = Edge::builder("EUR").directory(CONTOSO).start();
    let told = edge.command(&["status"]);
    assert_eq!(told.code, 0, "{told:#?}");
    for part in ["edge1.eur.example.net in EUR, running", "up ", "free, ", "certificate", "trace"] {
        assert!(told.stdout.contains(part), "no {part} in {told:#?}");
    }
    let status = edge.command(&["status", "--json"]).json();
    assert_eq!((&status["problems"], &status["queued"]), (&serde_json::json!([]), &0.into()), "{status}");
    // A client that stays keeps the drain from its end.
    let mut client = edge.client();
    client.expect("MAIL FROM:<you@example.org>", "250 2.1.0 Sender OK");
    edge.signal("TERM");
    world::until("the edge to drain", || {
        let told = edge.command(&["status", "--json"]);
        (told.code == 1 && told.json()["state"] == "draining").then_some(())
    });
    client.say("RSET");
    drop(client);
    edge.wait();
}

/// Over TCP, where the document says that a token is needed, one is; elsewhere not.
#[test]
fn without_its_token_the_address_tells_no_addresses_of_people() {
    let address = free_address();
    let folder = world::Folder::new();
    std::fs::write(folder.join("token"), "a-token-of-thirty-two-characters").expect("our own folder");
    let token = folder.join("token").display().to_string();
    let names = Nameserver::start(&[Zone::unsigned("contoso.com", "@ TXT \"nothing yet\"\n")]);
    let edge = Edge::builder("EUR")
        .directory(CONTOSO)
        .with(TARGETS)
        .with(&names.settings())
        .store(&[&format!("lmtp://{}", free_address())])
        .with(&format!("[admin]\naddress = \"{address}\"\ntoken_file = \"{token}\""))
        .start();
    edge.client().deliver("you@example.org", &["anna@contoso.com"], letter("it waits"));
    let held = edge.command(&["queue", "hold", "--recipient", "ida@contoso.com", "--new"]);
    assert_eq!(held.code, 0, "{held:#?}");
    let id = edge.queue()[0]["id"].as_str().expect("an id").to_owned();
    for (path, operations) in document()["paths"].as_object().expect("paths") {
        let Some(operation) = operations.get("get") else { continue };
        let concrete = path.replace("{name}", "contoso.com").replace("{address}", "anna@contoso.com");
        let concrete = concrete.replace("{id}", &id).replace("{domain}", "contoso.com");
        let mut stream = std::net::TcpStream::connect(address).expect("the daemon answers");
        let request = format!("GET {concrete} HTTP/1.0\r\nHost: localhost\r\n\r\n");
        stream.write_all(request.as_bytes()).expect("the daemon takes our bytes");
        let mut answer = String::new();
        stream.read_to_string(&mut answer).expect("an answer in UTF-8");
        let needs = operation["security"] == serde_json::json!([{ "bearer": [] }]);
        let expected = if needs { "HTTP/1.0 401 " } else { "HTTP/1.0 200 " };
        assert!(answer.starts_with(expected), "{concrete}: {answer}");
        // The page and the document have an example of an address.
        if !["/", "/v1/openapi.json"].contains(&path.as_str()) {
            assert!(!answer.contains("@contoso.com"), "{concrete}: {answer}");
        }
    }
    let shown = edge.command(&["queue", "summary", "--json"]).json();
    assert_eq!(shown["holds"].as_array().map(Vec::len), Some(1), "{shown}");
}

#[test]
fn the_settings_in_force_are_shown_and_not_what_waits_for_a_restart() {
    let mut edge = Edge::builder("EUR").directory(CONTOSO).start();
    let shown = |edge: &Edge| -> Value {
        let (code, body) = edge.api("GET", "/v1/config", "");
        assert_eq!(code, 200, "{body}");
        serde_json::from_str(&body).expect("JSON")
    };
    let before = shown(&edge);
    assert_eq!(before, edge.command(&["config", "show", "--json"]).json());
    edge.configure(
        "[queue]\nconnections_per_next_hop = 3\n[limits]\nconnections = 77\nhops = 33\n[log]\nlevel = \"debug\"",
    );
    let file = edge.command(&["config", "show", "--json"]).json();
    assert_eq!(shown(&edge), before, "a file is not in force by being written");
    edge.reload();
    let after = shown(&edge);
    for (section, key) in [("queue", "connections_per_next_hop"), ("limits", "hops")] {
        assert_eq!(after[section][key], file[section][key], "{section}.{key}");
        assert_ne!(after[section][key], before[section][key], "{section}.{key}");
    }
    for (section, key) in [("limits", "connections"), ("log", "level")] {
        assert_eq!(after[section][key], before[section][key], "{section}.{key}");
        assert_ne!(file[section][key], before[section][key], "{section}.{key}");
    }
}
